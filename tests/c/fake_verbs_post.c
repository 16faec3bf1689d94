/* fake_verbs_post.c: the operations behind the header's inlines: posting and polling. */
#if __has_include(<infiniband/verbs.h>)

#include "fake_verbs.h"

#include <errno.h>
#include <string.h>

/* How many steps late a WRITE is placed: most large ones are, few small ones. */
static uint32_t lateness_draw(fake_device *device, uint64_t size)
{
    device->overtakes = device->overtakes * 1664525u + 1013904223u;
    uint32_t drawn = device->overtakes >> 16;
    device->overtakes += device->overtakes == 0;
    return size > 64 ? drawn % 4 : drawn % 8 == 0;
}

static int refuse(const fake_qp *qp, const struct ibv_send_wr *wr, uint64_t *size_out)
{
    uint64_t size = 0;
    if (fake_context_of(qp->base.context)->severed)
        return EIO;
    if (wr->num_sge > (int)qp->cap.max_send_sge || qp->base.state == IBV_QPS_RESET || qp->base.state == IBV_QPS_INIT ||
        qp->base.state == IBV_QPS_RTR)
        return EINVAL;
    for (int index = 0; index < wr->num_sge; index++)
        size += wr->sg_list[index].length;
    if ((wr->send_flags & IBV_SEND_INLINE) != 0 && (size > qp->cap.max_inline_data || wr->opcode == IBV_WR_RDMA_READ))
        return EINVAL;
    *size_out = size;
    if (wr->opcode == IBV_WR_BIND_MW && fake_bind_refused(qp, wr) != 0)
        return fake_bind_refused(qp, wr);
    return qp->posted - qp->released == qp->cap.max_send_wr ? ENOMEM : 0;
}

static int take_send(fake_qp *qp, const struct ibv_send_wr *wr)
{
    uint64_t size, used = 0;
    if (fake.plan.accept_limited && fake.plan.accept-- == 0) {
        fake.plan.accept_limited = false;
        return fake.plan.accept_error;
    }
    int error = refuse(qp, wr, &size);
    if (error != 0)
        return error;
    fake_wr *send = &qp->sends[qp->posted++ % qp->cap.max_send_wr];
    send->wr = *wr;
    send->wr.next = NULL;
    send->wr.sg_list = send->sges;
    send->size = size;
    send->moved = 0;
    send->delay = fake.plan.delay;
    send->late = qp->device->overtakes != 0 && wr->opcode == IBV_WR_RDMA_WRITE ? lateness_draw(qp->device, size) : 0;
    for (int index = 0; index < wr->num_sge; index++) {
        send->sges[index] = wr->sg_list[index];
        if ((wr->send_flags & IBV_SEND_INLINE) == 0)
            continue;
        memcpy(send->inlined + used, (const void *)(uintptr_t)wr->sg_list[index].addr, wr->sg_list[index].length);
        used += wr->sg_list[index].length;
    }
    return 0;
}

int fake_post_send(struct ibv_qp *base, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
    int error = 0;
    pthread_mutex_lock(&fake.lock);
    fake.doorbells++;
    for (; wr != NULL && error == 0; wr = error == 0 ? wr->next : wr)
        error = take_send(qp_of(base), wr);
    if (error != 0)
        *bad = wr;
    fake.plan.accept_limited = false;
    fake_give_turn(false);
    pthread_mutex_unlock(&fake.lock);
    return error;
}

int fake_post_recv(struct ibv_qp *base, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
    fake_qp *qp = qp_of(base);
    int error = 0;
    pthread_mutex_lock(&fake.lock);
    for (; wr != NULL; wr = wr->next) {
        if (qp->base.state == IBV_QPS_RESET || wr->num_sge > 1)
            error = EINVAL;
        else if (qp->receives_posted - qp->receives_used == qp->cap.max_recv_wr)
            error = ENOMEM;
        if (fake.plan.accept_limited && error == 0 && fake.plan.accept-- == 0)
            error = fake.plan.accept_error;
        if (error != 0)
            break;
        fake_rr *receive = &qp->receives[qp->receives_posted++ % qp->cap.max_recv_wr];
        *receive = (fake_rr){.wr_id = wr->wr_id, .sge_count = wr->num_sge};
        if (wr->num_sge == 1)
            receive->sge = wr->sg_list[0];
    }
    if (error != 0)
        *bad = wr;
    fake.plan.accept_limited = false;
    fake_give_turn(false);
    pthread_mutex_unlock(&fake.lock);
    return error;
}

int fake_poll_cq(struct ibv_cq *base, int count, struct ibv_wc *wc)
{
    fake_cq *cq = cq_of(base);
    int taken = 0;
    pthread_mutex_lock(&fake.lock);
    fake_give_turn(true);
    for (; taken < count && cq->tail != cq->head; taken++) {
        fake_entry *entry = &cq->entries[cq->tail++ % cq->capacity];
        wc[taken] = entry->wc;
        if (entry->qp != NULL)
            entry->qp->released = entry->position + 1;
    }
    if ((cq->dead && taken == 0) || fake.plan.poll_error != 0)
        taken = -1;
    pthread_mutex_unlock(&fake.lock);
    return taken;
}

int fake_req_notify_cq(struct ibv_cq *base, int solicited_only)
{
    pthread_mutex_lock(&fake.lock);
    fake_give_turn(true);
    cq_of(base)->armed = solicited_only == 0;
    pthread_mutex_unlock(&fake.lock);
    return 0;
}

#endif
