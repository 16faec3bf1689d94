/* sim.h: the simulated fabric, private to provider/sim. All parties live in one process and one
 * thread, in virtual time.
 *
 * A world is one fabric: its devices, a heap of events, one random generator, a trace. Every change
 * comes from an event, and events happen only inside `advance`; so the same seed and the same calls
 * give the same trace. No randomness comes from time, addresses or hash order. Within its stated
 * limits the fabric reorders, delays and tears (deliver.c says how).
 *
 * Thread rule: a world belongs to the thread that opened its first device. Set-up calls from
 * another one are refused. */
#ifndef RT_PROVIDER_SIM_H
#define RT_PROVIDER_SIM_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "provider/provider.h"

enum {
    SIM_PIECES_MAX = 8, /* parts of one WRITE or READ, each placed at a time of its own */
    SIM_NAME_SIZE = RT_DEVICE_NAME_SIZE,
    SIM_RNR_TRIES = 6,           /* times a SEND finds no RECV before it fails: RDMA-RULES 20 */
    SIM_RETRY_STEPS = 8,         /* looks at a blocked path within the retry time */
    SIM_STREAM_CAPACITY = 16384, /* bytes of one direction of a stream; three of the largest frames */
    SIM_STREAM_FRAGMENT_MAX = 256,
    SIM_REFERENCE_SIZE = 24, /* link addresses and memory keys on the wire */
};

#define SIM_TIME_MAX (INT64_C(1) << 62)
#define SIM_TICK_NS 10000000ll /* every device is served at least this often, for the deadlines of its control plane */
#define SIM_NEVER (-1ll)
#define SIM_UNLIMITED UINT64_MAX

typedef struct sim_world sim_world;
typedef struct sim_device sim_device;
typedef struct sim_link sim_link;
typedef struct sim_event sim_event;

/* ---- event.c: a binary heap of events keyed by (time, sequence), and the random generator ---- */

/* An event is part of the object it concerns. Its place in the heap is reserved when that object is made, so that
 * scheduling never fails and never allocates. */
struct sim_event {
    int64_t at_ns;
    uint64_t sequence; /* the order of scheduling decides between equal times */
    void (*fire)(sim_world *world, sim_event *event);
    uint32_t place; /* in the heap, from 1; 0: not scheduled */
};

typedef struct sim_heap {
    sim_event **events; /* from index 1 */
    uint32_t count, capacity, reserved;
    uint64_t sequence;
} sim_heap;

typedef struct sim_random {
    uint64_t state[4];
} sim_random;

int rt_sim_heap_reserve(sim_heap *heap, uint32_t count);
void rt_sim_heap_unreserve(sim_heap *heap, uint32_t count);
/* Schedules an event, or moves one that is scheduled. */
void rt_sim_schedule(sim_heap *heap, sim_event *event, int64_t at_ns);
void rt_sim_cancel(sim_heap *heap, sim_event *event);
sim_event *rt_sim_heap_first(const sim_heap *heap);
void rt_sim_random_seed(sim_random *random, uint64_t seed);
uint64_t rt_sim_random(sim_random *random);
/* Even over 0 … bound-1; 0 for a bound of 0. */
uint64_t rt_sim_random_below(sim_random *random, uint64_t bound);
uint64_t rt_sim_mix(uint64_t value);

/* ---- reference.c ---- */

/* Objects by number. A reference is a slot and the nonce of the object that was in it, so a stale
 * reference finds no object. */
typedef struct sim_table {
    void **entries;
    uint32_t *free_slots;
    uint32_t count, capacity, free_count;
} sim_table;

typedef struct sim_reference {
    uint32_t slot;
    uint64_t nonce;
} sim_reference;

int rt_sim_table_add(sim_table *table, void *object, uint32_t *slot_out);
void *rt_sim_table_get(const sim_table *table, uint32_t slot);
void rt_sim_table_remove(sim_table *table, uint32_t slot);
void rt_sim_reference_write(uint8_t *bytes_out, uint32_t magic, const sim_world *world, uint32_t device, sim_reference reference);
bool rt_sim_reference_read(const uint8_t *bytes, size_t size, uint32_t magic, const sim_world *world, uint32_t *device_out,
                           sim_reference *reference_out);

/* ---- world.c ---- */

enum sim_call {
    SIM_CALL_OPEN,
    SIM_CALL_MEMORY_REGISTER,
    SIM_CALL_MEMORY_KEY,
    SIM_CALL_LINK_CREATE,
    SIM_CALL_LINK_CONNECT,
    SIM_CALL_REMOTE_ATTACH,
    SIM_CALL_POST,
    SIM_CALL_LISTEN,
    SIM_CALL_ACCEPT,
    SIM_CALL_CONNECT,
    SIM_CALL_COUNT
};

typedef struct sim_refusal {
    uint64_t nth; /* calls from now until the one that fails; 0: none */
    int status;
} sim_refusal;

typedef struct sim_cut {
    char one[SIM_NAME_SIZE], other[SIM_NAME_SIZE];
    rt_list node;
} sim_cut;

/* A fault that waits for its time, or for a count of events. command.c sets what it does, in `event.fire`. */
typedef struct sim_due {
    sim_event event;
    rt_list node;         /* in world->faults */
    bool indexed;         /* waits for event_index rather than for a time */
    uint64_t event_index; /* the count of events at which it is executed */
} sim_due;

struct sim_world {
    rt_list node; /* in the list of worlds */
    char name[SIM_NAME_SIZE];
    uint32_t name_hash; /* part of every reference, so that none is valid in two worlds */
    pthread_t owner;
    uint64_t seed;
    sim_random random;
    sim_heap heap;
    int64_t now_ns, tick_ns; /* tick_ns: the next tick */
    uint32_t depth;          /* of nested advances */
    uint64_t trace_hash, event_count;
    rt_list devices; /* of sim_device.node, in the order of opening */
    rt_list waiting; /* of sim_device.waiting_node: devices to be served */
    uint32_t device_next, link_next, port_next;
    sim_table links, memories, windows;
    rt_list listeners, connections; /* stream.c */
    rt_list cuts, faults;           /* of sim_cut.node; of sim_due.node */
    uint32_t indexed_faults;        /* of those, how many wait for an event count */
    uint64_t drop_per_2_32;
    int64_t delay_min_ns, delay_max_ns; /* added to everything that travels */
    bool tears;
    sim_refusal open_refusal;
};

/* Finds a world; NULL when there is none. */
sim_world *rt_sim_world_find(const char *name);
/* Finds or makes the world that a device is to be opened in; rt_sim_world_leave destroys a fresh
 * one that stayed empty. */
int rt_sim_world_enter(const char *name, bool has_seed, uint64_t seed, sim_world **world_out, rt_detail *detail);
/* Destroys the world when it has no device left. */
void rt_sim_world_leave(sim_world *world);
/* RT_OK on the thread that owns the world. */
int rt_sim_world_owned(const sim_world *world, const char *what, rt_detail *detail);
sim_device *rt_sim_party_find(const sim_world *world, const char *name);
/* Keeps a fault until it fires at `at_ns`, or now if that is past; an indexed one when its event_index is reached. The world
 * owns it from then on: `remove` ends and frees it. */
int rt_sim_due_add(sim_world *world, sim_due *due, int64_t at_ns);
void rt_sim_due_remove(sim_world *world, sim_due *due);
void rt_sim_trace(sim_world *world, uint32_t kind, uint64_t one, uint64_t two, uint64_t three);
bool rt_sim_path_cut(const sim_world *world, const sim_device *one, const sim_device *other);
/* The travel time of a packet, with its seeded part; `other` may be NULL. */
int64_t rt_sim_latency(sim_world *world, const sim_device *one, const sim_device *other);
int64_t rt_sim_now_ns(rt_pdevice *pdevice);
int rt_sim_advance(rt_pdevice *pdevice, int64_t until_ns);

/* ---- arguments.c, device.c ---- */

typedef struct sim_arguments {
    char world[SIM_NAME_SIZE];
    bool has_seed;
    uint64_t seed;
    rt_limits limits;
    uint64_t latency_ns, jitter_ns, bytes_per_us, retry_ns;
    bool hesitates;
} sim_arguments;

void rt_sim_arguments_default(sim_arguments *arguments_out);
/* Parses "key=value&key=value". RT_E_INVALID names the key that is unknown or has a bad value. */
int rt_sim_arguments_parse(const char *text, sim_arguments *arguments_out, rt_detail *detail);

typedef struct sim_entry {
    rt_completion completion;
    sim_link *link;
    uint32_t position; /* in the link's send ring: polling it frees the ring up to here, as on a real NIC (RDMA-RULES 23) */
} sim_entry;

typedef struct sim_queue {
    sim_entry *entries;
    uint32_t capacity, head, tail; /* free-running; the capacity is a power of two */
    uint64_t reserved;             /* completions that the links on it can have outstanding */
    bool overrun;
} sim_queue;

struct sim_device {
    rt_pdevice base;
    sim_world *world;
    rt_upcalls upcalls;
    uint32_t id; /* in the order of opening, from 0 */
    rt_list node, waiting_node;
    uint32_t queue_count; /* the service queue included, which is the last */
    sim_queue *queues;
    int64_t latency_ns, jitter_ns, retry_ns;
    uint64_t bytes_per_us;
    int64_t egress_free_ns, ingress_free_ns; /* when its NIC has sent, and has taken, all bytes that were given to it */
    bool hesitates, attach_hesitated;
    bool dead, paused;
    bool happened; /* ends the device's next advance */
    bool death_untold, progress_untold;
    sim_event nudge; /* serves the device: an object that it waited for is there */
    rt_list links;   /* of sim_link.node */
    rt_list lost;    /* of sim_link.lost_node: links whose loss is untold */
    rt_list windows; /* of sim_window.node */
    uint32_t link_count, memory_count, stream_count, listener_count;
    uint32_t epoch; /* of memory_sleep */
    sim_refusal refusals[SIM_CALL_COUNT];
    uint64_t corrupt_at, truncate_at; /* position in each stream that the device writes; SIM_UNLIMITED: nowhere */
    uint8_t corrupt_mask;
};

int rt_sim_viable(rt_detail *detail);
int rt_sim_list(rt_device_info *infos_out, int capacity, rt_detail *detail);
int rt_sim_open(const rt_open_options *options, rt_pdevice **device_out, rt_detail *detail);
void rt_sim_close(rt_pdevice *pdevice);
void rt_sim_kill(sim_device *device);
void rt_sim_pause(sim_device *device, bool paused);
int rt_sim_service_fd(rt_pdevice *pdevice);
void rt_sim_service(rt_pdevice *pdevice, rt_event *event_out);

/* ---- party.c ---- */

/* Ends the device's next advance; with `serve`, its control plane is called too. */
void rt_sim_happen(sim_device *device, bool serve);
/* Serves the device at a time, with an RT_EVENT_PROGRESS if `progress`. */
void rt_sim_nudge(sim_device *device, int64_t at_ns, bool progress);
void rt_sim_nudge_fire(sim_world *world, sim_event *event);
/* Whether the fault plan fails this call; then the plan's status is returned with its detail. */
int rt_sim_refused(sim_device *device, enum sim_call call, const char *name, rt_detail *detail);
int rt_sim_refusal_take(sim_refusal *refusal);

/* ---- queue.c ---- */

/* Make room for the completions of a link, as far as limits.completion_depth allows, and give it
 * back. */
int rt_sim_queue_reserve(sim_device *device, uint32_t queue, uint32_t count);
void rt_sim_queue_unreserve(sim_device *device, uint32_t queue, uint32_t count);
/* Drops the completions of a link that were not polled. */
void rt_sim_queue_forget(sim_device *device, uint32_t queue, const sim_link *link);
void rt_sim_complete(sim_device *device, uint32_t queue, const sim_entry *entry);
int rt_sim_poll(rt_pdevice *pdevice, uint32_t queue, rt_completion *completions_out, uint32_t capacity);
int rt_sim_arm(rt_pdevice *pdevice, uint32_t queue);
int rt_sim_event_fd(rt_pdevice *pdevice, uint32_t queue);
void rt_sim_event_clear(rt_pdevice *pdevice, uint32_t queue);

/* ---- memory.c ---- */

typedef struct sim_item sim_item;

typedef struct sim_memory {
    rt_pmemory base;
    sim_device *device;
    sim_reference reference;
} sim_memory;

typedef struct sim_remote {
    rt_premote base;
    sim_reference reference;
    bool windowed; /* it names a window, not the memory */
} sim_remote;

int rt_sim_memory_register(rt_pdevice *pdevice, const rt_memory *memory, rt_pmemory **out, rt_detail *detail);
void rt_sim_memory_release(rt_pdevice *pdevice, rt_pmemory *memory);
int rt_sim_memory_key(rt_pdevice *pdevice, rt_pmemory *memory, rt_plink *const *links, uint32_t link_count, uint8_t *key_out,
                      size_t *size_out, rt_detail *detail);
int rt_sim_remote_attach(rt_plink *plink, const uint8_t *key, size_t key_size, uint64_t size, uint32_t access, rt_premote **out,
                         rt_detail *detail);
void rt_sim_remote_detach(rt_plink *plink, rt_premote *remote);
/* The registered memory of the target's device that the item's key names, given that its packets
 * arrive through `target`; or NULL. */
const sim_memory *rt_sim_memory_reached(const sim_link *target, const sim_item *item);
uint32_t rt_sim_memory_epoch(rt_pdevice *pdevice);
int rt_sim_memory_sleep(rt_pdevice *pdevice, uint32_t epoch, int64_t timeout_ns);
void rt_sim_memory_wake(rt_pdevice *pdevice);

/* ---- window.c ---- */

/* The object behind a key for one peer: memory, as it is reached through some links. */
typedef struct sim_window {
    rt_list node; /* in its device's windows */
    sim_memory *memory;
    sim_reference reference;
    uint32_t link_count;
    const sim_link *links[RT_MEMORY_KEY_LINKS_MAX];
} sim_window;

/* Finds or makes the window of the memory for the links. RT_E_CLOSED when one of them is not joined any more. */
int rt_sim_window_take(sim_memory *memory, rt_plink *const *links, uint32_t link_count, sim_reference *reference_out);
/* Ends the windows of a device that use the memory, or the link; the other one is NULL. */
void rt_sim_windows_end(sim_device *device, const sim_memory *memory, const sim_link *link);
/* The memory of the window as reached through a link; NULL when there is no such window, or it is not of this link. */
const sim_memory *rt_sim_window_memory(const sim_link *target, sim_reference reference);

/* ---- link.c ---- */

/* The cause that a party's own device reports with a completion: rt_completion.foreign_status. */
enum sim_cause {
    SIM_CAUSE_NONE = 0,
    SIM_CAUSE_FLUSH,          /* dropped: the link failed or was shut */
    SIM_CAUSE_REMOTE_ACCESS,  /* key, bounds or right, found at the target */
    SIM_CAUSE_REMOTE_REQUEST, /* the message is larger than the RECV it met */
    SIM_CAUSE_LOCAL_LENGTH,   /* likewise, at the receiver */
    SIM_CAUSE_RETRY,          /* no answer within the retry time */
    SIM_CAUSE_NO_RECEIVE,     /* the peer had no RECV posted */
    SIM_CAUSE_DEVICE,         /* this device was killed */
    SIM_CAUSE_COUNT
};

enum sim_phase {
    SIM_PHASE_QUEUED,     /* behind a fence or the read depth */
    SIM_PHASE_PLACING,    /* the next piece is under way */
    SIM_PHASE_DELIVERING, /* all pieces are placed; the RECV is next */
    SIM_PHASE_ANSWERING,  /* the answer is under way to the initiator */
    SIM_PHASE_DONE,       /* waits for earlier items to retire */
};

typedef struct sim_piece {
    int64_t at_ns;
    uint64_t offset, size;
} sim_piece;

struct sim_item {
    sim_event event;
    sim_link *link;
    uint32_t position; /* in the ring, free-running */
    uint8_t opcode, flags, phase, piece_count, piece_next;
    uint16_t segment_count;
    uint32_t immediate;
    int32_t status;
    uint32_t cause;
    uint64_t token, remote_offset, size;
    sim_reference remote;
    bool windowed;
    int64_t deliver_ns;               /* when a SEND or WRITE_IMM meets its RECV */
    int64_t blocked_since_ns;         /* SIM_NEVER: its last packet found a way */
    sim_piece pieces[SIM_PIECES_MAX]; /* in the order of their times */
    rt_segment *segments;             /* limits.segments_max of them */
    uint8_t *inline_bytes;            /* limits.inline_size_max */
};

typedef struct sim_receive {
    uint64_t token;
    rt_segment *segments;
    uint16_t segment_count;
} sim_receive;

enum sim_link_state { SIM_LINK_NEW, SIM_LINK_JOINED, SIM_LINK_ERROR };

struct sim_link {
    rt_plink base;
    sim_device *device;
    uint32_t id; /* for the trace: in the order of creation in the world */
    sim_reference self, peer;
    uint32_t peer_device;
    enum sim_link_state state;
    bool hesitated;
    rt_list node, lost_node;
    rt_detail loss;
    sim_event flush; /* outstanding items complete with RT_E_FLUSHED */

    /* The send ring. Positions run freely: released ≤ retired ≤ started ≤ posted. */
    sim_item *items;
    uint32_t mask, posted, started, retired, released;
    uint32_t reads;         /* in progress */
    int64_t write_floor_ns; /* when the last of the WRITEs, WRITE_IMMs and SENDs so far is placed */
    int64_t receive_floor_ns;
    uint32_t rnr_tries;
    bool refused; /* the target refused `refused_position`: it executes no item after that */
    uint32_t refused_position;

    sim_receive *receives;
    uint32_t receive_mask, receive_head, receive_tail;
    void *storage; /* of segments and inline bytes */
};

int rt_sim_link_create(rt_pdevice *pdevice, uint32_t send_queue, uint32_t receive_queue, rt_plink **link_out,
                       uint8_t *address_out, size_t *address_size_out, rt_detail *detail);
int rt_sim_link_connect(rt_plink *plink, const uint8_t *peer_address, size_t size, rt_detail *detail);
void rt_sim_link_destroy(rt_plink *plink);
int rt_sim_link_describe(rt_plink *plink, char *text_out, size_t capacity);

static inline sim_item *rt_sim_item_at(const sim_link *link, uint32_t position)
{
    return &link->items[position & link->mask];
}

/* ---- failure.c ---- */

/* The other end, joined to this one and able to answer, or NULL. Cuts are not considered. */
sim_link *rt_sim_link_peer(const sim_link *link);
/* Fails the oldest outstanding item with a status and flushes the rest; without an item the loss is an event. */
void rt_sim_link_fail(sim_link *link, int status, uint32_t cause);
/* Ends a link of a killed device at once. */
void rt_sim_link_kill(sim_link *link);
/* Flushes outstanding items, and those that will be posted, a little later. */
void rt_sim_link_flush_soon(sim_link *link);
void rt_sim_link_flush_fire(sim_world *world, sim_event *event);
void rt_sim_link_shut(rt_plink *plink);
/* Completes the oldest RECV of a link. */
void rt_sim_receive_complete(sim_link *link, int status, uint32_t cause, uint32_t size, const uint32_t *immediate);
const char *rt_sim_completion_name(uint32_t cause);

/* ---- post.c: taking work and starting it; deliver.c: its course after that ---- */

int rt_sim_post(rt_plink *plink, const rt_work *items, uint32_t count, rt_posted *posted_out);
/* Starts queued items as far as fences and the read depth allow. */
void rt_sim_link_start(sim_link *link);
void rt_sim_item_fire(sim_world *world, sim_event *event);

/* ---- stream.c ---- */

extern const rt_stream_ops rt_sim_streams;
/* Ends the streams of a killed device as its kernel would: bytes already written still arrive, then
 * the end. */
void rt_sim_streams_kill(sim_device *device);

/* ---- command.c ---- */

int rt_sim_command(const char *text, char *reply_out, size_t capacity, rt_detail *detail);

/* The kinds of trace entries. */
enum sim_trace {
    SIM_TRACE_PIECE = 1,
    SIM_TRACE_READ,
    SIM_TRACE_DELIVER,
    SIM_TRACE_ANSWER,
    SIM_TRACE_REFUSE,
    SIM_TRACE_STALL,
    SIM_TRACE_FAIL,
    SIM_TRACE_FLUSH,
    SIM_TRACE_STREAM,
    SIM_TRACE_STREAM_END,
    SIM_TRACE_HELLO,
    SIM_TRACE_NUDGE,
    SIM_TRACE_FAULT,
};

#endif
