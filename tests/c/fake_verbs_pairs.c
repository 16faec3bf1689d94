/* fake_verbs_pairs.c: the exported calls for queue pairs: creating, the transitions of their states, destroying. */
#if __has_include(<infiniband/verbs.h>)

#include "fake_verbs.h"

#include <stdlib.h>

FAKE_API int ibv_query_qp_data_in_order(struct ibv_qp *qp, enum ibv_wr_opcode opcode, uint32_t flags)
{
    return ((fake_qp *)(void *)qp)->device->in_order && opcode == IBV_WR_RDMA_WRITE && flags == 0;
}

static int check_caps(const fake_device *device, const struct ibv_qp_cap *cap)
{
    bool fits = cap->max_send_wr <= (uint32_t)device->attr.max_qp_wr && cap->max_recv_wr <= (uint32_t)device->attr.max_qp_wr &&
                cap->max_send_sge <= (uint32_t)device->attr.max_sge && cap->max_send_sge <= FAKE_SEGMENTS &&
                cap->max_recv_sge == 1 && cap->max_inline_data <= device->inline_max;
    return fits ? 0 : EINVAL;
}

FAKE_API struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
    ENTER();
    fake_device *device = fake_context_of(pd->context)->device;
    int error = fake_fails("ibv_create_qp");
    if (error == 0)
        error = attr->qp_type != IBV_QPT_RC ? EOPNOTSUPP : check_caps(device, &attr->cap);
    fake_qp *qp = error == 0 ? calloc(1, sizeof *qp) : NULL;
    if (qp == NULL)
        LEAVE_NULL(error != 0 ? error : ENOMEM);
    if (attr->cap.max_inline_data < device->inline_given)
        attr->cap.max_inline_data = device->inline_given;
    qp->base = (struct ibv_qp){.context = pd->context,
                               .qp_context = attr->qp_context,
                               .pd = pd,
                               .send_cq = attr->send_cq,
                               .recv_cq = attr->recv_cq,
                               .qp_num = device->next_qpn,
                               .state = IBV_QPS_RESET,
                               .qp_type = attr->qp_type};
    device->next_qpn += 3;
    qp->device = device;
    qp->cap = attr->cap;
    qp->sends = calloc(qp->cap.max_send_wr, sizeof *qp->sends);
    qp->receives = calloc(qp->cap.max_recv_wr, sizeof *qp->receives);
    qp->next = fake.qps;
    fake.qps = qp;
    ((fake_pd *)(void *)pd)->children++;
    ((fake_cq *)(void *)attr->send_cq)->children++;
    ((fake_cq *)(void *)attr->recv_cq)->children++;
    fake_acquired();
    LEAVE(&qp->base);
}

FAKE_API int ibv_destroy_qp(struct ibv_qp *base)
{
    ENTER();
    fake_qp *qp = (fake_qp *)(void *)base, **at = &fake.qps;
    int error = fake_fails("ibv_destroy_qp");
    int severed = fake_severed(base->context);
    if (error != 0)
        LEAVE(error);
    if (fake_windows_use(NULL, qp))
        fake_violation("a queue pair is destroyed that has bound windows: soft-RoCE would wait for them");
    if (qp->unacknowledged != 0)
        fake_violation("a queue pair is destroyed whose events were not acknowledged: the real call would wait for ever");
    while (*at != qp)
        at = &(*at)->next;
    *at = qp->next;
    fake_event_purge(fake_context_of(base->context), base);
    fake_qp_forget(qp);
    ((fake_pd *)(void *)base->pd)->children--;
    ((fake_cq *)(void *)base->send_cq)->children--;
    ((fake_cq *)(void *)base->recv_cq)->children--;
    free(qp->sends);
    free(qp->receives);
    free(qp);
    fake_released();
    LEAVE(severed);
}

/* The attributes that each transition of an RC queue pair must name; the driver refuses others. */
static int transition(fake_qp *qp, const struct ibv_qp_attr *attr, int mask)
{
    const int init = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
    const int rtr = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
                    IBV_QP_MIN_RNR_TIMER;
    const int rts = IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC;
    enum ibv_qp_state from = qp->base.state;
    struct ibv_qp_attr *now = &qp->attr;
    if (attr->qp_state == IBV_QPS_INIT && from == IBV_QPS_RESET && mask == init) {
        now->port_num = attr->port_num;
        now->pkey_index = attr->pkey_index;
        now->qp_access_flags = attr->qp_access_flags;
    } else if (attr->qp_state == IBV_QPS_RTR && from == IBV_QPS_INIT && mask == rtr) {
        bool ethernet = qp->device->ports[now->port_num - 1].link_layer == IBV_LINK_LAYER_ETHERNET;
        if (attr->path_mtu > qp->device->ports[now->port_num - 1].active_mtu || (ethernet && !attr->ah_attr.is_global))
            return EINVAL;
        now->ah_attr = attr->ah_attr;
        now->path_mtu = attr->path_mtu;
        now->dest_qp_num = attr->dest_qp_num;
        now->rq_psn = qp->receive_psn = attr->rq_psn;
        now->max_dest_rd_atomic = attr->max_dest_rd_atomic;
        now->min_rnr_timer = attr->min_rnr_timer;
    } else if (attr->qp_state == IBV_QPS_RTS && from == IBV_QPS_RTR && mask == rts) {
        now->timeout = attr->timeout;
        now->retry_cnt = attr->retry_cnt;
        now->rnr_retry = attr->rnr_retry;
        now->sq_psn = qp->send_psn = attr->sq_psn;
        now->max_rd_atomic = attr->max_rd_atomic;
    } else if (attr->qp_state != IBV_QPS_ERR) {
        return EINVAL;
    }
    now->qp_state = qp->base.state = attr->qp_state;
    return 0;
}

FAKE_API int ibv_modify_qp(struct ibv_qp *base, struct ibv_qp_attr *attr, int mask)
{
    ENTER();
    int error = fake_fails(attr->qp_state == IBV_QPS_ERR ? "modify_to_err" : "ibv_modify_qp");
    if (error == 0 && fake_context_of(base->context)->severed)
        error = EIO;
    LEAVE(error != 0 ? error : transition((fake_qp *)(void *)base, attr, mask));
}

#endif
