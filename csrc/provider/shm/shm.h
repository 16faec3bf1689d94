/* shm.h: the private face of the shared memory provider. It joins two processes of one user on one host.
 *
 * Memory that peers may reach is a memfd; its descriptor travels over an abstract Unix socket, so nothing has a name and
 * nothing is left after kill -9. A WRITE is a copy by the initiator into its mapping of the peer's memory.
 *
 * open.c     the table, limits, open and close            memory.c    registrations, keys, memfds, checked mappings
 * link.c     links: create, connect, shut, destroy        remote.c    the peer's memory: attach, detach, map
 * exchange.c the socket as served to peers                 peer.c      the socket as used towards a peer
 * post.c     work items (hot)                              poll.c      completions (hot)
 * wait.c     sleeping and waking
 *
 * What is shared, and who may write it. A device has a `board`, which its peers map read-only, and a page with its `epoch`,
 * which they may write. A link end has a ring, written by its one peer. So a peer that misbehaves can spoil its own
 * links and cause needless wake-ups, and (by turning the epoch back at the wrong instant) delay one by one slice of core's sleep.
 * Between processes of one user the kernel itself draws no line (ptrace, chmod of a memfd); rights are held against every
 * peer that uses what it was handed, and every byte of a peer is checked before use. */
#ifndef RT_PROVIDER_SHM_H
#define RT_PROVIDER_SHM_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "base/large.h"
#include "base/list.h"
#include "base/order.h"
#include "provider/provider.h"

enum {
    SHM_VERSION = 1, /* of addresses, keys, messages and of the layouts below */
    SHM_TOKEN_SIZE = 16,
    SHM_ADDRESS_SIZE = 1 + 2 * SHM_TOKEN_SIZE, /* version, name of the device's socket, token of the link */
    SHM_KEY_SIZE = 1 + SHM_TOKEN_SIZE,         /* version, token of the registration */

    SHM_QUEUES_MAX = 65,    /* 64 for data and the service queue */
    SHM_LINKS_MAX = 1024,   /* 8 KiB of table in the device; poll of a queue with receives walks it up to its highest link */
    SHM_EXPORTS_MAX = 4096, /* registrations with remote rights: 16 KiB of the board */

    /* Items never stay outstanding, so the depth only bounds the failures that wait to be polled: 2 KiB a link. */
    SHM_WORK_DEPTH = 128,
    SHM_RECEIVE_DEPTH = 64,
    SHM_RECEIVE_SEGMENTS = 256, /* segments of all posted RECVs of a link; when they are used up, post takes a prefix */
    SHM_SEGMENTS_MAX = 32,

    /* A SEND is a message of address distribution: 16 can be under way to an end, 32 leaves room. Full: post takes a prefix. */
    SHM_RING_SLOTS = 32,
    SHM_SEND_SIZE_MAX = 512,
    SHM_INLINE_SIZE_MAX = 256,

    /* A copy of 32 MiB takes 2 to 6 ms here: between items core looks after deadlines and signals. */
    SHM_MESSAGE_SIZE_MAX = 32 << 20,

    /* Requests sent to a peer and not answered. The kernel queues net.unix.max_dgram_qlen messages (10 by default) on a
     * socket of this kind, so a send never finds it full; further requests wait in the peer object. */
    SHM_REQUESTS_SENT_MAX = 4,
    SHM_REQUESTS_WAITING_MAX = 2 * SHM_LINKS_MAX, /* of one peer; full: RT_E_AGAIN without a request */
    SHM_WINDOWS_UNCLAIMED_MAX = 64,               /* mappings nobody has asked for again; the oldest is unmapped */

    /* Connections that peers hold to this device: two devices need one each way. One more is refused. */
    SHM_GUESTS_MAX = SHM_LINKS_MAX,
};

/* ---- what is shared between processes ---- */

/* Written by the device that owns it, read-only for its peers. */
typedef struct shm_board {
    _Alignas(64) _Atomic uint64_t sleepers; /* low half: sleeping now; high half: announcements so far. wait.c explains */
    _Atomic uint32_t armed;                 /* times memory_arm was called */
    _Alignas(64) _Atomic uint32_t queue_armed[SHM_QUEUES_MAX]; /* times `arm` was called for the queue */
    _Alignas(64) _Atomic uint32_t exports[SHM_EXPORTS_MAX];    /* number of the registration that is live here; 0: none */
} shm_board;

/* Written by everyone. */
typedef struct shm_doorbell {
    _Atomic uint32_t epoch;
} shm_doorbell;

enum shm_slot_kind { SHM_SLOT_SEND = 1, SHM_SLOT_IMMEDIATE = 2 };

typedef struct shm_slot {
    _Atomic uint32_t kind; /* shm_slot_kind */
    _Atomic uint32_t size; /* of the SEND, in `bytes`; or of the WRITE_IMM, which is in the region already */
    _Atomic uint32_t immediate;
    uint32_t zero;
    uint8_t bytes[SHM_SEND_SIZE_MAX];
} shm_slot;

/* What arrives at one link end. Both numbers run free; each end keeps its own one in private memory and checks the other's. */
typedef struct shm_ring {
    _Alignas(64) _Atomic uint32_t head; /* slots filled; by the peer */
    _Alignas(64) _Atomic uint32_t tail; /* slots taken; by the owner */
    _Alignas(64) _Atomic uint32_t shut; /* 1: the owner's end takes nothing more; by the owner */
    _Alignas(64) shm_slot slots[SHM_RING_SLOTS];
} shm_ring;

/* ---- messages between devices: a request and its reply, in order, one packet each ---- */

enum shm_request_kind { SHM_REQUEST_LINK = 1, SHM_REQUEST_REGION = 2, SHM_REFUSAL = 3 };

enum {
    SHM_REQUEST_SIZE = 8 + SHM_TOKEN_SIZE, /* version 1, kind 1, zero 2, number 4, token */
    SHM_REPLY_SIZE = 32, /* version 1, kind 1, zero 2, number 4, status 4, access or queue 4, index 4, generation 4, size 8 */
    SHM_LINK_DESCRIPTORS = 5, /* ring, board, doorbell, memory bell, queue bell */
    SHM_DESCRIPTORS_MAX = 8,  /* room for a wrong number, so that it is seen and closed */
};

typedef struct shm_reply {
    uint8_t kind;
    uint32_t number;
    int32_t status;
    uint32_t value; /* access of a region, queue of a link's receives, user of a refusal */
    uint32_t index;
    uint32_t generation;
    uint64_t size;
} shm_reply;

/* ---- objects ---- */

/* A pair of sockets: whoever holds `ring_end` can make `hear_end` readable. Unlike an eventfd it never blocks a ringer,
 * whatever the other holders do to its flags, and nobody can take the event away but the owner. */
typedef struct shm_bell {
    int ring_end;
    int hear_end;
} shm_bell;

enum shm_source_kind { SHM_SOURCE_LISTENER, SHM_SOURCE_GUEST, SHM_SOURCE_PEER };

/* What an epoll event points to; the first member of its object. */
typedef struct shm_source {
    enum shm_source_kind kind;
    int descriptor;
} shm_source;

typedef struct shm_device shm_device;
typedef struct shm_link shm_link;

typedef struct shm_queue {
    shm_bell bell;
    _Atomic uint32_t failures;  /* failed or flushed send items of its links, not polled */
    _Atomic uint32_t receivers; /* links whose RECVs report here */
    _Atomic uint32_t sequence;  /* odd while a poll is inside: shm_queue_wait_out */
    uint32_t next;              /* the link to begin with, so that none starves; by the poller */
} shm_queue;

/* A connection that a peer opened to this device. */
typedef struct shm_guest {
    shm_source source;
    rt_list node; /* in device->guests */
} shm_guest;

struct shm_device {
    rt_pdevice base;
    shm_source listener;
    uint8_t name[SHM_TOKEN_SIZE]; /* of its socket */
    int epoll;
    int spare; /* given up for a moment to turn a peer away when descriptors have run out */
    uid_t user;
    int board_descriptor; /* read-only, for peers */
    int doorbell_descriptor;
    shm_board *board;
    shm_doorbell *doorbell;
    shm_bell memory_bell;
    uint32_t queue_count; /* with the service queue */
    shm_queue queues[SHM_QUEUES_MAX];
    _Atomic(shm_link *) links[SHM_LINKS_MAX];
    _Atomic uint32_t link_high; /* no link at or above it */
    rt_list guests;             /* of shm_guest.node */
    uint32_t guest_count;
    rt_list peers; /* of shm_peer.node */

    pthread_mutex_t exports_lock; /* guards what follows */
    rt_list exports;              /* of shm_memory.node */
    uint32_t generation;

    rt_large_pace write_paces[RT_LARGE_PACES], read_paces[RT_LARGE_PACES];
};

typedef struct shm_memory {
    rt_pmemory base;
    rt_list node;   /* in device->exports */
    int descriptor; /* what peers get: read-only without the right to write; -1: local only */
    uint8_t token[SHM_TOKEN_SIZE];
    uint32_t index;      /* in board->exports … */
    uint32_t generation; /* … where this stands while it is registered */
} shm_memory;

/* A device of another process (or of this one), as reached through its socket. Shared by the links to it. */
typedef struct shm_peer {
    shm_source source;
    rt_list node; /* in device->peers */
    shm_device *device;
    uint8_t name[SHM_TOKEN_SIZE];
    uint32_t references; /* one per link, one per attached remote */
    bool lost;
    rt_detail failure;      /* why, when lost */
    const shm_board *board; /* NULL before the first link is joined */
    shm_doorbell *doorbell;
    int memory_bell;
    rt_list waiting; /* of shm_request.node: not sent yet */
    rt_list sent;    /* likewise: answers come in this order */
    uint32_t waiting_count, sent_count;
    uint32_t next_number;
    rt_list windows; /* of shm_window.node, oldest first */
} shm_peer;

enum shm_progress { SHM_ASKED, SHM_GRANTED, SHM_FAILED };

/* A mapping of one registration of a peer, shared by all that attached it. */
typedef struct shm_window {
    rt_list node; /* in peer->windows */
    shm_peer *peer;
    enum shm_progress progress;
    rt_detail failure;
    uint8_t token[SHM_TOKEN_SIZE];
    uint32_t references; /* attached remotes */
    uint32_t access, index, generation;
    uint64_t size; /* of the registration */
    uint8_t *address;
    uint64_t mapped_size;
} shm_window;

typedef struct shm_remote {
    rt_premote base;
    uint8_t *address;
    const _Atomic uint32_t *live; /* the peer's board says here … */
    uint32_t generation;          /* … this while the memory is registered */
    shm_window *window;
} shm_remote;

typedef struct shm_request {
    rt_list node; /* in peer->waiting or peer->sent */
    enum shm_request_kind kind;
    uint32_t number;
    uint8_t token[SHM_TOKEN_SIZE];
    shm_link *link; /* who asked; both NULL when it is gone */
    shm_window *window;
} shm_request;

/* How an item ended: the foreign_status of its completion. post.c has the table of names and statuses. */
enum shm_outcome {
    SHM_DONE = 0,
    SHM_FULL, /* not an end: the ring has no room */
    SHM_FLUSHED,
    SHM_PEER_SHUT,
    SHM_REMOTE_BOUNDS,
    SHM_REMOTE_RIGHT,
    SHM_REMOTE_RELEASED,
    SHM_SEND_TOO_LONG,
    SHM_RECV_TOO_SHORT,
    SHM_RING_BROKEN,
    SHM_OUTCOME_COUNT
};

enum shm_link_state { SHM_LINK_CREATED, SHM_LINK_JOINED, SHM_LINK_ERROR };

typedef struct shm_receive {
    uint64_t token;
    uint32_t first, count; /* in link->segments, running free */
} shm_receive;

typedef struct shm_failure {
    uint64_t token;
    uint32_t outcome;
} shm_failure;

struct shm_link {
    rt_plink base;
    _Atomic uint32_t state; /* shm_link_state; ERROR is for ever */
    _Atomic uint32_t cause; /* shm_outcome that the next failed completion shall name; then SHM_FLUSHED */

    /* towards the peer: set when joined, then driven by the poster */
    shm_ring *out;
    uint32_t out_head, out_queue;
    const shm_board *board; /* the peer's, as are the next two */
    shm_doorbell *doorbell;
    int memory_bell, queue_bell;
    uint32_t woken, rung, queue_rung; /* what the board said when this link last woke, rang, rang the queue */

    /* failed send items: filled by the poster, emptied by who polls send_queue */
    _Atomic uint32_t failure_head, failure_tail;
    shm_failure failures[SHM_WORK_DEPTH];

    /* RECVs: filled by the poster, emptied by who polls receive_queue */
    _Atomic uint32_t receive_head, receive_tail;
    uint32_t segment_head;         /* by the poster */
    _Atomic uint32_t segment_tail; /* by who polls */
    shm_receive receives[SHM_RECEIVE_DEPTH];
    rt_segment segments[SHM_RECEIVE_SEGMENTS];
    shm_ring *in;
    uint32_t in_tail;

    /* set-up */
    uint32_t index; /* in device->links */
    uint8_t token[SHM_TOKEN_SIZE];
    int ring_descriptor; /* of `in`, until a peer has fetched it: one link end has one peer */
    shm_peer *peer;
    shm_request *request; /* while SHM_ASKED and not answered */
    bool asked;
    enum shm_progress progress;
    uint8_t peer_address[SHM_ADDRESS_SIZE];
    rt_detail failure;

    /* counters, for link_describe */
    _Atomic uint64_t writes, reads, sends, receives_done, bytes_written, bytes_read, wakes;
};

static inline shm_device *shm_device_of(rt_pdevice *device)
{
    return (shm_device *)(void *)device;
}

static inline shm_link *shm_link_of(rt_plink *link)
{
    return (shm_link *)(void *)link;
}

/* Adds to a counter that one thread writes and any may read. */
static inline void shm_count(_Atomic uint64_t *counter, uint64_t more)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more, memory_order_relaxed);
}

/* ---- memory.c ---- */

/* A memfd of this size, sealed against every change of size. */
int shm_memfd_create(const char *name, uint64_t size, int *descriptor_out, rt_detail *detail);
/* Opens the same file again, for reading only: a mapping of it cannot be made writable. */
int shm_reopen_readonly(int descriptor, int *descriptor_out, rt_detail *detail);
/* Whether the descriptor is a memfd that cannot shrink (touching a mapping of one that did raises SIGBUS) and holds `size`. */
int shm_check_sealed(int descriptor, uint64_t size, rt_detail *detail);
/* Maps the first `size` bytes after shm_check_sealed. */
int shm_map(int descriptor, uint64_t size, bool writable, void **address_out, uint64_t *mapped_size_out, rt_detail *detail);
/* Fills the reply and gives a descriptor that the caller closes, for the registration with this token. */
int shm_export_find(shm_device *device, const uint8_t *token, shm_reply *reply, int *descriptor_out);

int shm_memory_register(rt_pdevice *device, const rt_memory *memory, rt_pmemory **out, rt_detail *detail);
void shm_memory_release(rt_pdevice *device, rt_pmemory *memory);
int shm_memory_key(rt_pdevice *device, rt_pmemory *memory, rt_plink *const *links, uint32_t link_count, uint8_t *key_out,
                   size_t *size_out, rt_detail *detail);

/* ---- link.c ---- */

int shm_link_create(rt_pdevice *device, uint32_t send_queue, uint32_t receive_queue, rt_plink **link_out, uint8_t *address_out,
                    size_t *address_size_out, rt_detail *detail);
int shm_link_connect(rt_plink *link, const uint8_t *peer_address, size_t size, rt_detail *detail);
void shm_link_shut(rt_plink *link);
void shm_link_destroy(rt_plink *link);
int shm_link_describe(rt_plink *link, char *text_out, size_t capacity);
/* The answer to a link's request came: takes the descriptors it keeps and sets them to -1. */
void shm_link_granted(shm_link *link, const shm_reply *reply, int *descriptors);
/* Puts the link in error; the first cause wins. Any thread. */
void shm_link_fail(shm_link *link, enum shm_outcome cause);

/* ---- remote.c ---- */

int shm_remote_attach(rt_plink *link, const uint8_t *key, size_t key_size, uint64_t size, uint32_t access, rt_premote **out,
                      rt_detail *detail);
void shm_remote_detach(rt_plink *link, rt_premote *remote);
const void *shm_remote_map(const rt_premote *remote);
void shm_window_granted(shm_window *window, const shm_reply *reply, int descriptor);
void shm_window_free(shm_window *window);

/* ---- exchange.c ---- */

/* Creates the device's socket and epoll. */
int shm_exchange_open(shm_device *device, rt_detail *detail);
void shm_exchange_close(shm_device *device);
/* The abstract address of a device's socket. */
struct sockaddr_un;
uint32_t shm_socket_address(const uint8_t *name, struct sockaddr_un *address_out);
/* The user at the other end of a connected socket. */
int shm_socket_user(int descriptor, uid_t *user_out, rt_detail *detail);
int shm_watch(shm_device *device, shm_source *source, rt_detail *detail);
void shm_unwatch(shm_device *device, const shm_source *source);
int shm_service_fd(rt_pdevice *device);
void shm_service(rt_pdevice *device, rt_event *event_out);

/* ---- peer.c ---- */

/* The peer with this socket name, connected, with one more reference. */
int shm_peer_find(shm_device *device, const uint8_t *name, shm_peer **peer_out, rt_detail *detail);
void shm_peer_unreference(shm_peer *peer);
/* Asks; the answer comes to the link or window in `service`. RT_E_AGAIN: too many wait, ask later. */
int shm_peer_ask(shm_peer *peer, enum shm_request_kind kind, const uint8_t *token, shm_link *link, shm_window *window,
                 shm_request **request_out, rt_detail *detail);
/* Takes over what came with a link: maps the peer's board and doorbell unless they are. Sets what it keeps to -1. */
int shm_peer_adopt(shm_peer *peer, int *board, int *doorbell, int *bell, rt_detail *detail);
/* Takes one message of the peer's. */
void shm_peer_run(shm_peer *peer, rt_event *event_out);

/* ---- post.c, poll.c ---- */

const char *shm_completion_name(uint32_t foreign_status);
int shm_outcome_status(enum shm_outcome outcome);
int shm_post(rt_plink *link, const rt_work *items, uint32_t count, rt_posted *posted_out);
int shm_poll(rt_pdevice *device, uint32_t queue, rt_completion *completions_out, uint32_t capacity);
/* Waits until no poll that began before this call is inside the queue; polls are short. */
void shm_queue_wait_out(shm_queue *queue);

/* ---- wait.c ---- */

int shm_bell_open(shm_bell *bell_out, rt_detail *detail);
void shm_bell_close(shm_bell *bell);
void shm_bell_ring(int ring_end);
void shm_bell_clear(const shm_bell *bell);
/* After items were placed: wakes whoever sleeps at the peer's device. */
void shm_wake_memory(shm_link *link);
/* After a slot was filled: wakes who waits for the peer's receive queue. */
void shm_wake_queue(shm_link *link);
int shm_arm(rt_pdevice *device, uint32_t queue);
int shm_event_fd(rt_pdevice *device, uint32_t queue);
void shm_event_clear(rt_pdevice *device, uint32_t queue);
uint32_t shm_memory_epoch(rt_pdevice *device);
int shm_memory_sleep(rt_pdevice *device, uint32_t epoch, int64_t timeout_ns);
void shm_memory_wake(rt_pdevice *device);
int shm_memory_event_fd(rt_pdevice *device);
void shm_memory_arm(rt_pdevice *device);

#endif
