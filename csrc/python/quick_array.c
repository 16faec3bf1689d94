/* quick_array.c: tensors as NumPy arrays and as DLPack capsules, without a Python frame. NumPy is
 * called through the table of functions that it gives to extensions, whose places never change: the
 * core is built without NumPy. Every array refers to its tensor, which so keeps its memory, and its
 * slot. */
#include "python/dlpack.h"
#include "python/quick_parts.h"

#include <structmember.h>

/* NumPy's own numbers: places in its table, and flags of arrays. */
enum { TABLE_TYPE = 2, TABLE_NEW = 94, TABLE_SET_BASE = 282 };
enum { CONTIGUOUS = 0x1, ALIGNED = 0x100, NOT_SWAPPED = 0x200, WRITABLE = 0x400, HAS_DESCRIPTION = 0x800 };

typedef PyObject *(*array_new)(PyTypeObject *type, PyObject *description, int rank, const Py_ssize_t *dims,
                               const Py_ssize_t *strides, void *data, int flags, PyObject *object);
typedef int (*array_set_base)(PyObject *array, PyObject *base);

/* The struct behind `__array_struct__`, as NumPy's array interface lays it out. */
typedef struct array_struct {
    int two, rank;
    char kind;
    int itemsize, flags;
    Py_ssize_t *dims, *strides;
    void *data;
    PyObject *description;
} array_struct;

static void **numpy_table; /* or NULL: tensors are seen by the methods written in Python */
static PyObject *empty_place;

/* ---- forms ---- */

static int form_traverse(PyObject *object, visitproc visit, void *arg)
{
    quick_form *self = (quick_form *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->description);
    Py_VISIT(self->capsule);
    return 0;
}

static int form_clear(PyObject *object)
{
    quick_form *self = (quick_form *)object;
    Py_CLEAR(self->description);
    Py_CLEAR(self->capsule);
    return 0;
}

static void form_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    form_clear(object);
    quick_free(object);
}

/* _describe(address, description, shape, dlpack, itemsize, readonly): tells C what the tensor is; the description is NumPy's
 * type, or None. */
static PyObject *form_describe(PyObject *object, PyObject *args)
{
    quick_form *self = (quick_form *)object;
    PyObject *description, *shape;
    int readonly;
    if (!PyArg_ParseTuple(args, "KOO!bbp:_describe", &self->address, &description, &PyTuple_Type, &shape, &self->code,
                          &self->itemsize, &readonly))
        return NULL;
    Py_ssize_t rank = PyTuple_Size(shape), step = self->itemsize;
    if (rank > QUICK_RANK_MAX)
        return PyErr_Format(PyExc_ValueError, "a tensor has at most %d dimensions, not %zd", QUICK_RANK_MAX, rank);
    for (Py_ssize_t index = rank - 1; index >= 0; index--) {
        self->dims[index] = PyLong_AsSsize_t(PyTuple_GetItem(shape, index));
        if (self->dims[index] == -1 && PyErr_Occurred() != NULL)
            return NULL;
        self->strides[index] = step;
        /* In an empty tensor, whose dimensions may multiply to anything, no stride is ever used. */
        if (self->dims[index] > 1 && __builtin_mul_overflow(step, self->dims[index], &step))
            step = self->itemsize;
    }
    self->rank = (int)rank;
    self->readonly = readonly != 0;
    Py_XDECREF(self->description);
    self->description = description != Py_None ? Py_NewRef(description) : NULL;
    Py_RETURN_NONE;
}

static void *form_data(const quick_form *form)
{
    return form->address != 0 ? (void *)(uintptr_t)form->address : (void *)&empty_place;
}

static int form_flags(const quick_form *form)
{
    return CONTIGUOUS | ALIGNED | (form->readonly ? 0 : WRITABLE);
}

/* The form of a tensor that may be seen as an array, or NULL: Python says why not. */
static const quick_form *form_of(const quick_tensor *self)
{
    bool known =
        self->ticket >= 0 && self->form != NULL && quick_form_type != NULL && PyObject_TypeCheck(self->form, quick_form_type);
    const quick_form *form = known ? (const quick_form *)self->form : NULL;
    return form != NULL && form->description != NULL ? form : NULL;
}

/* ---- arrays ---- */

static PyObject *array_of(quick_tensor *self)
{
    const quick_form *form = numpy_table != NULL ? form_of(self) : NULL;
    if (form == NULL)
        return PyObject_CallMethod((PyObject *)self, "_array", NULL);
    Py_INCREF(form->description); /* the call steals it */
    PyObject *array = ((array_new)numpy_table[TABLE_NEW])((PyTypeObject *)numpy_table[TABLE_TYPE], form->description, form->rank,
                                                          form->dims, NULL, form_data(form), form_flags(form), NULL);
    if (array != NULL && ((array_set_base)numpy_table[TABLE_SET_BASE])(array, Py_NewRef(self)) != 0)
        Py_CLEAR(array);
    if (array == NULL || !self->lent)
        return array;
    if (self->arrays == NULL)
        self->arrays = PyList_New(0);
    if (self->arrays == NULL || PyList_Append(self->arrays, array) != 0)
        Py_CLEAR(array);
    return array;
}

PyObject *quick_tensor_numpy(PyObject *object, PyObject *Py_UNUSED(none))
{
    return array_of((quick_tensor *)object);
}

/* __array__(dtype=None, copy=None) */
PyObject *quick_tensor_array(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    bool plain = true;
    Py_ssize_t all = count + (names != NULL ? PyTuple_Size(names) : 0);
    for (Py_ssize_t index = 0; index < all; index++)
        plain = plain && args[index] == Py_None;
    if (plain)
        return array_of((quick_tensor *)object);
    PyObject *method = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "_array_as"), *made = NULL;
    if (method != NULL)
        made = quick_call(method, object, NULL, args, count, names);
    Py_XDECREF(method);
    return made;
}

static void struct_end(PyObject *capsule)
{
    PyMem_Free(PyCapsule_GetPointer(capsule, NULL));
}

/* Made once for each form. */
static PyObject *form_capsule(quick_form *form)
{
    if (form->capsule != NULL)
        return Py_NewRef(form->capsule);
    array_struct *made = PyMem_Calloc(1, sizeof *made);
    if (made == NULL)
        return PyErr_NoMemory();
    *made = (array_struct){.two = 2,
                           .rank = form->rank,
                           .itemsize = form->itemsize,
                           .flags = form_flags(form) | NOT_SWAPPED | HAS_DESCRIPTION,
                           .dims = form->dims,
                           .strides = form->strides,
                           .data = form_data(form),
                           .description = form->description};
    form->capsule = PyCapsule_New(made, NULL, struct_end);
    if (form->capsule == NULL) {
        PyMem_Free(made);
        return NULL;
    }
    return Py_NewRef(form->capsule);
}

/* A tensor in a loan has none, so that NumPy asks `__array__` for an array that can be ended. */
PyObject *quick_tensor_struct(PyObject *object, void *Py_UNUSED(closure))
{
    quick_tensor *self = (quick_tensor *)object;
    const quick_form *form = self->lent ? NULL : form_of(self);
    if (form != NULL)
        return form_capsule((quick_form *)self->form);
    PyErr_SetString(PyExc_AttributeError, "__array_struct__");
    return NULL;
}

/* ---- DLPack ---- */

/* Whether the only argument with a value is max_version, and whether that is 1.0 or later. */
static bool dlpack_is_usual(PyObject *const *args, Py_ssize_t count, PyObject *names, bool *versioned_out)
{
    *versioned_out = false;
    if (count != 0)
        return false;
    for (Py_ssize_t index = 0; names != NULL && index < PyTuple_Size(names); index++) {
        if (args[index] == Py_None)
            continue;
        if (PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, index), "max_version") != 0 || !PyTuple_Check(args[index]) ||
            PyTuple_Size(args[index]) != 2)
            return false;
        long major = PyLong_AsLong(PyTuple_GetItem(args[index], 0));
        if (major == -1 && PyErr_Occurred() != NULL) {
            PyErr_Clear();
            return false;
        }
        *versioned_out = major >= 1;
    }
    return true;
}

PyObject *quick_tensor_dlpack(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    const quick_tensor *self = (const quick_tensor *)object;
    bool versioned, known = self->ticket >= 0 && self->form != NULL && quick_form_type != NULL &&
                            PyObject_TypeCheck(self->form, quick_form_type);
    const quick_form *form = known ? (const quick_form *)self->form : NULL;
    if (form != NULL && dlpack_is_usual(args, count, names, &versioned) && (versioned || !form->readonly))
        return rt_dlpack_make(form->address, form->code, form->itemsize, form->dims, form->rank,
                              form->readonly ? RT_DLPACK_READ_ONLY : 0, versioned, object);
    PyObject *method = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "_dlpack"), *made = NULL;
    if (method != NULL)
        made = quick_call(method, object, NULL, args, count, names);
    Py_XDECREF(method);
    return made;
}

PyObject *quick_tensor_dlpack_device(PyObject *Py_UNUSED(object), PyObject *Py_UNUSED(none))
{
    return Py_BuildValue("ii", 1, 0); /* the number of host memory, and of the only one */
}

/* ---- the names ---- */

PyTypeObject *quick_form_type;

static PyMethodDef form_methods[] = {
    {"_describe", form_describe, METH_VARARGS,
     "_describe($self, address, description, shape, dlpack, itemsize, readonly, /)\n--\n\n"
     "Tells C what the tensor is. `description` is NumPy's type, or None."},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot form_slots[] = {
    {Py_tp_doc, (void *)"QuickForm()\n--\n\nThe place and type of a tensor: the part of it that the quick calls use."},
    {Py_tp_traverse, (void *)form_traverse},
    {Py_tp_clear, (void *)form_clear},
    {Py_tp_dealloc, (void *)form_dealloc},
    {Py_tp_methods, form_methods},
    {0, NULL},
};
static PyType_Spec form_spec = {"rdmatensor._native.QuickForm", sizeof(quick_form), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, form_slots};

/* arrays(table): tells C the table that NumPy gives to extensions. */
static PyObject *arrays_set(PyObject *Py_UNUSED(module), PyObject *table)
{
    void **found = PyCapsule_GetPointer(table, NULL);
    if (found == NULL)
        return NULL;
    numpy_table = found;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"arrays", arrays_set, METH_O,
     "arrays($module, table, /)\n--\n\nTells C the table of functions that NumPy gives to extensions."},
    {NULL, NULL, 0, NULL},
};

int quick_array_add(PyObject *module)
{
    int status = quick_type_add(module, &form_spec, &quick_form_type);
    return status == 0 ? PyModule_AddFunctions(module, functions) : status;
}
