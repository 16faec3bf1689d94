/* fake_verbs_control.c: what tests ask of the fake: its configuration, the fault plan, asynchronous events, the counts. */
#if __has_include(<infiniband/verbs.h>)

#include "fake_verbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

fake_world fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER, .pause = PTHREAD_COND_INITIALIZER};

int fake_fails(const char *call)
{
    fake_plan *plan = &fake.plan;
    bool teardown = strcmp(call, "ibv_destroy_qp") == 0 || strcmp(call, "modify_to_err") == 0;
    bool counts = strcmp(plan->call, call) == 0 || (strcmp(plan->call, "*") == 0 && !teardown);
    if (plan->call_nth == 0 || !counts)
        return 0;
    if (--plan->call_nth != 0)
        return 0;
    fake.triggered = true;
    return plan->call_error;
}

void fake_acquired(void)
{
    fake.live++;
}

void fake_released(void)
{
    fake.live--;
}

void fake_violation(const char *what)
{
    fprintf(stderr, "fake verbs: violation: %s\n", what);
    fake.violations++;
}

fake_context *fake_context_of(struct ibv_context *context)
{
    return (fake_context *)(void *)((char *)context - offsetof(fake_context, extended.context));
}

void fake_event_raise(fake_context *context, const struct ibv_async_event *event)
{
    if (context->event_count == FAKE_EVENTS) {
        fake_violation("nobody reads the asynchronous events");
        return;
    }
    context->events[context->event_count++] = *event;
    if (write(context->event_write, "e", 1) != 1)
        abort();
}

void fake_event_purge(fake_context *context, const void *object)
{
    uint32_t kept = 0, count = context->event_count;
    for (uint32_t index = 0; index < count; index++) {
        const struct ibv_async_event *event = &context->events[index];
        bool of_qp = event->event_type == IBV_EVENT_QP_FATAL || event->event_type == IBV_EVENT_QP_REQ_ERR ||
                     event->event_type == IBV_EVENT_QP_ACCESS_ERR || event->event_type == IBV_EVENT_COMM_EST;
        bool of_cq = event->event_type == IBV_EVENT_CQ_ERR;
        char byte;
        if ((of_qp || of_cq) && (const void *)event->element.qp == object) {
            if (read(context->extended.context.async_fd, &byte, 1) != 1)
                abort();
        } else {
            context->events[kept++] = *event;
        }
    }
    context->event_count = kept;
}

/* ---- configuration ---- */

static void default_gids(fake_device *device, int number, int port)
{
    fake_gid *gids = device->gids[port];
    memset(gids, 0, sizeof device->gids[port]);
    union ibv_gid local = {.raw = {0xfe, 0x80, [14] = (uint8_t)(number + 1), [15] = (uint8_t)(port + 1)}};
    union ibv_gid mapped = {.raw = {[10] = 0xff, [11] = 0xff, 10, 0, (uint8_t)number, (uint8_t)(port + 1)}};
    gids[0] = (fake_gid){local, IBV_GID_TYPE_ROCE_V1};
    gids[1] = (fake_gid){local, IBV_GID_TYPE_ROCE_V2};
    gids[2] = (fake_gid){mapped, IBV_GID_TYPE_ROCE_V1};
    gids[3] = (fake_gid){mapped, IBV_GID_TYPE_ROCE_V2};
}

static void default_device(fake_device *device, int number)
{
    memset(device, 0, sizeof *device);
    device->base.node_type = IBV_NODE_CA;
    device->base.transport_type = IBV_TRANSPORT_IB;
    snprintf(device->base.name, sizeof device->base.name, "fake%d", number);
    snprintf(device->base.dev_name, sizeof device->base.dev_name, "uverbs%d", number);
    device->attr = (struct ibv_device_attr){.max_mr_size = 1ull << 40,
                                            .max_qp = 256,
                                            .max_qp_wr = 1024,
                                            .max_sge = 16,
                                            .max_sge_rd = 16,
                                            .max_cq = 64,
                                            .max_cqe = 8192,
                                            .max_mr = 1000,
                                            .max_mw = 1000,
                                            .device_cap_flags = IBV_DEVICE_MEM_WINDOW | IBV_DEVICE_MEM_WINDOW_TYPE_2B,
                                            .vendor_id = 0x2c9,
                                            .max_pd = 100,
                                            .max_qp_rd_atom = 16 >> number,
                                            .max_qp_init_rd_atom = 8,
                                            .phys_port_cnt = 1};
    for (int port = 0; port < FAKE_PORTS_MAX; port++) {
        device->ports[port] = (struct ibv_port_attr){.state = IBV_PORT_ACTIVE,
                                                     .max_mtu = IBV_MTU_4096,
                                                     .active_mtu = number == 0 ? IBV_MTU_4096 : IBV_MTU_1024,
                                                     .gid_tbl_len = FAKE_GIDS,
                                                     .max_msg_sz = 8 << 20,
                                                     .pkey_tbl_len = FAKE_PKEYS,
                                                     .lid = 0,
                                                     .active_width = 2,
                                                     .active_speed = 32,
                                                     .link_layer = IBV_LINK_LAYER_ETHERNET};
        default_gids(device, number, port);
    }
    device->inline_max = 512;
    device->pkeys[0] = 0xffff;
    device->plain = number % 2 == 1;
    device->next_qpn = 0x11u + (uint32_t)number * 0x8000u;
    device->next_key = 0x1000u + (uint32_t)number * 0x700000u;
}

static void make_infiniband(int number)
{
    const union ibv_gid gid = {.raw = {0xfe, 0x80, [15] = (uint8_t)(number + 1)}};
    fake_device *device = &fake.devices[number];
    device->ports[0].link_layer = IBV_LINK_LAYER_INFINIBAND;
    device->ports[0].lid = (uint16_t)(17 + number);
    memset(device->gids[0], 0, sizeof device->gids[0]);
    device->gids[0][0] = (fake_gid){gid, IBV_GID_TYPE_IB};
    device->attr.max_cqe = 1 << 18; /* as such hardware has */
}

/* All devices are of InfiniBand, and later WRITEs may be placed before earlier ones. */
static void overtake_all(uint32_t seed)
{
    for (int number = 0; number < FAKE_DEVICES_MAX; number++) {
        make_infiniband(number);
        fake.devices[number].overtakes = seed + (uint32_t)number;
    }
}

static void reset(void)
{
    if (fake.live != 0)
        fake_violation("reset with objects alive");
    const char *count = getenv("FAKE_IBVERBS_DEVICES"), *engine = getenv("FAKE_IBVERBS_ENGINE");
    for (int number = 0; number < FAKE_DEVICES_MAX; number++)
        default_device(&fake.devices[number], number);
    fake.device_count = count != NULL && count[0] >= '0' && count[0] <= '0' + FAKE_DEVICES_MAX ? count[0] - '0' : 2;
    fake.engine = engine != NULL && strcmp(engine, "thread") == 0   ? FAKE_ENGINE_THREAD
                  : engine != NULL && strcmp(engine, "manual") == 0 ? FAKE_ENGINE_MANUAL
                                                                    : FAKE_ENGINE_POLL;
    const char *overtake = getenv("FAKE_IBVERBS_OVERTAKE");
    if (overtake != NULL && atoi(overtake) > 0)
        overtake_all((uint32_t)atoi(overtake));
    memset(&fake.plan, 0, sizeof fake.plan);
    fake.list_error = fake.fork_error = 0;
    fake.fork_status = IBV_FORK_ENABLED;
    fake.triggered = false;
    fake.violations = fake.doorbells = fake.acknowledged = 0;
}

__attribute__((constructor)) static void begin(void)
{
    reset();
}

FAKE_API void fake_reset(void)
{
    pthread_mutex_lock(&fake.lock);
    reset();
    pthread_mutex_unlock(&fake.lock);
}

FAKE_API fake_world *fake_state(void)
{
    return &fake;
}

FAKE_API fake_device *fake_device_at(int index)
{
    return index >= 0 && index < FAKE_DEVICES_MAX ? &fake.devices[index] : NULL;
}

FAKE_API void fake_set_device_count(int count)
{
    fake.device_count = count;
}

FAKE_API void fake_set_engine(int engine)
{
    pthread_mutex_lock(&fake.lock);
    fake.engine = (fake_engine)engine;
    pthread_mutex_unlock(&fake.lock);
}

FAKE_API void fake_set_gid(int device, int port, int index, uint32_t type, const uint8_t bytes[16])
{
    fake_gid *gid = &fake.devices[device].gids[port - 1][index];
    gid->type = type;
    memcpy(gid->gid.raw, bytes, sizeof gid->gid.raw);
}

/* ---- the fault plan ---- */

FAKE_API void fake_fail_call(const char *call, uint32_t nth, int error)
{
    pthread_mutex_lock(&fake.lock);
    snprintf(fake.plan.call, sizeof fake.plan.call, "%s", call);
    fake.plan.call_nth = nth;
    fake.plan.call_error = error;
    fake.triggered = false;
    pthread_mutex_unlock(&fake.lock);
}

FAKE_API int fake_triggered(void)
{
    return fake.triggered;
}

FAKE_API uint32_t fake_live(void)
{
    return fake.live;
}

FAKE_API uint32_t fake_violations(void)
{
    return fake.violations;
}

FAKE_API uint32_t fake_doorbells(void)
{
    return fake.doorbells;
}

FAKE_API void fake_complete(uint32_t nth, uint32_t status, uint32_t vendor_error)
{
    pthread_mutex_lock(&fake.lock);
    fake.plan.complete_nth = nth;
    fake.plan.complete_status = status;
    fake.plan.complete_vendor = vendor_error;
    pthread_mutex_unlock(&fake.lock);
}

FAKE_API void fake_complete_receive(uint32_t nth, uint32_t status)
{
    pthread_mutex_lock(&fake.lock);
    fake.plan.receive_nth = nth;
    fake.plan.receive_status = status;
    pthread_mutex_unlock(&fake.lock);
}

FAKE_API void fake_accept(uint32_t count, int error)
{
    pthread_mutex_lock(&fake.lock);
    fake.plan.accept_limited = true;
    fake.plan.accept = count;
    fake.plan.accept_error = error;
    pthread_mutex_unlock(&fake.lock);
}

FAKE_API void fake_slow(uint32_t delay, uint32_t chunk, int descending)
{
    pthread_mutex_lock(&fake.lock);
    fake.plan.delay = delay;
    fake.plan.chunk = chunk;
    fake.plan.descending = descending != 0;
    pthread_mutex_unlock(&fake.lock);
}

FAKE_API void fake_fail_polls(int on)
{
    pthread_mutex_lock(&fake.lock);
    fake.plan.poll_error = on;
    pthread_mutex_unlock(&fake.lock);
}

FAKE_API void fake_sever(int device)
{
    pthread_mutex_lock(&fake.lock);
    for (fake_context *context = fake.contexts; context != NULL; context = context->next) {
        if (context->device != &fake.devices[device] || context->severed)
            continue;
        context->severed = true;
        close(context->event_write);
        for (fake_cq *cq = fake.cqs; cq != NULL; cq = cq->next) {
            if (cq->base.context != &context->extended.context)
                continue;
            cq->head = cq->tail;
            if (cq->base.channel != NULL)
                close(((fake_channel *)(void *)cq->base.channel)->write_fd);
        }
    }
    pthread_mutex_unlock(&fake.lock);
}

int fake_severed(struct ibv_context *context)
{
    const char *frees = getenv("RDMAV_ALLOW_DISASSOC_DESTROY");
    return fake_context_of(context)->severed && (frees == NULL || frees[0] == '0') ? EIO : 0;
}

FAKE_API void fake_overtake(int device, uint32_t seed)
{
    pthread_mutex_lock(&fake.lock);
    fake.devices[device].overtakes = seed;
    pthread_mutex_unlock(&fake.lock);
}

FAKE_API void fake_make_infiniband(int device)
{
    pthread_mutex_lock(&fake.lock);
    make_infiniband(device);
    pthread_mutex_unlock(&fake.lock);
}

static fake_qp *find_qp(uint32_t qpn)
{
    for (fake_qp *qp = fake.qps; qp != NULL; qp = qp->next)
        if (qp->base.qp_num == qpn)
            return qp;
    return NULL;
}

static fake_cq *find_cq(const fake_context *context)
{
    for (fake_cq *cq = fake.cqs; cq != NULL; cq = cq->next)
        if (cq->base.context == &context->extended.context)
            return cq;
    return NULL;
}

FAKE_API int fake_raise(int device, int event_type, int port, uint32_t qpn)
{
    struct ibv_async_event event = {.event_type = (enum ibv_event_type)event_type};
    int raised = 0;
    pthread_mutex_lock(&fake.lock);
    fake_qp *qp = find_qp(qpn);
    for (fake_context *context = fake.contexts; context != NULL; context = context->next) {
        if (context->device != &fake.devices[device] || (qp != NULL && qp->base.context != &context->extended.context))
            continue;
        if (qp != NULL)
            event.element.qp = &qp->base;
        else if (event_type == IBV_EVENT_CQ_ERR)
            event.element.cq = &find_cq(context)->base;
        else
            event.element.port_num = port;
        fake_event_raise(context, &event);
        raised++;
    }
    pthread_mutex_unlock(&fake.lock);
    return raised;
}

FAKE_API int fake_qp_attributes(uint32_t qpn, struct ibv_qp_attr *attr_out)
{
    pthread_mutex_lock(&fake.lock);
    const fake_qp *qp = find_qp(qpn);
    if (qp != NULL)
        *attr_out = qp->attr;
    pthread_mutex_unlock(&fake.lock);
    return qp != NULL ? 0 : ENOENT;
}

#endif
