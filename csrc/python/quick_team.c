/* quick_team.c: collective calls of a team, bound to their arrays. */
#include "python/quick_team.h"

#include <structmember.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* The call's kind, as rdmatensor/team/binding.py names it. */
enum team_kind { KIND_BARRIER, KIND_REDUCE, KIND_REDUCE_SCATTER, KIND_GATHER_ALL, KIND_BROADCAST, KIND_EXCHANGE, KIND_COUNT };

typedef struct quick_team_call {
    PyObject_HEAD
    PyObject *team;   /* a quick_team; the struct begins as a quick_holder */
    PyObject *result; /* what the call gives: it keeps the memory, as does … */
    PyObject *keep;
    unsigned int kind, dtype, reduction;
    int root;
    unsigned long long count; /* elements or bytes, as the kind has it */
    long long timeout_ns;
    Py_ssize_t send_count, receive_count;
    rt_team_piece *sends, *receives;
    void **addresses; /* those of the side that has several */
} quick_team_call;

PyTypeObject *quick_team_type;
static PyTypeObject *call_type;

/* ---- what C asks while it waits ---- */

/* The exception of Python code that ran within this thread's call: put aside until the call
 * returns. The call may run more such code before that, and may even succeed, since its data can
 * come together with a signal. A handler that makes calls of its own ends them before anything is
 * put aside for the outer one. */
static _Thread_local struct {
    PyObject *type, *value, *trace;
} aside;

/* With the interpreter's lock, here and in the next one. The first exception stays. */
static void aside_put(void)
{
    if (aside.type == NULL)
        PyErr_Fetch(&aside.type, &aside.value, &aside.trace);
    else
        PyErr_Clear();
}

/* Whether the call raises, whatever became of it. */
static bool aside_raise(void)
{
    if (aside.type == NULL)
        return false;
    PyErr_Restore(aside.type, aside.value, aside.trace);
    aside.type = aside.value = aside.trace = NULL;
    return true;
}

static int team_interrupted(void)
{
    if (aside.type != NULL || !Py_IsInitialized())
        return 1;
    PyGILState_STATE state = PyGILState_Ensure();
    int interrupted = PyErr_CheckSignals();
    if (interrupted != 0)
        aside_put();
    PyGILState_Release(state);
    return interrupted;
}

static PyObject *reduce_function; /* _reduce of rdmatensor/team/reducing.py */

static int team_reduce_in_python(uint32_t dtype, uint32_t reduction, void *target, const void *left, const void *right,
                                 uint64_t count)
{
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *done = NULL;
    if (reduce_function != NULL)
        done = PyObject_CallFunction(reduce_function, "IIKKKK", dtype, reduction, (unsigned long long)(uintptr_t)target,
                                     (unsigned long long)(uintptr_t)left, (unsigned long long)(uintptr_t)right,
                                     (unsigned long long)count);
    int status = done != NULL ? 0 : -1;
    if (done == NULL && reduce_function != NULL)
        aside_put();
    Py_XDECREF(done);
    PyGILState_Release(state);
    return status;
}

static PyObject *module_set_reduce(PyObject *Py_UNUSED(module), PyObject *function)
{
    Py_XDECREF(reduce_function);
    reduce_function = Py_NewRef(function);
    Py_RETURN_NONE;
}

/* ---- a team ---- */

rt_team *quick_team_open(const quick_team *self)
{
    bool open = self->of.held != NULL && self->of.held != Py_None;
    return open ? (rt_team *)(uintptr_t)self->pointer : NULL;
}

PyObject *quick_team_raise(PyObject *team, int status, const char *text)
{
    if (PyErr_Occurred() != NULL)
        return NULL;
    return PyObject_CallMethod(team, "_raise", "is", status, text);
}

/* _progress(timeout_ns): drives sends and receives; how many are under way, 0 once it is closed. */
static PyObject *team_progress(PyObject *object, PyObject *given)
{
    quick_team *self = (quick_team *)object;
    long long timeout_ns = PyLong_AsLongLong(given);
    if (timeout_ns == -1 && PyErr_Occurred() != NULL)
        return NULL;
    rt_team *behind = quick_team_open(self);
    if (behind == NULL)
        return PyLong_FromLong(0);
    PyObject *handle = Py_NewRef(self->of.held);
    int under_way;
    self->inside++;
    Py_BEGIN_ALLOW_THREADS
    under_way = rt_team_progress(behind, timeout_ns);
    Py_END_ALLOW_THREADS
    self->inside--;
    Py_DECREF(handle);
    return PyLong_FromLong(under_way);
}

/* ---- collective calls ---- */

static int pieces_take(PyObject *given, rt_team_piece **pieces_out, Py_ssize_t *count_out)
{
    Py_ssize_t count = PyTuple_Size(given);
    rt_team_piece *pieces = count >= 0 ? PyMem_Calloc((size_t)count + 1, sizeof *pieces) : NULL;
    if (pieces == NULL) {
        if (count >= 0)
            PyErr_NoMemory();
        return -1;
    }
    *pieces_out = pieces;
    *count_out = count;
    for (Py_ssize_t index = 0; index < count; index++) {
        unsigned long long address, size;
        if (!PyArg_ParseTuple(PyTuple_GetItem(given, index), "KK", &address, &size))
            return -1;
        pieces[index] = (rt_team_piece){(void *)(uintptr_t)address, size};
    }
    return 0;
}

/* QuickTeamCall(team, kind, dtype, reduction, root, count, timeout_ns, sends, receives, result, keep) */
static PyObject *call_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(names))
{
    PyObject *team, *sends, *receives, *result, *keep;
    unsigned int kind, dtype, reduction;
    int root;
    unsigned long long count;
    long long timeout_ns;
    if (!PyArg_ParseTuple(args, "OIIIiKLOOOO", &team, &kind, &dtype, &reduction, &root, &count, &timeout_ns, &sends, &receives,
                          &result, &keep))
        return NULL;
    if (!PyObject_TypeCheck(team, quick_team_type) || kind >= KIND_COUNT || !PyTuple_Check(sends) || !PyTuple_Check(receives)) {
        PyErr_SetString(PyExc_TypeError, "a team, a kind, and two tuples of pieces are needed");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    quick_team_call *self = (quick_team_call *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->team = Py_NewRef(team);
    self->result = Py_NewRef(result);
    self->keep = Py_NewRef(keep);
    self->kind = kind;
    self->dtype = dtype;
    self->reduction = reduction;
    self->root = root;
    self->count = count;
    self->timeout_ns = timeout_ns;
    if (pieces_take(sends, &self->sends, &self->send_count) != 0 ||
        pieces_take(receives, &self->receives, &self->receive_count) != 0) {
        Py_DECREF(self);
        return NULL;
    }
    const rt_team_piece *several = kind == KIND_REDUCE_SCATTER ? self->sends : self->receives;
    Py_ssize_t many = kind == KIND_REDUCE_SCATTER ? self->send_count : self->receive_count;
    self->addresses = PyMem_Calloc((size_t)many + 1, sizeof *self->addresses);
    if (self->addresses == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t index = 0; index < many; index++)
        self->addresses[index] = several[index].address;
    return (PyObject *)self;
}

static int call_traverse(PyObject *object, visitproc visit, void *arg)
{
    quick_team_call *self = (quick_team_call *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->team);
    Py_VISIT(self->result);
    Py_VISIT(self->keep);
    return 0;
}

static int call_clear(PyObject *object)
{
    quick_team_call *self = (quick_team_call *)object;
    Py_CLEAR(self->team);
    Py_CLEAR(self->result);
    Py_CLEAR(self->keep);
    return 0;
}

static void call_dealloc(PyObject *object)
{
    quick_team_call *self = (quick_team_call *)object;
    PyObject_GC_UnTrack(object);
    call_clear(object);
    PyMem_Free(self->sends);
    PyMem_Free(self->receives);
    PyMem_Free(self->addresses);
    quick_free(object);
}

/* Without the interpreter's lock. */
static int call_run(const quick_team_call *self, rt_team *team, rt_detail *detail)
{
    const rt_team_call call = {
        .dtype = self->dtype,
        .reduction = self->reduction,
        .root = self->root,
        .timeout_ns = self->timeout_ns,
        .reduce = team_reduce_in_python,
        .interrupted = team_interrupted,
        .detail = detail,
    };
    switch ((enum team_kind)self->kind) {
    case KIND_BARRIER: return rt_team_barrier(team, &call);
    case KIND_REDUCE: return rt_team_reduce(team, &call, self->sends[0].address, self->receives[0].address, self->count);
    case KIND_REDUCE_SCATTER:
        return rt_team_reduce_scatter(team, &call, (const void *const *)self->addresses, self->receives[0].address, self->count);
    case KIND_GATHER_ALL: return rt_team_gather_all(team, &call, self->sends[0].address, self->addresses, self->count);
    case KIND_BROADCAST: return rt_team_broadcast(team, &call, self->receives[0].address, self->count);
    case KIND_EXCHANGE: return rt_team_exchange(team, &call, self->sends, self->receives);
    default: return RT_E_INVALID;
    }
}

static PyObject *call_call(PyObject *object, PyObject *args, PyObject *names)
{
    quick_team_call *self = (quick_team_call *)object;
    quick_team *team = (quick_team *)self->team;
    rt_team *behind = team != NULL ? quick_team_open(team) : NULL;
    if (PyTuple_Size(args) != 0 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "a prepared call takes no arguments");
        return NULL;
    }
    if (team == NULL)
        Py_RETURN_NONE;
    if (behind == NULL || team->collective)
        return PyObject_CallMethod((PyObject *)team, "_refuse", NULL);
    rt_detail detail;
    rt_detail_clear(&detail);
    PyObject *handle = Py_NewRef(team->of.held), *kept = Py_NewRef(object);
    team->collective = 1;
    team->inside++;
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = call_run(self, behind, &detail);
    Py_END_ALLOW_THREADS
    team->inside--;
    team->collective = 0;
    Py_DECREF(handle);
    PyObject *result = NULL;
    if (!aside_raise())
        result = status == RT_OK ? Py_NewRef(self->result) : quick_team_raise((PyObject *)team, status, detail.text);
    Py_DECREF(kept);
    return result;
}

/* ---- types ---- */

static PyMemberDef team_members[] = {
    {"_handle", T_OBJECT_EX, offsetof(quick_team, of.held), 0, "None when it is closed"},
    {"_pointer", T_ULONGLONG, offsetof(quick_team, pointer), 0, "the C object's address"},
    {"_inside", T_UINT, offsetof(quick_team, inside), READONLY, "threads in a call"},
    {"_collective", T_BOOL, offsetof(quick_team, collective), READONLY, "one of them is in a collective call"},
    {NULL, 0, 0, 0, NULL},
};
static PyMethodDef team_methods[] = {
    {"_progress", team_progress, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot team_slots[] = {
    {Py_tp_doc, (void *)"The part of a team that its calls use. A subclass has `_raise(status, text)` and `_refuse()`, which\n"
                        "raise."},
    {Py_tp_traverse, (void *)quick_holder_traverse},
    {Py_tp_clear, (void *)quick_holder_clear},
    {Py_tp_dealloc, (void *)quick_holder_dealloc},
    {Py_tp_methods, team_methods},
    {Py_tp_members, team_members},
    {0, NULL},
};

static PyMemberDef call_members[] = {
    {"_team", T_OBJECT, offsetof(quick_team_call, team), READONLY, NULL},
    {"result", T_OBJECT, offsetof(quick_team_call, result), READONLY, "what each call gives"},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot call_slots[] = {
    {Py_tp_doc, (void *)"A collective call, bound to its memory: calling it runs it."},
    {Py_tp_new, (void *)call_new},
    {Py_tp_traverse, (void *)call_traverse},
    {Py_tp_clear, (void *)call_clear},
    {Py_tp_dealloc, (void *)call_dealloc},
    {Py_tp_call, (void *)call_call},
    {Py_tp_members, call_members},
    {0, NULL},
};

enum { TYPE_FLAGS = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC };
static PyType_Spec team_spec = {"rdmatensor._native.QuickTeam", sizeof(quick_team), 0, TYPE_FLAGS, team_slots};
static PyType_Spec call_spec = {"rdmatensor._native.QuickTeamCall", sizeof(quick_team_call), 0, TYPE_FLAGS, call_slots};

static PyMethodDef functions[] = {
    {"team_reduces_with", module_set_reduce, METH_O,
     "team_reduces_with($module, function, /)\n--\n\n"
     "Sets the function that reduces elements for which the core has no loop:\n"
     "function(dtype, reduction, target, left, right, count), with addresses."},
    {NULL, NULL, 0, NULL},
};

int quick_team_add(PyObject *module)
{
    int status = quick_type_add(module, &team_spec, &quick_team_type);
    if (status == 0)
        status = quick_type_add(module, &call_spec, &call_type);
    return status == 0 ? PyModule_AddFunctions(module, functions) : status;
}
