/* dlpack.c: makes DLPack capsules and ends them (dlpack.h). Structures and rules: https://dmlc.github.io/dlpack/latest/c_api.html */
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "python/dlpack.h"

enum { DEVICE_CPU = 1, VERSION_MAJOR = 1, VERSION_MINOR = 1 };

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

/* What a capsule points into. The context of either form is its address. */
typedef struct dl_export {
    dl_managed plain;
    dl_versioned versioned;
    PyObject *owner; /* a reference */
    int64_t dims[RT_DLPACK_RANK_MAX], strides[RT_DLPACK_RANK_MAX];
} dl_export;

static _Atomic int64_t alive;

/* From any thread, with or without the interpreter's lock. After the interpreter has ended the owner stays: its memory goes
 * with the process. */
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

/* A consumer renames the capsule it took from: one that still has its name was never used. */
static void capsule_end(PyObject *capsule)
{
    if (PyCapsule_IsValid(capsule, "dltensor") || PyCapsule_IsValid(capsule, "dltensor_versioned"))
        export_end(PyCapsule_GetContext(capsule));
}

static void fill_tensor(dl_tensor *tensor, dl_export *made, uint64_t address, uint8_t code, uint8_t bits, int32_t rank)
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

static PyObject *new_capsule(dl_export *made, int32_t versioned)
{
    void *managed = versioned ? (void *)&made->versioned : (void *)&made->plain;
    PyObject *capsule = PyCapsule_New(managed, versioned ? "dltensor_versioned" : "dltensor", capsule_end);
    if (capsule == NULL) {
        PyErr_Clear(); /* the caller is told by the 0 */
        return NULL;
    }
    PyCapsule_SetContext(capsule, made);
    return capsule;
}

uint64_t rt_dlpack_capsule(uint64_t address, uint8_t code, uint8_t bits, int32_t rank, const int64_t *dims, uint64_t flags,
                           int32_t versioned, uint64_t owner)
{
    dl_export *made = rank < 0 || rank > RT_DLPACK_RANK_MAX ? NULL : calloc(1, sizeof *made);
    if (made == NULL)
        return 0;
    int64_t step = 1;
    for (int32_t index = rank - 1; index >= 0; index--) {
        made->dims[index] = dims[index];
        made->strides[index] = step;
        /* Of an empty tensor, whose dimensions may multiply to anything, no stride is ever walked. */
        if (dims[index] > 1 && __builtin_mul_overflow(step, dims[index], &step))
            step = 1;
    }
    fill_tensor(&made->plain.tensor, made, address, code, bits, rank);
    made->plain.context = made;
    made->plain.deleter = plain_delete;
    fill_tensor(&made->versioned.tensor, made, address, code, bits, rank);
    made->versioned.major = VERSION_MAJOR;
    made->versioned.minor = VERSION_MINOR;
    made->versioned.context = made;
    made->versioned.deleter = versioned_delete;
    made->versioned.flags = flags;
    made->owner = (PyObject *)(uintptr_t)owner;
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *capsule = new_capsule(made, versioned);
    if (capsule != NULL)
        Py_IncRef(made->owner);
    PyGILState_Release(state);
    if (capsule == NULL) {
        free(made);
        return 0;
    }
    atomic_fetch_add_explicit(&alive, 1, memory_order_relaxed);
    return (uint64_t)(uintptr_t)capsule;
}

int64_t rt_dlpack_alive(void)
{
    return atomic_load_explicit(&alive, memory_order_relaxed);
}
