/* core.h: the objects of core, who guards each of their members, and what the files of core offer each other.
 *
 * core owns the objects, drives proto over a provider, and decides by the provider's limits, never by its name.
 *
 * Locks, in the order in which they may be taken: region->settling → device->lock (a recursive mutex: set-up, control plane,
 * names; never on the data path) → queue->turn (who polls a completion queue) → queue->links_turn → link->turn (who posts
 * on a link and retires its work). Region arenas have a turn of their own, taken last and for nanoseconds. Nobody sleeps
 * holding link->turn or an arena's turn; a leader sleeps holding queue->turn (wait.c says how others get past it). Against
 * this order only by trylock: rt_control_last_words. */
#ifndef RT_CORE_H
#define RT_CORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/order.h"
#include "base/status.h"
#include "base/turn.h"
#include "proto/frame.h"
#include "proto/handle.h"
#include "proto/handshake.h"
#include "proto/limits.h"
#include "proto/rpc_message.h"
#include "provider/provider.h"
#include "rdmatensor.h"

typedef struct rt_link rt_link;
typedef struct rt_op rt_op;
typedef struct rt_queue rt_queue;
typedef struct rt_arena rt_arena;
typedef struct rt_control rt_control;
typedef struct rt_rpc rt_rpc;
typedef struct rt_rpc_pool rt_rpc_pool;
typedef struct rt_service rt_service;

/* ---- device.c ---- */

/* A completion queue of the device. The last one is the service queue: it takes RECVs and is polled by the service. */
struct rt_queue {
    rt_device *device;
    uint32_t index;
    rt_turn turn;             /* guards polling and arming; a leader sleeps with it */
    rt_turn links_turn;       /* guards `links`; taken after `turn`, before a link's turn */
    rt_list links;            /* of rt_link.queue_node */
    _Atomic uint32_t starved; /* links with operations that are not wholly posted */
    _Atomic uint32_t epoch;   /* bumped when a leader found something or left; followers sleep on it */
    _Atomic uint32_t followers;
    _Atomic uint32_t loop_wants; /* an event loop found the turn taken: who leaves it arms the queue */
    int kick_fd; /* eventfd: ends a leader's sleep; stays readable while links are starved where posting is copying */
    pthread_t poller;
    bool has_poller;
    struct rt_poller *several;     /* of the first queue of a poller that serves several: poller.c, as the next three */
    int poller_event;              /* likewise: what wakes that poller; open as long as kick_fd */
    int poller_fd;                 /* the same, in every queue that it serves */
    _Atomic uint32_t poller_wants; /* it found the turn taken: who leaves it wakes the poller */
};

struct rt_device {
    const rt_provider *provider;
    rt_pdevice *pdevice;
    rt_limits limits; /* constant after open, as all down to `lock` */
    uint8_t id[RT_DEVICE_ID_SIZE];
    uint32_t queue_count; /* for data; queues[queue_count] is the service queue */
    uint32_t links_per_peer;
    uint32_t pollers;
    uint32_t wait_policy;
    uint32_t spins;       /* looks before an adaptive wait yields; 0 on one core */
    _Atomic bool patient; /* the last sleep of such a wait was short: wait.c */
    rt_queue *queues;
    int loop_fd;       /* epoll for event loops: all queues, plus loop_event_fd; -1 in virtual time */
    int loop_event_fd; /* written when an operation ends while `armed` */

    pthread_mutex_t lock;      /* guards the lists and tables down to `stats` */
    rt_list channels;          /* of rt_channel.node */
    rt_list listeners;         /* of rt_listener.node */
    rt_list regions;           /* of rt_region.node */
    _Atomic(rt_link *) *links; /* by link id; read by pollers too */
    uint32_t link_capacity;
    uint32_t next_queue;            /* round robin of links to queues */
    rt_service *service;            /* thread, epoll, names: service.c and rpc.c */
    rt_list names;                  /* of rt_name.node: names.c */
    rt_list edges;                  /* of rt_edge.name_node: receiving edges by their names: edge.c */
    struct rt_edge_pool *edge_pool; /* registered memory of edges: edge_memory.c; NULL once closed */
    rt_region *anywhere;            /* stands for memory that is not registered, where limits.local_anywhere; constant */
    rt_rpc_pool *rpc_pool;          /* registered memory for RPC messages: rpc_buffers.c */
    bool lost;                      /* RT_EVENT_DEVICE_LOST arrived; `failure` says why */
    rt_detail failure;
    uint64_t channels_lost;
    rt_device_stats stats; /* regions … registering_ns, kept by region.c; the rest is counted on request */
    char notices[512];     /* the newest RT_EVENT_NOTICE texts, for the dump */

    _Atomic uint32_t change;       /* bumped after every change that a waiting set-up call may look for */
    _Atomic uint32_t armed;        /* an event loop sleeps on loop_fd */
    _Atomic uint32_t news;         /* operations and channels that ended, … */
    _Atomic uint32_t news_told;    /* … and how many of them the event loop knew when it last made progress */
    _Atomic uint64_t operations;   /* not finished */
    _Atomic bool stopping;         /* pollers leave */
    _Atomic(rt_remote *) detached; /* remotes to detach once the lock is free: remote.c */
    _Atomic uint32_t references;   /* the opener's, and one per channel and listener: of the struct, not of what it does */
    _Atomic bool closed;
    _Atomic uint32_t waiters; /* threads that wait for memory, with the provider's help: closing it waits for them */
    rt_device *next;          /* in the list of all devices of the process */
};

/* The struct and its queues live until the last reference is gone, so that a call on a channel after close finds its state. */
void rt_device_reference(rt_device *device);
void rt_device_unreference(rt_device *device);

/* Now, in the device's time. */
int64_t rt_device_time(const rt_device *device);

/* Announces a change to set-up waits (connect, accept, lookup, attach). */
void rt_device_changed(rt_device *device);

/* Waits for the next change after `seen` or until deadline_ns (device time), letting virtual time pass where time is
 * virtual. Called without device->lock. RT_OK, RT_E_AGAIN, RT_E_INTERRUPTED. */
int rt_device_wait_change(rt_device *device, uint32_t seen, int64_t deadline_ns);

/* The address at which the registration of a handle starts when its device lives in this process, or 0: lets overlapping
 * ends of a copy be found. Takes the lock of that device. */
uint64_t rt_device_alias(const rt_handle *handle);

/* True in a child made by fork: the entry point returns RT_E_FORKED. */
bool rt_forked(void);

/* ---- region.c, arena.c ---- */

struct rt_region {
    rt_device *device;  /* NULL once the region is closed */
    rt_list node;       /* in device->regions */
    rt_pmemory *memory; /* NULL once closed */
    uint8_t *address;
    uint64_t size;
    uint64_t mapped_size; /* of memory this library mapped; 0 for adopted memory */
    int descriptor;
    uint32_t rights;
    bool huge_pages;
    int64_t registering_ns;
    rt_list peer_keys;               /* of rt_peer_key.node, with RT_RIGHT_PER_PEER_KEYS: keys.c; device->lock */
    _Atomic uint32_t references;     /* the caller's, the registration's while it is open, and one per prepared copy */
    _Atomic uint32_t operations;     /* copies in flight that use it; close returns RT_E_BUSY meanwhile */
    _Atomic uint32_t bound;          /* prepared copies that use it; likewise */
    rt_arena *arena;                 /* NULL for adopted memory */
    _Atomic uint32_t deferred_count; /* quarantined blocks, in the arena */
    pthread_mutex_t settling;        /* one thread at a time decides about quarantined blocks; taken before device->lock */
};

/* The functions of rdmatensor.h that create, adopt, close and free take device->lock: call them without it. Allocating
 * and freeing take the arena's turn only, as long as no operation uses the region. */

void rt_region_reference(rt_region *region);
void rt_region_unreference(rt_region *region);

/* Whether an unfinished operation of the device uses local bytes of this range. Takes device->lock and link turns. */
bool rt_region_range_busy(rt_region *region, uint64_t offset, uint64_t size);

/* Frees quarantined blocks that nothing uses any more. Called without locks. Nobody has to: asking for the region's
 * statistics, running out of memory, freeing when nothing is in flight, and closing do it too. */
void rt_region_settle(rt_region *region);
/* The same, unless a thread is at it now. Who has device->lock, as the control plane when it frees what an edge had, must not wait for
 * who settles, since that takes device->lock. rt_region_free does no more than this. */
void rt_region_settle_now(rt_region *region);

/* What a handle of this range says, all but its key. RT_E_CLOSED, RT_E_ACCESS, RT_E_INVALID, RT_E_BOUNDS. */
int rt_region_describe(const rt_region *region, uint64_t offset, uint64_t size, rt_handle *handle_out, rt_detail *detail);

/* Closes all regions of a device that is being closed; no operation is left. Memory of created regions stays until drop.
 * Called without device->lock. */
void rt_region_close_all(rt_device *device);

/* ---- keys.c: what a region with RT_RIGHT_PER_PEER_KEYS gives; all with device->lock held ---- */

/* The handle for the peer of a READY channel. RT_E_AGAIN: its key is under way; poll the channel's queues and ask again. */
int rt_region_handle_for(rt_region *region, uint64_t offset, uint64_t size, rt_channel *channel, uint8_t *handle_out,
                         size_t *size_out, rt_detail *detail);
/* Whether the key of a handle is one that the region gave to a peer. */
bool rt_keys_include(const rt_region *region, const rt_handle *handle);
/* The region's memory is being released, or the channel's links are shut: the provider ends the keys, this forgets them. */
void rt_keys_forget_region(rt_region *region);
void rt_keys_forget_channel(const rt_channel *channel);

/* An arena serves blocks of a region in constant time. Its bookkeeping lies outside the region, where no peer can reach.
 * All functions are thread-safe through a turn of the arena. */
int rt_arena_create(uint64_t size, rt_arena **arena_out);
void rt_arena_destroy(rt_arena *arena);
/* Block as in rt_region_allocate, or RT_E_NO_MEMORY, RT_E_INVALID. */
int64_t rt_arena_allocate(rt_arena *arena, uint64_t size, uint64_t alignment);
/* RT_E_INVALID for a block that is not allocated: nothing is changed. */
int rt_arena_free(rt_arena *arena, int64_t block);
/* Offset and size of an allocated or deferred block. */
int rt_arena_range(rt_arena *arena, int64_t block, uint64_t *offset_out, uint64_t *size_out);
/* Takes an allocated block into quarantine: its caller gave it up, but its bytes are not served again before
 * rt_arena_reclaim. RT_E_INVALID for a block that is not allocated. */
int rt_arena_defer(rt_arena *arena, int64_t block);
/* RT_E_INVALID for a block that is not in quarantine. */
int rt_arena_reclaim(rt_arena *arena, int64_t block);
/* The quarantined block after this one, in no order; 0 asks for the first and is the answer at the end. */
int64_t rt_arena_next_deferred(rt_arena *arena, int64_t block);
typedef struct rt_arena_stats {
    uint64_t allocated_bytes, allocations, peak_bytes; /* without what is in quarantine; allocations: blocks now */
    uint64_t largest_free_bytes;                       /* what an allocation aligned to 64 is sure to get */
    uint64_t deferred_bytes, deferred;
} rt_arena_stats;
void rt_arena_get_stats(rt_arena *arena, rt_arena_stats *stats_out);

/* ---- link.c (set-up), post.c and poll.c (hot), op.c ---- */

/* What the direction of a copy that core itself makes (an edge's) says besides; callers' copies have nothing there. */
enum {
    RT_COPY_DIRECTION = 0xff,
    RT_COPY_JOINED = 0x100,       /* the next copy goes on where this one ends, in the same item if one can carry both */
    RT_COPY_IMMEDIATE = 0x200,    /* its last item is a WRITE_IMM … */
    RT_COPY_EVERY_PIECE = 0x400,  /* … or each of them */
    RT_COPY_IMMEDIATE_SHIFT = 32, /* of the immediate, in the upper half */
};

/* Where the next byte of an operation to post is. */
typedef struct rt_cursor {
    const rt_copy *copies; /* the caller's array, or &op->single */
    uint64_t count;
    uint64_t index;  /* the next copy to post … */
    uint64_t offset; /* … and where in it */
} rt_cursor;

/* A transfer that was not finished by the call that began it. Lives in its link's pool; guarded by link->turn, except
 * `state`, which waiters read. */
enum rt_op_state { RT_OP_FREE = 0, RT_OP_RUNNING = 1, RT_OP_DONE = 2 };

struct rt_op {
    _Atomic uint32_t state;
    uint32_t index;                                    /* in the pool */
    _Atomic int64_t number;                            /* that the caller holds, or 0: nobody wants it any more */
    uint64_t generation;                               /* part of the number, so that an old one finds nothing */
    int32_t status;                                    /* the first failure, or RT_OK */
    bool cancelled;                                    /* post no more of it */
    bool pinned;                                       /* its regions and remotes are counted as used */
    bool unwatched;                                    /* gives itself back when it ends well; else waits to be collected */
    uint32_t outstanding;                              /* posted items that are not retired */
    rt_cursor cursor;                                  /* what is not posted yet */
    rt_copy single;                                    /* the one copy, when it came without an array */
    rt_prepared *prepared;                             /* whose copies they are, or NULL; referenced while pinned */
    uint64_t writes, reads, bytes_written, bytes_read; /* of what was posted; added to the link's when it ends well */
    rt_list node; /* in link->starved_ops while not wholly posted; in link->doubted_ops; in link->free_ops when free */
};

typedef struct rt_inflight {
    rt_op *op; /* NULL: an RPC message, whose slot is `size` */
    uint64_t size;
    uint32_t opcode;
} rt_inflight;

struct rt_link {
    rt_channel *channel;
    rt_plink *plink;
    rt_queue *queue;
    uint32_t index;     /* in channel->links: the QP number that users give */
    uint32_t id;        /* in device->links: the upper half of tokens */
    rt_list queue_node; /* in queue->links */
    rt_turn turn;       /* guards all below */
    rt_inflight *ring;  /* posted items in order; ring_mask + 1 entries */
    uint32_t ring_mask;
    uint32_t depth;      /* items allowed in flight */
    uint32_t head, tail; /* free-running: posted, retired */
    uint32_t unsignaled; /* posted since the last signaled item */
    bool starved;        /* counted in queue->starved */
    bool shut;
    struct rt_receives *receives; /* RECVs for immediates, or NULL: edge_receives.c; device->lock */
    bool doubted;                 /* one of its items was refused, and why is not sure yet: doubt.c */
    rt_list doubted_ops;          /* failed since: over as soon as that is sure */
    rt_list starved_ops;
    rt_list free_ops;
    rt_op *ops;                           /* RT_OPS_PER_LINK */
    rt_channel_stats stats;               /* summed over links by rt_channel_get_stats */
    uint64_t last_posted, last_completed; /* sequence of work items, for the dump */
};

/* Creates `count` links of a channel, spread over the device's queues, and their address bytes. device->lock held. */
int rt_links_create(rt_channel *channel, uint32_t count, rt_detail *detail);
/* Destroys links from `keep` upwards; they are quiet. device->lock held. */
void rt_links_destroy(rt_channel *channel, uint32_t keep);
/* Shuts all links and fails what was not posted. device->lock held. */
void rt_links_shut(rt_channel *channel);
/* Whether every posted item has been retired. */
bool rt_links_quiet(rt_channel *channel);

/* Tokens: link id << 32 | position in the ring; receives have RT_TOKEN_RECEIVE set and carry their slot. */
#define RT_TOKEN_RECEIVE (1ull << 31)
static inline uint64_t rt_token(const rt_link *link, uint32_t low)
{
    return ((uint64_t)link->id << 32) | low;
}

/* Posts of an operation what the send queue takes, at most about `budget` bytes. Link turn held. RT_OK: all is posted.
 * RT_E_AGAIN: not yet. Another status: the link failed, `op` has the status, and the caller fails the channel after it left the turn. HOT. */
int rt_link_post(rt_link *link, rt_op *op, uint64_t budget);

/* Where posting is copying: WRITEs a few copies that are smaller than a message, as an operation only when they could not be finished at
 * once: *number_out is 0, or its number, to be settled by rt_op_settle. False: something is in the way, begin an operation. Link turn
 * held. HOT. */
enum { RT_SMALL_COPIES_MAX = 4 };
bool rt_link_post_small(rt_link *link, const rt_copy *copies, uint32_t count, int64_t *number_out);

/* Posts several small operations with one doorbell, at most RT_POST_BATCH. Those that did not go wholly have their cursors before
 * their ends; nothing of a later one goes before them. Link turn held; no operation is starved. RT_OK, or the link failed as above. HOT. */
int rt_link_post_together(rt_link *link, rt_op *const *ops, uint32_t count);

/* Whether all of it is with the provider: it needs nobody to move it on. */
bool rt_op_posted(rt_channel *channel, int64_t number);
/* Posts what can be posted of the link's starved operations, about `budget` bytes. Link turn held. Returns how many items
 * moved, or the status of a failed link as above. HOT. */
int64_t rt_link_pump(rt_link *link, uint64_t budget);

/* op.c; link turn held. Take gives NULL when the pool is empty. End is called when nothing of the operation is outstanding
 * or to be posted; it keeps the slot while the caller wants the number. */
rt_op *rt_op_take(rt_link *link);
void rt_op_end(rt_link *link, rt_op *op);
void rt_op_give(rt_link *link, rt_op *op);
void rt_op_starve(rt_link *link, rt_op *op);
void rt_op_fed(rt_link *link);

/* Posts one SEND of an RPC message and one RECV for one. RT_E_AGAIN: the send side is full, try again later. The SEND's
 * bytes are free when rt_rpc_sent(slot) is called. device->lock held. */
int rt_link_send(rt_link *link, const rt_segment *segment, uint32_t slot, rt_detail *detail);
int rt_link_receive(rt_link *link, const rt_segment *segment, uint32_t slot, rt_detail *detail);

/* Polls the queue once if nobody else does, retires completions, pumps starved links. Returns how many completions it
 * took plus how many pumps moved something, or a negative status. HOT. */
int rt_queue_step(rt_queue *queue);
/* The same with the queue's turn held. */
int rt_queue_step_held(rt_queue *queue);

/* Leaves the queue's turn: always by this. */
void rt_queue_leave(rt_queue *queue);

/* Sleeps until the queue may have something, as leader or follower, at most timeout_ns. wait.c explains. `seen` is queue->epoch as
 * it was before the caller looked for what it waits for. RT_OK, RT_E_AGAIN, RT_E_INTERRUPTED, or why it cannot be slept on. */
int rt_queue_sleep(rt_queue *queue, uint32_t seen, int64_t timeout_ns);
/* Bumps the queue's epoch and wakes its followers. */
void rt_queue_tell(rt_queue *queue);
/* Ends a leader's sleep. */
void rt_queue_kick(rt_queue *queue);
/* Takes kicks back, unless links are starved where posting is copying. Queue turn held. */
void rt_queue_unkick(rt_queue *queue);

/* Poller threads: poller.c. */
int rt_pollers_start(rt_device *device, rt_detail *detail);
void rt_pollers_stop(rt_device *device);

/* ---- channel.c ---- */

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
    rt_control *control;      /* its control connection: control.c; NULL once it is gone */
    rt_rpc *rpc;              /* its RPC state: rpc.c */
    _Atomic bool ending;      /* taken by the one who writes `failure` */
    _Atomic bool shut_wanted; /* the service shall shut the links: set with state FAILED */
    _Atomic bool links_shut;  /* nothing is placed through them any more, by either end */
    _Atomic bool died;        /* its control connection ended without a goodbye: set before `failure` says so */
    _Atomic uint32_t doubt;   /* rt_doubt: an operation was refused, which `refusal` describes */
    rt_detail refusal;        /* written once, before RT_DOUBT_OPEN */
    int64_t doubt_end_ns;     /* when a peer that said nothing counts as alive */
    bool counted_lost;
    int64_t settling_ns;           /* until when it waits for completions before it shuts the links, or 0 */
    int64_t ending_ns;             /* when the service first waited for its flush, or 0 */
    uint32_t queues_passed;        /* queues that nobody who could hold a pointer to a link polls any more: service_round.c */
    _Atomic uint32_t word_waiters; /* threads in rt_channel_wait_word, and for the dump … */
    _Atomic uint64_t word_expected, word_seen; /* … what the newest of them waits for and saw last */
};

/* A new channel in CONNECTING, listed, with one reference for the caller and one for the device. device->lock held. */
int rt_channel_create(rt_device *device, uint32_t link_count, rt_channel **channel_out, rt_detail *detail);

/* Moves to READY. device->lock held. */
void rt_channel_ready(rt_channel *channel);

/* Ends a channel: writes the failure if it is the first, sets FAILED (or CLOSED for RT_E_CLOSED), fails every operation not yet posted, wakes every
 * waiter and asks the service to shut the links. Any thread, with or without device->lock, also under a queue's turn. */
void rt_channel_fail(rt_channel *channel, const rt_detail *why);

/* The status that a call on a channel which is not READY returns; the detail may be NULL. */
int rt_channel_refuse(rt_channel *channel, rt_detail *detail);

/* ---- doubt.c: an operation that the peer's end refused; see there ---- */

enum rt_doubt { RT_DOUBT_NONE = 0, RT_DOUBT_WRITING, RT_DOUBT_OPEN };

/* An operation of the channel was refused: fails it with this detail, or as dead, as soon as either is sure. No link's turn held. */
void rt_channel_doubt(rt_channel *channel, const rt_detail *refusal);
/* How long the completions of a channel that failed may take to come by themselves. */
#define RT_SETTLE_NS (200 * RT_NS_PER_MS)
/* Whether the links of a failed channel may be shut: nothing more is to be learned from their completions. device->lock held. */
bool rt_channel_settled(rt_channel *channel);
/* Whether the channel has a refusal that stands: its peer is not known to be dead. */
bool rt_channel_refused(const rt_channel *channel);
/* Ends the doubt of a peer that said nothing for long enough. device->lock held. */
void rt_doubt_run(rt_channel *channel);
/* When that will be, or INT64_MAX. */
int64_t rt_doubt_deadline(const rt_channel *channel);
/* What a status that a provider reported for an operation means, now. */
int32_t rt_doubt_status(const rt_channel *channel, int32_t status);
/* Takes a failed operation with nothing outstanding that would end now; false: let it. Link turn held. */
bool rt_doubt_hold(rt_link *link, rt_op *op);
/* The channel has failed: ends what was held. Link turn held. */
void rt_doubt_release(rt_link *link);

void rt_channel_reference(rt_channel *channel);
void rt_channel_unreference(rt_channel *channel);

/* ---- remote.c ---- */

struct rt_remote {
    rt_channel *channel; /* holds a reference */
    rt_premote *premote;
    uint64_t offset; /* of the handle's range in the peer's registration */
    uint64_t size;
    uint32_t rights;
    uint64_t alias_address;      /* where the peer's registration starts when its device lives in this process, or 0 */
    _Atomic uint32_t references; /* the caller's, and one per copy in flight or prepared */
    rt_list node;                /* in the channel's rt_rpc.remotes while attached */
    rt_remote *next_detached;    /* in device->detached */
};
/* As rt_remote_attach, at once, of a peer's message: RT_E_AGAIN, and try again after the provider's next event. Overlap with memory
 * of this process is not looked for. device->lock held. */
int rt_remote_attach_now(rt_channel *channel, const uint8_t *handle, size_t size, rt_remote **remote_out, rt_detail *detail);
void rt_remote_reference(rt_remote *remote);
void rt_remote_unreference(rt_remote *remote);

/* ---- service.c: the control plane's thread. It sleeps in epoll on streams, listeners, the service queue and the
 * provider's own descriptor. In virtual time there is no thread: the provider's upcall runs rt_service_run. ---- */

int rt_service_start(rt_device *device, rt_detail *detail);
/* Ends the thread and detaches what remotes are left. Kicks are harmless until rt_service_free. Without device->lock. */
void rt_service_stop(rt_device *device);
void rt_service_free(rt_device *device);
/* Makes the service look at everything soon. Any thread, any lock. */
void rt_service_kick(rt_device *device);
/* Looks at everything: provider events, listeners, streams, receives, links to shut, deadlines. Takes device->lock. */
void rt_service_run(rt_device *device);
/* In virtual time, does what the control plane has to do now: of this device, or of all of the process that have virtual time. */
void rt_service_turn(rt_device *device);
void rt_devices_turn(void);
/* As rt_device_wait_change, and in virtual time does what the control plane has to do meanwhile. Without device->lock. */
int rt_service_wait(rt_device *device, uint32_t seen, int64_t deadline_ns);
/* Watches a descriptor, or changes what for, or forgets it. Every round looks at everything, whatever woke it. */
int rt_service_watch(rt_device *device, int descriptor, bool readable, bool writable, rt_detail *detail);
void rt_service_unwatch(rt_device *device, int descriptor);

/* ---- control.c: one control connection: stream, handshake, frames. Functions have device->lock held. ---- */

/* Moves the connection: reads, feeds the handshake, writes, joins links, notices death. Calls rt_channel_ready and
 * rt_channel_fail. True when something moved. */
bool rt_control_run(rt_channel *channel);
/* A link of the channel failed as links do whose peer is gone: fails the channel with what the peer said of it on its control
 * connection, if it said anything. Takes device->lock (which its owner may take again) for at most 5 ms; no link's turn held. */
void rt_control_last_words(rt_channel *channel);
/* Says BYE (RT_E_CLOSED) or ERROR with the failure, as far as the stream takes it without waiting, and closes. */
void rt_control_end(rt_channel *channel, const rt_detail *why);
/* Where the handshake or connection stands, for the dump; as snprintf. */
int rt_control_describe(const rt_channel *channel, char *text_out, size_t capacity);

/* ---- listener.c ---- */
/* Accepts who waits and moves those that are not channels yet. device->lock held. */
bool rt_listener_run(rt_listener *listener);
/* Closes the port, turns away who is not accepted yet. The struct stays the caller's until rt_listener_close. device->lock held. */
void rt_listener_close_locked(rt_listener *listener);

/* ---- edge_memory.c; all else of edges is in edge.h ---- */
int rt_edges_device_open(rt_device *device, rt_detail *detail);
void rt_edges_device_close(rt_device *device); /* device->lock held; all channels are gone */

/* ---- names.c, rpc.c: address distribution; all with device->lock held unless it says otherwise ---- */
int rt_rpc_device_open(rt_device *device, rt_detail *detail); /* registers nothing yet; any lock */
void rt_rpc_device_close(rt_device *device);             /* frees names, gives up RPC regions: rt_region_close_all closes them */
void rt_names_forget(const rt_region *region);           /* the region is being closed: its names go */
int rt_rpc_open(rt_channel *channel, rt_detail *detail); /* buffers and receives; RT_E_AGAIN: after the next round */
void rt_rpc_close(rt_channel *channel);                  /* links are quiet or gone, remotes detached */
void rt_rpc_received(rt_link *link, const rt_completion *completion); /* a RECV completed; from the service */
void rt_rpc_sent(rt_channel *channel,
                 uint32_t slot);      /* a SEND completed; under a queue's turn, WITHOUT device->lock: atomics only */
bool rt_rpc_run(rt_channel *channel); /* sends what waits, expires lookups; true when something moved */
int64_t rt_rpc_next_deadline(const rt_device *device); /* of pending lookups, or INT64_MAX */

#endif
