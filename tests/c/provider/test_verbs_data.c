/* test_verbs_data.c: the verbs provider at work, over the fake libibverbs: moving bytes, posting, sleeping, events, order.
 * Failures are in test_verbs_failure.c.
 *
 * Needs: csrc/base/, csrc/provider/absent.c, csrc/provider/verbs/ and libfakeibverbs.so (tests/c/fake_verbs*.c). */
#include "check.h"
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <poll.h>

#include "verbs_pair.h"

static bool readable(int descriptor)
{
    struct pollfd entry = {.fd = descriptor, .events = POLLIN};
    return poll(&entry, 1, 0) == 1;
}

static void fill(uint8_t *bytes, size_t size, uint8_t seed)
{
    for (size_t index = 0; index < size; index++)
        bytes[index] = (uint8_t)(index * 7 + seed);
}

/* ---- moving bytes ---- */

static void a_write_lands_in_the_peers_memory(void)
{
    begin();
    pair_open();
    rt_completion completion;
    rt_segment segment = segment_of(100, 4000);
    fill(both.bytes_a, BUFFER_SIZE, 3);
    rt_work item = work_of(RT_WORK_WRITE, &segment, 50, 0x1234567890abcdefull);
    post_one(&item);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.status, RT_OK);
    CHECK_INT(completion.token, 0x1234567890abcdefull);
    CHECK_INT(completion.opcode, 0);
    CHECK_BYTES(both.bytes_b + 50, both.bytes_a + 100, 4000);
    CHECK_INT(both.bytes_b[49], 0);
    CHECK_INT(both.bytes_b[4050], 0);
    nothing_left(both.a, DATA_QUEUE);
    pair_close();
    end();
}

static void a_read_fetches_the_peers_memory(void)
{
    begin();
    pair_open();
    rt_completion completion;
    rt_segment segment = segment_of(0, 1000);
    fill(both.bytes_b, BUFFER_SIZE, 9);
    rt_work item = work_of(RT_WORK_READ, &segment, 500, 7);
    post_one(&item);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.status, RT_OK);
    CHECK_BYTES(both.bytes_a, both.bytes_b + 500, 1000);
    pair_close();
    end();
}

static void segments_are_gathered_in_order(void)
{
    begin();
    pair_open();
    rt_completion completion;
    rt_segment segments[3] = {segment_of(1000, 10), segment_of(0, 0), segment_of(20, 30)};
    fill(both.bytes_a, BUFFER_SIZE, 1);
    rt_work item = work_of(RT_WORK_WRITE, segments, 0, 7);
    item.segment_count = 3;
    post_one(&item);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.status, RT_OK);
    CHECK_BYTES(both.bytes_b, both.bytes_a + 1000, 10);
    CHECK_BYTES(both.bytes_b + 10, both.bytes_a + 20, 30);
    pair_close();
    end();
}

static void a_send_completes_the_receive_with_its_size(void)
{
    begin();
    pair_open();
    rt_completion completion;
    rt_segment segment = segment_of(0, 77);
    fill(both.bytes_a, 77, 5);
    receive_one(200, 128, 41);
    rt_work item = work_of(RT_WORK_SEND, &segment, 0, 42);
    post_one(&item);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.token, 42);
    take(both.b, SERVICE_QUEUE, &completion, 1);
    CHECK_INT(completion.status, RT_OK);
    CHECK_INT(completion.token, 41);
    CHECK_INT(completion.opcode, RT_WORK_RECV);
    CHECK_INT(completion.size, 77);
    CHECK_INT(completion.has_immediate, 0);
    CHECK_BYTES(both.bytes_b + 200, both.bytes_a, 77);
    pair_close();
    end();
}

static void an_immediate_arrives_as_it_was_given(void)
{
    begin();
    pair_open();
    rt_completion completion;
    rt_segment segment = segment_of(0, 64);
    fill(both.bytes_a, 64, 8);
    receive_one(0, 0, 5);
    rt_work item = work_of(RT_WORK_WRITE_IMM, &segment, 4096, 6);
    item.immediate = 0x01020304;
    post_one(&item);
    take(both.b, SERVICE_QUEUE, &completion, 1);
    CHECK_INT(completion.has_immediate, 1);
    CHECK_INT(completion.immediate, 0x01020304);
    CHECK_INT(completion.size, 64);
    CHECK_BYTES(both.bytes_b + 4096, both.bytes_a, 64);
    take(both.a, DATA_QUEUE, &completion, 1);
    pair_close();
    end();
}

static void receives_are_posted_before_the_link_is_joined(void)
{
    begin();
    CHECK_INT(pair_create("", "", ALL_RIGHTS), RT_OK);
    receive_one(0, 64, 1);
    CHECK_INT(pair_join(ALL_RIGHTS), RT_OK);
    rt_segment segment = segment_of(0, 8);
    rt_completion completion;
    rt_work item = work_of(RT_WORK_SEND, &segment, 0, 2);
    post_one(&item);
    take(both.b, SERVICE_QUEUE, &completion, 1);
    CHECK_INT(completion.token, 1);
    CHECK_INT(completion.size, 8);
    pair_close();
    end();
}

static void inline_bytes_are_free_when_post_returns(void)
{
    begin();
    pair_open();
    uint8_t stack[16];
    rt_completion completion;
    rt_segment segment = {.memory = NULL, .address = stack, .size = sizeof stack};
    memset(stack, 0xab, sizeof stack);
    rt_work item = work_of(RT_WORK_WRITE, &segment, 0, 1);
    item.flags |= RT_WORK_INLINE;
    post_one(&item);
    memset(stack, 0, sizeof stack);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.status, RT_OK);
    CHECK_INT(both.bytes_b[0], 0xab);
    CHECK_INT(both.bytes_b[15], 0xab);
    pair_close();
    end();
}

/* ---- posting ---- */

static void many_items_are_one_doorbell_and_one_completion(void)
{
    begin();
    pair_open();
    rt_segment segment = segment_of(0, 8);
    rt_work items[40];
    rt_posted posted;
    rt_completion completions[4];
    for (uint32_t index = 0; index < 40; index++) {
        items[index] = work_of(RT_WORK_WRITE, &segment, 8 * index, index);
        items[index].flags = index == 31 ? RT_WORK_SIGNALED : 0;
    }
    memset(both.bytes_a, 0xee, 8);
    CHECK_INT(verbs->post(both.link_a, items, 40, &posted), RT_OK);
    CHECK_INT(posted.accepted, 32);
    CHECK_INT(posted.completed, 0);
    CHECK_INT(faked.fake_doorbells(), 1);
    take(both.a, DATA_QUEUE, completions, 1);
    CHECK_INT(completions[0].token, 31);
    CHECK_INT(both.bytes_b[8 * 31], 0xee);
    CHECK_INT(both.bytes_b[8 * 32], 0);
    nothing_left(both.a, DATA_QUEUE);
    pair_close();
    end();
}

static void a_full_queue_takes_a_prefix_until_completions_make_room(void)
{
    begin();
    pair_open_with("work_depth=20", ALL_RIGHTS);
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    rt_segment segment = segment_of(0, 8);
    rt_work items[16];
    rt_posted posted;
    rt_completion completions[20];
    CHECK_INT(both.a->limits.work_depth, 20);
    for (uint32_t index = 0; index < 16; index++)
        items[index] = work_of(RT_WORK_WRITE, &segment, 0, index);
    CHECK_INT(verbs->post(both.link_a, items, 16, &posted), RT_OK);
    CHECK_INT(posted.accepted, 16);
    CHECK_INT(verbs->post(both.link_a, items, 16, &posted), RT_OK);
    CHECK_INT(posted.accepted, 4);
    CHECK_INT(verbs->post(both.link_a, items, 16, &posted), RT_OK);
    CHECK_INT(posted.accepted, 0);
    CHECK_INT(faked.fake_step(), 20);
    CHECK_INT(verbs->post(both.link_a, items, 16, &posted), RT_OK);
    CHECK_INT(posted.accepted, 0); /* done, but nobody has polled it */
    take(both.a, DATA_QUEUE, completions, 10);
    CHECK_INT(verbs->post(both.link_a, items, 16, &posted), RT_OK);
    CHECK_INT(posted.accepted, 10);
    faked.fake_step();
    take(both.a, DATA_QUEUE, completions, 20);
    pair_close();
    end();
}

static void a_driver_that_takes_a_prefix_is_believed(void)
{
    begin();
    pair_open();
    rt_segment segment = segment_of(0, 8);
    rt_work items[8];
    rt_posted posted;
    rt_completion completions[8];
    for (uint32_t accepted = 1; accepted < 8; accepted++) {
        for (uint32_t index = 0; index < 8; index++)
            items[index] = work_of(RT_WORK_WRITE, &segment, 0, 100 * accepted + index);
        faked.fake_accept(accepted, ENOMEM);
        CHECK_INT(verbs->post(both.link_a, items, 8, &posted), RT_OK);
        CHECK_INT(posted.accepted, accepted);
        take(both.a, DATA_QUEUE, completions, accepted);
        CHECK_INT(completions[accepted - 1].token, 100 * accepted + accepted - 1);
        nothing_left(both.a, DATA_QUEUE);
    }
    pair_close();
    end();
}

static void a_refused_request_is_an_error_of_the_link_and_sticks(void)
{
    static const struct {
        int error, status;
    } cases[] = {{EINVAL, RT_E_INVALID}, {EIO, RT_E_DEVICE_LOST}, {EFAULT, RT_E_SYSTEM}};
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        begin();
        pair_open();
        rt_segment segment = segment_of(0, 8);
        rt_work items[4];
        rt_posted posted;
        rt_completion completions[2];
        for (uint32_t index = 0; index < 4; index++)
            items[index] = work_of(RT_WORK_WRITE, &segment, 0, index);
        faked.fake_accept(2, cases[which].error);
        CHECK_INT(verbs->post(both.link_a, items, 4, &posted), cases[which].status);
        CHECK_INT(posted.accepted, 2);
        CHECK_INT(verbs->post(both.link_a, items, 4, &posted), cases[which].status);
        CHECK_INT(posted.accepted, 0);
        take(both.a, DATA_QUEUE, completions, 2);
        pair_close();
        end();
    }
}

static void no_room_in_an_empty_queue_is_an_error(void)
{
    begin();
    pair_open();
    rt_segment segment = segment_of(0, 8);
    rt_work item = work_of(RT_WORK_WRITE, &segment, 0, 1);
    rt_posted posted;
    faked.fake_accept(0, ENOMEM);
    CHECK_INT(verbs->post(both.link_a, &item, 1, &posted), RT_E_NO_MEMORY);
    CHECK_INT(posted.accepted, 0);
    pair_close();
    end();
}

static void receives_stop_at_their_depth(void)
{
    begin();
    pair_open();
    rt_work items[32];
    rt_posted posted;
    for (uint32_t index = 0; index < 32; index++)
        items[index] = (rt_work){.opcode = RT_WORK_RECV, .token = index};
    CHECK_INT(both.b->limits.receive_depth, 32);
    faked.fake_accept(3, ENOMEM);
    CHECK_INT(verbs->post(both.link_b, items, 8, &posted), RT_OK);
    CHECK_INT(posted.accepted, 3);
    CHECK_INT(verbs->post(both.link_b, items, 32, &posted), RT_OK);
    CHECK_INT(posted.accepted, 29);
    CHECK_INT(verbs->post(both.link_b, items, 1, &posted), RT_OK);
    CHECK_INT(posted.accepted, 0);
    pair_close();
    end();
}

/* ---- sleeping and events ---- */

static void an_armed_queue_wakes_once(void)
{
    begin();
    pair_open();
    rt_segment segment = segment_of(0, 8);
    rt_completion completions[2];
    rt_work item = work_of(RT_WORK_WRITE, &segment, 0, 1);
    int descriptor = verbs->event_fd(both.a, DATA_QUEUE);
    for (int round = 0; round < 3; round++) {
        CHECK_INT(verbs->arm(both.a, DATA_QUEUE), RT_OK);
        nothing_left(both.a, DATA_QUEUE);
        CHECK(!readable(descriptor));
        post_one(&item);
        CHECK(readable(descriptor));
        post_one(&item);
        take(both.a, DATA_QUEUE, completions, 2);
        verbs->event_clear(both.a, DATA_QUEUE);
        CHECK(!readable(descriptor));
        verbs->event_clear(both.a, DATA_QUEUE); /* never blocks */
    }
    pair_close();
    end();
}

static void events_become_words(void)
{
    static const struct {
        enum ibv_event_type type;
        rt_event_kind kind;
        const char *words;
    } cases[] = {
        {IBV_EVENT_PORT_ERR, RT_EVENT_NOTICE, "port 1 of fake0: went down"},
        {IBV_EVENT_PORT_ACTIVE, RT_EVENT_NOTICE, "came up"},
        {IBV_EVENT_GID_CHANGE, RT_EVENT_NOTICE, "its address changed"},
        {IBV_EVENT_LID_CHANGE, RT_EVENT_NOTICE, "its address changed"},
        {IBV_EVENT_PKEY_CHANGE, RT_EVENT_NOTICE, "P_Key table change"},
        {IBV_EVENT_QP_FATAL, RT_EVENT_LINK_LOST, "IBV_EVENT_QP_FATAL"},
        {IBV_EVENT_QP_REQ_ERR, RT_EVENT_LINK_LOST, "IBV_EVENT_QP_REQ_ERR"},
        {IBV_EVENT_QP_ACCESS_ERR, RT_EVENT_LINK_LOST, "IBV_EVENT_QP_ACCESS_ERR"},
        {IBV_EVENT_PATH_MIG_ERR, RT_EVENT_LINK_LOST, "IBV_EVENT_PATH_MIG_ERR"},
        {IBV_EVENT_COMM_EST, RT_EVENT_NONE, ""},
        {IBV_EVENT_SQ_DRAINED, RT_EVENT_NONE, ""},
        {IBV_EVENT_DEVICE_FATAL, RT_EVENT_DEVICE_LOST, "IBV_EVENT_DEVICE_FATAL"},
    };
    begin();
    pair_open();
    uint32_t qpn = verbs_link_of(both.link_a)->qpn, told = 0;
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        rt_event event;
        bool of_link = cases[which].kind == RT_EVENT_LINK_LOST || cases[which].kind == RT_EVENT_NONE;
        CHECK(!readable(verbs->service_fd(both.a)));
        CHECK_INT(faked.fake_raise(0, (int)cases[which].type, 1, of_link ? qpn : 0), 1);
        CHECK(readable(verbs->service_fd(both.a)));
        verbs->service(both.a, &event);
        told++;
        CHECK_INT(event.kind, cases[which].kind);
        CHECK_HAS(event.detail.text, cases[which].words);
        CHECK(event.link == (cases[which].kind == RT_EVENT_LINK_LOST ? both.link_a : NULL));
        CHECK_INT(faked.fake_state()->acknowledged, told);
        verbs->service(both.a, &event);
        CHECK_INT(event.kind, RT_EVENT_NONE);
    }
    pair_close();
    end();
}

static void another_ports_events_are_not_told(void)
{
    begin();
    pair_open();
    rt_event event;
    faked.fake_raise(0, IBV_EVENT_PORT_ERR, 2, 0);
    faked.fake_raise(0, IBV_EVENT_PORT_ERR, 1, 0);
    verbs->service(both.a, &event);
    CHECK_HAS(event.detail.text, "port 1");
    verbs->service(both.a, &event);
    CHECK_INT(event.kind, RT_EVENT_NONE);
    pair_close();
    end();
}

/* ---- what the seam promises about order ---- */

static void bytes_of_a_write_come_in_any_order_and_nothing_else_is_promised(void)
{
    begin();
    pair_open();
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    faked.fake_slow(0, 64, 1);
    rt_segment segment = segment_of(0, 256);
    rt_completion completion;
    memset(both.bytes_a, 0xff, 256);
    CHECK(!both.a->limits.orders_bytes_within_a_write);
    CHECK(both.a->limits.orders_writes);
    rt_work data = work_of(RT_WORK_WRITE, &segment, 0, 1), flag = work_of(RT_WORK_WRITE, &segment, 1024, 2);
    data.flags = 0;
    post_one(&data);
    post_one(&flag);
    faked.fake_step();
    CHECK_INT(both.bytes_b[255], 0xff); /* a flag in the tail would be here … */
    CHECK_INT(both.bytes_b[0], 0);      /* … before the data */
    for (int steps = 0; both.bytes_b[1024] == 0 && steps < 100; steps++) {
        CHECK(both.bytes_b[1024 + 255] == 0 || both.bytes_b[0] == 0xff);
        faked.fake_step();
    }
    CHECK_INT(both.bytes_b[1024], 0xff);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.token, 2);
    pair_close();
    end();
}

static void a_link_says_what_its_device_says_about_order(void)
{
    char line[256];
    for (int in_order = 0; in_order < 2; in_order++) {
        begin();
        faked.fake_device_at(0)->in_order = in_order == 1;
        pair_open();
        int size = verbs->link_describe(both.link_a, line, sizeof line);
        CHECK_INT(size, strlen(line));
        CHECK_HAS(line, in_order == 1 ? "bytes in order" : "byte order unknown");
        CHECK_HAS(line, "joined, mtu 1024, gid 3 ");
        CHECK_HAS(line, ", reads 8, ");
        pair_close();
        end();
    }
}

static void a_device_that_works_on_its_own_needs_no_help(void)
{
    begin();
    pair_open();
    faked.fake_set_engine(FAKE_ENGINE_THREAD);
    rt_segment segment = segment_of(0, 8);
    rt_completion completion;
    rt_work item = work_of(RT_WORK_WRITE, &segment, 8, 1);
    for (int round = 0; round < 200; round++) {
        struct pollfd entry = {.fd = verbs->event_fd(both.a, DATA_QUEUE), .events = POLLIN};
        int got = 0;
        post_one(&item);
        while (got == 0) {
            CHECK_INT(verbs->arm(both.a, DATA_QUEUE), RT_OK);
            got = verbs->poll(both.a, DATA_QUEUE, &completion, 1);
            if (got == 0)
                CHECK_INT(poll(&entry, 1, 10000), 1);
            verbs->event_clear(both.a, DATA_QUEUE);
        }
        CHECK_INT(completion.status, RT_OK);
    }
    pair_close();
    end();
}

#else

#include "without_verbs.h"

#endif

static const check_test tests[] = {
    CHECK_TEST(a_write_lands_in_the_peers_memory),
    CHECK_TEST(a_read_fetches_the_peers_memory),
    CHECK_TEST(segments_are_gathered_in_order),
    CHECK_TEST(a_send_completes_the_receive_with_its_size),
    CHECK_TEST(an_immediate_arrives_as_it_was_given),
    CHECK_TEST(receives_are_posted_before_the_link_is_joined),
    CHECK_TEST(inline_bytes_are_free_when_post_returns),
    CHECK_TEST(many_items_are_one_doorbell_and_one_completion),
    CHECK_TEST(a_full_queue_takes_a_prefix_until_completions_make_room),
    CHECK_TEST(a_driver_that_takes_a_prefix_is_believed),
    CHECK_TEST(a_refused_request_is_an_error_of_the_link_and_sticks),
    CHECK_TEST(no_room_in_an_empty_queue_is_an_error),
    CHECK_TEST(receives_stop_at_their_depth),
    CHECK_TEST(an_armed_queue_wakes_once),
    CHECK_TEST(events_become_words),
    CHECK_TEST(another_ports_events_are_not_told),
    CHECK_TEST(bytes_of_a_write_come_in_any_order_and_nothing_else_is_promised),
    CHECK_TEST(a_link_says_what_its_device_says_about_order),
    CHECK_TEST(a_device_that_works_on_its_own_needs_no_help),
};
CHECK_MAIN(tests)
