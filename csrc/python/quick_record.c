/* quick_record.c: tensors of dynamic edges that are used where they lie: in their record's slot, or
 * borrowed at the sender. Forms, and the objects that keep a sender's memory mapped, are made once
 * and used again. A tensor that was taken goes into the edge's deque `_waiting` if a step in Python
 * fails (quick_parts.h). */
#include "python/quick_parts.h"

#include <string.h>

enum { FORMS = 16 /* by address */, KEEPS = 4 /* ranges of the sender's memory */ };

typedef struct known_form {
    unsigned long long address;
    uint64_t dims[QUICK_RANK_MAX];
    uint32_t dtype, rank;
    bool borrowed;
    PyObject *form;
} known_form;

typedef struct known_keep {
    uint64_t remote; /* an rt_remote*, which `keep` refers to */
    PyObject *keep;
} known_keep;

struct quick_known {
    known_form forms[FORMS];
    known_keep keeps[KEEPS];
    unsigned next; /* of `keeps`, to be replaced */
};

int quick_known_traverse(const quick_known *known, visitproc visit, void *arg)
{
    for (unsigned index = 0; known != NULL && index < FORMS; index++)
        Py_VISIT(known->forms[index].form);
    for (unsigned index = 0; known != NULL && index < KEEPS; index++)
        Py_VISIT(known->keeps[index].keep);
    return 0;
}

static void known_free(quick_known *known)
{
    for (unsigned index = 0; known != NULL && index < FORMS; index++)
        Py_XDECREF(known->forms[index].form);
    for (unsigned index = 0; known != NULL && index < KEEPS; index++)
        Py_XDECREF(known->keeps[index].keep);
    PyMem_Free(known);
}

static PyObject *dims_of(const rt_edge_arrival *got)
{
    PyObject *dims = PyTuple_New((Py_ssize_t)got->rank);
    for (uint32_t index = 0; dims != NULL && index < got->rank; index++) {
        PyObject *dim = PyLong_FromUnsignedLongLong(got->dims[index]);
        if (dim == NULL || PyTuple_SetItem(dims, (Py_ssize_t)index, dim) != 0)
            Py_CLEAR(dims);
    }
    return dims;
}

/* The form of a tensor at this address, a new reference. */
static PyObject *form_of_arrival(quick_edge *edge, const rt_edge_arrival *got)
{
    bool borrowed = got->borrowed != 0;
    unsigned long long address = borrowed ? got->borrowed : got->address;
    unsigned place = (unsigned)((address >> 6 ^ address >> 12 ^ address >> 20) % FORMS);
    known_form *entry = &edge->known->forms[place];
    bool same = entry->form != NULL && entry->address == address && entry->dtype == got->dtype && entry->rank == got->rank &&
                entry->borrowed == borrowed && memcmp(entry->dims, got->dims, got->rank * sizeof got->dims[0]) == 0;
    if (same)
        return Py_NewRef(entry->form);
    PyObject *dims = dims_of(got), *form = NULL;
    if (dims != NULL)
        form = PyObject_CallMethod((PyObject *)edge, "_form_at", "KIOO", address, (unsigned)got->dtype, dims,
                                   borrowed ? Py_True : Py_False);
    Py_XDECREF(dims);
    if (form == NULL || edge->known == NULL) /* another thread may have closed the edge meanwhile */
        return form;
    entry = &edge->known->forms[place];
    PyObject *before = entry->form;
    *entry = (known_form){.address = address, .dtype = got->dtype, .rank = got->rank, .borrowed = borrowed};
    memcpy(entry->dims, got->dims, sizeof entry->dims);
    entry->form = Py_NewRef(form);
    Py_XDECREF(before);
    return form;
}

/* The object that keeps a borrowed tensor's memory mapped, a new reference. A remote that is known is alive, so that no other
 * one has its address. */
static PyObject *keep_of_arrival(quick_edge *edge, const rt_edge_arrival *got)
{
    const quick_known *before_call = edge->known;
    for (unsigned index = 0; before_call != NULL && index < KEEPS; index++) {
        if (before_call->keeps[index].keep != NULL && before_call->keeps[index].remote == got->remote)
            return Py_NewRef(before_call->keeps[index].keep);
    }
    PyObject *keep = PyObject_CallMethod((PyObject *)edge, "_keep_of", "K", (unsigned long long)got->sequence);
    quick_known *known = edge->known;
    if (keep == NULL || known == NULL)
        return keep;
    known_keep *entry = &known->keeps[known->next++ % KEEPS];
    PyObject *before = entry->keep;
    *entry = (known_keep){.remote = got->remote, .keep = Py_NewRef(keep)};
    Py_XDECREF(before);
    return keep;
}

/* Leaves a tensor that was taken to the next receive. An exception that is set stays. */
static void arrival_leave(PyObject *edge, const rt_edge_arrival *got)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *item = PyObject_CallMethod(edge, "_arrived", NULL);
    if (item != NULL && PyObject_TypeCheck(item, quick_arrival_type)) {
        ((quick_arrival *)item)->arrival = *got;
        ((quick_arrival *)item)->borrowed = (long long)got->borrowed;
        quick_put_back(edge, item);
    } else {
        PyErr_WriteUnraisable(edge);
    }
    Py_XDECREF(item);
    PyErr_Restore(type, value, trace);
}

/* The tensor of an arrival in `made`, which holds nothing yet: 0, or -1 with an exception, and then it waits for the next
 * receive. */
static int arrival_hand(PyObject *edge, const rt_edge_arrival *got, PyObject *handle, quick_tensor *made)
{
    quick_edge *self = (quick_edge *)edge;
    if (self->known != NULL)
        made->form = form_of_arrival(self, got);
    if (made->form != NULL)
        made->keep = got->borrowed != 0 ? keep_of_arrival(self, got) : Py_NewRef(handle);
    if (made->form == NULL || made->keep == NULL) {
        if (PyErr_Occurred() == NULL)
            PyErr_SetString(PyExc_RuntimeError, "the edge was closed meanwhile");
        arrival_leave(edge, got);
        return -1;
    }
    made->edge = Py_NewRef(edge);
    made->ticket = (long long)got->sequence;
    if (PyErr_CheckSignals() == 0)
        return 0;
    quick_put_back(edge, (PyObject *)made);
    return -1;
}

void quick_known_forget(quick_edge *edge)
{
    quick_known *known = edge->known;
    edge->known = NULL;
    known_free(known);
}

int quick_record_receive(PyObject *edge, bool borrow, PyObject **made_out, int *status_out)
{
    quick_edge *self = (quick_edge *)edge;
    rt_edge *behind = quick_free_edge(self);
    *made_out = NULL;
    *status_out = RT_E_AGAIN;
    if (behind == NULL || !self->dynamic)
        return 0;
    if (self->known == NULL)
        self->known = PyMem_Calloc(1, sizeof *self->known);
    quick_tensor *made = self->known != NULL ? quick_tensor_new() : NULL; /* before anything is taken, because it may fail */
    if (made == NULL)
        return self->known == NULL ? (PyErr_NoMemory(), -1) : -1;
    rt_edge_arrival got;
    PyObject *handle = Py_NewRef(self->handle); /* another thread may drop it meanwhile */
    int status = rt_edge_receive_record_at_once(behind, QUICK_LOOKS, borrow, &got), left = 0;
    if (status == RT_E_AGAIN) {
        long long slice_ns = self->slice_ns;
        Py_BEGIN_ALLOW_THREADS
        status = borrow ? rt_edge_receive_borrowed(behind, slice_ns, &got) : rt_edge_receive(behind, slice_ns, &got);
        Py_END_ALLOW_THREADS
    }
    if (status == RT_OK && got.address == 0 && got.borrowed == 0)
        arrival_leave(edge, &got); /* Python READs it, or says why it cannot be borrowed */
    else if (status == RT_OK)
        left = arrival_hand(edge, &got, handle, made);
    bool handed = status == RT_OK && made->edge != NULL && left == 0;
    Py_DECREF(handle);
    *status_out = status == RT_OK ? RT_E_AGAIN : status;
    if (handed)
        *made_out = (PyObject *)made;
    else
        Py_DECREF(made);
    return left;
}
