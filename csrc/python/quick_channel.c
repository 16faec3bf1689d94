/* quick_channel.c: channels, and waiting for a word of a span as Python calls it: in C as long as
 * the word is there or comes soon, and the case is a usual one. Objects of the type are used by one
 * thread at a time, the one with the interpreter's lock. */
#include "python/quick_parts.h"

#include <structmember.h>

#include <stdbool.h>
#include <string.h>

#include "rdmatensor.h"

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

/* ---- the class ---- */

static PyMemberDef channel_members[] = {
    {"_handle", T_OBJECT_EX, offsetof(quick_channel, handle), 0, "None when it is closed"},
    {"_pointer", T_ULONGLONG, offsetof(quick_channel, pointer), 0, "the C object's address"},
    {"_slice_ns", T_LONGLONG, offsetof(quick_channel, slice_ns), 0, "how long one call waits"},
    {"_brief", T_ULONGLONG, offsetof(quick_channel, brief), 0, "bytes that are copied without giving the interpreter's lock up"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef channel_methods[] = {
    {"memcpy", (PyCFunction)(void *)quick_channel_memcpy, METH_FASTCALL | METH_KEYWORDS,
     "memcpy($self, /, dst, src, *, qp=None, timeout=None)\n--\n\n"
     "Copies `src` to `dst`, of equal size, exactly one of them remote, and blocks until it is done.\n\n"
     "The local end is a region or a range of one, or a tensor or an array that lies in a region; a range is the\n"
     "fastest. A remote `dst` makes it a one-sided WRITE, done when the bytes are placed in the peer's memory; a\n"
     "remote `src` makes it a one-sided READ. Any size is allowed; a copy larger than the provider's limit is split.\n"
     "`qp` chooses the QP (default 0). `timeout` is in seconds, None takes the device's; 0 tries once.\n\n"
     "Raises OutOfBounds, AccessDenied, InvalidArgument and ClosedError before anything is posted, and\n"
     "DeadlineExceeded, TransferError and PeerLost afterwards. In the latter case `dst` may hold part of the bytes,\n"
     "and local ranges stay in quarantine until the provider is done with them."},
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
    return named ? quick_type_add(module, &channel_spec, &channel_type) : -1;
}
