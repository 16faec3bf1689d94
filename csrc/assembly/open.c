/* open.c: opening and closing a device: the one file that knows every room. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "assembly/round.h"
#include "base/random.h"
#include "channel/channel.h"
#include "channel/in_flight.h"
#include "channel/link.h"
#include "channel/poll.h"
#include "channel/poller.h"
#include "channel/remote.h"
#include "channel/wait.h"
#include "control/connection.h"
#include "control/listener.h"
#include "device/device.h"
#include "device/devices.h"
#include "device/fork.h"
#include "device/queue.h"
#include "device/service.h"
#include "device/upcalls.h"
#include "edge/handler.h"
#include "proto/handle.h"
#include "region/pool.h"
#include "region/region.h"
#include "rpc/buffers.h"
#include "rpc/carrier.h"
#include "rpc/handler.h"

_Static_assert((int)RT_LINK_ADDRESS_SIZE_MAX == (int)RT_HANDSHAKE_ADDRESS_MAX, "an offer carries what the seam gives");
_Static_assert((int)RT_MEMORY_KEY_SIZE_MAX == (int)RT_HANDLE_KEY_MAX, "a handle carries what the seam gives");

enum {
    RT_LINK_TABLE_MAX = 65536, /* links of one device that the core keeps track of */
    RT_SPINS_DEFAULT = 400,    /* checks before an adaptive wait yields: about 10 us; none on a single core */
    RT_YIELDS_DEFAULT = 32,    /* checks with the core yielded in between, before it sleeps */
    RT_CLOSE_BOUND_MS = 2000,  /* how long close waits for flushes before it destroys the links */
};

/* The provider calls this in virtual time. */
static void device_serve(void *owner)
{
    rt_device *device = owner;
    if (device->service != NULL)
        rt_service_run(device);
}

static int device_options_check(const rt_provider *provider, const rt_device_options *options, rt_detail *detail)
{
    if (options->queues > RT_QUEUES_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "queues=%u: a device has at most %d completion queues", options->queues,
                       RT_QUEUES_MAX);
    if (options->qps_per_peer > RT_LINKS_PER_CHANNEL_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "qps_per_peer=%u: a channel has at most %d qps", options->qps_per_peer,
                       RT_LINKS_PER_CHANNEL_MAX);
    if (options->pollers > RT_POLLERS_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "pollers=%u: a device has at most %d poller threads", options->pollers,
                       RT_POLLERS_MAX);
    if (options->pollers != 0 && provider->clock != NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "pollers=%u: %s has virtual time and no threads; use pollers=0", options->pollers,
                       provider->name);
    if (options->wait_policy > RT_WAIT_BLOCK)
        return rt_fail(detail, RT_E_INVALID, 0, "wait policy %u is unknown", options->wait_policy);
    return RT_OK;
}

/* How threads of the device wait. Virtual time does not pass while a thread spins. */
static rt_wait_mode wait_mode(rt_device *device, enum rt_wait_policy policy)
{
    if (device->limits.virtual_time)
        return (rt_wait_mode){0};
    switch (policy) {
    case RT_WAIT_ADAPTIVE:
        return (rt_wait_mode){.spins = device->spins, .yields = RT_YIELDS_DEFAULT, .patient = &device->patient};
    case RT_WAIT_SPIN: return (rt_wait_mode){.spins = UINT32_MAX};
    case RT_WAIT_YIELD: return (rt_wait_mode){.yields = UINT32_MAX};
    case RT_WAIT_BLOCK: break;
    }
    return (rt_wait_mode){0};
}

/* Opens the provider's device with the requested number of queues, or with its default: once, since opening takes an adapter
 * tens of milliseconds. */
static int provider_open(rt_device *device, const rt_device_options *options, rt_detail *detail)
{
    rt_open_options open = {.name = options->name,
                            .arguments = options->arguments,
                            .data_queues = options->queues,
                            .upcalls = {.owner = device, .service = device_serve}};
    int status = device->provider->open(&open, &device->pdevice, detail);
    if (status != RT_OK)
        return status;
    device->limits = device->pdevice->limits;
    memcpy(device->order_reason, device->pdevice->order_reason, sizeof device->order_reason);
    device->wait = wait_mode(device, (enum rt_wait_policy)options->wait_policy);
    device->queue_count = options->queues != 0 ? options->queues : device->limits.queues_default;
    device->links_per_peer = options->qps_per_peer != 0 ? options->qps_per_peer : device->limits.links_per_peer_default;
    return RT_OK;
}

static int device_allocate(rt_device *device, rt_detail *detail)
{
    uint32_t most = device->limits.link_count_max < RT_LINK_TABLE_MAX ? device->limits.link_count_max : RT_LINK_TABLE_MAX;
    device->link_capacity = most;
    device->links = calloc(most, sizeof *device->links);
    device->queues = calloc(device->queue_count + 1, sizeof *device->queues);
    if (device->links == NULL || device->queues == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a device of %u qps", most);
    for (uint32_t index = 0; index <= device->queue_count; index++) {
        rt_queue *queue = &device->queues[index];
        rt_turn_rank(&queue->turn, RT_RANK_QUEUE);
        rt_turn_rank(&queue->links_turn, RT_RANK_LINKS);
        queue->device = device;
        queue->index = index;
        queue->kick_fd = queue->poller_event = -1;
        rt_list_init(&queue->links);
    }
    return RT_OK;
}

static int loop_add(const rt_device *device, int descriptor)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
    return descriptor < 0 ? 0 : epoll_ctl(device->loop_fd, EPOLL_CTL_ADD, descriptor, &event);
}

/* Opens the descriptors that threads and event loops sleep on. */
static int device_descriptors_open(rt_device *device, rt_detail *detail)
{
    if (device->limits.virtual_time)
        return RT_OK;
    device->loop_fd = epoll_create1(EPOLL_CLOEXEC);
    device->loop_event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (device->loop_fd < 0 || device->loop_event_fd < 0 || loop_add(device, device->loop_event_fd) != 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot make the device's event descriptors (raise ulimit -n?)");
    for (uint32_t index = 0; index <= device->queue_count; index++) {
        rt_queue *queue = &device->queues[index];
        queue->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (queue->kick_fd < 0)
            return rt_fail(detail, RT_E_SYSTEM, errno, "cannot make the event descriptor of queue %u (raise ulimit -n?)", index);
        if (index == device->queue_count)
            break;
        if (loop_add(device, queue->kick_fd) != 0 || loop_add(device, device->provider->event_fd(device->pdevice, index)) != 0)
            return rt_fail(detail, RT_E_SYSTEM, errno, "cannot watch queue %u", index);
    }
    return RT_OK;
}

static void descriptor_close(int *descriptor)
{
    if (*descriptor >= 0)
        close(*descriptor);
    *descriptor = -1;
}

static void device_descriptors_close(rt_device *device)
{
    for (uint32_t index = 0; device->queues != NULL && index <= device->queue_count; index++) {
        descriptor_close(&device->queues[index].kick_fd);
        descriptor_close(&device->queues[index].poller_event);
    }
    descriptor_close(&device->loop_event_fd);
    descriptor_close(&device->loop_fd);
}

static const rt_device_upcalls upcalls = {
    .range_busy = rt_region_range_busy,
    .hear_peer = rt_control_last_words,
    .settle = rt_remotes_settle,
    .round = rt_round_run,
    .arm = rt_round_arm,
};

/* Names come before edges. */
static const rt_rpc_handler *const handlers[] = {&rt_names_handler, &rt_edges_handler, NULL};

static rt_device *device_new(const rt_provider *provider, const rt_device_options *options)
{
    rt_device *device = calloc(1, sizeof *device);
    if (device == NULL)
        return NULL;
    rt_fork_enter(); /* until the struct is freed */
    device->provider = provider;
    device->upcalls = &upcalls;
    device->pollers = options->pollers;
    device->spins = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? RT_SPINS_DEFAULT : 0;
    device->loop_fd = device->loop_event_fd = -1;
    atomic_init(&device->references, 1);
    pthread_mutexattr_t recursive; /* a channel may fail with or without the lock held, and then reads its control connection */
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    rt_mutex_begin(&device->lock, &recursive, RT_RANK_DEVICE);
    pthread_mutexattr_destroy(&recursive);
    rt_list_init(&device->channels);
    rt_list_init(&device->listeners);
    rt_list_init(&device->regions);
    return device;
}

int rt_device_open(const rt_device_options *options, rt_device **device_out, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    const rt_provider *provider = rt_provider_find(options->provider);
    if (provider == NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "there is no provider \"%s\"", options->provider);
    int status = device_options_check(provider, options, detail);
    if (status == RT_OK)
        status = rt_provider_viable(options->provider, detail);
    if (status != RT_OK)
        return status;
    rt_device *device = device_new(provider, options);
    if (device == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a device");
    status = rt_random(device->id, sizeof device->id, detail);
    if (status == RT_OK)
        status = provider_open(device, options, detail);
    if (status != RT_OK)
        goto free_device;
    status = device_allocate(device, detail);
    if (status == RT_OK)
        status = device_descriptors_open(device, detail);
    if (status != RT_OK)
        goto close_descriptors;
    status = rt_rpc_device_open(device, handlers, detail);
    if (status != RT_OK)
        goto close_descriptors;
    status = rt_pools_open(device, detail);
    if (status != RT_OK)
        goto close_rpc;
    status = rt_service_start(device, detail);
    if (status != RT_OK)
        goto close_rpc;
    status = rt_pollers_start(device, detail);
    if (status != RT_OK)
        goto stop_service;
    rt_devices_add(device);
    *device_out = device;
    return RT_OK;

stop_service:
    rt_service_stop(device);
close_rpc:
    rt_pools_close(device);
    rt_rpc_device_close(device);
    rt_region_close_all(device);
close_descriptors:
    device_descriptors_close(device);
    provider->close(device->pdevice);
free_device:
    device->closed = true;
    rt_device_unreference(device);
    return status;
}

/* ---- closing ---- */

/* Whether no channel is left; moves the remaining ones on. */
static bool device_drained(rt_device *device)
{
    for (uint32_t index = 0; index < device->queue_count; index++)
        rt_queue_step(&device->queues[index]);
    if (device->limits.virtual_time)
        rt_service_run(device);
    else
        rt_service_kick(device);
    pthread_mutex_lock(&device->lock);
    bool empty = rt_list_empty(&device->channels);
    pthread_mutex_unlock(&device->lock);
    return empty;
}

static void channels_close(rt_device *device)
{
    rt_detail why;
    pthread_mutex_lock(&device->lock);
    RT_LIST_EACH_SAFE(node, &device->listeners)
        rt_listener_close_locked((rt_listener *)(void *)node);
    RT_LIST_EACH(node, &device->channels) {
        rt_channel *channel = RT_LIST_ENTRY(node, rt_channel, node);
        rt_fail(&why, RT_E_CLOSED, 0, "the channel to %s was closed with its device", channel->peer);
        rt_channel_fail(channel, &why);
    }
    pthread_mutex_unlock(&device->lock);
    int64_t bound = rt_device_time(device) + RT_CLOSE_BOUND_MS * RT_NS_PER_MS;
    while (!device_drained(device) && rt_device_time(device) < bound) {
        uint32_t seen = atomic_load_explicit(&device->change, memory_order_acquire);
        rt_device_wait_change(device, seen, rt_device_time(device) + RT_NS_PER_MS);
    }
}

/* Destroys the links of channels whose flush did not come: destroying a queue pair stops the
 * hardware. */
static void channels_abandon(rt_device *device)
{
    RT_LIST_EACH_SAFE(node, &device->channels) {
        rt_channel *channel = RT_LIST_ENTRY(node, rt_channel, node);
        rt_control_end(channel, &channel->failure);
        rt_links_destroy(channel, 0);
        rt_links_abandon(channel);
        rt_rpc_close(channel);
        rt_list_remove(node);
        rt_channel_unreference(channel);
    }
}

/* Takes every queue's turn for good, so that a thread returning late from a wait cannot poll a
 * closed device. */
static void turns_keep(rt_device *device)
{
    for (uint32_t index = 0; index <= device->queue_count; index++) {
        rt_queue_kick(&device->queues[index]);
        rt_turn_keep(&device->queues[index].turn);
    }
}

void rt_device_close(rt_device *device)
{
    if (rt_forked() || device->closed)
        return;
    rt_devices_remove(device);
    atomic_store(&device->stopping, true); /* first: remotes that nobody dropped then no longer delay the end of a channel */
    channels_close(device);
    rt_pollers_stop(device);
    rt_service_stop(device);
    pthread_mutex_lock(&device->lock);
    RT_LIST_EACH(node, &device->channels)
        rt_remotes_detach(RT_LIST_ENTRY(node, rt_channel, node));
    channels_abandon(device);
    rt_remotes_settle(device);
    rt_pools_close(device);
    rt_rpc_device_close(device);
    device->closed = true;
    pthread_mutex_unlock(&device->lock);
    rt_waiters_leave(device);
    rt_region_close_all(device);
    turns_keep(device);
    device_descriptors_close(device);
    device->provider->close(device->pdevice);
    device->pdevice = NULL;
    rt_device_unreference(device);
}
