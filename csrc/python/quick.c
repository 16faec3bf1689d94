/* quick.c: edges, bound tensors and prepared copies: their fields, and how bound ones are called.
 * Objects of these types are used by one thread at a time, the one with the interpreter's lock; the
 * C objects behind them by any thread. */
#include "python/quick_parts.h"

#include <structmember.h>

#include <stdbool.h>
#include <string.h>

#include "rdmatensor.h"

/* A contiguous tensor bound to a static edge, or any other bound tensor: `nbytes` is then 0
 * here. */
typedef struct quick_bound {
    PyObject_HEAD
    PyObject *edge;
    unsigned long long pointer, address, nbytes;
    unsigned long long tensor; /* of a dynamic edge: an rt_edge_tensor*; else 0 */
} quick_bound;

/* Bound copies. */
typedef struct quick_prepared {
    PyObject_HEAD
    PyObject *handle; /* None once it is closed */
    unsigned long long pointer;
    char brief; /* posted before the interpreter's lock could be given up, and soon over */
} quick_prepared;

/* ---- life ---- */

static int edge_traverse(PyObject *object, visitproc visit, void *arg)
{
    quick_edge *self = (quick_edge *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->handle);
    Py_VISIT(self->forms);
    Py_VISIT(self->line);
    Py_VISIT(self->kept);
    return quick_known_traverse(self->known, visit, arg);
}

static int edge_clear(PyObject *object)
{
    quick_edge *self = (quick_edge *)object;
    quick_known_forget(self);
    Py_CLEAR(self->handle);
    Py_CLEAR(self->forms);
    Py_CLEAR(self->line);
    Py_CLEAR(self->kept);
    return 0;
}

static void edge_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    edge_clear(object);
    quick_free(object);
}

static PyObject *edge_forget(PyObject *object, PyObject *Py_UNUSED(none))
{
    quick_known_forget((quick_edge *)object);
    Py_RETURN_NONE;
}

/* ---- calls ---- */

static PyObject *object_call_python(PyObject *object, PyObject *args, PyObject *kwargs)
{
    PyObject *call = PyObject_GetAttrString(object, "_call"), *result = NULL;
    if (call != NULL)
        result = PyObject_Call(call, args, kwargs);
    Py_XDECREF(call);
    return result;
}

/* Passes copies that are still under way, or a status, to Python, which waits or raises. */
static PyObject *prepared_go_on(PyObject *prepared, int64_t number)
{
    if (number < 0)
        return PyObject_CallMethod(prepared, "_go_on", "L", (long long)number);
    PyObject *channel = PyObject_GetAttrString(prepared, "_channel"), *result = NULL;
    PyObject *held = channel != NULL ? quick_held_of(channel, prepared, number) : NULL;
    if (held != NULL)
        result = PyObject_CallMethod(prepared, "_go_on", "O", held);
    Py_XDECREF(held);
    Py_XDECREF(channel);
    return result;
}

static PyObject *prepared_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    const quick_prepared *self = (const quick_prepared *)object;
    if (self->handle == NULL || self->handle == Py_None || kwargs != NULL || PyTuple_Size(args) != 0)
        return object_call_python(object, args, kwargs);
    rt_prepared *prepared = (rt_prepared *)(uintptr_t)self->pointer;
    PyObject *handle = Py_NewRef(self->handle); /* another thread may drop it meanwhile */
    int64_t number = RT_OK;
    if (self->brief) {
        number = rt_prepared_run_briefly(prepared, QUICK_COPY_LOOKS);
        if (number > 0) {
            Py_BEGIN_ALLOW_THREADS
            number = rt_prepared_finish(prepared, number);
            Py_END_ALLOW_THREADS
        }
    }
    if (!self->brief || number == RT_E_BUSY) { /* BUSY: another thread copies, and this one waits for it */
        Py_BEGIN_ALLOW_THREADS
        number = rt_prepared_run(prepared);
        Py_END_ALLOW_THREADS
    }
    PyObject *result = number == 0 ? Py_NewRef(Py_None) : prepared_go_on(object, number);
    Py_DECREF(handle);
    return result;
}

/* Calls that send a tensor of a dynamic edge: 1 when it was sent, 0 when Python has to do it, -1 with an exception. */
static int bound_send_record(PyObject *object, const quick_bound *self)
{
    const quick_edge *way = (const quick_edge *)self->edge;
    rt_edge *edge = PyObject_TypeCheck(self->edge, quick_edge_type) ? quick_free_edge(way) : NULL;
    uint64_t released = 0;
    if (edge == NULL)
        return 0;
    int64_t sequence = rt_edge_send_tensor_at_once(edge, (const rt_edge_tensor *)(uintptr_t)self->tensor, &released);
    if (sequence < 0)
        return 0;
    if (sequence > 0 && quick_keep(way, sequence, object) != 0)
        return -1;
    return quick_keep_until(way, released) == 0 ? 1 : -1;
}

static PyObject *bound_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    const quick_bound *self = (const quick_bound *)object;
    const quick_edge *way = (const quick_edge *)self->edge;
    bool usual = self->nbytes != 0 && kwargs == NULL && PyTuple_Size(args) == 0;
    if (self->tensor != 0 && way != NULL && kwargs == NULL && PyTuple_Size(args) == 0) {
        int sent = bound_send_record(object, self);
        if (sent != 0)
            return sent > 0 ? Py_NewRef(Py_None) : NULL;
    }
    rt_edge *edge = usual && way != NULL && PyObject_TypeCheck(self->edge, quick_edge_type) ? quick_free_edge(way) : NULL;
    if (edge == NULL)
        return object_call_python(object, args, kwargs);
    if (self->nbytes <= QUICK_KEEPS_LOCK_MAX && rt_edge_send_at_once(edge, self->address, self->nbytes) == 0)
        Py_RETURN_NONE;
    int64_t status;
    PyObject *handle = Py_NewRef(way->handle); /* another thread may drop it meanwhile */
    Py_BEGIN_ALLOW_THREADS
    status = rt_edge_send(edge, self->address, self->nbytes, way->slice_ns);
    Py_END_ALLOW_THREADS
    Py_DECREF(handle);
    if (status == 0)
        Py_RETURN_NONE;
    if (status > 0 && quick_keep(way, status, object) != 0)
        return NULL;
    return PyObject_CallMethod(object, "_go_on", "L", (long long)status);
}

/* ---- types ---- */

static PyMemberDef edge_members[] = {
    {"_handle", T_OBJECT_EX, offsetof(quick_edge, handle), 0, "None when it is closed"},
    {"_forms", T_OBJECT_EX, offsetof(quick_edge, forms), 0, "what lies in each slot, once the layout is agreed"},
    {"_waiting", T_OBJECT_EX, offsetof(quick_edge, line), 0, "receiver: taken from the core, and not handed out yet"},
    {"_backlog", T_OBJECT_EX, offsetof(quick_edge, line), 0, "sender: begun by send_async, and not all of it done"},
    {"_kept", T_OBJECT_EX, offsetof(quick_edge, kept), 0, "sender: sent, and still needed by the receiver or the provider"},
    {"_pointer", T_ULONGLONG, offsetof(quick_edge, pointer), 0, "the C object's address"},
    {"_slice_ns", T_LONGLONG, offsetof(quick_edge, slice_ns), 0, "how long one call waits"},
    {"_dynamic", T_BOOL, offsetof(quick_edge, dynamic), 0, "receiver: its tensors may be borrowed"},
    {"_lender", T_ULONG, offsetof(quick_edge, lender), READONLY, "sender: the thread that has a loan of it, or 0"},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef bound_members[] = {
    {"_edge", T_OBJECT_EX, offsetof(quick_bound, edge), 0, NULL},
    {"_pointer", T_ULONGLONG, offsetof(quick_bound, pointer), 0, "of the edge"},
    {"_address", T_ULONGLONG, offsetof(quick_bound, address), 0, NULL},
    {"_size", T_ULONGLONG, offsetof(quick_bound, nbytes), 0, "0: it is not sent from here"},
    {"_tensor", T_ULONGLONG, offsetof(quick_bound, tensor), 0, "of a dynamic edge: the C description"},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef prepared_members[] = {
    {"_handle", T_OBJECT_EX, offsetof(quick_prepared, handle), 0, "None when it is closed"},
    {"_pointer", T_ULONGLONG, offsetof(quick_prepared, pointer), 0, "the C object's address"},
    {"_brief", T_BOOL, offsetof(quick_prepared, brief), 0,
     "posted before the interpreter's lock could be given up, and soon over"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef edge_methods[] = {
    {"_forget", edge_forget, METH_NOARGS,
     "_forget($self, /)\n--\n\nDrops the forms and keepers that it has made of dynamic tensors."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot edge_slots[] = {
    {Py_tp_doc, (void *)"The part of an edge's end that the quick calls use. `_waiting` and `_backlog` share one slot:\n"
                        "a receiver has the former, a sender the latter."},
    {Py_tp_traverse, (void *)edge_traverse},
    {Py_tp_clear, (void *)edge_clear},
    {Py_tp_dealloc, (void *)edge_dealloc},
    {Py_tp_members, edge_members},
    {Py_tp_methods, edge_methods},
    {0, NULL},
};
static PyType_Slot bound_slots[] = {
    {Py_tp_doc, (void *)"A tensor that is bound to an edge: calling it sends. The call goes to `_call`, which a subclass\n"
                        "has, in all but the usual case."},
    {Py_tp_traverse, (void *)quick_holder_traverse},
    {Py_tp_clear, (void *)quick_holder_clear},
    {Py_tp_dealloc, (void *)quick_holder_dealloc},
    {Py_tp_call, (void *)bound_call},
    {Py_tp_members, bound_members},
    {0, NULL},
};

static PyType_Slot prepared_slots[] = {
    {Py_tp_doc, (void *)"Copies that are bound: calling it runs them. The call goes to `_call`, which a subclass has, in\n"
                        "all but the usual case."},
    {Py_tp_traverse, (void *)quick_holder_traverse},
    {Py_tp_clear, (void *)quick_holder_clear},
    {Py_tp_dealloc, (void *)quick_holder_dealloc},
    {Py_tp_call, (void *)prepared_call},
    {Py_tp_members, prepared_members},
    {0, NULL},
};

enum { TYPE_FLAGS = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC };
static PyType_Spec edge_spec = {"rdmatensor._native.QuickEdge", sizeof(quick_edge), 0, TYPE_FLAGS, edge_slots};
static PyType_Spec bound_spec = {"rdmatensor._native.QuickBound", sizeof(quick_bound), 0, TYPE_FLAGS, bound_slots};
static PyType_Spec prepared_spec = {"rdmatensor._native.QuickPrepared", sizeof(quick_prepared), 0, TYPE_FLAGS, prepared_slots};

int quick_add(PyObject *module)
{
    static PyTypeObject *bound_type, *prepared_type;
    int status = quick_type_add(module, &edge_spec, &quick_edge_type);
    if (status == 0)
        status = quick_type_add(module, &bound_spec, &bound_type);
    return status == 0 ? quick_type_add(module, &prepared_spec, &prepared_type) : status;
}
