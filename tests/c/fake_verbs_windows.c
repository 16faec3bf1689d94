/* fake_verbs_windows.c: memory windows of type 2B, as soft-RoCE has them: bound by a work request, valid through the queue pair
 * that bound them and no other, until they are freed. */
#if __has_include(<infiniband/verbs.h>)

#include "fake_verbs.h"

#include <stdlib.h>

enum { KEY_BITS = 0xff }; /* of a window's key are the binder's to choose */

static fake_mw *mw_of(struct ibv_mw *mw)
{
    return (fake_mw *)(void *)mw;
}

struct ibv_mw *fake_alloc_mw(struct ibv_pd *pd, enum ibv_mw_type type)
{
    ENTER();
    int error = fake_fails("ibv_alloc_mw");
    if (error == 0 && type != IBV_MW_TYPE_2)
        error = EINVAL;
    if (error == 0 && fake_context_of(pd->context)->device->windows_refused)
        error = EOPNOTSUPP;
    fake_mw *mw = error == 0 ? calloc(1, sizeof *mw) : NULL;
    if (mw == NULL)
        LEAVE_NULL(error != 0 ? error : ENOMEM);
    fake_device *device = fake_context_of(pd->context)->device;
    mw->base = (struct ibv_mw){.context = pd->context, .pd = pd, .rkey = device->next_key ^ 0x5a000000u, .type = type};
    mw->key = mw->base.rkey;
    device->next_key += 0x100;
    mw->next = fake.mws;
    fake.mws = mw;
    ((fake_pd *)(void *)pd)->children++;
    fake_acquired();
    LEAVE(&mw->base);
}

int fake_dealloc_mw(struct ibv_mw *base)
{
    ENTER();
    fake_mw *mw = mw_of(base), **at = &fake.mws;
    while (*at != mw)
        at = &(*at)->next;
    *at = mw->next;
    ((fake_pd *)(void *)base->pd)->children--;
    free(mw);
    fake_released();
    LEAVE(0);
}

int fake_bind_refused(const fake_qp *qp, const struct ibv_send_wr *wr)
{
    const struct ibv_mw *mw = wr->bind_mw.mw;
    const struct ibv_mr *mr = wr->bind_mw.bind_info.mr;
    return mw->type != IBV_MW_TYPE_2 || mr->pd != mw->pd || qp->base.pd != mw->pd || wr->num_sge != 0 ? EINVAL : 0;
}

static bool is_alive(const struct ibv_mw *base)
{
    for (const fake_mw *mw = fake.mws; mw != NULL; mw = mw->next)
        if (&mw->base == base)
            return true;
    return false;
}

int fake_bind(fake_qp *qp, const struct ibv_send_wr *wr)
{
    const struct ibv_mw_bind_info *info = &wr->bind_mw.bind_info;
    const unsigned writing = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;
    fake_mr *mr = (fake_mr *)(void *)info->mr;
    if (!is_alive(wr->bind_mw.mw))
        return IBV_WC_MW_BIND_ERR;
    fake_mw *mw = mw_of(wr->bind_mw.mw);
    bool inside = info->length != 0 && info->addr >= mr->iova && info->length <= mr->base.length &&
                  info->addr - mr->iova <= mr->base.length - info->length;
    bool key_is_new = ((wr->bind_mw.rkey ^ mw->key) & ~(uint32_t)KEY_BITS) == 0 && wr->bind_mw.rkey != mw->key;
    if (mw->mr != NULL || !inside || !key_is_new || (mr->access & IBV_ACCESS_MW_BIND) == 0 ||
        ((info->mw_access_flags & writing) != 0 && (mr->access & IBV_ACCESS_LOCAL_WRITE) == 0))
        return IBV_WC_MW_BIND_ERR;
    mw->mr = mr;
    mw->qp = qp;
    mw->address = info->addr;
    mw->length = info->length;
    mw->access = info->mw_access_flags;
    mw->key = wr->bind_mw.rkey;
    return IBV_WC_SUCCESS;
}

fake_mr *fake_window_reached(const fake_qp *qp, uint32_t key, uint64_t address, uint64_t size, unsigned right)
{
    for (fake_mw *mw = fake.mws; mw != NULL; mw = mw->next) {
        if (mw->mr == NULL || mw->key != key || mw->base.pd != qp->base.pd)
            continue;
        bool inside = address >= mw->address && size <= mw->length && address - mw->address <= mw->length - size;
        return mw->qp == qp && inside && (mw->access & right) != 0 ? mw->mr : NULL;
    }
    return NULL;
}

bool fake_windows_use(const fake_mr *mr, const fake_qp *qp)
{
    for (const fake_mw *mw = fake.mws; mw != NULL; mw = mw->next)
        if (mw->mr != NULL && (mw->mr == mr || mw->qp == qp))
            return true;
    return false;
}

#endif
