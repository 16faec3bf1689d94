/* quick_transfer.c: sends and receives of a team, which go on after the call that began them. */
#include "python/quick_team.h"

#include <structmember.h>

#include <stdbool.h>
#include <stdint.h>

typedef struct quick_team_transfer {
    PyObject_HEAD
    PyObject *team;             /* as above */
    PyObject *keep;             /* the memory */
    rt_team_transfer *transfer; /* NULL once it has ended */
    PyObject *handle;           /* of the team, until then */
    int status, source;
    bool busy; /* a thread waits for it */
} quick_team_transfer;

static void transfer_end(quick_team_transfer *self)
{
    rt_team_transfer *transfer = self->transfer;
    self->transfer = NULL;
    if (transfer == NULL)
        return;
    Py_BEGIN_ALLOW_THREADS
    rt_team_transfer_drop(transfer);
    Py_END_ALLOW_THREADS
    Py_CLEAR(self->handle);
}

static int transfer_traverse(PyObject *object, visitproc visit, void *arg)
{
    quick_team_transfer *self = (quick_team_transfer *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->team);
    Py_VISIT(self->keep);
    Py_VISIT(self->handle);
    return 0;
}

static int transfer_clear(PyObject *object)
{
    quick_team_transfer *self = (quick_team_transfer *)object;
    transfer_end(self);
    Py_CLEAR(self->handle);
    Py_CLEAR(self->team);
    Py_CLEAR(self->keep);
    return 0;
}

static void transfer_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    transfer_clear(object);
    quick_free(object);
}

/* The outcome of a call of C: True when it is done, False when it goes on; else raises. */
static PyObject *transfer_settle(quick_team_transfer *self, int status, const char *text)
{
    self->status = status == RT_E_INTERRUPTED ? RT_E_AGAIN : status;
    if (self->status == RT_E_AGAIN)
        return PyErr_CheckSignals() != 0 ? NULL : PyBool_FromLong(0);
    transfer_end(self);
    Py_CLEAR(self->handle);
    if (status == RT_OK)
        return PyBool_FromLong(1);
    return quick_team_raise(self->team, status, text);
}

/* _begin(sends, peer, tag, dtype, address, size): starts it, once. */
static PyObject *transfer_begin(PyObject *object, PyObject *args)
{
    quick_team_transfer *self = (quick_team_transfer *)object;
    int sends, peer;
    unsigned long long tag, address, size;
    unsigned int dtype;
    if (!PyArg_ParseTuple(args, "piKIKK", &sends, &peer, &tag, &dtype, &address, &size))
        return NULL;
    quick_team *team = (quick_team *)self->team;
    rt_team *behind = team != NULL ? quick_team_open(team) : NULL;
    if (behind == NULL)
        return PyObject_CallMethod(self->team, "_refuse", NULL);
    rt_detail detail;
    rt_detail_clear(&detail);
    void *memory = (void *)(uintptr_t)address;
    int32_t source = -1;
    int status;
    self->handle = Py_NewRef(team->of.held);
    team->inside++;
    Py_BEGIN_ALLOW_THREADS
    if (sends)
        status = rt_team_send(behind, (uint32_t)peer, tag, dtype, memory, size, &self->transfer, &detail);
    else
        status = rt_team_receive(behind, peer, tag, dtype, memory, size, &self->transfer, &source, &detail);
    Py_END_ALLOW_THREADS
    team->inside--;
    self->source = source;
    return transfer_settle(self, status, detail.text);
}

/* _wait(timeout_ns): at most one slice. False also while another thread waits for it. */
static PyObject *transfer_wait(PyObject *object, PyObject *given)
{
    quick_team_transfer *self = (quick_team_transfer *)object;
    long long timeout_ns = PyLong_AsLongLong(given);
    if (timeout_ns == -1 && PyErr_Occurred() != NULL)
        return NULL;
    quick_team *team = (quick_team *)self->team;
    if (self->busy)
        return PyBool_FromLong(0);
    if (self->transfer == NULL)
        return self->status == RT_OK ? PyBool_FromLong(1) : PyObject_CallMethod(self->team, "_refuse", NULL);
    rt_detail detail;
    rt_detail_clear(&detail);
    int32_t source = self->source;
    int status;
    self->busy = true;
    team->inside++;
    Py_BEGIN_ALLOW_THREADS
    status = rt_team_transfer_wait(self->transfer, timeout_ns, &source, &detail);
    Py_END_ALLOW_THREADS
    team->inside--;
    self->busy = false;
    self->source = source;
    return transfer_settle(self, status, detail.text);
}

/* _end(): gives it up; its memory is no longer touched. */
static PyObject *transfer_give_up(PyObject *object, PyObject *Py_UNUSED(none))
{
    quick_team_transfer *self = (quick_team_transfer *)object;
    if (self->transfer != NULL)
        self->status = RT_E_CLOSED;
    transfer_end(self);
    Py_RETURN_NONE;
}

static PyObject *transfer_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(names))
{
    PyObject *team, *keep;
    if (!PyArg_ParseTuple(args, "OO", &team, &keep))
        return NULL;
    if (!PyObject_TypeCheck(team, quick_team_type)) {
        PyErr_SetString(PyExc_TypeError, "a team is needed");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    quick_team_transfer *self = (quick_team_transfer *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->team = Py_NewRef(team);
    self->keep = Py_NewRef(keep);
    self->status = RT_E_AGAIN;
    self->source = -1;
    return (PyObject *)self;
}

static PyMemberDef transfer_members[] = {
    {"_team", T_OBJECT, offsetof(quick_team_transfer, team), READONLY, NULL},
    {"_status", T_INT, offsetof(quick_team_transfer, status), READONLY, "the last status of the core"},
    {"_source", T_INT, offsetof(quick_team_transfer, source), READONLY, "the sender, once a receive is done"},
    {NULL, 0, 0, 0, NULL},
};
static PyMethodDef transfer_methods[] = {
    {"_begin", transfer_begin, METH_VARARGS, NULL},
    {"_wait", transfer_wait, METH_O, NULL},
    {"_end", transfer_give_up, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot transfer_slots[] = {
    {Py_tp_doc, (void *)"A send or receive of a team, which goes on after the call that began it."},
    {Py_tp_new, (void *)transfer_new},
    {Py_tp_traverse, (void *)transfer_traverse},
    {Py_tp_clear, (void *)transfer_clear},
    {Py_tp_dealloc, (void *)transfer_dealloc},
    {Py_tp_methods, transfer_methods},
    {Py_tp_members, transfer_members},
    {0, NULL},
};

static PyType_Spec transfer_spec = {"rdmatensor._native.QuickTeamTransfer", sizeof(quick_team_transfer), 0,
                                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, transfer_slots};

int quick_transfer_add(PyObject *module)
{
    static PyTypeObject *transfer_type;
    return quick_type_add(module, &transfer_spec, &transfer_type);
}
