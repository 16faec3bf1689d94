/* test_edge_threads.c: edges between threads that run at once: a sender and a receiver for each edge of a channel, several threads on
 * one edge, and an end in the middle of it. Over the providers that have real time; ThreadSanitizer looks at it too.
 *
 * Needs the whole library. Threads never CHECK: they report by values. */
#include <pthread.h>

#include "edge_ends.h"
#include "proto/dtype.h"

enum { EDGES = 3, TENSORS = 400, SIZE = 1000 };

typedef struct edge_lane {
    rt_edge *sender, *receiver;
    rt_region *target;
    uint8_t *bytes; /* registered, SIZE of them */
    bool dynamic;
    uint32_t count;
    uint64_t sent, received, wrong;
    int status;
} edge_lane;

static int send_all(edge_lane *lane)
{
    rt_edge_tensor tensor = edge_bytes(lane->bytes, SIZE);
    for (uint32_t index = 0; index < lane->count; index++) {
        uint64_t word = index;
        for (uint32_t at = 0; at < SIZE; at += sizeof word)
            memcpy(lane->bytes + at, &word, sizeof word);
        int64_t sequence;
        int status = RT_OK;
        do
            sequence = rt_edge_send_tensor(lane->sender, &tensor, RT_SLICE_NS);
        while (sequence == RT_E_AGAIN || sequence == RT_E_INTERRUPTED);
        if (sequence < 0)
            return (int)sequence;
        while (sequence > 0 && (status = rt_edge_wait_sent(lane->sender, (uint64_t)sequence, RT_SLICE_NS)) == RT_E_AGAIN)
            continue;
        if (status != RT_OK)
            return status;
        lane->sent++;
    }
    return RT_OK;
}

static void *send_main(void *argument)
{
    edge_lane *lane = argument;
    lane->status = send_all(lane);
    return NULL;
}

static int take_one(edge_lane *lane, uint64_t *word_out)
{
    rt_edge_arrival arrival;
    int status;
    do
        status = rt_edge_receive(lane->receiver, RT_SLICE_NS, &arrival);
    while (status == RT_E_AGAIN || status == RT_E_INTERRUPTED);
    if (status != RT_OK)
        return status;
    const uint8_t *bytes = (const uint8_t *)(uintptr_t)arrival.address;
    if (bytes == NULL) {
        bytes = (const uint8_t *)(uintptr_t)rt_region_address(lane->target);
        do
            status = rt_edge_fetch(lane->receiver, arrival.sequence, lane->target, 0, RT_SLICE_NS);
        while (status == RT_E_AGAIN);
    }
    for (uint32_t at = 0; status == RT_OK && at + 8 <= SIZE; at += 8)
        lane->wrong += memcmp(bytes + at, bytes, 8) != 0;
    memcpy(word_out, bytes, sizeof *word_out);
    return status == RT_OK && arrival.address != 0 ? rt_edge_release(lane->receiver, arrival.sequence) : status;
}

static void *receive_main(void *argument)
{
    edge_lane *lane = argument;
    for (uint64_t word = 0; lane->received < lane->count && lane->status == RT_OK; lane->received++) {
        lane->status = take_one(lane, &word);
        lane->wrong += lane->status == RT_OK && word != lane->received;
    }
    return NULL;
}

static void open_lanes(edge_ends *ends, const edge_place *place, edge_lane *lanes, uint32_t count)
{
    static const uint64_t size = SIZE;
    for (uint32_t index = 0; index < EDGES; index++) {
        char name[16];
        snprintf(name, sizeof name, "lane %u", index);
        rt_edge_options options = edge_options(name);
        bool dynamic = index % 2 == 1;
        options.kind = dynamic ? RT_EDGE_DYNAMIC : RT_EDGE_STATIC;
        options.dtype = RT_DTYPE_UINT8;
        options.rank = 1;
        options.dims = &size;
        options.slots = 1 + index;
        options.verify = index == 2;
        edge_join(ends, place, &options);
        lanes[index] = (edge_lane){.sender = ends->sender, .receiver = ends->receiver, .dynamic = dynamic, .count = count};
        lanes[index].target = core_region(ends->core.far, 4096, 0);
        lanes[index].bytes = ends->core.here + index * 4096;
    }
    ends->sender = ends->receiver = NULL;
}

static void close_lanes(edge_lane *lanes)
{
    for (uint32_t index = 0; index < EDGES; index++) {
        rt_edge_drop(lanes[index].sender);
        rt_edge_drop(lanes[index].receiver);
        rt_region_drop(lanes[index].target);
    }
}

static bool has_threads(const edge_place *place)
{
    return strcmp(place->provider, "sim") != 0;
}

static void edges_of_one_channel_run_at_once_and_each_in_order(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_lane lanes[EDGES], mirrors[EDGES];
        pthread_t senders[EDGES], receivers[EDGES];
        if (!has_threads(place))
            continue;
        edge_begin(&ends, place, 2);
        open_lanes(&ends, place, lanes, TENSORS);
        for (uint32_t index = 0; index < EDGES; index++) {
            mirrors[index] = lanes[index];
            pthread_create(&senders[index], NULL, send_main, &lanes[index]);
            pthread_create(&receivers[index], NULL, receive_main, &mirrors[index]);
        }
        for (uint32_t index = 0; index < EDGES; index++) {
            pthread_join(senders[index], NULL);
            pthread_join(receivers[index], NULL);
        }
        for (uint32_t index = 0; index < EDGES; index++) {
            CHECK_INT(lanes[index].status, RT_OK);
            CHECK_INT(mirrors[index].status, RT_OK);
            CHECK_INT(mirrors[index].received, TENSORS);
            CHECK_INT(mirrors[index].wrong, 0);
        }
        close_lanes(lanes);
        edge_end(&ends);
    }
}

static void an_end_in_the_middle_reaches_both_sides_and_nothing_torn_is_received(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_lane lanes[EDGES], mirrors[EDGES];
        pthread_t senders[EDGES], receivers[EDGES];
        if (!has_threads(place))
            continue;
        edge_begin(&ends, place, 2);
        open_lanes(&ends, place, lanes, 1u << 30);
        for (uint32_t index = 0; index < EDGES; index++) {
            mirrors[index] = lanes[index];
            pthread_create(&senders[index], NULL, send_main, &lanes[index]);
            pthread_create(&receivers[index], NULL, receive_main, &mirrors[index]);
        }
        rt_edge_stats stats;
        do
            rt_edge_get_stats(lanes[0].receiver, &stats);
        while (stats.sequence < 50);
        rt_channel_close(ends.core.channel);
        for (uint32_t index = 0; index < EDGES; index++) {
            pthread_join(senders[index], NULL);
            pthread_join(receivers[index], NULL);
            CHECK_INT(lanes[index].status, RT_E_CLOSED);
            CHECK(mirrors[index].status == RT_E_PEER_CLOSED ||
                  mirrors[index].status == RT_E_PEER_LOST); /* a link may tell first */
            CHECK_INT(mirrors[index].wrong, 0);
        }
        close_lanes(lanes);
        edge_end(&ends);
    }
}

static void *await_one(void *argument)
{
    edge_lane *lane = argument;
    rt_edge_arrival arrival;
    do
        lane->status = rt_edge_receive(lane->receiver, RT_SLICE_NS, &arrival);
    while (lane->status == RT_E_AGAIN || lane->status == RT_E_INTERRUPTED);
    return NULL;
}

static void a_device_that_closes_waits_for_who_waits_for_an_edge(void)
{
    EDGE_EACH_PLACE(place)
    {
        if (!has_threads(place))
            continue;
        edge_ends ends;
        edge_begin(&ends, place, 1);
        rt_device *far = ends.core.far;
        rt_device_reference(far); /* it is closed twice */
        for (uint32_t round = 0; round < 8; round++) {
            const core_setup setup = {.provider = place->provider};
            rt_device *device = round == 0 ? far : core_is(&setup, "shm") ? core_device(&setup, "", false) : NULL;
            if (device == NULL)
                break;
            edge_lane lane = {.status = RT_OK};
            rt_edge_options options = edge_options("nobody's");
            pthread_t thread;
            options.kind = RT_EDGE_DYNAMIC;
            CHECK_INT(rt_edge_create(device, &options, NULL, &lane.receiver, &ends.detail), RT_OK);
            pthread_create(&thread, NULL, await_one, &lane);
            while (atomic_load(&device->waiters) == 0)
                continue;
            rt_device_close(device);
            pthread_join(thread, NULL);
            CHECK_INT(lane.status, RT_E_CLOSED);
            rt_edge_drop(lane.receiver);
        }
        edge_end(&ends);
        rt_device_unreference(far);
    }
}

static const check_test tests[] = {
    CHECK_TEST(edges_of_one_channel_run_at_once_and_each_in_order),
    CHECK_TEST(an_end_in_the_middle_reaches_both_sides_and_nothing_torn_is_received),
    CHECK_TEST(a_device_that_closes_waits_for_who_waits_for_an_edge),
};

CHECK_MAIN(tests)
