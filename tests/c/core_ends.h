/* core_ends.h: two devices of this process joined by a channel, with a region each and the far one attached, over any provider:
 * `shm`, `sim`, or `verbs` with the fake libibverbs. For the tests of core's data path.
 *
 * Every wait has a deadline in the device's own time. Threads never CHECK: they report by values. */
#ifndef RT_TESTS_CORE_ENDS_H
#define RT_TESTS_CORE_ENDS_H

#include <stdlib.h>

#include "channel/channel.h"
#include "channel/doubt.h"
#include "channel/in_flight.h"
#include "channel/link.h"
#include "channel/message.h"
#include "channel/op.h"
#include "channel/poll.h"
#include "channel/poller.h"
#include "channel/post.h"
#include "channel/prepared.h"
#include "channel/receives.h"
#include "channel/remote.h"
#include "channel/start.h"
#include "channel/wait.h"
#include "check.h"
#include "control/connection.h"
#include "control/listener.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/queue.h"
#include "device/service.h"
#include "memory/arena.h"
#include "proto/handshake.h"
#include "region/keys.h"
#include "region/names.h"
#include "region/pool.h"
#include "region/region.h"
#include "rpc/buffers.h"
#include "rpc/carrier.h"
#include "rpc/handler.h"
#include "rpc/lookup.h"

#if __has_include(<infiniband/verbs.h>)
#include "verbs_pair.h"
enum { CORE_HAS_FAKE = 1 };
#else
enum { CORE_HAS_FAKE = 0 };
#endif

#define CORE_PATIENCE_NS (300 * RT_NS_PER_S)

enum { CORE_BOTH = RT_RIGHT_REMOTE_WRITE | RT_RIGHT_REMOTE_READ, CORE_SMALLEST_MESSAGE = 4096 };

typedef struct core_setup {
    const char *provider;
    uint64_t size; /* of both regions; 0: 1 MiB */
    uint32_t queues, qps, pollers, wait_policy;
    uint32_t rights;      /* of the far region; 0: both */
    bool short_messages;  /* message_size_max is CORE_SMALLEST_MESSAGE where that can be asked for */
    const char *promises; /* of sim, as arguments: "&orders_writes=0"; or NULL */
} core_setup;

typedef struct core_ends {
    rt_device *near, *far;
    rt_listener *listener;
    rt_channel *channel, *accepted;
    rt_region *local, *target;
    rt_remote *remote;
    uint8_t *here, *there; /* the bytes of both regions */
    uint64_t message_size_max;
    char world[16]; /* of sim */
    rt_detail detail;
} core_ends;

static const char *const core_providers[] = {"shm", "sim", "verbs"};
#define CORE_EACH_PROVIDER(provider)                                                                                             \
    for (int core_at = 0; core_at < 2 + CORE_HAS_FAKE; core_at++)                                                                \
        for (const char *provider = core_providers[core_at]; provider != NULL; provider = NULL)

/* No call of the system is refused in these tests, so no text ends in that error. */
static inline void core_check_words(const rt_detail *detail)
{
    CHECK(strstr(detail->text, ": EPERM (") == NULL);
}

static inline bool core_is(const core_setup *setup, const char *provider)
{
    return strcmp(setup->provider, provider) == 0;
}

static inline rt_device *core_device(const core_setup *setup, const char *world, bool near)
{
    char arguments[160] = "";
    if (core_is(setup, "sim"))
        snprintf(arguments, sizeof arguments, "world=%s&seed=7%s%s", world, setup->short_messages ? "&message_size_max=4096" : "",
                 setup->promises != NULL ? setup->promises : "");
    rt_device_options options = {.provider = setup->provider,
                                 .name = core_is(setup, "sim")     ? (near ? "near" : "far")
                                         : core_is(setup, "verbs") ? (near ? "fake0" : "fake1")
                                                                   : "",
                                 .arguments = arguments,
                                 .queues = setup->queues,
                                 .qps_per_peer = setup->qps,
                                 .pollers = setup->pollers,
                                 .wait_policy = setup->wait_policy};
    rt_device *device = NULL;
    rt_detail detail;
    if (rt_device_open(&options, &device, &detail) != RT_OK)
        printf("cannot open %s: %s\n", setup->provider, detail.text);
    CHECK(device != NULL);
    return device;
}

static inline rt_region *core_region(rt_device *device, uint64_t size, uint32_t rights)
{
    rt_region *region = NULL;
    rt_detail detail;
    if (rt_region_create(device, size, rights, RT_HUGE_OFF, &region, &detail) != RT_OK)
        printf("%s\n", detail.text);
    CHECK(region != NULL);
    return region;
}

/* Joins the near device to the far one's listener. */
static inline void core_join(core_ends *ends, rt_channel **channel_out, rt_channel **accepted_out)
{
    int64_t end_ns = rt_device_now_ns(ends->near) + CORE_PATIENCE_NS;
    int status;
    do /* again where another thread had the device's lock for a slice */
        status = rt_channel_connect(ends->near, rt_listener_address(ends->listener), NULL, 0, channel_out, &ends->detail);
    while (status == RT_E_AGAIN && rt_device_now_ns(ends->near) < end_ns);
    CHECK_INT(status, RT_OK);
    do
        status = rt_channel_wait_ready(*channel_out, RT_SLICE_NS, &ends->detail);
    while (status == RT_E_AGAIN && rt_device_now_ns(ends->near) < end_ns);
    if (status != RT_OK)
        printf("not ready: %s\n", ends->detail.text);
    CHECK_INT(status, RT_OK);
    do
        status = rt_listener_accept(ends->listener, RT_SLICE_NS, accepted_out, &ends->detail);
    while (status == RT_E_AGAIN && rt_device_now_ns(ends->near) < end_ns);
    CHECK_INT(status, RT_OK);
}

static inline rt_remote *core_attach(rt_channel *channel, rt_region *target)
{
    uint8_t handle[RT_HANDLE_SIZE_MAX];
    size_t size = 0;
    rt_detail detail;
    rt_remote *remote = NULL;
    CHECK_INT(rt_region_handle(target, 0, rt_region_size(target), handle, &size, &detail), RT_OK);
    int status, tries = 0;
    do
        status = rt_remote_attach(channel, handle, size, RT_SLICE_NS, &remote, &detail);
    while (status == RT_E_AGAIN && ++tries < 6000);
    if (status != RT_OK)
        printf("not attached: %s\n", detail.text);
    CHECK_INT(status, RT_OK);
    return remote;
}

static inline void core_begin(core_ends *ends, const core_setup *setup)
{
    memset(ends, 0, sizeof *ends);
#if __has_include(<infiniband/verbs.h>)
    if (core_is(setup, "verbs")) {
        begin();
        for (int index = 0; index < 2 && setup->short_messages; index++)
            faked.fake_device_at(index)->ports[0].max_msg_sz = CORE_SMALLEST_MESSAGE;
    }
#endif
    static unsigned worlds;
    snprintf(ends->world, sizeof ends->world, "core%u", ++worlds);
    ends->near = core_device(setup, ends->world, true);
    ends->far = core_device(setup, ends->world, false);
    rt_device_limits limits;
    rt_device_get_limits(ends->near, &limits);
    ends->message_size_max = limits.message_size_max;
    CHECK_INT(rt_listener_open(ends->far, "127.0.0.1:0", NULL, 0, &ends->listener, &ends->detail), RT_OK);
    core_join(ends, &ends->channel, &ends->accepted);
    uint64_t size = setup->size != 0 ? setup->size : 1 << 20;
    ends->local = core_region(ends->near, size, 0);
    ends->target = core_region(ends->far, size, setup->rights != 0 ? setup->rights : CORE_BOTH);
    ends->here = (uint8_t *)(uintptr_t)rt_region_address(ends->local);
    ends->there = (uint8_t *)(uintptr_t)rt_region_address(ends->target);
    ends->remote = core_attach(ends->channel, ends->target);
}

static inline void core_end(core_ends *ends)
{
    core_check_words(&ends->detail);
    bool is_verbs = strcmp(rt_device_provider(ends->near), "verbs") == 0;
    rt_remote_drop(ends->remote);
    rt_channel_drop(ends->channel);
    rt_channel_drop(ends->accepted);
    rt_listener_close(ends->listener);
    rt_device_close(ends->near);
    rt_device_close(ends->far);
    rt_region_drop(ends->local);
    rt_region_drop(ends->target);
#if __has_include(<infiniband/verbs.h>)
    if (is_verbs)
        end();
#endif
    (void)is_verbs;
}

/* Waits for an operation as Python does, and releases it: how it ended. */
static inline int core_finish(rt_channel *channel, int64_t number, rt_detail *detail)
{
    if (number <= 0)
        return (int)number;
    int64_t end_ns = rt_device_now_ns(channel->device) + CORE_PATIENCE_NS;
    int status;
    do
        status = rt_op_wait(channel, number, RT_SLICE_NS);
    while ((status == RT_E_AGAIN || status == RT_E_INTERRUPTED) && rt_device_now_ns(channel->device) < end_ns);
    int result = rt_op_release(channel, number, detail);
    return result == RT_E_AGAIN ? status : result;
}

static inline int core_copy(core_ends *ends, int32_t qp, uint32_t direction, uint64_t there, uint64_t here, uint64_t size)
{
    int64_t number = rt_channel_copy(ends->channel, qp, direction, ends->remote, there, ends->local, here, size, RT_SLICE_NS);
    return core_finish(ends->channel, number, &ends->detail);
}

static inline int64_t core_start(core_ends *ends, int32_t qp, uint32_t direction, uint64_t there, uint64_t here, uint64_t size)
{
    return rt_channel_copy(ends->channel, qp, direction, ends->remote, there, ends->local, here, size, 0);
}

/* The same, as the library itself posts it. */
static inline rt_piece core_piece(const core_ends *ends, uint32_t direction, uint64_t there, uint64_t here, uint64_t size)
{
    return (rt_piece){ends->local, here, ends->remote, there, size, (uint16_t)direction, 0, 0};
}

static inline rt_copy core_entry(const core_ends *ends, uint32_t direction, uint64_t there, uint64_t here, uint64_t size)
{
    return (rt_copy){(uint64_t)(uintptr_t)ends->local, here, (uint64_t)(uintptr_t)ends->remote, there, size, direction};
}

/* Every byte of a buffer has its own value, as far as 251 values go. */
static inline void core_fill(uint8_t *bytes, uint64_t size, uint32_t salt)
{
    for (uint64_t index = 0; index < size; index++)
        bytes[index] = (uint8_t)((index + salt) % 251 + 1);
}

static inline rt_channel_stats core_stats(rt_channel *channel)
{
    rt_channel_stats stats;
    rt_channel_get_stats(channel, &stats);
    return stats;
}

static inline int core_until_quiet(core_ends *ends)
{
    int64_t end_ns = rt_device_now_ns(ends->near) + CORE_PATIENCE_NS / 4;
    while (rt_channel_quiet(ends->channel) == RT_E_AGAIN && rt_device_now_ns(ends->near) < end_ns)
        rt_device_progress(ends->near);
    return rt_channel_quiet(ends->channel);
}

#endif
