/* quick_tensor.c: the base class of tensors: their fields, and how a slot goes back to the sender,
 * by `release` or with the last reference. Both are C from end to end, so that no signal handler
 * runs between the tensor and its slot (quick_parts.h). */
#include "python/quick_parts.h"

#include <structmember.h>

static allocfunc tensor_alloc;
static PyTypeObject *tensor_alloc_of;

static bool tensor_in_slot(const quick_tensor *self)
{
    return self->edge != NULL && self->edge != Py_None;
}

static int tensor_traverse(PyObject *object, visitproc visit, void *arg)
{
    quick_tensor *self = (quick_tensor *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->form);
    Py_VISIT(self->keep);
    Py_VISIT(self->edge);
    Py_VISIT(self->origin);
    Py_VISIT(self->arrays);
    return 0;
}

static int tensor_clear(PyObject *object)
{
    quick_tensor *self = (quick_tensor *)object;
    Py_CLEAR(self->edge);
    Py_CLEAR(self->origin);
    Py_CLEAR(self->arrays);
    Py_CLEAR(self->form);
    Py_CLEAR(self->keep);
    return 0;
}

static void tensor_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    tensor_clear(object);
    quick_free(object);
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

quick_tensor *quick_tensor_new(void)
{
    if (tensor_alloc_of != quick_tensor_type) {
        tensor_alloc = (allocfunc)PyType_GetSlot(quick_tensor_type, Py_tp_alloc);
        tensor_alloc_of = quick_tensor_type;
    }
    return (quick_tensor *)tensor_alloc(quick_tensor_type, 0);
}

void quick_tensor_let_go(quick_tensor *tensor)
{
    PyObject *arrays = tensor->arrays, *type, *value, *trace;
    if (arrays == NULL)
        return;
    tensor->arrays = NULL;
    PyErr_Fetch(&type, &value, &trace);
    for (Py_ssize_t index = 0; index < PyList_Size(arrays); index++) {
        PyObject *done = PyObject_CallMethod(PyList_GetItem(arrays, index), "setflags", "O", Py_False);
        if (done == NULL)
            PyErr_Clear();
        Py_XDECREF(done);
    }
    Py_DECREF(arrays);
    PyErr_Restore(type, value, trace);
}

void quick_put_back(PyObject *edge, PyObject *item)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *done = PyObject_CallMethod(((quick_edge *)edge)->line, "appendleft", "O", item);
    if (done == NULL)
        PyErr_WriteUnraisable(edge);
    Py_XDECREF(done);
    PyErr_Restore(type, value, trace);
}

/* The C edge while it is open. NULL also when it was ended before its tensors, as the garbage
 * collector may do with a cycle of both. */
static rt_edge *edge_behind(PyObject *edge)
{
    PyObject *life = PyObject_GetAttrString(edge, "_life"), *ended = NULL;
    if (life != NULL)
        ended = PyObject_GetAttrString(life, "ended");
    bool lives = ended != NULL && PyObject_IsTrue(ended) == 0;
    Py_XDECREF(life);
    Py_XDECREF(ended);
    PyErr_Clear();
    return lives ? quick_open_edge((const quick_edge *)edge) : NULL;
}

/* Gives a slot back; waits for another thread's turn without the interpreter's lock. */
static int slot_release(const quick_edge *edge, uint64_t sequence)
{
    rt_edge *behind = (rt_edge *)(uintptr_t)edge->pointer;
    int status = rt_edge_release_at_once(behind, sequence);
    if (status == RT_OK)
        return RT_OK;
    PyObject *handle = Py_NewRef(edge->handle); /* another thread may drop it meanwhile */
    Py_BEGIN_ALLOW_THREADS
    status = rt_edge_release(behind, sequence);
    Py_END_ALLOW_THREADS
    Py_DECREF(handle);
    return status;
}

/* Moves everything that this tensor holds into a new one. */
static PyObject *tensor_move(quick_tensor *self)
{
    quick_tensor *made = quick_tensor_new();
    if (made == NULL)
        return NULL;
    made->form = self->form;
    made->keep = self->keep;
    made->edge = self->edge;
    made->origin = self->origin;
    made->ticket = self->ticket;
    self->form = self->keep = self->origin = NULL;
    self->edge = NULL;
    self->ticket = -1;
    return (PyObject *)made;
}

/* Frees a tensor that nobody released. If a KeyboardInterrupt struck on its way from C to the
 * caller, who never had it, it becomes the next tensor that its edge hands out. */
static void tensor_finalize(PyObject *object)
{
    quick_tensor *self = (quick_tensor *)object;
    if (!tensor_in_slot(self) && (self->origin == NULL || PyErr_Occurred() == NULL))
        return;
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *edge = tensor_in_slot(self) ? Py_NewRef(self->edge) : PyObject_CallNoArgs(self->origin);
    if (edge != NULL && PyObject_TypeCheck(edge, quick_edge_type) && edge_behind(edge) != NULL) {
        bool interrupted = type != NULL && PyErr_GivenExceptionMatches(type, PyExc_KeyboardInterrupt);
        PyObject *again = interrupted ? tensor_move(self) : NULL;
        if (again != NULL)
            quick_put_back(edge, again);
        Py_XDECREF(again);
        if (tensor_in_slot(self) && self->ticket > 0) {
            uint64_t sequence = (uint64_t)self->ticket;
            self->ticket = -1;
            slot_release((const quick_edge *)edge, sequence); /* an overrun cannot be reported here */
        }
    }
    Py_XDECREF(edge);
    PyErr_Clear();
    PyErr_Restore(type, value, trace);
}

static PyObject *tensor_release(PyObject *object, PyObject *Py_UNUSED(none))
{
    quick_tensor *self = (quick_tensor *)object;
    if (!tensor_in_slot(self))
        Py_RETURN_NONE;
    PyObject *edge = self->edge, *raised = NULL;
    uint64_t sequence = (uint64_t)self->ticket;
    bool held = PyObject_TypeCheck(edge, quick_edge_type) && self->ticket > 0 && quick_open_edge((quick_edge *)edge) != NULL;
    self->ticket = -1; /* before another thread may run */
    self->edge = Py_NewRef(Py_None);
    int status = held ? slot_release((const quick_edge *)edge, sequence) : RT_OK;
    if (status != RT_OK)
        raised = PyObject_CallMethod(edge, "_refusal", "is", status, "release a tensor");
    Py_DECREF(edge);
    if (status == RT_OK)
        Py_RETURN_NONE;
    if (raised != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(raised), raised);
    Py_XDECREF(raised);
    return NULL;
}

static PyMemberDef tensor_members[] = {
    {"_form", T_OBJECT_EX, offsetof(quick_tensor, form), 0, "what it is and where it lies"},
    {"_keep", T_OBJECT_EX, offsetof(quick_tensor, keep), 0, "what keeps the memory"},
    {"_edge", T_OBJECT, offsetof(quick_tensor, edge), 0, "whose slot it lies in, until it is released"},
    {"_ticket", T_LONGLONG, offsetof(quick_tensor, ticket), 0, "for the edge: which tensor; negative once it was released"},
    {"_lent", T_BOOL, offsetof(quick_tensor, lent), READONLY, "it lies in a loan"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef tensor_methods[] = {
    {"release", tensor_release, METH_NOARGS,
     "release($self, /)\n--\n\n"
     "Gives a received tensor's slot back to the sender. Twice is fine; a tensor that was not received keeps its\n"
     "memory.\n\n"
     "Views of it that still exist see the next tensor come: drop them first, or copy."},
    {"numpy", quick_tensor_numpy, METH_NOARGS,
     "numpy($self, /)\n--\n\n"
     "The memory as a NumPy array, not copied. InvalidArgument for the types that NumPy lacks: bfloat16, float8,\n"
     "complex32."},
    {"__array__", (PyCFunction)(void *)quick_tensor_array, METH_FASTCALL | METH_KEYWORDS,
     "__array__($self, /, dtype=None, copy=None)\n--\n\nThe memory as a NumPy array, converted or copied where that is asked for."},
    {"__dlpack__", (PyCFunction)(void *)quick_tensor_dlpack, METH_FASTCALL | METH_KEYWORDS,
     "__dlpack__($self, /, *, stream=None, max_version=None, dl_device=None, copy=None)\n--\n\n"
     "A DLPack capsule for every element type; of version 1.1 for a consumer that knows 1.0 or later."},
    {"__dlpack_device__", quick_tensor_dlpack_device, METH_NOARGS,
     "__dlpack_device__($self, /)\n--\n\nThe kind and number of host memory."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef tensor_getters[] = {
    {"__array_struct__", quick_tensor_struct, NULL, "NumPy's array interface, for C", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot tensor_slots[] = {
    {Py_tp_doc, (void *)"QuickTensor(form, keep, edge=None, ticket=0)\n--\n\nThe part of a tensor that the quick calls use."},
    {Py_tp_traverse, (void *)tensor_traverse},
    {Py_tp_clear, (void *)tensor_clear},
    {Py_tp_dealloc, (void *)tensor_dealloc},
    {Py_tp_init, (void *)tensor_init},
    {Py_tp_finalize, (void *)tensor_finalize},
    {Py_tp_members, tensor_members},
    {Py_tp_methods, tensor_methods},
    {Py_tp_getset, tensor_getters},
    {0, NULL},
};
static PyType_Spec tensor_spec = {"rdmatensor._native.QuickTensor", sizeof(quick_tensor), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, tensor_slots};

int quick_tensor_add(PyObject *module)
{
    static PyTypeObject *tensor_type;
    return quick_type_add(module, &tensor_spec, &tensor_type);
}
