/* quick_parts.h: the quick classes, and the parts that their files share. They are base classes for
 * edges, tensors, prepared copies and channels. Their usual calls are C from end to end, without a
 * Python frame, arguments to convert, or the interpreter's lock to release and take. Any other case
 * calls a method written in Python. All of this is called with the interpreter's lock.
 *
 * Signal handlers run between Python instructions, so a result of C that lies only on Python's
 * stack is lost to a KeyboardInterrupt. C therefore stores every object that it hands over, within
 * the same C call, in an object that existed before the call: a deque of the edge, an attribute, a
 * list of the caller's. */
#ifndef RT_PYTHON_QUICK_PARTS_H
#define RT_PYTHON_QUICK_PARTS_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>

#include <stdbool.h>

#include "rdmatensor.h"

enum { QUICK_LOOKS = 80 /* some 2 us for a peer's WRITE to finish, before the interpreter's lock is given up */ };

enum { QUICK_COPY_LOOKS = 256 /* some 5 us for a copy under way: the round trip of a small one over hardware */ };

enum { QUICK_KEEPS_LOCK_MAX = 8192 /* bytes that are sent without giving the lock up: half a microsecond */ };

enum { QUICK_RANK_MAX = 16 };

/* The place and type of a tensor, shared by the tensors that a slot holds one after the other. */
typedef struct quick_form {
    PyObject_HEAD
    PyObject *description; /* NumPy's element type, or NULL */
    PyObject *capsule;     /* NumPy's array interface, once it was asked for */
    unsigned long long address;
    Py_ssize_t dims[QUICK_RANK_MAX], strides[QUICK_RANK_MAX]; /* strides in bytes */
    int rank;
    unsigned char code, itemsize; /* DLPack's type; its bits are 8 * itemsize */
    bool readonly;
} quick_form;

/* A tensor in a region. `edge` is None unless it lies in a slot; `origin` is a weak reference to
 * the edge that it came from, or NULL. */
typedef struct quick_tensor {
    PyObject_HEAD
    PyObject *form, *keep, *edge, *origin;
    PyObject *arrays; /* of a loan: a list of the arrays that `numpy` made of it, or NULL */
    long long ticket;
    bool lent; /* it lies in a loan, and is no tensor any more when that is over */
} quick_tensor;

/* The forms and keepers that a receiver of dynamic tensors has made (quick_record.c). */
typedef struct quick_known quick_known;

/* An end of an edge. */
typedef struct quick_edge {
    PyObject_HEAD
    PyObject *handle; /* None once it is closed */
    PyObject *forms;  /* receiver: a tuple with the form of each slot's tensor, empty until that is agreed */
    PyObject *line;   /* a deque of objects that go first: receiver `_waiting`, sender `_backlog` */
    PyObject *kept;   /* sender: a deque of sent tensors that are still needed, as tuples (sequence, owner) */
    unsigned long long pointer;
    long long slice_ns;
    quick_known *known;   /* receiver of dynamic tensors: NULL before the first */
    bool dynamic;         /* … which this is */
    unsigned long lender; /* sender: the thread that has a loan of it, or 0 */
} quick_edge;

/* A tensor that was taken from the core and is not handed out yet: in its slot, or still at the
 * sender. */
typedef struct quick_arrival {
    PyObject_HEAD
    PyObject *form; /* its form and place, once it can be handed out, … */
    PyObject *keep; /* … and the owner of that memory */
    rt_edge_arrival arrival;
    unsigned long long region, offset; /* target of its READ: an rt_region*, or 0 and an address */
    long long fetched;                 /* the status of its READ; RT_E_AGAIN until that ends */
    long long borrowed;                /* its address at the sender, once it is borrowed */
    bool busy;                         /* a thread is in its READ, without the interpreter's lock */
    bool in_slot;                      /* the slot is held until the tensor is released */
} quick_arrival;

typedef struct quick_channel {
    PyObject_HEAD
    PyObject *handle; /* None once it is closed; the struct begins as a quick_holder */
    unsigned long long pointer;
    long long slice_ns;
    unsigned long long brief; /* bytes that are copied without giving the interpreter's lock up */
} quick_channel;

/* The beginning of every object that holds one other, and the functions for its life. */
typedef struct quick_holder {
    PyObject_HEAD
    PyObject *held;
} quick_holder;
int quick_holder_traverse(PyObject *object, visitproc visit, void *arg);
int quick_holder_clear(PyObject *object);
void quick_holder_dealloc(PyObject *object);
void quick_free(PyObject *self);

/* One set for the process, as there is one module. */
extern PyTypeObject *quick_edge_type, *quick_form_type,
    *quick_tensor_type; /* the latter: the class of tensors handed out, once `receiving` was called */

/* Calls a method written in Python, as its class has it, on an object with the given arguments;
 * `extra`, unless NULL, becomes the first of them. */
PyObject *quick_call(PyObject *method, PyObject *object, PyObject *extra, PyObject *const *args, Py_ssize_t count,
                     PyObject *names);

/* The C edge behind an object while it is open, else NULL. quick_free_edge: also NULL while earlier
 * objects must go first. */
static inline rt_edge *quick_open_edge(const quick_edge *self)
{
    bool open = self->handle != NULL && self->handle != Py_None;
    return open ? (rt_edge *)(uintptr_t)self->pointer : NULL;
}

static inline rt_edge *quick_free_edge(const quick_edge *self)
{
    return self->line != NULL && PyObject_Size(self->line) == 0 ? quick_open_edge(self) : NULL;
}

/* Makes a type unless it is there, and adds it to the module; -1 with an exception. */
int quick_type_add(PyObject *module, PyType_Spec *spec, PyTypeObject **type);

/* Functions called quick_*_add add the classes and functions of their file to the module
 * (module.c); -1 with an exception. rdmatensor/_native.pyi has the types. */

/* ---- quick.c ---- */
int quick_add(PyObject *module);

/* ---- quick_array.c ---- */
/* Methods of tensors, and the getter of `__array_struct__`. */
PyObject *quick_tensor_numpy(PyObject *object, PyObject *none);
PyObject *quick_tensor_array(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *quick_tensor_dlpack(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *quick_tensor_dlpack_device(PyObject *object, PyObject *none);
PyObject *quick_tensor_struct(PyObject *object, void *closure);
int quick_array_add(PyObject *module);

/* ---- quick_tensor.c ---- */
int quick_tensor_add(PyObject *module);
/* A new object of the class of tensors handed out, which holds nothing yet, or NULL with an
 * exception. */
quick_tensor *quick_tensor_new(void);
/* The loan that the tensor lies in is over: the arrays that it gave become read-only. An exception that is set stays. */
void quick_tensor_let_go(quick_tensor *tensor);
/* Puts a received item that was not handed out before the next ones of its edge. An exception that
 * is set stays. */
void quick_put_back(PyObject *edge, PyObject *item);

/* ---- quick_receive.c ---- */
extern PyTypeObject *quick_arrival_type;
/* A new tensor for an arrival, or NULL with an exception. */
PyObject *quick_tensor_of(PyObject *edge, const quick_arrival *arrival);
int quick_receive_add(PyObject *module);

/* ---- quick_record.c ---- */
int quick_known_traverse(const quick_known *known, visitproc visit, void *arg);
void quick_known_forget(quick_edge *edge);
/* Receives a tensor of a dynamic edge that needs no READ, waiting for it for up to a slice:
 * *made_out, a new reference. NULL: none, *status_out says why, and RT_E_AGAIN leaves it to Python,
 * as it does a tensor that has come and must be READ. -1 with an exception. */
int quick_record_receive(PyObject *edge, bool borrow, PyObject **made_out, int *status_out);

/* ---- quick_many.c ---- */
int quick_many_add(PyObject *module);

/* ---- quick_send.c ---- */
/* Adds (sequence, owner) to the tensors that the edge keeps; -1 with an exception. */
int quick_keep(const quick_edge *edge, int64_t sequence, PyObject *owner);
/* Drops those up to a sequence that the receiver has released; -1 with an exception. */
int quick_keep_until(const quick_edge *edge, uint64_t released);
int quick_send_add(PyObject *module);

/* ---- quick_loan.c ---- */
int quick_loan_add(PyObject *module);

/* ---- quick_hand.c ---- */
int quick_hand_add(PyObject *module);

/* ---- quick_team.c ---- */
int quick_team_add(PyObject *module);

/* ---- quick_transfer.c ---- */
int quick_transfer_add(PyObject *module);

/* ---- quick_copy.c ---- */
/* The method `memcpy` of a channel. */
PyObject *quick_channel_memcpy(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names);
int quick_copy_add(PyObject *module);

/* ---- quick_channel.c ---- */
int quick_channel_add(PyObject *module);

/* ---- quick_held.c ---- */
int quick_held_add(PyObject *module);
/* A Held of an operation of the channel, a new reference, or NULL with an exception. */
PyObject *quick_held_of(PyObject *channel, PyObject *keep, int64_t number);

/* A copy of a text that lives as long as the process, as does the method that it describes; or
 * NULL. */
char *quick_text(const char *text);

#endif
