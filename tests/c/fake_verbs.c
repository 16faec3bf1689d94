/* fake_verbs.c: the calls that libibverbs exports, over devices that are only memory. fake_verbs.h says what the fake is.
 *
 * They keep the library's conventions: NULL with errno, positive errno, -1 with errno. An act that a real library or driver
 * would punish (destroying an object in use, waiting for events that nobody acknowledged) is counted as a violation. */
#if __has_include(<infiniband/verbs.h>)

#include "fake_verbs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- devices ---- */

FAKE_API int ibv_fork_init(void)
{
    ENTER();
    int error = fake_fails("ibv_fork_init");
    LEAVE(error != 0 ? error : fake.fork_error);
}

FAKE_API struct ibv_device **ibv_get_device_list(int *count_out)
{
    ENTER();
    int error = fake_fails("ibv_get_device_list");
    if (error != 0 || fake.list_error != 0)
        LEAVE_NULL(error != 0 ? error : fake.list_error);
    struct ibv_device **list = calloc((size_t)fake.device_count + 1, sizeof *list);
    if (list == NULL)
        LEAVE_NULL(ENOMEM);
    for (int index = 0; index < fake.device_count; index++)
        list[index] = &fake.devices[index].base;
    if (count_out != NULL)
        *count_out = fake.device_count;
    fake_acquired();
    LEAVE(list);
}

FAKE_API void ibv_free_device_list(struct ibv_device **list)
{
    ENTER();
    free(list);
    fake_released();
    pthread_mutex_unlock(&fake.lock);
}

FAKE_API const char *ibv_get_device_name(struct ibv_device *device)
{
    return device->name;
}

static void fill_port(const fake_device *device, uint8_t port, struct ibv_port_attr *attr_out, size_t size)
{
    memcpy(attr_out, &device->ports[port - 1], size < sizeof *attr_out ? size : sizeof *attr_out);
}

static int query_port_extended(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attr_out, size_t size)
{
    ENTER();
    int error = fake_fails("ibv_query_port");
    if (error == 0)
        fill_port(fake_context_of(context)->device, port, attr_out, size);
    LEAVE(error);
}

FAKE_API int ibv_query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *attr_out)
{
    /* a context of before: all but the last members */
    ENTER();
    int error = fake_fails("ibv_query_port");
    if (error == 0)
        fill_port(fake_context_of(context)->device, port, (struct ibv_port_attr *)(void *)attr_out,
                  offsetof(struct ibv_port_attr, port_cap_flags2));
    LEAVE(error);
}

FAKE_API struct ibv_context *ibv_open_device(struct ibv_device *base)
{
    ENTER();
    int error = fake_fails("ibv_open_device"), ends[2];
    if (error != 0)
        LEAVE_NULL(error);
    fake_context *context = calloc(1, sizeof *context);
    if (context == NULL || pipe2(ends, O_CLOEXEC) != 0) {
        free(context);
        LEAVE_NULL(ENOMEM);
    }
    context->device = (fake_device *)(void *)base;
    context->event_write = ends[1];
    struct verbs_context *extended = &context->extended;
    extended->sz = sizeof *extended;
    extended->query_port = query_port_extended;
    extended->context.device = base;
    extended->context.abi_compat = context->device->plain ? NULL : __VERBS_ABI_IS_EXTENDED;
    extended->context.async_fd = ends[0];
    extended->context.cmd_fd = -1;
    extended->context.num_comp_vectors = 2;
    extended->context.ops.post_send = fake_post_send;
    extended->context.ops.post_recv = fake_post_recv;
    extended->context.ops.alloc_mw = fake_alloc_mw;
    extended->context.ops.dealloc_mw = fake_dealloc_mw;
    extended->context.ops.poll_cq = fake_poll_cq;
    extended->context.ops.req_notify_cq = fake_req_notify_cq;
    context->next = fake.contexts;
    fake.contexts = context;
    fake_acquired();
    LEAVE(&extended->context);
}

FAKE_API int ibv_close_device(struct ibv_context *base)
{
    ENTER();
    fake_context *context = fake_context_of(base), **at = &fake.contexts;
    if (context->children != 0)
        fake_violation("a context is closed that has objects");
    while (*at != context)
        at = &(*at)->next;
    *at = context->next;
    close(base->async_fd);
    if (!context->severed)
        close(context->event_write);
    free(context);
    fake_released();
    LEAVE(0);
}

FAKE_API int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr_out)
{
    ENTER();
    int error = fake_fails("ibv_query_device");
    if (error == 0)
        *attr_out = fake_context_of(context)->device->attr;
    LEAVE(error);
}

FAKE_API int ibv_query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid_out)
{
    ENTER();
    int error = fake_fails("ibv_query_gid");
    if (error == 0)
        *gid_out = fake_context_of(context)->device->gids[port - 1][index].gid;
    else
        errno = error;
    LEAVE(error != 0 ? -1 : 0);
}

FAKE_API int ibv_query_pkey(struct ibv_context *context, uint8_t port, int index, __be16 *pkey_out)
{
    ENTER();
    int error = fake_fails("ibv_query_pkey");
    (void)port;
    if (error == 0)
        *pkey_out = htons(fake_context_of(context)->device->pkeys[index]);
    else
        errno = error;
    LEAVE(error != 0 ? -1 : 0);
}

FAKE_API int _ibv_query_gid_ex(struct ibv_context *context, uint32_t port, uint32_t index, struct ibv_gid_entry *entry_out,
                               uint32_t flags, size_t size)
{
    static const union ibv_gid empty;
    ENTER();
    int error = fake_fails("ibv_query_gid");
    if (flags != 0 || size != sizeof *entry_out || index >= FAKE_GIDS)
        LEAVE(EINVAL);
    const fake_gid *gid = &fake_context_of(context)->device->gids[port - 1][index];
    if (error == 0 && memcmp(&gid->gid, &empty, sizeof empty) == 0)
        error = ENODATA;
    if (error == 0)
        *entry_out = (struct ibv_gid_entry){.gid = gid->gid, .gid_index = index, .port_num = port, .gid_type = gid->type};
    LEAVE(error);
}

FAKE_API enum ibv_fork_status ibv_is_fork_initialized(void)
{
    return fake.fork_status;
}

/* ---- events ---- */

FAKE_API int ibv_get_async_event(struct ibv_context *base, struct ibv_async_event *event_out)
{
    char byte;
    if (read(base->async_fd, &byte, 1) != 1)
        return -1;
    ENTER();
    fake_context *context = fake_context_of(base);
    *event_out = context->events[0];
    context->event_count--;
    memmove(context->events, context->events + 1, context->event_count * sizeof context->events[0]);
    for (fake_qp *qp = fake.qps; qp != NULL; qp = qp->next)
        if (&qp->base == event_out->element.qp)
            qp->unacknowledged++;
    LEAVE(0);
}

FAKE_API void ibv_ack_async_event(struct ibv_async_event *event)
{
    ENTER();
    fake.acknowledged++;
    for (fake_qp *qp = fake.qps; qp != NULL; qp = qp->next)
        if (&qp->base == event->element.qp)
            qp->unacknowledged--;
    pthread_mutex_unlock(&fake.lock);
}

FAKE_API const char *ibv_event_type_str(enum ibv_event_type type)
{
    return type == IBV_EVENT_PKEY_CHANGE ? "P_Key table change" : "some event";
}

/* ---- protection domains and memory ---- */

FAKE_API struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
    ENTER();
    int error = fake_fails("ibv_alloc_pd");
    fake_pd *pd = error == 0 ? calloc(1, sizeof *pd) : NULL;
    if (pd == NULL)
        LEAVE_NULL(error != 0 ? error : ENOMEM);
    pd->base.context = context;
    fake_context_of(context)->children++;
    fake_acquired();
    LEAVE(&pd->base);
}

FAKE_API int ibv_dealloc_pd(struct ibv_pd *base)
{
    fake_pd *pd = (fake_pd *)(void *)base;
    ENTER();
    if (pd->children != 0) {
        fake_violation("a protection domain is freed that is in use");
        LEAVE(EBUSY);
    }
    fake_context_of(base->context)->children--;
    free(pd);
    fake_released();
    LEAVE(0);
}

/* Whether all pages may be accessed so, as pinning them checks. */
static bool pages_allow(const void *address, size_t size, bool write)
{
    unsigned long start, stop, from = (unsigned long)address;
    const unsigned long end = from + size;
    char line[512], rights[5];
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps != NULL && from < end && fgets(line, sizeof line, maps) != NULL)
        if (sscanf(line, "%lx-%lx %4s", &start, &stop, rights) == 3 && start <= from && from < stop && rights[0] == 'r' &&
            (!write || rights[1] == 'w'))
            from = stop;
    if (maps != NULL)
        fclose(maps);
    return maps == NULL || from >= end;
}

static struct ibv_mr *register_memory(struct ibv_pd *pd, void *address, size_t size, uint64_t iova, unsigned access)
{
    ENTER();
    int error = fake_fails("ibv_reg_mr");
    if (error == 0 && (access & (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)) != 0 &&
        (access & IBV_ACCESS_LOCAL_WRITE) == 0)
        error = EINVAL;
    if (error == 0 && !pages_allow(address, size, (access & IBV_ACCESS_LOCAL_WRITE) != 0))
        error = EFAULT;
    fake_mr *mr = error == 0 ? calloc(1, sizeof *mr) : NULL;
    if (mr == NULL)
        LEAVE_NULL(error != 0 ? error : ENOMEM);
    fake_device *device = fake_context_of(pd->context)->device;
    uint32_t key = device->next_key;
    device->next_key += 0x100;
    mr->base = (struct ibv_mr){
        .context = pd->context, .pd = pd, .addr = address, .length = size, .handle = key, .lkey = key, .rkey = key ^ 0xa5000000u};
    mr->iova = iova;
    mr->access = access;
    mr->next = fake.mrs;
    fake.mrs = mr;
    ((fake_pd *)(void *)pd)->children++;
    fake_acquired();
    LEAVE(&mr->base);
}

FAKE_API struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *address, size_t size, int access)
{
    return register_memory(pd, address, size, (uintptr_t)address, (unsigned)access);
}

FAKE_API struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *address, size_t size, uint64_t iova, unsigned access)
{
    return register_memory(pd, address, size, iova, access);
}

FAKE_API int ibv_dereg_mr(struct ibv_mr *base)
{
    ENTER();
    fake_mr *mr = (fake_mr *)(void *)base, **at = &fake.mrs;
    if (fake_windows_use(mr, NULL)) {
        fake_violation("memory is deregistered that a window is bound to");
        LEAVE(EINVAL);
    }
    while (*at != mr)
        at = &(*at)->next;
    *at = mr->next;
    ((fake_pd *)(void *)base->pd)->children--;
    free(mr);
    fake_released();
    LEAVE(0);
}

/* ---- completion queues and their channels ---- */

FAKE_API struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
    ENTER();
    int error = fake_fails("ibv_create_comp_channel"), ends[2];
    fake_channel *channel = error == 0 ? calloc(1, sizeof *channel) : NULL;
    if (channel == NULL || pipe2(ends, O_CLOEXEC) != 0) {
        free(channel);
        LEAVE_NULL(error != 0 ? error : ENOMEM);
    }
    channel->base.context = context;
    channel->base.fd = ends[0];
    channel->write_fd = ends[1];
    fake_context_of(context)->children++;
    fake_acquired();
    LEAVE(&channel->base);
}

FAKE_API int ibv_destroy_comp_channel(struct ibv_comp_channel *base)
{
    fake_channel *channel = (fake_channel *)(void *)base;
    ENTER();
    if (channel->children != 0) {
        fake_violation("a completion channel is destroyed that has queues");
        LEAVE(EBUSY);
    }
    fake_context_of(base->context)->children--;
    close(base->fd);
    if (!fake_context_of(base->context)->severed)
        close(channel->write_fd);
    free(channel);
    fake_released();
    LEAVE(0);
}

FAKE_API struct ibv_cq *ibv_create_cq(struct ibv_context *context, int entries, void *cq_context,
                                      struct ibv_comp_channel *channel, int vector)
{
    ENTER();
    int error = fake_fails("ibv_create_cq");
    if (error == 0 &&
        (entries < 1 || entries > fake_context_of(context)->device->attr.max_cqe || vector >= context->num_comp_vectors))
        error = EINVAL;
    fake_cq *cq = error == 0 ? calloc(1, sizeof *cq) : NULL;
    if (cq == NULL)
        LEAVE_NULL(error != 0 ? error : ENOMEM);
    cq->base.context = context;
    cq->base.channel = channel;
    cq->base.cq_context = cq_context;
    cq->base.cqe = entries;
    cq->capacity = (uint32_t)entries;
    cq->vector = vector;
    cq->entries = calloc(cq->capacity, sizeof *cq->entries);
    cq->next = fake.cqs;
    fake.cqs = cq;
    if (channel != NULL)
        ((fake_channel *)(void *)channel)->children++;
    fake_context_of(context)->children++;
    fake_acquired();
    LEAVE(&cq->base);
}

FAKE_API int ibv_destroy_cq(struct ibv_cq *base)
{
    ENTER();
    fake_cq *cq = (fake_cq *)(void *)base, **at = &fake.cqs;
    int severed = fake_severed(base->context);
    if (cq->children != 0) {
        fake_violation("a completion queue is destroyed that has queue pairs");
        LEAVE(EBUSY);
    }
    if (cq->unacknowledged != 0)
        fake_violation("a completion queue is destroyed whose events were not acknowledged: the real call would wait for ever");
    while (*at != cq)
        at = &(*at)->next;
    *at = cq->next;
    fake_event_purge(fake_context_of(base->context), base);
    if (base->channel != NULL)
        ((fake_channel *)(void *)base->channel)->children--;
    fake_context_of(base->context)->children--;
    free(cq->entries);
    free(cq);
    fake_released();
    LEAVE(severed);
}

FAKE_API int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq_out, void **context_out)
{
    fake_cq *cq;
    if (read(channel->fd, &cq, sizeof cq) != (ssize_t)sizeof cq)
        return -1;
    ENTER();
    cq->unacknowledged++;
    *cq_out = &cq->base;
    *context_out = cq->base.cq_context;
    LEAVE(0);
}

FAKE_API void ibv_ack_cq_events(struct ibv_cq *cq, unsigned int count)
{
    ENTER();
    ((fake_cq *)(void *)cq)->unacknowledged -= count;
    pthread_mutex_unlock(&fake.lock);
}

#endif
