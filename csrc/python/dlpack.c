/* dlpack.c: makes and ends DLPack capsules (dlpack.h). Structures and rules:
 * https://dmlc.github.io/dlpack/latest/c_api.html */
#include "python/dlpack.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

enum { DEVICE_CPU = 1, VERSION_MAJOR = 1, VERSION_MINOR = 1, RANK_MAX = 16 };

typedef struct dl_tensor {
    void *data;
    int32_t device_kind, device_number;
    int32_t rank;
    uint8_t type_code, type_bits;
    uint16_t type_lanes;
    int64_t *dims, *strides;
    uint64_t byte_offset;
} dl_tensor;

/* Version 0.8; the deleter is called with its own address. */
typedef struct dl_managed {
    dl_tensor tensor;
    void *context;
    void (*deleter)(struct dl_managed *);
} dl_managed;

typedef struct dl_versioned {
    uint32_t major, minor;
    void *context;
    void (*deleter)(struct dl_versioned *);
    uint64_t flags;
    dl_tensor tensor;
} dl_versioned;

_Static_assert(sizeof(dl_tensor) == 48 && sizeof(dl_managed) == 64 && sizeof(dl_versioned) == 80, "as DLPack lays them out");

/* The structures that a capsule points to. The context of either form is its address. */
typedef struct dl_export {
    dl_managed plain;
    dl_versioned versioned;
    PyObject *owner; /* a reference */
    int64_t dims[RANK_MAX], strides[RANK_MAX];
} dl_export;

static _Atomic int64_t alive;

/* Any thread, with or without the interpreter's lock. After the interpreter has ended the owner
 * stays: its memory goes with the process. */
static void export_end(dl_export *ended)
{
    if (Py_IsInitialized()) {
        PyGILState_STATE state = PyGILState_Ensure();
        Py_DecRef(ended->owner);
        PyGILState_Release(state);
    }
    free(ended);
    atomic_fetch_sub_explicit(&alive, 1, memory_order_relaxed);
}

static void plain_delete(dl_managed *managed)
{
    export_end(managed->context);
}

static void versioned_delete(dl_versioned *managed)
{
    export_end(managed->context);
}

/* A consumer renames a capsule that it used: one that still has its name was never used. */
static void capsule_end(PyObject *capsule)
{
    if (!PyCapsule_IsValid(capsule, "dltensor") && !PyCapsule_IsValid(capsule, "dltensor_versioned"))
        return;
    dl_export *ended = PyCapsule_GetContext(capsule);
    PyObject *owner = ended->owner;
    free(ended);
    atomic_fetch_sub_explicit(&alive, 1, memory_order_relaxed);
    Py_DECREF(owner);
}

static void tensor_fill(dl_tensor *tensor, dl_export *made, uint64_t address, uint8_t code, uint8_t bits, int32_t rank)
{
    *tensor = (dl_tensor){
        .data = (void *)(uintptr_t)address,
        .device_kind = DEVICE_CPU,
        .rank = rank,
        .type_code = code,
        .type_bits = bits,
        .type_lanes = 1,
        .dims = made->dims,
        .strides = made->strides,
    };
}

static PyObject *capsule_new(dl_export *made, bool versioned)
{
    void *managed = versioned ? (void *)&made->versioned : (void *)&made->plain;
    PyObject *capsule = PyCapsule_New(managed, versioned ? "dltensor_versioned" : "dltensor", capsule_end);
    if (capsule != NULL)
        PyCapsule_SetContext(capsule, made);
    return capsule;
}

/* Lays the tensor out, contiguous in row-major order. */
static void export_shape(dl_export *made, const Py_ssize_t *dims, int rank)
{
    int64_t step = 1;
    for (int index = rank - 1; index >= 0; index--) {
        made->dims[index] = dims[index];
        made->strides[index] = step;
        /* In an empty tensor, whose dimensions may multiply to anything, no stride is ever used. */
        if (dims[index] > 1 && __builtin_mul_overflow(step, (int64_t)dims[index], &step))
            step = 1;
    }
}

PyObject *rt_dlpack_make(uint64_t address, uint8_t code, uint8_t itemsize, const Py_ssize_t *dims, int rank, uint64_t flags,
                         bool versioned, PyObject *owner)
{
    dl_export *made = malloc(sizeof *made);
    if (made == NULL)
        return PyErr_NoMemory();
    export_shape(made, dims, rank);
    if (versioned) {
        made->versioned = (dl_versioned){.major = VERSION_MAJOR,
                                         .minor = VERSION_MINOR,
                                         .context = made,
                                         .deleter = versioned_delete,
                                         .flags = flags};
        tensor_fill(&made->versioned.tensor, made, address, code, (uint8_t)(8 * itemsize), rank);
    } else {
        made->plain = (dl_managed){.context = made, .deleter = plain_delete};
        tensor_fill(&made->plain.tensor, made, address, code, (uint8_t)(8 * itemsize), rank);
    }
    PyObject *capsule = capsule_new(made, versioned);
    if (capsule == NULL) {
        free(made);
        return NULL;
    }
    made->owner = Py_NewRef(owner);
    atomic_fetch_add_explicit(&alive, 1, memory_order_relaxed);
    return capsule;
}

/* dlpack_capsule(address, code, itemsize, shape, flags, versioned, owner): as rt_dlpack_make. */
static PyObject *dlpack_capsule(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long address, flags;
    unsigned char code, itemsize;
    int versioned;
    Py_ssize_t dims[RANK_MAX];
    PyObject *shape, *owner;
    if (!PyArg_ParseTuple(args, "KbbO!KpO:dlpack_capsule", &address, &code, &itemsize, &PyTuple_Type, &shape, &flags, &versioned,
                          &owner))
        return NULL;
    Py_ssize_t rank = PyTuple_Size(shape);
    if (rank > RANK_MAX)
        return PyErr_Format(PyExc_ValueError, "a capsule has at most %d dimensions, not %zd", RANK_MAX, rank);
    for (Py_ssize_t index = 0; index < rank; index++) {
        dims[index] = PyLong_AsSsize_t(PyTuple_GetItem(shape, index));
        if (dims[index] == -1 && PyErr_Occurred() != NULL)
            return NULL;
    }
    return rt_dlpack_make(address, code, itemsize, dims, (int)rank, flags, versioned != 0, owner);
}

static PyObject *dlpack_alive(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return PyLong_FromLongLong(atomic_load_explicit(&alive, memory_order_relaxed));
}

static PyMethodDef functions[] = {
    {"dlpack_capsule", dlpack_capsule, METH_VARARGS,
     "dlpack_capsule($module, address, code, itemsize, shape, flags, versioned, owner, /)\n--\n\n"
     "A capsule over contiguous host memory that keeps `owner` alive. `code` is DLPack's type code."},
    {"dlpack_alive", dlpack_alive, METH_NOARGS,
     "dlpack_alive($module, /)\n--\n\n"
     "The number of live capsules and of live tensors that consumers took out of them."},
    {NULL, NULL, 0, NULL},
};

int rt_dlpack_add(PyObject *module)
{
    int status = PyModule_AddIntConstant(module, "DLPACK_READ_ONLY", RT_DLPACK_READ_ONLY);
    if (status == 0)
        status = PyModule_AddIntConstant(module, "DLPACK_IS_COPIED", RT_DLPACK_IS_COPIED);
    return status == 0 ? PyModule_AddFunctions(module, functions) : status;
}
