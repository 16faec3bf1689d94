/* connection.c: a control connection from its first byte to its last: moves bytes between the
 * stream and the handshake, keeps the deadline, identifies the owner of the process at the other
 * end, and turns events into texts that name the peer. proto/handshake.c interprets the bytes;
 * offers and links are in join.c. All of it with device->lock held. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "base/waiter.h"
#include "channel/channel.h"
#include "control/connection.h"
#include "device/device.h"
#include "device/service.h"
#include "proto/handle.h"
#include "stream/stream.h"

_Static_assert((int)RT_HANDSHAKE_ADDRESS_MAX == (int)RT_LINK_ADDRESS_SIZE_MAX, "addresses of links fit the handshake");
_Static_assert((int)RT_HANDLE_KEY_MAX == (int)RT_MEMORY_KEY_SIZE_MAX, "keys of memory fit a handle");

/* Bytes read and discarded before closing, so that the peer gets our last message rather than a
 * reset. */
enum { RT_DISCARD_SIZE = 4096, RT_DISCARDS_MAX = 16 };

/* How long a failing link waits for the lock, in order to read the peer's last message. The
 * lock is usually held for microseconds; a thread that holds it for longer may be waiting for the
 * thread that asks. */
#define RT_LAST_WORDS_NS (5 * RT_NS_PER_MS)

void rt_control_name(const rt_control *control, char *text_out, size_t capacity)
{
    const rt_offer *offer = &control->handshake.peer_offer;
    if (control->handshake.offer_seen && offer->description[0] != '\0')
        snprintf(text_out, capacity, "peer %s at %s", offer->description, control->where);
    else
        snprintf(text_out, capacity, "peer at %s", control->where);
}

int rt_control_open(rt_device *device, rt_handshake_role role, const rt_stream_ops *ops, void *stream, const char *where,
                    const uint8_t *secret, size_t secret_size, rt_control **control_out, rt_detail *detail)
{
    uint8_t nonce[RT_NONCE_SIZE];
    rt_control *control = calloc(1, sizeof *control);
    if (control == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a control connection");
    int status = rt_random(nonce, sizeof nonce, detail);
    if (status == RT_OK && rt_handshake_begin(&control->handshake, role, secret, secret_size, nonce) != RT_OK)
        status =
            rt_fail(detail, RT_E_INVALID, 0, "a secret of %zu bytes is too long: at most %d", secret_size, RT_SECRET_SIZE_MAX);
    if (status != RT_OK) {
        free(control);
        return status;
    }
    control->device = device;
    rt_list_init(&control->node);
    control->ops = ops;
    control->stream = stream;
    control->is_socket = ops == &rt_socket_ops;
    control->secret = secret_size != 0;
    control->user_known = secret_size != 0 || !control->is_socket;
    control->watched = -1;
    control->deadline_ns =
        rt_device_time(device) + (role == RT_ROLE_ACCEPTOR ? RT_ACCEPTOR_PATIENCE_NS : RT_CONNECTOR_PATIENCE_NS);
    snprintf(control->where, sizeof control->where, "%s", where);
    *control_out = control;
    return RT_OK;
}

/* ---- the end of a connection ---- */

/* Records the reason, with the name of the peer before it. */
static int control_over(rt_control *control, int status, const char *text)
{
    char name[RT_PEER_TEXT_MAX + RT_SOCKET_TEXT_SIZE + 16];
    rt_control_name(control, name, sizeof name);
    return rt_fail(&control->why, status, 0, "%s: %.*s", name, (int)(sizeof control->why.text - sizeof name), text);
}

static int handshake_over(rt_control *control)
{
    return control_over(control, control->handshake.failure.status, control->handshake.failure.text);
}

/* The stream ended: derives the reason. */
static int stream_over(rt_control *control)
{
    bool was_ready = control->handshake.state == RT_HS_READY;
    control->cut = was_ready;
    int error = control->is_socket ? rt_socket_error(control->stream) : 0;
    int status = rt_handshake_ended(&control->handshake);
    if (error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH || error == ENETDOWN) {
        char text[160];
        snprintf(text, sizeof text, "its host does not answer any more (%s)", rt_errno_name(error));
        return control_over(control, RT_E_PEER_LOST, text);
    }
    if (was_ready)
        return control_over(control, RT_E_PEER_LOST, "it died or was killed: its control connection ended without a BYE");
    rt_detail foreign;
    bool unheard = control->is_socket && control->bytes_in == 0 && control->handshake.role == RT_ROLE_CONNECTOR;
    if (unheard && !control->secret && rt_socket_foreign_listener(control->stream, &foreign) != RT_OK)
        return control_over(control, foreign.status, foreign.text);
    assert(status < 0);
    return handshake_over(control);
}

static int deadline_over(rt_control *control)
{
    char text[200];
    bool acceptor = control->handshake.role == RT_ROLE_ACCEPTOR;
    snprintf(text, sizeof text, "the handshake did not finish within %d s; it waits in '%s' after %" PRIu64 " bytes from there",
             (int)((acceptor ? RT_ACCEPTOR_PATIENCE_NS : RT_CONNECTOR_PATIENCE_NS) / RT_NS_PER_S),
             rt_handshake_state_name(control->handshake.state), control->bytes_in);
    rt_handshake_close(&control->handshake, RT_E_DEADLINE, text);
    return control_over(control, RT_E_DEADLINE, text);
}

/* ---- moving bytes ---- */

static int control_flush(rt_control *control, bool *moved_out)
{
    while (control->handshake.out_size > 0) {
        int64_t written = control->ops->write(control->stream, control->handshake.out, control->handshake.out_size);
        if (written == RT_E_AGAIN)
            return RT_OK;
        if (written < 0)
            return RT_E_PEER_LOST; /* the bytes before the end are still to be read */
        rt_handshake_sent(&control->handshake, (size_t)written);
        control->bytes_out += (uint64_t)written;
        *moved_out = true;
    }
    return RT_OK;
}

/* How many bytes may be read now. Without a secret, none before the kernel has confirmed that the
 * other end is this user's. As long as no process owns it (not accepted yet, or closed already),
 * only the preface may be read, because a refusal may be all that it sends. */
static int allowance(rt_control *control, size_t *size_out)
{
    size_t room = rt_handshake_room(&control->handshake);
    if (!control->user_known) {
        *size_out = 0;
        if (!rt_socket_readable(control->stream))
            return RT_OK;
        rt_detail detail;
        int status = rt_socket_same_user(control->stream, &detail);
        if (status == RT_E_AUTH) {
            rt_handshake_close(&control->handshake, status, detail.text);
            return control_over(control, status, detail.text);
        }
        control->user_known = status == RT_OK;
    }
    size_t preface_left = control->bytes_in < RT_PREFACE_SIZE ? RT_PREFACE_SIZE - (size_t)control->bytes_in : 0;
    if (!control->user_known && room > preface_left)
        room = preface_left;
    if (room == 0)
        return control_over(control, RT_E_AUTH, "it closed the connection before the kernel could tell whose process it is");
    *size_out = room;
    return RT_OK;
}

static int control_bytes_take(rt_control *control, bool *moved_out)
{
    uint8_t bytes[RT_FRAME_SIZE_MAX];
    for (int count = 0; count < RT_READS_PER_ROUND; count++) {
        size_t size = 0;
        int status = allowance(control, &size);
        if (status != RT_OK || size == 0)
            return status;
        int64_t got = control->ops->read(control->stream, bytes, size < sizeof bytes ? size : sizeof bytes);
        if (got == RT_E_AGAIN)
            return RT_OK;
        *moved_out = true;
        if (got == RT_E_DEVICE_LOST)
            return control_over(control, RT_E_DEVICE_LOST, "this end's device failed");
        if (got < 0)
            return stream_over(control);
        control->bytes_in += (uint64_t)got;
        if (rt_handshake_feed(&control->handshake, bytes, (size_t)got) != RT_OK)
            return handshake_over(control);
    }
    return RT_OK;
}

/* Keeps the service awake for this stream. */
static int control_watch(rt_control *control)
{
    if (!control->is_socket)
        return RT_OK;
    bool connecting = rt_socket_connecting(control->stream);
    bool writable = connecting || control->handshake.out_size > 0;
    int descriptor = rt_socket_descriptor(control->stream);
    if (!connecting && descriptor == control->watched && writable == control->watched_writable)
        return RT_OK;
    int status = rt_service_watch(control->device, descriptor, true, writable, &control->why);
    if (status == RT_OK) {
        control->watched = descriptor;
        control->watched_writable = writable;
    }
    return status;
}

static int control_join(rt_control *control, bool *joined_out)
{
    rt_detail detail;
    int status = rt_control_join(control, joined_out, &detail);
    if (status == RT_OK)
        return RT_OK;
    rt_handshake_close(&control->handshake, status, detail.text);
    return control_over(control, status, detail.text);
}

static int control_move(rt_control *control, bool *moved_out)
{
    int status = control->is_socket ? rt_socket_connected(control->stream, &control->why) : RT_OK;
    if (status == RT_OK) {
        bool joined = true;
        for (int count = 0; joined && count < RT_READS_PER_ROUND; count++) {
            joined = false;
            control_flush(control, moved_out);
            status = control_bytes_take(control, moved_out);
            if (status != RT_OK)
                return status;
            status = control_join(control, &joined);
            if (status != RT_OK)
                return status;
            *moved_out |= joined;
        }
        control_flush(control, moved_out);
    } else if (status != RT_E_AGAIN) {
        return status;
    }
    if (rt_device_time(control->device) >= control->deadline_ns)
        return deadline_over(control);
    return control_watch(control);
}

int rt_control_move(rt_control *control, bool *moved_out)
{
    control->busy = true;
    int status = control_move(control, moved_out);
    control->busy = status != RT_OK; /* once over, it stays over */
    return status;
}

/* ---- the channel's connection ---- */

bool rt_control_run(rt_channel *channel)
{
    bool moved = false;
    rt_control *control = channel->control;
    if (control == NULL || control->busy || rt_control_move(control, &moved) == RT_OK)
        return moved;
    if (control->cut)
        atomic_store(&channel->died, true);
    channel->unanswered =
        control->bytes_in == 0 && (control->why.status == RT_E_REFUSED || control->why.status == RT_E_PEER_LOST);
    rt_channel_fail(channel, &control->why);
    return true;
}

void rt_control_last_words(rt_channel *channel)
{
    rt_device *device = channel->device;
    rt_waiter waiter;
    rt_waiter_begin(&waiter, &(rt_wait_mode){0}, rt_clock_now_ns() + RT_LAST_WORDS_NS);
    while (pthread_mutex_trylock(&device->lock) != 0) {
        if (rt_waiter_idle(&waiter) == RT_E_AGAIN)
            return;
    }
    rt_control_run(channel);
    pthread_mutex_unlock(&device->lock);
}

void rt_control_free(rt_control *control)
{
    bool moved;
    uint8_t bytes[RT_DISCARD_SIZE];
    if (!control->is_socket || !rt_socket_connecting(control->stream))
        control_flush(control, &moved);
    for (int count = 0; control->is_socket && count < RT_DISCARDS_MAX; count++) {
        if (control->ops->read(control->stream, bytes, sizeof bytes) < 0)
            break;
    }
    if (control->watched >= 0)
        rt_service_unwatch(control->device, control->watched);
    control->ops->close(control->stream);
    explicit_bzero(control, sizeof *control);
    free(control);
}

void rt_control_end(rt_channel *channel, const rt_detail *why)
{
    rt_control *control = channel->control;
    if (control == NULL)
        return;
    channel->control = NULL;
    rt_handshake_close(&control->handshake, why->status, why->status == RT_E_CLOSED ? "closed by its owner" : why->text);
    if (control->owner != NULL)
        control->owner->lost(control, why);
    rt_control_free(control);
}

int rt_control_describe(const rt_channel *channel, char *text_out, size_t capacity)
{
    const rt_control *control = channel->control;
    if (control == NULL)
        return snprintf(text_out, capacity, "control connection: closed");
    return snprintf(text_out, capacity,
                    "control connection: %s at %s, %s, %" PRIu64 " bytes in, %" PRIu64 " bytes out, links joined %u",
                    control->handshake.role == RT_ROLE_ACCEPTOR ? "acceptor" : "connector", control->where,
                    rt_handshake_state_name(control->handshake.state), control->bytes_in, control->bytes_out, control->joined);
}
