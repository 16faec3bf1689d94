/* listener.h: a port or address at which peers connect. Functions have device->lock held. */
#ifndef RT_CONTROL_LISTENER_H
#define RT_CONTROL_LISTENER_H

#include <stdbool.h>
#include <stdint.h>

#include "control/connection.h"
#include "proto/limits.h"

enum {
    /* Connections of a listener that are not channels yet, 20 KiB each. One more ends the oldest
     * that proved nothing, of the user or host that has the most. */
    RT_PENDING_MAX = 64,
    /* Channels that are not accepted yet. One more is refused, with the reason. */
    RT_UNACCEPTED_MAX = 64,
    /* Connections taken in one round, so that a flood does not delay the others. */
    RT_ACCEPTS_PER_ROUND = 16,
    /* Refusals that are not fetched yet. One more drops the oldest, which is counted. */
    RT_REFUSALS_MAX = 16,
};

struct rt_listener {
    rt_list node;      /* in device->listeners until closed; first, as rt_device_close relies on it */
    rt_device *device; /* holds a reference */
    const rt_stream_ops *ops;
    void *object; /* NULL once closed */
    bool is_socket;
    bool watched;
    int64_t paused_ns; /* accept failed for lack of descriptors or memory: not again before this time */
    uint8_t secret[RT_SECRET_SIZE_MAX];
    size_t secret_size;
    rt_list pending; /* of rt_control.node: strangers */
    rt_list waiting; /* of rt_control.node: connections with a channel that is READY or soon will be */
    uint32_t pending_count, waiting_count;
    rt_detail refusals[RT_REFUSALS_MAX];
    uint32_t refusal_first, refusal_count;
    uint64_t refusals_dropped, refusals_total;
    char address[RT_SOCKET_TEXT_SIZE];
};

/* When the listener's next work is due, or INT64_MAX. */
int64_t rt_listener_deadline(const rt_listener *listener);

/* Accepts waiting connections and moves those that are not channels yet. device->lock held. */
bool rt_listener_run(rt_listener *listener);
/* Closes the port and turns away connections that are not accepted yet. The struct stays the
 * caller's until rt_listener_close. device->lock held. */
void rt_listener_close_locked(rt_listener *listener);

#endif
