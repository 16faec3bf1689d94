/* listener.c: a port that peers connect to: who may listen where, strangers until they have proved who they are, channels until
 * somebody accepts them, and refusals until somebody asks. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/control.h"

/* How long a listener leaves its backlog alone after the process ran out of descriptors or memory. */
#define RT_ACCEPT_PAUSE_NS (100 * RT_NS_PER_MS)

_Static_assert(offsetof(rt_listener, node) == 0, "rt_device_close takes a node for its listener");

/* ---- refusals ---- */

static void refuse(rt_listener *listener, const rt_detail *why)
{
    if (listener->refusal_count == RT_REFUSALS_MAX) {
        listener->refusal_first = (listener->refusal_first + 1) % RT_REFUSALS_MAX;
        listener->refusal_count--;
        listener->refusals_dropped++;
    }
    listener->refusals[(listener->refusal_first + listener->refusal_count++) % RT_REFUSALS_MAX] = *why;
    rt_device_changed(listener->device);
}

int rt_listener_refusal(rt_listener *listener, rt_detail *detail)
{
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: the listener is its parent's");
    pthread_mutex_lock(&listener->device->lock);
    int status = RT_E_AGAIN;
    if (listener->refusal_count > 0) {
        const rt_detail *oldest = &listener->refusals[listener->refusal_first];
        status = oldest->status;
        if (listener->refusals_dropped == 0)
            rt_detail_pass(detail, oldest);
        else
            rt_fail(detail, oldest->status, 0, "%.400s (%" PRIu64 " earlier refusals were dropped)", oldest->text,
                    listener->refusals_dropped);
        listener->refusals_dropped = 0;
        listener->refusal_first = (listener->refusal_first + 1) % RT_REFUSALS_MAX;
        listener->refusal_count--;
    }
    pthread_mutex_unlock(&listener->device->lock);
    return status;
}

/* ---- those who come ---- */

/* Sleeps on the port only while somebody may come in. */
static int watch(rt_listener *listener, bool wanted, rt_detail *detail)
{
    if (!listener->is_socket || listener->watched == wanted)
        return RT_OK;
    int descriptor = rt_socket_descriptor(listener->object);
    int status = RT_OK;
    if (wanted)
        status = rt_service_watch(listener->device, descriptor, true, false, detail);
    else
        rt_service_unwatch(listener->device, descriptor);
    if (status == RT_OK)
        listener->watched = wanted;
    return status;
}

static bool has_room(const rt_listener *listener)
{
    return listener->pending_count < RT_PENDING_MAX && listener->waiting_count < RT_UNACCEPTED_MAX;
}

static void pause_accepting(rt_listener *listener, const rt_detail *why)
{
    refuse(listener, why);
    listener->paused_ns = rt_device_time(listener->device) + RT_ACCEPT_PAUSE_NS;
}

/* Takes one connection out of the backlog. RT_E_AGAIN when there is none. */
static int take_one(rt_listener *listener, rt_detail *detail)
{
    void *stream;
    int status = listener->ops->accept(listener->object, &stream, detail);
    if (status != RT_OK)
        return status;
    char where[RT_SOCKET_TEXT_SIZE + 16];
    if (listener->is_socket)
        snprintf(where, sizeof where, "%s", rt_socket_text(stream));
    else
        snprintf(where, sizeof where, "%s (accepted)", listener->address);
    rt_control *control;
    status = rt_control_open(listener->device, RT_ROLE_ACCEPTOR, listener->ops, stream, where, listener->secret,
                             listener->secret_size, &control, detail);
    if (status != RT_OK) {
        listener->ops->close(stream);
        return status;
    }
    control->listener = listener;
    rt_list_append(&listener->pending, &control->node);
    listener->pending_count++;
    return RT_OK;
}

static bool take_all(rt_listener *listener)
{
    bool moved = false;
    if (rt_device_time(listener->device) < listener->paused_ns) {
        watch(listener, false, NULL);
        return false;
    }
    listener->paused_ns = 0;
    while (has_room(listener)) {
        rt_detail detail;
        int status = take_one(listener, &detail);
        if (status != RT_OK && status != RT_E_AGAIN)
            pause_accepting(listener, &detail);
        if (status != RT_OK)
            break;
        moved = true;
    }
    rt_detail detail;
    if (watch(listener, has_room(listener) && listener->paused_ns == 0, &detail) != RT_OK)
        pause_accepting(listener, &detail);
    return moved;
}

/* Moves a stranger. It leaves the pending list when it got a channel or was turned away. */
static bool move_pending(rt_listener *listener, rt_control *control)
{
    bool moved = false;
    int status = rt_control_move(control, &moved);
    if (status == RT_OK && control->channel == NULL)
        return moved;
    rt_list_remove(&control->node);
    listener->pending_count--;
    if (control->channel != NULL) {
        rt_list_append(&listener->waiting, &control->node);
        listener->waiting_count++;
        if (status != RT_OK)
            rt_channel_fail(control->channel, &control->why);
        return true;
    }
    refuse(listener, &control->why);
    rt_control_free(control);
    return true;
}

bool rt_listener_run(rt_listener *listener)
{
    bool moved = take_all(listener);
    RT_LIST_EACH_SAFE(node, &listener->pending)
        moved |= move_pending(listener, RT_LIST_ENTRY(node, rt_control, node));
    return moved;
}

int64_t rt_listener_deadline(const rt_listener *listener)
{
    int64_t due = listener->paused_ns != 0 ? listener->paused_ns : INT64_MAX;
    RT_LIST_EACH(node, &listener->pending) {
        int64_t deadline = RT_LIST_ENTRY(node, rt_control, node)->deadline_ns;
        due = deadline < due ? deadline : due;
    }
    return due;
}

void rt_listener_lost(rt_control *control, const rt_detail *why)
{
    rt_listener *listener = control->listener;
    control->listener = NULL;
    rt_list_remove(&control->node);
    listener->waiting_count--;
    if (why->status != RT_E_CLOSED)
        refuse(listener, why);
    rt_channel_unreference(control->channel);
    rt_service_kick(listener->device);
}

/* ---- the interface ---- */

static int check_open(const rt_device *device, const char *address, size_t secret_size, rt_detail *detail)
{
    if (device == NULL || address == NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "no %s to listen at", device == NULL ? "device" : "address");
    if (secret_size > RT_SECRET_SIZE_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "a secret of %zu bytes is too long: at most %d", secret_size, RT_SECRET_SIZE_MAX);
    return RT_OK;
}

/* Nobody may be reached from other machines without having to prove who he is. */
static int check_reach(const rt_listener *listener, rt_detail *detail)
{
    if (!listener->is_socket || listener->secret_size != 0 || rt_socket_loopback(listener->object))
        return RT_OK;
    return rt_fail(detail, RT_E_AUTH, 0,
                   "will not listen at %s without a secret: other machines reach this address; give both ends the same "
                   "secret (secret= or RDMATENSOR_SECRET), or listen at 127.0.0.1",
                   listener->address);
}

int rt_listener_open(rt_device *device, const char *address, const uint8_t *secret, size_t secret_size,
                     rt_listener **listener_out, rt_detail *detail)
{
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: open a device of its own");
    int status = check_open(device, address, secret_size, detail);
    if (status != RT_OK)
        return status;
    rt_listener *listener = calloc(1, sizeof *listener);
    if (listener == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a listener");
    listener->is_socket = device->provider->streams == NULL;
    listener->ops = listener->is_socket ? &rt_socket_ops : device->provider->streams;
    listener->device = device;
    listener->secret_size = secret_size;
    if (secret_size != 0)
        memcpy(listener->secret, secret, secret_size);
    rt_list_init(&listener->pending);
    rt_list_init(&listener->waiting);
    if (listener->is_socket) /* may resolve a name: without the lock */
        status = listener->ops->listen(device->pdevice, address, &listener->object, listener->address, sizeof listener->address,
                                       detail);
    pthread_mutex_lock(&device->lock);
    if (!listener->is_socket)
        status = listener->ops->listen(device->pdevice, address, &listener->object, listener->address, sizeof listener->address,
                                       detail);
    if (status == RT_OK)
        status = device->lost ? rt_detail_pass(detail, &device->failure) : check_reach(listener, detail);
    if (status == RT_OK)
        status = watch(listener, true, detail);
    if (status == RT_OK) {
        rt_device_reference(device);
        rt_list_append(&device->listeners, &listener->node);
        *listener_out = listener;
    } else {
        if (listener->object != NULL)
            listener->ops->unlisten(listener->object);
        explicit_bzero(listener, sizeof *listener);
        free(listener);
    }
    pthread_mutex_unlock(&device->lock);
    return status;
}

void rt_listener_close_locked(rt_listener *listener)
{
    rt_detail why;
    if (listener->object == NULL)
        return;
    rt_fail(&why, RT_E_CLOSED, 0, "the listener at %s was closed", listener->address);
    RT_LIST_EACH_SAFE(node, &listener->pending) {
        rt_list_remove(node);
        rt_control_free(RT_LIST_ENTRY(node, rt_control, node));
    }
    listener->pending_count = 0;
    RT_LIST_EACH_SAFE(node, &listener->waiting) {
        rt_control *control = RT_LIST_ENTRY(node, rt_control, node);
        rt_channel_fail(control->channel, &why);
        rt_control_end(control->channel, &why);
    }
    assert(rt_list_empty(&listener->waiting));
    watch(listener, false, NULL);
    listener->ops->unlisten(listener->object);
    listener->object = NULL;
    explicit_bzero(listener->secret, sizeof listener->secret);
    rt_list_remove(&listener->node);
    rt_device_changed(listener->device);
}

void rt_listener_close(rt_listener *listener)
{
    if (rt_forked())
        return;
    rt_device *device = listener->device;
    pthread_mutex_lock(&device->lock);
    rt_listener_close_locked(listener);
    pthread_mutex_unlock(&device->lock);
    free(listener);
    if (device->limits.virtual_time)
        rt_service_run(device);
    rt_device_unreference(device);
}

const char *rt_listener_address(const rt_listener *listener)
{
    return listener->address;
}

/* The first of those who wait that is ready becomes the caller's. device->lock held. */
static rt_channel *take_ready(rt_listener *listener)
{
    RT_LIST_EACH(node, &listener->waiting) {
        rt_control *control = RT_LIST_ENTRY(node, rt_control, node);
        if (rt_channel_state(control->channel) != RT_CHANNEL_READY)
            continue;
        rt_list_remove(node);
        listener->waiting_count--;
        control->listener = NULL;
        if (!listener->watched)
            rt_service_kick(listener->device); /* there is room for another */
        return control->channel;
    }
    return NULL;
}

static int look(rt_listener *listener, rt_channel **channel_out, rt_detail *detail)
{
    int status = RT_E_AGAIN;
    pthread_mutex_lock(&listener->device->lock);
    rt_channel *channel = take_ready(listener);
    if (channel != NULL)
        status = RT_OK;
    else if (listener->device->lost)
        status = rt_detail_pass(detail, &listener->device->failure);
    else if (listener->object == NULL)
        status = rt_fail(detail, RT_E_CLOSED, 0, "the listener at %s was closed", listener->address);
    pthread_mutex_unlock(&listener->device->lock);
    if (status == RT_OK)
        *channel_out = channel;
    return status;
}

int rt_listener_accept(rt_listener *listener, int64_t timeout_ns, rt_channel **channel_out, rt_detail *detail)
{
    if (rt_forked())
        return rt_fail(detail, RT_E_FORKED, 0, "this process is a child made by fork: the listener is its parent's");
    rt_device *device = listener->device;
    int64_t end = rt_device_time(device) + (timeout_ns < RT_SLICE_NS ? timeout_ns : RT_SLICE_NS);
    for (;;) {
        uint32_t seen = atomic_load_explicit(&device->change, memory_order_acquire);
        int status = look(listener, channel_out, detail);
        if (status != RT_E_AGAIN)
            return status;
        status = rt_service_wait(device, seen, end);
        if (status != RT_OK)
            return rt_fail(detail, status, 0, "no peer has connected to %s", listener->address);
    }
}
