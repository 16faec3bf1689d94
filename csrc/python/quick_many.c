/* quick_many.c: receives from many edges in one call. Arrivals go into an existing list of pairs
 * (edge, item), and from there to the caller, or back to the edges (quick_parts.h). */
#include "python/quick_parts.h"

#include <stdlib.h>
#include <string.h>

static PyObject *receive_many_otherwise;
static PyMethodDef receive_many_def;

/* Puts the items of all pairs (edge, item) back to their edges, the last first. */
static void pairs_put_back(PyObject *taken)
{
    for (Py_ssize_t index = PyList_Size(taken); index > 0; index--) {
        PyObject *pair = PyList_GetItem(taken, index - 1);
        if (PyTuple_GetItem(pair, 1) != Py_None)
            quick_put_back(PyTuple_GetItem(pair, 0), PyTuple_GetItem(pair, 1));
    }
}

/* Makes the tensors of all pairs, as a new list; if one cannot be made, all are put back. */
static PyObject *pairs_give(PyObject *taken)
{
    Py_ssize_t count = PyList_Size(taken);
    PyObject *made = PyErr_CheckSignals() == 0 ? PyList_New(count) : NULL;
    for (Py_ssize_t index = 0; made != NULL && index < count; index++) {
        PyObject *pair = PyList_GetItem(taken, index);
        if (PyObject_TypeCheck(PyTuple_GetItem(pair, 1), quick_arrival_type)) {
            PyObject *tensor = quick_tensor_of(PyTuple_GetItem(pair, 0), (const quick_arrival *)PyTuple_GetItem(pair, 1));
            PyObject *better = tensor != NULL ? PyTuple_Pack(2, PyTuple_GetItem(pair, 0), tensor) : NULL;
            Py_XDECREF(tensor);
            if (better == NULL || PyList_SetItem(taken, index, better) != 0)
                Py_CLEAR(made);
        }
    }
    for (Py_ssize_t index = 0; made != NULL && index < count; index++)
        PyList_SetItem(made, index, Py_NewRef(PyTuple_GetItem(PyList_GetItem(taken, index), 1)));
    return made;
}

static PyObject *edges_receive(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *taken = PyList_New(0), *made = NULL;
    if (taken == NULL)
        return NULL;
    PyObject *done = quick_call(receive_many_otherwise, taken, NULL, args, count, names);
    if (done != NULL)
        made = pairs_give(taken);
    Py_XDECREF(done);
    if (made == NULL)
        pairs_put_back(taken);
    Py_DECREF(taken);
    return made;
}

/* The pair of one arrival: (edge, tensor) where the slot's form is known, else (edge, arrival). */
static PyObject *pair_new(PyObject *edge, const rt_edge_arrival *arrival, PyObject *kind)
{
    quick_edge *way = (quick_edge *)edge;
    Py_ssize_t slots = way->forms != NULL ? PyTuple_Size(way->forms) : 0;
    PyObject *item = NULL;
    if (slots > 0) {
        quick_tensor *made = quick_tensor_new();
        if (made == NULL)
            return NULL;
        made->form = Py_NewRef(PyTuple_GetItem(way->forms, (Py_ssize_t)(arrival->sequence % (uint64_t)slots)));
        made->keep = Py_NewRef(way->handle);
        made->edge = Py_NewRef(edge);
        made->ticket = (long long)arrival->sequence;
        item = (PyObject *)made;
    } else {
        item = PyObject_CallNoArgs(kind); /* a class without an __init__ in Python: no Python code runs */
        if (item == NULL)
            return NULL;
        ((quick_arrival *)item)->arrival = *arrival;
    }
    PyObject *pair = PyTuple_Pack(2, edge, item);
    Py_DECREF(item);
    return pair;
}

/* take_many(taken, edges, ns, kind): asks for the next tensor of each edge of a tuple, starting
 * behind those that `taken` holds, and adds the arrivals. Returns the status of the first that did
 * not come. */
static PyObject *edges_take(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *taken, *edges, *kind;
    long long ns;
    if (!PyArg_ParseTuple(args, "O!O!LO:take_many", &PyList_Type, &taken, &PyTuple_Type, &edges, &ns, &kind))
        return NULL;
    Py_ssize_t first = PyList_Size(taken), count = PyTuple_Size(edges) - first;
    rt_edge **behind = calloc((size_t)count + 1, sizeof *behind);
    rt_edge_arrival *arrivals = calloc((size_t)count + 1, sizeof *arrivals);
    PyObject *handles = PyTuple_New(count);
    int32_t status = RT_E_NO_MEMORY;
    int64_t came = 0;
    bool whole = behind != NULL && arrivals != NULL && handles != NULL;
    for (Py_ssize_t index = 0; whole && index < count; index++) {
        const quick_edge *edge = (const quick_edge *)PyTuple_GetItem(edges, first + index);
        behind[index] = quick_open_edge(edge);
        whole = behind[index] != NULL;
        status = whole ? status : RT_E_CLOSED;
        if (whole)
            PyTuple_SetItem(handles, index, Py_NewRef(edge->handle));
    }
    if (whole) {
        Py_BEGIN_ALLOW_THREADS
        came = rt_edges_receive_many(behind, (uint64_t)count, ns, arrivals, &status);
        Py_END_ALLOW_THREADS
    }
    for (Py_ssize_t index = 0; index < (Py_ssize_t)came; index++) {
        PyObject *pair = pair_new(PyTuple_GetItem(edges, first + index), &arrivals[index], kind);
        if (pair == NULL || PyList_Append(taken, pair) != 0)
            status = RT_E_NO_MEMORY; /* no memory for as many objects as tensors: their slots go with the edge */
        Py_XDECREF(pair);
    }
    PyErr_Clear();
    free(behind);
    free(arrivals);
    Py_XDECREF(handles);
    return PyLong_FromLong(status);
}

/* fetch_many(taken, ns): continues the READs of all arrivals in a list of pairs (edge, item) that
 * have a place and no result. Returns how many have not ended. */
static PyObject *arrivals_fetch(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *taken;
    long long ns;
    if (!PyArg_ParseTuple(args, "O!L:fetch_many", &PyList_Type, &taken, &ns))
        return NULL;
    Py_ssize_t count = PyList_Size(taken), reads = 0;
    rt_edge_fetching *fetches = calloc((size_t)count + 1, sizeof *fetches);
    quick_arrival **items = calloc((size_t)count + 1, sizeof *items);
    uint64_t pending = 0;
    bool whole = fetches != NULL && items != NULL;
    for (Py_ssize_t index = 0; whole && index < count; index++) {
        PyObject *pair = PyList_GetItem(taken, index);
        const quick_edge *edge = (const quick_edge *)PyTuple_GetItem(pair, 0);
        quick_arrival *item = (quick_arrival *)PyTuple_GetItem(pair, 1);
        bool reading = PyObject_TypeCheck((PyObject *)item, quick_arrival_type) && item->form != NULL && !item->in_slot;
        if (!reading || item->fetched != RT_E_AGAIN || quick_open_edge(edge) == NULL)
            continue;
        fetches[reads] = (rt_edge_fetching){.edge = edge->pointer, .region = item->region, .offset = item->offset};
        fetches[reads].sequence = item->arrival.sequence;
        fetches[reads].status = RT_E_AGAIN;
        items[reads++] = item;
        item->busy = true;
    }
    if (reads > 0) {
        Py_BEGIN_ALLOW_THREADS
        pending = rt_edges_fetch_many(fetches, (uint64_t)reads, ns);
        Py_END_ALLOW_THREADS
    }
    for (Py_ssize_t index = 0; index < reads; index++) {
        items[index]->fetched = fetches[index].status;
        items[index]->busy = false;
    }
    free(fetches);
    free(items);
    return whole ? PyLong_FromUnsignedLongLong(pending) : PyErr_NoMemory();
}

/* ---- the names ---- */

/* receiving_many(function, doc): makes the function `recv_many`. */
static PyObject *recv_many_make(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *function;
    const char *doc;
    if (!PyArg_ParseTuple(args, "Os:receiving_many", &function, &doc))
        return NULL;
    char *copy = quick_text(doc);
    if (copy == NULL)
        return PyErr_NoMemory();
    receive_many_otherwise = Py_NewRef(function);
    receive_many_def = (PyMethodDef){"recv_many", (PyCFunction)(void *)edges_receive, METH_FASTCALL | METH_KEYWORDS, copy};
    return PyCFunction_NewEx(&receive_many_def, NULL, NULL);
}

static PyMethodDef functions[] = {
    {"receiving_many", recv_many_make, METH_VARARGS,
     "receiving_many($module, function, doc, /)\n--\n\n"
     "Makes the function `recv_many` of one that puts pairs of edges and tensors into the list that it is given."},
    {"take_many", edges_take, METH_VARARGS,
     "take_many($module, taken, edges, ns, kind, /)\n--\n\n"
     "Takes the next tensor of each edge after those already in `taken`. Gives the status of the first edge that has\n"
     "none."},
    {"fetch_many", arrivals_fetch, METH_VARARGS,
     "fetch_many($module, taken, ns, /)\n--\n\n"
     "Continues the READs of all tensors in `taken`. Gives how many have not ended."},
    {NULL, NULL, 0, NULL},
};

int quick_many_add(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
