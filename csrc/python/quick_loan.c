/* quick_loan.c: loans of an edge's next slot. Taking, sending and giving back are one C call each,
 * and the ticket of an open loan lies in its object from the call on that took it: an interrupt at
 * any instruction leaves a loan that its block, or the object's end, gives back (quick_parts.h). */
#include "python/quick_parts.h"

#include <structmember.h>

typedef struct quick_loan {
    PyObject_HEAD
    PyObject *edge;
    PyObject *handle;          /* of the edge while the loan is open, which may be closed meanwhile */
    PyObject *places;          /* a dict: address → (form, owner of the memory) */
    PyObject *slot;            /* the tensor of the open loan, or NULL */
    unsigned long long tensor; /* dynamic: an rt_edge_tensor*; else 0 */
    unsigned long long address;
    long long ticket; /* 0: not open */
    bool patient;     /* has the device's timeout */
} quick_loan;

static rt_edge *edge_of(const quick_loan *self)
{
    return (rt_edge *)(uintptr_t)((const quick_edge *)self->edge)->pointer;
}

static bool loan_on_edge(const quick_loan *self)
{
    return self->edge != NULL && PyObject_TypeCheck(self->edge, quick_edge_type);
}

/* ---- life ---- */

static int loan_traverse(PyObject *object, visitproc visit, void *arg)
{
    quick_loan *self = (quick_loan *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->edge);
    Py_VISIT(self->handle);
    Py_VISIT(self->places);
    Py_VISIT(self->slot);
    return 0;
}

static int loan_clear(PyObject *object)
{
    quick_loan *self = (quick_loan *)object;
    Py_CLEAR(self->slot);
    Py_CLEAR(self->places);
    Py_CLEAR(self->edge);
    Py_CLEAR(self->handle);
    return 0;
}

/* Nobody can write through the tensor of a loan that is over, nor through the arrays that it gave. */
static void slot_end(quick_loan *self)
{
    quick_tensor *slot = (quick_tensor *)self->slot;
    if (slot == NULL)
        return;
    self->slot = NULL;
    slot->ticket = -1;
    quick_tensor_let_go(slot);
    Py_DECREF(slot);
}

/* The loan is over: sent, or given back. */
static void loan_end(quick_loan *self)
{
    PyObject *handle = self->handle;
    self->ticket = 0;
    self->handle = NULL;
    ((quick_edge *)self->edge)->lender = 0;
    slot_end(self);
    Py_XDECREF(handle);
}

static void loan_give_back(quick_loan *self)
{
    if (self->ticket == 0)
        return;
    rt_edge *edge = edge_of(self);
    uint64_t ticket = (uint64_t)self->ticket;
    PyObject *handle = Py_NewRef(self->handle), *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    loan_end(self);
    Py_BEGIN_ALLOW_THREADS
    rt_edge_give_back(edge, ticket);
    Py_END_ALLOW_THREADS
    Py_DECREF(handle);
    PyErr_Restore(type, value, trace);
}

static void loan_finalize(PyObject *object)
{
    loan_give_back((quick_loan *)object);
}

static void loan_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    loan_clear(object);
    quick_free(object);
}

/* ---- taking and sending ---- */

/* _take(ns): takes the loan. Gives the status. */
static PyObject *loan_take(PyObject *object, PyObject *slice)
{
    quick_loan *self = (quick_loan *)object;
    long long ns = PyLong_AsLongLong(slice);
    if (ns == -1 && PyErr_Occurred() != NULL)
        return NULL;
    const quick_edge *way = (const quick_edge *)self->edge;
    if (self->ticket != 0)
        return PyLong_FromLong(RT_E_INVALID);
    rt_edge *edge = loan_on_edge(self) ? quick_open_edge(way) : NULL;
    if (edge == NULL)
        return PyLong_FromLong(RT_E_CLOSED);
    PyObject *handle = Py_NewRef(way->handle); /* another thread may drop it meanwhile */
    const rt_edge_tensor *tensor = (const rt_edge_tensor *)(uintptr_t)self->tensor;
    uint64_t address = 0;
    int64_t ticket;
    Py_BEGIN_ALLOW_THREADS
    ticket = rt_edge_lend(edge, tensor, ns, &address);
    Py_END_ALLOW_THREADS
    if (ticket > 0 && self->ticket != 0) { /* another thread has opened this object meanwhile */
        rt_edge_give_back(edge, (uint64_t)ticket);
        ticket = RT_E_INVALID;
    }
    if (ticket <= 0) {
        Py_DECREF(handle);
        return PyLong_FromLongLong(ticket);
    }
    self->handle = handle;
    self->address = address;
    self->ticket = ticket;
    ((quick_edge *)self->edge)->lender = PyThread_get_thread_ident();
    return PyLong_FromLong(RT_OK);
}

/* _send(ns): sends the loan, which is over then. Gives a status, or the send's sequence. */
static PyObject *loan_send(PyObject *object, PyObject *slice)
{
    quick_loan *self = (quick_loan *)object;
    long long ns = PyLong_AsLongLong(slice);
    if (ns == -1 && PyErr_Occurred() != NULL)
        return NULL;
    if (self->ticket == 0)
        return PyLong_FromLong(RT_E_INVALID);
    rt_edge *edge = edge_of(self);
    uint64_t ticket = (uint64_t)self->ticket;
    PyObject *handle = Py_NewRef(self->handle); /* another thread may end the loan meanwhile */
    int64_t result;
    slot_end(self); /* what is written later is not sent */
    Py_BEGIN_ALLOW_THREADS
    result = rt_edge_send_lent(edge, ticket, ns);
    Py_END_ALLOW_THREADS
    if (result >= 0 && self->ticket == (long long)ticket)
        loan_end(self);
    Py_DECREF(handle);
    return PyLong_FromLongLong(result);
}

/* ---- the block ---- */

/* The tensor of the loan that is open. */
static PyObject *loan_slot(quick_loan *self)
{
    PyObject *address = PyLong_FromUnsignedLongLong(self->address), *place = NULL;
    if (address != NULL && self->places != NULL)
        place = Py_XNewRef(PyDict_GetItemWithError(self->places, address));
    if (place == NULL && address != NULL && PyErr_Occurred() == NULL)
        place = PyObject_CallMethod((PyObject *)self, "_place", "O", address);
    Py_XDECREF(address);
    quick_tensor *made = place != NULL ? quick_tensor_new() : NULL;
    if (made != NULL) {
        made->form = Py_NewRef(PyTuple_GetItem(place, 0));
        made->keep = Py_NewRef(PyTuple_GetItem(place, 1));
        made->edge = Py_NewRef(Py_None);
        made->lent = true;
    }
    Py_XDECREF(place);
    return (PyObject *)made;
}

static PyObject *loan_enter(PyObject *object, PyObject *Py_UNUSED(none))
{
    quick_loan *self = (quick_loan *)object;
    const quick_edge *way = (const quick_edge *)self->edge;
    rt_edge *edge = self->ticket == 0 && self->patient && loan_on_edge(self) ? quick_free_edge(way) : NULL;
    uint64_t address = 0;
    int64_t ticket = edge == NULL ? 0 : rt_edge_lend_at_once(edge, (const rt_edge_tensor *)(uintptr_t)self->tensor, &address);
    if (ticket > 0) {
        self->handle = Py_NewRef(way->handle);
        self->address = address;
        self->ticket = ticket;
        ((quick_edge *)self->edge)->lender = PyThread_get_thread_ident();
    } else {
        bool mine = self->ticket == 0; /* else its block is open, and stays so */
        PyObject *begun = PyObject_CallMethod(object, "_begin", NULL);
        if (begun == NULL) {
            if (mine)
                loan_give_back(self);
            return NULL;
        }
        Py_DECREF(begun);
    }
    PyObject *slot = loan_slot(self);
    if (slot == NULL) {
        loan_give_back(self);
        return NULL;
    }
    self->slot = Py_NewRef(slot);
    return slot;
}

static PyObject *loan_exit(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    quick_loan *self = (quick_loan *)object;
    if (self->ticket == 0) /* it was cancelled */
        Py_RETURN_NONE;
    if (count > 0 && args[0] != Py_None) {
        loan_give_back(self);
        Py_RETURN_NONE;
    }
    slot_end(self);
    int64_t result = rt_edge_send_lent_at_once(edge_of(self), (uint64_t)self->ticket);
    if (result >= 0)
        loan_end(self);
    if (result == 0 || (result > 0 && self->tensor != 0)) /* the memory of a dynamic tensor is the edge's, which keeps it */
        Py_RETURN_NONE;
    PyObject *done = PyObject_CallMethod(object, "_finish", "L", (long long)result);
    if (done == NULL) {
        loan_give_back(self); /* unless it was sent */
        return NULL;
    }
    Py_DECREF(done);
    Py_RETURN_NONE;
}

static PyObject *loan_cancel(PyObject *object, PyObject *Py_UNUSED(none))
{
    loan_give_back((quick_loan *)object);
    Py_RETURN_NONE;
}

/* ---- the names ---- */

static PyMemberDef members[] = {
    {"_edge", T_OBJECT_EX, offsetof(quick_loan, edge), 0, NULL},
    {"_places", T_OBJECT_EX, offsetof(quick_loan, places), 0, "address -> (form, owner of the memory)"},
    {"_tensor", T_ULONGLONG, offsetof(quick_loan, tensor), 0, "dynamic: the C description of the tensor"},
    {"_ticket", T_LONGLONG, offsetof(quick_loan, ticket), READONLY, "0: its block is not open"},
    {"_patient", T_BOOL, offsetof(quick_loan, patient), 0, "waits for as long as the device says"},
    {NULL, 0, 0, 0, NULL},
};
static PyMethodDef methods[] = {
    {"_take", loan_take, METH_O, "_take($self, ns, /)\n--\n\nTakes the loan. Gives the status."},
    {"_send", loan_send, METH_O,
     "_send($self, ns, /)\n--\n\nSends the loan, which is over then. Gives a status, or the send's sequence."},
    {"__enter__", loan_enter, METH_NOARGS, "__enter__($self, /)\n--\n\nTakes the loan, and gives its slot as a tensor."},
    {"__exit__", (PyCFunction)(void *)loan_exit, METH_FASTCALL,
     "__exit__($self, kind, error, trace, /)\n--\n\nSends the loan, or after an exception gives it back."},
    {"cancel", loan_cancel, METH_NOARGS,
     "cancel($self, /)\n--\n\nGives the loan back unsent; the end of its block then does nothing. Twice is fine."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"A loan of an edge's next slot: the part of it that is C."},
    {Py_tp_traverse, (void *)loan_traverse},
    {Py_tp_clear, (void *)loan_clear},
    {Py_tp_dealloc, (void *)loan_dealloc},
    {Py_tp_finalize, (void *)loan_finalize},
    {Py_tp_members, members},
    {Py_tp_methods, methods},
    {0, NULL},
};
static PyType_Spec spec = {"rdmatensor._native.QuickLoan", sizeof(quick_loan), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots};

int quick_loan_add(PyObject *module)
{
    static PyTypeObject *loan_type;
    return quick_type_add(module, &spec, &loan_type);
}
