/* carrier.h: messages over SEND and RECV of a channel's links. All with device->lock held unless it
 * says otherwise. */
#ifndef RT_RPC_CARRIER_H
#define RT_RPC_CARRIER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/backoff.h"
#include "channel/channel.h"
#include "rpc/lookup.h"

typedef struct rt_rpc rt_rpc;

/* SENDs of one channel that may be with the provider: our requests and our replies. Further ones
 * wait for the next round. */
enum { RT_RPC_SENDS = 2 * RT_RPC_REQUESTS_MAX };

/* A lookup of the peer that waits here. */
typedef struct rt_request {
    bool active;
    uint16_t request;
    int64_t deadline_ns;
    char name[RT_NAME_MAX + 1];
} rt_request;

/* The RPC state of a joined channel. */
struct rt_rpc {
    rt_region *region; /* one of the device's RPC regions, … */
    int64_t block;     /* … a block of it, … */
    uint8_t *buffers;  /* … and the block's bytes: RT_RPC_RECEIVES slots, then RT_RPC_SENDS */
    uint32_t receives; /* slots whose RECVs are with the provider, a bit each; of SENDs: rt_link.sends */
    uint16_t next_request;
    bool keying;      /* a key for the peer is being made: the service polls here too */
    bool blocked;     /* a SEND found the send queue full: its items retire only when a thread polls */
    int64_t reap_ns;  /* when to poll for SENDs that nobody else polls for, or INT64_MAX */
    rt_backoff reaps; /* … at growing intervals */
    rt_lookup lookups[RT_RPC_REQUESTS_MAX];
    rt_request requests[RT_RPC_REQUESTS_MAX];
    struct rt_edges *edges; /* the channel's edges; owned by the handler of edges */
};

int rt_rpc_open(rt_channel *channel, rt_detail *detail);              /* buffers and receives; RT_E_AGAIN: after the next round */
void rt_rpc_close(rt_channel *channel);                               /* links are quiet or gone, remotes detached */
void rt_rpc_received(rt_link *link, const rt_completion *completion); /* a RECV completed; called by the service */

/* A RECV ended without a message, because the link was shut. */
void rt_rpc_flushed(rt_link *link, uint32_t slot);

/* No RECV or SEND is with the provider. */
bool rt_rpc_quiet(const rt_channel *channel);
/* Sends encoded bytes; false when it must be tried again. A broken link fails the channel. */
bool rt_rpc_send(rt_channel *channel, const uint8_t *bytes, size_t size);

bool rt_rpc_run(rt_channel *channel);                  /* sends what waits, expires lookups; true when something moved */
int64_t rt_rpc_next_deadline(const rt_device *device); /* of pending lookups, or INT64_MAX */

/* Requests of ours that the peer has not answered. */
uint32_t rt_rpc_outstanding(const rt_channel *channel);
/* Requests of the peer's that wait here. */
uint32_t rt_rpc_pending(const rt_channel *channel);

#endif
