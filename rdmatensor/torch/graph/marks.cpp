/* marks.cpp: the two calls that generated code makes around a node, as methods of a built-in type: a tenth of what they
 * cost through ctypes. The calls themselves are those of allocator.cpp, given by address (sites.py). */
#define Py_LIMITED_API 0x030a0000
#include <Python.h>

#include <cstdint>

namespace {

struct Marks {
    PyObject_HEAD
    PyObject *owner; /* keeps `sites` */
    void *sites;
    void (*enter)(void *sites, uint32_t number);
    void (*leave)();
};

PyObject *marks_new(PyTypeObject *type, PyObject *arguments, PyObject *)
{
    PyObject *owner;
    unsigned long long sites, enter, leave;
    if (!PyArg_ParseTuple(arguments, "OKKK:Marks", &owner, &sites, &enter, &leave))
        return nullptr;
    auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    auto *marks = reinterpret_cast<Marks *>(allocate(type, 0));
    if (marks == nullptr)
        return nullptr;
    Py_INCREF(owner);
    marks->owner = owner;
    marks->sites = reinterpret_cast<void *>(sites);
    marks->enter = reinterpret_cast<void (*)(void *, uint32_t)>(enter);
    marks->leave = reinterpret_cast<void (*)()>(leave);
    return reinterpret_cast<PyObject *>(marks);
}

void marks_delete(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(reinterpret_cast<Marks *>(self)->owner);
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

PyObject *marks_enter(PyObject *self, PyObject *number)
{
    const unsigned long value = PyLong_AsUnsignedLong(number);
    if (value == static_cast<unsigned long>(-1) && PyErr_Occurred())
        return nullptr;
    if (value > UINT32_MAX) {
        PyErr_SetString(PyExc_OverflowError, "a node's number has 32 bits");
        return nullptr;
    }
    auto *marks = reinterpret_cast<Marks *>(self);
    marks->enter(marks->sites, static_cast<uint32_t>(value));
    Py_RETURN_NONE;
}

PyObject *marks_leave(PyObject *self, PyObject *)
{
    reinterpret_cast<Marks *>(self)->leave();
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"enter", marks_enter, METH_O, "This thread runs the node with that number from here on."},
    {"leave", marks_leave, METH_NOARGS, "This thread runs no node any more."},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void *>(marks_new)},
    {Py_tp_dealloc, reinterpret_cast<void *>(marks_delete)},
    {Py_tp_methods, methods},
    {0, nullptr},
};

PyType_Spec marks_spec = {"rdmatensor_marks.Marks", sizeof(Marks), 0, Py_TPFLAGS_DEFAULT, slots};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "rdmatensor_marks", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

} // namespace

PyMODINIT_FUNC PyInit_rdmatensor_marks()
{
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = module == nullptr ? nullptr : PyType_FromSpec(&marks_spec);
    if (type == nullptr || PyModule_AddObject(module, "Marks", type) < 0) {
        Py_XDECREF(type);
        Py_XDECREF(module);
        return nullptr;
    }
    return module;
}
