/* quick.c: sends, receives and releases of bound and static tensors, and prepared copies, as Python calls them (quick.h). Objects
 * of these types are seen by one thread at a time, that which has the interpreter's lock; what is behind them by any. */
#include "python/quick_parts.h"

#include <structmember.h>

#include <stdbool.h>
#include <string.h>

#include "python/quick.h"
#include "rdmatensor.h"

enum {
    COPY_LOOKS = 256,      /* some 5 us for a copy that is on its way: what a small one takes over hardware, there and back */
    KEEPS_LOCK_MAX = 8192, /* bytes that are sent without giving it up: half a microsecond */
};

/* A tensor in a region. `_edge` is None unless it lies in a slot. */
typedef struct quick_tensor {
    PyObject_HEAD
    PyObject *form, *keep, *edge;
    long long ticket;
} quick_tensor;

/* An end of an edge. */
typedef struct quick_edge {
    PyObject_HEAD
    PyObject *handle; /* None when it is closed */
    PyObject *forms;  /* receiver: a tuple of what lies in each slot, empty until that is agreed */
    PyObject *line;   /* what goes first: receiver `_waiting`, sender `_backlog` */
    unsigned long long pointer;
    long long slice_ns;
} quick_edge;

/* A contiguous tensor bound to a static edge, or anything else that is bound: then `nbytes` is 0 here. */
typedef struct quick_bound {
    PyObject_HEAD
    PyObject *edge;
    unsigned long long pointer, address, nbytes;
} quick_bound;

/* Copies that are bound. */
typedef struct quick_prepared {
    PyObject_HEAD
    PyObject *handle; /* None when it is closed */
    unsigned long long pointer;
    char brief; /* posted before the interpreter's lock could be given up, and soon over */
} quick_prepared;

/* One set for the process, as the module of cffi is. */
static PyTypeObject *edge_type, *tensor_type; /* the latter: the class that is handed out */
static allocfunc tensor_alloc;
static PyObject *receive_otherwise;
static PyMethodDef receive_def;

/* ---- life ---- */

static void object_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc end = (freefunc)PyType_GetSlot(type, Py_tp_free);
    end(self);
    Py_DECREF(type);
}

static int tensor_traverse(PyObject *object, visitproc visit, void *arg)
{
    quick_tensor *self = (quick_tensor *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->form);
    Py_VISIT(self->keep);
    Py_VISIT(self->edge);
    return 0;
}

static int tensor_clear(PyObject *object)
{
    quick_tensor *self = (quick_tensor *)object;
    Py_CLEAR(self->edge);
    Py_CLEAR(self->form);
    Py_CLEAR(self->keep);
    return 0;
}

static void tensor_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    tensor_clear(object);
    object_free(object);
}

static int tensor_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"form", "keep", "edge", "ticket", NULL};
    quick_tensor *self = (quick_tensor *)object;
    PyObject *form, *keep, *edge = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|OL:Tensor", names, &form, &keep, &edge, &self->ticket))
        return -1;
    tensor_clear(object);
    self->form = Py_NewRef(form);
    self->keep = Py_NewRef(keep);
    self->edge = Py_NewRef(edge);
    return 0;
}

static bool in_slot(const quick_tensor *self)
{
    return self->edge != NULL && self->edge != Py_None;
}

/* A tensor goes that nobody released. */
static void tensor_finalize(PyObject *object)
{
    const quick_tensor *self = (const quick_tensor *)object;
    if (!in_slot(self))
        return;
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *done = PyObject_CallMethod(self->edge, "_forgotten", "O", object);
    if (done == NULL)
        PyErr_WriteUnraisable(object);
    Py_XDECREF(done);
    PyErr_Restore(type, value, trace);
}

static int edge_traverse(PyObject *object, visitproc visit, void *arg)
{
    quick_edge *self = (quick_edge *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->handle);
    Py_VISIT(self->forms);
    Py_VISIT(self->line);
    return 0;
}

static int edge_clear(PyObject *object)
{
    quick_edge *self = (quick_edge *)object;
    Py_CLEAR(self->handle);
    Py_CLEAR(self->forms);
    Py_CLEAR(self->line);
    return 0;
}

static void edge_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    edge_clear(object);
    object_free(object);
}

int quick_holder_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((quick_holder *)object)->held);
    return 0;
}

int quick_holder_clear(PyObject *object)
{
    Py_CLEAR(((quick_holder *)object)->held);
    return 0;
}

void quick_holder_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    quick_holder_clear(object);
    object_free(object);
}

/* ---- calls ---- */

/* The edge behind an object while it is open and nothing goes before what comes now; else NULL. */
static rt_edge *free_edge(const quick_edge *self)
{
    if (self->handle == NULL || self->handle == Py_None || self->line == NULL || PyObject_Size(self->line) != 0)
        return NULL;
    return (rt_edge *)(uintptr_t)self->pointer;
}

PyObject *quick_call(PyObject *method, PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *all = PyTuple_New(count + 1), *named = names != NULL ? PyDict_New() : NULL, *result = NULL;
    bool whole = all != NULL && (names == NULL || named != NULL);
    for (Py_ssize_t index = 0; whole && index <= count; index++)
        whole = PyTuple_SetItem(all, index, Py_NewRef(index == 0 ? object : args[index - 1])) == 0;
    for (Py_ssize_t index = 0; whole && named != NULL && index < PyTuple_Size(names); index++)
        whole = PyDict_SetItem(named, PyTuple_GetItem(names, index), args[count + index]) == 0;
    if (whole)
        result = PyObject_Call(method, all, named);
    Py_XDECREF(all);
    Py_XDECREF(named);
    return result;
}

static PyObject *call_in_python(PyObject *object, PyObject *args, PyObject *kwargs)
{
    PyObject *call = PyObject_GetAttrString(object, "_call"), *result = NULL;
    if (call != NULL)
        result = PyObject_Call(call, args, kwargs);
    Py_XDECREF(call);
    return result;
}

static PyObject *prepared_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    const quick_prepared *self = (const quick_prepared *)object;
    if (self->handle == NULL || self->handle == Py_None || kwargs != NULL || PyTuple_Size(args) != 0)
        return call_in_python(object, args, kwargs);
    rt_prepared *prepared = (rt_prepared *)(uintptr_t)self->pointer;
    PyObject *handle = Py_NewRef(self->handle); /* whatever other threads do meanwhile */
    int64_t number;
    if (self->brief) {
        number = rt_prepared_run_briefly(prepared, COPY_LOOKS);
        if (number > 0) {
            Py_BEGIN_ALLOW_THREADS
            number = rt_prepared_finish(prepared, number);
            Py_END_ALLOW_THREADS
        }
    } else {
        Py_BEGIN_ALLOW_THREADS
        number = rt_prepared_run(prepared);
        Py_END_ALLOW_THREADS
    }
    PyObject *result = number == 0 ? Py_NewRef(Py_None) : PyObject_CallMethod(object, "_go_on", "L", (long long)number);
    Py_DECREF(handle);
    return result;
}

static PyObject *bound_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    const quick_bound *self = (const quick_bound *)object;
    const quick_edge *way = (const quick_edge *)self->edge;
    bool usual = self->nbytes != 0 && kwargs == NULL && PyTuple_Size(args) == 0;
    rt_edge *edge = usual && way != NULL && PyObject_TypeCheck(self->edge, edge_type) ? free_edge(way) : NULL;
    if (edge == NULL)
        return call_in_python(object, args, kwargs);
    if (self->nbytes <= KEEPS_LOCK_MAX && rt_edge_send_at_once(edge, self->address, self->nbytes) == 0)
        Py_RETURN_NONE;
    int64_t status;
    PyObject *handle = Py_NewRef(way->handle); /* whatever other threads do meanwhile */
    Py_BEGIN_ALLOW_THREADS
    status = rt_edge_send(edge, self->address, self->nbytes, way->slice_ns);
    Py_END_ALLOW_THREADS
    Py_DECREF(handle);
    if (status == 0)
        Py_RETURN_NONE;
    return PyObject_CallMethod(object, "_go_on", "L", (long long)status);
}

/* What lies in the slot of a sequence, as a new tensor. */
static PyObject *new_tensor(quick_edge *self, PyObject *handle, int64_t sequence)
{
    Py_ssize_t slots = PyTuple_Size(self->forms);
    PyObject *form = slots > 0 ? PyTuple_GetItem(self->forms, (Py_ssize_t)(sequence % slots)) : NULL;
    PyObject *made = form != NULL ? tensor_alloc(tensor_type, 0) : NULL;
    if (made == NULL)
        return NULL;
    quick_tensor *tensor = (quick_tensor *)made;
    tensor->form = Py_NewRef(form);
    tensor->keep = Py_NewRef(handle);
    tensor->edge = Py_NewRef((PyObject *)self);
    tensor->ticket = sequence;
    return made;
}

static PyObject *edge_receive(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    quick_edge *self = (quick_edge *)object;
    bool usual = count == 0 && names == NULL && self->forms != NULL && PyTuple_Size(self->forms) > 0;
    rt_edge *edge = usual ? free_edge(self) : NULL;
    if (edge == NULL)
        return quick_call(receive_otherwise, object, args, count, names);
    int64_t sequence = rt_edge_receive_at_once(edge, QUICK_LOOKS);
    if (sequence > 0)
        return new_tensor(self, self->handle, sequence);
    PyObject *handle = Py_NewRef(self->handle), *made; /* whatever other threads do meanwhile */
    Py_BEGIN_ALLOW_THREADS
    sequence = rt_edge_receive_static(edge, self->slice_ns);
    Py_END_ALLOW_THREADS
    if (sequence > 0)
        made = new_tensor(self, handle, sequence);
    else
        made = PyObject_CallMethod(object, "_go_on", "L", (long long)sequence);
    Py_DECREF(handle);
    return made;
}

static PyObject *tensor_release(PyObject *object, PyObject *Py_UNUSED(none))
{
    quick_tensor *self = (quick_tensor *)object;
    if (!in_slot(self))
        Py_RETURN_NONE;
    if (PyObject_TypeCheck(self->edge, edge_type) && self->ticket > 0) {
        const quick_edge *edge = (const quick_edge *)self->edge;
        bool open = edge->handle != NULL && edge->handle != Py_None;
        if (open && rt_edge_release_at_once((rt_edge *)(uintptr_t)edge->pointer, (uint64_t)self->ticket) == RT_OK) {
            PyObject *before = self->edge;
            self->ticket = -1;
            self->edge = Py_NewRef(Py_None);
            Py_DECREF(before);
            Py_RETURN_NONE;
        }
    }
    return PyObject_CallMethod(self->edge, "_release", "O", object);
}

/* ---- types ---- */

static PyMemberDef tensor_members[] = {
    {"_form", T_OBJECT_EX, offsetof(quick_tensor, form), 0, "what it is and where it lies"},
    {"_keep", T_OBJECT_EX, offsetof(quick_tensor, keep), 0, "what keeps the memory"},
    {"_edge", T_OBJECT, offsetof(quick_tensor, edge), 0, "whose slot it lies in, until it is released"},
    {"_ticket", T_LONGLONG, offsetof(quick_tensor, ticket), 0, "for the edge: which tensor; negative once it was released"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef tensor_methods[] = {
    {"release", tensor_release, METH_NOARGS,
     "release($self, /)\n--\n\n"
     "Gives a received tensor's slot back to the sender. Twice is fine; a tensor that was not received keeps its\n"
     "memory.\n\n"
     "Views of it that still exist see the next tensor come: drop them first, or copy."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef edge_members[] = {
    {"_handle", T_OBJECT_EX, offsetof(quick_edge, handle), 0, "None when it is closed"},
    {"_forms", T_OBJECT_EX, offsetof(quick_edge, forms), 0, "what lies in each slot, once the layout is agreed"},
    {"_waiting", T_OBJECT_EX, offsetof(quick_edge, line), 0, "receiver: taken from the core, and not handed out yet"},
    {"_backlog", T_OBJECT_EX, offsetof(quick_edge, line), 0, "sender: begun by send_async, and not all of it done"},
    {"_pointer", T_ULONGLONG, offsetof(quick_edge, pointer), 0, "the C object's address"},
    {"_slice_ns", T_LONGLONG, offsetof(quick_edge, slice_ns), 0, "how long one call waits"},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef bound_members[] = {
    {"_edge", T_OBJECT_EX, offsetof(quick_bound, edge), 0, NULL},
    {"_pointer", T_ULONGLONG, offsetof(quick_bound, pointer), 0, "of the edge"},
    {"_address", T_ULONGLONG, offsetof(quick_bound, address), 0, NULL},
    {"_size", T_ULONGLONG, offsetof(quick_bound, nbytes), 0, "0: it is not sent from here"},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef prepared_members[] = {
    {"_handle", T_OBJECT_EX, offsetof(quick_prepared, handle), 0, "None when it is closed"},
    {"_pointer", T_ULONGLONG, offsetof(quick_prepared, pointer), 0, "the C object's address"},
    {"_brief", T_BOOL, offsetof(quick_prepared, brief), 0,
     "posted before the interpreter's lock could be given up, and soon over"},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot tensor_slots[] = {
    {Py_tp_traverse, (void *)tensor_traverse}, {Py_tp_clear, (void *)tensor_clear},
    {Py_tp_dealloc, (void *)tensor_dealloc},   {Py_tp_init, (void *)tensor_init},
    {Py_tp_finalize, (void *)tensor_finalize}, {Py_tp_members, tensor_members},
    {Py_tp_methods, tensor_methods},           {0, NULL},
};
static PyType_Slot edge_slots[] = {
    {Py_tp_traverse, (void *)edge_traverse},
    {Py_tp_clear, (void *)edge_clear},
    {Py_tp_dealloc, (void *)edge_dealloc},
    {Py_tp_members, edge_members},
    {0, NULL},
};
static PyType_Slot bound_slots[] = {
    {Py_tp_traverse, (void *)quick_holder_traverse},
    {Py_tp_clear, (void *)quick_holder_clear},
    {Py_tp_dealloc, (void *)quick_holder_dealloc},
    {Py_tp_call, (void *)bound_call},
    {Py_tp_members, bound_members},
    {0, NULL},
};

static PyType_Slot prepared_slots[] = {
    {Py_tp_traverse, (void *)quick_holder_traverse},
    {Py_tp_clear, (void *)quick_holder_clear},
    {Py_tp_dealloc, (void *)quick_holder_dealloc},
    {Py_tp_call, (void *)prepared_call},
    {Py_tp_members, prepared_members},
    {0, NULL},
};

enum { TYPE_FLAGS = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC };
static PyType_Spec tensor_spec = {"rdmatensor._quick.Tensor", sizeof(quick_tensor), 0, TYPE_FLAGS, tensor_slots};
static PyType_Spec edge_spec = {"rdmatensor._quick.Edge", sizeof(quick_edge), 0, TYPE_FLAGS, edge_slots};
static PyType_Spec bound_spec = {"rdmatensor._quick.Bound", sizeof(quick_bound), 0, TYPE_FLAGS, bound_slots};
static PyType_Spec prepared_spec = {"rdmatensor._quick.Prepared", sizeof(quick_prepared), 0, TYPE_FLAGS, prepared_slots};

/* receiving(method, doc, tensor): the method that RecvEdge has as `recv`. `method` is called where the quick way does not go, `doc`
 * describes it, and objects of the class `tensor` are what it gives. */
static PyObject *receiving(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *method, *type;
    const char *doc;
    if (!PyArg_ParseTuple(args, "OsO!:receiving", &method, &doc, &PyType_Type, &type))
        return NULL;
    size_t size = strlen(doc) + 1;
    char *copy = PyMem_Malloc(size); /* as long as the process, as the method */
    if (copy == NULL)
        return PyErr_NoMemory();
    memcpy(copy, doc, size);
    receive_otherwise = Py_NewRef(method);
    tensor_type = (PyTypeObject *)Py_NewRef(type);
    tensor_alloc = (allocfunc)PyType_GetSlot(tensor_type, Py_tp_alloc);
    receive_def = (PyMethodDef){"recv", (PyCFunction)(void *)edge_receive, METH_FASTCALL | METH_KEYWORDS, copy};
    return PyDescr_NewMethod(edge_type, &receive_def);
}

static PyMethodDef receiving_def = {"receiving", receiving, METH_VARARGS, NULL};

static int add(PyObject *dict, const char *name, PyObject *made)
{
    int status = made == NULL ? -1 : PyDict_SetItemString(dict, name, made);
    Py_XDECREF(made);
    return status;
}

uint64_t rt_quick_types(void)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *dict = PyDict_New();
    if (edge_type == NULL)
        edge_type = (PyTypeObject *)PyType_FromSpec(&edge_spec);
    bool whole = dict != NULL && edge_type != NULL && PyDict_SetItemString(dict, "Edge", (PyObject *)edge_type) == 0 &&
                 add(dict, "Tensor", PyType_FromSpec(&tensor_spec)) == 0 &&
                 add(dict, "Bound", PyType_FromSpec(&bound_spec)) == 0 &&
                 add(dict, "Prepared", PyType_FromSpec(&prepared_spec)) == 0 && add(dict, "Channel", quick_channel_type()) == 0 &&
                 add(dict, "receiving", PyCFunction_NewEx(&receiving_def, NULL, NULL)) == 0;
    if (!whole) {
        PyErr_Clear();
        Py_CLEAR(dict);
    }
    PyGILState_Release(state);
    return (uint64_t)(uintptr_t)dict;
}
