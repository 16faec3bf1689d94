/* test_edge_lies.c: how the lies of a peer end that opens an edge, gives it registrations or closes it. A peer lies in the simulator, where
 * nothing moves while a request or an answer is changed.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"
#include "proto/handle.h"

enum { SIZE = 64 };
static const uint64_t dims[] = {SIZE};
static const edge_place sim_place = {"sim", "sim", NULL, 0, RT_EDGE_CHAINED};

static rt_edge_options static_edge(const char *name)
{
    rt_edge_options options = edge_options(name);
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = dims;
    return options;
}

static rt_edge_options dynamic_edge(const char *name)
{
    rt_edge_options options = edge_options(name);
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    return options;
}

/* ---- a sender that lies ---- */

typedef struct lie {
    uint64_t size;   /* of the range that is named … */
    uint32_t rights; /* … in a region of these rights */
    int status;
} lie;

/* The handle of a range of a new region. */
static void name_range(rt_device *device, const lie *told, rt_region **region_out, rt_edge_bytes *handle_out)
{
    size_t size = 0;
    rt_detail detail;
    rt_handle handle;
    *region_out = core_region(device, 4096, told->rights);
    CHECK_INT(rt_region_handle(*region_out, 0, 4096, handle_out->bytes, &size, &detail), RT_OK);
    CHECK_INT(rt_handle_decode(handle_out->bytes, size, &handle, &detail), RT_OK);
    handle.size = told->size;
    handle_out->size = (uint8_t)rt_handle_encode(&handle, handle_out->bytes, sizeof handle_out->bytes);
}

/* Opens an edge that is not made yet: the request that waits for it at the peer, to be changed. */
static rt_edge_request *open_and_wait(edge_ends *ends, const rt_edge_options *options)
{
    rt_edge_request *request = &rt_edges_of(ends->core.accepted)->requests[0];
    int tries = 0;
    CHECK_INT(rt_edge_open(ends->core.channel, options, RT_NS_PER_S, &ends->sender, &ends->detail), RT_OK);
    while (!request->active && ++tries < 400)
        rt_device_progress(ends->core.near);
    CHECK(request->active && !request->answered);
    return request;
}

static void check_lie(const rt_edge_options *options, const lie *told, const char *words)
{
    edge_ends ends;
    rt_region *region;
    edge_begin(&ends, &sim_place, 1);
    rt_edge_request *request = open_and_wait(&ends, options);
    bool is_static = options->kind == RT_EDGE_STATIC;
    name_range(ends.core.near, told, &region, is_static ? &request->message.credit : &request->message.tensors);
    CHECK_INT(rt_edge_create(ends.core.far, options, NULL, &ends.receiver, &ends.detail), RT_OK);
    CHECK_INT(edge_wait_open(&ends), told->status);
    CHECK_INT(rt_edge_joined(ends.receiver), told->status == RT_OK);
    if (told->status != RT_OK) {
        CHECK_HAS(ends.detail.text, words);
        rt_edge_drop(ends.sender); /* the edge is still free */
        CHECK_INT(rt_edge_open(ends.core.channel, options, 0, &ends.sender, &ends.detail), RT_OK);
        CHECK_INT(edge_wait_open(&ends), RT_OK);
    }
    rt_region_drop(region);
    edge_end(&ends);
}

static void the_memory_that_a_sender_names_is_checked(void)
{
    static const lie lies[] = {{8, RT_RIGHT_REMOTE_WRITE, RT_OK},
                               {8, CORE_BOTH, RT_OK},
                               {7, RT_RIGHT_REMOTE_WRITE, RT_E_REFUSED},
                               {0, RT_RIGHT_REMOTE_WRITE, RT_E_REFUSED},
                               {64, RT_RIGHT_REMOTE_READ, RT_E_REFUSED}};
    const rt_edge_options options = static_edge("credit");
    for (size_t index = 0; index < sizeof lies / sizeof lies[0]; index++)
        check_lie(&options, &lies[index],
                  "the peer's handle does not reach what edge \"credit\" needs: 8 bytes and the right 0x2");
}

static void the_registration_that_a_dynamic_sender_names_is_checked(void)
{
    static const lie lies[] = {{1, RT_RIGHT_REMOTE_READ, RT_OK},
                               {0, RT_RIGHT_REMOTE_READ, RT_E_REFUSED},
                               {64, RT_RIGHT_REMOTE_WRITE, RT_E_REFUSED}};
    const rt_edge_options options = dynamic_edge("tensors");
    for (size_t index = 0; index < sizeof lies / sizeof lies[0]; index++)
        check_lie(&options, &lies[index],
                  "the peer's handle does not reach what edge \"tensors\" needs: 1 bytes and the right 0x4");
}

static void handles_of_nothing_are_refused(void)
{
    for (uint32_t turn = 0; turn < 2; turn++) {
        edge_ends ends;
        const rt_edge_options options = static_edge("garbage");
        edge_begin(&ends, &sim_place, 1);
        rt_edge_bytes *handle = &open_and_wait(&ends, &options)->message.credit;
        if (turn == 0) {
            memset(handle->bytes, 0x5a, handle->size);
        } else { /* the receiver's own memory */
            size_t size = 0;
            CHECK_INT(rt_region_handle(ends.core.target, 0, 64, handle->bytes, &size, &ends.detail), RT_OK);
            handle->size = (uint8_t)size;
        }
        CHECK_INT(rt_edge_create(ends.core.far, &options, NULL, &ends.receiver, &ends.detail), RT_OK);
        CHECK_INT(edge_wait_open(&ends), RT_E_REFUSED);
        CHECK(!rt_edge_joined(ends.receiver));
        edge_end(&ends);
    }
}

/* No more requests are kept than a peer may have outstanding. */
static void a_peer_with_too_many_requests_is_refused(void)
{
    edge_ends ends;
    uint8_t bytes[RT_EDGE_MESSAGE_MAX];
    const rt_edge_options options = static_edge("nobody's");
    edge_begin(&ends, &sim_place, 1);
    rt_edge_message message = open_and_wait(&ends, &options)->message;
    for (uint16_t request = 1; request <= RT_RPC_REQUESTS_MAX; request++) { /* one is there already */
        message.request = (uint16_t)(message.request + 1);
        int64_t size = rt_edge_message_encode(&message, bytes, sizeof bytes);
        CHECK(size > 0);
        pthread_mutex_lock(&ends.core.far->lock);
        int status = rt_edges_received(ends.core.accepted, bytes, (size_t)size, &ends.detail);
        pthread_mutex_unlock(&ends.core.far->lock);
        CHECK_INT(status, request < RT_RPC_REQUESTS_MAX ? RT_OK : RT_E_PROTOCOL);
    }
    CHECK_HAS(ends.detail.text, " requests outstanding");
    edge_end(&ends);
}

/* ---- registrations, and the close ---- */

/* The peer's answer to a request of this edge. */
static rt_edge_message answer_to(edge_ends *ends, rt_edge *edge, const rt_edge_message *request)
{
    rt_edge_message answer;
    int tries = 0;
    pthread_mutex_lock(&edge->device->lock);
    CHECK_INT(rt_edge_ask(edge, request), RT_OK);
    CHECK_INT(rt_edge_ask(edge, request), RT_E_BUSY); /* one at a time */
    pthread_mutex_unlock(&edge->device->lock);
    while (edge->ask.state != RT_ASK_DONE && ++tries < 400)
        rt_device_progress(ends->core.near);
    CHECK_INT(edge->ask.state, RT_ASK_DONE);
    answer = edge->ask.answer;
    edge->ask.state = RT_ASK_NONE;
    return answer;
}

static void registrations_are_taken_in_order_and_with_the_right_to_read(void)
{
    static const lie good = {1, RT_RIGHT_REMOTE_READ, RT_OK}, none = {0, RT_RIGHT_REMOTE_READ, RT_OK},
                     written = {64, RT_RIGHT_REMOTE_WRITE, RT_OK};
    edge_ends ends;
    rt_region *regions[3];
    rt_edge_options options = dynamic_edge("keys");
    edge_begin(&ends, &sim_place, 1);
    edge_join(&ends, &sim_place, &options);
    rt_edge_message request = {.kind = RT_EDGE_ADD_KEY, .number = ends.sender->number, .key = 1}, answer;
    name_range(ends.core.near, &none, &regions[0], &request.tensors);
    answer = answer_to(&ends, ends.sender, &request);
    CHECK_INT(answer.kind, RT_EDGE_EDGE_REFUSED);
    CHECK_INT(answer.refusal, RT_EDGE_REFUSED_KEY);
    CHECK_HAS(answer.text, "1 bytes and the right 0x4");
    name_range(ends.core.near, &written, &regions[1], &request.tensors);
    CHECK_INT(answer_to(&ends, ends.sender, &request).refusal, RT_EDGE_REFUSED_KEY);
    name_range(ends.core.near, &good, &regions[2], &request.tensors);
    request.number++;
    answer = answer_to(&ends, ends.sender, &request);
    CHECK_INT(answer.refusal, RT_EDGE_REFUSED_FULL);
    CHECK_HAS(answer.text, "the edge is closed here, or takes no keys");
    request.number--;
    request.key = 2;
    answer = answer_to(&ends, ends.sender, &request);
    CHECK_INT(answer.refusal, RT_EDGE_REFUSED_KEY);
    CHECK_HAS(answer.text, "the number of the key is not the next one, or is in use");
    CHECK_INT(ends.receiver->key_numbers.count, 1);
    for (uint16_t key = 1; key < RT_EDGE_KEYS_MAX; key++) {
        request.key = key;
        CHECK_INT(answer_to(&ends, ends.sender, &request).kind, RT_EDGE_KEY_ADDED);
        CHECK_INT(ends.receiver->key_numbers.count, key + 1);
        CHECK_INT(ends.receiver->key_sizes[key], 1);
        rt_edge_stats stats;
        rt_edge_get_stats(ends.receiver, &stats);
        CHECK_INT(stats.keys, key + 1);
    }
    rt_remote *before = ends.receiver->remotes[RT_EDGE_KEYS_MAX - 1]; /* a number that no tensor needs stands for another */
    CHECK_INT(answer_to(&ends, ends.sender, &request).kind, RT_EDGE_KEY_ADDED);
    CHECK_INT(ends.receiver->key_numbers.count, RT_EDGE_KEYS_MAX);
    CHECK(ends.receiver->remotes[RT_EDGE_KEYS_MAX - 1] != before);
    for (uint32_t index = 0; index < 3; index++)
        rt_region_drop(regions[index]);
    edge_end(&ends);
}

/* A sender that says that it sent less than has arrived. */
static void a_close_that_takes_back_what_was_sent_ends_the_edge(void)
{
    edge_ends ends;
    rt_edge_arrival arrival;
    rt_edge_options options = static_edge("less");
    edge_begin(&ends, &sim_place, 1);
    edge_join(&ends, &sim_place, &options);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, SIZE);
    CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
    CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
    pthread_mutex_lock(&ends.core.near->lock);
    rt_edge_message request = {.kind = RT_EDGE_CLOSE_EDGE, .number = ends.sender->number, .by_sender = 1, .final = 0};
    CHECK_INT(rt_edge_ask(ends.sender, &request), RT_OK);
    pthread_mutex_unlock(&ends.core.near->lock);
    CHECK_INT(edge_receive(&ends, &arrival), RT_E_PROTOCOL);
    CHECK_HAS(ends.detail.text, "closed the edge after tensor 0, but 1 had arrived");
    edge_end(&ends);
}

/* A flag of a later tensor than the one that is due, where a flag is never seen half written. */
static void a_flag_that_is_ahead_is_told_of_at_once(void)
{
    static const edge_place tail_place = {"sim, tail", "sim", "&orders_bytes=1", RT_EDGE_TAIL, RT_EDGE_TAIL};
    for (uint32_t tail = 0; tail < 2; tail++) {
        const edge_place *place = tail ? &tail_place : &sim_place;
        edge_ends ends;
        rt_edge_arrival arrival;
        rt_edge_options options = static_edge("ahead");
        edge_begin(&ends, place, 1);
        edge_join(&ends, place, &options);
        const rt_edge *edge = ends.receiver;
        uint32_t slot = rt_edge_slot(&edge->wiring.layout, 1);
        uint64_t *flag = (uint64_t *)(void *)(rt_edge_line_address(edge, slot, 0) + RT_EDGE_LINE_FLAG);
        CHECK_INT(rt_edge_ready(ends.receiver), 0);
        rt_store_release_u64(flag, 1 + edge->rx.slots);
        CHECK_INT(rt_edge_ready(ends.receiver), !tail);
        CHECK_INT(rt_edge_receive(ends.receiver, 0, &arrival), tail ? RT_E_AGAIN : RT_E_PROTOCOL);
        CHECK_INT(rt_edge_ready(ends.receiver), !tail); /* it is over */
        edge_end(&ends);
    }
}

/* ---- a receiver that lies ---- */

static void the_memory_that_a_receiver_names_is_checked(void)
{
    for (uint32_t turn = 0; turn < 5; turn++) {
        edge_ends ends;
        rt_region *region;
        int tries = 0;
        rt_edge_options options = static_edge("slots");
        edge_begin(&ends, &sim_place, 1);
        CHECK_INT(rt_edge_create(ends.core.far, &options, NULL, &ends.receiver, &ends.detail), RT_OK);
        CHECK_INT(rt_edge_open(ends.core.channel, &options, 0, &ends.sender, &ends.detail), RT_OK);
        while (atomic_load(&ends.sender->phase) != RT_EDGE_PHASE_ANSWERED && ++tries < 400)
            rt_device_progress(ends.core.near);
        CHECK_INT(ends.sender->ask.state, RT_ASK_DONE);
        rt_edge_message *answer = &ends.sender->ask.answer;
        rt_edge_bytes *named = turn < 3 ? &answer->slots_handle : &answer->flags_handle;
        const lie told = {turn % 3 == 0 ? 128 : turn % 3 == 1 ? 127 : 4096, turn == 2 ? RT_RIGHT_REMOTE_READ : CORE_BOTH, RT_OK};
        name_range(ends.core.far, &told, &region, named); /* two slots of 64 bytes are needed, and two lines */
        CHECK_INT(edge_wait_open(&ends), turn % 3 == 0 ? RT_OK : RT_E_PROTOCOL);
        if (turn % 3 != 0) {
            CHECK_HAS(ends.detail.text,
                      "the peer's handle does not reach what edge \"slots\" needs: 128 bytes and the right 0x2");
            CHECK_INT(rt_edge_failure(ends.sender, &ends.detail), RT_E_PROTOCOL);
            rt_edge_arrival arrival;
            CHECK_INT(edge_receive(&ends, &arrival), RT_E_PEER_CLOSED); /* it is told */
        }
        rt_region_drop(region);
        edge_end(&ends);
    }
}

static const check_test tests[] = {
    CHECK_TEST(the_memory_that_a_sender_names_is_checked),
    CHECK_TEST(the_registration_that_a_dynamic_sender_names_is_checked),
    CHECK_TEST(handles_of_nothing_are_refused),
    CHECK_TEST(a_peer_with_too_many_requests_is_refused),
    CHECK_TEST(registrations_are_taken_in_order_and_with_the_right_to_read),
    CHECK_TEST(a_close_that_takes_back_what_was_sent_ends_the_edge),
    CHECK_TEST(a_flag_that_is_ahead_is_told_of_at_once),
    CHECK_TEST(the_memory_that_a_receiver_names_is_checked),
};

CHECK_MAIN(tests)
