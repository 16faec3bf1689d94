/* reduce.c: sums and the like of what lies in memory, own or a peer's. Loops the compiler vectorises, for the types and
 * reductions that training uses; everything else goes through the call's own function. HOT. */
#include "collective/collective.h"

#include <string.h>

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

#define ARITHMETIC(suffix, type)                                                                                                 \
    KERNEL(sum_##suffix, type, a + b)                                                                                            \
    KERNEL(product_##suffix, type, a *b)                                                                                         \
    KERNEL(min_##suffix, type, b < a ? b : a)                                                                                    \
    KERNEL(max_##suffix, type, a < b ? b : a)

/* Unsigned where a sum or product may wrap. */
#define WHOLE(suffix, type, wraps)                                                                                               \
    KERNEL(sum_##suffix, type, (wraps)a + (wraps)b)                                                                              \
    KERNEL(product_##suffix, type, (wraps)((wraps)a * 1u) * (wraps)b)                                                            \
    KERNEL(min_##suffix, type, b < a ? b : a)                                                                                    \
    KERNEL(max_##suffix, type, a < b ? b : a)                                                                                    \
    KERNEL(and_##suffix, type, a &b)                                                                                             \
    KERNEL(or_##suffix, type, a | b)                                                                                             \
    KERNEL(xor_##suffix, type, a ^ b)

ARITHMETIC(f32, float)
ARITHMETIC(f64, double)
WHOLE(u8, uint8_t, uint32_t)
WHOLE(i8, int8_t, uint32_t)
WHOLE(i32, int32_t, uint32_t)
WHOLE(i64, int64_t, uint64_t)

static inline float widen(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To the nearest, ties to even; what is not a number stays none. */
static inline uint16_t narrow(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

KERNEL(sum_bf16, uint16_t, narrow(widen(a) + widen(b)))

#define FLOATS(suffix)                                                                                                           \
    {                                                                                                                            \
        sum_##suffix, product_##suffix, min_##suffix, max_##suffix, NULL, NULL, NULL                                             \
    }
#define WHOLES(suffix)                                                                                                           \
    {                                                                                                                            \
        sum_##suffix, product_##suffix, min_##suffix, max_##suffix, and_##suffix, or_##suffix, xor_##suffix                      \
    }

/* Minimum and maximum of numbers that may be none are left to the call's function, which knows what it wants of them. */
static const kernel kernels[RT_DTYPE_COUNT][RT_TEAM_XOR + 1] = {
    [RT_DTYPE_UINT8] = WHOLES(u8),
    [RT_DTYPE_INT8] = WHOLES(i8),
    [RT_DTYPE_INT32] = WHOLES(i32),
    [RT_DTYPE_INT64] = WHOLES(i64),
    [RT_DTYPE_FLOAT32] = FLOATS(f32),
    [RT_DTYPE_FLOAT64] = FLOATS(f64),
    [RT_DTYPE_BFLOAT16] = {sum_bf16, NULL, NULL, NULL, NULL, NULL, NULL},
};

static int reduce_two(const rt_team_call *call, kernel ours, void *target, const void *left, const void *right, uint64_t count)
{
    if (ours != NULL) {
        ours(target, left, right, count);
        return RT_OK;
    }
    if (call->reduce == NULL || call->reduce(call->dtype, call->reduction, target, left, right, count) != 0)
        return rt_fail(call->detail, RT_E_UNSUPPORTED, 0, "this reduction is not there for %s", rt_dtype_name(call->dtype));
    return RT_OK;
}

/* Several sources: block by block, so that what comes between stays near. */
static int reduce_many(const rt_team_call *call, kernel ours, uint8_t *target, const void *const *sources, uint32_t many,
                       uint64_t count)
{
    _Alignas(64) uint8_t between[BLOCK];
    uint64_t item = rt_dtype_size(call->dtype), step = BLOCK / item;
    for (uint64_t from = 0; from < count; from += step) {
        uint64_t some = count - from < step ? count - from : step, offset = from * item;
        const void *left = (const uint8_t *)sources[0] + offset;
        for (uint32_t index = 1; index < many; index++) {
            void *to = index + 1 < many ? (void *)between : (void *)(target + offset);
            int status = reduce_two(call, ours, to, left, (const uint8_t *)sources[index] + offset, some);
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
        return reduce_two(call, ours, target, sources[0], sources[1], count);
    return reduce_many(call, ours, target, sources, many, count);
}
