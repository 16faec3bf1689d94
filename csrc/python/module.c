/* module.c: the module rdmatensor._native. cffi makes it, with `ffi` and `lib`; this room adds its
 * classes and functions. One shared object is one module, so that they use the same core: another
 * extension would have a second copy of the core's state, or reach the first through pointers.
 * rdmatensor/_native.pyi has the types. */
#include "python/dlpack.h"
#include "python/quick_parts.h"

/* cffi's part, which ffi_build.py renames: the module, a new reference, or NULL with an exception. */
PyObject *rt_cffi_module(void);

PyMODINIT_FUNC PyInit__native(void)
{
    static int (*const add[])(PyObject *) = {quick_add,          quick_array_add, quick_tensor_add,  quick_receive_add,
                                             quick_many_add,     quick_send_add,  quick_loan_add,    quick_hand_add,
                                             quick_copy_add,     quick_held_add,  quick_channel_add, quick_team_add,
                                             quick_transfer_add, rt_dlpack_add};
    PyObject *module = rt_cffi_module();
    for (size_t index = 0; module != NULL && index < sizeof add / sizeof add[0]; index++) {
        if (add[index](module) != 0)
            Py_CLEAR(module);
    }
    return module;
}
