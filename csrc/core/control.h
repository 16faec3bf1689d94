/* control.h: the objects of the control plane, and what its files offer each other. What the rest of core may use of it is in
 * core.h. Everything here is guarded by device->lock unless it says otherwise. */
#ifndef RT_CORE_CONTROL_H
#define RT_CORE_CONTROL_H

#include "core/core.h"
#include "core/stream.h"
#include "proto/edge_message.h"

/* ---- capacities ---- */
enum {
    /* Connections of a listener that have not proved who they are, 20 KiB each. One more stays in the kernel's backlog until one of
     * these is done, which is within RT_ACCEPTOR_PATIENCE_NS. */
    RT_PENDING_MAX = 64,
    /* Channels that nobody has accepted yet. One more stays unproven until somebody accepts. */
    RT_UNACCEPTED_MAX = 64,
    /* Refusals nobody has asked for yet. One more drops the oldest, which is counted. */
    RT_REFUSALS_MAX = 16,
    /* Reads of one connection in one round, so that a flood does not keep the others waiting. */
    RT_READS_PER_ROUND = 8,
    /* Events that a provider may report in one round, likewise. */
    RT_EVENTS_PER_ROUND = 256,
    /* Rounds in one rt_service_run; what is left then is found by the next. */
    RT_ROUNDS_MAX = 8,
    /* SENDs of one channel with the provider: our requests and our replies. One more waits for the next round. */
    RT_RPC_SENDS = 2 * RT_RPC_REQUESTS_MAX,
    /* Buffers of one channel: a slot of RT_RPC_MESSAGE_MAX for each RECV and SEND. */
    RT_RPC_BUFFER_SIZE = (RT_RPC_RECEIVES + RT_RPC_SENDS) * RT_RPC_MESSAGE_MAX,
    /* The first RPC region serves this many channels and each further one twice as many; 16 of them serve over a million. */
    RT_RPC_FIRST_CHANNELS = 32,
    RT_RPC_REGIONS_MAX = 16,
};

/* From a connection's first moment to READY. The connector's caller usually gives up earlier, by its own deadline. */
#define RT_ACCEPTOR_PATIENCE_NS (5 * RT_NS_PER_S)
#define RT_CONNECTOR_PATIENCE_NS (30 * RT_NS_PER_S)

/* ---- control.c, control_join.c ---- */

struct rt_control {
    rt_device *device;
    rt_channel *channel;   /* NULL: an acceptor's whose peer has not made its offer */
    rt_listener *listener; /* NULL: a connector's, or accepted already */
    rt_list node;          /* in listener->pending, then in listener->waiting */
    const rt_stream_ops *ops;
    void *stream;
    bool is_socket;
    bool user_known; /* the other end is this user's, or the secret will tell */
    bool told;       /* the channel knows its peer */
    bool busy;       /* being moved now, or over */
    bool cut;        /* the stream of a READY connection ended without a goodbye */
    int watched;     /* the descriptor the service sleeps on, or -1 */
    bool watched_writable;
    uint32_t joined;     /* links that are joined */
    int64_t deadline_ns; /* INT64_MAX once ready */
    uint64_t bytes_in, bytes_out;
    rt_detail why; /* once over */
    char where[RT_SOCKET_TEXT_SIZE];
    rt_handshake handshake;
};

/* Takes the stream on success. `where` names the other end. */
int rt_control_open(rt_device *device, rt_handshake_role role, const rt_stream_ops *ops, void *stream, const char *where,
                    const uint8_t *secret, size_t secret_size, rt_control **control_out, rt_detail *detail);
/* Moves the connection as far as it goes. RT_OK while it lives; else control->why says why it is over. */
int rt_control_move(rt_control *control, bool *moved_out);
/* Says the last words as far as the stream takes them at once, and frees it. */
void rt_control_free(rt_control *control);
/* "peer host pid 1 shm0 at 127.0.0.1:4711", or what is known of it. */
void rt_control_name(const rt_control *control, char *text_out, size_t capacity);
/* Makes and takes offers, joins links: RT_OK as long as nothing is wrong. */
int rt_control_join(rt_control *control, bool *moved_out, rt_detail *detail);

/* ---- listener.c ---- */

struct rt_listener {
    rt_list node;      /* in device->listeners until closed; first, as rt_device_close relies on it */
    rt_device *device; /* holds a reference */
    const rt_stream_ops *ops;
    void *object; /* NULL once closed */
    bool is_socket;
    bool watched;
    int64_t paused_ns; /* accept failed for want of descriptors or memory: not before this time again */
    uint8_t secret[RT_SECRET_SIZE_MAX];
    size_t secret_size;
    rt_list pending; /* of rt_control.node: strangers */
    rt_list waiting; /* of rt_control.node: their channels exist, READY or soon */
    uint32_t pending_count, waiting_count;
    rt_detail refusals[RT_REFUSALS_MAX];
    uint32_t refusal_first, refusal_count;
    uint64_t refusals_dropped;
    char address[RT_SOCKET_TEXT_SIZE];
};

/* A connection whose channel exists ended before anybody accepted it. Gives up the reference kept for the accepter. */
void rt_listener_lost(rt_control *control, const rt_detail *why);
/* When something of the listener is due, or INT64_MAX. */
int64_t rt_listener_deadline(const rt_listener *listener);

/* ---- names.c ---- */

struct rt_name {
    rt_list node; /* in device->names */
    rt_region *region;
    uint64_t offset, size;
    size_t handle_size; /* 0: each peer gets a handle of its own: rt_region_handle_for */
    uint8_t handle[RT_HANDLE_SIZE_MAX];
    char name[RT_NAME_MAX + 1];
};
typedef struct rt_name rt_name;

rt_name *rt_name_find(const rt_device *device, const char *name);
uint32_t rt_name_count(const rt_device *device);

/* ---- rpc.c, rpc_buffers.c, lookup.c ---- */

enum rt_lookup_state {
    RT_LOOKUP_FREE = 0,
    RT_LOOKUP_NEW,  /* not sent yet */
    RT_LOOKUP_SENT, /* the reply is awaited */
    RT_LOOKUP_DONE, /* `status` says how it ended */
};

typedef struct rt_lookup {
    enum rt_lookup_state state;
    bool abandoned; /* nobody waits for the reply, which is still to come */
    uint16_t request;
    uint32_t generation;
    uint32_t wait_ms;
    int32_t status;           /* RT_OK or RT_E_NOT_FOUND */
    uint32_t published_count; /* names that the peer has instead */
    size_t handle_size;
    uint8_t handle[RT_HANDLE_SIZE_MAX];
    char name[RT_NAME_MAX + 1];
} rt_lookup;

/* A lookup of the peer that waits here. */
typedef struct rt_request {
    bool active;
    uint16_t request;
    int64_t deadline_ns;
    char name[RT_NAME_MAX + 1];
} rt_request;

/* A request of the peer's about an edge that waits here: for the name, for a key to be attached, or for its answer to be sent. */
typedef struct rt_edge_request {
    bool active, answered; /* `answer` is made */
    int64_t deadline_ns;
    rt_remote *credit, *tensors; /* attached so far */
    rt_edge_message message, answer;
} rt_edge_request;

/* What a joined channel has of the control plane besides its connection. */
struct rt_rpc {
    rt_region *region;      /* one of the device's RPC regions … */
    int64_t block;          /* … the block of it … */
    uint8_t *buffers;       /* … and its bytes: RT_RPC_RECEIVES slots, then RT_RPC_SENDS */
    _Atomic uint32_t sends; /* slots that are with the provider, a bit each; cleared without device->lock */
    uint32_t receives;      /* likewise, RECVs */
    uint16_t next_request;
    bool keying;     /* a key for the peer is under way: likewise */
    bool blocked;    /* a SEND found the send queue full: its items retire only when somebody polls */
    int64_t reap_ns; /* when to look after SENDs that nobody polls for, or INT64_MAX */
    int64_t reap_nap_ns;
    rt_lookup lookups[RT_RPC_REQUESTS_MAX];
    rt_request requests[RT_RPC_REQUESTS_MAX];
    rt_list edges;             /* of rt_edge.node: joined, opening or closing through this channel */
    uint32_t asked;            /* requests of edges that the peer has not answered */
    uint16_t next_edge_number; /* of a receiving edge */
    rt_edge_request edge_requests[RT_RPC_REQUESTS_MAX];
    rt_list remotes; /* of rt_remote.node: links live as long as these are attached */
};

/* Registered memory for messages, grown outside the lock because registering is slow. */
struct rt_rpc_pool {
    rt_region *regions[RT_RPC_REGIONS_MAX];
    uint32_t region_count;
    bool wanted;       /* a channel waits for room */
    rt_detail failure; /* why there is none; taken by the one that waits */
};

/* RT_E_AGAIN: no room; the service will grow the pool. */
int rt_rpc_take_buffers(rt_device *device, rt_rpc *rpc, rt_detail *detail);
void rt_rpc_give_buffers(rt_rpc *rpc);
/* Without device->lock. True when it did something. */
bool rt_rpc_grow(rt_device *device);
rt_segment rt_rpc_receive_slot(const rt_rpc *rpc, uint32_t slot);
rt_segment rt_rpc_send_slot(const rt_rpc *rpc, uint32_t slot, uint64_t size);

/* A RECV ended without a message, because the link was shut. */
void rt_rpc_flushed(rt_link *link, uint32_t slot);
/* No RECV or SEND is with the provider. */
bool rt_rpc_quiet(const rt_channel *channel);
/* Sends encoded bytes; false when it must be tried again. A broken link fails the channel. */
bool rt_rpc_send(rt_channel *channel, const uint8_t *bytes, size_t size);
/* Requests of ours that the peer has not answered. */
uint32_t rt_rpc_outstanding(const rt_rpc *rpc);
/* Requests of the peer's that wait here. */
uint32_t rt_rpc_pending(const rt_rpc *rpc);
/* The reply to a lookup came. RT_E_PROTOCOL when it fits none. */
int rt_lookup_answered(rt_channel *channel, const rt_rpc_message *message, rt_detail *detail);

/* ---- remote.c ---- */

/* Ends the use of a channel's remotes whose device is being closed; their owners still drop them. */
void rt_remotes_detach(rt_channel *channel);
/* Detaches and frees those whose last reference went where the lock could not be taken. True when there were any. */
bool rt_remotes_settle(rt_device *device);

/* ---- service.c, service_round.c ---- */

struct rt_service {
    rt_device *device;
    pthread_t thread;
    bool has_thread;
    rt_turn turn;              /* guards kick_fd against being closed while it is written */
    int epoll_fd, kick_fd;     /* -1 in virtual time and once stopped */
    int queue_fd, provider_fd; /* the provider's, or -1 */
    _Atomic bool stopping;
    _Atomic bool kicked;    /* a round is owed */
    _Atomic int64_t due_ns; /* when the next round must be at the latest */
    int64_t nap_ns;         /* before the next look at channels that are not quiet yet; grows */
};

/* The device cannot be used any more: fails all its channels. device->lock held. */
void rt_service_lose_device(rt_device *device, const char *text);
/* Polls the service queue. Returns how many completions it took, or a negative status. device->lock held. */
int rt_service_receive(rt_device *device);
/* One look at everything. True when something moved. device->lock held; sets service->due_ns. */
bool rt_service_round(rt_device *device);

#endif
