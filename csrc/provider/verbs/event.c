/* event.c: the device's own messages: completion notices of a queue, and asynchronous events
 * (RDMA-RULES 24, 25).
 *
 * Every event is acknowledged as soon as it is taken, by the thread that also destroys objects, so
 * destroying never waits. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int verbs_arm(rt_pdevice *base, uint32_t queue)
{
    verbs_device *device = verbs_device_of(base);
    int error = ibv_req_notify_cq(device->queues[queue].cq, 0);
    return error == 0 ? RT_OK : RT_E_DEVICE_LOST;
}

int verbs_event_fd(rt_pdevice *base, uint32_t queue)
{
    return verbs_device_of(base)->queues[queue].channel->fd;
}

void verbs_event_clear(rt_pdevice *base, uint32_t queue)
{
    verbs_device *device = verbs_device_of(base);
    verbs_queue *events_of = &device->queues[queue];
    struct ibv_cq *cq;
    void *context;
    unsigned count = 0;
    while (device->library->ibv_get_cq_event(events_of->channel, &cq, &context) == 0)
        count++;
    if (count != 0)
        device->library->ibv_ack_cq_events(events_of->cq, count);
}

int verbs_service_fd(rt_pdevice *base)
{
    return verbs_device_of(base)->context->async_fd;
}

/* Puts a descriptor that is never readable in the place of one whose events are over. The numbers stay, so whoever sleeps on
 * them goes on sleeping until core wakes it; epoll lets go of the old one by itself. */
static void descriptor_silence(int descriptor)
{
    int silent = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (silent < 0)
        return; /* threads that sleep on it look again and again, which costs time and nothing else */
    dup3(silent, descriptor, O_CLOEXEC);
    close(silent);
}

/* The kernel has taken the device from this process: it was removed, or its driver started anew. It answers every call with
 * EIO, and reports an error on all descriptors for ever. */
static void device_sever(verbs_device *device)
{
    if (atomic_exchange_explicit(&device->severed, true, memory_order_release)) /* pairs with the acquire in link_orphan */
        return;
    descriptor_silence(device->context->async_fd);
    for (uint32_t index = 0; index < device->queue_count; index++)
        descriptor_silence(device->queues[index].channel->fd);
}

static void device_lost(verbs_device *device, int error, const char *what, rt_event *event_out)
{
    atomic_store_explicit(&device->lost, true, memory_order_release); /* pairs with the acquire in link_shut */
    atomic_store_explicit(&device->told, true, memory_order_relaxed);
    verbs_links_orphan(device);
    event_out->kind = RT_EVENT_DEVICE_LOST;
    rt_fail(&event_out->detail, RT_E_DEVICE_LOST, error, "%s failed: %s", device->base.name, what);
}

/* Reports a failure of one queue pair. A failure of a link that is gone, or of the trial in
 * limits.c, is ignored. */
static void link_lost(verbs_device *device, struct ibv_qp *qp, const char *what, rt_event *event_out)
{
    verbs_link *link = qp != NULL ? qp->qp_context : NULL;
    if (link == NULL)
        return;
    event_out->kind = RT_EVENT_LINK_LOST;
    event_out->link = &link->base;
    rt_fail(&event_out->detail, RT_E_PEER_LOST, 0, "queue pair 0x%x of %s to 0x%x failed: %s", link->qpn, device->base.name,
            link->peer_qpn, what);
}

static void port_notice(verbs_device *device, int port, const char *what, rt_event *event_out)
{
    if (port != device->port.number)
        return;
    atomic_store_explicit(&device->stale, true, memory_order_release); /* pairs with the acquire in verbs_link_create */
    event_out->kind = RT_EVENT_NOTICE;
    rt_fail(&event_out->detail, RT_OK, 0, "port %d of %s: %s", port, device->base.name, what);
}

static void event_translate(verbs_device *device, const struct ibv_async_event *event, rt_event *event_out)
{
    const char *name = device->library->ibv_event_type_str(event->event_type);
    switch (event->event_type) {
    case IBV_EVENT_DEVICE_FATAL:
        device_lost(device, 0, "the device reported a fatal error (IBV_EVENT_DEVICE_FATAL)", event_out);
        return;
    case IBV_EVENT_CQ_ERR: device_lost(device, 0, "a completion queue failed (IBV_EVENT_CQ_ERR)", event_out); return;
    case IBV_EVENT_QP_FATAL:
        link_lost(device, event->element.qp, "the device gave it up (IBV_EVENT_QP_FATAL)", event_out);
        return;
    case IBV_EVENT_QP_REQ_ERR:
        link_lost(device, event->element.qp, "the peer sent an invalid request (IBV_EVENT_QP_REQ_ERR)", event_out);
        return;
    case IBV_EVENT_QP_ACCESS_ERR:
        link_lost(device, event->element.qp, "the peer reached for memory it has no right to (IBV_EVENT_QP_ACCESS_ERR)",
                  event_out);
        return;
    case IBV_EVENT_PATH_MIG_ERR:
        link_lost(device, event->element.qp, "its path failed (IBV_EVENT_PATH_MIG_ERR)", event_out);
        return;
    case IBV_EVENT_PORT_ERR: port_notice(device, event->element.port_num, "went down", event_out); return;
    case IBV_EVENT_PORT_ACTIVE: port_notice(device, event->element.port_num, "came up", event_out); return;
    case IBV_EVENT_GID_CHANGE:
    case IBV_EVENT_LID_CHANGE:
        port_notice(device, event->element.port_num, "its address changed: new channels use the new one", event_out);
        return;
    case IBV_EVENT_PKEY_CHANGE:
    case IBV_EVENT_SM_CHANGE:
    case IBV_EVENT_CLIENT_REREGISTER: port_notice(device, event->element.port_num, name, event_out); return;
    case IBV_EVENT_COMM_EST:
    case IBV_EVENT_SQ_DRAINED:
    case IBV_EVENT_PATH_MIG:
    case IBV_EVENT_SRQ_ERR:
    case IBV_EVENT_SRQ_LIMIT_REACHED:
    case IBV_EVENT_QP_LAST_WQE_REACHED:
    case IBV_EVENT_WQ_FATAL: return; /* expected, or about objects that this provider does not make */
    }
}

/* Whether the link's fall is to be reported now. While sends are under way it is not, since their
 * completions may say why. */
static bool link_fell(verbs_device *device, verbs_link *link)
{
    if (link == NULL || atomic_load_explicit(&link->fall, memory_order_relaxed) != VERBS_FALL_UNTOLD)
        return false;
    /* pairs with the release in poll: a retired item has already recorded why it failed */
    uint32_t retired = atomic_load_explicit(&link->send.retired, memory_order_acquire);
    bool under_way = atomic_load_explicit(&link->send.posted, memory_order_relaxed) != retired;
    bool known =
        atomic_load_explicit(&link->shut, memory_order_relaxed) || atomic_load_explicit(&link->send_failed, memory_order_relaxed);
    if (!known && under_way)
        return false;
    atomic_store_explicit(&link->fall, VERBS_FALL_TOLD, memory_order_relaxed);
    atomic_fetch_sub_explicit(&device->fallen, 1, memory_order_relaxed);
    return !known;
}

static void fallen_tell(verbs_device *device, rt_event *event_out)
{
    for (uint32_t index = 0; index < device->base.limits.link_count_max; index++) {
        verbs_link *link = atomic_load_explicit(&device->links[index], memory_order_acquire);
        if (!link_fell(device, link))
            continue;
        link_lost(device, link->qp,
                  "its receives were flushed: the peer reached for what it has no right to, or its port is down", event_out);
        return;
    }
}

void verbs_service(rt_pdevice *base, rt_event *event_out)
{
    verbs_device *device = verbs_device_of(base);
    struct ibv_async_event event;
    memset(event_out, 0, sizeof *event_out);
    event_out->kind = RT_EVENT_NONE;
    if (atomic_load_explicit(&device->fallen, memory_order_acquire) != 0) /* pairs with the release in poll */
        fallen_tell(device, event_out);
    while (event_out->kind == RT_EVENT_NONE) {
        errno = 0;
        if (device->library->ibv_get_async_event(device->context, &event) != 0) {
            int error = verbs_errno();
            if (error == EAGAIN || error == EINTR)
                return;
            device_sever(device);
            if (!atomic_load_explicit(&device->told, memory_order_relaxed))
                device_lost(device, error, "the kernel has let go of it: it was removed, or started anew", event_out);
            else
                verbs_links_orphan(device);
            return;
        }
        event_translate(device, &event, event_out);
        device->library->ibv_ack_async_event(&event);
    }
}

#endif
