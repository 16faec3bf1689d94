/* quick_copy.c: a copy between a range of a region and a range of the peer's memory, as Python calls
 * it: in C where both ends are ranges and no option is given. Everything else, and every error, is
 * left to the method written in Python, which begins anew. */
#include "python/quick_parts.h"

/* Names of attributes of spans, made once. */
static PyObject *name_attachment, *name_direction, *name_handle, *name_nbytes, *name_offset, *name_pointer, *name_region,
    *name_region_handle, *name_region_pointer;

/* The two ends of a copy, and references to what keeps their C objects. */
typedef struct ends {
    rt_copy copy;
    PyObject *here, *there;
} ends;

static bool number_get(PyObject *object, PyObject *name, uint64_t *number_out)
{
    PyObject *number = PyObject_GetAttr(object, name);
    *number_out = number != NULL ? PyLong_AsUnsignedLongLong(number) : UINT64_MAX;
    bool found = number != NULL && (*number_out != UINT64_MAX || PyErr_Occurred() == NULL);
    Py_XDECREF(number);
    return found;
}

/* A handle of an open object, a new reference, or NULL. */
static PyObject *handle_get(PyObject *object, PyObject *name)
{
    PyObject *handle = PyObject_GetAttr(object, name);
    if (handle != Py_None)
        return handle;
    Py_DECREF(handle);
    return NULL;
}

/* The number `name` of the object that the attribute `holder` of `object` is. */
static bool number_of_get(PyObject *object, PyObject *holder, PyObject *name, uint64_t *number_out)
{
    PyObject *held = PyObject_GetAttr(object, holder);
    bool found = held != NULL && number_get(held, name, number_out);
    Py_XDECREF(held);
    return found;
}

static bool remote_get(PyObject *span, ends *found)
{
    PyObject *attachment = PyObject_GetAttr(span, name_attachment);
    found->there = attachment != NULL ? handle_get(attachment, name_handle) : NULL;
    bool good = found->there != NULL && number_get(attachment, name_pointer, &found->copy.remote);
    Py_XDECREF(attachment);
    return good && number_get(span, name_offset, &found->copy.remote_offset) && number_get(span, name_nbytes, &found->copy.size);
}

static bool local_get(PyObject *span, ends *found)
{
    uint64_t size;
    found->here = handle_get(span, name_region_handle);
    return found->here != NULL && number_of_get(span, name_region, name_region_pointer, &found->copy.region) &&
           number_get(span, name_offset, &found->copy.region_offset) && number_get(span, name_nbytes, &size) &&
           size == found->copy.size;
}

/* Whether both are ranges of equal size. No exception is set; `found` has references in any case. */
static bool ends_find(PyObject *target, PyObject *source, ends *found)
{
    bool good = number_get(target, name_direction, &found->copy.direction);
    bool writes = found->copy.direction == RT_WRITE;
    good = good && remote_get(writes ? target : source, found) && local_get(writes ? source : target, found);
    if (!good)
        PyErr_Clear();
    return good;
}

/* RT_OK, the number of an operation that goes on, or a status with nothing posted. A small copy
 * keeps the interpreter's lock, unless another thread copies meanwhile. */
static int64_t copy_run(const quick_channel *self, const rt_copy *copy)
{
    rt_channel *channel = (rt_channel *)(uintptr_t)self->pointer;
    int64_t number = RT_E_BUSY;
    if (copy->size <= self->brief)
        number = rt_channel_copy_briefly(channel, copy, QUICK_COPY_LOOKS);
    if (number == RT_E_BUSY) {
        int64_t slice_ns = self->slice_ns;
        Py_BEGIN_ALLOW_THREADS
        number =
            rt_channel_copy(channel, -1, (uint32_t)copy->direction, (rt_remote *)(uintptr_t)copy->remote, copy->remote_offset,
                            (rt_region *)(uintptr_t)copy->region, copy->region_offset, copy->size, slice_ns);
        Py_END_ALLOW_THREADS
    }
    return number;
}

/* Python waits for the operation, which ends with its Held. */
static PyObject *copy_go_on(PyObject *channel, int64_t number, PyObject *target, PyObject *source)
{
    PyObject *keep = PyTuple_Pack(2, target, source), *result = NULL;
    PyObject *held = keep != NULL ? quick_held_of(channel, keep, number) : NULL;
    if (held == NULL)
        rt_op_release((rt_channel *)(uintptr_t)((const quick_channel *)channel)->pointer, number, NULL);
    else
        result = PyObject_CallMethod(channel, "_go_on", "OO", held, keep);
    Py_XDECREF(held);
    Py_XDECREF(keep);
    return result;
}

PyObject *quick_channel_memcpy(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    const quick_channel *self = (const quick_channel *)object;
    ends found = {.here = NULL, .there = NULL};
    int64_t number = RT_E_INVALID;
    if (count == 2 && names == NULL && self->handle != NULL && self->handle != Py_None && ends_find(args[0], args[1], &found)) {
        PyObject *handle = Py_NewRef(self->handle); /* another thread may drop it, or those of the ranges, meanwhile */
        number = copy_run(self, &found.copy);
        Py_DECREF(handle);
    }
    Py_XDECREF(found.here);
    Py_XDECREF(found.there);
    if (number == RT_OK)
        Py_RETURN_NONE;
    if (number > 0)
        return copy_go_on(object, number, args[0], args[1]);
    PyObject *method = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "_memcpy"), *result = NULL;
    if (method != NULL)
        result = quick_call(method, object, NULL, args, count, names);
    Py_XDECREF(method);
    return result;
}

int quick_copy_add(PyObject *Py_UNUSED(module))
{
    static const struct {
        PyObject **name;
        const char *text;
    } all[] = {
        {&name_attachment, "attachment"},   {&name_direction, "direction"},
        {&name_handle, "handle"},           {&name_nbytes, "nbytes"},
        {&name_offset, "offset"},           {&name_pointer, "pointer"},
        {&name_region, "region"},           {&name_region_handle, "_region_handle"},
        {&name_region_pointer, "_pointer"},
    };
    for (size_t index = 0; index < sizeof all / sizeof *all; index++) {
        if (*all[index].name == NULL)
            *all[index].name = PyUnicode_InternFromString(all[index].text);
        if (*all[index].name == NULL)
            return -1;
    }
    return 0;
}
