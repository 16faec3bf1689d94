/* service.c: the thread of the control plane, one per device: it sleeps until a descriptor, a kick or a deadline wants it, then
 * looks at everything (service_round.c). In virtual time there is no thread and no descriptor: the provider's upcall and the
 * waiting calls run the rounds. */
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/control.h"

enum { RT_WAKE_EVENTS = 16 };

int rt_service_watch(rt_device *device, int descriptor, bool readable, bool writable, rt_detail *detail)
{
    const rt_service *service = device->service;
    struct epoll_event event = {.events = (readable ? EPOLLIN : 0u) | (writable ? EPOLLOUT : 0u), .data.fd = descriptor};
    if (epoll_ctl(service->epoll_fd, EPOLL_CTL_MOD, descriptor, &event) == 0)
        return RT_OK;
    if (errno == ENOENT && epoll_ctl(service->epoll_fd, EPOLL_CTL_ADD, descriptor, &event) == 0)
        return RT_OK;
    return rt_fail(detail, RT_E_SYSTEM, errno, "the control plane cannot watch another descriptor");
}

void rt_service_unwatch(rt_device *device, int descriptor)
{
    const rt_service *service = device->service;
    if (service->epoll_fd >= 0)
        epoll_ctl(service->epoll_fd, EPOLL_CTL_DEL, descriptor, NULL);
}

void rt_service_kick(rt_device *device)
{
    rt_service *service = device->service;
    if (service == NULL || atomic_exchange(&service->kicked, true))
        return;
    const uint64_t one = 1;
    rt_turn_take(&service->turn);
    if (service->kick_fd >= 0 && write(service->kick_fd, &one, sizeof one) < 0)
        assert(errno == EAGAIN); /* it is readable already */
    rt_turn_leave(&service->turn);
}

int rt_service_receive(rt_device *device)
{
    rt_completion completions[RT_POLL_BATCH];
    rt_queue *queue = &device->queues[device->queue_count];
    rt_turn_take(&queue->turn);
    int count = device->provider->poll(device->pdevice, queue->index, completions, RT_POLL_BATCH);
    rt_turn_leave(&queue->turn);
    if (count < 0)
        rt_service_lose_device(device, "the completion queue of its receives cannot be polled any more");
    for (int index = 0; index < count; index++) {
        const rt_completion *completion = &completions[index];
        uint32_t id = (uint32_t)(completion->token >> 32);
        rt_link *link = id < device->link_capacity ? device->links[id] : NULL;
        if (link == NULL || (completion->token & RT_TOKEN_RECEIVE) == 0)
            continue; /* of a link that was taken away before its flush came */
        uint32_t slot = (uint32_t)(completion->token & (RT_TOKEN_RECEIVE - 1));
        if (completion->status == RT_OK)
            rt_rpc_received(link, completion);
        else
            rt_rpc_flushed(link, slot);
    }
    return count;
}

/* True when the provider will announce the next receive; false when one came meanwhile (RDMA-RULES 24). */
static bool arm(rt_service *service)
{
    rt_device *device = service->device;
    rt_queue *queue = &device->queues[device->queue_count];
    rt_turn_take(&queue->turn);
    int status = device->provider->arm(device->pdevice, queue->index);
    rt_turn_leave(&queue->turn);
    pthread_mutex_lock(&device->lock);
    if (status != RT_OK)
        rt_service_lose_device(device, "the completion queue of its receives cannot be slept on any more");
    int count = rt_service_receive(device);
    pthread_mutex_unlock(&device->lock);
    return count <= 0;
}

/* Takes what made the service's own descriptors readable. */
static void acknowledge(rt_service *service, int descriptor)
{
    rt_device *device = service->device;
    uint64_t count;
    if (descriptor == service->kick_fd) {
        if (read(service->kick_fd, &count, sizeof count) < 0)
            assert(errno == EAGAIN || errno == EINTR);
    } else if (descriptor == service->queue_fd) {
        rt_queue *queue = &device->queues[device->queue_count];
        rt_turn_take(&queue->turn);
        device->provider->event_clear(device->pdevice, queue->index);
        rt_turn_leave(&queue->turn);
    }
}

/* Until when to sleep, as epoll counts: milliseconds rounded up, -1 for ever. */
static int timeout_ms(const rt_service *service)
{
    int64_t due = atomic_load(&service->due_ns);
    if (due == INT64_MAX)
        return -1;
    int64_t left = due - rt_device_time(service->device);
    if (left <= 0)
        return 0;
    int64_t left_ms = (left + RT_NS_PER_MS - 1) / RT_NS_PER_MS;
    return left_ms < 60000 ? (int)left_ms : 60000;
}

static void *service_main(void *argument)
{
    rt_service *service = argument;
    struct epoll_event events[RT_WAKE_EVENTS];
    while (!atomic_load(&service->stopping)) {
        rt_service_run(service->device);
        if (!arm(service))
            continue;
        int count = epoll_wait(service->epoll_fd, events, RT_WAKE_EVENTS, timeout_ms(service));
        for (int index = 0; index < count; index++)
            acknowledge(service, events[index].data.fd);
    }
    return NULL;
}

void rt_service_run(rt_device *device)
{
    rt_service *service = device->service;
    if (atomic_load(&service->stopping))
        return;
    bool moved = true, grown = true;
    for (int round = 0; (moved || grown) && round < RT_ROUNDS_MAX; round++) {
        atomic_store(&service->kicked, false);
        pthread_mutex_lock(&device->lock);
        moved = rt_service_round(device);
        pthread_mutex_unlock(&device->lock);
        grown = rt_rpc_grow(device);
    }
    if (moved || grown)
        atomic_store(&service->due_ns, rt_device_time(device));
}

void rt_service_turn(rt_device *device)
{
    const rt_service *service = device->service;
    if (service != NULL && (atomic_load(&service->kicked) || atomic_load(&service->due_ns) <= rt_device_time(device)))
        rt_service_run(device);
}

int rt_service_wait(rt_device *device, uint32_t seen, int64_t deadline_ns)
{
    rt_service *service = device->service;
    if (!device->limits.virtual_time || service == NULL)
        return rt_device_wait_change(device, seen, deadline_ns);
    if (atomic_load(&service->kicked))
        rt_service_run(device);
    int64_t due = atomic_load(&service->due_ns);
    int status = rt_device_wait_change(device, seen, due < deadline_ns ? due : deadline_ns);
    if (status != RT_E_AGAIN || due >= deadline_ns)
        return status;
    rt_service_run(device);
    return RT_OK;
}

/* ---- starting and stopping ---- */

static int open_descriptors(rt_service *service, rt_detail *detail)
{
    rt_device *device = service->device;
    service->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    service->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (service->epoll_fd < 0 || service->kick_fd < 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot make the descriptors of the control plane (raise ulimit -n?)");
    service->queue_fd = device->provider->event_fd(device->pdevice, device->queue_count);
    service->provider_fd = device->provider->service_fd(device->pdevice);
    int status = rt_service_watch(device, service->kick_fd, true, false, detail);
    if (status == RT_OK && service->queue_fd >= 0)
        status = rt_service_watch(device, service->queue_fd, true, false, detail);
    if (status == RT_OK && service->provider_fd >= 0)
        status = rt_service_watch(device, service->provider_fd, true, false, detail);
    return status;
}

static void close_descriptors(rt_service *service)
{
    rt_turn_take(&service->turn);
    if (service->kick_fd >= 0)
        close(service->kick_fd);
    if (service->epoll_fd >= 0)
        close(service->epoll_fd);
    service->kick_fd = service->epoll_fd = -1;
    rt_turn_leave(&service->turn);
}

/* Signals are for the threads of the user: this one takes none. */
static int start_thread(rt_service *service)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&service->thread, NULL, service_main, service);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0)
        pthread_setname_np(service->thread, "rt-service");
    service->has_thread = error == 0;
    return error;
}

int rt_service_start(rt_device *device, rt_detail *detail)
{
    rt_service *service = calloc(1, sizeof *service);
    if (service == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the control plane");
    service->device = device;
    service->epoll_fd = service->kick_fd = service->queue_fd = service->provider_fd = -1;
    atomic_init(&service->due_ns, INT64_MAX);
    device->service = service;
    if (device->limits.virtual_time)
        return RT_OK;
    int status = open_descriptors(service, detail);
    if (status == RT_OK) {
        int error = start_thread(service);
        if (error == 0)
            return RT_OK;
        status = rt_fail(detail, RT_E_SYSTEM, error, "cannot start the thread of the control plane");
    }
    close_descriptors(service);
    rt_service_free(device);
    return status;
}

void rt_service_stop(rt_device *device)
{
    rt_service *service = device->service;
    atomic_store(&service->stopping, true);
    if (service->has_thread) {
        atomic_store(&service->kicked, false);
        rt_service_kick(device);
        pthread_join(service->thread, NULL);
        service->has_thread = false;
    }
    close_descriptors(service);
    pthread_mutex_lock(&device->lock);
    RT_LIST_EACH(node, &device->channels)
        rt_remotes_detach(RT_LIST_ENTRY(node, rt_channel, node));
    rt_remotes_settle(device);
    pthread_mutex_unlock(&device->lock);
}

void rt_service_free(rt_device *device)
{
    free(device->service);
    device->service = NULL;
}
