/* quick_parts.c: the shared parts of the quick classes: holders of one object, calls of methods in
 * Python, the C edge behind an object. */
#include "python/quick_parts.h"

#include <string.h>

PyTypeObject *quick_edge_type, *quick_tensor_type;

void quick_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc end = (freefunc)PyType_GetSlot(type, Py_tp_free);
    end(self);
    Py_DECREF(type);
}

int quick_holder_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((quick_holder *)object)->held);
    return 0;
}

int quick_holder_clear(PyObject *object)
{
    Py_CLEAR(((quick_holder *)object)->held);
    return 0;
}

void quick_holder_dealloc(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    quick_holder_clear(object);
    quick_free(object);
}

PyObject *quick_call(PyObject *method, PyObject *object, PyObject *extra, PyObject *const *args, Py_ssize_t count,
                     PyObject *names)
{
    Py_ssize_t before = extra != NULL ? 2 : 1;
    PyObject *all = PyTuple_New(count + before), *named = names != NULL ? PyDict_New() : NULL, *result = NULL;
    bool whole = all != NULL && (names == NULL || named != NULL);
    for (Py_ssize_t index = 0; whole && index < count + before; index++) {
        PyObject *one = index == 0 ? object : index < before ? extra : args[index - before];
        whole = PyTuple_SetItem(all, index, Py_NewRef(one)) == 0;
    }
    for (Py_ssize_t index = 0; whole && named != NULL && index < PyTuple_Size(names); index++)
        whole = PyDict_SetItem(named, PyTuple_GetItem(names, index), args[count + index]) == 0;
    if (whole)
        result = PyObject_Call(method, all, named);
    Py_XDECREF(all);
    Py_XDECREF(named);
    return result;
}

int quick_type_add(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    if (*type == NULL)
        *type = (PyTypeObject *)PyType_FromSpec(spec);
    return *type != NULL ? PyModule_AddType(module, *type) : -1;
}

char *quick_text(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = PyMem_Malloc(size);
    if (copy != NULL)
        memcpy(copy, text, size);
    return copy;
}
