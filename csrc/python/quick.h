/* quick.h: what the fastest calls need of Python itself: bases of the classes of edges, tensors, prepared copies and channels whose usual calls are C from end
 * to end, without a frame of Python, an argument to convert or the interpreter's lock to give up and take. Whatever is not the usual
 * case calls a method written in Python. Its marked slice is what cffi reads. */
#ifndef RT_PYTHON_QUICK_H
#define RT_PYTHON_QUICK_H

#include <stdint.h>

/* <cffi> */
/* A new dict, a PyObject* that belongs to the caller, with the base classes `Tensor`, `Edge`, `Bound`, `Prepared` and `Channel` and a function
 * `receiving`; 0 when it cannot be made, with the exception lost. Called without the interpreter's lock, which it takes. */
uint64_t rt_quick_types(void);
/* </cffi> */

#endif
