/* dlpack.h: DLPack capsules over memory that a Python object keeps alive. The only part of the extension that knows Python,
 * because consumers free what they took from any thread, and capsules die while an exception is on its way: neither bears a
 * callback written in Python. Its marked slice is what cffi reads, as that of rdmatensor.h. */
#ifndef RT_PYTHON_DLPACK_H
#define RT_PYTHON_DLPACK_H

#include <stdint.h>

/* <cffi> */
enum { RT_DLPACK_RANK_MAX = 16, RT_DLPACK_READ_ONLY = 1, RT_DLPACK_IS_COPIED = 2 };

/* A new capsule that shows `rank` dimensions of contiguous host memory, as a PyObject* that belongs to the caller; 0 with no
 * memory for it. It holds a reference to `owner`, a PyObject*, until its consumer is done with it. `code` and `bits` are
 * DLPack's type; flags are the RT_DLPACK_* above, for which it must be versioned (1.1, else 0.8). Called without the
 * interpreter's lock, which it takes. */
uint64_t rt_dlpack_capsule(uint64_t address, uint8_t code, uint8_t bits, int32_t rank, const int64_t *dims, uint64_t flags,
                           int32_t versioned, uint64_t owner);
/* Capsules, and what consumers took out of them, that are alive. */
int64_t rt_dlpack_alive(void);
/* </cffi> */

#endif
