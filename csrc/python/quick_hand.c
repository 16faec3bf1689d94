/* quick_hand.c: calls that hand out objects other than tensors: accepted channels, blocks of a
 * region, operations. quick_parts.h explains why the last step of each is C. */
#include "python/quick_parts.h"

#include <structmember.h>

#include <string.h>

/* A function that adds [thing, pocket] to a list, and whose caller gets the thing; or gets the
 * function's result, when nothing was added. */
typedef struct quick_handing {
    PyObject_HEAD
    PyObject *function;
    PyObject *dict;
} quick_handing;

static PyTypeObject *handing_type;
static PyObject *method_type; /* types.MethodType */

static int handing_traverse(PyObject *object, visitproc visit, void *arg)
{
    quick_handing *self = (quick_handing *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->function);
    Py_VISIT(self->dict);
    return 0;
}

static int handing_clear(PyObject *object)
{
    quick_handing *self = (quick_handing *)object;
    Py_CLEAR(self->function);
    Py_CLEAR(self->dict);
    return 0;
}

static void handing_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    handing_clear(object);
    quick_free(object);
}

static int handing_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *function;
    if (!PyArg_ParseTuple(args, "O:handing", &function))
        return -1;
    ((quick_handing *)object)->function = Py_NewRef(function);
    return 0;
}

static PyObject *handing_get(PyObject *object, PyObject *instance, PyObject *Py_UNUSED(kind))
{
    if (instance == NULL || instance == Py_None)
        return Py_NewRef(object);
    return PyObject_CallFunctionObjArgs(method_type, object, instance, NULL);
}

/* Puts a thing back into its pocket, a deque. An exception that is set stays. */
static void pocket_put_back(PyObject *pocket, PyObject *thing)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *done = PyObject_CallMethod(pocket, "appendleft", "O", thing);
    if (done == NULL)
        PyErr_WriteUnraisable(pocket);
    Py_XDECREF(done);
    PyErr_Restore(type, value, trace);
}

/* Calls the object's method with the list as the argument after the object itself. */
static PyObject *handing_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    const quick_handing *self = (const quick_handing *)object;
    PyObject *taken = PyList_New(0), *all = NULL, *made = NULL;
    Py_ssize_t count = PyTuple_Size(args);
    if (taken != NULL)
        all = PyTuple_New(count + 1);
    for (Py_ssize_t index = 0; all != NULL && index <= count; index++) {
        PyObject *one = index == 1 || count == 0 ? taken : PyTuple_GetItem(args, index == 0 ? 0 : index - 1);
        PyTuple_SetItem(all, index, Py_NewRef(one));
    }
    PyObject *result = all != NULL ? PyObject_Call(self->function, all, kwargs) : NULL;
    bool whole = result != NULL && PyErr_CheckSignals() == 0;
    if (taken != NULL && PyList_Size(taken) == 2 && whole)
        made = Py_NewRef(PyList_GetItem(taken, 0));
    else if (taken != NULL && PyList_Size(taken) == 2)
        pocket_put_back(PyList_GetItem(taken, 1), PyList_GetItem(taken, 0));
    else if (whole)
        made = Py_NewRef(result);
    Py_XDECREF(result);
    Py_XDECREF(all);
    Py_XDECREF(taken);
    return made;
}

/* hand(pocket, item, taken, thing): takes an item out of a pocket, so that its thing is handed out
 * at the end of the call. False: another thread has done so. */
static PyObject *pocket_hand(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *pocket, *item, *taken, *thing;
    if (!PyArg_ParseTuple(args, "OOO!O:hand", &pocket, &item, &PyList_Type, &taken, &thing))
        return NULL;
    PyObject *done = PyObject_CallMethod(pocket, "remove", "O", item);
    if (done == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError) && !PyErr_ExceptionMatches(PyExc_IndexError))
            return NULL;
        PyErr_Clear();
        Py_RETURN_FALSE;
    }
    Py_DECREF(done);
    if (PyList_Append(taken, thing) == 0 && PyList_Append(taken, pocket) == 0)
        Py_RETURN_TRUE;
    PyList_SetSlice(taken, 0, PyList_Size(taken), NULL);
    pocket_put_back(pocket, thing);
    return NULL;
}

/* A block of a region, which goes back to the region with the last reference. Python ignores an
 * exception raised in a `__del__`, so a block given back there would be lost to a
 * KeyboardInterrupt. The region's handle holds no block, so there is no cycle for the garbage
 * collector, and the region lives as long as its blocks. */
typedef struct quick_block {
    PyObject_HEAD
    PyObject *handle;
    rt_region *region;
    int64_t block; /* negative: none */
    unsigned long long offset;
} quick_block;

enum { BLOCK_UNIT = 64 /* bytes in which a block's number counts its offset */ };

static PyTypeObject *block_type;

static void block_dealloc(PyObject *object)
{
    quick_block *self = (quick_block *)object;
    if (self->block >= 0) {
        Py_BEGIN_ALLOW_THREADS(void)
        rt_region_free(self->region, self->block);
        Py_END_ALLOW_THREADS
    }
    Py_CLEAR(self->handle);
    quick_free(object);
}

/* allocate(handle, region, nbytes, alignment): returns a block of the region, or a negative status.
 * `handle` keeps the region. */
static PyObject *block_allocate(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "allocate(handle, region, nbytes, alignment)");
        return NULL;
    }
    rt_region *region = (rt_region *)(uintptr_t)PyLong_AsUnsignedLongLong(args[1]);
    unsigned long long nbytes = PyLong_AsUnsignedLongLong(args[2]), alignment = PyLong_AsUnsignedLongLong(args[3]);
    if (PyErr_Occurred() != NULL)
        return NULL;
    quick_block *made = (quick_block *)((allocfunc)PyType_GetSlot(block_type, Py_tp_alloc))(block_type, 0);
    if (made == NULL)
        return NULL;
    int64_t block;
    Py_BEGIN_ALLOW_THREADS
    block = rt_region_allocate(region, nbytes, alignment);
    Py_END_ALLOW_THREADS
    made->handle = Py_NewRef(args[0]);
    made->region = region;
    made->block = block;
    if (block < 0) {
        Py_DECREF(made);
        return PyLong_FromLongLong(block);
    }
    made->offset = ((unsigned long long)block >> RT_BLOCK_INDEX_BITS) * BLOCK_UNIT;
    return (PyObject *)made;
}

static PyMemberDef block_members[] = {
    {"offset", T_ULONGLONG, offsetof(quick_block, offset), READONLY, "where it begins in its region"},
    {NULL, 0, 0, 0, NULL},
};
static PyType_Slot block_slots[] = {
    {Py_tp_doc, (void *)"A block of a region. It is freed with its last reference, even when an exception interrupts its\n"
                        "holder."},
    {Py_tp_dealloc, (void *)block_dealloc},
    {Py_tp_members, block_members},
    {0, NULL},
};
static PyType_Spec block_spec = {"rdmatensor._native.Block", sizeof(quick_block), 0, Py_TPFLAGS_DEFAULT, block_slots};

static PyMemberDef handing_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(quick_handing, dict), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef handing_getters[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot handing_slots[] = {
    {Py_tp_doc, (void *)"handing(method, /)\n--\n\n"
                        "A method that puts an item into its list with `hand`, and whose caller gets the item. The item\n"
                        "goes back into its pocket when the method or a signal's handler raises."},
    {Py_tp_traverse, (void *)handing_traverse},
    {Py_tp_clear, (void *)handing_clear},
    {Py_tp_dealloc, (void *)handing_dealloc},
    {Py_tp_init, (void *)handing_init},
    {Py_tp_call, (void *)handing_call},
    {Py_tp_descr_get, (void *)handing_get},
    {Py_tp_members, handing_members},
    {Py_tp_getset, handing_getters},
    {0, NULL},
};
static PyType_Spec handing_spec = {"rdmatensor._native.handing", sizeof(quick_handing), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, handing_slots};

static PyMethodDef functions[] = {
    {"hand", pocket_hand, METH_VARARGS,
     "hand($module, pocket, item, taken, thing, /)\n--\n\n"
     "Takes an item out of a deque and hands out `thing`. False: another thread took the item."},
    {"allocate", (PyCFunction)(void *)block_allocate, METH_FASTCALL,
     "allocate($module, handle, region, nbytes, alignment, /)\n--\n\n"
     "Allocates a block of the region. Gives it, or a negative status."},
    {NULL, NULL, 0, NULL},
};

int quick_hand_add(PyObject *module)
{
    if (method_type == NULL) {
        PyObject *types = PyImport_ImportModule("types");
        method_type = types != NULL ? PyObject_GetAttrString(types, "MethodType") : NULL;
        Py_XDECREF(types);
    }
    int status = method_type != NULL ? quick_type_add(module, &handing_spec, &handing_type) : -1;
    if (status == 0)
        status = quick_type_add(module, &block_spec, &block_type);
    return status == 0 ? PyModule_AddFunctions(module, functions) : status;
}
