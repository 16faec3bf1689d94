/* test_edge_flow.c: what one tensor's WRITEs are, and whose turn it is on a slot. The orders in which things may happen are explored in
 * tests/model; here are the rules one by one. Needs csrc/proto/edge_flow.c, edge_plan.c, edge_layout.c, csrc/base/status.c. */
#include "check.h"
#include "proto/edge_flow.h"
#include "proto/edge_mode.h"
#include "proto/edge_plan.h"

static rt_edge_wiring wiring_of(rt_edge_mode mode, uint64_t size, uint32_t slots, uint32_t stripes)
{
    rt_edge_wiring wiring = {.mode = (uint8_t)mode, .orders_writes = true, .number = 0x1234, .piece_size = 1 << 20};
    CHECK_INT(rt_edge_lay_out(size, slots, stripes, 64, mode == RT_EDGE_TAIL, &wiring.layout, NULL), RT_OK);
    return wiring;
}

/* ---- plans ---- */

static void a_chained_tensor_is_its_bytes_then_its_flag(void)
{
    rt_edge_wiring wiring = wiring_of(RT_EDGE_CHAINED, 1000, 3, 2);
    rt_edge_plan plan;
    uint64_t from = 0, size = rt_edge_stripe(&wiring.layout, 1000, 1, &from);
    rt_edge_plan_make(&wiring, 8, 1, from, size, 0, &plan);
    CHECK_INT(plan.count, 2);
    CHECK_INT(plan.writes[0].part, RT_EDGE_PART_PAYLOAD);
    CHECK_INT(plan.writes[0].remote_offset, 2 * 1024 + 512);
    CHECK_INT(plan.writes[0].size, 488);
    CHECK_INT(plan.writes[0].trailer_size, 0);
    CHECK_INT(plan.writes[1].part, RT_EDGE_PART_FLAG);
    CHECK_INT(plan.writes[1].remote_offset, (2 * 2 + 1) * 64 + 56);
    CHECK_INT(plan.writes[1].word, 8);
    CHECK(!plan.writes[0].immediate && !plan.writes[1].immediate);

    wiring.verify = wiring.loop_check = true;
    rt_edge_plan_make(&wiring, 8, 1, from, size, 0xabcd, &plan);
    CHECK_INT(plan.count, 4);
    CHECK_INT(plan.writes[0].part, RT_EDGE_PART_BEGUN); /* before the first byte */
    CHECK_INT(plan.writes[0].remote_offset, (2 * 2 + 1) * 64);
    CHECK_INT(plan.writes[1].part, RT_EDGE_PART_NOTE);
    CHECK_INT(plan.writes[1].word, 8ull << 32 | 0xabcd);
    CHECK_INT(plan.writes[3].part, RT_EDGE_PART_FLAG); /* after the last */
    rt_edge_plan_make(&wiring, 8, 1, 1000, 0, 0, &plan);
    CHECK_INT(plan.count, 3); /* an empty stripe has a flag, too */
}

static void a_tail_is_one_write_that_ends_with_the_flag(void)
{
    for (uint64_t size = 0; size < 200; size++) {
        rt_edge_wiring wiring = wiring_of(RT_EDGE_TAIL, size, 2, 1);
        rt_edge_plan plan;
        rt_edge_plan_make(&wiring, 5, 0, 0, size, 0, &plan);
        CHECK_INT(plan.count, 1);
        CHECK_INT(plan.writes[0].part, RT_EDGE_PART_PAYLOAD);
        CHECK_INT(plan.writes[0].remote_offset + size + plan.writes[0].trailer_size,
                  rt_edge_line_offset(&wiring.layout, 1, 0) + RT_EDGE_LINE_SIZE);
        CHECK(plan.writes[0].trailer_size >= 64 && plan.writes[0].trailer_size < 128);
    }
    rt_edge_wiring wiring = wiring_of(RT_EDGE_TAIL, 100, 2, 1);
    uint8_t line[RT_EDGE_LINE_SIZE], wanted[RT_EDGE_LINE_SIZE] = {[56] = 0x34, [57] = 0x12};
    rt_edge_line_fill(&wiring, 0x1234, 0, line);
    CHECK_BYTES(line, wanted, sizeof wanted);
    wiring.verify = wiring.loop_check = true;
    rt_edge_line_fill(&wiring, 0x1234, 0x55667788, line);
    const uint8_t full[RT_EDGE_LINE_SIZE] =
        {0x34, 0x12, [8] = 0x88, [9] = 0x77, [10] = 0x66, [11] = 0x55, [12] = 0x34, [13] = 0x12, [56] = 0x34, [57] = 0x12};
    CHECK_BYTES(line, full, sizeof full);
}

static void an_immediate_comes_back_as_the_flag_of_its_slot(void)
{
    rt_edge_wiring wiring = wiring_of(RT_EDGE_IMMEDIATE, 100, 3, 1);
    uint64_t flags[3] = {0};
    for (uint64_t sequence = 1; sequence < 2000; sequence++) {
        rt_edge_plan plan;
        uint32_t slot = 77;
        uint64_t flag = 0, count = 0;
        rt_edge_plan_make(&wiring, sequence, 0, 0, 100, 0, &plan);
        CHECK(plan.count == 1 && plan.writes[0].immediate && !plan.writes[0].every_piece);
        CHECK_INT(rt_edge_immediate_number(plan.immediate), 0x1234);
        CHECK_INT(rt_edge_immediate_slot(&wiring, plan.immediate, &slot, NULL), RT_OK);
        CHECK_INT(slot, sequence % 3);
        CHECK_INT(rt_edge_immediate_take(&wiring, plan.immediate, 0, flags[slot], 0, &flag, &count, NULL), RT_OK);
        CHECK_INT(flag, sequence);
        rt_detail detail; /* the same again is of no tensor that is due */
        CHECK_INT(rt_edge_immediate_take(&wiring, plan.immediate, 0, flag, 0, &flag, &count, &detail), RT_E_PROTOCOL);
        CHECK_HAS(detail.text, "is not of tensor");
        flags[slot] = sequence;
    }
    uint32_t slot = 77;
    rt_detail detail;
    CHECK_INT(rt_edge_immediate_slot(&wiring, 0x12340300, &slot, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "slot 3 of edge 4660: this is edge 4660 of 3 slots");
    CHECK_INT(rt_edge_immediate_slot(&wiring, 0x12350100, &slot, NULL), RT_E_PROTOCOL);
}

static void over_a_provider_that_orders_nothing_every_piece_is_counted(void)
{
    rt_edge_wiring wiring = wiring_of(RT_EDGE_IMMEDIATE, 1000, 2, 1);
    rt_edge_plan plan;
    uint64_t flag = 0, count = 0;
    wiring.orders_writes = false;
    wiring.verify = true;
    wiring.piece_size = 300;
    rt_edge_plan_make(&wiring, 1, 0, 0, 1000, 5, &plan);
    CHECK(plan.count == 2 && plan.writes[0].immediate && plan.writes[1].every_piece);
    CHECK_INT(rt_edge_immediate_count(&wiring, 0), 5);
    for (uint64_t piece = 1; piece < 5; piece++) {
        CHECK_INT(rt_edge_immediate_take(&wiring, plan.immediate, 0, 0, count, &flag, &count, NULL), RT_E_AGAIN);
        CHECK_INT(count, piece);
    }
    CHECK_INT(rt_edge_immediate_take(&wiring, plan.immediate, 0, 0, count, &flag, &count, NULL), RT_OK);
    CHECK(flag == 1 && count == 0);
    CHECK_INT(rt_edge_immediate_take(&wiring, plan.immediate, 0, 0, 5, &flag, &count, NULL), RT_E_PROTOCOL);
}

static void a_wiring_that_the_provider_does_not_carry_is_refused(void)
{
    rt_detail detail;
    rt_edge_wiring tail = wiring_of(RT_EDGE_TAIL, 1000, 2, 1), chained = wiring_of(RT_EDGE_CHAINED, 1000, 2, 1);
    rt_edge_wiring immediate = wiring_of(RT_EDGE_IMMEDIATE, 1000, 2, 1);
    tail.piece_size = 1024;
    CHECK_INT(rt_edge_wiring_check(&tail, &detail), RT_OK);
    tail.orders_writes = chained.orders_writes = immediate.orders_writes = false;
    CHECK_INT(rt_edge_wiring_check(&tail, &detail), RT_E_UNSUPPORTED);
    CHECK_HAS(detail.text, "needs several WRITEs of at most 1024 bytes");
    CHECK_INT(rt_edge_wiring_check(&chained, &detail), RT_E_UNSUPPORTED);
    CHECK_INT(rt_edge_wiring_check(&immediate, &detail), RT_OK);
    immediate.loop_check = true;
    CHECK_INT(rt_edge_wiring_check(&immediate, &detail), RT_E_UNSUPPORTED);
    immediate.record = true;
    immediate.piece_size = 999;
    CHECK_INT(rt_edge_wiring_check(&immediate, &detail), RT_E_UNSUPPORTED);
    CHECK_HAS(detail.text, "make the eager area smaller");
}

static void a_note_fits_its_own_tensor_only(void)
{
    rt_detail detail;
    uint64_t note = rt_edge_note(0x500000007, 0xfeedbeef);
    CHECK_INT(rt_edge_note_check(note, 0x500000007, 0xfeedbeef, NULL), RT_OK);
    CHECK_INT(rt_edge_note_check(note, 7, 0xfeedbeee, &detail), RT_E_CORRUPT);
    CHECK_HAS(detail.text, "its bytes make 0xfeedbeee and the sender said 0xfeedbeef");
    CHECK_INT(rt_edge_note_check(note, 8, 0xfeedbeef, &detail), RT_E_CORRUPT);
    CHECK_HAS(detail.text, "of another tensor");
}

/* ---- flow ---- */

static void a_sender_without_credit_is_told_to_wait(void)
{
    rt_edge_sender sender;
    uint64_t sequence = 0;
    rt_edge_sender_begin(&sender, 2, RT_EDGE_FLOW_CREDIT, true);
    for (uint64_t wanted = 1; wanted <= 2; wanted++) {
        CHECK_INT(rt_edge_sender_next(&sender, &sequence), RT_OK);
        CHECK_INT(sequence, wanted);
        rt_edge_sender_sent(&sender, sequence);
    }
    CHECK_INT(rt_edge_sender_next(&sender, &sequence), RT_E_AGAIN);
    CHECK_INT(rt_edge_sender_credit(&sender, 1, NULL), RT_OK);
    CHECK(!rt_edge_sender_keeps(&sender, 1) && rt_edge_sender_keeps(&sender, 2));
    CHECK_INT(rt_edge_sender_next(&sender, &sequence), RT_OK);
    CHECK_INT(rt_edge_sender_credit(&sender, 0, NULL), RT_OK); /* an old look takes nothing back */
    CHECK_INT(rt_edge_sender_next(&sender, &sequence), RT_OK);
    rt_edge_sender_close(&sender);
    CHECK_INT(rt_edge_sender_next(&sender, &sequence), RT_E_CLOSED);
    CHECK_INT(sender.state, RT_EDGE_DRAINING);
    CHECK_INT(rt_edge_sender_credit(&sender, 2, NULL), RT_OK);
    CHECK_INT(sender.state, RT_EDGE_OVER);
    CHECK_INT(sender.failure, RT_E_CLOSED);
}

static void a_credit_for_what_was_never_sent_ends_the_edge(void)
{
    rt_edge_sender sender;
    rt_detail detail;
    uint64_t sequence = 0;
    rt_edge_sender_begin(&sender, 2, RT_EDGE_FLOW_CREDIT, true);
    CHECK_INT(rt_edge_sender_credit(&sender, 1, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "released tensor 1 and the last that was sent is 0");
    CHECK_INT(rt_edge_sender_next(&sender, &sequence), RT_E_PROTOCOL);
    rt_edge_sender_begin(&sender, 2, RT_EDGE_FLOW_CREDIT, false); /* it may be half written: look again */
    CHECK_INT(rt_edge_sender_credit(&sender, 1, &detail), RT_OK);
    CHECK_INT(sender.state, RT_EDGE_OPEN);
}

/* Any mix of the bytes of the last credit and the next is ignored or is one of the two, wherever in the numbers. */
static void a_credit_seen_half_written_is_never_taken_for_another(void)
{
    static const uint64_t places[] = {0xf0, 0xfff0, 0xfffff0, 0xfffffffff0, 0x1234fff0};
    for (size_t index = 0; index < sizeof places / sizeof places[0]; index++) {
        for (uint64_t old = places[index]; old < places[index] + 32; old++) {
            for (uint64_t new = old + 1; new <= old + RT_EDGE_SLOTS_MAX; new ++) {
                for (unsigned mix = 0; mix < 256; mix++) {
                    uint64_t word = 0;
                    for (unsigned byte = 0; byte < 8; byte++)
                        word |= (((mix & 1u << byte) != 0 ? new : old) >> 8 * byte & 0xff) << 8 * byte;
                    rt_edge_sender sender;
                    rt_edge_sender_begin(&sender, RT_EDGE_SLOTS_MAX, RT_EDGE_FLOW_CREDIT, false);
                    sender.released = old;
                    sender.sent = old + RT_EDGE_SLOTS_MAX;
                    CHECK_INT(rt_edge_sender_credit(&sender, word, NULL), RT_OK);
                    CHECK(sender.released == old || sender.released == new);
                }
            }
        }
    }
}

static rt_edge_receiver receiver_of(uint32_t slots, rt_edge_flow flow, bool loop_check)
{
    const rt_edge_receiver_options options =
        {.slots = slots, .stripes = 1, .flow = flow, .flags_whole = true, .begun_whole = true, .loop_check = loop_check};
    rt_edge_receiver receiver;
    rt_edge_receiver_begin(&receiver, &options);
    return receiver;
}

static int look(rt_edge_receiver *receiver, uint64_t flag, uint64_t begun, rt_detail *detail)
{
    uint64_t sequence = 0;
    return rt_edge_receiver_look(receiver, &flag, &begun, &sequence, detail);
}

static void tensors_released_out_of_order_are_credited_in_order(void)
{
    rt_edge_receiver receiver = receiver_of(3, RT_EDGE_FLOW_CREDIT, false);
    uint64_t word = 77;
    for (uint64_t sequence = 1; sequence <= 3; sequence++) {
        CHECK_INT(look(&receiver, 0, 0, NULL), RT_E_AGAIN);
        CHECK_INT(look(&receiver, sequence, 0, NULL), RT_OK);
        CHECK_INT(rt_edge_receiver_event(&receiver, sequence, RT_SLOT_USE), RT_OK);
    }
    CHECK_INT(look(&receiver, 1, 0, NULL), RT_E_BUSY);
    CHECK_INT(rt_edge_receiver_release(&receiver, 2, NULL, NULL), RT_OK);
    CHECK(!rt_edge_receiver_credit_due(&receiver, &word));
    CHECK_INT(rt_edge_receiver_release(&receiver, 1, NULL, NULL), RT_OK);
    CHECK(rt_edge_receiver_credit_due(&receiver, &word) && word == 2);
    rt_edge_receiver_credit_posted(&receiver, word);
    CHECK(!rt_edge_receiver_credit_due(&receiver, &word));
    CHECK_INT(rt_edge_receiver_release(&receiver, 2, NULL, NULL), RT_E_INVALID);  /* twice */
    CHECK_INT(rt_edge_receiver_release(&receiver, 4, NULL, NULL), RT_E_INVALID);  /* not here yet */
    CHECK_INT(rt_edge_receiver_event(&receiver, 3, RT_SLOT_FETCH), RT_E_INVALID); /* it is held */
    CHECK_INT(look(&receiver, 4, 0, NULL), RT_OK);
}

static void a_flag_that_is_not_due_ends_the_edge(void)
{
    rt_edge_receiver receiver = receiver_of(2, RT_EDGE_FLOW_CREDIT, false);
    rt_detail detail;
    CHECK_INT(look(&receiver, 3, 0, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "flagged tensor 3 where 1 is due");
    CHECK_INT(look(&receiver, 1, 0, &detail), RT_E_PROTOCOL); /* it stays over, with its first reason */
    CHECK_HAS(detail.text, "the edge is over: protocol");
    receiver = receiver_of(2, RT_EDGE_FLOW_LOOP, false);
    CHECK_INT(look(&receiver, 3, 0, &detail), RT_E_OVERRUN);
    CHECK_HAS(detail.text, "wrote tensor 3 over tensor 1 before it was received");
}

static void a_broken_promise_is_told_at_the_release_at_the_latest(void)
{
    rt_edge_receiver receiver = receiver_of(1, RT_EDGE_FLOW_LOOP, true);
    rt_detail detail;
    uint64_t begun = 1, word = 0;
    CHECK_INT(look(&receiver, 1, 1, NULL), RT_OK);
    CHECK_INT(rt_edge_receiver_event(&receiver, 1, RT_SLOT_USE), RT_OK);
    CHECK_INT(rt_edge_receiver_release(&receiver, 1, &begun, NULL), RT_OK);
    CHECK(!rt_edge_receiver_credit_due(&receiver, &word));
    CHECK_INT(look(&receiver, 2, 2, NULL), RT_OK);
    begun = 3;
    CHECK_INT(rt_edge_receiver_release(&receiver, 2, &begun, &detail), RT_E_OVERRUN);
    CHECK_HAS(detail.text, "wrote tensor 3 over tensor 2 before it was released");
    receiver = receiver_of(1, RT_EDGE_FLOW_LOOP, true);
    CHECK_INT(look(&receiver, 1, 2, NULL), RT_E_OVERRUN); /* begun and not flagged yet */
    receiver = receiver_of(1, RT_EDGE_FLOW_LOOP, true);
    CHECK_INT(look(&receiver, 1, 0, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "without having begun it");
}

static void a_tensor_that_arrived_is_delivered_before_the_loss_is_told(void)
{
    rt_edge_receiver receiver = receiver_of(2, RT_EDGE_FLOW_CREDIT, false);
    rt_detail detail;
    uint64_t word = 0;
    rt_edge_receiver_end(&receiver, RT_E_PEER_LOST);
    CHECK_INT(look(&receiver, 1, 0, NULL), RT_OK);
    CHECK_INT(look(&receiver, 0, 0, &detail), RT_E_PEER_LOST);
    CHECK_HAS(detail.text, "sent after tensor 1");
    CHECK_INT(rt_edge_receiver_event(&receiver, 1, RT_SLOT_USE), RT_OK); /* what was taken can be used and given back */
    CHECK_INT(rt_edge_receiver_release(&receiver, 1, NULL, NULL), RT_OK);
    CHECK(!rt_edge_receiver_credit_due(&receiver, &word));
}

static void the_end_of_an_edge_waits_for_its_last_tensor(void)
{
    rt_edge_receiver receiver = receiver_of(2, RT_EDGE_FLOW_CREDIT, false);
    rt_detail detail;
    CHECK_INT(rt_edge_receiver_finish(&receiver, 1, NULL), RT_OK); /* the message overtook the tensor */
    CHECK_INT(look(&receiver, 0, 0, NULL), RT_E_AGAIN);
    CHECK_INT(look(&receiver, 1, 0, NULL), RT_OK);
    CHECK_INT(rt_edge_receiver_event(&receiver, 1, RT_SLOT_FETCH), RT_OK);
    CHECK_INT(look(&receiver, 0, 0, NULL), RT_E_AGAIN); /* its READ is under way */
    CHECK_INT(rt_edge_receiver_release(&receiver, 1, NULL, NULL), RT_E_INVALID);
    CHECK_INT(rt_edge_receiver_event(&receiver, 1, RT_SLOT_FETCHED), RT_OK);
    CHECK_INT(look(&receiver, 0, 0, &detail), RT_E_PEER_CLOSED);
    CHECK_HAS(detail.text, "closed the edge after tensor 1");
    receiver = receiver_of(2, RT_EDGE_FLOW_CREDIT, false);
    CHECK_INT(look(&receiver, 1, 0, NULL), RT_OK);
    CHECK_INT(rt_edge_receiver_finish(&receiver, 0, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "after tensor 0, but 1 had arrived");
}

/* A sender that broke the rules gets no credit for what is released afterwards; one that closed, or whose receiver did, does. */
static void only_an_edge_that_is_not_broken_owes_credit(void)
{
    const uint64_t flags[] = {1};
    for (uint32_t end = 0; end < 4; end++) {
        rt_edge_receiver receiver;
        rt_edge_receiver_options options = {.slots = 2, .stripes = 1, .flow = RT_EDGE_FLOW_CREDIT, .flags_whole = true};
        uint64_t sequence = 0, word = 0;
        rt_edge_receiver_begin(&receiver, &options);
        CHECK_INT(rt_edge_receiver_look(&receiver, flags, NULL, &sequence, NULL), RT_OK);
        if (end == 1)
            CHECK_INT(rt_edge_receiver_finish(&receiver, 1, NULL), RT_OK);
        else if (end == 2)
            rt_edge_receiver_end(&receiver, RT_E_CLOSED);
        else if (end == 3)
            CHECK_INT(rt_edge_receiver_finish(&receiver, 0, NULL), RT_E_PROTOCOL); /* it arrived, and was never sent */
        CHECK_INT(rt_edge_receiver_event(&receiver, 1, RT_SLOT_USE), RT_OK);
        CHECK_INT(rt_edge_receiver_release(&receiver, 1, NULL, NULL), RT_OK);
        CHECK_INT(rt_edge_receiver_credit_due(&receiver, &word), end != 3);
    }
}

static void states_have_names(void)
{
    CHECK_STR(rt_edge_state_name(RT_EDGE_DRAINING), "draining");
    CHECK_STR(rt_slot_state_name(RT_SLOT_FETCHING), "fetching");
}

/* ---- loans ---- */

static void a_sender_that_is_lent_sends_nothing_and_ends_as_ever(void)
{
    rt_edge_sender sender;
    uint64_t sequence = 0;
    rt_edge_sender_begin(&sender, 2, RT_EDGE_FLOW_CREDIT, true);
    CHECK_INT(rt_edge_sender_next(&sender, &sequence), RT_OK);
    rt_edge_sender_lend(&sender);
    CHECK_INT(rt_edge_sender_next(&sender, &sequence), RT_E_AGAIN);
    rt_edge_sender_take_back(&sender);
    rt_edge_sender_take_back(&sender); /* twice is nothing */
    CHECK_INT(rt_edge_sender_next(&sender, &sequence), RT_OK);
    CHECK_INT(sequence, 1);
    rt_edge_sender_sent(&sender, 1);
    rt_edge_sender_lend(&sender);
    CHECK(rt_edge_sender_keeps(&sender, 1));
    CHECK_INT(rt_edge_sender_credit(&sender, 1, NULL), RT_OK);
    CHECK(!rt_edge_sender_keeps(&sender, 1));
    rt_edge_sender_close(&sender); /* all is released: nothing to wait for */
    CHECK_INT(sender.state, RT_EDGE_OVER);
    rt_edge_sender_take_back(&sender);
    CHECK_INT(rt_edge_sender_next(&sender, &sequence), RT_E_CLOSED);
    static const int ends[] = {RT_E_PEER_CLOSED, RT_E_PEER_LOST};
    for (size_t index = 0; index < sizeof ends / sizeof ends[0]; index++) {
        rt_edge_sender_begin(&sender, 1, RT_EDGE_FLOW_CREDIT, true);
        rt_edge_sender_lend(&sender);
        rt_edge_sender_end(&sender, ends[index]);
        rt_edge_sender_take_back(&sender);
        CHECK_INT(sender.state, RT_EDGE_OVER);
        CHECK_INT(rt_edge_sender_next(&sender, &sequence), ends[index]);
    }
}

static const check_test tests[] = {
    CHECK_TEST(a_chained_tensor_is_its_bytes_then_its_flag),
    CHECK_TEST(a_tail_is_one_write_that_ends_with_the_flag),
    CHECK_TEST(an_immediate_comes_back_as_the_flag_of_its_slot),
    CHECK_TEST(over_a_provider_that_orders_nothing_every_piece_is_counted),
    CHECK_TEST(a_wiring_that_the_provider_does_not_carry_is_refused),
    CHECK_TEST(a_note_fits_its_own_tensor_only),
    CHECK_TEST(a_sender_without_credit_is_told_to_wait),
    CHECK_TEST(a_credit_for_what_was_never_sent_ends_the_edge),
    CHECK_TEST(a_credit_seen_half_written_is_never_taken_for_another),
    CHECK_TEST(tensors_released_out_of_order_are_credited_in_order),
    CHECK_TEST(a_flag_that_is_not_due_ends_the_edge),
    CHECK_TEST(a_broken_promise_is_told_at_the_release_at_the_latest),
    CHECK_TEST(a_tensor_that_arrived_is_delivered_before_the_loss_is_told),
    CHECK_TEST(the_end_of_an_edge_waits_for_its_last_tensor),
    CHECK_TEST(only_an_edge_that_is_not_broken_owes_credit),
    CHECK_TEST(states_have_names),
    CHECK_TEST(a_sender_that_is_lent_sends_nothing_and_ends_as_ever),
};
CHECK_MAIN(tests)
