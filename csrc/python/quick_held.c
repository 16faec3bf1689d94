/* quick_held.c: operations and lookups that outlive the call that began them. */
#include "python/quick_parts.h"

#include <structmember.h>

#include <stdbool.h>

/* The number of an operation or of a lookup, which ends with this object unless it was ended
 * before. */
typedef struct quick_held {
    PyObject_HEAD
    PyObject *channel, *keep; /* `keep` lives until the provider is done with the operation */
    PyObject *result;         /* valid once `end` has ended it */
    long long number;
    bool lookup;
} quick_held;

static PyTypeObject *held_type;

static int held_traverse(PyObject *object, visitproc visit, void *arg)
{
    quick_held *self = (quick_held *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->channel);
    Py_VISIT(self->keep);
    Py_VISIT(self->result);
    return 0;
}

static int held_clear(PyObject *object)
{
    quick_held *self = (quick_held *)object;
    Py_CLEAR(self->channel);
    Py_CLEAR(self->keep);
    Py_CLEAR(self->result);
    return 0;
}

/* Gives up an operation that nobody waits for, as at its deadline. One that was ended before is not
 * found. */
static void held_end(quick_held *self)
{
    const quick_channel *channel = (const quick_channel *)self->channel;
    if (channel == NULL || self->number <= 0 || self->result != NULL || channel->handle == NULL || channel->handle == Py_None)
        return;
    rt_channel *behind = (rt_channel *)(uintptr_t)channel->pointer;
    long long number = self->number;
    bool lookup = self->lookup;
    int status = RT_OK;
    PyObject *handle = Py_NewRef(channel->handle); /* another thread may drop it meanwhile */
    Py_BEGIN_ALLOW_THREADS
    if (lookup)
        rt_lookup_release(behind, number);
    else
        status = rt_op_release(behind, number, NULL);
    Py_END_ALLOW_THREADS
    Py_DECREF(handle);
    if (status != RT_E_AGAIN)
        return;
    PyObject *limbo = PyObject_GetAttrString(self->channel, "_limbo");
    PyObject *done = limbo != NULL ? PyObject_CallMethod(limbo, "append", "((O))", self->keep) : NULL;
    Py_XDECREF(limbo);
    Py_XDECREF(done);
}

static void held_dealloc(PyObject *object)
{
    PyObject *type, *value, *trace;
    PyObject_GC_UnTrack(object);
    PyErr_Fetch(&type, &value, &trace);
    held_end((quick_held *)object);
    PyErr_Clear();
    PyErr_Restore(type, value, trace);
    held_clear(object);
    quick_free(object);
}

/* end(): ends an operation, and returns its status and the reason of a failure; RT_E_AGAIN: it was
 * not done, and is given up. A repeated call returns the same: a caller that was interrupted before
 * it could store the answer has lost nothing. */
static PyObject *held_release(PyObject *object, PyObject *Py_UNUSED(none))
{
    quick_held *self = (quick_held *)object;
    const quick_channel *channel = (const quick_channel *)self->channel;
    if (self->result != NULL)
        return Py_NewRef(self->result);
    if (channel->handle == NULL || channel->handle == Py_None)
        return Py_BuildValue("is", RT_E_CLOSED, "its device was closed");
    rt_channel *behind = (rt_channel *)(uintptr_t)channel->pointer;
    PyObject *handle = Py_NewRef(channel->handle); /* another thread may drop it meanwhile */
    rt_detail detail;
    int status;
    rt_detail_clear(&detail);
    Py_BEGIN_ALLOW_THREADS
    status = rt_op_release(behind, self->number, &detail);
    Py_END_ALLOW_THREADS
    Py_DECREF(handle);
    self->result = Py_BuildValue("is", status, detail.text);
    return Py_XNewRef(self->result);
}

static quick_held *held_new(PyObject *channel, PyObject *keep, bool lookup)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(held_type, Py_tp_alloc);
    quick_held *made = (quick_held *)alloc(held_type, 0);
    if (made == NULL)
        return NULL;
    made->channel = Py_NewRef(channel);
    made->keep = Py_NewRef(keep);
    made->lookup = lookup;
    return made;
}

PyObject *quick_held_of(PyObject *channel, PyObject *keep, int64_t number)
{
    quick_held *made = held_new(channel, keep, false);
    if (made != NULL)
        made->number = number;
    return (PyObject *)made;
}

/* hold(channel, keep, lookup, function, *args): calls a C function that returns a status, or the
 * number of an operation or lookup. Returns the status, or the number as an object that ends it. */
static PyObject *held_begin(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count < 4) {
        PyErr_SetString(PyExc_TypeError, "hold(channel, keep, lookup, function, *args)");
        return NULL;
    }
    PyObject *given = PyTuple_New(count - 4);
    for (Py_ssize_t index = 4; given != NULL && index < count; index++)
        PyTuple_SetItem(given, index - 4, Py_NewRef(args[index]));
    PyObject *result = given != NULL ? PyObject_Call(args[3], given, NULL) : NULL;
    Py_XDECREF(given);
    if (result == NULL)
        return NULL;
    long long number = PyLong_AsLongLong(result);
    if (number <= 0)
        return result;
    quick_held *made = held_new(args[0], args[1], PyObject_IsTrue(args[2]) == 1);
    if (made != NULL)
        made->number = number;
    Py_DECREF(result);
    return (PyObject *)made;
}

static PyMemberDef held_members[] = {
    {"number", T_LONGLONG, offsetof(quick_held, number), READONLY, "for the core"},
    {NULL, 0, 0, 0, NULL},
};
static PyMethodDef held_methods[] = {
    {"end", held_release, METH_NOARGS,
     "end($self, /)\n--\n\n"
     "Ends the operation. Gives its status and the reason it failed; AGAIN: it had not finished and was given up."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot held_slots[] = {
    {Py_tp_doc, (void *)"An operation or a lookup that outlives the call that began it. It ends with this object at the\n"
                        "latest."},
    {Py_tp_methods, held_methods},
    {Py_tp_traverse, (void *)held_traverse},
    {Py_tp_clear, (void *)held_clear},
    {Py_tp_dealloc, (void *)held_dealloc},
    {Py_tp_members, held_members},
    {0, NULL},
};
static PyType_Spec held_spec = {"rdmatensor._native.Held", sizeof(quick_held), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                                held_slots};

static PyMethodDef functions[] = {
    {"hold", (PyCFunction)(void *)held_begin, METH_FASTCALL,
     "hold($module, channel, keep, lookup, function, /, *args)\n--\n\n"
     "Calls a C function that begins an operation or a lookup. Gives its status, or a `Held` while it goes on. `keep`\n"
     "lives until the provider is done with it."},
    {NULL, NULL, 0, NULL},
};

int quick_held_add(PyObject *module)
{
    return quick_type_add(module, &held_spec, &held_type) == 0 ? PyModule_AddFunctions(module, functions) : -1;
}
