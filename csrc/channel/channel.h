/* channel.h: a connection to a peer's device: its links, its state, and the failure that ended
 * it. */
#ifndef RT_CHANNEL_CHANNEL_H
#define RT_CHANNEL_CHANNEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/status.h"
#include "base/turn.h"
#include "proto/limits.h"
#include "provider/provider.h"
#include "rdmatensor.h"
#include "region/names.h"
#include "region/pool.h"

typedef struct rt_control rt_control;
typedef struct rt_link rt_link;
typedef struct rt_rpc rt_rpc;

enum rt_doubt { RT_DOUBT_NONE = 0, RT_DOUBT_WRITING, RT_DOUBT_OPEN };

/* How long the completions of a failed channel may take to arrive before the links are shut. */
#define RT_SETTLE_NS (200 * RT_NS_PER_MS)

struct rt_channel {
    rt_device *device;           /* valid until the device is closed, which closes the channel first */
    rt_list node;                /* in device->channels until the channel is dead and quiet */
    _Atomic uint32_t references; /* the caller's; the device's while it is listed; one per remote and prepared copy */
    _Atomic int32_t state;       /* rt_channel_state; stored with release after what it announces */
    uint32_t link_count;
    uint32_t link_capacity; /* of `links`, whose memory stays until the channel is freed: operation numbers refer to it */
    rt_link *links;
    bool links_gone; /* the provider's links are destroyed */
    uint8_t link_addresses[RT_LINKS_PER_CHANNEL_MAX][RT_LINK_ADDRESS_SIZE_MAX];
    uint8_t link_address_sizes[RT_LINKS_PER_CHANNEL_MAX];
    uint8_t peer_id[RT_DEVICE_ID_SIZE];
    char peer[RT_PEER_TEXT_MAX + 1];
    rt_detail failure;        /* written once, before state becomes FAILED or CLOSED */
    rt_control *control;      /* its control connection, owned by control/; NULL once that is gone */
    rt_rpc *rpc;              /* its RPC state: rpc/carrier.c */
    rt_peer_pools pools;      /* memory that the peer reaches; open while the RPC is */
    rt_private_names names;   /* published to the peer alone; device->lock */
    rt_turn calls_turn;       /* taken last, for a few instructions; guards … */
    rt_list called;           /* … the list of its edges that need the service: edge/attend.c */
    rt_list remotes;          /* of rt_remote.node: links live as long as these are attached; device->lock */
    _Atomic bool ending;      /* taken by the thread that writes `failure` */
    _Atomic bool shut_wanted; /* the service must shut the links: set with state FAILED */
    _Atomic bool links_shut;  /* neither end places anything through them any more */
    _Atomic bool died;        /* its control connection ended without a BYE: set before `failure` says so */
    _Atomic uint32_t doubt;   /* rt_doubt: an operation was refused; `refusal` describes it */
    rt_detail refusal;        /* written once, before RT_DOUBT_OPEN */
    int64_t doubt_end_ns;     /* when a silent peer is taken to be alive */
    bool any_user, was_ready, counted_lost, unanswered;
    int64_t settling_ns;           /* until when it waits for completions before the links are shut, or 0 */
    int64_t ending_ns;             /* when the service first waited for the links' flush, or 0 */
    uint32_t queues_passed;        /* queues whose pollers can no longer hold a pointer to one of our links: assembly/round.c */
    _Atomic uint32_t word_waiters; /* threads in rt_channel_wait_word; for the dump … */
    _Atomic uint64_t word_expected, word_seen; /* … the value that the newest of them waits for, and the value it saw last */
};

static inline bool rt_channel_is_ready(const rt_channel *channel)
{
    return atomic_load_explicit(&channel->state, memory_order_acquire) == RT_CHANNEL_READY;
}

/* A new channel in CONNECTING, listed, one reference the caller's, one the device's; any_user as in rt_plink. device->lock held. */
int rt_channel_create(rt_device *device, uint32_t link_count, bool any_user, rt_channel **channel_out, rt_detail *detail);

/* Moves to READY. device->lock held. */
void rt_channel_ready(rt_channel *channel);

/* Ends a channel: writes the failure if it is the first, sets FAILED (or CLOSED for RT_E_CLOSED),
 * fails every operation not yet posted, wakes every waiter and asks the service to shut the links.
 * Any thread, with or without device->lock, also under a queue's turn. */
void rt_channel_fail(rt_channel *channel, const rt_detail *why);

/* Returns the status for a call on a channel that is not READY; the detail may be NULL. */
int rt_channel_refuse(rt_channel *channel, rt_detail *detail);

void rt_channel_reference(rt_channel *channel);
void rt_channel_unreference(rt_channel *channel);

/* Fails the link's channel because of a local or completion error while `doing`. No turn held. */
void rt_link_fail(rt_link *link, int status, const char *doing);
/* An operation failed, and the thread that found it is about to fail the channel: waits a moment
 * for that. No turn held. */
void rt_channel_await_failure(const rt_channel *channel);
/* Writes the reason why an operation ended with `status`: the channel's failure where that is the
 * cause. Returns the status. */
int rt_channel_explain(rt_channel *channel, int status, rt_detail *detail);

#endif
