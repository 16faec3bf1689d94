/* listener.c: a port that peers connect to: checks the address, and keeps strangers until they have
 * authenticated themselves, channels until they are accepted, and refusals until they are
 * fetched. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"
#include "control/connection.h"
#include "control/listener.h"
#include "device/device.h"
#include "device/fork.h"
#include "device/service.h"
#include "stream/stream.h"

/* How long a listener does not accept from its backlog after the process ran out of descriptors or
 * memory. */
#define RT_ACCEPT_PAUSE_NS (100 * RT_NS_PER_MS)

_Static_assert(offsetof(rt_listener, node) == 0, "rt_device_close takes a node for its listener");

/* ---- refusals ---- */

static void refusal_record(rt_listener *listener, const rt_detail *why)
{
    if (listener->refusal_count == RT_REFUSALS_MAX) {
        listener->refusal_first = (listener->refusal_first + 1) % RT_REFUSALS_MAX;
        listener->refusal_count--;
        listener->refusals_dropped++;
    }
    listener->refusals_total++;
    listener->device->connects_refused++;
    listener->refusals[(listener->refusal_first + listener->refusal_count++) % RT_REFUSALS_MAX] = *why;
    rt_device_changed(listener->device);
}

int rt_listener_refusal(rt_listener *listener, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
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

/* ---- arriving connections ---- */

/* Watches the port only while connections may be accepted. */
static int listener_watch(rt_listener *listener, bool wanted, rt_detail *detail)
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

static int listener_admits(const rt_listener *listener, rt_detail *detail)
{
    if (listener->waiting_count < RT_UNACCEPTED_MAX)
        return RT_OK;
    return rt_fail(detail, RT_E_BUSY, 0,
                   "the listener at %s holds %d channels that nobody has accepted, and takes no more: call accept() there",
                   listener->address, RT_UNACCEPTED_MAX);
}

/* Whether a connection has proved nothing yet. */
static bool control_unproven(const rt_control *control)
{
    bool same_user = control->user_known && !control->secret;
    return !same_user && control->handshake.state < RT_HS_OFFER;
}

static uint32_t pending_of(const rt_listener *listener, uint64_t origin)
{
    uint32_t count = 0;
    RT_LIST_EACH(node, &listener->pending)
        count += RT_LIST_ENTRY(node, rt_control, node)->origin == origin;
    return count;
}

/* Ends one connection when there are too many: of the user or host that has the most connections,
 * the oldest among those that proved nothing (if there are none, among all). So a user who fills
 * the places loses their own connections, and a legitimate peer is finished long before it could be
 * the oldest. */
static void listener_make_room(rt_listener *listener)
{
    rt_control *victim = NULL;
    uint32_t most = 0;
    bool doubted = false;
    if (listener->pending_count < RT_PENDING_MAX)
        return;
    RT_LIST_EACH(node, &listener->pending) {
        rt_control *control = RT_LIST_ENTRY(node, rt_control, node);
        uint32_t count = pending_of(listener, control->origin);
        if (control_unproven(control) < doubted || (control_unproven(control) == doubted && count <= most))
            continue;
        doubted = control_unproven(control);
        victim = control;
        most = count;
    }
    char name[RT_PEER_TEXT_MAX + RT_SOCKET_TEXT_SIZE + 16];
    rt_detail why;
    rt_control_name(victim, name, sizeof name);
    rt_fail(&why, RT_E_BUSY, 0,
            "%s: it made way for others: %d connections had not finished their handshake, %u of them from there", name,
            RT_PENDING_MAX, most);
    rt_list_remove(&victim->node);
    listener->pending_count--;
    refusal_record(listener, &why);
    rt_control_free(victim);
}

static void listener_pause(rt_listener *listener, const rt_detail *why)
{
    refusal_record(listener, why);
    listener->paused_ns = rt_device_time(listener->device) + RT_ACCEPT_PAUSE_NS;
}

/* Without a secret, ends a connection of another user before it takes a place. */
static int user_check(rt_listener *listener, void *stream, bool *known_out)
{
    rt_detail detail, why;
    *known_out = false;
    if (!listener->is_socket || listener->secret_size != 0)
        return RT_OK;
    int status = rt_socket_same_user(stream, &detail);
    *known_out = status == RT_OK;
    if (status != RT_E_AUTH)
        return RT_OK; /* its own message, which may be all it sends, is read later */
    rt_fail(&why, status, 0, "peer at %s: %.400s", rt_socket_text(stream), detail.text);
    refusal_record(listener, &why);
    return status;
}

static void unaccepted_lose(rt_control *control, const rt_detail *why)
{
    rt_listener *listener = control->listener;
    control->listener = NULL;
    control->owner = NULL;
    rt_list_remove(&control->node);
    listener->waiting_count--;
    if (why->status != RT_E_CLOSED)
        refusal_record(listener, why);
    rt_channel_unreference(control->channel);
    rt_service_kick(listener->device);
}

static const rt_control_owner owner = {.admits = listener_admits, .lost = unaccepted_lose};

/* Takes one connection out of the backlog. RT_E_AGAIN when there is none. */
static int backlog_take_one(rt_listener *listener, rt_detail *detail)
{
    void *stream;
    bool user_known;
    int status = listener->ops->accept(listener->object, &stream, detail);
    if (status != RT_OK)
        return status;
    if (user_check(listener, stream, &user_known) != RT_OK) {
        listener->ops->close(stream);
        return RT_OK;
    }
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
    listener_make_room(listener);
    control->listener = listener;
    control->owner = &owner;
    control->user_known |= user_known;
    control->origin = listener->is_socket ? rt_socket_origin(stream) : 0;
    rt_list_append(&listener->pending, &control->node);
    listener->pending_count++;
    return RT_OK;
}

static bool backlog_take_all(rt_listener *listener)
{
    bool moved = false;
    if (rt_device_time(listener->device) < listener->paused_ns) {
        listener_watch(listener, false, NULL);
        return false;
    }
    listener->paused_ns = 0;
    for (int count = 0; count < RT_ACCEPTS_PER_ROUND; count++) {
        rt_detail detail;
        int status = backlog_take_one(listener, &detail);
        if (status != RT_OK && status != RT_E_AGAIN)
            listener_pause(listener, &detail);
        if (status != RT_OK)
            break;
        moved = true;
    }
    rt_detail detail;
    if (listener_watch(listener, listener->paused_ns == 0, &detail) != RT_OK)
        listener_pause(listener, &detail);
    return moved;
}

/* Moves a stranger's connection. It leaves the pending list when it got a channel or was turned
 * away. */
static bool pending_move(rt_listener *listener, rt_control *control)
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
    refusal_record(listener, &control->why);
    rt_control_free(control);
    return true;
}

bool rt_listener_run(rt_listener *listener)
{
    bool moved = backlog_take_all(listener);
    RT_LIST_EACH_SAFE(node, &listener->pending)
        moved |= pending_move(listener, RT_LIST_ENTRY(node, rt_control, node));
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

/* ---- the interface ---- */

static int listener_open_check(const rt_device *device, const char *address, size_t secret_size, rt_detail *detail)
{
    if (device == NULL || address == NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "no %s to listen at", device == NULL ? "device" : "address");
    if (secret_size > RT_SECRET_SIZE_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "a secret of %zu bytes is too long: at most %d", secret_size, RT_SECRET_SIZE_MAX);
    return RT_OK;
}

/* Requires a secret for an address that other machines can reach. */
static int listener_reach_check(const rt_listener *listener, rt_detail *detail)
{
    if (!listener->is_socket || listener->secret_size != 0 || rt_socket_loopback(listener->object))
        return RT_OK;
    return rt_fail(detail, RT_E_AUTH, 0,
                   "will not listen at %s without a secret: other machines reach this address; give both ends the same "
                   "secret (secret= or RDMATENSOR_SECRET), or listen at 127.0.0.1",
                   listener->address);
}

/* Frees a listener that was not opened. */
static void listener_discard(rt_listener *listener)
{
    if (listener->object != NULL)
        listener->ops->unlisten(listener->object);
    explicit_bzero(listener, sizeof *listener);
    free(listener);
}

int rt_listener_open(rt_device *device, const char *address, const uint8_t *secret, size_t secret_size,
                     rt_listener **listener_out, rt_detail *detail)
{
    if (rt_forked())
        return rt_fork_refuse(detail);
    int status = listener_open_check(device, address, secret_size, detail);
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
    if (status == RT_OK)
        status = rt_device_lock_until(device, rt_device_time(device) + RT_SLICE_NS, detail);
    if (status != RT_OK) {
        listener_discard(listener);
        return status;
    }
    if (!listener->is_socket)
        status = listener->ops->listen(device->pdevice, address, &listener->object, listener->address, sizeof listener->address,
                                       detail);
    if (status == RT_OK)
        status = device->lost ? rt_detail_pass(detail, &device->failure) : listener_reach_check(listener, detail);
    if (status == RT_OK)
        status = listener_watch(listener, true, detail);
    if (status == RT_OK) {
        rt_device_reference(device);
        rt_list_append(&device->listeners, &listener->node);
        *listener_out = listener;
    } else {
        listener_discard(listener);
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
    listener_watch(listener, false, NULL);
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

/* Gives the first waiting channel that is READY to the caller. device->lock held. */
static rt_channel *ready_take(rt_listener *listener)
{
    RT_LIST_EACH(node, &listener->waiting) {
        rt_control *control = RT_LIST_ENTRY(node, rt_control, node);
        if (rt_channel_state(control->channel) != RT_CHANNEL_READY)
            continue;
        rt_list_remove(node);
        listener->waiting_count--;
        control->listener = NULL;
        control->owner = NULL;
        return control->channel;
    }
    return NULL;
}

static int listener_look(rt_listener *listener, int64_t deadline_ns, rt_channel **channel_out, rt_detail *detail)
{
    int status = rt_device_lock_until(listener->device, deadline_ns, detail);
    if (status != RT_OK)
        return status;
    status = RT_E_AGAIN;
    rt_channel *channel = ready_take(listener);
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
        return rt_fork_refuse(detail);
    rt_device *device = listener->device;
    int64_t end = rt_device_slice_end(device, timeout_ns);
    for (;;) {
        uint32_t seen = atomic_load_explicit(&device->change, memory_order_acquire);
        int status = listener_look(listener, end, channel_out, detail);
        if (status != RT_E_AGAIN)
            return status;
        status = rt_service_wait(device, seen, end);
        if (status != RT_OK)
            return rt_fail(detail, status, 0, "no peer has connected to %s", listener->address);
    }
}
