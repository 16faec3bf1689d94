/* post.c: work items become work requests: one chain, one doorbell. HOT: no allocation, lock,
 * system call or log.
 *
 * The header's inlines go straight to the device's driver. A driver that takes only a prefix
 * reports it with bad_wr; a full queue (ENOMEM) is a shorter prefix, any other error is the end of
 * the link. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <arpa/inet.h>

/* Items that the ring has room for, at most one batch. Pairs with the release in poll: slots that
 * it retired may be reused. */
static uint32_t room_of(verbs_ring *ring, uint32_t posted, uint32_t count)
{
    uint32_t room = ring->depth - (posted - atomic_load_explicit(&ring->retired, memory_order_acquire));
    assert(room <= ring->depth);
    if (count > VERBS_POST_BATCH)
        count = VERBS_POST_BATCH;
    return count < room ? count : room;
}

static int sges_of(const rt_work *item, struct ibv_sge *sges)
{
    int used = 0;
    for (uint32_t index = 0; index < item->segment_count; index++) {
        const rt_segment *segment = &item->segments[index];
        if (segment->size == 0)
            continue;
        assert(segment->size <= UINT32_MAX);
        assert(segment->memory != NULL || (item->flags & RT_WORK_INLINE) != 0);
        const verbs_memory *memory = (const verbs_memory *)(const void *)segment->memory;
        sges[used++] = (struct ibv_sge){.addr = (uintptr_t)segment->address,
                                        .length = (uint32_t)segment->size,
                                        .lkey = memory != NULL ? memory->mr->lkey : 0};
    }
    return used;
}

static enum ibv_wr_opcode opcode_of(enum rt_opcode opcode)
{
    switch (opcode) {
    case RT_WORK_WRITE: return IBV_WR_RDMA_WRITE;
    case RT_WORK_READ: return IBV_WR_RDMA_READ;
    case RT_WORK_WRITE_IMM: return IBV_WR_RDMA_WRITE_WITH_IMM;
    case RT_WORK_SEND:
    case RT_WORK_RECV: break;
    }
    return IBV_WR_SEND;
}

static unsigned flags_of(uint8_t flags)
{
    return ((flags & RT_WORK_SIGNALED) != 0 ? (unsigned)IBV_SEND_SIGNALED : 0u) |
           ((flags & RT_WORK_INLINE) != 0 ? (unsigned)IBV_SEND_INLINE : 0u) |
           ((flags & RT_WORK_FENCE) != 0 ? (unsigned)IBV_SEND_FENCE : 0u);
}

/* Records how many requests the driver accepted. The error of a refused request, if any, decides
 * the outcome. */
static int requests_settle(verbs_link *link, verbs_ring *ring, uint32_t posted, uint32_t accepted, int error,
                           rt_posted *posted_out)
{
    atomic_store_explicit(&ring->posted, posted + accepted, memory_order_release); /* pairs with the acquire in poll's flush */
    *posted_out = (rt_posted){.accepted = accepted, .completed = 0};
    if (error == 0)
        return RT_OK;
    uint32_t outstanding = posted + accepted - atomic_load_explicit(&ring->retired, memory_order_relaxed);
    if (error == ENOMEM && outstanding != 0)
        return RT_OK; /* full; a completion will make room */
    atomic_store_explicit(&link->post_error, error, memory_order_relaxed);
    return verbs_errno_status(error);
}

/* Drivers return an errno, or (some of them) -1 and set errno. */
static int error_of(int result)
{
    return result >= 0 ? result : verbs_errno();
}

static int sends_post(verbs_link *link, const rt_work *items, uint32_t count, rt_posted *posted_out)
{
    struct ibv_send_wr requests[VERBS_POST_BATCH], *bad = NULL;
    struct ibv_sge sges[VERBS_POST_BATCH * VERBS_SEGMENTS_MAX];
    verbs_ring *ring = &link->send;
    uint32_t posted = atomic_load_explicit(&ring->posted, memory_order_relaxed);
    count = room_of(ring, posted, count);
    *posted_out = (rt_posted){0, 0};
    if (count == 0)
        return RT_OK;
    for (uint32_t index = 0; index < count; index++) {
        const rt_work *item = &items[index];
        const verbs_remote *remote = (const verbs_remote *)(const void *)item->remote;
        struct ibv_send_wr *request = &requests[index];
        assert(item->opcode != RT_WORK_RECV && item->segment_count <= VERBS_SEGMENTS_MAX);
        assert((remote != NULL) == (item->opcode != RT_WORK_SEND));
        assert((item->flags & RT_WORK_INLINE) == 0 || item->opcode != RT_WORK_READ);
        ring->tokens[(posted + index) & ring->mask] = item->token;
        request->wr_id = link->tag << 32 | (uint32_t)(posted + index);
        request->next = request + 1;
        request->sg_list = &sges[index * VERBS_SEGMENTS_MAX];
        request->num_sge = sges_of(item, request->sg_list);
        request->opcode = opcode_of((enum rt_opcode)item->opcode);
        request->send_flags = flags_of(item->flags);
        request->imm_data = htonl(item->immediate);
        request->wr.rdma.remote_addr = remote != NULL ? remote->address + item->remote_offset : 0;
        request->wr.rdma.rkey = remote != NULL ? remote->keys[link->base.index & remote->key_mask] : 0;
    }
    requests[count - 1].next = NULL;
    int error = error_of(ibv_post_send(link->qp, requests, &bad));
    uint32_t accepted = count;
    if (error != 0)
        accepted = bad >= requests && bad < requests + count ? (uint32_t)(bad - requests) : 0;
    return requests_settle(link, ring, posted, accepted, error, posted_out);
}

static int verbs_receives_post(verbs_link *link, const rt_work *items, uint32_t count, rt_posted *posted_out)
{
    struct ibv_recv_wr requests[VERBS_POST_BATCH], *bad = NULL;
    struct ibv_sge sges[VERBS_POST_BATCH];
    verbs_ring *ring = &link->receive;
    uint32_t posted = atomic_load_explicit(&ring->posted, memory_order_relaxed);
    count = room_of(ring, posted, count);
    *posted_out = (rt_posted){0, 0};
    if (count == 0)
        return RT_OK;
    for (uint32_t index = 0; index < count; index++) {
        const rt_work *item = &items[index];
        assert(item->opcode == RT_WORK_RECV && item->segment_count <= 1);
        ring->tokens[(posted + index) & ring->mask] = item->token;
        requests[index] = (struct ibv_recv_wr){.wr_id = VERBS_WR_RECEIVE | link->tag << 32 | (uint32_t)(posted + index),
                                               .next = &requests[index + 1],
                                               .sg_list = &sges[index]};
        requests[index].num_sge = sges_of(item, &sges[index]);
    }
    requests[count - 1].next = NULL;
    int error = error_of(ibv_post_recv(link->qp, requests, &bad));
    uint32_t accepted = count;
    if (error != 0)
        accepted = bad >= requests && bad < requests + count ? (uint32_t)(bad - requests) : 0;
    return requests_settle(link, ring, posted, accepted, error, posted_out);
}

int verbs_post(rt_plink *base, const rt_work *items, uint32_t count, rt_posted *posted_out)
{
    verbs_link *link = verbs_link_of(base);
    int error = atomic_load_explicit(&link->post_error, memory_order_relaxed);
    if (error != 0 || link->qp == NULL || count == 0) {
        *posted_out = (rt_posted){0, 0};
        return error != 0 ? verbs_errno_status(error) : link->qp == NULL ? RT_E_DEVICE_LOST : RT_OK;
    }
    return items[0].opcode == RT_WORK_RECV ? verbs_receives_post(link, items, count, posted_out)
                                           : sends_post(link, items, count, posted_out);
}

#endif
