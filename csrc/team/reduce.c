/* reduce.c: reductions of bytes in memory, this member's or a peer's. Loops that the compiler
 * vectorises, for the types and reductions that training uses; everything else goes through the
 * call's own function. HOT. */
#include <math.h>
#include <string.h>

#include "proto/dtype.h"
#include "team/reduce.h"

enum { BLOCK = 4096 }; /* bytes of the intermediate result of three or more sources: stays in the first cache */

#if defined(__GNUC__) && !defined(__clang__)
#define EACH_ON_ITS_OWN _Pragma("GCC ivdep") /* target may be a source: element by element, so nothing depends on it */
#else
#define EACH_ON_ITS_OWN
#endif

typedef void (*kernel)(void *target, const void *left, const void *right, uint64_t count);

#define KERNEL(name, type, value)                                                                                                \
    static void name(void *target_bytes, const void *left_bytes, const void *right_bytes, uint64_t count)                        \
    {                                                                                                                            \
        type *target = target_bytes;                                                                                             \
        const type *left = left_bytes, *right = right_bytes;                                                                     \
        EACH_ON_ITS_OWN                                                                                                          \
        for (uint64_t index = 0; index < count; index++) {                                                                       \
            type a = left[index], b = right[index];                                                                              \
            target[index] = (type)(value);                                                                                       \
        }                                                                                                                        \
    }

static inline float half_widen(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Rounds to the nearest, ties to even; a NaN stays NaN. */
static inline uint16_t float_narrow(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

/* Sums and products of whole numbers are computed unsigned, where they may wrap, by the bytes of an
 * element. */
#define WRAPS_1 uint32_t
#define WRAPS_2 uint32_t
#define WRAPS_4 uint32_t
#define WRAPS_8 uint64_t

/* The loops of one row of dtype.h, by its last column. */
#define LOOPS_NONE(name, type, wraps)
#define LOOPS_WHOLE(name, type, wraps)                                                                                           \
    KERNEL(sum_##name, type, (wraps)a + (wraps)b)                                                                                \
    KERNEL(product_##name, type, (wraps)((wraps)a * 1u) * (wraps)b)                                                              \
    KERNEL(min_##name, type, b < a ? b : a)                                                                                      \
    KERNEL(max_##name, type, a < b ? b : a)                                                                                      \
    KERNEL(and_##name, type, a &b)                                                                                               \
    KERNEL(or_##name, type, a | b)                                                                                               \
    KERNEL(xor_##name, type, a ^ b)
/* A NaN on either side makes the minimum and the maximum NaN, as torch.minimum and torch.maximum
 * do. */
#define LOOPS_FRACTION(name, type, wraps)                                                                                        \
    KERNEL(sum_##name, type, a + b)                                                                                              \
    KERNEL(product_##name, type, a *b)                                                                                           \
    KERNEL(min_##name, type, a < b || isnan(a) ? a : b)                                                                          \
    KERNEL(max_##name, type, b < a || isnan(a) ? a : b)
#define LOOPS_BFLOAT(name, type, wraps) KERNEL(sum_##name, type, float_narrow(half_widen(a) + half_widen(b)))

#define LOOPS(constant, code, name, bytes, dlpack, torch, widened, element, loops) LOOPS_##loops(constant, element, WRAPS_##bytes)
RT_DTYPES(LOOPS)

/* The same loops, as a row by reduction; those that are not there are NULL. */
#define ROW_NONE(name)                                                                                                           \
    {                                                                                                                            \
        NULL                                                                                                                     \
    }
#define ROW_WHOLE(name)                                                                                                          \
    {                                                                                                                            \
        sum_##name, product_##name, min_##name, max_##name, and_##name, or_##name, xor_##name                                    \
    }
#define ROW_FRACTION(name)                                                                                                       \
    {                                                                                                                            \
        sum_##name, product_##name, min_##name, max_##name, NULL, NULL, NULL                                                     \
    }
#define ROW_BFLOAT(name)                                                                                                         \
    {                                                                                                                            \
        sum_##name, NULL, NULL, NULL, NULL, NULL, NULL                                                                           \
    }

#define ROW(constant, code, name, bytes, dlpack, torch, widened, element, loops) [code] = ROW_##loops(constant),
static const kernel kernels[RT_DTYPE_COUNT][RT_TEAM_XOR + 1] = {RT_DTYPES(ROW)};

static int values_reduce_two(const rt_team_call *call, kernel ours, void *target, const void *left, const void *right,
                             uint64_t count)
{
    if (ours != NULL) {
        ours(target, left, right, count);
        return RT_OK;
    }
    if (call->reduce == NULL || call->reduce(call->dtype, call->reduction, target, left, right, count) != 0)
        return rt_fail(call->detail, RT_E_UNSUPPORTED, 0, "this reduction is not there for %s", rt_dtype_name(call->dtype));
    return RT_OK;
}

/* Reduces several sources block by block, so that intermediate results stay in the cache. */
static int values_reduce_many(const rt_team_call *call, kernel ours, uint8_t *target, const void *const *sources, uint32_t many,
                              uint64_t count)
{
    _Alignas(64) uint8_t between[BLOCK];
    uint64_t item = rt_dtype_size(call->dtype), step = BLOCK / item;
    for (uint64_t from = 0; from < count; from += step) {
        uint64_t some = count - from < step ? count - from : step, offset = from * item;
        const void *left = (const uint8_t *)sources[0] + offset;
        for (uint32_t index = 1; index < many; index++) {
            void *to = index + 1 < many ? (void *)between : (void *)(target + offset);
            int status = values_reduce_two(call, ours, to, left, (const uint8_t *)sources[index] + offset, some);
            if (status != RT_OK)
                return status;
            left = to;
        }
    }
    return RT_OK;
}

int rt_team_reduce_blocks(const rt_team_call *call, void *target, const void *const *sources, uint32_t many, uint64_t count)
{
    if (many == 1) {
        if (target != sources[0])
            memmove(target, sources[0], count * rt_dtype_size(call->dtype));
        return RT_OK;
    }
    kernel ours = kernels[call->dtype][call->reduction];
    if (many == 2)
        return values_reduce_two(call, ours, target, sources[0], sources[1], count);
    return values_reduce_many(call, ours, target, sources, many, count);
}
