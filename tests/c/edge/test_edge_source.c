/* test_edge_source.c: where the bytes of a tensor of any strides lie: in how many runs, from where to where, and gathered. */
#include "edge_ends.h"
#include "proto/dtype.h"

enum { RANK = 5, MEMORY = 1 << 16, CASES = 3000 };

static uint8_t memory[MEMORY];
static uint32_t state;

static uint32_t any(uint32_t below)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
}

/* Strides from -200 to 200 bytes in the middle of the memory; now and then dense ones. */
static rt_edge_tensor any_tensor(uint64_t item)
{
    rt_edge_tensor tensor = {.address = (uint64_t)(uintptr_t)memory + MEMORY / 2, .rank = any(RANK + 1), .strided = 1};
    int64_t dense = (int64_t)item;
    for (uint32_t left = tensor.rank; left > 0; left--) {
        tensor.dims[left - 1] = 1 + any(4);
        tensor.strides[left - 1] = any(2) == 0 ? dense : (int64_t)any(401) - 200;
        dense *= (int64_t)tensor.dims[left - 1];
    }
    return tensor;
}

/* Where the element with this number in row-major order lies. */
static uint64_t element_at(const rt_edge_tensor *tensor, uint64_t number)
{
    uint64_t address = tensor->address;
    for (uint32_t left = tensor->rank; left > 0; left--) {
        address += (uint64_t)((int64_t)(number % tensor->dims[left - 1]) * tensor->strides[left - 1]);
        number /= tensor->dims[left - 1];
    }
    return address;
}

static void every_part_of_every_strided_tensor_is_gathered_in_order(void)
{
    state = 1;
    core_fill(memory, MEMORY, 9);
    for (uint32_t round = 0; round < CASES; round++) {
        static uint8_t wanted[4096], got[4096];
        uint64_t item = 1ull << any(4), count = 1, run_size = 0, low = UINT64_MAX, high = 0;
        rt_edge_tensor tensor = any_tensor(item);
        for (uint32_t dim = 0; dim < tensor.rank; dim++)
            count *= tensor.dims[dim];
        if (count * item > sizeof wanted)
            continue;
        for (uint64_t number = 0; number < count; number++) {
            uint64_t at = element_at(&tensor, number);
            low = at < low ? at : low;
            high = at + item > high ? at + item : high;
            memcpy(wanted + number * item, (const void *)(uintptr_t)at, item);
        }
        uint64_t runs = rt_edge_runs(&tensor, item, &run_size);
        CHECK_INT(runs * run_size, count * item);
        for (uint64_t run = 0; run < runs; run++)
            CHECK_INT(rt_edge_run_address(&tensor, item, run_size, run), element_at(&tensor, run * run_size / item));
        for (uint32_t dim = tensor.rank; dim > 0 && run_size == item; dim--) /* no more runs than there must be */
            if (tensor.dims[dim - 1] != 1) {
                CHECK(tensor.strides[dim - 1] != (int64_t)item);
                break;
            }
        uint64_t from = any((uint32_t)(count * item) + 1), size = count * item - from, cut = any((uint32_t)size + 1);
        memset(got, 0, sizeof got);
        rt_edge_gather(&tensor, item, from, cut, got);
        rt_edge_gather(&tensor, item, from + cut, size - cut, got + cut);
        CHECK_BYTES(got, wanted + from, size);
        uint64_t start = 0, span = 0;
        CHECK(rt_edge_span(&tensor, item, &start, &span));
        CHECK_INT(start, low);
        CHECK_INT(span, high - low);
    }
}

static void a_contiguous_tensor_is_one_run(void)
{
    rt_edge_tensor tensor = {.address = 1000, .rank = 3, .dims = {2, 3, 5}};
    uint64_t run_size = 0, start = 0, span = 0;
    CHECK_INT(rt_edge_runs(&tensor, 4, &run_size), 1);
    CHECK_INT(run_size, 120);
    CHECK_INT(rt_edge_run_address(&tensor, 4, run_size, 0), 1000);
    CHECK(rt_edge_span(&tensor, 4, &start, &span));
    CHECK_INT(start, 1000);
    CHECK_INT(span, 120);
    tensor.rank = 0;
    CHECK_INT(rt_edge_runs(&tensor, 4, &run_size), 1);
    CHECK_INT(run_size, 4);
    CHECK(rt_edge_span(&tensor, 4, &start, &span));
    CHECK_INT(span, 4);
}

static void a_tensor_without_elements_or_of_strides_that_overflow_spans_nothing(void)
{
    rt_edge_tensor tensor = {.address = 1000, .rank = 2, .dims = {2, 0}};
    uint64_t start = 77, span = 77;
    CHECK(!rt_edge_span(&tensor, 4, &start, &span));
    tensor.strided = 1;
    CHECK(!rt_edge_span(&tensor, 4, &start, &span));
    tensor.dims[1] = 3;
    tensor.strides[0] = INT64_MAX;
    tensor.strides[1] = 0;
    tensor.dims[0] = 3;
    CHECK(!rt_edge_span(&tensor, 4, &start, &span));
    tensor.strides[0] = INT64_MIN;
    CHECK(!rt_edge_span(&tensor, 4, &start, &span));
    CHECK_INT(span, 77);
    tensor.strides[0] = 100;
    CHECK(rt_edge_span(&tensor, 4, &start, &span));
    CHECK_INT(span, 204);
}

/* ---- which tensors fit an edge ---- */

static void a_tensor_fits_an_edge_of_its_dtype_and_shape(void)
{
    static const struct {
        bool dynamic;
        uint32_t own_dtype, own_rank, dtype, rank;
        uint64_t dims[2];
        const char *words; /* NULL: it fits */
    } cases[] = {
        {false, RT_DTYPE_INT8, 1, RT_DTYPE_INT8, 1, {8}, NULL},
        {false, RT_DTYPE_INT8, 1, RT_DTYPE_UINT8, 1, {8}, "carries int8 [8], not uint8 [8]: convert or reshape the tensor"},
        {false, RT_DTYPE_INT8, 1, RT_DTYPE_INT8, 1, {9}, "carries int8 [8], not int8 [9]"},
        {false, RT_DTYPE_INT8, 1, RT_DTYPE_INT8, 2, {8, 1}, "carries int8 [8], not int8 [8, 1]"},
        {false, RT_DTYPE_INT8, 1, RT_DTYPE_INT8, 17, {8}, "a tensor of 17 dimensions: at most 16"},
        {false, RT_DTYPE_INT8, 1, RT_DTYPE_COUNT, 1, {8}, "the unknown dtype code 22"},
        {false, RT_DTYPE_INT8, 1, RT_DTYPE_ANY, 1, {8}, "a tensor has the dtype code 0: codes from 1 to 21 are known"},
        {true, RT_DTYPE_ANY, RT_EDGE_RANK_ANY, RT_DTYPE_INT8, 2, {8, 3}, NULL},
        {true, RT_DTYPE_INT8, 2, RT_DTYPE_INT8, 2, {8, 3}, NULL},
        {true, RT_DTYPE_INT8, 2, RT_DTYPE_INT8, 1, {8}, "carries tensors of dtype int8 and 2 dimensions, not int8 [8]"},
        {true, RT_DTYPE_INT8, RT_EDGE_RANK_ANY, RT_DTYPE_INT16, 1, {8}, "dtype int8 and up to 16 dimensions, not int16 [8]"},
        {true, RT_DTYPE_ANY, 2, RT_DTYPE_INT16, 1, {8}, "dtype any and 2 dimensions"},
        {true, RT_DTYPE_ANY, RT_EDGE_RANK_ANY, RT_DTYPE_INT64, 1, {INT64_MAX}, "more than 2^63 - 1 bytes"},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        rt_edge edge = {.name = "x"};
        edge.terms.edge_kind = cases[index].dynamic ? RT_EDGE_DYNAMIC : RT_EDGE_STATIC;
        edge.terms.shape.dtype = (uint8_t)cases[index].own_dtype;
        edge.terms.shape.rank = (uint8_t)cases[index].own_rank;
        edge.terms.shape.dims[0] = cases[index].dynamic ? 0 : 8;
        rt_edge_tensor tensor = {.dtype = cases[index].dtype, .rank = cases[index].rank};
        memcpy(tensor.dims, cases[index].dims, sizeof cases[index].dims);
        uint64_t size = 77;
        rt_detail detail;
        int status = rt_edge_check_tensor(&edge, &tensor, &size, &detail);
        if ((status == RT_OK) != (cases[index].words == NULL))
            printf("case %zu\n", index);
        CHECK_INT(status, cases[index].words == NULL ? RT_OK : RT_E_INVALID);
        if (status != RT_OK)
            CHECK_HAS(detail.text, cases[index].words);
        else
            CHECK_INT(size, cases[index].rank == 1 ? 8 : 24);
    }
}

static const check_test tests[] = {
    CHECK_TEST(every_part_of_every_strided_tensor_is_gathered_in_order),
    CHECK_TEST(a_contiguous_tensor_is_one_run),
    CHECK_TEST(a_tensor_without_elements_or_of_strides_that_overflow_spans_nothing),
    CHECK_TEST(a_tensor_fits_an_edge_of_its_dtype_and_shape),
};

CHECK_MAIN(tests)
