/* rdmatensor.h: the C interface of rdmatensor. cffi reads its marked slice, after that of
 * base/status.h, so there is no second copy: between the marks stand only declarations, enums with
 * values, plain #defines and opaque structs.
 *
 * Ownership: *_open, *_create, *_attach and *_accept give an object to the caller, who ends it with
 * the paired call. The paired call is idempotent in Python, but not here. Strings and byte
 * arguments are copied unless the comment says otherwise.
 * Threads: any thread may call any function. Two threads may use one object at once, but neither
 * may end it meanwhile.
 * Waiting: a function that waits takes timeout_ns, sleeps at most RT_SLICE_NS per call and then
 * returns RT_E_AGAIN, so that the caller can check for signals; it returns RT_E_INTERRUPTED at once
 * when a signal arrives. Python loops until its deadline.
 * Fork: in a child that was forked while a device was open, every function returns RT_E_FORKED (or
 * NULL, or 0) and touches nothing. A child forked while no device was open uses the library as any
 * process does. */
#ifndef RDMATENSOR_H
#define RDMATENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* <cffi> */
/* Whether this process was forked while a device was open: the objects here are the parent's. */
int rt_process_forked(void);

#define RT_SLICE_NS 50000000

typedef struct rt_device rt_device;
typedef struct rt_region rt_region;
typedef struct rt_listener rt_listener;
typedef struct rt_channel rt_channel;
typedef struct rt_remote rt_remote;
typedef struct rt_prepared rt_prepared;
typedef struct rt_edge rt_edge;

enum rt_direction { RT_WRITE = 1, RT_READ = 2 };

/* Rights of a region, by purpose. The target of a READ and the source of a WRITE need none. */
enum rt_rights {
    RT_RIGHT_REMOTE_WRITE = 2,  /* peers may WRITE here */
    RT_RIGHT_REMOTE_READ = 4,   /* peers may READ here */
    RT_RIGHT_RELAXED_ORDER = 8, /* the bus may reorder: payload only, never flags */
    /* Each channel that looks the region up gets a key of its own, which no other channel can use and which is dead once the
     * channel is closed or failed. Needs limits.keys_per_peer and at most 8 QPs per peer, else RT_E_UNSUPPORTED. */
    RT_RIGHT_PER_PEER_KEYS = 16,
    RT_RIGHT_READ_ONLY = 32, /* the caller's memory, mapped to be read: a source alone, not with REMOTE_WRITE */
};

enum rt_wait_policy {
    RT_WAIT_ADAPTIVE = 0, /* spin a little, yield a little, then block */
    RT_WAIT_SPIN = 1,     /* spin until the end: lowest latency on a dedicated core */
    RT_WAIT_YIELD = 2,    /* yield the core between checks */
    RT_WAIT_BLOCK = 3,    /* block at once: lowest CPU use */
};

enum rt_huge_pages { RT_HUGE_AUTO = 0, RT_HUGE_OFF = 1, RT_HUGE_REQUIRE = 2 };

enum rt_channel_state {
    RT_CHANNEL_CONNECTING = 0,
    RT_CHANNEL_READY = 1,
    RT_CHANNEL_CLOSED = 2, /* by this side */
    RT_CHANNEL_FAILED = 3, /* the detail says why */
};

/* Limits and promises of an opened device; the words are those of provider.h. */
typedef struct rt_device_limits {
    uint64_t message_size_max, region_size_max;
    uint32_t region_count_max, link_count_max, completion_queue_max, work_depth, receive_depth, completion_depth;
    uint32_t read_depth, segments_max, inline_size_max, send_size_max;
    uint8_t completes_in_post, orders_writes, orders_bytes_within_a_write, places_words_whole, can_wake_receiver;
    uint8_t carries_immediate, reaches_gpu_memory, exposes_caller_memory, pins_memory, maps_remote;
    uint8_t local_anywhere, keys_per_peer, virtual_time, immediate_covers_earlier;
} rt_device_limits;

typedef struct rt_device_entry {
    char name[64];
    char state[448];
    rt_device_limits limits;
} rt_device_entry;

typedef struct rt_device_options {
    const char *provider;  /* "verbs", "shm", "sim": never "auto", which Python resolves */
    const char *name;      /* of the device, or "" */
    const char *arguments; /* "key=value&key=value" for the provider, or "" */
    uint32_t queues;       /* completion queues for data; 0: the provider's default */
    uint32_t qps_per_peer; /* links of a channel; 0: the provider's default */
    uint32_t pollers;      /* threads that poll them; 0: the caller polls */
    uint32_t wait_policy;  /* rt_wait_policy */
} rt_device_options;

typedef struct rt_device_stats {
    uint64_t regions, region_bytes, registrations, registered_bytes, registering_ns;
    uint64_t channels, channels_lost;
    uint64_t unaccepted;       /* channels that wait to be accepted now */
    uint64_t connects_refused; /* at its listeners */
    uint64_t operations_in_flight, quarantined_bytes;
} rt_device_stats;

typedef struct rt_channel_stats {
    uint64_t writes, reads, bytes_written, bytes_read; /* transfers finished with success */
    uint64_t work_items, doorbells;                    /* posted to the provider */
    uint64_t failures, deadlines, waits;               /* waits: transfers that were not done when they were posted */
} rt_channel_stats;

typedef struct rt_region_stats {
    uint64_t size, allocated_bytes, allocations, peak_bytes, largest_free_bytes, quarantined_bytes, registering_ns;
    uint32_t huge_pages; /* 1 when backed by them on request */
    uint32_t operations_in_flight;
} rt_region_stats;

/* One memcpy between local and remote memory. Pointers as integers, so that Python can pack many at once. */
typedef struct rt_copy {
    uint64_t region; /* rt_region* */
    uint64_t region_offset;
    uint64_t remote; /* rt_remote* */
    uint64_t remote_offset;
    uint64_t size;
    uint64_t direction; /* rt_direction */
} rt_copy;

/* ---- providers ---- */
int rt_provider_count(void);
const char *rt_provider_name_at(int index);
int rt_provider_viable(const char *provider, rt_detail *detail);
/* Fills up to `capacity` entries and returns the number of devices, or a negative status. */
int rt_provider_list(const char *provider, rt_device_entry *entries_out, int capacity, rt_detail *detail);
/* A text command to a provider, for the fault plans of `sim`. */
int rt_provider_command(const char *provider, const char *text, char *reply_out, size_t capacity, rt_detail *detail);

/* ---- device ---- */
int rt_device_open(const rt_device_options *options, rt_device **device_out, rt_detail *detail);
/* Ends every channel (telling the peers) and releases every region. No pointer of this device is
 * valid afterwards, except regions whose memory is still borrowed, until rt_region_drop. */
void rt_device_close(rt_device *device);
void rt_device_get_limits(const rt_device *device, rt_device_limits *limits_out);
const char *rt_device_provider(const rt_device *device);
const char *rt_device_name(const rt_device *device);
uint32_t rt_device_queues(const rt_device *device);
uint32_t rt_device_qps_per_peer(const rt_device *device);
void rt_device_id(const rt_device *device, uint8_t id_out[16]);
void rt_device_get_stats(rt_device *device, rt_device_stats *stats_out);
/* Polls every queue once and runs due work. Returns the completions it took, or a negative
 * status. */
int rt_device_progress(rt_device *device);
/* Readable when rt_device_progress may have work, once rt_device_arm gave RT_OK. -1: virtual
 * time. */
int rt_device_event_fd(rt_device *device);
/* RT_OK: armed, sleep now. RT_E_AGAIN: something arrived; call rt_device_progress first. */
int rt_device_arm(rt_device *device);
/* For event loops that wait for edges: the descriptor becomes readable at a peer's next WRITE after
 * rt_device_arm_memory returned RT_OK; check the edges once more before sleeping. -1 and
 * RT_E_UNSUPPORTED where a WRITE wakes nobody (limits.can_wake_receiver): poll the edges at
 * intervals instead. */
int rt_device_memory_fd(rt_device *device);
int rt_device_arm_memory(rt_device *device);
/* Sleeps for at most a slice. Returns RT_E_AGAIN at its end, or RT_E_INTERRUPTED. */
int rt_device_nap(rt_device *device, int64_t timeout_ns);
/* The current time of the device's clock. */
int64_t rt_device_now_ns(rt_device *device);
/* Writes a report of all channels ("Who hangs?"); returns its full length, as snprintf does. */
int64_t rt_device_dump(rt_device *device, char *text_out, size_t capacity);

/* ---- region ---- */
/* Allocates the region's own memory, with every page present; the size is rounded up to a multiple
 * of 64, or of the huge page when huge pages are required. */
int rt_region_create(rt_device *device, uint64_t size, uint32_t rights, uint32_t huge_pages, rt_region **region_out,
                     rt_detail *detail);
/* Registers the caller's memory, which stays alive and in place until rt_region_close gave
 * RT_OK. */
int rt_region_adopt(rt_device *device, void *address, uint64_t size, uint32_t rights, rt_region **region_out, rt_detail *detail);
/* Ends the registration. Returns RT_E_BUSY while operations use the region, and changes nothing
 * then. The memory of a created region stays readable until rt_region_drop. */
int rt_region_close(rt_region *region, rt_detail *detail);
/* Gives up the caller's reference. The last one frees the memory and invalidates pointers into
 * it. */
void rt_region_drop(rt_region *region);
uint64_t rt_region_address(const rt_region *region);
uint64_t rt_region_size(const rt_region *region);
uint32_t rt_region_rights(const rt_region *region);
void rt_region_get_stats(rt_region *region, rt_region_stats *stats_out);
/* Takes `size` bytes (at least 1) aligned to `alignment` (a power of two, at most 2 MiB). Returns a
 * block: its offset in units of 64 bytes shifted left by RT_BLOCK_INDEX_BITS, plus its index; or a
 * negative status. */
#define RT_BLOCK_INDEX_BITS 22
int64_t rt_region_allocate(rt_region *region, uint64_t size, uint64_t alignment);
/* Gives a block back. While an operation still uses the block, it is quarantined; a later allocate
 * that needs it, free, stats or close makes it available again. */
int rt_region_free(rt_region *region, int64_t block);
/* Writes the handle with which a peer reaches this range, at most RT_HANDLE_SIZE_MAX (160) bytes.
 * Returns RT_E_ACCESS with RT_RIGHT_PER_PEER_KEYS: anyone who has such a handle could use it, so
 * those regions are published and looked up instead. */
int rt_region_handle(rt_region *region, uint64_t offset, uint64_t size, uint8_t *handle_out, size_t *size_out, rt_detail *detail);

/* ---- listener ---- */
/* `address` is "host:port"; port 0 lets the system choose. The secret may be empty on loopback:
 * then only processes of this user are let in. RT_E_AGAIN, RT_E_INTERRUPTED: a name is not resolved
 * yet, call again, as with rt_channel_connect. */
int rt_listener_open(rt_device *device, const char *address, const uint8_t *secret, size_t secret_size,
                     rt_listener **listener_out, rt_detail *detail);
void rt_listener_close(rt_listener *listener);
const char *rt_listener_address(const rt_listener *listener);
/* Takes the next channel that a peer has connected, READY. RT_E_AGAIN at the end of the slice. */
int rt_listener_accept(rt_listener *listener, int64_t timeout_ns, rt_channel **channel_out, rt_detail *detail);
/* Takes the oldest unreported refusal (a stranger, a wrong secret). RT_E_AGAIN when there is
 * none. */
int rt_listener_refusal(rt_listener *listener, rt_detail *detail);

/* ---- channel ---- */
/* Begins to connect; the channel is CONNECTING. Sleeps up to a slice while a name is resolved, and
 * then returns RT_E_AGAIN (or RT_E_INTERRUPTED): call again with the same address. */
int rt_channel_connect(rt_device *device, const char *address, const uint8_t *secret, size_t secret_size,
                       rt_channel **channel_out, rt_detail *detail);
/* Waits until the channel is READY. RT_E_AGAIN at the end of the slice; any other failure is final, with its detail. */
int rt_channel_wait_ready(rt_channel *channel, int64_t timeout_ns, rt_detail *detail);
/* Tells the peer and ends outstanding operations. The object stays valid until rt_channel_drop. */
void rt_channel_close(rt_channel *channel);
void rt_channel_drop(rt_channel *channel);
int rt_channel_state(const rt_channel *channel);
/* RT_OK, or the status that ended the channel, with its detail. */
int rt_channel_failure(rt_channel *channel, rt_detail *detail);
/* 1 when the channel failed before a byte came from that address: no process listens there, or the
 * listener is gone. Trying again may help. */
int rt_channel_unanswered(const rt_channel *channel);
uint32_t rt_channel_qps(const rt_channel *channel);
/* The completion queue that a QP of this channel reports to. */
uint32_t rt_channel_queue_of(const rt_channel *channel, uint32_t qp);
/* "host pid device" of the other end. */
const char *rt_channel_peer(const rt_channel *channel);
/* The id of the device at the other end, as its rt_device_id gives it. The channel is READY. */
void rt_channel_peer_id(const rt_channel *channel, uint8_t id_out[16]);
void rt_channel_get_stats(rt_channel *channel, rt_channel_stats *stats_out);
int64_t rt_channel_dump(rt_channel *channel, char *text_out, size_t capacity);

/* Copies one range. qp < 0 takes QP 0. Returns RT_OK when the copy is done (a WRITE is placed, a
 * READ has arrived); a positive operation number while it goes on; or a negative status with
 * nothing posted. timeout_ns is how long this call may work and wait, at most RT_SLICE_NS: 0 starts
 * the copy and returns.
 * Order: copies of one QP begin in the order of the calls. A WRITE is placed after all earlier
 * WRITEs of its QP where limits.orders_writes. A READ may be overtaken by later WRITEs unless the
 * caller waited for it. Different QPs: no order. */
int64_t rt_channel_copy(rt_channel *channel, int32_t qp, uint32_t direction, rt_remote *remote, uint64_t remote_offset,
                        rt_region *region, uint64_t region_offset, uint64_t size, int64_t timeout_ns);
/* As rt_channel_copy on QP 0, but checks at most `looks` times whether it is done, not at all where
 * that costs another thread its core. RT_E_BUSY: another thread copies there. */
int64_t rt_channel_copy_briefly(rt_channel *channel, const rt_copy *copy, uint32_t looks);
/* Copies many ranges, in order, as one operation. `copies` is read before this returns, and not
 * afterwards. Every copy is checked before the first is posted; bad_out is the index of a bad one.
 * RT_E_NO_MEMORY: nothing is posted. */
int64_t rt_channel_copy_many(rt_channel *channel, int32_t qp, const rt_copy *copies, uint64_t count, int64_t timeout_ns,
                             uint64_t *bad_out);

/* Checks and binds copies once, to be run many times. References the regions and remotes. */
int rt_prepared_create(rt_channel *channel, int32_t qp, const rt_copy *copies, uint64_t count, rt_prepared **prepared_out,
                       uint64_t *bad_out);
void rt_prepared_drop(rt_prepared *prepared);
/* As rt_channel_copy_many, working for up to one slice. */
int64_t rt_prepared_run(rt_prepared *prepared);
int64_t rt_prepared_run_briefly(rt_prepared *prepared, uint32_t looks); /* as rt_channel_copy_briefly */
/* Waits up to one slice for one of its numbers. RT_OK when the operation ended well, and the number
 * is void; else the number. */
int64_t rt_prepared_finish(rt_prepared *prepared, int64_t number);
int64_t rt_prepared_start(rt_prepared *prepared);

/* Waits for an operation. RT_OK, RT_E_AGAIN at the end of the slice, or the status with which it
 * failed. The number stays valid. */
int rt_op_wait(rt_channel *channel, int64_t op, int64_t timeout_ns);
/* Ends the caller's interest and returns the result with its detail. An operation that is not done
 * is abandoned: its unposted part is never posted, and the local ranges of its posted part stay
 * quarantined until the provider is done with them; the call then returns RT_E_AGAIN. */
int rt_op_release(rt_channel *channel, int64_t op, rt_detail *detail);
/* RT_OK when the provider is done with every abandoned or running operation; else RT_E_AGAIN. */
int rt_channel_quiet(rt_channel *channel);

/* Waits until the 8-byte word at region_offset (a multiple of 8) is at or past `value`, as sequence
 * numbers compare: (int64_t)(word - value) >= 0. Everything that the peer placed before the word is
 * visible then. RT_E_AGAIN at the end of the slice; RT_E_PEER_LOST and the like when the channel
 * failed and the word did not come. */
int rt_channel_wait_word(rt_channel *channel, rt_region *region, uint64_t region_offset, uint64_t value, int64_t timeout_ns);
/* For a caller that must not wait long: checks the word at most `looks` times, only once where
 * checking again would cost another thread its core. RT_OK when the value has come; RT_E_AGAIN in
 * every other case, errors included, which rt_channel_wait_word reports. */
int rt_channel_look_for_word(rt_channel *channel, rt_region *region, uint64_t region_offset, uint64_t value, uint32_t looks);

/* ---- address distribution ---- */
/* Publishes a handle under a name, to every peer of this device. RT_E_EXISTS: the name is taken. */
int rt_device_publish(rt_device *device, const char *name, rt_region *region, uint64_t offset, uint64_t size, rt_detail *detail);
int rt_device_unpublish(rt_device *device, const char *name, rt_detail *detail);
/* As rt_device_publish, for the channel's peer alone; the name ends with the channel. */
int rt_channel_publish(rt_channel *channel, const char *name, rt_region *region, uint64_t offset, uint64_t size,
                       rt_detail *detail);
int rt_channel_unpublish(rt_channel *channel, const char *name, rt_detail *detail);
/* Asks the peer; the request waits at the peer until the name is published or `wait_ns` has passed.
 * Returns a lookup number. */
int64_t rt_lookup_start(rt_channel *channel, const char *name, int64_t wait_ns, rt_detail *detail);
/* RT_OK with the handle; RT_E_AGAIN at the end of the slice; RT_E_NOT_FOUND when the peer did not publish it in time. */
int rt_lookup_wait(rt_channel *channel, int64_t lookup, int64_t timeout_ns, uint8_t *handle_out, size_t *size_out,
                   rt_detail *detail);
void rt_lookup_release(rt_channel *channel, int64_t lookup);

/* ---- remote region ---- */
/* Makes a peer's range usable through this channel. RT_E_AGAIN at the end of the slice: call again. */
int rt_remote_attach(rt_channel *channel, const uint8_t *handle, size_t size, int64_t timeout_ns, rt_remote **remote_out,
                     rt_detail *detail);
void rt_remote_drop(rt_remote *remote);
uint64_t rt_remote_size(const rt_remote *remote);
uint32_t rt_remote_rights(const rt_remote *remote);
/* The address where the peer's range can be read, valid until rt_remote_drop; 0: it cannot be. */
uint64_t rt_remote_address(const rt_remote *remote);

/* ---- tensor edges (proto/EDGES.md) ----
 * One thread at a time works on an edge; others wait for it. rt_edge_explain explains the status of
 * a function without a detail. */

/* The terms that each end states for an edge. A field marked "receiver" is stated by the receiver
 * and is 0 at the sender; one marked "sender" is the other way round. */
typedef struct rt_edge_options {
    const char *name;
    const uint64_t *dims; /* static: `rank` of them */
    uint32_t kind;        /* 1 static, 2 dynamic */
    uint32_t flow;        /* 1 credit, 2 loop */
    uint32_t dtype, rank; /* codes of EDGES.md section 2; dynamic: 0 is any dtype, 255 any rank */
    uint32_t slots;       /* receiver */
    uint32_t stripes;     /* QPs that share one tensor, at most; 0: 1 */
    uint32_t ordering;    /* 0: chosen by the device's promises; 1 tail, 2 chained, 3 immediate */
    uint32_t verify;      /* 1: CRC-32C from end to end, when either end wants it */
    uint32_t loop_check;  /* receiver, flow="loop" */
    uint32_t staging;     /* sender: 1 copies every tensor into registered memory first, as if it were unregistered */
    int32_t qp;           /* sender: the QP of stripe 0; -1: chosen by the edge's number */
    uint64_t alignment;   /* receiver: of slots, a power of two; 0: 64 */
    uint64_t eager_size;  /* receiver, dynamic: largest tensor in a record; rounded up to 64, at most 65536 */
} rt_edge_options;

/* The terms that both ends agreed on, valid once rt_edge_wait_open has returned RT_OK. */
typedef struct rt_edge_info {
    uint64_t slots_address, slot_stride, slot_size; /* receiver: sequence q lies at address + (q mod slots) × stride */
    uint64_t eager_size;
    uint32_t number, slots, stripes, mode, verify, loop_check;
    uint32_t trusting; /* 1: the flag is a tail whose order the provider does not promise */
    char ordering[384];
} rt_edge_info;

typedef struct rt_edge_stats {
    uint64_t transfers, bytes;     /* tensors sent, or received, and their bytes */
    uint64_t copies, copied_bytes; /* copies that this library made besides the transfer itself: staging */
    uint64_t waits;                /* sends that found no credit, receives that found no tensor */
    uint64_t registrations;        /* memory registered for this edge after it was opened */
    uint64_t keys;                 /* the sender's registrations that its records refer to */
    uint64_t eager, fetched, borrowed, corrupt, lent, lent_in_place; /* lent: sent out of loans, and out of those in a slot */
    uint64_t credits;                                                /* WRITEs that returned credit */
    uint64_t sequence, released; /* newest sent or received; all up to this one are released */
} rt_edge_stats;

/* A tensor in memory. Strides are in bytes; `strided` 0: contiguous, in row-major order. */
typedef struct rt_edge_tensor {
    uint64_t address;
    uint32_t dtype, rank;
    uint32_t strided;
    uint64_t dims[16];
    int64_t strides[16];
} rt_edge_tensor;

typedef struct rt_edge_arrival {
    uint64_t sequence, size;
    uint64_t address, borrowed,
        remote; /* of its bytes in the slot; 0: at the sender, or there and their rt_remote*, if borrowed */
    uint32_t dtype, rank;
    uint64_t dims[16];
} rt_edge_arrival;

/* One of many sends. `tensor` NULL: `address` and `size` of a contiguous tensor of a static edge. */
typedef struct rt_edge_sending {
    uint64_t edge;   /* rt_edge* */
    uint64_t tensor; /* const rt_edge_tensor*, or 0 */
    uint64_t address, size;
    int64_t result; /* afterwards: the result of rt_edge_send for it; unchanged for those that were not reached */
} rt_edge_sending;

/* One of many READs. `region` 0: `offset` is an address that the provider can write to without registration. */
typedef struct rt_edge_fetching {
    uint64_t edge;   /* rt_edge* */
    uint64_t region; /* rt_region*, or 0 */
    uint64_t offset, sequence;
    int64_t status; /* RT_E_AGAIN before the first call; afterwards the status of this READ */
} rt_edge_fetching;

/* Makes the receiving end, which every peer of the device knows by its name until it is closed.
 * Slots are taken from `region` (which needs REMOTE_WRITE, and stays open as long as the edge is),
 * or, when it is NULL, from the device's own memory. */
int rt_edge_create(rt_device *device, const rt_edge_options *options, rt_region *region, rt_edge **edge_out, rt_detail *detail);
/* Begins to open the sending end; the request waits at the peer until the edge is made there or
 * `wait_ns` has passed. */
int rt_edge_open(rt_channel *channel, const rt_edge_options *options, int64_t wait_ns, rt_edge **edge_out, rt_detail *detail);
/* Waits until both ends are joined; at a sender, one thread may wait. RT_E_AGAIN at the end of the
 * slice; any other failure of a sender is final. */
int rt_edge_wait_open(rt_edge *edge, int64_t timeout_ns, rt_detail *detail);
void rt_edge_get_info(const rt_edge *edge, rt_edge_info *info_out);
void rt_edge_get_stats(rt_edge *edge, rt_edge_stats *stats_out);
/* Tells the peer; nothing more is sent or received. Idempotent. Tensors of a dynamic sender that
 * the peer still holds stay the peer's. */
void rt_edge_close(rt_edge *edge);
/* Gives the object up, closed or not. Its slots stay until then, and until the peer knows. */
void rt_edge_drop(rt_edge *edge);
/* The region of the slots, with a reference that the caller drops (rt_region_drop): tensors in
 * slots keep it. Receiver only. */
rt_region *rt_edge_slots_region(rt_edge *edge);
/* RT_OK, or the status that ended the edge, with its detail. */
int rt_edge_failure(rt_edge *edge, rt_detail *detail);
/* Explains in words why a call on the edge returned `status`; returns it. */
int rt_edge_explain(rt_edge *edge, int status, rt_detail *detail);
int64_t rt_edge_dump(rt_edge *edge, char *text_out, size_t capacity);

/* Sends. 0: the bytes may be changed again. A positive sequence: the tensor is on its way; call
 * rt_edge_wait_sent and leave the tensor unchanged until then. RT_E_AGAIN: no credit within the
 * slice, nothing was sent. The peer sees whole tensors, in order. */
int64_t rt_edge_send(rt_edge *edge, uint64_t address, uint64_t size, int64_t timeout_ns);
int64_t rt_edge_send_tensor(rt_edge *edge, const rt_edge_tensor *tensor, int64_t timeout_ns);
/* Lends the place of the next tensor, to be written contiguously until it is sent or given back: the ticket, and the address.
 * `tensor` is NULL on a static edge. RT_E_AGAIN: no slot, or another loan is open. Nothing else is sent meanwhile. */
int64_t rt_edge_lend(rt_edge *edge, const rt_edge_tensor *tensor, int64_t timeout_ns, uint64_t *address_out);
/* Sends the loan, as rt_edge_send; its memory is the edge's. A negative status: it is still open. */
int64_t rt_edge_send_lent(rt_edge *edge, uint64_t ticket, int64_t timeout_ns);
void rt_edge_give_back(rt_edge *edge, uint64_t ticket); /* nothing when it is not open */
/* For views of loans, references that the caller drops: the peer's mapped slots; the region of the open loan; or NULL. */
rt_remote *rt_edge_lent_from(rt_edge *edge);
rt_region *rt_edge_loan_region(rt_edge *edge);
/* RT_OK: this sequence needs its tensor no more, because it was written or copied, or, where the
 * receiver READs it in place, released. The call drives the transfer meanwhile. */
int rt_edge_wait_sent(rt_edge *edge, uint64_t sequence, int64_t timeout_ns);
/* RT_OK: everything up to this sequence was released by the receiver (flow="credit"), or written (flow="loop"). */
int rt_edge_wait_released(rt_edge *edge, uint64_t sequence, int64_t timeout_ns);
/* Begins as many sends, in order, as the slice and the credits allow, with few doorbells. Returns
 * how many were begun; *status_out is the status of the first that could not be (RT_E_AGAIN: no
 * credit yet). Where posting is copying (completes_in_post), the tensors of static edges may be
 * changed when all sends were begun with RT_OK. After RT_E_AGAIN, and elsewhere, rt_edge_wait_sent
 * tells when, for the sequence in `result`, which belongs to the tensor whatever other threads send
 * on the edge meanwhile. */
int64_t rt_edges_send_many(rt_edge_sending *sends, uint64_t count, int64_t timeout_ns, int32_t *status_out);

/* Takes the next tensor: RT_OK with its arrival, to be released by its sequence. RT_E_AGAIN at the
 * end of the slice. RT_E_BUSY: every slot is held. RT_E_CORRUPT: this tensor did not match its CRC
 * and was released; the next may be asked for. */
int rt_edge_receive(rt_edge *edge, int64_t timeout_ns, rt_edge_arrival *arrival_out);
int rt_edge_receive_borrowed(rt_edge *edge, int64_t timeout_ns, rt_edge_arrival *arrival_out); /* and borrows it, if it may */
/* As rt_edge_receive for a static edge, without an arrival: the sequence, or a negative status. */
int64_t rt_edge_receive_static(rt_edge *edge, int64_t timeout_ns);
/* Takes the next tensor of each of many edges, in order, within one slice. Returns how many it
 * took; *status_out is the status of the first that was not there. */
int64_t rt_edges_receive_many(rt_edge *const *edges, uint64_t count, int64_t timeout_ns, rt_edge_arrival *arrivals_out,
                              int32_t *status_out);
/* READs a tensor that lies at the sender into a region (or, with NULL, to an address that the
 * provider can write to without registration) and waits. RT_E_AGAIN at the end of the slice: call
 * again with the same arguments. After RT_OK the sender is told that it may reuse its tensor: the
 * sequence is released. */
int rt_edge_fetch(rt_edge *edge, uint64_t sequence, rt_region *region, uint64_t region_offset, int64_t timeout_ns);
/* Many READs, of edges of one device, all under way at once; each has its own status, RT_E_AGAIN
 * until it has ended. Returns how many have not ended by the end of the slice: then call again with
 * the same array. */
uint64_t rt_edges_fetch_many(rt_edge_fetching *fetches, uint64_t count, int64_t timeout_ns);
/* The address at which a tensor that lies at the sender can be read in place until its release, or
 * until this device is closed. RT_E_UNSUPPORTED where that is impossible. */
int rt_edge_borrow(rt_edge *edge, uint64_t sequence, uint64_t *address_out);
/* The peer's range in which a borrowed tensor lies, with a reference that the caller drops (rt_remote_drop): views of the tensor
 * keep it mapped. NULL when the sequence is not borrowed. */
rt_remote *rt_edge_borrowed(rt_edge *edge, uint64_t sequence);
int rt_edge_release(rt_edge *edge, uint64_t sequence);
/* Whether a receive would return at once: 1, or 0. */
int rt_edge_ready(rt_edge *edge);
/* Waits until at least one of these receiving edges of one device is ready, and gives the indices
 * of up to `capacity` ready ones. Returns how many, RT_E_AGAIN at the end of the slice,
 * RT_E_INVALID for edges of different devices. */
int64_t rt_edges_wait_any(rt_edge *const *edges, uint64_t count, int64_t timeout_ns, uint32_t *ready_out, uint64_t capacity);
/* The usual cases of rt_edge_send, rt_edge_receive_static and rt_edge_release, which never wait,
 * not even for another thread. RT_E_AGAIN in any other case, and then nothing has changed. `looks`:
 * how often to check for a tensor, some 25 ns each. */
int64_t rt_edge_send_at_once(rt_edge *edge, uint64_t address, uint64_t size);
int64_t rt_edge_receive_at_once(rt_edge *edge, uint32_t looks);
int rt_edge_release_at_once(rt_edge *edge, uint64_t sequence);
int64_t rt_edge_lend_at_once(rt_edge *edge, const rt_edge_tensor *tensor, uint64_t *address_out);
int64_t rt_edge_send_lent_at_once(rt_edge *edge, uint64_t ticket);
int64_t rt_edge_send_tensor_at_once(rt_edge *edge, const rt_edge_tensor *tensor, uint64_t *released_out);
int rt_edge_receive_record_at_once(rt_edge *edge, uint32_t looks, int borrow, rt_edge_arrival *arrival_out);
/* Writes the sentence that says how edges carry their flags on this channel by default. */
int rt_channel_ordering(rt_channel *channel, char *text_out, size_t capacity);

/* ---- for tests and fuzzing ---- */
void rt_sha256(const uint8_t *bytes, size_t size, uint8_t digest_out[32]);
void rt_hmac_sha256(const uint8_t *key, size_t key_size, const uint8_t *bytes, size_t size, uint8_t digest_out[32]);
/* </cffi> */

#ifdef __cplusplus
}
#endif

#endif
