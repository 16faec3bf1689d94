/* dlpack.h: DLPack capsules over memory that a Python object keeps alive. They are in C because
 * consumers free their tensors from any thread, and capsules die while an exception propagates:
 * neither allows a callback written in Python. */
#ifndef RT_PYTHON_DLPACK_H
#define RT_PYTHON_DLPACK_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

enum { RT_DLPACK_READ_ONLY = 1, RT_DLPACK_IS_COPIED = 2 /* flags of a versioned capsule */ };

/* A capsule over contiguous host memory that holds a reference to `owner` until its consumer is done with it, or NULL with
 * an exception. `code` is DLPack's type. A capsule with flags must be versioned (1.1, else 0.8). */
PyObject *rt_dlpack_make(uint64_t address, uint8_t code, uint8_t itemsize, const Py_ssize_t *dims, int rank, uint64_t flags,
                         bool versioned, PyObject *owner);

/* Adds `dlpack_capsule`, `dlpack_alive` and the flags to the module (module.c); -1 with an
 * exception. */
int rt_dlpack_add(PyObject *module);

#endif
