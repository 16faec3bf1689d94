/* quick_channel.h: the base class of channels, for quick.c, which hands it out with the others. */
#ifndef RT_PYTHON_QUICK_CHANNEL_H
#define RT_PYTHON_QUICK_CHANNEL_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>

/* A new reference, or NULL with an exception. With the interpreter's lock. */
PyObject *quick_channel_type(void);

#endif
