/* link.c: the life of a queue pair: created in INIT so that RECVs can be posted, joined to its peer
 * through RTR and RTS, shut by going to ERR so that every outstanding item is flushed, destroyed.
 *
 * A device that was lost flushes nothing any more. Then the queue pair is destroyed at once, after
 * which it touches no memory, and the link becomes an orphan: poll (poll.c) hands out the flushes
 * in the device's place. A device that the kernel has let go of answers EIO, and touches no memory
 * either. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"

enum {
    HOP_LIMIT = 64,     /* 1 would break routed RoCEv2 (RDMA-RULES 18) */
    MIN_RNR_TIMER = 12, /* 0.64 ms until a peer whose SEND found no RECV tries again */
};

static int ring_init(verbs_ring *ring, uint32_t depth)
{
    uint32_t size = 1;
    while (size < depth)
        size *= 2;
    ring->tokens = calloc(size, sizeof *ring->tokens);
    ring->mask = size - 1;
    ring->depth = depth;
    return ring->tokens != NULL ? RT_OK : RT_E_NO_MEMORY;
}

static void verbs_link_free(verbs_link *link)
{
    free(link->send.tokens);
    free(link->receive.tokens);
    free(link);
}

/* Reserves room for every item that the link can have outstanding, so that a completion queue never
 * overruns (RDMA-RULES 23). */
static int queues_reserve(verbs_device *device, uint32_t send_queue, uint32_t receive_queue, rt_detail *detail)
{
    const rt_limits *limits = &device->base.limits;
    const uint32_t queues[2] = {send_queue, receive_queue};
    const uint32_t depths[2] = {limits->work_depth + device->request.binds, limits->receive_depth};
    for (uint32_t side = 0; side < 2; side++) {
        verbs_queue *queue = &device->queues[queues[side]];
        if (queue->capacity - queue->reserved >= depths[side]) {
            queue->reserved += depths[side];
            continue;
        }
        if (side == 1)
            device->queues[send_queue].reserved -= depths[0];
        return rt_fail(detail, RT_E_BUSY, 0,
                       "completion queue %u of %s is full: its %u entries are taken by links, and one more needs %u: "
                       "raise completion_depth, lower work_depth, or use more queues",
                       queues[side], device->base.name, queue->capacity, depths[side]);
    }
    return RT_OK;
}

static void queues_unreserve(verbs_device *device, uint32_t send_queue, uint32_t receive_queue)
{
    device->queues[send_queue].reserved -= device->base.limits.work_depth + device->request.binds;
    device->queues[receive_queue].reserved -= device->base.limits.receive_depth;
}

/* Gives the link an index and a tag that no completion still under way carries. */
static int link_enter(verbs_device *device, verbs_link *link, rt_detail *detail)
{
    uint32_t count = device->base.limits.link_count_max;
    for (uint32_t tried = 0; tried < count; tried++) {
        uint32_t index = (device->next_link + tried) % count;
        if (atomic_load_explicit(&device->links[index], memory_order_relaxed) != NULL)
            continue;
        device->next_link = (index + 1) % count;
        device->next_generation = (uint16_t)((device->next_generation + 1) & VERBS_GENERATION_MASK);
        link->tag = (uint64_t)device->next_generation << 16 | index;
        /* pairs with the acquire in poll */
        atomic_store_explicit(&device->links[index], link, memory_order_release);
        return RT_OK;
    }
    return rt_fail(detail, RT_E_BUSY, 0, "%s has its %u links already", device->base.name, count);
}

/* No thread that flushes orphans looks at the link after this. */
static void link_leave(verbs_device *device, verbs_link *link)
{
    rt_turn_take(&device->orphans_turn);
    atomic_store_explicit(&device->links[link->tag & 0xffff], NULL, memory_order_release);
    rt_turn_leave(&device->orphans_turn);
}

static int pair_create(verbs_device *device, verbs_link *link, rt_detail *detail)
{
    const verbs_library *library = device->library;
    const struct ibv_qp_cap *asked = &device->request.cap;
    struct ibv_qp_init_attr attr = {
        .qp_context = link,
        .send_cq = device->queues[link->base.send_queue].cq,
        .recv_cq = device->queues[link->base.receive_queue].cq,
        .cap = *asked,
        .qp_type = IBV_QPT_RC,
    };
    errno = 0;
    link->qp = library->ibv_create_qp(device->pd, &attr);
    if (link->qp == NULL)
        return verbs_fail(detail, verbs_errno(), "create a queue pair on %s", device->base.name);
    link->qpn = link->qp->qp_num;
    struct ibv_qp_attr init = {
        .qp_state = IBV_QPS_INIT,
        .pkey_index = device->port.pkey_index,
        .port_num = device->port.number,
        .qp_access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ,
    };
    int error = library->ibv_modify_qp(link->qp, &init, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    const rt_limits *limits = &device->base.limits;
    if (error == 0 &&
        (attr.cap.max_send_wr < limits->work_depth + device->request.binds || attr.cap.max_recv_wr < limits->receive_depth ||
         attr.cap.max_inline_data < limits->inline_size_max || attr.cap.max_send_sge < limits->segments_max))
        error = ENOMEM; /* less than the trial was granted: the limits would not hold */
    if (error == 0)
        return RT_OK;
    library->ibv_destroy_qp(link->qp);
    return verbs_fail(detail, error, "initialize queue pair 0x%x on %s", link->qpn, device->base.name);
}

/* The parts of a link that need no device. */
static int link_prepare(verbs_device *device, uint32_t send_queue, uint32_t receive_queue, verbs_link **link_out,
                        rt_detail *detail)
{
    verbs_link *link = calloc(1, sizeof *link);
    if (link == NULL || ring_init(&link->send, device->base.limits.work_depth) != RT_OK ||
        ring_init(&link->receive, device->base.limits.receive_depth) != RT_OK) {
        if (link != NULL)
            verbs_link_free(link);
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a link of %s", device->base.name);
    }
    link->base = (rt_plink){.device = &device->base, .send_queue = send_queue, .receive_queue = receive_queue};
    link->state = "new";
    rt_list_init(&link->windows);
    int status = rt_random(&link->psn, sizeof link->psn, detail);
    if (status != RT_OK) {
        verbs_link_free(link);
        return status;
    }
    link->psn &= 0xffffff;
    *link_out = link;
    return RT_OK;
}

int verbs_link_create(rt_pdevice *base, uint32_t send_queue, uint32_t receive_queue, rt_plink **link_out, uint8_t *address_out,
                      size_t *address_size_out, rt_detail *detail)
{
    verbs_device *device = verbs_device_of(base);
    verbs_link *link = NULL;
    assert(send_queue < device->queue_count && receive_queue < device->queue_count);
    if (atomic_exchange_explicit(&device->stale, false, memory_order_acquire)) { /* pairs with the release in event.c */
        int refreshed = verbs_port_refresh(device, detail);
        if (refreshed != RT_OK) {
            atomic_store_explicit(&device->stale, true, memory_order_relaxed);
            return refreshed;
        }
    }
    int status = link_prepare(device, send_queue, receive_queue, &link, detail);
    if (status != RT_OK)
        return status;
    status = queues_reserve(device, send_queue, receive_queue, detail);
    if (status != RT_OK)
        goto free_link;
    status = link_enter(device, link, detail);
    if (status != RT_OK)
        goto unreserve;
    status = pair_create(device, link, detail);
    if (status != RT_OK)
        goto leave;
    verbs_address_of(device, link, &link->own);
    link->own_gid = device->port.gid.index;
    verbs_address_write(&link->own, address_out, address_size_out);
    *link_out = &link->base;
    return RT_OK;
leave:
    link_leave(device, link);
unreserve:
    queues_unreserve(device, send_queue, receive_queue);
free_link:
    verbs_link_free(link);
    return status;
}

static int link_join_failed(const verbs_device *device, const verbs_link *link, const verbs_address *peer, int error,
                            rt_detail *detail)
{
    char gid[64];
    verbs_gid_text(&peer->gid, gid, sizeof gid);
    if (error == ETIMEDOUT || error == ENETUNREACH || error == EHOSTUNREACH || error == EADDRNOTAVAIL)
        return rt_fail(detail, RT_E_PEER_LOST, error,
                       "cannot join queue pair 0x%x of %s to 0x%x at %s (%s): there is no route from gid %u", link->qpn,
                       device->base.name, peer->qpn, gid, verbs_gid_kind_name(peer->gid.kind), device->port.gid.index);
    return verbs_fail(detail, error, "join queue pair 0x%x of %s to 0x%x at %s (%s)", link->qpn, device->base.name, peer->qpn,
                      gid, verbs_gid_kind_name(peer->gid.kind));
}

/* Ready to receive. The kernel may ask the network for the peer's MAC address, for up to about a second. */
static int pair_to_rtr(const verbs_device *device, const verbs_link *link, const verbs_address *peer)
{
    const verbs_address *own = &link->own;
    const verbs_port *port = &device->port;
    bool ethernet = port->attr.link_layer == IBV_LINK_LAYER_ETHERNET;
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = (enum ibv_mtu)(own->mtu < peer->mtu ? own->mtu : peer->mtu),
        .dest_qp_num = peer->qpn,
        .rq_psn = peer->psn, /* the PSN of the peer's first packet; sq_psn is this end's (RDMA-RULES 17) */
        .max_dest_rd_atomic = own->reads_served < peer->reads_begun ? own->reads_served : peer->reads_begun,
        .min_rnr_timer = MIN_RNR_TIMER,
        .ah_attr =
            {
                .dlid = ethernet ? 0 : peer->lid,
                .sl = (uint8_t)device->options.service_level,
                .port_num = port->number,
                .is_global = ethernet || device->options.gid != VERBS_UNSET || device->options.network.bits != 0 ||
                             (port->attr.flags & IBV_QPF_GRH_REQUIRED) != 0,
                .grh = {.dgid = peer->gid.bytes,
                        .sgid_index = (uint8_t)link->own_gid,
                        .hop_limit = HOP_LIMIT,
                        .traffic_class = (uint8_t)device->options.traffic_class},
            },
    };
    return device->library->ibv_modify_qp(link->qp, &attr,
                                          IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                              IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
}

/* Ready to send. */
static int pair_to_rts(const verbs_device *device, const verbs_link *link, uint8_t reads)
{
    struct ibv_qp_attr attr = {
        .qp_state = IBV_QPS_RTS,
        .timeout = (uint8_t)device->options.ack_timeout,
        .retry_cnt = (uint8_t)device->options.retry_count,
        .rnr_retry = (uint8_t)device->options.rnr_retry,
        .sq_psn = link->psn,
        .max_rd_atomic = reads,
    };
    return device->library->ibv_modify_qp(link->qp, &attr,
                                          IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                                              IBV_QP_MAX_QP_RD_ATOMIC);
}

int verbs_link_connect(rt_plink *base, const uint8_t *peer_address, size_t size, rt_detail *detail)
{
    verbs_link *link = verbs_link_of(base);
    verbs_device *device = verbs_device_of(base->device);
    verbs_address peer;
    const verbs_address *own = &link->own; /* what the peer was told, though the port may have changed since */
    int status = verbs_address_read(device, peer_address, size, &peer, detail);
    if (status != RT_OK)
        return status;
    if (link->qp == NULL || link->shut)
        return rt_fail(detail, RT_E_CLOSED, 0, "queue pair 0x%x of %s was shut before it was joined", link->qpn,
                       device->base.name);
    uint8_t reads = own->reads_begun < peer.reads_served ? own->reads_begun : peer.reads_served;
    int error = pair_to_rtr(device, link, &peer);
    if (error == 0)
        error = pair_to_rts(device, link, reads);
    if (error != 0)
        return link_join_failed(device, link, &peer, error, detail);
    link->peer_qpn = peer.qpn;
    link->peer_gid = peer.gid;
    link->mtu = verbs_mtu_bytes(own->mtu < peer.mtu ? own->mtu : peer.mtu);
    link->reads = reads;
    link->state = "joined";
    if (device->library->ibv_query_qp_data_in_order != NULL)
        link->in_order = device->library->ibv_query_qp_data_in_order(link->qp, IBV_WR_RDMA_WRITE, 0) == 1;
    return RT_OK;
}

/* Destroys the queue pair of a lost device and leaves the flushing to poll. If even that fails, the
 * device may still access memory, and nothing is flushed: the memory stays quarantined. */
static void link_orphan(verbs_device *device, verbs_link *link)
{
    verbs_windows_end(device, link);
    int error = device->library->ibv_destroy_qp(link->qp);
    if (error != 0 && !(error == EIO && atomic_load_explicit(&device->severed, memory_order_acquire)))
        return;
    link->qp = NULL;
    link->state = "orphaned";
    /* pair with the acquires in poll */
    atomic_store_explicit(&link->orphaned, true, memory_order_release);
    atomic_fetch_add_explicit(&device->queues[link->base.send_queue].orphans, 1, memory_order_release);
    atomic_fetch_add_explicit(&device->queues[link->base.receive_queue].orphans, 1, memory_order_release);
}

void verbs_link_shut(rt_plink *base)
{
    verbs_link *link = verbs_link_of(base);
    verbs_device *device = verbs_device_of(base->device);
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
    if (link->qp == NULL)
        return;
    link->shut = true;
    link->state = "shut";
    if (atomic_load_explicit(&device->lost, memory_order_acquire) ||
        device->library->ibv_modify_qp(link->qp, &attr, IBV_QP_STATE) != 0)
        link_orphan(device, link);
    else
        verbs_windows_end(device, link); /* after the error state, so that the peer is flushed and not refused */
}

void verbs_links_orphan(verbs_device *device)
{
    for (uint32_t index = 0; index < device->base.limits.link_count_max; index++) {
        verbs_link *link = atomic_load_explicit(&device->links[index], memory_order_relaxed);
        if (link != NULL && link->shut && link->qp != NULL)
            link_orphan(device, link);
    }
}

void verbs_link_destroy(rt_plink *base)
{
    verbs_link *link = verbs_link_of(base);
    verbs_device *device = verbs_device_of(base->device);
    verbs_windows_end(device, link);
    if (link->qp != NULL)
        device->library->ibv_destroy_qp(link->qp);
    if (atomic_load_explicit(&link->orphaned, memory_order_relaxed)) {
        atomic_fetch_sub_explicit(&device->queues[base->send_queue].orphans, 1, memory_order_relaxed);
        atomic_fetch_sub_explicit(&device->queues[base->receive_queue].orphans, 1, memory_order_relaxed);
    }
    link_leave(device, link);
    if (atomic_load_explicit(&link->fall, memory_order_relaxed) == VERBS_FALL_UNTOLD)
        atomic_fetch_sub_explicit(&device->fallen, 1, memory_order_relaxed);
    queues_unreserve(device, base->send_queue, base->receive_queue);
    verbs_link_free(link);
}

int verbs_link_describe(rt_plink *base, char *text_out, size_t capacity)
{
    verbs_link *link = verbs_link_of(base);
    uint32_t failure = atomic_load_explicit(&link->failure, memory_order_relaxed);
    int post_error = atomic_load_explicit(&link->post_error, memory_order_relaxed);
    char own_gid[INET6_ADDRSTRLEN], peer_gid[INET6_ADDRSTRLEN];
    verbs_gid_text(&link->own.gid, own_gid, sizeof own_gid);
    verbs_gid_text(&link->peer_gid, peer_gid, sizeof peer_gid);
    return snprintf(text_out, capacity,
                    "%s qp 0x%x to 0x%x %s, mtu %u, gid %u %s to %s, reads %u, sends %u/%u, receives %u/%u, %s%s%s%s",
                    base->device->name, link->qpn, link->peer_qpn, link->state, link->mtu, link->own_gid, own_gid,
                    link->peer_qpn != 0 ? peer_gid : "none", link->reads, verbs_ring_outstanding(&link->send), link->send.depth,
                    verbs_ring_outstanding(&link->receive), link->receive.depth,
                    link->in_order ? "bytes in order" : "byte order unknown", failure != 0 ? ", failed with " : "",
                    failure != 0 ? verbs_completion_name(failure) : "", post_error != 0 ? ", post refused" : "");
}

#endif
