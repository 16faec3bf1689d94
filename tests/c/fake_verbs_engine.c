/* fake_verbs_engine.c: what the fake's devices do: they take work requests, move bytes between registered memory, and
 * complete. One global lock, one step at a time; a queue pair's requests are executed in order, as RC promises. A device that
 * overtakes places a WRITE later than WRITEs behind it, as a fabric with adaptive routing does; it completes in order even so,
 * and executes any other request only once all before it are done. */
#if __has_include(<infiniband/verbs.h>)

#include "fake_verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A status of ibv_wc_status, or: the head of the queue has to wait. */
enum { NOT_YET = -1, RNR_TRIES = 8, STEP_NS = 100000 };

/* ---- completions ---- */

static void push(fake_cq *cq, const fake_entry *entry)
{
    if (cq->dead || fake_context_of(cq->base.context)->severed)
        return;
    if (cq->head - cq->tail == cq->capacity) {
        struct ibv_async_event event = {.element.cq = &cq->base, .event_type = IBV_EVENT_CQ_ERR};
        cq->dead = true;
        fake_event_raise(fake_context_of(cq->base.context), &event);
        return;
    }
    cq->entries[cq->head++ % cq->capacity] = *entry;
    if (!cq->armed || cq->base.channel == NULL)
        return;
    cq->armed = false;
    if (write(((fake_channel *)(void *)cq->base.channel)->write_fd, &cq, sizeof cq) != (ssize_t)sizeof cq)
        abort();
}

static void complete_send(fake_qp *qp, const fake_wr *send, uint32_t position, uint32_t status, uint32_t vendor_error)
{
    bool failed = status != IBV_WC_SUCCESS;
    if (!failed && (send->wr.send_flags & IBV_SEND_SIGNALED) == 0)
        return;
    fake_entry entry = {.qp = qp, .position = position};
    entry.wc.wr_id = send->wr.wr_id;
    entry.wc.status = (enum ibv_wc_status)status;
    entry.wc.vendor_err = vendor_error;
    entry.wc.qp_num = qp->base.qp_num;
    /* of a failed completion nothing else is valid: say something that would mislead */
    entry.wc.opcode = failed ? IBV_WC_RECV : IBV_WC_RDMA_WRITE;
    entry.wc.byte_len = failed ? 0xdeadu : 0;
    entry.wc.wc_flags = failed ? IBV_WC_WITH_IMM : 0;
    push(cq_of(qp->base.send_cq), &entry);
}

static void complete_receive(fake_qp *qp, const fake_rr *receive, uint32_t status, const fake_wr *send)
{
    fake_entry entry = {.qp = NULL};
    entry.wc.wr_id = receive->wr_id;
    entry.wc.status = (enum ibv_wc_status)status;
    entry.wc.qp_num = qp->base.qp_num;
    entry.wc.opcode = IBV_WC_RECV;
    if (send != NULL && status == IBV_WC_SUCCESS) {
        entry.wc.byte_len = (uint32_t)send->size;
        if (send->wr.opcode == IBV_WR_RDMA_WRITE_WITH_IMM) {
            entry.wc.opcode = IBV_WC_RECV_RDMA_WITH_IMM;
            entry.wc.wc_flags = IBV_WC_WITH_IMM;
            entry.wc.imm_data = send->wr.imm_data;
        }
    }
    push(cq_of(qp->base.recv_cq), &entry);
}

void fake_qp_forget(const fake_qp *qp)
{
    for (fake_cq *cq = fake.cqs; cq != NULL; cq = cq->next)
        for (uint32_t at = cq->tail; at != cq->head; at++)
            if (cq->entries[at % cq->capacity].qp == qp)
                cq->entries[at % cq->capacity].qp = NULL;
}

/* ---- memory ---- */

static fake_mr *find_mr(const struct ibv_pd *pd, uint32_t key, bool remote, uint64_t address, uint64_t size)
{
    for (fake_mr *mr = fake.mrs; mr != NULL; mr = mr->next)
        if (mr->base.pd == pd && (remote ? mr->base.rkey : mr->base.lkey) == key)
            return address >= mr->iova && size <= mr->base.length && address - mr->iova <= mr->base.length - size ? mr : NULL;
    return NULL;
}

/* The memory that a remote key opens for what comes through a queue pair, or NULL. */
static fake_mr *find_remote(const fake_qp *qp, const struct ibv_send_wr *wr, uint64_t size, unsigned right)
{
    fake_mr *mr = find_mr(qp->base.pd, wr->wr.rdma.rkey, true, wr->wr.rdma.remote_addr, size);
    if (mr != NULL)
        return (mr->access & right) != 0 ? mr : NULL;
    return fake_window_reached(qp, wr->wr.rdma.rkey, wr->wr.rdma.remote_addr, size, right);
}

static uint8_t *place_of(const fake_mr *mr, uint64_t address)
{
    return (uint8_t *)mr->base.addr + (address - mr->iova);
}

/* Whether all local segments may be read, or written. */
static bool locals_allow(const fake_qp *qp, const struct ibv_sge *sges, int count, bool write)
{
    for (int index = 0; index < count; index++) {
        const fake_mr *mr = find_mr(qp->base.pd, sges[index].lkey, false, sges[index].addr, sges[index].length);
        if (mr == NULL || (write && (mr->access & IBV_ACCESS_LOCAL_WRITE) == 0))
            return false;
    }
    return true;
}

/* An aligned word is placed whole, as devices do. */
static void place(void *to, const void *from, uint64_t size)
{
    uint64_t word;
    if (size != sizeof word || (uintptr_t)to % sizeof word != 0) {
        memcpy(to, from, size);
        return;
    }
    memcpy(&word, from, sizeof word);
    __atomic_store_n((uint64_t *)to, word, __ATOMIC_RELEASE);
}

/* One byte range of a request's local side, which may span segments. */
static void copy_local(const fake_qp *qp, const fake_wr *send, uint64_t offset, uint8_t *other, uint64_t size, bool into_local)
{
    if ((send->wr.send_flags & IBV_SEND_INLINE) != 0) {
        place(other, send->inlined + offset, size);
        return;
    }
    uint64_t start = 0;
    for (int index = 0; index < send->wr.num_sge && size > 0; index++) {
        const struct ibv_sge *sge = &send->sges[index];
        if (offset < start + sge->length) {
            uint64_t within = offset - start;
            uint64_t part = sge->length - within < size ? sge->length - within : size;
            uint8_t *local = place_of(find_mr(qp->base.pd, sge->lkey, false, sge->addr, sge->length), sge->addr) + within;
            if (into_local)
                place(local, other, part);
            else
                place(other, local, part);
            offset += part;
            other += part;
            size -= part;
        }
        start += sge->length;
    }
}

/* ---- execution ---- */

static fake_qp *peer_of(const fake_qp *qp)
{
    const struct ibv_ah_attr *route = &qp->attr.ah_attr;
    for (fake_qp *peer = fake.qps; peer != NULL; peer = peer->next) {
        if (peer->base.qp_num != qp->attr.dest_qp_num || peer->attr.port_num == 0)
            continue;
        uint32_t port = peer->attr.port_num - 1u;
        if (!route->is_global && route->dlid == peer->device->ports[port].lid)
            return peer;
        for (int index = 0; route->is_global && index < FAKE_GIDS; index++)
            if (memcmp(&peer->device->gids[port][index].gid, &route->grh.dgid, sizeof route->grh.dgid) == 0)
                return peer;
    }
    return NULL;
}

/* Whether the two ends were joined with each other's numbers. */
static bool is_joined(const fake_qp *qp, const fake_qp *peer)
{
    if (peer == NULL)
        return false;
    uint16_t own = qp->device->pkeys[qp->attr.pkey_index], other = peer->device->pkeys[peer->attr.pkey_index];
    bool hears = ((own ^ other) & 0x7fff) == 0 && ((own | other) & 0x8000) != 0;
    return hears && (peer->base.state == IBV_QPS_RTR || peer->base.state == IBV_QPS_RTS) &&
           peer->attr.dest_qp_num == qp->base.qp_num && peer->receive_psn == qp->send_psn &&
           qp->attr.path_mtu == peer->attr.path_mtu;
}

static void fail_peer(fake_qp *peer, enum ibv_event_type type)
{
    struct ibv_async_event event = {.element.qp = &peer->base, .event_type = type};
    fake_event_raise(fake_context_of(peer->base.context), &event);
    peer->base.state = peer->attr.qp_state = IBV_QPS_ERR;
}

/* Moves the next part of a WRITE or READ. True when all is moved. */
static bool move_part(const fake_qp *qp, fake_wr *send, uint8_t *remote, bool read)
{
    uint64_t left = send->size - send->moved, part = left;
    if (!read && fake.plan.chunk != 0 && fake.plan.chunk < left)
        part = fake.plan.chunk;
    uint64_t offset = fake.plan.descending && !read ? left - part : send->moved;
    if (part != 0)
        copy_local(qp, send, offset, remote + offset, part, read);
    send->moved += part;
    return send->moved == send->size;
}

static int use_receive(fake_qp *qp, fake_qp *peer, fake_wr *send)
{
    if (peer->receives_posted == peer->receives_used) {
        uint32_t tries = RNR_TRIES * (uint32_t)qp->attr.rnr_retry * (qp->device->overtakes != 0 ? 1000 : 1);
        if (qp->rnr_tries++ < tries)
            return NOT_YET;
        return IBV_WC_RNR_RETRY_EXC_ERR;
    }
    fake_rr *receive = &peer->receives[peer->receives_used++ % peer->cap.max_recv_wr];
    uint32_t status = IBV_WC_SUCCESS;
    qp->rnr_tries = 0;
    if (send->wr.opcode == IBV_WR_SEND) {
        if (!locals_allow(peer, &receive->sge, receive->sge_count, true))
            status = IBV_WC_LOC_PROT_ERR;
        else if (send->size > (receive->sge_count != 0 ? receive->sge.length : 0))
            status = IBV_WC_LOC_LEN_ERR;
        else if (send->size != 0)
            copy_local(qp, send, 0,
                       place_of(find_mr(peer->base.pd, receive->sge.lkey, false, receive->sge.addr, send->size),
                                receive->sge.addr),
                       send->size, false);
    }
    if (fake.plan.receive_nth != 0 && --fake.plan.receive_nth == 0)
        status = fake.plan.receive_status;
    complete_receive(peer, receive, status, send);
    if (status == IBV_WC_SUCCESS)
        return IBV_WC_SUCCESS;
    peer->base.state = peer->attr.qp_state = IBV_QPS_ERR;
    return status == IBV_WC_LOC_LEN_ERR ? IBV_WC_REM_INV_REQ_ERR : IBV_WC_REM_OP_ERR;
}

static int execute(fake_qp *qp, fake_wr *send)
{
    bool read = send->wr.opcode == IBV_WR_RDMA_READ, inlined = (send->wr.send_flags & IBV_SEND_INLINE) != 0;
    if (send->delay > 0) {
        send->delay--;
        return NOT_YET;
    }
    if (send->late > 0)
        return NOT_YET;
    if (send->moved == 0 && fake.plan.complete_nth != 0 && --fake.plan.complete_nth == 0)
        return (int)fake.plan.complete_status;
    if (send->wr.opcode == IBV_WR_BIND_MW)
        return fake_bind(qp, &send->wr);
    if (!inlined && !locals_allow(qp, send->sges, send->wr.num_sge, read))
        return IBV_WC_LOC_PROT_ERR;
    if (send->size > qp->device->ports[qp->attr.port_num - 1].max_msg_sz)
        return IBV_WC_LOC_LEN_ERR;
    fake_qp *peer = peer_of(qp);
    if (!is_joined(qp, peer))
        return IBV_WC_RETRY_EXC_ERR;
    if (send->wr.opcode == IBV_WR_SEND)
        return use_receive(qp, peer, send);
    unsigned right = read ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE;
    const fake_mr *mr = find_remote(peer, &send->wr, send->size, right);
    if (mr == NULL || (peer->attr.qp_access_flags & right) == 0) {
        fail_peer(peer, IBV_EVENT_QP_ACCESS_ERR);
        return IBV_WC_REM_ACCESS_ERR;
    }
    if (read && (qp->attr.max_rd_atomic == 0 || peer->attr.max_dest_rd_atomic < qp->attr.max_rd_atomic))
        return IBV_WC_REM_INV_REQ_ERR;
    if (send->moved != send->size && !move_part(qp, send, place_of(mr, send->wr.wr.rdma.remote_addr), read))
        return NOT_YET;
    return send->wr.opcode == IBV_WR_RDMA_WRITE_WITH_IMM ? use_receive(qp, peer, send) : IBV_WC_SUCCESS;
}

/* ---- overtaking ---- */

/* Places the WRITEs that are due among those that wait, up to the first request that waits for all before it. */
static uint32_t overtake(fake_qp *qp)
{
    uint32_t count = 0;
    for (uint32_t at = qp->executed; at != qp->posted; at++) {
        fake_wr *send = &qp->sends[at % qp->cap.max_send_wr];
        const fake_qp *peer = peer_of(qp);
        if (send->wr.opcode != IBV_WR_RDMA_WRITE)
            break;
        if (send->late > 0) {
            send->late--;
            count++;
            continue;
        }
        bool inlined = (send->wr.send_flags & IBV_SEND_INLINE) != 0;
        if (at == qp->executed || send->moved != 0 || send->delay > 0 || !is_joined(qp, peer) ||
            !(inlined || locals_allow(qp, send->sges, send->wr.num_sge, false)))
            continue;
        const fake_mr *mr = find_remote(peer, &send->wr, send->size, IBV_ACCESS_REMOTE_WRITE);
        if (mr != NULL) /* else it fails when it is its turn */
            move_part(qp, send, place_of(mr, send->wr.wr.rdma.remote_addr), false);
    }
    return count;
}

static uint32_t flush(fake_qp *qp)
{
    uint32_t count = 0;
    for (; qp->executed != qp->posted; qp->executed++, count++)
        complete_send(qp, &qp->sends[qp->executed % qp->cap.max_send_wr], qp->executed, IBV_WC_WR_FLUSH_ERR, 0);
    for (; qp->receives_used != qp->receives_posted; qp->receives_used++, count++)
        complete_receive(qp, &qp->receives[qp->receives_used % qp->cap.max_recv_wr], IBV_WC_WR_FLUSH_ERR, NULL);
    return count;
}

static uint32_t step_qp(fake_qp *qp)
{
    if (fake_context_of(qp->base.context)->severed)
        return 0;
    uint32_t count = qp->device->overtakes != 0 && qp->base.state == IBV_QPS_RTS ? overtake(qp) : 0;
    while (qp->base.state == IBV_QPS_RTS && qp->executed != qp->posted) {
        fake_wr *send = &qp->sends[qp->executed % qp->cap.max_send_wr];
        int status = execute(qp, send);
        if (status == NOT_YET)
            return count;
        complete_send(qp, send, qp->executed, (uint32_t)status, status != IBV_WC_SUCCESS ? fake.plan.complete_vendor : 0);
        qp->executed++;
        count++;
        if (status != IBV_WC_SUCCESS) {
            qp->base.state = qp->attr.qp_state = IBV_QPS_ERR;
        } else {
            fake_qp *peer = peer_of(qp);
            qp->send_psn = (qp->send_psn + 1) & 0xffffff;
            if (peer != NULL)
                peer->receive_psn = qp->send_psn;
        }
    }
    return qp->base.state == IBV_QPS_ERR ? count + flush(qp) : count;
}

/* The requests of devices that overtake are moved by the thread alone, so that they stay late for a time that threads which
 * poll do not shorten. It moves no others unless it is the engine. */
static uint32_t step(bool ordered, bool overtaking)
{
    uint32_t count = 0;
    for (fake_qp *qp = fake.qps; qp != NULL; qp = qp->next)
        count += (qp->device->overtakes == 0 ? ordered : overtaking) ? step_qp(qp) : 0;
    return count;
}

static bool any_overtakes(void)
{
    bool any = false;
    for (int number = 0; number < FAKE_DEVICES_MAX; number++)
        any = any || fake.devices[number].overtakes != 0;
    return any;
}

FAKE_API uint32_t fake_step(void)
{
    pthread_mutex_lock(&fake.lock);
    uint32_t count = step(true, true);
    pthread_mutex_unlock(&fake.lock);
    return count;
}

static void *run(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&fake.lock);
    while (!fake.thread_stops) {
        if (step(fake.engine == FAKE_ENGINE_THREAD, true) == 0) {
            pthread_cond_wait(&fake.work, &fake.lock);
        } else if (any_overtakes()) {
            struct timespec soon;
            clock_gettime(CLOCK_REALTIME, &soon);
            soon.tv_nsec = (soon.tv_nsec + STEP_NS) % 1000000000;
            soon.tv_sec += soon.tv_nsec < STEP_NS;
            pthread_cond_timedwait(&fake.pause, &fake.lock, &soon); /* meanwhile the late ones are late */
        }
    }
    pthread_mutex_unlock(&fake.lock);
    return NULL;
}

__attribute__((destructor)) static void stop_thread(void)
{
    if (!fake.thread_runs)
        return;
    pthread_mutex_lock(&fake.lock);
    fake.thread_stops = true;
    pthread_cond_signal(&fake.work);
    pthread_mutex_unlock(&fake.lock);
    pthread_join(fake.thread, NULL);
}

/* Something was posted or polled: gives the engine its turn. In poll mode sleepers are served at once. */
void fake_give_turn(bool polled)
{
    bool armed = false;
    for (const fake_cq *cq = fake.cqs; cq != NULL; cq = cq->next)
        armed = armed || cq->armed;
    if (fake.engine == FAKE_ENGINE_POLL && (polled || armed))
        step(true, false);
    if (fake.engine != FAKE_ENGINE_THREAD && !any_overtakes())
        return;
    if (!fake.thread_runs)
        fake.thread_runs = pthread_create(&fake.thread, NULL, run, NULL) == 0;
    pthread_cond_signal(&fake.work);
}

#endif
