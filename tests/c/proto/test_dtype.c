/* test_dtype.c: the element types of the wire. Needs csrc/proto/dtype.c. */
#include "check.h"
#include "proto/dtype.h"

/* A code that has been on a wire keeps its name and size. Types that were added since may follow. */
static void a_code_keeps_its_name_and_size(void)
{
    static const struct {
        const char *name;
        uint32_t code, size, dlpack;
    } wanted[] = {
        {"bool", 1, 1, 6},
        {"uint8", 2, 1, 1},
        {"uint16", 3, 2, 1},
        {"uint32", 4, 4, 1},
        {"uint64", 5, 8, 1},
        {"int8", 6, 1, 0},
        {"int16", 7, 2, 0},
        {"int32", 8, 4, 0},
        {"int64", 9, 8, 0},
        {"float16", 10, 2, 2},
        {"float32", 11, 4, 2},
        {"float64", 12, 8, 2},
        {"bfloat16", 13, 2, 4},
        {"complex32", 14, 4, 5},
        {"complex64", 15, 8, 5},
        {"complex128", 16, 16, 5},
        {"float8_e4m3fn", 17, 1, 10},
        {"float8_e5m2", 18, 1, 12},
        {"float8_e4m3fnuz", 19, 1, 11},
        {"float8_e5m2fnuz", 20, 1, 13},
        {"float8_e8m0fnu", 21, 1, 14},
    };
    CHECK(sizeof wanted / sizeof wanted[0] < RT_DTYPE_COUNT);
    for (size_t index = 0; index < sizeof wanted / sizeof wanted[0]; index++) {
        CHECK_STR(rt_dtype_name(wanted[index].code), wanted[index].name);
        CHECK_INT(rt_dtype_size(wanted[index].code), wanted[index].size);
        CHECK_INT(rt_dtype_dlpack(wanted[index].code), wanted[index].dlpack);
    }
}

static void every_type_has_a_name_of_its_own(void)
{
    for (uint32_t code = RT_DTYPE_ANY; code < RT_DTYPE_COUNT; code++) {
        CHECK(code == RT_DTYPE_ANY || rt_dtype_size(code) != 0);
        for (uint32_t other = RT_DTYPE_ANY; other < code; other++)
            CHECK(strcmp(rt_dtype_name(code), rt_dtype_name(other)) != 0);
    }
}

static void a_code_that_is_no_type_has_no_size(void)
{
    CHECK_INT(rt_dtype_size(RT_DTYPE_ANY), 0);
    CHECK_INT(rt_dtype_size(RT_DTYPE_COUNT), 0);
    CHECK_INT(rt_dtype_size(UINT32_MAX), 0);
    CHECK_INT(rt_dtype_dlpack(UINT32_MAX), 0);
    CHECK_STR(rt_dtype_name(RT_DTYPE_ANY), "any");
    CHECK_STR(rt_dtype_name(RT_DTYPE_COUNT), "unknown");
    CHECK_STR(rt_dtype_name(UINT32_MAX), "unknown");
}

static const check_test tests[] = {
    CHECK_TEST(a_code_keeps_its_name_and_size),
    CHECK_TEST(every_type_has_a_name_of_its_own),
    CHECK_TEST(a_code_that_is_no_type_has_no_size),
};

CHECK_MAIN(tests)
