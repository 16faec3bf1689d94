/* provider.h: THE SEAM. A provider is a way to move bytes: `verbs` (libibverbs), `shm` (same host), `sim` (virtual time).
 *
 * A provider executes work items, reports completions, and states limits and promises. It does not retry, chunk, count
 * credits, hold back, order beyond its promises, or know tensors: core decides that, by the limits and never by the name.
 * A provider includes this file and base/, nothing else of ours. How to add one: the last section of csrc/README.md.
 *
 * Threads. `link_*`, `remote_attach`, `remote_detach` and `service` of one device are called one at a time (core holds the
 * device's set-up lock). `post` is called by one thread at a time per link, `poll`, `arm` and `event_clear` by one thread
 * at a time per completion queue; posts and polls of different links and queues run at once, and beside set-up calls that
 * concern other objects. All `memory_*` functions are called by any thread at any time: registering may take seconds.
 *
 * Failure. A function returns RT_OK or a negative rt_status and has then written its detail: what was attempted, on what,
 * why, what to do. `*_out` values are set only on success. Foreign conventions (NULL and errno, positive errno, -1) are
 * turned into this one where the foreign call is made. */
#ifndef RT_PROVIDER_H
#define RT_PROVIDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* ---- sizes at the seam; proto/ bounds those on the wire again, core asserts both agree ---- */
enum {
    RT_LINK_ADDRESS_SIZE_MAX = 64, /* opaque bytes that say how to reach a link */
    RT_MEMORY_KEY_SIZE_MAX = 64,   /* opaque bytes that let a peer reach registered memory */
    RT_MEMORY_KEY_LINKS_MAX =
        8, /* links of one channel that a key made for a peer covers; the key has room for more, but not much */
    RT_DEVICE_NAME_SIZE = 64,  /* with the terminating zero */
    RT_ORDER_REASON_SIZE = 96, /* likewise */
};

/* ---- limits and promises, read once after open; a number is a maximum unless it says otherwise ---- */
typedef struct rt_limits {
    uint64_t message_size_max;       /* bytes of one work item */
    uint64_t region_size_max;        /* bytes of one registration */
    uint32_t region_count_max;       /* registrations of one device */
    uint32_t link_count_max;         /* links of one device */
    uint32_t completion_queue_max;   /* completion queues of one device, the service queue included */
    uint32_t work_depth;             /* send-side work items outstanding on one link */
    uint32_t receive_depth;          /* RECV items outstanding on one link */
    uint32_t completion_depth;       /* unpolled completions of one queue */
    uint32_t read_depth;             /* READs in progress on one link; 0: no READ */
    uint32_t segments_max;           /* local segments of one work item */
    uint32_t inline_size_max;        /* bytes of an RT_WORK_INLINE item */
    uint32_t send_size_max;          /* bytes of one SEND */
    uint32_t links_per_peer_default; /* the number that suits this provider when the user gives none */
    uint32_t queues_default;         /* likewise, completion queues for data */
    /* promises */
    bool completes_in_post;           /* send-side items are finished, or failed, when post returns; see rt_posted */
    bool orders_writes;               /* a later WRITE of a link is placed after an earlier one */
    bool orders_bytes_within_a_write; /* bytes of one WRITE are placed in ascending order */
    bool places_words_whole;          /* an aligned 8-byte WRITE is seen whole or not at all */
    bool can_wake_receiver;           /* a WRITE ends the peer's memory_sleep; otherwise the receiver must poll */
    bool carries_immediate;           /* WRITE_IMM is available */
    bool immediate_covers_earlier;    /* its completion at the receiver says that all earlier WRITEs of the link are placed too */
    bool reaches_gpu_memory;          /* device memory may be registered */
    bool exposes_caller_memory;       /* memory the caller owns may be given remote rights */
    bool wants_shared_memory;         /* memory to be exposed must come from a descriptor (rt_memory.descriptor >= 0) */
    bool pins_memory;                 /* registration counts against RLIMIT_MEMLOCK */
    bool maps_remote;                 /* remote_map works: the peer's memory can be read in place */
    bool local_anywhere;              /* the local end of a WRITE or READ may be any memory of the process, registered or not */
    bool keys_per_peer;               /* RT_ACCESS_PER_PEER_KEYS is available */
    bool virtual_time;                /* time is the provider's; no thread may sleep for real; `clock` is available */
} rt_limits;

/* ---- access rights of registered memory; local read is always granted ---- */
enum rt_access {
    RT_ACCESS_LOCAL_WRITE = 1,   /* the target of RECV and READ */
    RT_ACCESS_REMOTE_WRITE = 2,  /* the target of the peer's WRITE; needs RT_ACCESS_LOCAL_WRITE */
    RT_ACCESS_REMOTE_READ = 4,   /* the source of the peer's READ */
    RT_ACCESS_RELAXED_ORDER = 8, /* never for memory that holds flags (RDMA-RULES 3, 4) */
    RT_ACCESS_PER_PEER_KEYS = 16 /* the remote rights hold only for keys made for some links (RDMA-RULES 14) */
};

/* ---- objects. The provider allocates and frees them; it puts these structs first in its own. ---- */
typedef struct rt_pdevice {
    rt_limits limits;
    char name[RT_DEVICE_NAME_SIZE];          /* of the device that was opened, as `list` gives it */
    char order_reason[RT_ORDER_REASON_SIZE]; /* why orders_writes is as it is, where that is a choice; else "" */
    uint32_t silence_s; /* after so many seconds a host whose TCP falls silent counts as dead; 0: the streams' own bound */
} rt_pdevice;

typedef struct rt_plink {
    rt_pdevice *device;
    uint32_t send_queue;    /* completion queue of WRITE, READ, WRITE_IMM, SEND */
    uint32_t receive_queue; /* completion queue of RECV */
    uint32_t index;         /* of the link in its channel: set by core before link_connect; the same at both ends */
    bool any_user;          /* the peer proves a secret, so it may be another user's: set by core before the address is sent */
} rt_plink;

typedef struct rt_pmemory {
    void *address;
    uint64_t size;
    uint32_t access; /* rt_access */
} rt_pmemory;

typedef struct rt_premote {
    uint64_t size;
    uint32_t access; /* of rt_access, the remote rights the peer gave */
} rt_premote;

/* Memory to register. It stays the caller's: it outlives the registration, and the provider never frees or unmaps it. */
typedef struct rt_memory {
    void *address;
    uint64_t size;
    int descriptor; /* a memfd sealed against shrinking that backs it from its first byte, or -1; closed after memory_register */
    uint32_t access;
} rt_memory;

/* ---- work ---- */
enum rt_opcode { RT_WORK_WRITE = 1, RT_WORK_READ, RT_WORK_WRITE_IMM, RT_WORK_SEND, RT_WORK_RECV };

enum rt_work_flags {
    RT_WORK_SIGNALED = 1, /* report a completion on success; failures are always reported */
    RT_WORK_INLINE = 2,   /* the bytes may be taken at post: local memory is free when post returns */
    RT_WORK_FENCE = 4,    /* start after all earlier READs of the link have completed */
};

typedef struct rt_segment {
    const rt_pmemory *memory; /* may be NULL for an INLINE item */
    void *address;            /* inside `memory` */
    uint64_t size;
} rt_segment;

typedef struct rt_work {
    uint8_t opcode; /* rt_opcode */
    uint8_t flags;  /* rt_work_flags */
    uint16_t segment_count;
    uint32_t immediate; /* of WRITE_IMM */
    const rt_segment *segments;
    const rt_premote *remote; /* of WRITE, READ, WRITE_IMM; attached through a link of the same channel */
    uint64_t remote_offset;   /* from the start of the peer's registration */
    uint64_t token;           /* comes back in the completion; never interpreted */
} rt_work;

typedef struct rt_posted {
    uint32_t accepted;  /* items taken, a prefix of those given; those after it were not touched */
    uint32_t completed; /* of those, a prefix already finished with success and without a completion (completes_in_post) */
} rt_posted;

/* Completions of the send side of one link come in posting order. A failed item puts its link in error: every later
 * item of it completes with RT_E_FLUSHED, and so does every RECV. */
typedef struct rt_completion {
    uint64_t token;
    int32_t status;          /* rt_status */
    uint32_t foreign_status; /* the provider's own number for it; completion_name says it in words */
    uint32_t vendor_error;
    uint32_t size;      /* bytes received, of a RECV */
    uint32_t immediate; /* when has_immediate */
    uint8_t opcode;     /* RT_WORK_RECV, or 0 for the send side; not valid in a failed completion */
    uint8_t has_immediate;
} rt_completion;

/* ---- events that a provider reports to core from `service` ---- */
typedef enum rt_event_kind {
    RT_EVENT_NONE = 0,
    RT_EVENT_PROGRESS,    /* something that returned RT_E_AGAIN may succeed now */
    RT_EVENT_LINK_LOST,   /* a link failed outside any work item; `link` says which */
    RT_EVENT_DEVICE_LOST, /* the whole device failed */
    RT_EVENT_NOTICE       /* worth showing in a dump (port down, port up, address changed); nothing failed yet */
} rt_event_kind;

typedef struct rt_event {
    rt_event_kind kind;
    rt_plink *link;
    rt_detail detail;
} rt_event;

/* ---- opening ---- */
typedef struct rt_device_info {
    char name[RT_DEVICE_NAME_SIZE];
    rt_limits limits;
    char state[448]; /* one line for people: port state, link layer, speed, GID and MTU chosen by rule */
} rt_device_info;

/* Functions of core that a provider with virtual time calls while it advances; other providers
 * never call them. */
typedef struct rt_upcalls {
    void *owner;
    void (*service)(void *owner); /* there is work for this device's control plane: a stream, a receive completion, an event */
} rt_upcalls;

typedef struct rt_open_options {
    const char *name;      /* of the device; "" lets the provider choose */
    const char *arguments; /* "key=value&key=value" of the URL that core did not take; unknown keys are RT_E_INVALID */
    uint32_t data_queues;  /* completion queues for data; 0: limits.queues_default of the opened device */
    rt_upcalls upcalls;
} rt_open_options;

/* ---- optional tables ---- */

/* Virtual time (limits.virtual_time). */
typedef struct rt_clock_ops {
    int64_t (*now_ns)(rt_pdevice *device);
    /* Lets virtual time pass until something happens to this device or until until_ns, whichever is
     * first. Meanwhile it calls upcalls.service of any device of the same world. RT_OK:
     * something happened. RT_E_AGAIN: time is up. */
    int (*advance)(rt_pdevice *device, int64_t until_ns);
} rt_clock_ops;

/* Byte streams for the control connection, where the provider has its own; otherwise core uses TCP.
 * No call blocks. upcalls.service announces readiness. */
typedef struct rt_stream_ops {
    int (*listen)(rt_pdevice *device, const char *address, void **listener_out, char *bound_out, size_t bound_capacity,
                  rt_detail *detail);
    int (*accept)(void *listener, void **stream_out, rt_detail *detail); /* RT_E_AGAIN when no connection waits */
    void (*unlisten)(void *listener);
    int (*connect)(rt_pdevice *device, const char *address, void **stream_out, rt_detail *detail);
    /* Number of bytes moved, RT_E_AGAIN when none can be now, RT_E_PEER_LOST at the end of the stream. */
    int64_t (*read)(void *stream, void *bytes, size_t capacity);
    int64_t (*write)(void *stream, const void *bytes, size_t size);
    void (*close)(void *stream);
} rt_stream_ops;

/* ---- the table. Initialised by position, one entry a line, so that the compiler warns of a missing one. ---- */
typedef struct rt_provider {
    const char *name; /* also the URL scheme */

    /* Whether the provider can be used on this machine now. RT_E_UNAVAILABLE with the reason and what to install. */
    int (*viable)(rt_detail *detail);

    /* Fills at most `capacity` entries; returns how many devices there are, or a negative status. */
    int (*list)(rt_device_info *infos_out, int capacity, rt_detail *detail);

    /* Opens a device. It has data_queues + 1 completion queues: 0 … data_queues-1 are for data, the last for service. */
    int (*open)(const rt_open_options *options, rt_pdevice **device_out, rt_detail *detail);

    /* Closes it. All links were destroyed and all memory released before. */
    void (*close)(rt_pdevice *device);

    /* Registers memory with the rights in memory->access. Slow: never on the data path. */
    int (*memory_register)(rt_pdevice *device, const rt_memory *memory, rt_pmemory **out, rt_detail *detail);

    /* Ends a registration. No work item refers to it any more. */
    void (*memory_release)(rt_pdevice *device, rt_pmemory *memory);

    /* The bytes that let a peer reach the memory. A capability: never logged. At most
     * RT_MEMORY_KEY_SIZE_MAX bytes. Without links (NULL, 0) the key is the registration's own, good
     * through any link of the device; memory with RT_ACCESS_PER_PEER_KEYS has none: RT_E_ACCESS.
     * The links, if given, are all links of a channel, by index, connected, at most
     * RT_MEMORY_KEY_LINKS_MAX of them. With them, memory with RT_ACCESS_PER_PEER_KEYS gives a key
     * that is good through these links alone and dies when one of them is shut or the memory is
     * released; a second call gives the same key. Other memory gives its own key. Called with links
     * it is a set-up call; RT_E_AGAIN: the key needs work that is under way, poll the links' send
     * queues and call again. */
    int (*memory_key)(rt_pdevice *device, rt_pmemory *memory, rt_plink *const *links, uint32_t link_count, uint8_t *key_out,
                      size_t *size_out, rt_detail *detail);

    /* Creates one end of a link and gives the address bytes for the other end. */
    int (*link_create)(rt_pdevice *device, uint32_t send_queue, uint32_t receive_queue, rt_plink **link_out, uint8_t *address_out,
                       size_t *address_size_out, rt_detail *detail);

    /* Joins it to the peer's end, whose address bytes are hostile until checked. RT_E_AGAIN: call
     * again after the next RT_EVENT_PROGRESS; the caller keeps the deadline. RECV items may be
     * posted before it, all others after it. */
    int (*link_connect)(rt_plink *link, const uint8_t *peer_address, size_t size, rt_detail *detail);

    /* Puts the link in error: outstanding items will complete with RT_E_FLUSHED. After that no byte
     * of local memory is touched by the link, and the peer's operations through it fail. */
    void (*link_shut)(rt_plink *link);

    /* Frees a link. It was shut, and either every outstanding item has been polled, or core gave up
     * waiting for them: then the remaining items are taken back before this returns, and no
     * completion of the link is polled any more. */
    void (*link_destroy)(rt_plink *link);

    /* Makes the peer's memory usable in work items of this link. The key bytes are hostile until
     * checked. RT_E_AGAIN as in link_connect. `size` and `access` are the peer's claims; the
     * provider checks those that it can. */
    int (*remote_attach)(rt_plink *link, const uint8_t *key, size_t key_size, uint64_t size, uint32_t access, rt_premote **out,
                         rt_detail *detail);

    /* Ends the use. No work item refers to it any more. */
    void (*remote_detach)(rt_plink *link, rt_premote *remote);

    /* The address at which the peer's memory can be read in place (limits.maps_remote), valid until
     * remote_detach; NULL elsewhere. */
    const void *(*remote_map)(const rt_premote *remote);

    /* Posts a prefix of the items and reports how many were taken. RECV items go to the receive
     * side and are not mixed with others in one call. A full queue is RT_OK with a shorter prefix.
     * An error belongs to the link, and sticks: items posted on a failed or shut link are either
     * refused with it or accepted and flushed. Core has checked bounds, rights and limits; a
     * provider asserts them. HOT: no allocation, lock, system call or log. */
    int (*post)(rt_plink *link, const rt_work *items, uint32_t count, rt_posted *posted_out);

    /* Takes up to `capacity` completions of a queue. Returns their number, or a negative status
     * when the queue failed; for a lost device, after its last flush, RT_E_DEVICE_LOST. HOT. */
    int (*poll)(rt_pdevice *device, uint32_t queue, rt_completion *completions_out, uint32_t capacity);

    /* Makes event_fd(queue) readable at the next completion. Arm, poll once more, then sleep (RDMA-RULES 24). */
    int (*arm)(rt_pdevice *device, uint32_t queue);

    /* A descriptor that becomes readable after `arm`; -1 where there is none (virtual time). Owned by the provider. */
    int (*event_fd)(rt_pdevice *device, uint32_t queue);

    /* Drains event_fd after it became readable, so that it can be armed again. */
    void (*event_clear)(rt_pdevice *device, uint32_t queue);

    /* A descriptor that is readable when `service` has something to do; -1 where there is none. */
    int (*service_fd)(rt_pdevice *device);

    /* Handles one asynchronous event or request of a peer, never blocking. RT_EVENT_NONE when none
     * was left. */
    void (*service)(rt_pdevice *device, rt_event *event_out);

    /* Waiting for a peer's WRITE. `memory_epoch` announces a sleeper and returns the epoch; the
     * caller looks at its memory once more; `memory_sleep` sleeps until the epoch changes or time
     * is up, and withdraws the sleeper (RT_OK, RT_E_AGAIN, RT_E_INTERRUPTED). Exactly one
     * memory_sleep follows each memory_epoch, with timeout 0 when the caller has nothing left to
     * wait for. `memory_wake` ends all sleeps of this device. Where the provider cannot wake a
     * receiver, memory_sleep returns RT_E_UNSUPPORTED at once and core naps. */
    uint32_t (*memory_epoch)(rt_pdevice *device);
    int (*memory_sleep)(rt_pdevice *device, uint32_t epoch, int64_t timeout_ns);
    void (*memory_wake)(rt_pdevice *device);

    /* The same for event loops: a descriptor that becomes readable at the next WRITE of a peer
     * after memory_arm, or -1. */
    int (*memory_event_fd)(rt_pdevice *device);
    void (*memory_arm)(rt_pdevice *device);

    /* Called by a thread that waits for a peer, between two checks: does a part of what a peer has
     * begun at this device's memory, and returns whether it did. Takes microseconds, no lock, and
     * never waits. HOT. */
    bool (*memory_help)(rt_pdevice *device);

    /* The provider's name for a completion's foreign_status, as in "IBV_WC_REM_ACCESS_ERR". */
    const char *(*completion_name)(uint32_t foreign_status);

    /* A line of the provider's own about a link for a dump: state, counters. Returns bytes written, as snprintf. */
    int (*link_describe)(rt_plink *link, char *text_out, size_t capacity);

    /* A text command to the provider itself, for tests and fault plans ("world=w kill party=b"); the reply is text. */
    int (*command)(const char *text, char *reply_out, size_t capacity, rt_detail *detail);

    const rt_clock_ops *clock;    /* NULL: real time */
    const rt_stream_ops *streams; /* NULL: TCP */
} rt_provider;

/* ---- registry.c ---- */

/* All providers of this build; NULL-terminated. */
extern const rt_provider *const rt_providers[];

/* By name, or NULL. */
const rt_provider *rt_provider_find(const char *name);

extern const rt_provider rt_provider_verbs;
extern const rt_provider rt_provider_shm;
extern const rt_provider rt_provider_sim;

/* ---- absent.c: every operation as "not supported", for the entries that a provider does not have
 * ---- */
int rt_absent_command(const char *text, char *reply_out, size_t capacity, rt_detail *detail);
const void *rt_absent_remote_map(const rt_premote *remote);
uint32_t rt_absent_memory_epoch(rt_pdevice *device);
int rt_absent_memory_sleep(rt_pdevice *device, uint32_t epoch, int64_t timeout_ns);
void rt_absent_memory_wake(rt_pdevice *device);
int rt_absent_memory_event_fd(rt_pdevice *device);
void rt_absent_memory_arm(rt_pdevice *device);
bool rt_absent_memory_help(rt_pdevice *device);

#endif
