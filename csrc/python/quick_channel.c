/* quick_channel.c: waiting for a word of a span, as Python calls it (quick.h): in C as long as the word is there or comes soon, and nothing
 * is unusual. Objects of the type are seen by one thread at a time, that which has the interpreter's lock. */
#include "python/quick_parts.h"

#include <structmember.h>

#include <stdbool.h>
#include <string.h>

#include "python/quick.h"
#include "rdmatensor.h"

typedef struct quick_channel {
    PyObject_HEAD
    PyObject *handle; /* None when it is closed; it begins as a quick_holder */
    unsigned long long pointer;
    long long slice_ns;
} quick_channel;

/* Where a word lies: what `_pack` of a Span packs. */
typedef struct place {
    uint64_t region, offset;
} place;

/* Names of what a Span has, made once. */
static PyObject *name_handle, *name_packed, *name_nbytes;

static bool is_word(PyObject *span)
{
    PyObject *nbytes = PyObject_GetAttr(span, name_nbytes);
    bool word = nbytes != NULL && PyLong_Check(nbytes) && PyLong_AsSize_t(nbytes) == sizeof(uint64_t);
    Py_XDECREF(nbytes);
    return word;
}

/* What keeps the region of a word that can be waited for in C, a new reference, and where it lies; else NULL, with no exception. A span
 * that was never packed is not: Python does that. */
static PyObject *find(PyObject *span, place *place_out)
{
    PyObject *handle = PyObject_GetAttr(span, name_handle);
    PyObject *packed = handle != NULL && handle != Py_None ? PyObject_GetAttr(span, name_packed) : NULL;
    bool usual = packed != NULL && PyBytes_Check(packed) && PyBytes_Size(packed) == sizeof *place_out && is_word(span);
    if (usual)
        memcpy(place_out, PyBytes_AsString(packed), sizeof *place_out);
    Py_XDECREF(packed);
    if (usual)
        return handle;
    Py_XDECREF(handle);
    PyErr_Clear();
    return NULL;
}

/* RT_OK when the word came within a slice; else it is for Python to wait on, or to say what is wrong. */
static int wait_word(quick_channel *self, PyObject *span, uint64_t value)
{
    place where;
    PyObject *keep = find(span, &where);
    if (keep == NULL)
        return RT_E_INVALID;
    rt_channel *channel = (rt_channel *)(uintptr_t)self->pointer;
    rt_region *region = (rt_region *)(uintptr_t)where.region;
    int status = rt_channel_look_for_word(channel, region, where.offset, value, QUICK_LOOKS);
    if (status != RT_OK) {
        PyObject *handle = Py_NewRef(self->handle); /* whatever other threads do meanwhile */
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
    if (usual && wait_word(self, args[0], PyLong_AsUnsignedLongLongMask(args[1])) == RT_OK)
        Py_RETURN_NONE;
    PyObject *method = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "_wait_word"), *result = NULL;
    if (method != NULL)
        result = quick_call(method, object, args, count, names);
    Py_XDECREF(method);
    return result;
}

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
    {Py_tp_traverse, (void *)quick_holder_traverse},
    {Py_tp_clear, (void *)quick_holder_clear},
    {Py_tp_dealloc, (void *)quick_holder_dealloc},
    {Py_tp_members, channel_members},
    {Py_tp_methods, channel_methods},
    {0, NULL},
};
static PyType_Spec channel_spec = {"rdmatensor._quick.Channel", sizeof(quick_channel), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, channel_slots};

PyObject *quick_channel_type(void)
{
    if (name_handle == NULL)
        name_handle = PyUnicode_InternFromString("_region_handle");
    if (name_packed == NULL)
        name_packed = PyUnicode_InternFromString("_packed");
    if (name_nbytes == NULL)
        name_nbytes = PyUnicode_InternFromString("nbytes");
    bool named = name_handle != NULL && name_packed != NULL && name_nbytes != NULL;
    return named ? PyType_FromSpec(&channel_spec) : NULL;
}
