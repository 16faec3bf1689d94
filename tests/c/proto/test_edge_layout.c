/* test_edge_layout.c: byte counts and offsets of edges, and how their flags are carried. Needs csrc/proto/edge_layout.c,
 * edge_mode.c, edge_plan.c, csrc/base/status.c. */
#include "check.h"
#include "proto/dtype.h"
#include "proto/edge_mode.h"
#include "proto/edge_plan.h"

static int bytes_of(rt_dtype dtype, uint8_t rank, const uint64_t *dims, uint64_t *bytes_out, rt_detail *detail)
{
    rt_tensor_shape shape = {.dtype = (uint8_t)dtype, .rank = rank};
    for (size_t index = 0; index < rank && index < RT_EDGE_RANK_MAX; index++)
        shape.dims[index] = dims[index];
    return rt_tensor_bytes(&shape, bytes_out, detail);
}

static void byte_counts_are_right_or_refused_never_wrapped(void)
{
    static const struct {
        rt_dtype dtype;
        uint8_t rank;
        uint64_t dims[16];
        int64_t bytes; /* -1: refused */
    } cases[] = {
        {RT_DTYPE_FLOAT32, 0, {0}, 4},
        {RT_DTYPE_COMPLEX128, 1, {1}, 16},
        {RT_DTYPE_FLOAT32, 2, {3, 4}, 48},
        {RT_DTYPE_BOOL, 3, {1u << 20, 1u << 20, 3}, 3ll << 40},
        {RT_DTYPE_FLOAT64, 2, {0, 5}, 0},
        {RT_DTYPE_FLOAT64, 3, {INT64_MAX, INT64_MAX, 0}, 0},
        {RT_DTYPE_UINT8, 1, {INT64_MAX}, INT64_MAX},
        {RT_DTYPE_UINT8, 1, {(uint64_t)INT64_MAX + 1}, -1},
        {RT_DTYPE_UINT16, 1, {INT64_MAX}, -1},
        {RT_DTYPE_UINT8, 2, {1ull << 32, 1ull << 31}, -1},
        {RT_DTYPE_UINT8, 2, {1ull << 32, (1ull << 31) - 1}, ((1ll << 31) - 1) << 32},
        {RT_DTYPE_UINT8, 3, {1ull << 32, 1ull << 32, 1}, -1},
        {RT_DTYPE_UINT8, 3, {1ull << 62, 4, 0}, 0},
        {RT_DTYPE_FLOAT64, 16, {2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2}, 8 << 16},
        {RT_DTYPE_UINT8, 17, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, -1},
        {RT_DTYPE_ANY, 1, {1}, -1},
        {(rt_dtype)RT_DTYPE_COUNT, 1, {1}, -1},
        {RT_DTYPE_UINT8, 2, {UINT64_MAX, 0}, -1},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        uint64_t bytes = 77;
        rt_detail detail;
        rt_detail_clear(&detail);
        int status = bytes_of(cases[index].dtype, cases[index].rank, cases[index].dims, &bytes, &detail);
        CHECK_INT(status, cases[index].bytes < 0 ? RT_E_INVALID : RT_OK);
        CHECK_INT(detail.status, status);
        CHECK_INT(bytes, cases[index].bytes < 0 ? 77 : cases[index].bytes);
    }
}

static void shapes_are_described_within_the_room_there_is(void)
{
    rt_tensor_shape shape = {.dtype = RT_DTYPE_BFLOAT16, .rank = 2, .dims = {3, 1000}};
    char text[32];
    rt_tensor_describe(&shape, text, sizeof text);
    CHECK_STR(text, "bfloat16 [3, 1000]");
    for (size_t capacity = 1; capacity < 19; capacity++) {
        memset(text, 'x', sizeof text);
        rt_tensor_describe(&shape, text, capacity);
        CHECK_INT(strlen(text), capacity - 1);
        CHECK(text[capacity] == 'x');
    }
}

static void slots_and_flags_lie_on_lines_of_their_own_and_inside_their_spans(void)
{
    static const uint64_t sizes[] = {0, 1, 63, 64, 65, 4096, 1000003};
    static const uint64_t alignments[] = {1, 64, 4096};
    for (size_t each = 0; each < 7 * 3 * 2 * 3; each++) {
        uint64_t size = sizes[each % 7], alignment = alignments[each / 7 % 3];
        bool tail = each / 21 % 2 == 1;
        uint32_t slots = (uint32_t[]){1, 3, RT_EDGE_SLOTS_MAX}[each / 42], stripes = tail ? 1 : 3;
        rt_edge_layout layout;
        CHECK_INT(rt_edge_lay_out(size, slots, stripes, alignment, tail, &layout, NULL), RT_OK);
        for (uint32_t slot = 0; slot < slots; slot++) {
            uint64_t start = rt_edge_slot_offset(&layout, slot);
            CHECK(start % 64 == 0 && start % alignment == 0 && start + size <= layout.payload_span);
            CHECK(slot == 0 || start >= rt_edge_slot_offset(&layout, slot - 1) + size + (tail ? 64 : 0));
            for (uint32_t stripe = 0; stripe < stripes; stripe++) {
                uint64_t line = rt_edge_line_offset(&layout, slot, stripe);
                CHECK_INT(line % 64, 0);
                CHECK(line + 64 <= (tail ? layout.payload_span : layout.flag_span));
                CHECK(!tail || (line >= start + size && line < start + size + 64)); /* behind the payload, on the next line */
                CHECK(tail || line == (slot * stripes + stripe) * 64ull);
            }
        }
        CHECK_INT(layout.flag_span, tail ? 0 : slots * stripes * 64);
        CHECK_INT(rt_edge_slot(&layout, 1000), 1000 % slots);
    }
}

static void stripes_cover_every_byte_once(void)
{
    static const uint64_t sizes[] = {0, 1, 64, 65, 127, 128, 500, 4096, 99999};
    for (size_t index = 0; index < sizeof sizes / sizeof sizes[0]; index++) {
        for (uint32_t stripes = 1; stripes <= RT_EDGE_STRIPES_MAX; stripes++) {
            rt_edge_layout layout;
            CHECK_INT(rt_edge_lay_out(sizes[index], 2, stripes, 64, false, &layout, NULL), RT_OK);
            uint64_t next = 0;
            for (uint32_t stripe = 0; stripe < stripes; stripe++) {
                uint64_t from = 0, size = rt_edge_stripe(&layout, sizes[index], stripe, &from);
                CHECK_INT(from, next);
                CHECK(from % 64 == 0 || size == 0);
                next = from + size;
            }
            CHECK_INT(next, sizes[index]);
        }
    }
}

static void layouts_that_cannot_be_are_refused(void)
{
    static const struct {
        uint64_t size;
        uint32_t slots, stripes;
        uint64_t alignment;
        bool tail;
        const char *words;
    } wrong[] = {
        {64, 0, 1, 64, false, "0 slots: 1 to 128"},
        {64, 129, 1, 64, false, "129 slots: 1 to 128"},
        {64, 1, 0, 64, false, "0 stripes: 1 to 8"},
        {64, 1, 9, 64, false, "9 stripes"},
        {64, 1, 2, 64, true, "2 stripes and the flag in the tail"},
        {64, 1, 1, 0, false, "no power of two"},
        {64, 1, 1, 96, false, "no power of two"},
        {64, 1, 1, 1ull << 63, false, "more than 2^63 - 1 bytes"},
        {INT64_MAX, 1, 1, 64, false, "more than 2^63 - 1 bytes"},
        {UINT64_MAX, 1, 1, 64, true, "more than 2^63 - 1 bytes"},
        {1ull << 57, 128, 1, 64, false, "more than 2^63 - 1 bytes"},
        {1ull << 40, 128, 1, 1ull << 60, false, "more than 2^63 - 1 bytes"},
    };
    for (size_t index = 0; index < sizeof wrong / sizeof wrong[0]; index++) {
        rt_edge_layout layout = {.slots = 77};
        rt_detail detail;
        CHECK_INT(rt_edge_lay_out(wrong[index].size, wrong[index].slots, wrong[index].stripes, wrong[index].alignment,
                                  wrong[index].tail, &layout, &detail),
                  RT_E_INVALID);
        CHECK_HAS(detail.text, wrong[index].words);
        CHECK_INT(layout.slots, 77); /* set only on success */
    }
}

/* ---- modes ---- */

static void a_mode_is_offered_exactly_where_the_promises_carry_it(void)
{
    for (uint32_t bits = 0; bits < 32; bits++) {
        rt_edge_promises promises = {.orders_writes = (bits & 1) != 0,
                                     .orders_bytes_within_a_write = (bits & 2) != 0,
                                     .places_words_whole = (bits & 4) != 0,
                                     .carries_immediate = (bits & 8) != 0,
                                     .relaxed_payload = (bits & 16) != 0};
        bool strict = !promises.relaxed_payload && promises.orders_writes;
        uint32_t wanted = (strict && promises.orders_bytes_within_a_write ? 1u << RT_EDGE_TAIL : 0) |
                          (strict && promises.places_words_whole ? 1u << RT_EDGE_CHAINED : 0) |
                          (promises.carries_immediate ? 1u << RT_EDGE_IMMEDIATE : 0);
        uint32_t modes = 0;
        bool trusting = true;
        char reason[RT_EDGE_REASON_SIZE];
        rt_detail detail;
        int status = rt_edge_mode_offer(&promises, 0, &modes, &trusting, reason, &detail);
        CHECK_INT(status, wanted == 0 ? RT_E_UNSUPPORTED : RT_OK);
        CHECK_INT(modes, wanted);
        if (status == RT_OK) {
            CHECK(!trusting);
            CHECK_HAS(reason, ": the provider ");
        }
        for (uint32_t mode = RT_EDGE_TAIL; mode < RT_EDGE_MODE_COUNT; mode++) {
            modes = 0;
            status = rt_edge_mode_offer(&promises, mode, &modes, &trusting, reason, &detail);
            bool safe = (wanted & 1u << mode) != 0;
            CHECK_INT(status, safe || mode == RT_EDGE_TAIL ? RT_OK : RT_E_UNSUPPORTED);
            CHECK_INT(modes, status == RT_OK ? 1u << mode : 0);
            if (status == RT_OK)
                CHECK_INT(trusting, !safe);
        }
    }
}

static void asking_for_a_tail_without_the_promise_is_granted_with_a_warning(void)
{
    rt_edge_promises promises = {.orders_writes = true, .places_words_whole = true, .carries_immediate = true};
    uint32_t modes = 0;
    bool trusting = false;
    char reason[RT_EDGE_REASON_SIZE];
    rt_detail detail;
    CHECK_INT(rt_edge_mode_offer(&promises, RT_EDGE_TAIL, &modes, &trusting, reason, NULL), RT_OK);
    CHECK(trusting && modes == 1u << RT_EDGE_TAIL);
    CHECK_HAS(reason, "tail: asked for by name, although the provider does not promise");
    CHECK_INT(rt_edge_mode_offer(&promises, 0, &modes, &trusting, reason, NULL), RT_OK);
    CHECK_HAS(reason, "chained: the provider places a later WRITE");
    promises.carries_immediate = false;
    CHECK_INT(rt_edge_mode_offer(&promises, RT_EDGE_IMMEDIATE, &modes, &trusting, reason, &detail), RT_E_UNSUPPORTED);
    CHECK_HAS(detail.text, "\"immediate\" was asked for by name, but the provider does not carry immediates");
    CHECK_INT(rt_edge_mode_offer(&promises, 9, &modes, &trusting, reason, &detail), RT_E_INVALID);
}

static void both_ends_agree_on_the_same_mode_or_none(void)
{
    uint32_t tail = 1u << RT_EDGE_TAIL, chained = 1u << RT_EDGE_CHAINED, immediate = 1u << RT_EDGE_IMMEDIATE;
    CHECK_INT(rt_edge_mode_agree(tail | chained | immediate, tail | chained | immediate), RT_EDGE_CHAINED);
    CHECK_INT(rt_edge_mode_agree(tail | immediate, tail | chained | immediate), RT_EDGE_IMMEDIATE);
    CHECK_INT(rt_edge_mode_agree(tail, tail | chained), RT_EDGE_TAIL);
    CHECK_INT(rt_edge_mode_agree(tail, chained), 0);
    CHECK_STR(rt_edge_mode_name(RT_EDGE_IMMEDIATE), "immediate");
    CHECK_STR(rt_edge_mode_name(0), "unknown");
    CHECK_STR(rt_edge_mode_name(4), "unknown");
}

static const check_test tests[] = {
    CHECK_TEST(byte_counts_are_right_or_refused_never_wrapped),
    CHECK_TEST(shapes_are_described_within_the_room_there_is),
    CHECK_TEST(slots_and_flags_lie_on_lines_of_their_own_and_inside_their_spans),
    CHECK_TEST(stripes_cover_every_byte_once),
    CHECK_TEST(layouts_that_cannot_be_are_refused),
    CHECK_TEST(a_mode_is_offered_exactly_where_the_promises_carry_it),
    CHECK_TEST(asking_for_a_tail_without_the_promise_is_granted_with_a_warning),
    CHECK_TEST(both_ends_agree_on_the_same_mode_or_none),
};
CHECK_MAIN(tests)
