/* shm.h: the private declarations of the shared memory provider. It joins two processes on one
 * host: of one user, or of two users whose control connection has proved a secret.
 *
 * Memory that peers may reach is a memfd; its descriptor travels over an abstract Unix socket, so
 * nothing appears in the file system and nothing is left after kill -9. A WRITE is a copy by the
 * initiator into its mapping of the peer's memory.
 *
 * open.c     the table, limits, open and close            memory.c    registrations, keys, memfds, checked mappings
 * link.c     links: create, connect, shut, destroy        remote.c    the peer's memory: attach, detach, map
 * exchange.c the socket as served to peers                 peer.c      the socket as used towards a peer
 * closer.c   closing descriptors that other users can make block
 * post.c     work items (hot)                              poll.c      completions (hot)
 * wait.c     sleeping and waking                           HELP.md     large WRITEs that both ends copy:
 * offer.c    the initiator's part                          help.c      the waiting end's part
 * source.c   the initiator's memory, as the waiting end maps it
 *
 * The shared memory, and the processes that may write it: a device has a `board`, which its peers
 * map read-only, and a page with its `epoch`, which they may write. A link end has a ring, written
 * by its one peer. So a peer that misbehaves can spoil its own links and cause needless wake-ups,
 * and (by turning the epoch back at the wrong instant) delay a wake-up by one slice of core's
 * sleep. Between processes of one user the kernel itself enforces no boundary (ptrace, chmod of a
 * memfd); rights are enforced against every peer that uses only the descriptors it was given, and
 * every byte of a peer is checked before use. */
#ifndef RT_PROVIDER_SHM_H
#define RT_PROVIDER_SHM_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "base/large.h"
#include "base/list.h"
#include "provider/provider.h"
#include "provider/shm/layout.h"

/* ---- objects ---- */

/* A pair of sockets: a process that holds `ring_end` can make `hear_end` readable. Unlike an
 * eventfd it never blocks the sender, whatever other holders do to its flags, and only the owner
 * can take the event away. */
typedef struct shm_bell {
    int ring_end;
    int hear_end;
} shm_bell;

enum shm_source_kind { SHM_SOURCE_LISTENER, SHM_SOURCE_GUEST, SHM_SOURCE_PEER, SHM_SOURCE_PAUSE, SHM_SOURCE_UNMAPPED };

/* The object that an epoll event points to; the first member of the struct in question. */
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
    uint32_t next;              /* the link to begin with, so that none starves; set by the poller */
} shm_queue;

/* A registration with remote rights, for threads that hold no lock: the numbers are those of
 * board->exports[…] while the generation there, read before and after, is the same. memory.c */
typedef struct shm_exported {
    _Atomic uint64_t address, size;
    _Atomic uint64_t token[2], source_token[2];
    _Atomic uint32_t access;
} shm_exported;

/* A connection that a peer opened to this device. */
typedef struct shm_guest {
    shm_source source;
    rt_list node; /* in device->guests, oldest first */
    uid_t user;
    bool proven;   /* of our user, or has named a link that another user may join */
    bool doubtful; /* another user's descriptors may be queued in it: closer.c closes it */
} shm_guest;

struct shm_device {
    rt_pdevice base;
    shm_source listener;
    shm_source pause;             /* a timer: ends a time in which no connection is accepted */
    shm_source unmapped;          /* an eventfd: a helper met an offer whose source is not mapped */
    bool rights_refused;          /* the kernel refuses descriptors that are sent to the listener's connections */
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

    pthread_mutex_t exports_lock; /* guards the members below */
    rt_list exports;              /* of shm_memory.node */
    uint32_t generation;

    shm_exported *exported;       /* by the index in board->exports */
    _Atomic uint32_t export_high; /* no registration at or above it */

    rt_large_pace write_paces[RT_LARGE_PACES], read_paces[RT_LARGE_PACES], helped_paces[RT_LARGE_PACES];
    _Alignas(64) _Atomic uint32_t helping; /* odd while a thread is inside shm_memory_help */
};

typedef struct shm_memory {
    rt_pmemory base;
    rt_list node;   /* in device->exports */
    int descriptor; /* the descriptor for peers: read-only without the right to write; -1: local only */
    uint8_t token[SHM_TOKEN_SIZE], source_token[SHM_TOKEN_SIZE];
    uint32_t index;      /* in board->exports … */
    uint32_t generation; /* … whose value this is while the memory is registered */
} shm_memory;

/* A registration of a peer that is mapped to help the peer. Filled by the service, read by a helper. */
typedef struct shm_mapped {
    _Atomic uint32_t generation; /* 0: none. The members below are constant while it is another */
    uint32_t index;
    const uint8_t *address;
    uint64_t size, mapped_size;
} shm_mapped;

enum shm_wish { SHM_WISH_NONE, SHM_WISH_MADE, SHM_WISH_ASKED };

/* A device of another process (or of this one), as reached through its socket. Shared by the links to it. */
typedef struct shm_peer {
    shm_source source;
    rt_list node; /* in device->peers */
    shm_device *device;
    uint8_t name[SHM_TOKEN_SIZE];
    uid_t user;
    bool doubtful;       /* of another user: closer.c closes the descriptors that it can touch */
    uint32_t references; /* one per link, one per attached remote */
    bool lost;
    rt_detail failure;      /* the reason, when lost */
    const shm_board *board; /* NULL before the first link is joined */
    shm_doorbell *doorbell;
    int memory_bell;
    rt_list waiting; /* of shm_request.node: not sent yet */
    rt_list sent;    /* likewise: the answers come in this order */
    uint32_t waiting_count, sent_count;
    uint32_t next_number;
    rt_list windows; /* of shm_window.node, oldest first */

    shm_mapped mapped[SHM_SOURCES_MAX];
    _Atomic uint32_t wish; /* shm_wish. MADE by a helper, all else by the service; then, of the source that is not mapped: */
    uint64_t wish_token[2];
    uint32_t wish_index, wish_generation;
    _Atomic uint32_t refused_index, refused_generation; /* a source that cannot be mapped, so that it is asked for once */
} shm_peer;

enum shm_progress { SHM_ASKED, SHM_GRANTED, SHM_FAILED };

/* A mapping of one registration of a peer, shared by all remotes that attached it. */
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
    const _Atomic uint32_t *live; /* this word of the peer's board … */
    uint32_t generation;          /* … has this value while the memory is registered */
    shm_window *window;
} shm_remote;

typedef struct shm_request {
    rt_list node; /* in peer->waiting or peer->sent */
    enum shm_request_kind kind;
    uint32_t number;
    uint8_t token[SHM_TOKEN_SIZE];
    shm_link *link; /* the object that asked; both are NULL when it is gone, or when the peer itself asked for a source */
    shm_window *window;
} shm_request;

/* The outcome of an item: the foreign_status of its completion. post.c has the table of names and
 * statuses. */
enum shm_outcome {
    SHM_DONE = 0,
    SHM_FULL, /* not an outcome to report: the ring has no room */
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

/* LATE: joined, and a helper of the peer has a piece of the last WRITE in hand: HELP.md */
enum shm_link_state { SHM_LINK_CREATED, SHM_LINK_JOINED, SHM_LINK_ERROR, SHM_LINK_LATE };

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
    uint32_t woken, rung, queue_rung; /* the board's values when this link last woke, rang, rang the queue */

    /* offers to the peer, by the poster: offer.c */
    uint32_t out_index;     /* of the peer's link end in its device's table */
    uint32_t sequence;      /* of the last offer */
    uint32_t helped_pieces; /* claimed by helpers in it */
    int64_t rest_end_ns;    /* no offer before it; 0: no rest, and no clock is read */
    int64_t rest_ns;        /* how long the last rest was */
    uint32_t source_index;  /* in board->exports, where the last source was found */
    bool helped;            /* the last offer was */

    /* failed send items: filled by the poster, emptied by the poller of send_queue */
    _Atomic uint32_t failure_head, failure_tail;
    shm_failure failures[SHM_WORK_DEPTH];

    /* RECVs: filled by the poster, emptied by the poller of receive_queue */
    _Atomic uint32_t receive_head, receive_tail;
    uint32_t segment_head;         /* used by the poster */
    _Atomic uint32_t segment_tail; /* advanced by the poller */
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
    _Atomic uint64_t bytes_helped; /* of bytes_written, those that the peer copied */
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
/* Fills the reply and gives a descriptor that the caller closes, for the registration with this
 * token. As a source, it goes by its other token, and for reading only. */
int shm_export_find(shm_device *device, const uint8_t *token, bool as_source, shm_reply *reply, int *descriptor_out);

int shm_memory_register(rt_pdevice *device, const rt_memory *memory, rt_pmemory **out, rt_detail *detail);
void shm_memory_release(rt_pdevice *device, rt_pmemory *memory);
int shm_memory_key(rt_pdevice *device, rt_pmemory *memory, rt_plink *const *links, uint32_t link_count, uint8_t *key_out,
                   size_t *size_out, rt_detail *detail);

/* ---- link.c, failure.c ---- */

int shm_link_create(rt_pdevice *device, uint32_t send_queue, uint32_t receive_queue, rt_plink **link_out, uint8_t *address_out,
                    size_t *address_size_out, rt_detail *detail);
int shm_link_connect(rt_plink *link, const uint8_t *peer_address, size_t size, rt_detail *detail);
void shm_link_shut(rt_plink *link);
void shm_link_destroy(rt_plink *link);
int shm_link_describe(rt_plink *link, char *text_out, size_t capacity);
/* The answer to a link's request came: takes the descriptors that the link keeps and sets them to
 * -1. */
void shm_link_granted(shm_link *link, const shm_reply *reply, int *descriptors);
/* Puts the link in error; the first cause wins. Any thread. */
void shm_link_fail(shm_link *link, enum shm_outcome cause);

/* ---- remote.c; windows are freed in peer.c ---- */

int shm_remote_attach(rt_plink *link, const uint8_t *key, size_t key_size, uint64_t size, uint32_t access, rt_premote **out,
                      rt_detail *detail);
void shm_remote_detach(rt_plink *link, rt_premote *remote);
const void *shm_remote_map(const rt_premote *remote);
void shm_window_granted(shm_window *window, const shm_reply *reply, int descriptor);
void shm_window_free(shm_window *window);

/* ---- exchange.c, socket.c ---- */

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
/* Make the kernel refuse descriptors that are sent to a socket, or allow them again. False where
 * the kernel cannot refuse them (before Linux 6.16). */
bool shm_socket_refuse_rights(int descriptor, bool refuse);
int shm_service_fd(rt_pdevice *device);
void shm_service(rt_pdevice *device, rt_event *event_out);

/* ---- peer.c, answer.c ---- */

/* The peer with this socket name, connected, with one more reference. RT_E_AUTH: it is of another user, and not `any_user`. */
int shm_peer_find(shm_device *device, const uint8_t *name, bool any_user, shm_peer **peer_out, rt_detail *detail);
void shm_peer_unreference(shm_peer *peer);
/* Sends a request; the answer comes to the link or window in `service`. RT_E_AGAIN: too many wait,
 * ask later. */
int shm_peer_ask(shm_peer *peer, enum shm_request_kind kind, const uint8_t *token, shm_link *link, shm_window *window,
                 shm_request **request_out, rt_detail *detail);
/* Takes over the descriptors that came with a link: maps the peer's board and doorbell unless they
 * are mapped. Sets those that it keeps to -1. */
int shm_peer_adopt(shm_peer *peer, int *board, int *doorbell, int *bell, rt_detail *detail);
/* The connection is over; peer->failure says why. */
void shm_peer_lose(shm_peer *peer);
/* Sends waiting requests, as long as few enough are unanswered. */
void shm_peer_send(shm_peer *peer);
/* Ends a request with the reason, which it gives to the link or window that asked. */
void shm_request_fail(shm_peer *peer, shm_request *request, const rt_detail *why);
/* answer.c: receives one message of the peer's. */
void shm_peer_run(shm_peer *peer, rt_event *event_out);
/* Closes a descriptor that came from the peer, without ever blocking. */
void shm_peer_close(const shm_peer *peer, int descriptor);

/* ---- closer.c ---- */

/* Takes a descriptor whose closing may block, and closes it on another thread. Any thread, any
 * lock. */
void shm_close_elsewhere(int descriptor);
/* The number of descriptors that wait for a thread, in this process. */
uint32_t shm_closings(void);

/* ---- post.c, poll.c ---- */

const char *shm_completion_name(uint32_t foreign_status);
int shm_outcome_status(enum shm_outcome outcome);
int shm_post(rt_plink *link, const rt_work *items, uint32_t count, rt_posted *posted_out);
int shm_poll(rt_pdevice *device, uint32_t queue, rt_completion *completions_out, uint32_t capacity);
/* Waits until no poll that began before this call is inside the queue; polls are short. */
void shm_queue_wait_out(shm_queue *queue);
/* The same for a thread inside shm_memory_help. Its caller has made what it ends unfindable. */
void shm_helper_wait_out(shm_device *device);

/* ---- offer.c, help.c, source.c: large WRITEs that both ends copy. HELP.md ---- */

/* Writes at least SHM_HELP_SIZE_MIN bytes, with the peer's help where it comes. SHM_FULL: the link
 * is LATE. HOT but for long waits. */
enum shm_outcome shm_write_large(shm_link *link, const shm_remote *remote, uint64_t offset, const uint8_t *from, uint64_t size);
/* Whether the helper of a LATE link has finished; then the link is joined again. */
bool shm_link_caught_up(shm_link *link);
bool shm_memory_help(rt_pdevice *device);
/* The mapping of a source, or NULL. Helper. */
const shm_mapped *shm_source_find(const shm_peer *peer, const shm_terms *terms);
/* Asks the service to map it. Helper. */
void shm_source_wish(shm_device *device, shm_peer *peer, const shm_terms *terms, const uint64_t *token);
/* Asks the peers for the sources that helpers met. Service, as are the next three. */
void shm_sources_ask(shm_device *device);
void shm_source_granted(shm_peer *peer, const shm_reply *reply, int descriptor);
void shm_source_refused(shm_peer *peer);
void shm_sources_free(shm_peer *peer);

/* ---- wait.c ---- */

int shm_bell_open(shm_bell *bell_out, rt_detail *detail);
void shm_bell_close(shm_bell *bell);
void shm_bell_ring(int ring_end);
void shm_bell_clear(const shm_bell *bell);
/* After items were placed: wakes the threads that sleep at the peer's device. */
void shm_wake_memory(shm_link *link);
/* After a slot was filled: wakes the thread that waits for the peer's receive queue. */
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
