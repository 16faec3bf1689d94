/* test_team_reduce.c: sums and the like of one to four sources, for every type that has a loop of its own, and through the call's own
 * function for the others. Needs csrc/team/reduce.c. */
#include <math.h>

#include "check.h"
#include "proto/dtype.h"
#include "proto/edge_layout.h"
#include "team/reduce.h"
#include "team/team.h"

enum { LARGEST = 3 * 4096 + 7, MANY = 4 };

static uint8_t sources[MANY][16 * LARGEST], target[16 * LARGEST + 16];

/* ---- whole numbers ---- */

static int64_t take(const uint8_t *bytes, uint32_t dtype, uint64_t index)
{
    switch (dtype) {
    case RT_DTYPE_UINT8: return bytes[index];
    case RT_DTYPE_INT8: return ((const int8_t *)bytes)[index];
    case RT_DTYPE_INT32: return ((const int32_t *)(const void *)bytes)[index];
    default: return ((const int64_t *)(const void *)bytes)[index];
    }
}

static int64_t narrowed(uint64_t value, uint32_t dtype)
{
    return dtype == RT_DTYPE_UINT8   ? (uint8_t)value
           : dtype == RT_DTYPE_INT8  ? (int8_t)value
           : dtype == RT_DTYPE_INT32 ? (int32_t)value
                                     : (int64_t)value;
}

static int64_t joined(int64_t left, int64_t right, uint32_t reduction, uint32_t dtype)
{
    switch (reduction) {
    case RT_TEAM_SUM: return narrowed((uint64_t)left + (uint64_t)right, dtype);
    case RT_TEAM_PRODUCT: return narrowed((uint64_t)left * (uint64_t)right, dtype);
    case RT_TEAM_MIN: return left < right ? left : right;
    case RT_TEAM_MAX: return left > right ? left : right;
    case RT_TEAM_AND: return left & right;
    case RT_TEAM_OR: return left | right;
    default: return left ^ right;
    }
}

static void fill_sources(uint32_t salt)
{
    uint32_t state = salt;
    for (uint32_t source = 0; source < MANY; source++)
        for (size_t at = 0; at < sizeof sources[0]; at++) {
            state = state * 1664525u + 1013904223u;
            sources[source][at] = (uint8_t)(state >> 24);
        }
}

static void whole_numbers_are_reduced_as_two_by_two(void)
{
    static const uint32_t dtypes[] = {RT_DTYPE_UINT8, RT_DTYPE_INT8, RT_DTYPE_INT32, RT_DTYPE_INT64};
    static const uint64_t counts[] = {0, 1, 511, 512, 513, 1024, 4095, 4096, 4097, LARGEST};
    const void *const given[MANY] = {sources[0], sources[1], sources[2], sources[3]};
    fill_sources(1);
    for (uint32_t each = 0; each < 4 * 7 * 10 * MANY; each++) {
        uint32_t dtype = dtypes[each % 4], many = 1 + each / 280;
        uint64_t count = counts[each / 28 % 10], size = rt_dtype_size(dtype);
        rt_team_call call = {.dtype = dtype, .reduction = each / 4 % 7};
        memset(target, 0x77, sizeof target);
        CHECK_INT(rt_team_reduce_blocks(&call, target, given, many, count), RT_OK);
        for (uint64_t index = 0; index < count; index++) {
            int64_t wanted = take(sources[0], dtype, index);
            for (uint32_t source = 1; source < many; source++)
                wanted = joined(wanted, take(sources[source], dtype, index), call.reduction, dtype);
            if (take(target, dtype, index) != wanted)
                printf("%s, reduction %u of %u, at %llu\n", rt_dtype_name(dtype), call.reduction, many,
                       (unsigned long long)index);
            CHECK_INT(take(target, dtype, index), wanted);
        }
        for (uint64_t at = count * size; at < count * size + 16; at++)
            CHECK_INT(target[at], 0x77);
    }
}

static void the_target_may_be_any_of_the_sources(void)
{
    for (uint32_t many = 1; many <= MANY; many++) {
        for (uint32_t own = 0; own < many; own++) {
            const void *given[MANY] = {sources[0], sources[1], sources[2], sources[3]};
            rt_team_call call = {.dtype = RT_DTYPE_INT32, .reduction = RT_TEAM_SUM};
            fill_sources(7 + own);
            memcpy(target, sources[own], sizeof sources[0]);
            given[own] = target;
            CHECK_INT(rt_team_reduce_blocks(&call, target, given, many, LARGEST), RT_OK);
            for (uint64_t index = 0; index < LARGEST; index++) {
                uint32_t wanted = 0;
                for (uint32_t source = 0; source < many; source++)
                    wanted += (uint32_t)take(sources[source], RT_DTYPE_INT32, index);
                CHECK_INT(take(target, RT_DTYPE_INT32, index), (int32_t)wanted);
            }
        }
    }
}

/* ---- numbers with a fraction ---- */

static void fractions_are_reduced_too(void)
{
    static float floats[3][100], got[100];
    static double doubles[3][100], result[100];
    for (uint32_t source = 0; source < 3; source++)
        for (uint32_t index = 0; index < 100; index++) {
            floats[source][index] = (float)((int)(index * 7 + source * 31) % 61 - 30) / 4;
            doubles[source][index] = (double)floats[source][index] / 3;
        }
    const void *const singles[] = {floats[0], floats[1], floats[2]}, *const twice[] = {doubles[0], doubles[1], doubles[2]};
    for (uint32_t reduction = RT_TEAM_SUM; reduction <= RT_TEAM_MAX; reduction++) {
        rt_team_call call = {.dtype = RT_DTYPE_FLOAT32, .reduction = reduction};
        CHECK_INT(rt_team_reduce_blocks(&call, got, singles, 3, 100), RT_OK);
        call.dtype = RT_DTYPE_FLOAT64;
        CHECK_INT(rt_team_reduce_blocks(&call, result, twice, 3, 100), RT_OK);
        for (uint32_t index = 0; index < 100; index++) {
            float a = floats[0][index], b = floats[1][index], c = floats[2][index];
            double x = doubles[0][index], y = doubles[1][index], z = doubles[2][index];
            CHECK(got[index] == (reduction == RT_TEAM_SUM       ? a + b + c
                                 : reduction == RT_TEAM_PRODUCT ? a * b * c
                                 : reduction == RT_TEAM_MIN     ? fminf(fminf(a, b), c)
                                                                : fmaxf(fmaxf(a, b), c)));
            CHECK(result[index] == (reduction == RT_TEAM_SUM       ? x + y + z
                                    : reduction == RT_TEAM_PRODUCT ? x * y * z
                                    : reduction == RT_TEAM_MIN     ? fmin(fmin(x, y), z)
                                                                   : fmax(fmax(x, y), z)));
        }
    }
}

static uint16_t brain_sum(uint16_t left, uint16_t right)
{
    uint16_t sum = 0;
    const void *const given[] = {&left, &right};
    rt_team_call call = {.dtype = RT_DTYPE_BFLOAT16, .reduction = RT_TEAM_SUM};
    CHECK_INT(rt_team_reduce_blocks(&call, &sum, given, 2, 1), RT_OK);
    return sum;
}

static void sums_of_bfloat16_are_rounded_to_the_nearest_and_ties_to_even(void)
{
    static const struct {
        uint16_t left, right, sum;
    } cases[] = {
        {0x3f80, 0x3f80, 0x4000},                                                     /* 1 + 1 */
        {0x0000, 0x8000, 0x0000},                                                     /* 0 - 0 */
        {0x3f80, 0x3b80, 0x3f80},                                                     /* 1 + 2^-8: a tie, down to even */
        {0x3f81, 0x3b80, 0x3f82},                                                     /* one more: a tie, up to even */
        {0x3f80, 0x3b81, 0x3f81},                                                     /* just above the tie */
        {0x3f80, 0x3b7f, 0x3f80},                                                     /* just below it */
        {0xbf80, 0xbb81, 0xbf81}, {0x7f7f, 0x7f7f, 0x7f80},                           /* too large: infinite */
        {0x7f80, 0x3f80, 0x7f80}, {0xff80, 0x3f80, 0xff80}, {0x7f80, 0xff80, 0x7fc0}, /* no number */
        {0x7fc0, 0x3f80, 0x7fc0}, {0x7fff, 0x3f80, 0x7fc0},                           /* not rounded up into something else */
        {0xffff, 0x3f80, 0x7fc0}, {0x0001, 0x0001, 0x0002},                           /* the smallest */
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        CHECK_INT(brain_sum(cases[index].left, cases[index].right), cases[index].sum);
        CHECK_INT(brain_sum(cases[index].right, cases[index].left), cases[index].sum);
    }
}

/* ---- what has no loop of its own ---- */

static uint32_t calls_made;
static int result_given;

static int own_reduce(uint32_t dtype, uint32_t reduction, void *to, const void *left, const void *right, uint64_t count)
{
    calls_made++;
    if (result_given != 0)
        return result_given;
    uint16_t *out = to;
    const uint16_t *a = left, *b = right;
    for (uint64_t index = 0; index < count; index++)
        out[index] = (uint16_t)(a[index] * 3u + b[index] + dtype + reduction);
    return 0;
}

static void other_types_go_through_the_function_of_the_call(void)
{
    rt_detail detail;
    const void *const given[MANY] = {sources[0], sources[1], sources[2], sources[3]};
    rt_team_call call = {.dtype = RT_DTYPE_FLOAT16, .reduction = RT_TEAM_MAX, .reduce = own_reduce, .detail = &detail};
    fill_sources(3);
    for (uint32_t many = 2; many <= MANY; many++) {
        result_given = 0;
        CHECK_INT(rt_team_reduce_blocks(&call, target, given, many, LARGEST), RT_OK);
        for (uint64_t index = 0; index < LARGEST; index++) {
            uint16_t wanted = ((const uint16_t *)(const void *)sources[0])[index];
            for (uint32_t source = 1; source < many; source++)
                wanted = (uint16_t)(wanted * 3 + ((const uint16_t *)(const void *)sources[source])[index] + RT_DTYPE_FLOAT16 +
                                    RT_TEAM_MAX);
            CHECK_INT(((const uint16_t *)(const void *)target)[index], wanted);
        }
        result_given = -1;
        calls_made = 0;
        CHECK_INT(rt_team_reduce_blocks(&call, target, given, many, LARGEST), RT_E_UNSUPPORTED);
        CHECK_HAS(detail.text, "this reduction is not there for float16");
        CHECK_INT(calls_made, 1); /* nothing goes on after a failure */
        call.reduce = NULL;
        CHECK_INT(rt_team_reduce_blocks(&call, target, given, many, LARGEST), RT_E_UNSUPPORTED);
        call.reduce = own_reduce;
    }
    static const struct {
        uint32_t dtype, reduction;
    } without[] = {{RT_DTYPE_FLOAT32, RT_TEAM_AND}, {RT_DTYPE_FLOAT64, RT_TEAM_XOR}, {RT_DTYPE_BFLOAT16, RT_TEAM_PRODUCT}};
    for (size_t index = 0; index < 3; index++) {
        call = (rt_team_call){.dtype = without[index].dtype, .reduction = without[index].reduction, .detail = &detail};
        CHECK_INT(rt_team_reduce_blocks(&call, target, given, 2, 8), RT_E_UNSUPPORTED);
        CHECK_HAS(detail.text, rt_dtype_name(without[index].dtype));
    }
}

static const check_test tests[] = {
    CHECK_TEST(whole_numbers_are_reduced_as_two_by_two),
    CHECK_TEST(the_target_may_be_any_of_the_sources),
    CHECK_TEST(fractions_are_reduced_too),
    CHECK_TEST(sums_of_bfloat16_are_rounded_to_the_nearest_and_ties_to_even),
    CHECK_TEST(other_types_go_through_the_function_of_the_call),
};

CHECK_MAIN(tests)
