/* quick_send.c: sending. A tensor that is still needed after the call that sent it is in the edge's
 * deque `_kept` before that C call returns, and a SendTransfer knows its sequence (quick_parts.h):
 * so no tensor under way loses its memory, or is sent twice. */
#include "python/quick_parts.h"

#include <stdlib.h>
#include <string.h>

static PyObject *append_name, *popleft_name;

int quick_keep(const quick_edge *edge, int64_t sequence, PyObject *owner)
{
    PyObject *number = PyLong_FromLongLong(sequence), *item = number != NULL ? PyTuple_Pack(2, number, owner) : NULL,
             *done = NULL;
    if (item != NULL)
        done = PyObject_CallMethodObjArgs(edge->kept, append_name, item, NULL);
    Py_XDECREF(number);
    Py_XDECREF(item);
    Py_XDECREF(done);
    return done != NULL ? 0 : -1;
}

int quick_keep_until(const quick_edge *edge, uint64_t released)
{
    while (PyObject_Size(edge->kept) > 0) {
        PyObject *item = PySequence_GetItem(edge->kept, 0);
        if (item == NULL)
            return -1;
        long long sequence = PyLong_AsLongLong(PyTuple_GetItem(item, 0));
        PyObject *gone = sequence <= (long long)released ? PyObject_CallMethodObjArgs(edge->kept, popleft_name, NULL) : NULL;
        Py_DECREF(item);
        if (gone == NULL)
            return PyErr_Occurred() != NULL ? -1 : 0;
        Py_DECREF(gone); /* may run code of the owner's */
    }
    return 0;
}

/* Tells a SendTransfer its sequence, or that it is over. */
static int sending_tell(PyObject *sending, int64_t result)
{
    PyObject *number = PyLong_FromLongLong(result == 0 ? -1 : result);
    int status = number != NULL ? PyObject_SetAttrString(sending, "_sequence", number) : -1;
    Py_XDECREF(number);
    return status;
}

/* A send that waits for nothing, with the interpreter's lock kept; RT_E_AGAIN leaves it to a call
 * that may wait. *released_out: the receiver has released the tensors up to this sequence. */
static int64_t send_at_once(const quick_edge *edge, const rt_edge_tensor *tensor, uint64_t address, uint64_t nbytes,
                            uint64_t *released_out)
{
    rt_edge *behind = quick_free_edge(edge);
    if (behind == NULL)
        return RT_E_AGAIN;
    if (tensor == NULL)
        return nbytes <= QUICK_KEEPS_LOCK_MAX ? rt_edge_send_at_once(behind, address, nbytes) : RT_E_AGAIN;
    return rt_edge_send_tensor_at_once(behind, tensor, released_out);
}

/* send(edge, owner, tensor, address, nbytes, ns, sending=None): calls rt_edge_send_tensor where
 * there is a tensor, which lies at `address` unless that is 0, else rt_edge_send. `owner` lives as
 * long as its memory is needed. */
static PyObject *edge_send(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count < 6 || !PyObject_TypeCheck(args[0], quick_edge_type)) {
        PyErr_SetString(PyExc_TypeError, "send(edge, owner, tensor, address, nbytes, ns, sending=None)");
        return NULL;
    }
    const quick_edge *edge = (const quick_edge *)args[0];
    PyObject *sending = count > 6 && args[6] != Py_None ? args[6] : NULL;
    unsigned long long tensor = PyLong_AsUnsignedLongLong(args[2]), address = PyLong_AsUnsignedLongLong(args[3]),
                       nbytes = PyLong_AsUnsignedLongLong(args[4]);
    long long ns = PyLong_AsLongLong(args[5]);
    if (PyErr_Occurred() != NULL)
        return NULL;
    rt_edge *behind = quick_open_edge(edge);
    if (behind == NULL)
        return PyLong_FromLong(RT_E_CLOSED);
    const rt_edge_tensor *given = (const rt_edge_tensor *)(uintptr_t)tensor;
    rt_edge_tensor there;
    if (given != NULL && address != 0) {
        there = *given;
        there.address = address;
        given = &there;
    }
    PyObject *handle = Py_NewRef(edge->handle); /* another thread may drop it meanwhile */
    uint64_t released = 0;
    int64_t result = sending == NULL ? send_at_once(edge, given, address, nbytes, &released) : RT_E_AGAIN;
    if (result == RT_E_AGAIN) {
        Py_BEGIN_ALLOW_THREADS
        result = given != NULL ? rt_edge_send_tensor(behind, given, ns) : rt_edge_send(behind, address, nbytes, ns);
        Py_END_ALLOW_THREADS
    }
    Py_DECREF(handle);
    if (result > 0 && quick_keep(edge, result, args[1]) != 0)
        return NULL;
    if (released != 0 && quick_keep_until(edge, released) != 0)
        return NULL;
    if (result >= 0 && sending != NULL && sending_tell(sending, result) != 0)
        return NULL;
    return PyLong_FromLongLong(result);
}

/* send_many(edges, packed, owners, first, ns): begins as many of the packed rt_edge_sending as the
 * slice allows, from the first on. Returns how many were begun, and the status of the one that was
 * not. */
static PyObject *edges_send(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *edges, *packed, *owners;
    Py_ssize_t first;
    long long ns;
    if (!PyArg_ParseTuple(args, "O!OO!nL:send_many", &PyTuple_Type, &edges, &packed, &PyTuple_Type, &owners, &first, &ns))
        return NULL;
    Py_ssize_t count = PyTuple_Size(edges);
    bool fits = PyByteArray_Check(packed) && PyTuple_Size(owners) == count && first >= 0 && first <= count &&
                (size_t)PyByteArray_Size(packed) == (size_t)count * sizeof(rt_edge_sending);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "as many edges, sends and owners");
        return NULL;
    }
    rt_edge_sending *sends = (rt_edge_sending *)(void *)PyByteArray_AsString(packed);
    PyObject *handles = PyTuple_New(count); /* other threads may drop them meanwhile */
    for (Py_ssize_t index = first; handles != NULL && index < count; index++) {
        const quick_edge *edge = (const quick_edge *)PyTuple_GetItem(edges, index);
        if (quick_open_edge(edge) == NULL)
            count = index; /* the sends before it are begun */
        else
            PyTuple_SetItem(handles, index, Py_NewRef(edge->handle));
    }
    if (handles == NULL)
        return NULL;
    int32_t status = RT_E_CLOSED;
    int64_t begun = 0;
    if (count > first) {
        Py_BEGIN_ALLOW_THREADS
        begun = rt_edges_send_many(sends + first, (uint64_t)(count - first), ns, &status);
        Py_END_ALLOW_THREADS
    }
    Py_DECREF(handles);
    if (begun == count - first && count < PyTuple_Size(edges))
        status = RT_E_CLOSED;
    int kept = 0;
    for (Py_ssize_t index = first; index < first + (Py_ssize_t)begun && kept == 0; index++) {
        if (sends[index].result > 0)
            kept = quick_keep((const quick_edge *)PyTuple_GetItem(edges, index), sends[index].result,
                              PyTuple_GetItem(owners, index));
    }
    return kept == 0 ? Py_BuildValue("Li", (long long)begun, (int)status) : NULL;
}

static PyMethodDef functions[] = {
    {"send", (PyCFunction)(void *)edge_send, METH_FASTCALL,
     "send($module, edge, owner, tensor, address, nbytes, ns, sending=None, /)\n--\n\n"
     "Sends, and keeps the owner while its memory is needed. Gives a status, or the send's sequence."},
    {"send_many", edges_send, METH_VARARGS,
     "send_many($module, edges, packed, owners, first, ns, /)\n--\n\n"
     "Sends from index `first` on, and keeps the owners likewise. Gives how many sends began, and the status of the\n"
     "first that did not."},
    {NULL, NULL, 0, NULL},
};

int quick_send_add(PyObject *module)
{
    if (append_name == NULL)
        append_name = PyUnicode_InternFromString("append");
    if (popleft_name == NULL)
        popleft_name = PyUnicode_InternFromString("popleft");
    if (append_name == NULL || popleft_name == NULL)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
