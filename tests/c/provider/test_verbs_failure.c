/* test_verbs_failure.c: failed completions, and what the verbs provider does when the device or the peer does not do its
 * part, over the fake libibverbs.
 *
 * Needs: csrc/base/, csrc/provider/absent.c, csrc/provider/verbs/ and libfakeibverbs.so (tests/c/fake_verbs*.c). */
#include "check.h"
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include "verbs_pair.h"

/* ---- failures ---- */

typedef struct expectation {
    uint32_t wc_status;
    int status;
    const char *name;
} expectation;

static const expectation expectations[] = {
    {IBV_WC_LOC_LEN_ERR, RT_E_LOCAL_ACCESS, "IBV_WC_LOC_LEN_ERR"},
    {IBV_WC_LOC_QP_OP_ERR, RT_E_LOCAL_ACCESS, "IBV_WC_LOC_QP_OP_ERR"},
    {IBV_WC_LOC_EEC_OP_ERR, RT_E_LOCAL_ACCESS, "IBV_WC_LOC_EEC_OP_ERR"},
    {IBV_WC_LOC_PROT_ERR, RT_E_LOCAL_ACCESS, "IBV_WC_LOC_PROT_ERR"},
    {IBV_WC_WR_FLUSH_ERR, RT_E_PEER_LOST, "IBV_WC_WR_FLUSH_ERR"}, /* of a link that nobody shut */
    {IBV_WC_MW_BIND_ERR, RT_E_LOCAL_ACCESS, "IBV_WC_MW_BIND_ERR"},
    {IBV_WC_BAD_RESP_ERR, RT_E_PROTOCOL, "IBV_WC_BAD_RESP_ERR"},
    {IBV_WC_LOC_ACCESS_ERR, RT_E_LOCAL_ACCESS, "IBV_WC_LOC_ACCESS_ERR"},
    {IBV_WC_REM_INV_REQ_ERR, RT_E_REMOTE_ACCESS, "IBV_WC_REM_INV_REQ_ERR"},
    {IBV_WC_REM_ACCESS_ERR, RT_E_REMOTE_ACCESS, "IBV_WC_REM_ACCESS_ERR"},
    {IBV_WC_REM_OP_ERR, RT_E_REMOTE_ACCESS, "IBV_WC_REM_OP_ERR"},
    {IBV_WC_RETRY_EXC_ERR, RT_E_PEER_LOST, "IBV_WC_RETRY_EXC_ERR"},
    {IBV_WC_RNR_RETRY_EXC_ERR, RT_E_PEER_LOST, "IBV_WC_RNR_RETRY_EXC_ERR"},
    {IBV_WC_LOC_RDD_VIOL_ERR, RT_E_LOCAL_ACCESS, "IBV_WC_LOC_RDD_VIOL_ERR"},
    {IBV_WC_REM_INV_RD_REQ_ERR, RT_E_REMOTE_ACCESS, "IBV_WC_REM_INV_RD_REQ_ERR"},
    {IBV_WC_REM_ABORT_ERR, RT_E_PEER_LOST, "IBV_WC_REM_ABORT_ERR"},
    {IBV_WC_INV_EECN_ERR, RT_E_SYSTEM, "IBV_WC_INV_EECN_ERR"},
    {IBV_WC_INV_EEC_STATE_ERR, RT_E_SYSTEM, "IBV_WC_INV_EEC_STATE_ERR"},
    {IBV_WC_FATAL_ERR, RT_E_DEVICE_LOST, "IBV_WC_FATAL_ERR"},
    {IBV_WC_RESP_TIMEOUT_ERR, RT_E_PEER_LOST, "IBV_WC_RESP_TIMEOUT_ERR"},
    {IBV_WC_GENERAL_ERR, RT_E_SYSTEM, "IBV_WC_GENERAL_ERR"},
    {IBV_WC_TM_ERR, RT_E_SYSTEM, "IBV_WC_TM_ERR"},
    {IBV_WC_TM_RNDV_INCOMPLETE, RT_E_SYSTEM, "IBV_WC_TM_RNDV_INCOMPLETE"},
    {99, RT_E_SYSTEM, "unknown ibv_wc_status"},
};

static void every_completion_status_is_told_and_flushes_the_rest(void)
{
    rt_completion completions[4];
    for (size_t which = 0; which < sizeof expectations / sizeof expectations[0]; which++) {
        const expectation *wanted = &expectations[which];
        begin();
        pair_open();
        rt_segment segment = segment_of(0, 8);
        rt_work items[4];
        rt_posted posted;
        for (uint32_t index = 0; index < 4; index++) {
            items[index] = work_of(RT_WORK_WRITE, &segment, 0, 60 + index);
            items[index].flags = 0; /* failures are reported all the same */
        }
        faked.fake_complete(2, wanted->wc_status, 0x77);
        CHECK_INT(verbs->post(both.link_a, items, 4, &posted), RT_OK);
        CHECK_INT(posted.accepted, 4);
        take(both.a, DATA_QUEUE, completions, 3);
        CHECK_INT(completions[0].token, 61);
        CHECK_INT(completions[0].status, wanted->status);
        CHECK_INT(completions[0].foreign_status, wanted->wc_status);
        CHECK_INT(completions[0].vendor_error, 0x77);
        CHECK_INT(completions[0].has_immediate, 0);
        CHECK_INT(completions[0].size, 0);
        CHECK_STR(verbs->completion_name(completions[0].foreign_status), wanted->name);
        for (uint32_t index = 1; index < 3; index++) {
            CHECK_INT(completions[index].token, 61 + index);
            CHECK_INT(completions[index].status, RT_E_FLUSHED);
        }
        char line[256];
        verbs->link_describe(both.link_a, line, sizeof line);
        CHECK_HAS(line, wanted->name);
        CHECK_HAS(line, "sends 0/");
        pair_close();
        end();
    }
}

static void a_failed_receive_flushes_those_after_it(void)
{
    begin();
    pair_open();
    rt_segment segment = segment_of(0, 8);
    rt_completion completions[3];
    receive_one(0, 8, 1);
    receive_one(8, 8, 2);
    receive_one(16, 8, 3);
    faked.fake_complete_receive(1, IBV_WC_LOC_PROT_ERR);
    rt_work item = work_of(RT_WORK_SEND, &segment, 0, 9);
    post_one(&item);
    take(both.b, SERVICE_QUEUE, completions, 3);
    CHECK_INT(completions[0].status, RT_E_LOCAL_ACCESS);
    CHECK_INT(completions[0].token, 1);
    CHECK_INT(completions[1].status, RT_E_FLUSHED);
    CHECK_INT(completions[2].token, 3);
    take(both.a, DATA_QUEUE, completions, 1);
    CHECK_INT(completions[0].status, RT_E_REMOTE_ACCESS);
    pair_close();
    end();
}

static void a_link_whose_receives_are_flushed_by_the_device_is_told_lost_once(void)
{
    begin();
    pair_open();
    rt_segment segment = segment_of(0, 8);
    rt_completion completions[2];
    rt_event event;
    receive_one(0, 8, 1);
    receive_one(8, 8, 2);
    faked.fake_complete_receive(1, IBV_WC_LOC_PROT_ERR);
    rt_work item = work_of(RT_WORK_SEND, &segment, 0, 9);
    post_one(&item);
    verbs->service(both.b, &event);
    CHECK_INT(event.kind, RT_EVENT_NONE); /* the device itself says nothing, as rxe */
    take(both.b, SERVICE_QUEUE, completions, 2);
    verbs->service(both.b, &event);
    CHECK_INT(event.kind, RT_EVENT_LINK_LOST);
    CHECK(event.link == both.link_b);
    CHECK_HAS(event.detail.text, "receives were flushed");
    verbs->service(both.b, &event);
    CHECK_INT(event.kind, RT_EVENT_NONE);
    pair_close();
    end();
}

static void receives_that_are_flushed_by_our_own_shutting_are_no_loss(void)
{
    begin();
    pair_open();
    rt_completion completion;
    rt_event event;
    receive_one(0, 8, 1);
    verbs->link_shut(both.link_b);
    take(both.b, SERVICE_QUEUE, &completion, 1);
    CHECK_INT(completion.status, RT_E_FLUSHED);
    verbs->service(both.b, &event);
    CHECK_INT(event.kind, RT_EVENT_NONE);
    pair_close();
    end();
}

static void the_peers_device_refuses_what_the_registration_does_not_give(void)
{
    begin();
    pair_open_with("", RT_ACCESS_LOCAL_WRITE | RT_ACCESS_REMOTE_READ);
    rt_segment segment = segment_of(0, 8);
    rt_completion completion;
    rt_event event;
    rt_work item = work_of(RT_WORK_WRITE, &segment, 0, 9);
    memset(both.bytes_a, 1, 8);
    post_one(&item);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.status, RT_E_REMOTE_ACCESS);
    CHECK_INT(both.bytes_b[0], 0);
    verbs->service(both.b, &event);
    CHECK_INT(event.kind, RT_EVENT_LINK_LOST);
    CHECK(event.link == both.link_b);
    CHECK_HAS(event.detail.text, "IBV_EVENT_QP_ACCESS_ERR");
    pair_close();
    end();
}

static void a_released_registration_is_out_of_reach(void)
{
    begin();
    pair_open();
    rt_segment segment = segment_of(0, 8);
    rt_completion completion;
    verbs->memory_release(both.b, both.memory_b);
    both.memory_b = NULL;
    rt_work item = work_of(RT_WORK_READ, &segment, 0, 9);
    post_one(&item);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.status, RT_E_REMOTE_ACCESS);
    pair_close();
    end();
}

static void a_peer_that_is_gone_is_lost(void)
{
    begin();
    pair_open();
    rt_segment segment = segment_of(0, 8);
    rt_completion completion;
    verbs->link_destroy(both.link_b);
    both.link_b = NULL;
    rt_work item = work_of(RT_WORK_WRITE, &segment, 0, 9);
    post_one(&item);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.status, RT_E_PEER_LOST);
    CHECK_HAS(verbs->completion_name(completion.foreign_status), "IBV_WC_RETRY_EXC_ERR, and the peer was never reached");
    pair_close();
    end();
}

static void a_peer_that_never_receives_is_lost(void)
{
    begin();
    pair_open();
    rt_segment segment = segment_of(0, 8);
    rt_completion completion;
    rt_work item = work_of(RT_WORK_SEND, &segment, 0, 9);
    post_one(&item);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.foreign_status, IBV_WC_RNR_RETRY_EXC_ERR);
    CHECK_INT(completion.status, RT_E_PEER_LOST);
    pair_close();
    end();
}

static void shutting_a_link_flushes_both_directions(void)
{
    begin();
    pair_open();
    faked.fake_slow(1000000, 0, 0);
    rt_segment segment = segment_of(0, 8);
    rt_completion completions[2];
    rt_posted posted;
    rt_work items[2] = {work_of(RT_WORK_WRITE, &segment, 0, 1), work_of(RT_WORK_WRITE, &segment, 0, 2)};
    rt_work receive = {.opcode = RT_WORK_RECV, .token = 3};
    items[0].flags = items[1].flags = 0;
    CHECK_INT(verbs->post(both.link_a, items, 2, &posted), RT_OK);
    CHECK_INT(verbs->post(both.link_a, &receive, 1, &posted), RT_OK);
    verbs->link_shut(both.link_a);
    verbs->link_shut(both.link_a);
    take(both.a, DATA_QUEUE, completions, 2);
    CHECK_INT(completions[0].status, RT_E_FLUSHED);
    CHECK_INT(completions[1].token, 2);
    take(both.a, SERVICE_QUEUE, completions, 1);
    CHECK_INT(completions[0].opcode, RT_WORK_RECV);
    CHECK_INT(completions[0].status, RT_E_FLUSHED);
    CHECK_INT(verbs->link_connect(both.link_a, both.address_b, both.address_b_size, &both.detail), RT_E_CLOSED);
    pair_close();
    end();
}

/* ---- a device that was lost does not flush: the provider does ---- */

enum loss { LOST_BY_EVENT, LOST_BY_QUEUE_EVENT, LOST_BY_POLL, LOST_AFTER_SHUT, LOST_BY_MODIFY };

static void post_both_ways(void)
{
    rt_segment segment = segment_of(0, 8);
    rt_posted posted;
    rt_work items[3], receive = {.opcode = RT_WORK_RECV, .token = 55};
    for (uint32_t index = 0; index < 3; index++) {
        items[index] = work_of(RT_WORK_WRITE, &segment, 0, 30 + index);
        items[index].flags = 0;
    }
    CHECK_INT(verbs->post(both.link_a, items, 3, &posted), RT_OK);
    CHECK_INT(verbs->post(both.link_a, &receive, 1, &posted), RT_OK);
}

static void lose(enum loss how)
{
    rt_event event;
    rt_completion completion;
    if (how == LOST_BY_EVENT || how == LOST_BY_QUEUE_EVENT || how == LOST_AFTER_SHUT) {
        if (how == LOST_AFTER_SHUT)
            verbs->link_shut(both.link_a);
        CHECK_INT(faked.fake_raise(0, how == LOST_BY_QUEUE_EVENT ? IBV_EVENT_CQ_ERR : IBV_EVENT_DEVICE_FATAL, 0, 0), 1);
        verbs->service(both.a, &event);
        CHECK_INT(event.kind, RT_EVENT_DEVICE_LOST);
        CHECK_INT(event.detail.status, RT_E_DEVICE_LOST);
    }
    if (how == LOST_BY_POLL) {
        faked.fake_fail_polls(1);
        CHECK_INT(verbs->poll(both.a, DATA_QUEUE, &completion, 1), RT_E_DEVICE_LOST);
    }
    if (how == LOST_AFTER_SHUT)
        return; /* core does not shut it again */
    if (how == LOST_BY_MODIFY)
        faked.fake_fail_call("modify_to_err", 1, EIO);
    verbs->link_shut(both.link_a);
}

static void items_that_a_lost_device_does_not_flush_are_flushed_for_it(void)
{
    for (enum loss how = LOST_BY_EVENT; how <= LOST_BY_MODIFY; how++) {
        begin();
        pair_open();
        faked.fake_set_engine(FAKE_ENGINE_MANUAL); /* which never steps: no completion comes */
        post_both_ways();
        lose(how);
        rt_completion completions[3];
        rt_posted posted;
        rt_segment segment = segment_of(0, 8);
        take(both.a, DATA_QUEUE, completions, 3);
        for (uint32_t index = 0; index < 3; index++) {
            CHECK_INT(completions[index].token, 30 + index);
            CHECK_INT(completions[index].status, RT_E_FLUSHED);
            CHECK_STR(verbs->completion_name(completions[index].foreign_status), "IBV_WC_WR_FLUSH_ERR");
        }
        take(both.a, SERVICE_QUEUE, completions, 1);
        CHECK_INT(completions[0].token, 55);
        CHECK_INT(completions[0].opcode, RT_WORK_RECV);
        if (how != LOST_BY_POLL)
            nothing_left(both.a, DATA_QUEUE);
        rt_work item = work_of(RT_WORK_WRITE, &segment, 0, 1);
        CHECK_INT(verbs->post(both.link_a, &item, 1, &posted), RT_E_DEVICE_LOST);
        pair_close();
        end();
    }
}

static void real_completions_of_a_lost_device_come_before_the_flushed(void)
{
    begin();
    pair_open();
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    rt_segment segment = segment_of(0, 8);
    rt_completion completions[2];
    rt_work first = work_of(RT_WORK_WRITE, &segment, 0, 1), second = work_of(RT_WORK_WRITE, &segment, 0, 2);
    post_one(&first);
    CHECK_INT(faked.fake_step(), 1);
    post_one(&second);
    faked.fake_fail_call("modify_to_err", 1, EIO);
    verbs->link_shut(both.link_a);
    take(both.a, DATA_QUEUE, completions, 2);
    CHECK_INT(completions[0].token, 1);
    CHECK_INT(completions[0].status, RT_OK);
    CHECK_INT(completions[1].token, 2);
    CHECK_INT(completions[1].status, RT_E_FLUSHED);
    pair_close();
    end();
}

static void memory_stays_in_use_where_nobody_knows_what_the_device_does(void)
{
    begin();
    pair_open();
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    post_both_ways();
    CHECK_INT(faked.fake_raise(0, IBV_EVENT_DEVICE_FATAL, 0, 0), 1);
    rt_event event;
    verbs->service(both.a, &event);
    faked.fake_fail_call("ibv_destroy_qp", 1, EBUSY);
    verbs->link_shut(both.link_a);
    nothing_left(both.a, DATA_QUEUE);
    nothing_left(both.a, SERVICE_QUEUE);
    pair_close();
    end();
}

static void a_late_completion_of_a_destroyed_link_reaches_nobody(void)
{
    begin();
    pair_open();
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    rt_segment segment = segment_of(0, 8);
    rt_completion completion;
    rt_work item = work_of(RT_WORK_WRITE, &segment, 0, 1);
    post_one(&item);
    CHECK_INT(faked.fake_step(), 1);
    verbs->remote_detach(both.link_a, both.remote);
    both.remote = NULL;
    verbs->link_destroy(both.link_a); /* soft-RoCE leaves what is in the completion queue there */
    verbs_device *device = verbs_device_of(both.a);
    device->next_link = 0; /* the next link gets the same index */
    CHECK_INT(verbs->link_create(both.a, DATA_QUEUE, SERVICE_QUEUE, &both.link_a, both.address_a, &both.address_a_size,
                                 &both.detail),
              RT_OK);
    CHECK_INT(verbs->poll(both.a, DATA_QUEUE, &completion, 1), 0);
    CHECK_INT(atomic_load(&verbs_link_of(both.link_a)->send.retired), 0);
    pair_close();
    end();
}

static void an_overrun_queue_is_a_lost_device(void)
{
    begin();
    pair_open();
    rt_segment segment = segment_of(0, 8);
    rt_work item = work_of(RT_WORK_WRITE, &segment, 0, 1);
    rt_event event;
    rt_completion completion;
    fake_cq *pressed = (fake_cq *)(void *)verbs_device_of(both.a)->queues[DATA_QUEUE].cq;
    uint32_t capacity = pressed->capacity;
    pressed->capacity = 1; /* less than was given: the provider's own accounting never lets it come to this */
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    post_one(&item);
    post_one(&item);
    faked.fake_step();
    pressed->capacity = capacity;
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(verbs->poll(both.a, DATA_QUEUE, &completion, 1), RT_E_DEVICE_LOST);
    verbs->service(both.a, &event);
    CHECK_INT(event.kind, RT_EVENT_DEVICE_LOST);
    CHECK_HAS(event.detail.text, "IBV_EVENT_CQ_ERR");
    verbs->link_shut(both.link_a);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.status, RT_E_FLUSHED);
    pair_close();
    end();
}

#else

#include "without_verbs.h"

#endif

static const check_test tests[] = {
    CHECK_TEST(every_completion_status_is_told_and_flushes_the_rest),
    CHECK_TEST(a_failed_receive_flushes_those_after_it),
    CHECK_TEST(a_link_whose_receives_are_flushed_by_the_device_is_told_lost_once),
    CHECK_TEST(receives_that_are_flushed_by_our_own_shutting_are_no_loss),
    CHECK_TEST(the_peers_device_refuses_what_the_registration_does_not_give),
    CHECK_TEST(a_released_registration_is_out_of_reach),
    CHECK_TEST(a_peer_that_is_gone_is_lost),
    CHECK_TEST(a_peer_that_never_receives_is_lost),
    CHECK_TEST(shutting_a_link_flushes_both_directions),
    CHECK_TEST(items_that_a_lost_device_does_not_flush_are_flushed_for_it),
    CHECK_TEST(real_completions_of_a_lost_device_come_before_the_flushed),
    CHECK_TEST(memory_stays_in_use_where_nobody_knows_what_the_device_does),
    CHECK_TEST(a_late_completion_of_a_destroyed_link_reaches_nobody),
    CHECK_TEST(an_overrun_queue_is_a_lost_device),
};
CHECK_MAIN(tests)
