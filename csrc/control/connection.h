/* connection.h: a control connection: stream, handshake, frames. Functions have device->lock held. */
#ifndef RT_CONTROL_CONNECTION_H
#define RT_CONTROL_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/list.h"
#include "channel/channel.h"
#include "proto/handshake.h"
#include "stream/stream.h"

typedef struct rt_control rt_control;
typedef struct rt_listener rt_listener;

/* Reads of one connection in one round, so that a flood does not delay the others. */
enum { RT_READS_PER_ROUND = 8 };

/* From a connection's first moment to READY. The connector's caller usually gives up earlier, by
 * its own deadline. */
#define RT_ACCEPTOR_PATIENCE_NS (5 * RT_NS_PER_S)
#define RT_CONNECTOR_PATIENCE_NS (30 * RT_NS_PER_S)

/* The functions that an acceptor's connection calls on its listener. device->lock held. */
typedef struct rt_control_owner {
    /* Whether one more channel may wait to be accepted: RT_OK, or RT_E_BUSY with the reason. */
    int (*admits)(const rt_listener *listener, rt_detail *detail);
    /* A connection whose channel exists ended before it was accepted. Gives up the reference kept
     * for the accepting thread. */
    void (*lost)(rt_control *control, const rt_detail *why);
} rt_control_owner;

struct rt_control {
    rt_device *device;
    rt_channel *channel;           /* NULL: an acceptor's connection whose peer has not made its offer */
    const rt_control_owner *owner; /* NULL: a connector's connection, or an accepted one */
    rt_listener *listener;         /* the owner's listener, or NULL likewise */
    rt_list node;                  /* in listener->pending, then in listener->waiting */
    const rt_stream_ops *ops;
    void *stream;
    bool is_socket;
    bool secret;     /* both ends prove that they know one */
    bool user_known; /* the other end is known to be this user's, or the secret will prove it */
    bool told;       /* the channel has the peer's identity */
    bool busy;       /* being moved now, or over */
    bool cut;        /* the stream of a READY connection ended without a BYE */
    int watched;     /* the descriptor the service sleeps on, or -1 */
    bool watched_writable;
    uint32_t joined;     /* links that are joined */
    uint64_t origin;     /* for an acceptor: the user or host at the other end */
    int64_t deadline_ns; /* INT64_MAX once ready */
    uint64_t bytes_in, bytes_out;
    rt_detail why; /* valid once it is over */
    char where[RT_SOCKET_TEXT_SIZE];
    rt_handshake handshake;
};

/* Takes the stream on success. `where` names the other end. */
int rt_control_open(rt_device *device, rt_handshake_role role, const rt_stream_ops *ops, void *stream, const char *where,
                    const uint8_t *secret, size_t secret_size, rt_control **control_out, rt_detail *detail);
/* Moves the connection as far as it goes. RT_OK while it lives; else control->why holds the reason
 * for its end. */
int rt_control_move(rt_control *control, bool *moved_out);
/* Writes the pending bytes as far as the stream takes them at once, and frees the connection. */
void rt_control_free(rt_control *control);
/* "peer host pid 1 shm0 at 127.0.0.1:4711", or the known part of that. */
void rt_control_name(const rt_control *control, char *text_out, size_t capacity);
/* Makes and takes offers, joins links: RT_OK as long as nothing is wrong. */
int rt_control_join(rt_control *control, bool *moved_out, rt_detail *detail);

/* Moves the connection: reads, feeds the handshake, writes, joins links, notices death. Calls rt_channel_ready and
 * rt_channel_fail. True when something moved. */
bool rt_control_run(rt_channel *channel);
/* A link of the channel failed as links do whose peer is gone: fails the channel with the peer's
 * message from its control connection, if there is one. Takes device->lock (which its owner may
 * take again) for at most 5 ms; no link's turn held. */
void rt_control_last_words(rt_channel *channel);
/* Sends BYE (RT_E_CLOSED) or ERROR with the failure, as far as the stream takes it without waiting,
 * and closes. */
void rt_control_end(rt_channel *channel, const rt_detail *why);
/* The state of the handshake or connection, for the dump; returns as snprintf does. */
int rt_control_describe(const rt_channel *channel, char *text_out, size_t capacity);

#endif
