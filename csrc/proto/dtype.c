/* dtype.c: names and sizes of element types, made from the rows of dtype.h (EDGES.md section 2).
 *
 * Pure and without state; edges, teams and the C interface ask for names and sizes. A code may come
 * from a peer: an unknown one has the size 0 and the name "unknown", and the caller refuses it.
 * Codes are positions in the table, which the compiler checks. */
#include <stdbool.h>

#include "proto/dtype.h"

/* The codes run on: a row whose code is not its position in the table does not compile. */
#define POSITION(constant, code, name, bytes, dlpack, torch, widened, element, loops) POSITION_##constant,
enum { POSITION_ANY, RT_DTYPES(POSITION) POSITION_COUNT };
#define CHECKED(constant, code, name, bytes, dlpack, torch, widened, element, loops)                                             \
    _Static_assert((code) == POSITION_##constant, name ": codes run on without a gap");                                          \
    _Static_assert(sizeof(element) == (bytes), name ": the element of C has this size");                                         \
    _Static_assert((bytes) <= 16 && ((bytes) & ((bytes)-1)) == 0, name ": 1, 2, 4, 8 or 16 bytes");
RT_DTYPES(CHECKED)
_Static_assert((int)RT_DTYPE_COUNT == (int)POSITION_COUNT && (int)RT_DTYPE_COUNT <= UINT8_MAX, "a code is one byte of the wire");

typedef struct dtype_fact {
    const char *name;
    uint32_t size, dlpack;
} dtype_fact;

#define FACT(constant, code, name, bytes, dlpack, torch, widened, element, loops) [code] = {name, bytes, dlpack},
static const dtype_fact facts[RT_DTYPE_COUNT] = {[RT_DTYPE_ANY] = {"any", 0, 0}, RT_DTYPES(FACT)};

uint32_t rt_dtype_size(uint32_t dtype)
{
    return dtype < RT_DTYPE_COUNT ? facts[dtype].size : 0;
}

const char *rt_dtype_name(uint32_t dtype)
{
    return dtype < RT_DTYPE_COUNT ? facts[dtype].name : "unknown";
}

uint32_t rt_dtype_dlpack(uint32_t dtype)
{
    return dtype < RT_DTYPE_COUNT ? facts[dtype].dlpack : 0;
}
