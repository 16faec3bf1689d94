/* test_edge_plan.c: the largest layouts and work items, and every word of a plan. Pure: needs csrc/proto/edge_layout.c, edge_plan.c,
 * csrc/base/status.c. */
#include "check.h"
#include "proto/edge_mode.h"
#include "proto/edge_plan.h"

/* ---- layouts ---- */

static void the_largest_layouts_are_possible_and_the_next_is_not(void)
{
    static const struct {
        uint64_t size;
        uint32_t slots;
        uint64_t alignment;
        bool tail, possible;
    } cases[] = {
        {INT64_MAX / 2, 1, 1, false, true},        {INT64_MAX / 2 + 1, 1, 1, false, false},
        {INT64_MAX / 2, 2, 1, false, false},       {64, 3, 1ull << 61, false, true},
        {64, 4, 1ull << 61, false, false},         {64, 1, 1ull << 62, false, false},
        {0, RT_EDGE_SLOTS_MAX, 1, true, true},     {1ull << 55, 128, 64, false, true},
        {1ull << 56, 128, 64, false, false},       {(1ull << 56) - 64, 128, 64, false, true},
        {(1ull << 56) - 64, 128, 64, true, false}, {(1ull << 56) - 128, 128, 64, true, true},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        rt_edge_layout layout;
        int status =
            rt_edge_lay_out(cases[index].size, cases[index].slots, 1, cases[index].alignment, cases[index].tail, &layout, NULL);
        if ((status == RT_OK) != cases[index].possible)
            printf("case %zu\n", index);
        CHECK_INT(status, cases[index].possible ? RT_OK : RT_E_INVALID);
        if (status != RT_OK)
            continue;
        CHECK(layout.slot_stride >= cases[index].size && layout.slot_stride % cases[index].alignment == 0);
        CHECK_INT(layout.payload_span / cases[index].slots, layout.slot_stride);
        CHECK(layout.payload_span <= INT64_MAX);
        CHECK(layout.stripe_size >= cases[index].size && layout.stripe_size < cases[index].size + 64);
    }
    rt_edge_layout layout;
    CHECK_INT(rt_edge_lay_out(0, 1, RT_EDGE_STRIPES_MAX, 1, false, &layout, NULL), RT_OK);
    CHECK_INT(layout.slot_stride, 64); /* an empty tensor has a place of its own */
    CHECK_INT(layout.stripe_size, 0);
    CHECK_INT(rt_edge_lay_out(0, 1, 1, 64, true, &layout, NULL), RT_OK);
    CHECK_INT(layout.slot_stride, 64);
    CHECK_INT(rt_edge_lay_out(1, 1, 1, 64, true, &layout, NULL), RT_OK);
    CHECK_INT(layout.slot_stride, 128);
    CHECK_INT(rt_edge_lay_out(512, 1, 8, 64, false, &layout, NULL), RT_OK);
    CHECK_INT(layout.stripe_size, 64);
    CHECK_INT(rt_edge_lay_out(513, 1, 8, 64, false, &layout, NULL), RT_OK);
    CHECK_INT(layout.stripe_size, 128);
}

/* ---- plans ---- */

static rt_edge_wiring wiring_of(rt_edge_mode mode, uint64_t size, uint32_t slots, uint32_t stripes)
{
    rt_edge_wiring wiring = {.mode = (uint8_t)mode, .orders_writes = true, .number = 0xffff, .piece_size = 1 << 20};
    CHECK_INT(rt_edge_lay_out(size, slots, stripes, 64, mode == RT_EDGE_TAIL, &wiring.layout, NULL), RT_OK);
    return wiring;
}

static void a_work_item_of_exactly_the_largest_size_carries_a_record_or_a_tail(void)
{
    for (uint32_t mode = RT_EDGE_TAIL; mode < RT_EDGE_MODE_COUNT; mode++) {
        rt_edge_wiring wiring = wiring_of((rt_edge_mode)mode, 1000, 2, 1);
        uint64_t whole = mode == RT_EDGE_TAIL ? 1024 + 64 : 1000; /* a tail ends with the line behind the payload's last */
        bool orders[] = {true, false};
        for (uint32_t index = 0; index < 2; index++) {
            bool carried = orders[index] || mode != RT_EDGE_CHAINED, whole_only = mode == RT_EDGE_TAIL && !orders[index];
            rt_detail detail;
            wiring.orders_writes = orders[index];
            wiring.record = true;
            wiring.piece_size = whole;
            CHECK_INT(rt_edge_wiring_check(&wiring, &detail), carried ? RT_OK : RT_E_UNSUPPORTED);
            wiring.piece_size = whole - 1;
            CHECK_INT(rt_edge_wiring_check(&wiring, &detail), RT_E_UNSUPPORTED);
            CHECK_HAS(detail.text, "make the eager area smaller");
            wiring.record = false;
            CHECK_INT(rt_edge_wiring_check(&wiring, &detail), carried && !whole_only ? RT_OK : RT_E_UNSUPPORTED);
            wiring.piece_size = whole;
            CHECK_INT(rt_edge_wiring_check(&wiring, &detail), carried ? RT_OK : RT_E_UNSUPPORTED);
            wiring.loop_check = true;
            CHECK_INT(rt_edge_wiring_check(&wiring, &detail), orders[index] ? RT_OK : RT_E_UNSUPPORTED);
            if (!carried)
                CHECK_HAS(detail.text, "a flag in a WRITE of its own over a provider that does not order WRITEs");
            if (!orders[index] && carried)
                CHECK_HAS(detail.text, "the check of flow=\"loop\" needs a provider that orders WRITEs");
            wiring.loop_check = false;
        }
    }
}

static void every_piece_and_the_note_bring_an_immediate_where_writes_are_not_ordered(void)
{
    static const struct {
        uint64_t size, pieces;
    } cases[] = {{0, 1}, {1, 1}, {99, 1}, {100, 1}, {101, 2}, {200, 2}, {201, 3}};
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        rt_edge_wiring wiring = wiring_of(RT_EDGE_IMMEDIATE, cases[index].size, 2, 1);
        wiring.piece_size = 100;
        CHECK_INT(rt_edge_immediate_count(&wiring, 0), 1); /* the last WRITE brings the only one */
        wiring.verify = true;
        CHECK_INT(rt_edge_immediate_count(&wiring, 0), 1);
        wiring.orders_writes = false;
        CHECK_INT(rt_edge_immediate_count(&wiring, 0), cases[index].pieces + 1);
        wiring.verify = false;
        CHECK_INT(rt_edge_immediate_count(&wiring, 0), cases[index].pieces);
        wiring.record = true;
        CHECK_INT(rt_edge_immediate_count(&wiring, 0), 1);
    }
    rt_edge_wiring wiring = wiring_of(RT_EDGE_IMMEDIATE, 300, 2, 2); /* stripes of 192 and 108 */
    wiring.piece_size = 100;
    wiring.orders_writes = false;
    CHECK_INT(rt_edge_immediate_count(&wiring, 0), 2);
    CHECK_INT(rt_edge_immediate_count(&wiring, 1), 2);
    wiring.piece_size = 107;
    CHECK_INT(rt_edge_immediate_count(&wiring, 1), 2);
    wiring.piece_size = 108;
    CHECK_INT(rt_edge_immediate_count(&wiring, 1), 1);
}

static void a_plan_has_the_words_that_its_mode_needs_and_no_other(void)
{
    for (uint32_t bits = 0; bits < 16; bits++) {
        for (uint32_t mode = RT_EDGE_TAIL; mode < RT_EDGE_MODE_COUNT; mode++) {
            bool verify = (bits & 1) != 0, checks = (bits & 2) != 0, ordered = (bits & 4) != 0;
            uint64_t from = (bits & 8) != 0 ? 64 : 100, size = 100 - from;
            rt_edge_wiring wiring = wiring_of((rt_edge_mode)mode, 100, 2, mode == RT_EDGE_TAIL ? 1 : 2);
            uint32_t stripe = mode == RT_EDGE_TAIL ? 0 : 1, at = 0;
            uint64_t line = rt_edge_line_offset(&wiring.layout, 1, stripe), start = rt_edge_slot_offset(&wiring.layout, 1);
            bool immediate = mode == RT_EDGE_IMMEDIATE, chained = mode == RT_EDGE_CHAINED, tail = mode == RT_EDGE_TAIL;
            rt_edge_plan plan;
            wiring.verify = verify;
            wiring.loop_check = checks;
            wiring.orders_writes = ordered;
            rt_edge_plan_make(&wiring, 5, stripe, from, size, 0xabcd, &plan);
            CHECK_INT(plan.immediate, immediate ? 0xffff0102 : 0); /* edge, slot 1, round 2 */
            if (checks) {
                const rt_edge_write begun = {.part = RT_EDGE_PART_BEGUN, .remote_offset = line, .size = 8, .word = 5};
                CHECK_BYTES(&plan.writes[at], &begun, sizeof begun);
                at++;
            }
            if (verify && !tail) {
                const rt_edge_write note = {.part = RT_EDGE_PART_NOTE,
                                            .remote_offset = line + 8,
                                            .size = 8,
                                            .word = 5ull << 32 | 0xabcd,
                                            .immediate = immediate && !ordered,
                                            .every_piece = immediate && !ordered};
                CHECK_BYTES(&plan.writes[at], &note, sizeof note);
                at++;
            }
            if (size > 0 || !chained) {
                const rt_edge_write payload = {.part = RT_EDGE_PART_PAYLOAD,
                                               .remote_offset = start + from,
                                               .from = from,
                                               .size = size,
                                               .trailer_size = tail ? 128 + 64 - (from + size) : 0,
                                               .immediate = immediate,
                                               .every_piece = immediate && !ordered};
                CHECK_BYTES(&plan.writes[at], &payload, sizeof payload);
                at++;
            }
            if (chained) {
                const rt_edge_write flag = {.part = RT_EDGE_PART_FLAG, .remote_offset = line + 56, .size = 8, .word = 5};
                CHECK_BYTES(&plan.writes[at], &flag, sizeof flag);
                at++;
            }
            CHECK_INT(plan.count, at);
        }
    }
}

static void an_immediate_names_an_edge_and_a_slot_that_are_there(void)
{
    rt_edge_wiring wiring = wiring_of(RT_EDGE_IMMEDIATE, 64, RT_EDGE_SLOTS_MAX, 1);
    for (uint64_t sequence = 1; sequence < 600; sequence++) {
        rt_edge_plan plan;
        uint32_t slot = 1000;
        uint64_t flag = 0, count = 7, before = sequence < RT_EDGE_SLOTS_MAX + 1 ? 0 : sequence - RT_EDGE_SLOTS_MAX;
        rt_edge_plan_make(&wiring, sequence, 0, 0, 64, 0, &plan);
        CHECK_INT(rt_edge_immediate_slot(&wiring, plan.immediate, &slot, NULL), RT_OK);
        CHECK_INT(slot, sequence % RT_EDGE_SLOTS_MAX);
        CHECK_INT(rt_edge_immediate_take(&wiring, plan.immediate, 0, before, 0, &flag, &count, NULL), RT_OK);
        CHECK_INT(flag, sequence);
        CHECK_INT(count, 0);
        CHECK_INT(rt_edge_immediate_take(&wiring, plan.immediate, 0, before, 1, &flag, &count, NULL), RT_E_PROTOCOL);
    }
    uint32_t slot = 1000;
    CHECK_INT(rt_edge_immediate_slot(&wiring, 0xffff0000 | RT_EDGE_SLOTS_MAX << 8, &slot, NULL), RT_E_PROTOCOL);
    CHECK_INT(rt_edge_immediate_slot(&wiring, 0xffff0000 | (RT_EDGE_SLOTS_MAX - 1) << 8, &slot, NULL), RT_OK);
    CHECK_INT(rt_edge_immediate_slot(&wiring, 0xfffe0000, &slot, NULL), RT_E_PROTOCOL);
    CHECK_INT(slot, RT_EDGE_SLOTS_MAX - 1);
}

static const check_test tests[] = {
    CHECK_TEST(the_largest_layouts_are_possible_and_the_next_is_not),
    CHECK_TEST(a_work_item_of_exactly_the_largest_size_carries_a_record_or_a_tail),
    CHECK_TEST(every_piece_and_the_note_bring_an_immediate_where_writes_are_not_ordered),
    CHECK_TEST(a_plan_has_the_words_that_its_mode_needs_and_no_other),
    CHECK_TEST(an_immediate_names_an_edge_and_a_slot_that_are_there),
};

CHECK_MAIN(tests)
