/* quick_parts.h: what the files of the quick classes (quick.h) share. All of it is called with the interpreter's lock. */
#ifndef RT_PYTHON_QUICK_PARTS_H
#define RT_PYTHON_QUICK_PARTS_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>

enum { QUICK_LOOKS = 80 /* some 2 us for what a peer is writing, before the interpreter's lock is given up */ };

/* How objects begin that hold one other, and their life. */
typedef struct quick_holder {
    PyObject_HEAD
    PyObject *held;
} quick_holder;
int quick_holder_traverse(PyObject *object, visitproc visit, void *arg);
int quick_holder_clear(PyObject *object);
void quick_holder_dealloc(PyObject *object);

/* Calls a method written in Python, as its class has it, on an object with the arguments that came. */
PyObject *quick_call(PyObject *method, PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names);

/* ---- quick_channel.c ---- */
/* The base class of channels, a new reference, or NULL with an exception. */
PyObject *quick_channel_type(void);

#endif
