/* device.h: a device, the lists and tables that its lock guards, its clock, and the ways in which a
 * change is announced.
 *
 * Locks of these objects, in the order in which they may be taken (csrc/README.md, "Threads", has
 * the whole order): region->settling → device->lock (a recursive mutex: set-up, control plane,
 * names; never on the data path) → queue->turn (for polling a completion queue) →
 * queue->links_turn → link->turn (for posting on a link and retiring its work).
 * Arenas and channel->calls_turn come last, and are held for nanoseconds. No thread sleeps holding
 * link->turn or one of these last ones; a leader sleeps holding queue->turn (wait.c says how others
 * get past it). A lock is taken against this order only by trylock: hear_peer in upcalls.h. */
#ifndef RT_DEVICE_DEVICE_H
#define RT_DEVICE_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/status.h"
#include "base/table.h"
#include "base/waiter.h"
#include "device/queue.h"
#include "device/upcalls.h"
#include "proto/limits.h"
#include "provider/provider.h"
#include "rdmatensor.h"

typedef struct rt_link rt_link;
typedef struct rt_rpc_pool rt_rpc_pool;
typedef struct rt_service rt_service;

struct rt_device {
    const rt_provider *provider;
    const rt_device_upcalls *upcalls;
    rt_pdevice *pdevice;
    rt_limits limits;                        /* constant after open, as all down to `lock` */
    char order_reason[RT_ORDER_REASON_SIZE]; /* the provider's */
    uint8_t id[RT_DEVICE_ID_SIZE];
    uint32_t queue_count; /* for data; queues[queue_count] is the service queue */
    uint32_t links_per_peer;
    uint32_t pollers;
    rt_wait_mode wait;    /* of the policy that the opener chose; 0 in virtual time */
    uint32_t spins;       /* looks before an adaptive wait or a poller yields; 0 on one core */
    _Atomic bool patient; /* the last sleep of an adaptive wait was short: base/waiter.c */
    rt_queue *queues;
    int loop_fd;       /* epoll for event loops: all queues, plus loop_event_fd; -1 in virtual time */
    int loop_event_fd; /* written when an operation ends while `armed` */

    pthread_mutex_t lock;      /* guards the lists and tables down to `stats` */
    rt_list channels;          /* of rt_channel.node */
    rt_list listeners;         /* of rt_listener.node */
    rt_list regions;           /* of rt_region.node */
    _Atomic(rt_link *) *links; /* by link id; read by pollers too */
    uint32_t link_capacity;
    uint32_t next_queue;    /* round robin of links to queues */
    rt_service *service;    /* thread, epoll: service.c */
    rt_table names;         /* of rt_name.node: region/names.c … */
    uint32_t private_names; /* … and those of them that are published to one channel alone */
    rt_table edges;         /* of rt_edge.name_node: receiving edges by their names */
    struct rt_pools *pools; /* memory that no peer reaches: region/pool.c; NULL once closed */
    rt_region *anywhere;    /* stands for memory that is not registered, where limits.local_anywhere; constant */
    rt_rpc_pool *rpc_pool;  /* registered memory for RPC messages: rpc/buffers.c */
    bool lost;              /* RT_EVENT_DEVICE_LOST arrived; `failure` says why */
    rt_detail failure;
    uint64_t channels_lost, connects_refused;
    rt_device_stats stats; /* regions … registering_ns, kept by region.c; the rest is counted on request */
    char notices[512];     /* the newest RT_EVENT_NOTICE texts, for the dump */

    _Atomic uint32_t change;       /* bumped after every change that a waiting set-up call may look for */
    _Atomic uint32_t armed;        /* an event loop sleeps on loop_fd */
    _Atomic uint32_t news;         /* operations and channels that ended, … */
    _Atomic uint32_t news_told;    /* … and how many of them the event loop knew of when it last made progress */
    _Atomic uint64_t operations;   /* not finished */
    _Atomic bool stopping;         /* pollers must leave */
    _Atomic(rt_remote *) detached; /* remotes to detach once the lock is free: remote.c */
    _Atomic uint32_t references;   /* the opener's, and one per channel and listener; they keep the struct, not the device open */
    _Atomic bool closed;
    _Atomic uint32_t waiters; /* threads that wait for memory with the provider's help; closing the device waits for them */
    rt_device *next;          /* in the list of all devices of the process */
};

/* The struct and its queues live until the last reference is gone, so that a call on a channel after close finds its state. */
void rt_device_reference(rt_device *device);
void rt_device_unreference(rt_device *device);

/* rt_device_time is now, by the device's clock. The two others take device->lock: with the caller's
 * deadline, RT_E_AGAIN when it passed; without one, RT_E_DEADLINE after some seconds. */
int64_t rt_device_time(const rt_device *device);
int rt_device_lock_until(rt_device *device, int64_t deadline_ns, rt_detail *detail);
int rt_device_lock_patiently(rt_device *device, rt_detail *detail);
/* The time at which a call that waits returns at the latest: after its timeout or a slice. */
static inline int64_t rt_device_slice_end(const rt_device *device, int64_t timeout_ns)
{
    return rt_device_time(device) + (timeout_ns < RT_SLICE_NS ? timeout_ns : RT_SLICE_NS);
}
/* Announces a change to set-up waits (connect, accept, lookup, attach). */
void rt_device_changed(rt_device *device);
/* Waits for the next change after `seen` or until deadline_ns (device time), letting virtual time pass where time is
 * virtual. Called without device->lock. RT_OK, RT_E_AGAIN, RT_E_INTERRUPTED. */
int rt_device_wait_change(rt_device *device, uint32_t seen, int64_t deadline_ns);

/* Make an eventfd readable, and make it unreadable again. */
void rt_event_signal(int event_fd);
void rt_event_drain(int event_fd);
/* An operation or a channel has ended, and its state already shows it: wakes an event loop that
 * sleeps. */
void rt_device_tell(rt_device *device);

#endif
