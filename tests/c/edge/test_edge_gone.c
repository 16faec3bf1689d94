/* test_edge_gone.c: what an edge took is given back when it ends, however it ended: memory of the process, blocks of regions, references
 * to regions of the caller.
 *
 * Needs the whole library. */
#include <malloc.h>

#include "edge_ends.h"
#include "proto/dtype.h"

#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
#define HEAP_IN_USE() (mallinfo2().uordblks + mallinfo2().hblkhd)
#else
#define HEAP_IN_USE() ((size_t)0)
#endif

enum { ROUNDS = 24, SMALLEST_LEAK = 24, TENSOR = 9000, LARGE = 5 << 20 };
static const uint64_t dims[] = {TENSOR};
static uint8_t outside[LARGE];

static rt_edge_options static_edge(const edge_place *place)
{
    rt_edge_options options = edge_options("gone");
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = dims;
    options.ordering = place->ordering;
    return options;
}

static rt_edge_options dynamic_edge(const edge_place *place)
{
    rt_edge_options options = edge_options("gone");
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    options.eager_size = 256;
    options.ordering = place->ordering;
    return options;
}

static uint32_t edges_of(rt_channel *channel)
{
    uint32_t count = 0;
    pthread_mutex_lock(&channel->device->lock);
    RT_LIST_EACH(node, &rt_edges_of(channel)->list)
        count++;
    pthread_mutex_unlock(&channel->device->lock);
    return count;
}

/* Drops both ends and waits until their channel has let go of them. */
static void drop_both(edge_ends *ends)
{
    if (ends->sender != NULL)
        rt_edge_drop(ends->sender);
    if (ends->receiver != NULL)
        rt_edge_drop(ends->receiver);
    ends->sender = ends->receiver = NULL;
    int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
    while (edges_of(ends->core.channel) + edges_of(ends->core.accepted) != 0 && rt_clock_now_ns() < end_ns) {
        rt_device_progress(ends->core.near);
        rt_device_progress(ends->core.far);
    }
    CHECK_INT(edges_of(ends->core.channel) + edges_of(ends->core.accepted), 0);
}

/* ---- what happens to an edge ---- */

static void a_static_edge_that_staged(edge_ends *ends)
{
    rt_edge_arrival arrival;
    const rt_edge_options options = static_edge(ends->place);
    edge_join(ends, ends->place, &options);
    rt_edge_tensor tensor = edge_bytes(outside, TENSOR);
    for (uint32_t turn = 0; turn < 3; turn++) {
        CHECK_INT(edge_send(ends, &tensor, true), RT_OK);
        CHECK_INT(edge_receive(ends, &arrival), RT_OK);
        CHECK_INT(rt_edge_release(ends->receiver, arrival.sequence), RT_OK);
    }
}

static void a_static_edge_with_a_tensor_that_nobody_took(edge_ends *ends)
{
    const rt_edge_options options = static_edge(ends->place);
    edge_join(ends, ends->place, &options);
    rt_edge_tensor tensor = edge_bytes(ends->core.here, TENSOR);
    CHECK_INT(edge_send(ends, &tensor, false), RT_OK);
}

static void a_static_edge_in_a_region_of_the_callers(edge_ends *ends)
{
    rt_edge_arrival arrival;
    rt_edge_options options = static_edge(ends->place);
    CHECK_INT(rt_edge_create(ends->core.far, &options, ends->core.target, &ends->receiver, &ends->detail), RT_OK);
    CHECK_INT(rt_edge_open(ends->core.channel, &options, RT_NS_PER_S, &ends->sender, &ends->detail), RT_OK);
    CHECK_INT(edge_wait_open(ends), RT_OK);
    rt_edge_tensor tensor = edge_bytes(ends->core.here, TENSOR);
    CHECK_INT(edge_send(ends, &tensor, true), RT_OK);
    CHECK_INT(edge_receive(ends, &arrival), RT_OK);
    CHECK_INT(atomic_load(&ends->core.target->bound), 1);
}

static void a_dynamic_edge_with_tensors_of_every_kind(edge_ends *ends)
{
    rt_edge_arrival arrival;
    const rt_edge_options options = dynamic_edge(ends->place);
    edge_join(ends, ends->place, &options);
    rt_region *readable = core_region(ends->core.near, 8192, RT_RIGHT_REMOTE_READ);
    const rt_edge_tensor tensors[] = {edge_bytes(outside, 100), edge_bytes(ends->core.here, 200),
                                      edge_bytes((const void *)(uintptr_t)rt_region_address(readable), 8192),
                                      edge_bytes(outside, TENSOR), edge_bytes(outside, 40 * TENSOR)};
    for (uint32_t index = 0; index < sizeof tensors / sizeof tensors[0]; index++) {
        CHECK_INT(edge_send(ends, &tensors[index], false), RT_OK);
        CHECK_INT(edge_receive(ends, &arrival), RT_OK);
        if (arrival.address != 0)
            CHECK_INT(rt_edge_release(ends->receiver, arrival.sequence), RT_OK);
        else
            CHECK_INT(edge_fetch(ends, arrival.sequence, ends->core.target, 0), RT_OK);
    }
    CHECK_INT(edge_send(ends, &tensors[2], false), RT_OK); /* one is kept, and never released */
    CHECK_INT(atomic_load(&readable->operations), 1);
    drop_both(ends);
    CHECK_INT(atomic_load(&readable->operations), 0);
    CHECK_INT(atomic_load(&readable->references), 2); /* its maker's and its device's */
    CHECK_INT(rt_region_close(readable, &ends->detail), RT_OK);
    rt_region_drop(readable);
}

static void a_dynamic_edge_with_a_buffer_of_its_own(edge_ends *ends)
{
    rt_edge_arrival arrival;
    const rt_edge_options options = dynamic_edge(ends->place);
    edge_join(ends, ends->place, &options);
    static const uint64_t sizes[] = {LARGE, LARGE - 4096, TENSOR};
    for (uint32_t turn = 0; turn < 3; turn++) {
        rt_edge_tensor tensor = edge_bytes(outside, sizes[turn]);
        CHECK_INT(edge_send(ends, &tensor, false), RT_OK);
        CHECK_INT(edge_receive(ends, &arrival), RT_OK);
        if (turn == 1) /* of both that are there */
            CHECK_INT(rt_edge_release(ends->receiver, 1), RT_OK);
        if (turn > 0)
            CHECK_INT(rt_edge_release(ends->receiver, arrival.sequence), RT_OK);
    }
    CHECK(ends->sender->spare.region != NULL); /* the small tensor took the place of a large one */
}

static void an_edge_that_was_never_opened(edge_ends *ends)
{
    rt_edge *again = NULL;
    const rt_edge_options options = dynamic_edge(ends->place);
    CHECK_INT(rt_edge_create(ends->core.far, &options, ends->core.target, &ends->receiver, &ends->detail), RT_OK);
    CHECK_INT(rt_edge_create(ends->core.far, &options, ends->core.target, &again, &ends->detail), RT_E_EXISTS);
}

static void an_edge_that_was_refused(edge_ends *ends)
{
    rt_edge_options options = dynamic_edge(ends->place);
    CHECK_INT(rt_edge_create(ends->core.far, &options, NULL, &ends->receiver, &ends->detail), RT_OK);
    options.dtype = RT_DTYPE_INT8;
    CHECK_INT(rt_edge_open(ends->core.channel, &options, 0, &ends->sender, &ends->detail), RT_OK);
    if (edge_wait_open(ends) == RT_OK) /* any dtype fits */
        return;
    CHECK_INT(rt_edge_failure(ends->sender, &ends->detail), RT_E_REFUSED);
}

static void an_edge_that_was_closed_before_it_was_answered(edge_ends *ends)
{
    const rt_edge_options options = dynamic_edge(ends->place);
    CHECK_INT(rt_edge_open(ends->core.channel, &options, 0, &ends->sender, &ends->detail), RT_OK);
}

static void an_edge_that_was_closed_before_it_was_wired(edge_ends *ends)
{
    const rt_edge_options options = static_edge(ends->place);
    CHECK_INT(rt_edge_create(ends->core.far, &options, NULL, &ends->receiver, &ends->detail), RT_OK);
    CHECK_INT(rt_edge_open(ends->core.channel, &options, RT_NS_PER_S, &ends->sender, &ends->detail), RT_OK);
    int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
    while (!rt_edge_joined(ends->receiver) && rt_clock_now_ns() < end_ns) {
        rt_device_progress(ends->core.near);
        rt_device_progress(ends->core.far);
    }
    CHECK(rt_edge_joined(ends->receiver));
}

static void an_edge_that_cannot_be(edge_ends *ends)
{
    rt_edge_options options = static_edge(ends->place);
    options.slots = 128; /* more than the region has room for */
    uint64_t many = 1 << 20;
    options.dims = &many;
    rt_edge *edge = NULL;
    CHECK_INT(rt_edge_create(ends->core.far, &options, ends->core.target, &edge, &ends->detail), RT_E_NO_MEMORY);
    options.dtype = RT_DTYPE_COUNT;
    CHECK_INT(rt_edge_create(ends->core.far, &options, NULL, &edge, &ends->detail), RT_E_INVALID);
    options = static_edge(ends->place);
    options.qp = 0;
    options.ordering = RT_EDGE_IMMEDIATE;
    CHECK_INT(rt_edge_open(ends->core.channel, &options, 0, &edge, &ends->detail), RT_E_UNSUPPORTED);
    CHECK(edge == NULL);
}

/* ---- over and over ---- */

/* Blocks in the first region of a pool of edges, where there is one. */
static uint32_t blocks_of(rt_device *device, rt_channel *channel, rt_pool_use use)
{
    rt_pool_block memory = {.size = 0};
    rt_detail detail;
    bool registered = false;
    rt_arena_stats stats;
    CHECK_INT(rt_pool_take(device, &channel->pools, use, 1, 1, &memory, &registered, &detail), RT_OK);
    rt_region_settle_now(memory.region);
    rt_arena_get_stats(memory.region->arena, &stats);
    rt_pool_give(&memory);
    return (uint32_t)stats.allocations;
}

typedef struct in_use {
    uint32_t blocks;
    uint64_t heap, near_regions, far_regions;
    uint32_t local_references, target_references, near_references, far_references;
} in_use;

static in_use measure(edge_ends *ends)
{
    rt_device_stats near, far;
    uint32_t blocks = 0;
    for (uint32_t use = 0; use < RT_POOL_COUNT; use++)
        blocks += blocks_of(ends->core.near, ends->core.channel, use) + blocks_of(ends->core.far, ends->core.accepted, use);
    rt_device_get_stats(ends->core.near, &near);
    rt_device_get_stats(ends->core.far, &far);
    return (in_use){.blocks = blocks,
                    .heap = HEAP_IN_USE(),
                    .near_regions = near.regions,
                    .far_regions = far.regions,
                    .local_references = atomic_load(&ends->core.local->references),
                    .target_references = atomic_load(&ends->core.target->references),
                    .near_references = atomic_load(&ends->core.near->references),
                    .far_references = atomic_load(&ends->core.far->references)};
}

/* Memory that a thread has freed and keeps for itself counts as in use, and grows to a bound; a leak grows every time. */
static void check_rounds(edge_ends *ends, void (*life)(edge_ends *))
{
    bool grows = true;
    life(ends);
    drop_both(ends);
    for (uint32_t tries = 0; grows && tries < 8; tries++) {
        const in_use before = measure(ends);
        for (uint32_t round = 0; round < ROUNDS; round++) {
            life(ends);
            drop_both(ends);
        }
        const in_use after = measure(ends);
        grows = after.heap >= before.heap + ROUNDS * SMALLEST_LEAK;
        CHECK_INT(after.blocks, before.blocks);
        CHECK_INT(after.near_regions, before.near_regions);
        CHECK_INT(after.far_regions, before.far_regions);
        CHECK_INT(after.local_references, before.local_references);
        CHECK_INT(after.target_references, before.target_references);
        CHECK_INT(after.near_references, before.near_references);
        CHECK_INT(after.far_references, before.far_references);
        CHECK_INT(atomic_load(&ends->core.target->bound), 0);
        CHECK_INT(atomic_load(&ends->core.local->operations), 0);
    }
    CHECK(!grows);
}

static const edge_place *const places[] = {&edge_places[0], &edge_places[2], &edge_places[5]};

static void edges_that_come_and_go_leave_nothing_behind(void)
{
    static const struct {
        const char *name;
        void (*run)(edge_ends *);
    } lives[] = {
        CHECK_TEST(a_static_edge_that_staged),
        CHECK_TEST(a_static_edge_with_a_tensor_that_nobody_took),
        CHECK_TEST(a_static_edge_in_a_region_of_the_callers),
        CHECK_TEST(a_dynamic_edge_with_tensors_of_every_kind),
        CHECK_TEST(a_dynamic_edge_with_a_buffer_of_its_own),
        CHECK_TEST(an_edge_that_was_never_opened),
        CHECK_TEST(an_edge_that_was_refused),
        CHECK_TEST(an_edge_that_was_closed_before_it_was_answered),
        CHECK_TEST(an_edge_that_was_closed_before_it_was_wired),
        CHECK_TEST(an_edge_that_cannot_be),
    };
    for (size_t place = 0; place < sizeof places / sizeof places[0]; place++) {
        for (size_t index = 0; index < sizeof lives / sizeof lives[0]; index++) {
            edge_ends ends;
            edge_begin(&ends, places[place], 1);
            printf("%s: %s\n", places[place]->name, lives[index].name);
            check_rounds(&ends, lives[index].run);
            edge_end(&ends);
        }
    }
}

static const check_test tests[] = {
    CHECK_TEST(edges_that_come_and_go_leave_nothing_behind),
};

CHECK_MAIN(tests)
