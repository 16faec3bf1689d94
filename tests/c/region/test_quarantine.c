/* test_quarantine.c: regions and blocks that a running operation uses: not closed, not served again.
 *
 * Needs the whole library. Two parties of a simulated world, in which time passes only while somebody waits: an operation that
 * was started stays in flight until then. */
#include "channel/channel.h"
#include "channel/remote.h"
#include "check.h"
#include "region/region.h"

enum { MIB = 1 << 20, BOTH = RT_RIGHT_REMOTE_WRITE | RT_RIGHT_REMOTE_READ, WAITS_MAX = 1000 };

static rt_detail detail;

static rt_device *device_open(const char *name, const char *arguments)
{
    rt_device_options options = {.provider = "sim", .name = name, .arguments = arguments};
    rt_device *device = NULL;
    if (rt_device_open(&options, &device, &detail) != RT_OK)
        printf("%s\n", detail.text);
    CHECK(device != NULL);
    return device;
}

static rt_region *region_create(rt_device *device, uint64_t size, uint32_t rights)
{
    rt_region *region = NULL;
    if (rt_region_create(device, size, rights, RT_HUGE_AUTO, &region, &detail) != RT_OK)
        printf("%s\n", detail.text);
    CHECK(region != NULL);
    return region;
}

static uint64_t offset_of(int64_t block)
{
    return ((uint64_t)block >> RT_BLOCK_INDEX_BITS) * 64;
}

typedef struct flight {
    rt_device *near, *far;
    rt_listener *listener;
    rt_channel *channel, *accepted;
    rt_region *local, *target;
    rt_remote *remote;
} flight;

static flight flight_begin(const char *world)
{
    char arguments[64], address[80];
    uint8_t handle[RT_HANDLE_SIZE_MAX];
    size_t size = 0;
    flight made = {.near = NULL};
    snprintf(arguments, sizeof arguments, "world=%s&seed=7", world);
    made.near = device_open("near", arguments);
    made.far = device_open("far", arguments);
    snprintf(address, sizeof address, "%s:0", world);
    CHECK_INT(rt_listener_open(made.far, address, (const uint8_t *)"s", 1, &made.listener, &detail), RT_OK);
    CHECK_INT(rt_channel_connect(made.near, rt_listener_address(made.listener), (const uint8_t *)"s", 1, &made.channel, &detail),
              RT_OK);
    int status = RT_E_AGAIN;
    for (int tries = 0; status == RT_E_AGAIN && tries < WAITS_MAX; tries++)
        status = rt_channel_wait_ready(made.channel, RT_SLICE_NS, &detail);
    CHECK_INT(status, RT_OK);
    status = RT_E_AGAIN;
    for (int tries = 0; status == RT_E_AGAIN && tries < WAITS_MAX; tries++)
        status = rt_listener_accept(made.listener, RT_SLICE_NS, &made.accepted, &detail);
    CHECK_INT(status, RT_OK);
    made.local = region_create(made.near, MIB, 0);
    made.target = region_create(made.far, MIB, BOTH);
    CHECK_INT(rt_region_handle(made.target, 0, MIB, handle, &size, &detail), RT_OK);
    status = RT_E_AGAIN;
    for (int tries = 0; status == RT_E_AGAIN && tries < WAITS_MAX; tries++)
        status = rt_remote_attach(made.channel, handle, size, RT_SLICE_NS, &made.remote, &detail);
    CHECK_INT(status, RT_OK);
    return made;
}

/* Starts a WRITE of these bytes of the local region and lets no time pass. */
static int64_t flight_start(const flight *made, uint64_t offset, uint64_t size)
{
    int64_t number = rt_channel_copy(made->channel, 0, RT_WRITE, made->remote, offset, made->local, offset, size, 0);
    CHECK(number > 0);
    return number;
}

static void flight_land(const flight *made, int64_t number)
{
    int status = RT_E_AGAIN;
    for (int tries = 0; status == RT_E_AGAIN && tries < WAITS_MAX; tries++)
        status = rt_op_wait(made->channel, number, RT_SLICE_NS);
    CHECK_INT(status, RT_OK);
    CHECK_INT(rt_op_release(made->channel, number, &detail), RT_OK);
}

static void flight_end(flight *made)
{
    rt_remote_drop(made->remote);
    rt_channel_close(made->channel);
    rt_channel_close(made->accepted);
    rt_channel_drop(made->channel);
    rt_channel_drop(made->accepted);
    rt_listener_close(made->listener);
    rt_region_drop(made->local);
    rt_region_drop(made->target);
    rt_device_close(made->near);
    rt_device_close(made->far);
}

static void a_region_in_use_cannot_be_closed_and_loses_nothing(void)
{
    flight made = flight_begin("busy");
    int64_t number = flight_start(&made, 0, 1000);
    CHECK_INT(rt_region_close(made.local, &detail), RT_E_BUSY);
    CHECK_HAS(detail.text, "1 operations are using it; wait for them or close the channel");
    rt_region_stats stats;
    rt_region_get_stats(made.local, &stats);
    CHECK_INT(stats.operations_in_flight, 1);
    flight_land(&made, number);
    CHECK_INT(rt_region_close(made.local, &detail), RT_OK);
    flight_end(&made);
}

static void a_region_bound_by_prepared_copies_cannot_be_closed(void)
{
    flight made = flight_begin("bound");
    rt_copy copy = {(uint64_t)(uintptr_t)made.local, 0, (uint64_t)(uintptr_t)made.remote, 0, 64, RT_WRITE};
    rt_prepared *prepared = NULL;
    uint64_t bad;
    CHECK_INT(rt_prepared_create(made.channel, 0, &copy, 1, &prepared, &bad), RT_OK);
    CHECK_INT(rt_region_close(made.local, &detail), RT_E_BUSY);
    CHECK_HAS(detail.text, "1 prepared copies or edges are bound to it; close them");
    rt_prepared_drop(prepared);
    CHECK_INT(rt_region_close(made.local, &detail), RT_OK);
    flight_end(&made);
}

static void a_block_freed_under_an_operation_is_served_again_only_after_it(void)
{
    flight made = flight_begin("quarantine");
    int64_t block = rt_region_allocate(made.local, MIB, 64);
    CHECK(block > 0);
    int64_t number = flight_start(&made, offset_of(block), 5000);
    CHECK_INT(rt_region_free(made.local, block), RT_OK);
    CHECK_INT(rt_region_free(made.local, block), RT_E_INVALID);
    CHECK_INT(rt_region_allocate(made.local, 64, 64), RT_E_NO_MEMORY); /* all of it is in quarantine */
    rt_region_stats stats;
    rt_region_get_stats(made.local, &stats);
    CHECK_INT(stats.quarantined_bytes, MIB);
    CHECK_INT(stats.allocations, 0);
    rt_device_stats device_stats;
    rt_device_get_stats(made.near, &device_stats);
    CHECK_INT(device_stats.quarantined_bytes, MIB);
    flight_land(&made, number);
    CHECK(rt_region_allocate(made.local, MIB, 64) > 0); /* by itself: nobody asked for it */
    rt_region_get_stats(made.local, &stats);
    CHECK_INT(stats.quarantined_bytes, 0);
    flight_end(&made);
}

static void a_block_that_no_operation_touches_is_free_at_once(void)
{
    flight made = flight_begin("elsewhere");
    int64_t used = rt_region_allocate(made.local, 4096, 64), other = rt_region_allocate(made.local, MIB - 4096, 64);
    CHECK(used > 0 && other > 0);
    int64_t number = flight_start(&made, offset_of(used), 4096);
    CHECK_INT(rt_region_free(made.local, other), RT_OK);
    CHECK_INT(rt_region_allocate(made.local, MIB - 4096, 64), other);
    CHECK_INT(rt_region_free(made.local, other + 1), RT_E_INVALID);
    flight_land(&made, number);
    flight_end(&made);
}

static void an_abandoned_operation_keeps_its_block_in_quarantine_until_the_provider_is_done(void)
{
    flight made = flight_begin("abandoned");
    int64_t block = rt_region_allocate(made.local, MIB, 64);
    int64_t number = flight_start(&made, 0, 300000);
    CHECK_INT(rt_op_release(made.channel, number, &detail), RT_E_AGAIN);
    CHECK_INT(rt_region_free(made.local, block), RT_OK);
    CHECK_INT(rt_region_allocate(made.local, 64, 64), RT_E_NO_MEMORY);
    CHECK_INT(rt_region_close(made.local, &detail), RT_E_BUSY);
    for (int tries = 0; rt_channel_quiet(made.channel) == RT_E_AGAIN && tries < WAITS_MAX; tries++)
        CHECK(rt_device_progress(made.near) >= 0);
    CHECK_INT(rt_channel_quiet(made.channel), RT_OK);
    rt_region_settle(made.local);
    rt_region_stats stats;
    rt_region_get_stats(made.local, &stats);
    CHECK_INT(stats.quarantined_bytes, 0);
    CHECK_INT(stats.largest_free_bytes, MIB);
    flight_end(&made);
}

/* A thread that settles waits for device->lock; a thread that frees may hold it. */
static void a_thread_that_frees_does_not_wait_for_one_that_settles(void)
{
    flight made = flight_begin("settling");
    int64_t used = rt_region_allocate(made.local, 4096, 64), other = rt_region_allocate(made.local, MIB - 4096, 64);
    int64_t number = flight_start(&made, offset_of(used), 4096);
    pthread_mutex_lock(&made.local->settling);
    CHECK_INT(rt_region_free(made.local, other), RT_OK);
    CHECK_INT(rt_region_free(made.local, other), RT_E_INVALID);
    CHECK_INT(rt_region_free(made.local, used), RT_OK);
    rt_region_settle_now(made.local);
    pthread_mutex_unlock(&made.local->settling);
    CHECK_INT(rt_region_allocate(made.local, MIB - 4096, 64), other); /* settled as it is wanted */
    CHECK_INT(rt_region_allocate(made.local, 4096, 64), RT_E_NO_MEMORY);
    flight_land(&made, number);
    CHECK_INT(rt_region_allocate(made.local, 4096, 64), used);
    flight_end(&made);
}

static const check_test tests[] = {
    CHECK_TEST(a_region_in_use_cannot_be_closed_and_loses_nothing),
    CHECK_TEST(a_region_bound_by_prepared_copies_cannot_be_closed),
    CHECK_TEST(a_block_freed_under_an_operation_is_served_again_only_after_it),
    CHECK_TEST(a_block_that_no_operation_touches_is_free_at_once),
    CHECK_TEST(an_abandoned_operation_keeps_its_block_in_quarantine_until_the_provider_is_done),
    CHECK_TEST(a_thread_that_frees_does_not_wait_for_one_that_settles),
};
CHECK_MAIN(tests)
