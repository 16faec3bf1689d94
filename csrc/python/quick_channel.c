/* quick_channel.c: waiting for a word of a span, as Python calls it: in C as long as the
 * word is there or comes soon, and the case is a usual one. Objects of the type are used by one
 * thread at a time, the one with the interpreter's lock. */
#include "python/quick_parts.h"

#include <structmember.h>

#include <stdbool.h>
#include <string.h>

#include "rdmatensor.h"

typedef struct quick_channel {
    PyObject_HEAD
    PyObject *handle; /* None once it is closed; the struct begins as a quick_holder */
    unsigned long long pointer;
    long long slice_ns;
} quick_channel;

/* The place of a word, as `_pack` of a Span packs it. */
typedef struct place {
    uint64_t region, offset;
} place;

/* Names of a Span's attributes, made once. */
static PyObject *name_handle, *name_packed, *name_nbytes;

static bool span_is_word(PyObject *span)
{
    PyObject *nbytes = PyObject_GetAttr(span, name_nbytes);
    bool word = nbytes != NULL && PyLong_Check(nbytes) && PyLong_AsSize_t(nbytes) == sizeof(uint64_t);
    Py_XDECREF(nbytes);
    return word;
}

/* The object that keeps the region of a word that C can wait for, a new reference, and the word's
 * place; else NULL, with no exception. A span that was never packed gives NULL: Python handles
 * it. */
static PyObject *place_find(PyObject *span, place *place_out)
{
    PyObject *handle = PyObject_GetAttr(span, name_handle);
    PyObject *packed = handle != NULL && handle != Py_None ? PyObject_GetAttr(span, name_packed) : NULL;
    bool usual = packed != NULL && PyBytes_Check(packed) && PyBytes_Size(packed) == sizeof *place_out && span_is_word(span);
    if (usual)
        memcpy(place_out, PyBytes_AsString(packed), sizeof *place_out);
    Py_XDECREF(packed);
    if (usual)
        return handle;
    Py_XDECREF(handle);
    PyErr_Clear();
    return NULL;
}

/* RT_OK when the word came within a slice; otherwise Python waits for it, or reports the error. */
static int word_wait(quick_channel *self, PyObject *span, uint64_t value)
{
    place where;
    PyObject *keep = place_find(span, &where);
    if (keep == NULL)
        return RT_E_INVALID;
    rt_channel *channel = (rt_channel *)(uintptr_t)self->pointer;
    rt_region *region = (rt_region *)(uintptr_t)where.region;
    int status = rt_channel_look_for_word(channel, region, where.offset, value, QUICK_LOOKS);
    if (status != RT_OK) {
        PyObject *handle = Py_NewRef(self->handle); /* another thread may drop it meanwhile */
        long long slice_ns = self->slice_ns;
        Py_BEGIN_ALLOW_THREADS
        status = rt_channel_wait_word(channel, region, where.offset, value, slice_ns);
        Py_END_ALLOW_THREADS
        Py_DECREF(handle);
    }
    Py_DECREF(keep);
    return status;
}

static PyObject *channel_wait_word(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    quick_channel *self = (quick_channel *)object;
    bool usual = count == 2 && names == NULL && self->handle != NULL && self->handle != Py_None && PyLong_Check(args[1]);
    if (usual && word_wait(self, args[0], PyLong_AsUnsignedLongLongMask(args[1])) == RT_OK)
        Py_RETURN_NONE;
    PyObject *method = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "_wait_word"), *result = NULL;
    if (method != NULL)
        result = quick_call(method, object, NULL, args, count, names);
    Py_XDECREF(method);
    return result;
}

/* ---- operations and lookups that outlive the call that began them ---- */

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
/* ---- the class ---- */

static PyMemberDef channel_members[] = {
    {"_handle", T_OBJECT_EX, offsetof(quick_channel, handle), 0, "None when it is closed"},
    {"_pointer", T_ULONGLONG, offsetof(quick_channel, pointer), 0, "the C object's address"},
    {"_slice_ns", T_LONGLONG, offsetof(quick_channel, slice_ns), 0, "how long one call waits"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef channel_methods[] = {
    {"wait_word", (PyCFunction)(void *)channel_wait_word, METH_FASTCALL | METH_KEYWORDS,
     "wait_word($self, /, span, value, *, timeout=None)\n--\n\n"
     "Blocks until the 8-byte word in `span`, which a peer writes, is at or past `value`.\n\n"
     "Compared as sequence numbers: (word - value) as a signed number is not negative (RDMA-RULES 6). What the peer\n"
     "placed before the word is visible then. `span` is 8 bytes long and begins at a multiple of 8. `timeout` in\n"
     "seconds, None for the device's.\n\n"
     "Raises InvalidArgument for a span that is no such word, DeadlineExceeded, and what ended the channel."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot channel_slots[] = {
    {Py_tp_doc, (void *)"The part of a channel that the quick calls use."},
    {Py_tp_traverse, (void *)quick_holder_traverse},
    {Py_tp_clear, (void *)quick_holder_clear},
    {Py_tp_dealloc, (void *)quick_holder_dealloc},
    {Py_tp_members, channel_members},
    {Py_tp_methods, channel_methods},
    {0, NULL},
};
static PyType_Spec channel_spec = {"rdmatensor._native.QuickChannel", sizeof(quick_channel), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, channel_slots};

/* ---- the names ---- */

static PyMethodDef functions[] = {
    {"hold", (PyCFunction)(void *)held_begin, METH_FASTCALL,
     "hold($module, channel, keep, lookup, function, /, *args)\n--\n\n"
     "Calls a C function that begins an operation or a lookup. Gives its status, or a `Held` while it goes on. `keep`\n"
     "lives until the provider is done with it."},
    {NULL, NULL, 0, NULL},
};

int quick_channel_add(PyObject *module)
{
    static PyTypeObject *channel_type;
    if (name_handle == NULL)
        name_handle = PyUnicode_InternFromString("_region_handle");
    if (name_packed == NULL)
        name_packed = PyUnicode_InternFromString("_packed");
    if (name_nbytes == NULL)
        name_nbytes = PyUnicode_InternFromString("nbytes");
    bool named = name_handle != NULL && name_packed != NULL && name_nbytes != NULL;
    int status = named ? quick_type_add(module, &channel_spec, &channel_type) : -1;
    if (status == 0)
        status = quick_type_add(module, &held_spec, &held_type);
    return status == 0 ? PyModule_AddFunctions(module, functions) : status;
}
