/* service.c: the thread of the control plane, one per device. It sleeps until a descriptor, a kick
 * or a deadline wakes it, then looks at everything (assembly/round.c, as rt_device_upcalls.round).
 * In virtual time there is no thread and no descriptor: the provider's upcall and the waiting calls
 * run the rounds. */
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "device/device.h"
#include "device/devices.h"
#include "device/fork.h"
#include "device/queue.h"
#include "device/service.h"

enum { RT_WAKE_EVENTS = 16 };

int rt_service_watch(rt_device *device, int descriptor, bool readable, bool writable, rt_detail *detail)
{
    const rt_service *service = device->service;
    struct epoll_event event = {.events = (readable ? EPOLLIN : 0u) | (writable ? EPOLLOUT : 0u), .data.fd = descriptor};
    if (epoll_ctl(service->epoll_fd, EPOLL_CTL_MOD, descriptor, &event) == 0)
        return RT_OK;
    if (errno == ENOENT && epoll_ctl(service->epoll_fd, EPOLL_CTL_ADD, descriptor, &event) == 0)
        return RT_OK;
    return rt_fail(detail, RT_E_SYSTEM, errno, "the device's service cannot watch another descriptor");
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

/* Drains the service's own descriptor that became readable. */
static void descriptor_drain(rt_service *service, int descriptor)
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

/* How long to sleep, as epoll counts: milliseconds rounded up, -1 for ever. */
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
        if (!service->device->upcalls->arm(service->device))
            continue;
        int count = epoll_wait(service->epoll_fd, events, RT_WAKE_EVENTS, timeout_ms(service));
        for (int index = 0; index < count; index++)
            descriptor_drain(service, events[index].data.fd);
    }
    return NULL;
}

void rt_service_run(rt_device *device)
{
    rt_service *service = device->service;
    if (atomic_load(&service->stopping))
        return;
    bool moved = true;
    for (int round = 0; moved && round < RT_ROUNDS_MAX; round++) {
        atomic_store(&service->kicked, false);
        moved = device->upcalls->round(device);
    }
    if (moved)
        atomic_store(&service->due_ns, rt_device_time(device));
}

/* In virtual time, does the work that the control plane has due now. */
static void service_turn(rt_device *device)
{
    const rt_service *service = device->service;
    if (service != NULL && (atomic_load(&service->kicked) || atomic_load(&service->due_ns) <= rt_device_time(device)))
        rt_service_run(device);
}

static void device_turn(rt_device *device, void *argument)
{
    (void)argument;
    if (device->limits.virtual_time)
        service_turn(device);
}

void rt_devices_turn(void)
{
    rt_devices_each(device_turn, NULL);
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

int rt_device_nap(rt_device *device, int64_t timeout_ns)
{
    if (rt_forked())
        return RT_E_FORKED;
    int64_t end = rt_device_slice_end(device, timeout_ns);
    int status = RT_OK;
    while (status == RT_OK)
        status = rt_service_wait(device, atomic_load_explicit(&device->change, memory_order_acquire), end);
    return status;
}

/* ---- starting and stopping ---- */

static int service_descriptors_open(rt_service *service, rt_detail *detail)
{
    rt_device *device = service->device;
    service->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    service->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (service->epoll_fd < 0 || service->kick_fd < 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot make the descriptors of the device's service (raise ulimit -n?)");
    service->queue_fd = device->provider->event_fd(device->pdevice, device->queue_count);
    service->provider_fd = device->provider->service_fd(device->pdevice);
    int status = rt_service_watch(device, service->kick_fd, true, false, detail);
    if (status == RT_OK && service->queue_fd >= 0)
        status = rt_service_watch(device, service->queue_fd, true, false, detail);
    if (status == RT_OK && service->provider_fd >= 0)
        status = rt_service_watch(device, service->provider_fd, true, false, detail);
    return status;
}

static void service_descriptors_close(rt_service *service)
{
    rt_turn_take(&service->turn);
    if (service->kick_fd >= 0)
        close(service->kick_fd);
    if (service->epoll_fd >= 0)
        close(service->epoll_fd);
    service->kick_fd = service->epoll_fd = -1;
    rt_turn_leave(&service->turn);
}

/* Signals are for the user's threads; this thread takes none. */
static int service_thread_start(rt_service *service)
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
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the device's service");
    service->device = device;
    rt_turn_rank(&service->turn, RT_RANK_LAST);
    rt_list_init(&service->pools_wanting);
    service->epoll_fd = service->kick_fd = service->queue_fd = service->provider_fd = -1;
    atomic_init(&service->due_ns, INT64_MAX);
    device->service = service;
    if (device->limits.virtual_time)
        return RT_OK;
    int status = service_descriptors_open(service, detail);
    if (status == RT_OK) {
        int error = service_thread_start(service);
        if (error == 0)
            return RT_OK;
        status = rt_fail(detail, RT_E_SYSTEM, error, "cannot start the thread of the device's service (raise ulimit -u?)");
    }
    service_descriptors_close(service);
    free(service);
    device->service = NULL;
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
    service_descriptors_close(service);
}
