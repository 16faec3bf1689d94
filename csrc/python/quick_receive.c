/* quick_receive.c: receiving. A tensor that C takes from an edge goes, within one C call, into the
 * edge's deque `_waiting` or into an existing list, and from there to the caller as the last step
 * of a call (quick_parts.h). A Python call between these two steps may end anywhere: the next
 * receive finds the tensors that it left. */
#include "python/quick_parts.h"

#include <structmember.h>

PyTypeObject *quick_arrival_type;
static PyObject *receive_otherwise;
static PyMethodDef receive_def;

/* ---- arrivals ---- */

static int arrival_traverse(PyObject *object, visitproc visit, void *arg)
{
    quick_arrival *self = (quick_arrival *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->form);
    Py_VISIT(self->keep);
    return 0;
}

static int arrival_clear(PyObject *object)
{
    quick_arrival *self = (quick_arrival *)object;
    Py_CLEAR(self->form);
    Py_CLEAR(self->keep);
    return 0;
}

static void arrival_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    arrival_clear(object);
    quick_free(object);
}

static int arrival_init(PyObject *object, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    ((quick_arrival *)object)->fetched = RT_E_AGAIN;
    return 0;
}

/* _take(edge, ns): makes the edge's next tensor this object, and appends it to the edge's
 * `_waiting`. Returns the status. */
static PyObject *arrival_take(PyObject *object, PyObject *args)
{
    quick_arrival *self = (quick_arrival *)object;
    PyObject *edge;
    long long ns;
    if (!PyArg_ParseTuple(args, "O!L:_take", quick_edge_type, &edge, &ns))
        return NULL;
    const quick_edge *way = (const quick_edge *)edge;
    rt_edge *behind = quick_open_edge(way);
    if (behind == NULL)
        return PyLong_FromLong(RT_E_CLOSED);
    PyObject *handle = Py_NewRef(way->handle), *done = NULL; /* another thread may drop it meanwhile */
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = rt_edge_receive(behind, ns, &self->arrival);
    Py_END_ALLOW_THREADS
    Py_DECREF(handle);
    if (status == RT_OK) {
        done = PyObject_CallMethod(way->line, "append", "O", object);
        if (done == NULL)
            return NULL;
        Py_DECREF(done);
    }
    return PyLong_FromLong(status);
}

/* _fetch(edge, ns): READs the tensor to its place. RT_E_AGAIN: not yet, or another thread is doing
 * it. Repeated calls return the same final status. */
static PyObject *arrival_fetch(PyObject *object, PyObject *args)
{
    quick_arrival *self = (quick_arrival *)object;
    PyObject *edge;
    long long ns;
    if (!PyArg_ParseTuple(args, "O!L:_fetch", quick_edge_type, &edge, &ns))
        return NULL;
    if (self->fetched != RT_E_AGAIN || self->busy)
        return PyLong_FromLongLong(self->fetched);
    const quick_edge *way = (const quick_edge *)edge;
    rt_edge *behind = quick_open_edge(way);
    if (behind == NULL)
        return PyLong_FromLong(RT_E_CLOSED);
    PyObject *handle = Py_NewRef(way->handle), *keep = Py_XNewRef(self->keep); /* another thread may drop them meanwhile */
    rt_region *region = (rt_region *)(uintptr_t)self->region;
    int status;
    self->busy = true;
    Py_BEGIN_ALLOW_THREADS
    status = rt_edge_fetch(behind, self->arrival.sequence, region, self->offset, ns);
    Py_END_ALLOW_THREADS
    self->busy = false;
    if (status != RT_E_AGAIN && status != RT_E_INTERRUPTED)
        self->fetched = status;
    Py_DECREF(handle);
    Py_XDECREF(keep);
    return PyLong_FromLong(status);
}

/* _borrow(edge): returns its address at the sender, or a negative status. */
static PyObject *arrival_borrow(PyObject *object, PyObject *edge)
{
    quick_arrival *self = (quick_arrival *)object;
    rt_edge *behind = PyObject_TypeCheck(edge, quick_edge_type) ? quick_open_edge((const quick_edge *)edge) : NULL;
    if (behind == NULL)
        return PyLong_FromLong(RT_E_CLOSED);
    if (self->borrowed == 0) {
        uint64_t address = 0;
        int status = rt_edge_borrow(behind, self->arrival.sequence, &address);
        if (status != RT_OK)
            return PyLong_FromLong(status);
        self->borrowed = (long long)address;
    }
    return PyLong_FromLongLong(self->borrowed);
}

static void slot_release_quietly(const quick_edge *edge, uint64_t sequence)
{
    rt_edge *behind = quick_open_edge(edge);
    if (behind == NULL || rt_edge_release_at_once(behind, sequence) == RT_OK)
        return;
    PyObject *handle = Py_NewRef(edge->handle);
    Py_BEGIN_ALLOW_THREADS
    rt_edge_release(behind, sequence); /* the next receive reports an overrun */
    Py_END_ALLOW_THREADS
    Py_DECREF(handle);
}

/* _leave(edge, form, keep): its bytes were copied to the place of `form`, so its slot goes back to
 * the sender. */
static PyObject *arrival_leave(PyObject *object, PyObject *args)
{
    quick_arrival *self = (quick_arrival *)object;
    PyObject *edge, *form, *keep, *before[2] = {self->form, self->keep};
    if (!PyArg_ParseTuple(args, "O!OO:_leave", quick_edge_type, &edge, &form, &keep))
        return NULL;
    self->form = Py_NewRef(form);
    self->keep = Py_NewRef(keep);
    self->in_slot = false;
    self->fetched = RT_OK;
    slot_release_quietly((const quick_edge *)edge, self->arrival.sequence);
    Py_XDECREF(before[0]);
    Py_XDECREF(before[1]);
    Py_RETURN_NONE;
}

static PyObject *arrival_dims(PyObject *object, void *Py_UNUSED(closure))
{
    const quick_arrival *self = (const quick_arrival *)object;
    Py_ssize_t rank = (Py_ssize_t)self->arrival.rank;
    PyObject *dims = PyTuple_New(rank);
    for (Py_ssize_t index = 0; dims != NULL && index < rank; index++) {
        PyObject *dim = PyLong_FromUnsignedLongLong(self->arrival.dims[index]);
        if (dim == NULL || PyTuple_SetItem(dims, index, dim) != 0)
            Py_CLEAR(dims);
    }
    return dims;
}

/* ---- handing out ---- */

PyObject *quick_tensor_of(PyObject *edge, const quick_arrival *arrival)
{
    quick_tensor *made = quick_tensor_new();
    if (made == NULL)
        return NULL;
    made->form = Py_NewRef(arrival->form);
    made->keep = Py_NewRef(arrival->keep);
    if (arrival->in_slot) {
        made->edge = Py_NewRef(edge);
        made->ticket = (long long)arrival->arrival.sequence;
        return (PyObject *)made;
    }
    made->edge = Py_NewRef(Py_None);
    made->origin = PyWeakref_NewRef(edge, NULL);
    if (made->origin == NULL)
        PyErr_Clear();
    return (PyObject *)made;
}

/* The object that the caller gets for an item: the tensor, or `out`, which holds the bytes
 * already. */
static PyObject *item_give(PyObject *edge, PyObject *item, PyObject *out)
{
    bool is_arrival = PyObject_TypeCheck(item, quick_arrival_type);
    if (out == Py_None)
        return is_arrival ? quick_tensor_of(edge, (const quick_arrival *)item) : Py_NewRef(item);
    if (!is_arrival) {
        PyObject *done = PyObject_CallMethod(item, "release", NULL);
        if (done == NULL)
            return NULL;
        Py_DECREF(done);
    } else if (((const quick_arrival *)item)->in_slot) {
        slot_release_quietly((const quick_edge *)edge, ((const quick_arrival *)item)->arrival.sequence);
    }
    return Py_NewRef(out);
}

/* The end of a receive: `taken` is a list, empty or [item, out]. Steals `result`, the object that
 * Python returned. */
static PyObject *receive_finish(PyObject *edge, PyObject *taken, PyObject *result)
{
    PyObject *made = NULL;
    if (PyList_Size(taken) != 2)
        return result;
    PyObject *item = PyList_GetItem(taken, 0), *out = PyList_GetItem(taken, 1);
    if (result != NULL && PyErr_CheckSignals() == 0)
        made = item_give(edge, item, out);
    if (made == NULL)
        quick_put_back(edge, item);
    Py_XDECREF(result);
    return made;
}

/* ---- recv ---- */

static PyObject *edge_receive_python(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *taken = PyList_New(0);
    if (taken == NULL)
        return NULL;
    PyObject *made = receive_finish(object, taken, quick_call(receive_otherwise, object, taken, args, count, names));
    Py_DECREF(taken);
    return made;
}

/* Continues in Python after a slice in which no tensor came, or after an end. */
static PyObject *edge_go_on(PyObject *object, int64_t status)
{
    PyObject *taken = PyList_New(0);
    if (taken == NULL)
        return NULL;
    PyObject *result = PyObject_CallMethod(object, "_go_on", "OL", taken, (long long)status);
    PyObject *made = receive_finish(object, taken, result);
    Py_DECREF(taken);
    return made;
}

/* Of a dynamic edge: a tensor that needs no READ, else Python, which also waits for threads whose
 * READs hold all slots. */
static PyObject *edge_receive_record(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *made;
    int status;
    if (quick_record_receive(object, names != NULL, &made, &status) != 0)
        return NULL;
    if (made != NULL)
        return made;
    if (status == RT_E_AGAIN || status == RT_E_INTERRUPTED || status == RT_E_BUSY)
        return edge_receive_python(object, args, count, names);
    return edge_go_on(object, status);
}

/* Whether the only argument is borrow=True. */
static bool receive_borrows(PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    return count == 0 && PyTuple_Size(names) == 1 && args[0] == Py_True &&
           PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "borrow") == 0;
}

static PyObject *edge_receive(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    quick_edge *self = (quick_edge *)object;
    Py_ssize_t slots = self->forms != NULL ? PyTuple_Size(self->forms) : 0;
    rt_edge *edge = count == 0 && names == NULL && slots > 0 ? quick_free_edge(self) : NULL;
    if (edge == NULL && self->dynamic && (names != NULL ? receive_borrows(args, count, names) : count == 0))
        return edge_receive_record(object, args, count, names);
    if (edge == NULL)
        return edge_receive_python(object, args, count, names);
    quick_tensor *made = quick_tensor_new(); /* before anything is taken, because it may fail */
    if (made == NULL)
        return NULL;
    made->keep = Py_NewRef(self->handle); /* another thread may drop it meanwhile */
    int64_t sequence = rt_edge_receive_at_once(edge, QUICK_LOOKS);
    if (sequence <= 0) {
        Py_BEGIN_ALLOW_THREADS
        sequence = rt_edge_receive_static(edge, self->slice_ns);
        Py_END_ALLOW_THREADS
    }
    if (sequence <= 0) {
        Py_DECREF(made);
        return edge_go_on(object, sequence);
    }
    made->form = Py_NewRef(PyTuple_GetItem(self->forms, (Py_ssize_t)(sequence % slots)));
    made->edge = Py_NewRef(object);
    made->ticket = sequence;
    if (PyErr_CheckSignals() == 0)
        return (PyObject *)made;
    quick_put_back(object, (PyObject *)made);
    Py_DECREF(made);
    return NULL;
}

/* move(edge, item, taken, out=None, many=False): takes a ready item out of `_waiting`, to be handed
 * out at the end of the call, which is `recv` or, with `many`, `recv_many`. False: another thread
 * has done so. */
static PyObject *item_move(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *edge, *item, *taken, *out = Py_None;
    int many = 0;
    if (!PyArg_ParseTuple(args, "O!OO!|Op:move", quick_edge_type, &edge, &item, &PyList_Type, &taken, &out, &many))
        return NULL;
    PyObject *pair = PyTuple_Pack(2, edge, item);
    if (pair == NULL)
        return NULL;
    PyObject *done = PyObject_CallMethod(((quick_edge *)edge)->line, "remove", "O", item);
    if (done == NULL) {
        Py_DECREF(pair);
        if (!PyErr_ExceptionMatches(PyExc_ValueError) && !PyErr_ExceptionMatches(PyExc_IndexError))
            return NULL;
        PyErr_Clear();
        Py_RETURN_FALSE;
    }
    Py_DECREF(done);
    Py_ssize_t before = PyList_Size(taken);
    int status = PyList_Append(taken, many ? pair : item);
    if (status == 0 && !many)
        status = PyList_Append(taken, out);
    Py_DECREF(pair);
    if (status == 0)
        Py_RETURN_TRUE;
    PyList_SetSlice(taken, before, PyList_Size(taken), NULL);
    quick_put_back(edge, item);
    return NULL;
}

/* ---- the names ---- */

static PyMemberDef arrival_members[] = {
    {"form", T_OBJECT, offsetof(quick_arrival, form), 0, "where it lies, once it can be handed out"},
    {"keep", T_OBJECT, offsetof(quick_arrival, keep), 0, "what keeps that memory"},
    {"sequence", T_ULONGLONG, offsetof(quick_arrival, arrival.sequence), READONLY, NULL},
    {"nbytes", T_ULONGLONG, offsetof(quick_arrival, arrival.size), READONLY, NULL},
    {"address", T_ULONGLONG, offsetof(quick_arrival, arrival.address), READONLY, "in the slot; 0: at the sender"},
    {"borrowed", T_LONGLONG, offsetof(quick_arrival, borrowed), READONLY,
     "where it lies at the sender, once it is borrowed; else 0"},
    {"code", T_UINT, offsetof(quick_arrival, arrival.dtype), READONLY, "of the element type"},
    {"region", T_ULONGLONG, offsetof(quick_arrival, region), 0, "where its READ goes: the C object, or 0 for an address"},
    {"offset", T_ULONGLONG, offsetof(quick_arrival, offset), 0, NULL},
    {"fetched", T_LONGLONG, offsetof(quick_arrival, fetched), 0, "how its READ ended"},
    {"busy", T_BOOL, offsetof(quick_arrival, busy), READONLY, "a thread is in its READ"},
    {"in_slot", T_BOOL, offsetof(quick_arrival, in_slot), 0, "the slot is held until the tensor is released"},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef arrival_getters[] = {{"dims", arrival_dims, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyMethodDef arrival_methods[] = {
    {"_take", arrival_take, METH_VARARGS,
     "_take($self, edge, ns, /)\n--\n\n"
     "Makes the edge's next tensor this object, and appends it to the edge's `_waiting`. Gives the status."},
    {"_fetch", arrival_fetch, METH_VARARGS,
     "_fetch($self, edge, ns, /)\n--\n\n"
     "READs the tensor to its place. AGAIN: not yet, or another thread is doing it."},
    {"_borrow", arrival_borrow, METH_O,
     "_borrow($self, edge, /)\n--\n\n"
     "Gives the tensor's address at the sender, or a negative status."},
    {"_leave", arrival_leave, METH_VARARGS,
     "_leave($self, edge, form, keep, /)\n--\n\n"
     "Gives the slot back to the sender: the bytes were copied to the place of `form`."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot arrival_slots[] = {
    {Py_tp_doc, (void *)"QuickArrival()\n--\n\nA tensor that was taken from the core and is not handed out yet."},
    {Py_tp_traverse, (void *)arrival_traverse},
    {Py_tp_clear, (void *)arrival_clear},
    {Py_tp_dealloc, (void *)arrival_dealloc},
    {Py_tp_init, (void *)arrival_init},
    {Py_tp_members, arrival_members},
    {Py_tp_getset, arrival_getters},
    {Py_tp_methods, arrival_methods},
    {0, NULL},
};
static PyType_Spec arrival_spec = {"rdmatensor._native.QuickArrival", sizeof(quick_arrival), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, arrival_slots};

/* receiving(method, doc, tensor): makes the method that RecvEdge has as `recv`. `method` is called
 * in all but the usual cases, `doc` describes it, and it returns objects of the class `tensor`. */
static PyObject *recv_make(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *method, *type;
    const char *doc;
    if (!PyArg_ParseTuple(args, "OsO!:receiving", &method, &doc, &PyType_Type, &type))
        return NULL;
    char *copy = quick_text(doc);
    if (copy == NULL)
        return PyErr_NoMemory();
    receive_otherwise = Py_NewRef(method);
    quick_tensor_type = (PyTypeObject *)Py_NewRef(type);
    receive_def = (PyMethodDef){"recv", (PyCFunction)(void *)edge_receive, METH_FASTCALL | METH_KEYWORDS, copy};
    return PyDescr_NewMethod(quick_edge_type, &receive_def);
}

static PyMethodDef functions[] = {
    {"receiving", recv_make, METH_VARARGS,
     "receiving($module, method, doc, tensor, /)\n--\n\n"
     "Makes the method `recv` of receiving edges: C hands out a tensor that is there, or that comes within a slice,\n"
     "as an object of the class `tensor`. Otherwise `method` runs, and puts the tensor to hand out into the list that\n"
     "it is given."},
    {"move", item_move, METH_VARARGS,
     "move($module, edge, item, taken, out=None, many=False, /)\n--\n\n"
     "Takes a ready item out of `_waiting`, to be handed out at the end of `recv` or, with `many`, of `recv_many`.\n"
     "False: another thread took it."},
    {NULL, NULL, 0, NULL},
};

int quick_receive_add(PyObject *module)
{
    int status = quick_type_add(module, &arrival_spec, &quick_arrival_type);
    return status == 0 ? PyModule_AddFunctions(module, functions) : status;
}
