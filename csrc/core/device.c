/* device.c: opening and closing a device, its queues, its clock, its event loop descriptor. The control plane's thread is in
 * service.c, poller threads in poller.c, what a device says of itself in dump.c. */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/random.h"
#include "core/control.h"
#include "core/copy.h"

_Static_assert((int)RT_LINK_ADDRESS_SIZE_MAX == (int)RT_HANDSHAKE_ADDRESS_MAX, "an offer carries what the seam gives");
_Static_assert((int)RT_MEMORY_KEY_SIZE_MAX == (int)RT_HANDLE_KEY_MAX, "a handle carries what the seam gives");

enum {
    RT_LINK_TABLE_MAX = 65536,    /* links of one device that core keeps track of */
    RT_SPINS_DEFAULT = 400,       /* looks before an adaptive wait yields: about 10 us; none on a single core */
    RT_CLOSE_BOUND_MS = 2000,     /* how long close waits for flushes before it takes the links away */
    RT_VIRTUAL_STEP_NS = 1000000, /* what one rt_device_progress lets pass at most in virtual time */
};

/* All open devices of the process, for rt_device_alias. */
static pthread_mutex_t all_devices_lock = PTHREAD_MUTEX_INITIALIZER;
static rt_device *all_devices;

void rt_event_signal(int event_fd)
{
    uint64_t one = 1;
    ssize_t ignored = write(event_fd, &one, sizeof one); /* full means readable already */
    (void)ignored;
}

void rt_event_drain(int event_fd)
{
    uint64_t value;
    ssize_t ignored = read(event_fd, &value, sizeof value); /* empty is what is wanted */
    (void)ignored;
}

int64_t rt_device_time(const rt_device *device)
{
    return device->limits.virtual_time ? device->provider->clock->now_ns(device->pdevice) : rt_clock_now_ns();
}

void rt_device_changed(rt_device *device)
{
    atomic_fetch_add_explicit(&device->change, 1, memory_order_release);
    if (!device->limits.virtual_time)
        rt_futex_wake(&device->change, INT_MAX, false);
}

int rt_device_wait_change(rt_device *device, uint32_t seen, int64_t deadline_ns)
{
    for (;;) {
        int64_t left = deadline_ns - rt_device_time(device);
        if (atomic_load_explicit(&device->change, memory_order_acquire) != seen)
            return RT_OK;
        if (left <= 0)
            return RT_E_AGAIN;
        int status = device->limits.virtual_time ? device->provider->clock->advance(device->pdevice, deadline_ns)
                                                 : rt_futex_sleep(&device->change, seen, left, false);
        if (status == RT_E_INTERRUPTED)
            return status;
    }
}

void rt_device_reference(rt_device *device)
{
    atomic_fetch_add_explicit(&device->references, 1, memory_order_relaxed);
}

void rt_device_unreference(rt_device *device)
{
    if (atomic_fetch_sub_explicit(&device->references, 1, memory_order_acq_rel) != 1)
        return;
    assert(device->closed);
    rt_service_free(device);
    pthread_mutex_destroy(&device->lock);
    free((void *)device->links);
    free(device->queues);
    if (device->anywhere != NULL)
        free(device->anywhere->memory);
    free(device->anywhere);
    free(device);
}

uint64_t rt_device_alias(const rt_handle *handle)
{
    uint64_t address = 0;
    pthread_mutex_lock(&all_devices_lock);
    for (rt_device *device = all_devices; device != NULL; device = device->next) {
        if (memcmp(device->id, handle->device_id, sizeof device->id) != 0)
            continue;
        pthread_mutex_lock(&device->lock);
        RT_LIST_EACH(node, &device->regions) {
            rt_region *region = RT_LIST_ENTRY(node, rt_region, node);
            uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
            size_t size = 0;
            bool own = (region->rights & RT_RIGHT_PER_PEER_KEYS) == 0 &&
                       device->provider->memory_key(device->pdevice, region->memory, NULL, 0, key, &size, NULL) == RT_OK &&
                       size == handle->key_size && memcmp(key, handle->key, size) == 0;
            if (own || rt_keys_include(region, handle))
                address = (uint64_t)(uintptr_t)region->address;
        }
        pthread_mutex_unlock(&device->lock);
    }
    pthread_mutex_unlock(&all_devices_lock);
    return address;
}

/* ---- opening ---- */

static void upcall(void *owner)
{
    rt_device *device = owner;
    if (device->service != NULL)
        rt_service_run(device);
}

static int check_options(const rt_provider *provider, const rt_device_options *options, rt_detail *detail)
{
    if (options->queues > RT_QUEUES_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "queues=%u: at most %d completion queues", options->queues, RT_QUEUES_MAX);
    if (options->qps_per_peer > RT_LINKS_PER_CHANNEL_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "qps_per_peer=%u: at most %d qps", options->qps_per_peer,
                       RT_LINKS_PER_CHANNEL_MAX);
    if (options->pollers > RT_POLLERS_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "pollers=%u: at most %d poller threads", options->pollers, RT_POLLERS_MAX);
    if (options->pollers != 0 && provider->clock != NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "pollers=%u: %s has virtual time and no threads; use pollers=0", options->pollers,
                       provider->name);
    if (options->wait_policy > RT_WAIT_BLOCK)
        return rt_fail(detail, RT_E_INVALID, 0, "wait policy %u is unknown", options->wait_policy);
    return RT_OK;
}

/* Opens the provider's device with the queues that were asked for, or what suits it. */
static int open_provider(rt_device *device, const rt_device_options *options, rt_detail *detail)
{
    rt_open_options open = {.name = options->name,
                            .arguments = options->arguments,
                            .data_queues = options->queues != 0 ? options->queues : 1,
                            .upcalls = {.owner = device, .service = upcall}};
    int status = device->provider->open(&open, &device->pdevice, detail);
    if (status != RT_OK)
        return status;
    uint32_t wanted = device->pdevice->limits.queues_default;
    if (options->queues == 0 && wanted > 1) {
        device->provider->close(device->pdevice);
        device->pdevice = NULL;
        open.data_queues = wanted;
        status = device->provider->open(&open, &device->pdevice, detail);
        if (status != RT_OK)
            return status;
    }
    device->limits = device->pdevice->limits;
    device->queue_count = open.data_queues;
    device->links_per_peer = options->qps_per_peer != 0 ? options->qps_per_peer : device->limits.links_per_peer_default;
    return RT_OK;
}

static int allocate(rt_device *device, rt_detail *detail)
{
    uint32_t most = device->limits.link_count_max < RT_LINK_TABLE_MAX ? device->limits.link_count_max : RT_LINK_TABLE_MAX;
    device->link_capacity = most;
    device->links = calloc(most, sizeof *device->links);
    device->queues = calloc(device->queue_count + 1, sizeof *device->queues);
    if (device->links == NULL || device->queues == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a device of %u qps", most);
    for (uint32_t index = 0; index <= device->queue_count; index++) {
        rt_queue *queue = &device->queues[index];
        queue->device = device;
        queue->index = index;
        queue->kick_fd = queue->poller_event = -1;
        rt_list_init(&queue->links);
    }
    return RT_OK;
}

static int add_to_loop(const rt_device *device, int descriptor)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
    return descriptor < 0 ? 0 : epoll_ctl(device->loop_fd, EPOLL_CTL_ADD, descriptor, &event);
}

/* The descriptors that threads and event loops sleep on. */
static int open_descriptors(rt_device *device, rt_detail *detail)
{
    if (device->limits.virtual_time)
        return RT_OK;
    device->loop_fd = epoll_create1(EPOLL_CLOEXEC);
    device->loop_event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (device->loop_fd < 0 || device->loop_event_fd < 0 || add_to_loop(device, device->loop_event_fd) != 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot make the device's event descriptors (raise ulimit -n?)");
    for (uint32_t index = 0; index <= device->queue_count; index++) {
        rt_queue *queue = &device->queues[index];
        queue->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (queue->kick_fd < 0)
            return rt_fail(detail, RT_E_SYSTEM, errno, "cannot make the event descriptor of queue %u (raise ulimit -n?)", index);
        if (index == device->queue_count)
            break;
        if (add_to_loop(device, queue->kick_fd) != 0 ||
            add_to_loop(device, device->provider->event_fd(device->pdevice, index)) != 0)
            return rt_fail(detail, RT_E_SYSTEM, errno, "cannot watch queue %u", index);
    }
    return RT_OK;
}

static void close_descriptor(int *descriptor)
{
    if (*descriptor >= 0)
        close(*descriptor);
    *descriptor = -1;
}

static void close_descriptors(rt_device *device)
{
    for (uint32_t index = 0; device->queues != NULL && index <= device->queue_count; index++) {
        close_descriptor(&device->queues[index].kick_fd);
        close_descriptor(&device->queues[index].poller_event);
    }
    close_descriptor(&device->loop_event_fd);
    close_descriptor(&device->loop_fd);
}

static void remember(rt_device *device)
{
    pthread_mutex_lock(&all_devices_lock);
    device->next = all_devices;
    all_devices = device;
    pthread_mutex_unlock(&all_devices_lock);
}

static void forget(rt_device *device)
{
    pthread_mutex_lock(&all_devices_lock);
    for (rt_device **at = &all_devices; *at != NULL; at = &(*at)->next) {
        if (*at == device) {
            *at = device->next;
            break;
        }
    }
    pthread_mutex_unlock(&all_devices_lock);
}

void rt_devices_turn(void)
{
    pthread_mutex_lock(&all_devices_lock);
    for (rt_device *device = all_devices; device != NULL; device = device->next) {
        if (device->limits.virtual_time)
            rt_service_turn(device);
    }
    pthread_mutex_unlock(&all_devices_lock);
}

static rt_device *device_new(const rt_provider *provider, const rt_device_options *options)
{
    rt_device *device = calloc(1, sizeof *device);
    if (device == NULL)
        return NULL;
    device->provider = provider;
    device->pollers = options->pollers;
    device->wait_policy = options->wait_policy;
    device->spins = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? RT_SPINS_DEFAULT : 0;
    device->loop_fd = device->loop_event_fd = -1;
    atomic_init(&device->references, 1);
    pthread_mutexattr_t recursive; /* a channel may fail wherever the lock is held or not, and asks its control connection why */
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&device->lock, &recursive);
    pthread_mutexattr_destroy(&recursive);
    rt_list_init(&device->channels);
    rt_list_init(&device->listeners);
    rt_list_init(&device->regions);
    rt_list_init(&device->names);
    rt_list_init(&device->edges);
    return device;
}

int rt_device_open(const rt_device_options *options, rt_device **device_out, rt_detail *detail)
{
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0,
                       "this process is a child made by fork after rdmatensor was used: start it with spawn");
    const rt_provider *provider = rt_provider_find(options->provider);
    if (provider == NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "there is no provider \"%s\"", options->provider);
    int status = check_options(provider, options, detail);
    if (status == RT_OK)
        status = rt_fork_watch(detail);
    if (status == RT_OK)
        status = provider->viable(detail);
    if (status != RT_OK)
        return status;
    rt_device *device = device_new(provider, options);
    if (device == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a device");
    status = rt_random(device->id, sizeof device->id, detail);
    if (status == RT_OK)
        status = open_provider(device, options, detail);
    if (status != RT_OK)
        goto free_device;
    status = allocate(device, detail);
    if (status == RT_OK)
        status = open_descriptors(device, detail);
    if (status != RT_OK)
        goto close_descriptors;
    status = rt_rpc_device_open(device, detail);
    if (status != RT_OK)
        goto close_descriptors;
    status = rt_edges_device_open(device, detail);
    if (status != RT_OK)
        goto close_rpc;
    status = rt_service_start(device, detail);
    if (status != RT_OK)
        goto close_rpc;
    status = rt_pollers_start(device, detail);
    if (status != RT_OK)
        goto stop_service;
    remember(device);
    *device_out = device;
    return RT_OK;

stop_service:
    rt_service_stop(device);
close_rpc:
    rt_edges_device_close(device);
    rt_rpc_device_close(device);
    rt_region_close_all(device);
close_descriptors:
    close_descriptors(device);
    provider->close(device->pdevice);
free_device:
    device->closed = true;
    rt_device_unreference(device);
    return status;
}

/* ---- closing ---- */

/* Whether no channel is left; moves what is left. */
static bool drained(rt_device *device)
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

static void close_channels(rt_device *device)
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
    while (!drained(device) && rt_device_time(device) < bound) {
        uint32_t seen = atomic_load_explicit(&device->change, memory_order_acquire);
        rt_device_wait_change(device, seen, rt_device_time(device) + RT_NS_PER_MS);
    }
}

/* Takes the links away from channels whose flush did not come: destroying a queue pair stops the hardware. */
static void abandon_channels(rt_device *device)
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

/* Takes the turn of every queue and keeps it: who comes late from a wait that has ended finds it taken, and leaves. */
static void keep_turns(rt_device *device)
{
    for (uint32_t index = 0; index <= device->queue_count; index++) {
        rt_queue_kick(&device->queues[index]);
        rt_turn_take(&device->queues[index].turn);
    }
}

void rt_device_close(rt_device *device)
{
    if (rt_forked() || device->closed)
        return;
    forget(device);
    atomic_store(&device->stopping, true); /* before: remotes that nobody dropped hold no channel up any more */
    close_channels(device);
    rt_pollers_stop(device);
    rt_service_stop(device);
    pthread_mutex_lock(&device->lock);
    abandon_channels(device);
    rt_remotes_settle(device);
    rt_edges_device_close(device);
    rt_rpc_device_close(device);
    device->closed = true;
    pthread_mutex_unlock(&device->lock);
    rt_waiters_leave(device);
    rt_region_close_all(device);
    keep_turns(device);
    close_descriptors(device);
    device->provider->close(device->pdevice);
    device->pdevice = NULL;
    rt_device_unreference(device);
}

/* ---- event loops ---- */

int rt_device_progress(rt_device *device)
{
    if (rt_forked())
        return RT_E_FORKED;
    if (device->limits.virtual_time)
        device->provider->clock->advance(device->pdevice, rt_device_time(device) + RT_VIRTUAL_STEP_NS);
    else
        rt_event_drain(device->loop_event_fd);
    int total = 0;
    for (uint32_t index = 0; index < device->queue_count; index++) {
        rt_queue *queue = &device->queues[index];
        if (!rt_turn_try(&queue->turn))
            continue;
        device->provider->event_clear(device->pdevice, queue->index);
        int moved = rt_queue_step_held(queue);
        rt_queue_unkick(queue);
        rt_queue_leave(queue);
        total = moved < 0 || total < 0 ? (total < 0 ? total : moved) : total + moved;
    }
    /* What has ended by now is seen by a caller that looks after this call; what ends later is news to rt_device_arm. */
    atomic_store(&device->news_told, atomic_load(&device->news));
    return total;
}

int rt_device_event_fd(rt_device *device)
{
    return rt_forked() ? RT_E_FORKED : device->loop_fd;
}

void rt_device_tell(rt_device *device)
{
    atomic_fetch_add(&device->news, 1);
    if (atomic_load(&device->armed) != 0 && atomic_exchange(&device->armed, 0) != 0)
        rt_event_signal(device->loop_event_fd);
}

/* Arms a queue and looks once more. Who has its turn ends operations meanwhile, and arms it when leaving; a poller thread goes
 * on doing so without being armed for. */
static int arm_queue(rt_queue *queue)
{
    rt_device *device = queue->device;
    if (!rt_turn_try(&queue->turn)) {
        if (device->pollers != 0)
            return 0;
        atomic_store(&queue->loop_wants, 1);
        if (!rt_turn_try(&queue->turn))
            return 0;
        atomic_store(&queue->loop_wants, 0);
    }
    int status = device->provider->arm(device->pdevice, queue->index);
    int moved = status == RT_OK ? rt_queue_step_held(queue) : status;
    rt_queue_leave(queue);
    return moved;
}

int rt_device_arm(rt_device *device)
{
    if (rt_forked())
        return RT_E_FORKED;
    if (device->limits.virtual_time)
        return RT_E_AGAIN;
    atomic_store(&device->armed, 1);
    for (uint32_t index = 0; index < device->queue_count; index++) {
        int moved = arm_queue(&device->queues[index]);
        if (moved != 0)
            return moved < 0 ? moved : RT_E_AGAIN;
    }
    /* Pairs with rt_device_tell: either it saw `armed`, or its news is seen here. */
    return atomic_load(&device->news) != atomic_load(&device->news_told) ? RT_E_AGAIN : RT_OK;
}

int64_t rt_device_now_ns(rt_device *device)
{
    return rt_forked() ? 0 : rt_device_time(device);
}
