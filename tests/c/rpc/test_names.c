/* test_names.c: publishing, looking up and attaching, over the simulated provider and over shared memory. */
#include "control_ends.h"
#include "proto/limits.h"

static const char *const providers[] = {"sim", "shm"};
#define EACH_PROVIDER(provider)                                                                                                  \
    for (int at = 0; at < 2; at++)                                                                                               \
        for (const char *provider = providers[at]; provider != NULL; provider = NULL)

typedef struct published {
    two_ends ends;
    rt_region *region;
} published;

static void open_both(published *both, const char *provider)
{
    ends_open(&both->ends, provider, "");
    ends_connect(&both->ends, "");
    CHECK_INT(rt_region_create(both->ends.here, 1 << 16, RT_RIGHT_REMOTE_WRITE | RT_RIGHT_REMOTE_READ, RT_HUGE_OFF, &both->region,
                               &both->ends.detail),
              RT_OK);
}

static void close_both(published *both)
{
    rt_region_drop(both->region);
    ends_close(&both->ends);
}

/* From the connecting end. */
static int wait_lookup(two_ends *ends, int64_t lookup, uint8_t *handle, size_t *size)
{
    int64_t end = rt_device_now_ns(ends->there) + END_PATIENCE_NS;
    int status;
    CHECK(lookup > 0);
    do
        status = rt_lookup_wait(ends->connected, lookup, RT_SLICE_NS, handle, size, &ends->detail);
    while (status == RT_E_AGAIN && rt_device_now_ns(ends->there) < end);
    return status;
}

static int wait_attach(two_ends *ends, rt_channel *channel, const uint8_t *handle, size_t size, rt_remote **remote)
{
    int64_t end = rt_device_now_ns(ends->there) + END_PATIENCE_NS;
    int status;
    do
        status = rt_remote_attach(channel, handle, size, RT_SLICE_NS, remote, &ends->detail);
    while (status == RT_E_AGAIN && rt_device_now_ns(ends->there) < end);
    return status;
}

static void a_published_name_is_found_and_attached(void)
{
    EACH_PROVIDER(provider)
    {
        published both;
        two_ends *ends = &both.ends;
        uint8_t handle[RT_HANDLE_SIZE_MAX], own[RT_HANDLE_SIZE_MAX];
        size_t size = 0, own_size = 0;
        open_both(&both, provider);
        CHECK_INT(rt_device_publish(ends->here, "weights", both.region, 4096, 8192, &ends->detail), RT_OK);
        int64_t lookup = rt_lookup_start(ends->connected, "weights", 0, &ends->detail);
        CHECK_INT(wait_lookup(ends, lookup, handle, &size), RT_OK);
        rt_lookup_release(ends->connected, lookup);
        CHECK_INT(rt_region_handle(both.region, 4096, 8192, own, &own_size, &ends->detail), RT_OK);
        CHECK_INT(size, own_size);
        CHECK_BYTES(handle, own, size);
        rt_remote *remote = NULL;
        CHECK_INT(wait_attach(ends, ends->connected, handle, size, &remote), RT_OK);
        CHECK_INT(rt_remote_size(remote), 8192);
        CHECK_INT(rt_remote_rights(remote), RT_RIGHT_REMOTE_WRITE | RT_RIGHT_REMOTE_READ);
        if (rt_remote_address(remote) != 0) {
            ((uint8_t *)(uintptr_t)rt_region_address(both.region))[4096] = 0x5a;
            CHECK_INT(*(const uint8_t *)(uintptr_t)rt_remote_address(remote), 0x5a);
        }
        rt_remote_drop(remote);
        close_both(&both);
    }
}

static void both_ends_may_ask(void)
{
    EACH_PROVIDER(provider)
    {
        published both;
        two_ends *ends = &both.ends;
        uint8_t handle[RT_HANDLE_SIZE_MAX];
        size_t size = 0;
        rt_region *region;
        open_both(&both, provider);
        CHECK_INT(rt_region_create(ends->there, 4096, RT_RIGHT_REMOTE_READ, RT_HUGE_OFF, &region, &ends->detail), RT_OK);
        CHECK_INT(rt_device_publish(ends->there, "x", region, 0, 64, &ends->detail), RT_OK);
        int64_t lookup = rt_lookup_start(ends->accepted, "x", 0, &ends->detail);
        CHECK(lookup > 0);
        int status;
        int64_t end = rt_device_now_ns(ends->here) + END_PATIENCE_NS;
        do
            status = rt_lookup_wait(ends->accepted, lookup, RT_SLICE_NS, handle, &size, &ends->detail);
        while (status == RT_E_AGAIN && rt_device_now_ns(ends->here) < end);
        CHECK_INT(status, RT_OK);
        rt_region_drop(region);
        close_both(&both);
    }
}

static void a_lookup_waits_for_a_late_name(void)
{
    EACH_PROVIDER(provider)
    {
        published both;
        two_ends *ends = &both.ends;
        uint8_t handle[RT_HANDLE_SIZE_MAX];
        size_t size = 0;
        open_both(&both, provider);
        int64_t lookup = rt_lookup_start(ends->connected, "late", END_PATIENCE_NS, &ends->detail);
        CHECK_INT(rt_lookup_wait(ends->connected, lookup, 10 * RT_NS_PER_MS, handle, &size, &ends->detail), RT_E_AGAIN);
        int64_t begun = rt_device_now_ns(ends->there);
        CHECK_INT(rt_device_publish(ends->here, "late", both.region, 0, 64, &ends->detail), RT_OK);
        CHECK_INT(wait_lookup(ends, lookup, handle, &size), RT_OK);
        CHECK(rt_device_now_ns(ends->there) - begun < RT_NS_PER_S);
        close_both(&both);
    }
}

static void a_missing_name_is_told_when_the_wait_is_over(void)
{
    EACH_PROVIDER(provider)
    {
        published both;
        two_ends *ends = &both.ends;
        uint8_t handle[RT_HANDLE_SIZE_MAX];
        size_t size = 0;
        open_both(&both, provider);
        CHECK_INT(rt_device_publish(ends->here, "other", both.region, 0, 64, &ends->detail), RT_OK);
        int64_t begun = rt_device_now_ns(ends->there);
        int64_t lookup = rt_lookup_start(ends->connected, "missing", 200 * RT_NS_PER_MS, &ends->detail);
        CHECK_INT(wait_lookup(ends, lookup, handle, &size), RT_E_NOT_FOUND);
        int64_t took = rt_device_now_ns(ends->there) - begun;
        CHECK(took >= 200 * RT_NS_PER_MS && took < 2 * RT_NS_PER_S);
        CHECK_HAS(ends->detail.text, "'missing'");
        CHECK_HAS(ends->detail.text, "1 other");
        close_both(&both);
    }
}

static void names_are_published_once_and_checked(void)
{
    published both;
    two_ends *ends = &both.ends;
    char long_name[RT_NAME_MAX + 2];
    memset(long_name, 'a', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    open_both(&both, "sim");
    CHECK_INT(rt_device_publish(ends->here, "x", both.region, 0, 64, &ends->detail), RT_OK);
    CHECK_INT(rt_device_publish(ends->here, "x", both.region, 64, 64, &ends->detail), RT_E_EXISTS);
    CHECK_INT(rt_device_unpublish(ends->here, "x", &ends->detail), RT_OK);
    CHECK_INT(rt_device_unpublish(ends->here, "x", &ends->detail), RT_E_NOT_FOUND);
    CHECK_INT(rt_device_publish(ends->here, "x", both.region, 64, 64, &ends->detail), RT_OK);
    CHECK_INT(rt_device_publish(ends->here, "", both.region, 0, 64, &ends->detail), RT_E_INVALID);
    CHECK_INT(rt_device_publish(ends->here, "new\nline", both.region, 0, 64, &ends->detail), RT_E_INVALID);
    CHECK_INT(rt_device_publish(ends->here, long_name, both.region, 0, 64, &ends->detail), RT_E_INVALID);
    CHECK_INT(rt_device_publish(ends->here, "y", both.region, 1 << 16, 1, &ends->detail), RT_E_BOUNDS);
    CHECK_INT(rt_device_publish(ends->there, "y", both.region, 0, 64, &ends->detail), RT_E_INVALID);
    CHECK_HAS(ends->detail.text, "another device");
    CHECK_INT(rt_lookup_start(ends->connected, long_name, 0, &ends->detail), RT_E_INVALID);
    close_both(&both);
}

static void a_closed_region_takes_its_names_along(void)
{
    published both;
    two_ends *ends = &both.ends;
    uint8_t handle[RT_HANDLE_SIZE_MAX];
    size_t size = 0;
    open_both(&both, "sim");
    CHECK_INT(rt_device_publish(ends->here, "x", both.region, 0, 64, &ends->detail), RT_OK);
    CHECK_INT(rt_region_close(both.region, &ends->detail), RT_OK);
    CHECK_INT(wait_lookup(ends, rt_lookup_start(ends->connected, "x", 0, &ends->detail), handle, &size), RT_E_NOT_FOUND);
    CHECK_INT(rt_device_publish(ends->here, "x", both.region, 0, 64, &ends->detail), RT_E_INVALID);
    CHECK_HAS(ends->detail.text, "was closed");
    close_both(&both);
}

static void one_lookup_too_many_is_asked_to_wait(void)
{
    EACH_PROVIDER(provider)
    {
        published both;
        two_ends *ends = &both.ends;
        uint8_t handle[RT_HANDLE_SIZE_MAX];
        size_t size = 0;
        int64_t lookups[RT_RPC_REQUESTS_MAX];
        open_both(&both, provider);
        for (int index = 0; index < RT_RPC_REQUESTS_MAX; index++) {
            lookups[index] = rt_lookup_start(ends->connected, "x", END_PATIENCE_NS, &ends->detail);
            CHECK(lookups[index] > 0);
        }
        CHECK_INT(rt_lookup_start(ends->connected, "x", END_PATIENCE_NS, &ends->detail), RT_E_BUSY);
        CHECK_INT(rt_device_publish(ends->here, "x", both.region, 0, 64, &ends->detail), RT_OK);
        for (int index = 0; index < RT_RPC_REQUESTS_MAX; index++) {
            CHECK_INT(wait_lookup(ends, lookups[index], handle, &size), RT_OK);
            rt_lookup_release(ends->connected, lookups[index]);
            CHECK_INT(rt_lookup_wait(ends->connected, lookups[index], 0, handle, &size, &ends->detail), RT_E_INVALID);
        }
        CHECK_INT(wait_lookup(ends, rt_lookup_start(ends->connected, "x", 0, &ends->detail), handle, &size), RT_OK);
        CHECK_INT(rt_lookup_wait(ends->connected, lookups[0], 0, handle, &size, &ends->detail), RT_E_INVALID);
        close_both(&both);
    }
}

static void an_abandoned_lookup_gives_its_place_back(void)
{
    EACH_PROVIDER(provider)
    {
        published both;
        two_ends *ends = &both.ends;
        uint8_t handle[RT_HANDLE_SIZE_MAX];
        size_t size = 0;
        open_both(&both, provider);
        for (int index = 0; index < RT_RPC_REQUESTS_MAX; index++)
            rt_lookup_release(ends->connected, rt_lookup_start(ends->connected, "x", 50 * RT_NS_PER_MS, &ends->detail));
        int64_t lookup, end = rt_device_now_ns(ends->there) + END_PATIENCE_NS;
        rt_channel *none;
        while ((lookup = rt_lookup_start(ends->connected, "x", 0, &ends->detail)) == RT_E_BUSY &&
               rt_device_now_ns(ends->there) < end)
            CHECK_INT(rt_listener_accept(ends->listener, RT_SLICE_NS, &none, NULL), RT_E_AGAIN);
        CHECK_INT(wait_lookup(ends, lookup, handle, &size), RT_E_NOT_FOUND);
        close_both(&both);
    }
}

static void many_lookups_in_a_row_use_up_nothing(void)
{
    EACH_PROVIDER(provider)
    {
        published both;
        two_ends *ends = &both.ends;
        uint8_t handle[RT_HANDLE_SIZE_MAX];
        size_t size = 0;
        open_both(&both, provider);
        CHECK_INT(rt_device_publish(ends->here, "x", both.region, 0, 64, &ends->detail), RT_OK);
        for (int count = 0; count < 500; count++) {
            int64_t lookup = rt_lookup_start(ends->connected, "x", 0, &ends->detail);
            CHECK_INT(wait_lookup(ends, lookup, handle, &size), RT_OK);
            rt_lookup_release(ends->connected, lookup);
        }
        close_both(&both);
    }
}

static void a_lookup_ends_with_its_channel(void)
{
    EACH_PROVIDER(provider)
    {
        published both;
        two_ends *ends = &both.ends;
        uint8_t handle[RT_HANDLE_SIZE_MAX];
        size_t size = 0;
        open_both(&both, provider);
        int64_t lookup = rt_lookup_start(ends->connected, "x", END_PATIENCE_NS, &ends->detail);
        CHECK(lookup > 0);
        rt_channel_close(ends->accepted);
        CHECK_INT(wait_lookup(ends, lookup, handle, &size), RT_E_PEER_CLOSED);
        CHECK_INT(rt_lookup_start(ends->connected, "x", 0, &ends->detail), RT_E_PEER_CLOSED);
        rt_lookup_release(ends->connected, lookup);
        close_both(&both);
    }
}

static void a_handle_of_another_device_is_not_attached(void)
{
    EACH_PROVIDER(provider)
    {
        published both;
        two_ends *ends = &both.ends;
        uint8_t handle[RT_HANDLE_SIZE_MAX];
        size_t size = 0;
        rt_remote *remote;
        open_both(&both, provider);
        CHECK_INT(rt_region_handle(both.region, 0, 64, handle, &size, &ends->detail), RT_OK);
        CHECK_INT(wait_attach(ends, ends->accepted, handle, size, &remote), RT_E_INVALID);
        CHECK_HAS(ends->detail.text, "another device");
        for (size_t cut = 0; cut < size; cut++)
            CHECK_INT(rt_remote_attach(ends->connected, handle, cut, 0, &remote, &ends->detail), RT_E_PROTOCOL);
        handle[0] ^= 0x40;
        CHECK_INT(rt_remote_attach(ends->connected, handle, size, 0, &remote, &ends->detail), RT_E_VERSION);
        close_both(&both);
    }
}

static void a_remote_outlives_its_channel_and_its_device(void)
{
    EACH_PROVIDER(provider)
    {
        published both;
        two_ends *ends = &both.ends;
        uint8_t handle[RT_HANDLE_SIZE_MAX];
        size_t size = 0;
        rt_remote *remote = NULL;
        open_both(&both, provider);
        CHECK_INT(rt_region_handle(both.region, 0, 64, handle, &size, &ends->detail), RT_OK);
        CHECK_INT(wait_attach(ends, ends->connected, handle, size, &remote), RT_OK);
        uint64_t address = rt_remote_address(remote);
        rt_channel_close(ends->accepted);
        CHECK_INT(wait_failure(ends->there, ends->connected, RT_E_PEER_CLOSED, &ends->detail), RT_E_PEER_CLOSED);
        if (address != 0)
            CHECK_INT(*(const uint8_t *)(uintptr_t)address, 0); /* still mapped */
        rt_device_close(ends->there);
        CHECK_INT(rt_remote_address(remote), 0);
        CHECK_INT(rt_remote_size(remote), 64);
        rt_remote_drop(remote);
        rt_channel_drop(ends->connected);
        rt_channel_drop(ends->accepted);
        rt_listener_close(ends->listener);
        rt_region_drop(both.region);
        rt_device_close(ends->here);
    }
}

static void more_channels_than_the_first_messages_region_serves(void)
{
    enum { CHANNELS = 40 };
    two_ends ends;
    rt_channel *connected[CHANNELS], *accepted[CHANNELS];
    ends_open(&ends, "shm", "");
    for (int index = 0; index < CHANNELS; index++) {
        CHECK_INT(rt_channel_connect(ends.there, rt_listener_address(ends.listener), NULL, 0, &connected[index], &ends.detail),
                  RT_OK);
        CHECK_INT(wait_accept(&ends, &accepted[index]), RT_OK);
        CHECK_INT(wait_ready(ends.there, connected[index], &ends.detail), RT_OK);
    }
    rt_device_stats stats;
    rt_device_get_stats(ends.here, &stats);
    CHECK_INT(stats.channels, CHANNELS);
    for (int index = 0; index < CHANNELS; index++) {
        rt_channel_drop(connected[index]);
        rt_channel_drop(accepted[index]);
    }
    ends_connect(&ends, "");
    ends_close(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(a_published_name_is_found_and_attached),
    CHECK_TEST(both_ends_may_ask),
    CHECK_TEST(a_lookup_waits_for_a_late_name),
    CHECK_TEST(a_missing_name_is_told_when_the_wait_is_over),
    CHECK_TEST(names_are_published_once_and_checked),
    CHECK_TEST(a_closed_region_takes_its_names_along),
    CHECK_TEST(one_lookup_too_many_is_asked_to_wait),
    CHECK_TEST(an_abandoned_lookup_gives_its_place_back),
    CHECK_TEST(many_lookups_in_a_row_use_up_nothing),
    CHECK_TEST(a_lookup_ends_with_its_channel),
    CHECK_TEST(a_handle_of_another_device_is_not_attached),
    CHECK_TEST(a_remote_outlives_its_channel_and_its_device),
    CHECK_TEST(more_channels_than_the_first_messages_region_serves),
};

CHECK_MAIN(tests)
