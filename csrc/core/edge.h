/* edge.h: the objects of tensor edges in core, and what the edge_*.c files offer each other. The protocol is proto/EDGES.md, whose
 * decisions proto/edge_*.c make; here are the words of memory, the WRITEs and READs, the messages and the waiting.
 *
 *   edge.c          making, opening, closing, the answers to questions     edge_send.c     a tensor becomes copies of an operation
 *   edge_memory.c   registered memory of edges                              edge_source.c   where a tensor lies; strides
 *   edge_setup.c    the sender's and receiver's set-up messages             edge_receive.c  flags become tensors; release and credit
 *   edge_admit.c    the receiver's answers                                  edge_fetch.c    records: READ, borrow
 *   edge_wire.c     an answer becomes an edge; its end                      edge_receives.c RECVs for immediates
 *   edge_post.c     operations, alone and with one doorbell                 edge_stage.c, edge_dynamic.c, edge_many.c: kinds of sends
 *   edge_sent.c     what became of a tensor that was sent                  edge_quick.c    the usual case, without waiting
 *
 * Locks: edge->turn guards what its comment says; taken after device->lock, before a link's turn. Whoever holds it never takes
 * device->lock and never sleeps. The control plane (device->lock held) joins and ends edges. */
#ifndef RT_CORE_EDGE_H
#define RT_CORE_EDGE_H

#include "core/control.h"
#include "core/copy.h"
#include "proto/crc32c.h"
#include "proto/edge_flow.h"
#include "proto/edge_message.h"
#include "proto/edge_mode.h"
#include "proto/edge_open.h"
#include "proto/edge_plan.h"
#include "proto/edge_record.h"

/* ---- edge_memory.c ---- */

/* A block of registered memory of an edge. */
typedef struct rt_edge_memory {
    rt_region *region; /* referenced; NULL: none */
    int64_t block;     /* in the region's arena */
    uint64_t offset, size;
    uint8_t *address;
    bool own;   /* the region is this block's alone */
    bool bound; /* of a region of the caller's, which stays open meanwhile */
} rt_edge_memory;

/* Regions that serve small blocks of many edges, by right. */
enum { RT_EDGE_POOL_REGIONS_MAX = 24, RT_EDGE_POOL_RIGHTS = 2 };
struct rt_edge_pool {
    rt_region *regions[RT_EDGE_POOL_RIGHTS][RT_EDGE_POOL_REGIONS_MAX]; /* device->lock; only grows */
    uint32_t counts[RT_EDGE_POOL_RIGHTS];
};

/* Takes zeroed memory with RT_RIGHT_REMOTE_WRITE or RT_RIGHT_REMOTE_READ. May register, which is slow: *registered_out says so.
 * Best without any lock. */
int rt_edge_memory_take(rt_device *device, uint32_t rights, uint64_t size, uint64_t alignment, rt_edge_memory *memory_out,
                        bool *registered_out, rt_detail *detail);
/* Takes it from a region of the caller's. */
int rt_edge_memory_take_from(rt_region *region, uint64_t size, uint64_t alignment, rt_edge_memory *memory_out, rt_detail *detail);
/* Gives it back; nothing local is posted from it any more, or it is quarantined. Does nothing when there is none. */
void rt_edge_memory_give(rt_edge_memory *memory);

/* ---- the edge ---- */

typedef enum rt_edge_phase {
    RT_EDGE_PHASE_NEW = 0,  /* receiver: nobody has opened it yet. Sender: the request is under way */
    RT_EDGE_PHASE_ANSWERED, /* sender: the answer is here, to be wired by who waits for it */
    RT_EDGE_PHASE_JOINED,   /* tensors may travel; `wiring`, `layout` and links are constant from here on */
    RT_EDGE_PHASE_REFUSED,  /* sender: `failure` says why */
} rt_edge_phase;

typedef enum rt_edge_ask_state { RT_ASK_NONE = 0, RT_ASK_NEW, RT_ASK_SENT, RT_ASK_DONE } rt_edge_ask_state;

/* The one request of an edge that may be outstanding. device->lock. */
typedef struct rt_edge_asking {
    rt_edge_ask_state state;
    rt_edge_message message;
    rt_edge_message answer; /* DONE */
} rt_edge_asking;

/* What the sender knows of a tensor in a slot: operations of its WRITEs, and what must stay until the release. */
typedef struct rt_edge_sent {
    uint64_t sequence;                /* 0: none */
    int64_t ops[RT_EDGE_STRIPES_MAX]; /* numbers of operations that are not collected yet, or 0 */
    rt_region *kept;                  /* dynamic: counted in region->operations until the release */
    rt_edge_memory staging;           /* dynamic: where a tensor was copied to; used again after its release */
    uint64_t staged;                  /* … the sequence of that tensor */
    uint64_t plain_address;           /* of the contiguous tensor that `copies` are of, in plain_region, or 0 */
    const rt_region *plain_region;
    rt_copy *copies; /* RT_EDGE_COPIES × stripes, or more where a tensor is gathered from many places */
    uint32_t copies_max;
} rt_edge_sent;
enum { RT_EDGE_COPIES = 6 }; /* of one stripe: BEGUN, NOTE, two of payload, trailer, FLAG */

/* Source words of one slot and stripe at the sender: what WRITEs of words and trailers are made from. The line is the last. */
enum { RT_EDGE_SOURCE_LINE = 64, RT_EDGE_SOURCE_SIZE = 128 };
/* Of a dynamic edge there follow up to 63 bytes of padding and the record, then room for eager bytes of unregistered tensors. */
enum { RT_EDGE_SOURCE_RECORD = 192, RT_EDGE_SOURCE_EAGER = RT_EDGE_SOURCE_RECORD + RT_EDGE_RECORD_SIZE };

/* A static tensor from unregistered memory is copied through a ring of chunks; the copy of one overlaps the WRITE of another. */
enum { RT_EDGE_STAGES = 4, RT_EDGE_STAGE_SIZE = 256 * 1024 };
typedef struct rt_edge_stage {
    rt_edge_memory memory; /* RT_EDGE_STAGES chunks */
    uint64_t chunk_size;
    rt_edge_tensor tensor;         /* what is being staged, as sequence … */
    uint64_t sequence, size, done; /* … 0: nothing. How much of the stripe has been posted */
    uint64_t given_up;             /* a sequence that was given up half staged, or 0 */
    uint32_t stripe, crc, chunks;
    int64_t ops[RT_EDGE_STAGES];
    rt_copy copies[RT_EDGE_STAGES][RT_EDGE_COPIES];
} rt_edge_stage;

/* A tensor at the receiver that is in its slot, at the sender, or being fetched. */
typedef struct rt_edge_got {
    rt_edge_record record; /* dynamic */
    bool decoded;
    bool fetching; /* the READ has begun */
    bool borrowed;
    int32_t failed;    /* how a part of the READ ended that did not end well, or RT_OK: its number is void by then */
    uint32_t unposted; /* a bit for each copy that no operation was free for yet */
    uint32_t op_count;
    int64_t ops[RT_EDGE_STRIPES_MAX];
    rt_copy copies[RT_EDGE_STRIPES_MAX];
} rt_edge_got;

struct rt_edge {
    rt_device *device;           /* referenced */
    rt_list name_node;           /* receiver: in device->edges from creation to close */
    rt_list node;                /* in channel->rpc->edges while the control plane has something to do with it */
    _Atomic uint32_t references; /* the caller's, one for each list it is in, and one per thread that waits for many */
    bool sender;
    char name[RT_NAME_MAX + 1];
    rt_edge_terms terms; /* what this end said */
    int32_t qp;
    bool staging_wanted;
    bool trusting;
    char ordering[RT_EDGE_REASON_SIZE];
    uint32_t alignment;

    _Atomic uint32_t phase; /* rt_edge_phase; stored with release after what it announces */
    rt_channel *channel;    /* referenced; a receiver's from JOINED on */
    rt_edge_wiring wiring;
    rt_link *links[RT_EDGE_STRIPES_MAX];
    uint16_t number;
    bool verify;
    bool plain;          /* a small tensor is a payload and a flag, and both are written when posted */
    uint64_t eager_size; /* dynamic */

    rt_edge_memory slots; /* receiver. Dynamic sender: a block of registration 0 */
    rt_edge_memory lines; /* receiver: the word of credits, then flag lines. Sender: source words of every slot and stripe */
    rt_edge_memory credit_line;             /* sender, flow="credit" */
    rt_remote *slots_remote, *lines_remote; /* sender */
    rt_remote *credit_remote;               /* receiver, flow="credit" */

    /* device->lock */
    rt_edge_asking ask;
    _Atomic bool close_wanted;    /* CLOSE_EDGE is to be sent when no other request is outstanding */
    bool close_told;              /* … or was */
    bool peer_knows;              /* EDGE_CLOSED came, or the peer closed it, or the channel is gone */
    int64_t reap_ns, reap_nap_ns; /* when to look for completions while it closes, and how long after that again */
    rt_region *asked_region;      /* an ADD_KEY of it is outstanding; referenced */
    rt_detail failure;            /* of opening, until JOINED */

    rt_turn turn;      /* guards all below */
    rt_detail trouble; /* the newest, in words */
    uint32_t borrowed; /* tensors read in place that are not released */
    rt_edge_sender tx;
    rt_edge_receiver rx;
    rt_copy credit_copy;      /* receiver: of every credit; its word lies at the start of `lines` */
    int64_t credit_op;        /* … of the one that must end before the next is posted, or is not wholly posted itself */
    _Atomic bool credit_owed; /* the service goes on with it */
    _Atomic bool stage_owed;  /* … and with a tensor that was left half staged, … */
    _Atomic bool record_owed; /* … and with records for which the link had no room yet */
    rt_edge_sent *sent;       /* by slot */
    rt_edge_got *got;         /* by slot, of a dynamic edge */
    rt_edge_stage *stage;
    rt_edge_memory spare;                 /* dynamic sender: a large staging buffer between two tensors */
    rt_region *source;                    /* cache: where the last tensor lay; referenced */
    rt_region *keys[RT_EDGE_KEYS_MAX];    /* sender, dynamic: announced regions, referenced … */
    rt_remote *remotes[RT_EDGE_KEYS_MAX]; /* … and receiver: attached, by key */
    uint64_t key_sizes[RT_EDGE_KEYS_MAX];
    uint32_t key_count;
    rt_edge_stats stats;
};

void rt_edge_reference(rt_edge *edge);
void rt_edge_unreference(rt_edge *edge);

/* edge.c. Whether the channel has failed and its links are shut, so that the edge may be told. */
static inline bool rt_edge_lost(const rt_edge *edge)
{
    return atomic_load_explicit(&edge->channel->links_shut, memory_order_acquire);
}
static inline bool rt_edge_joined(const rt_edge *edge)
{
    return atomic_load_explicit(&edge->phase, memory_order_acquire) == RT_EDGE_PHASE_JOINED;
}
/* Remembers what went wrong, for rt_edge_explain. edge->turn held. Returns the status. */
int rt_edge_fail(rt_edge *edge, const rt_detail *why);
/* One line for dumps. edge->turn held, or tried for. */
int rt_edge_describe(const rt_edge *edge, char *text_out, size_t capacity);

/* ---- edge_setup.c, edge_admit.c: messages; device->lock held ---- */

/* Sends what is due of the channel's edges; sweeps those that are over. True when something moved. */
bool rt_edges_run(rt_channel *channel);
/* A message of the peer: its first byte is an edge's. RT_E_PROTOCOL ends the channel. */
int rt_edges_received(rt_channel *channel, const uint8_t *bytes, size_t size, rt_detail *detail);
/* The channel has failed and its links are quiet: edges learn it, those that nobody uses let go of the peer's memory. */
void rt_edges_channel_ending(rt_channel *channel);
/* The channel is gone: its edges leave its list. */
void rt_edges_channel_closed(rt_channel *channel);
/* An edge was made or closed: requests that wait for names are looked at. */
void rt_edges_changed(rt_device *device);
/* Answers a request of the peer; true when it was answered. edge_admit.c */
bool rt_edge_answer(rt_channel *channel, rt_edge_request *request);
void rt_edge_requests_end(rt_rpc *rpc);
/* Nothing that this end posted for the edge is under way, and nothing is read in place. Takes edge->turn. */
bool rt_edge_quiet(rt_edge *edge);
/* Lets go of the peer's memory: the edge is closed, or over with its channel. Takes edge->turn, leaves it for the rest. */
void rt_edge_let_go(rt_edge *edge);
rt_edge *rt_edge_of_number(const rt_channel *channel, uint16_t number, bool sender);
/* The first deadline of requests that wait here, or INT64_MAX. */
int64_t rt_edges_next_deadline(const rt_channel *channel);
/* Begins a request of the edge's (ADD_KEY). RT_E_BUSY: another is outstanding. */
int rt_edge_ask(rt_edge *edge, const rt_edge_message *message);

/* ---- edge_source.c ---- */

/* The open region of the device that holds these bytes, referenced by edge->source; NULL: none. edge->turn held on entry and on
 * return, left in between: *left_out says so. */
rt_region *rt_edge_region_of(rt_edge *edge, uint64_t address, uint64_t size, bool *left_out);

/* Copies a tensor's bytes [from, from + size) in row-major order to `to`. */
void rt_edge_gather(const rt_edge_tensor *tensor, uint64_t item_size, uint64_t from, uint64_t size, uint8_t *to);
/* How many contiguous runs a tensor is made of, and the size of each; 1 run for a contiguous one. */
uint64_t rt_edge_runs(const rt_edge_tensor *tensor, uint64_t item_size, uint64_t *run_size_out);
/* The address of run `index`. */
uint64_t rt_edge_run_address(const rt_edge_tensor *tensor, uint64_t item_size, uint64_t run_size, uint64_t index);
/* Lowest address and span of all bytes of a tensor; false when it is empty or wraps. */
bool rt_edge_span(const rt_edge_tensor *tensor, uint64_t item_size, uint64_t *address_out, uint64_t *size_out);
/* Fills contiguous strides where there are none; RT_E_INVALID with the detail for what is not the edge's. */
int rt_edge_check_tensor(const rt_edge *edge, const rt_edge_tensor *tensor, uint64_t *size_out, rt_detail *detail);

/* ---- edge_post.c ---- */

/* Whether each of the links has an operation that is free. */
bool rt_edge_may_post(rt_link *const *links, uint32_t count);
/* Takes an operation of each of the links, or of none: RT_E_BUSY, after a look for some that have ended. One that ends well gives
 * itself back, so that tensors that nobody asks for hold none; one that failed waits for rt_edge_collect. */
int rt_edge_reserve(rt_link *const *links, uint32_t count, rt_op **ops_out);
/* Posts copies as an operation that was reserved. */
int rt_edge_post_reserved(rt_link *link, rt_op *op, const rt_copy *copies, uint64_t count, int64_t end_ns, int64_t *number_out);

/* rt_link_post_small, with the link's turn taken and left. At once: false too when the turn is not free. */
bool rt_edge_post_small(rt_link *link, const rt_copy *copies, uint32_t count, bool at_once, int64_t *number_out);

/* Operations of one link that will share a doorbell. */
typedef struct rt_edge_together {
    rt_link *link;
    uint32_t count, copies;
    rt_op *ops[RT_POST_BATCH];
} rt_edge_together;
/* Adds copies as an operation with a number; posts what was gathered before when it must. RT_E_BUSY: no operation is free. */
int rt_edge_together_add(rt_edge_together *together, rt_link *link, const rt_copy *copies, uint32_t count, int64_t *number_out);
void rt_edge_together_flush(rt_edge_together *together);

/* ---- edge_quick.c ---- */

/* The short way of a small contiguous tensor and its flag, where posting is copying. The copies of a tensor that is sent again from the
 * same place are those of the last time; only the sequence is new. False: go the long way. edge->turn held. */
bool rt_edge_post_plain(rt_edge *edge, uint64_t sequence, uint64_t address, uint64_t size, const rt_region *region, bool at_once,
                        int64_t *result_out);
void rt_edge_count_sent(rt_edge *edge, uint64_t sequence, uint64_t size);

/* ---- edge_send.c, edge_stage.c ---- */
/* RT_OK: this end of the edge may send. */
int rt_edge_check_sender(const rt_edge *edge);
/* One of many sends; as rt_edge_send. */
int64_t rt_edge_send_one(const rt_edge_sending *one, int64_t end_ns, rt_edge_together *together);
/* Posts copies as one operation of a link: RT_OK, and *number_out is 0 when it is finished. RT_E_BUSY: no operation is free. */
int rt_edge_post(rt_link *link, const rt_copy *copies, uint64_t count, int64_t end_ns, int64_t *number_out);
/* Collects what has ended of some operations. RT_OK: all have. The status of one that failed, whether or not others are under way, once.
 * Else RT_E_AGAIN. */
int rt_edge_collect(rt_channel *channel, int64_t *ops, uint32_t count);
/* Collects likewise, and says whether any is still under way, however the others ended. */
bool rt_edge_pending(rt_channel *channel, int64_t *ops, uint32_t count);
/* Makes the copies of one stripe. `payload` describes where the bytes are. Returns how many. */
uint32_t rt_edge_copies_of(const rt_edge *edge, const rt_edge_plan *plan, uint64_t sequence, uint32_t stripe, uint32_t crc,
                           const rt_copy *payload, uint32_t payload_count, rt_copy *copies_out);
uint8_t *rt_edge_source_of(const rt_edge *edge, uint32_t slot, uint32_t stripe);
/* Looks at the credit and at the channel: RT_OK, or why nothing more can be sent. edge->turn held. */
int rt_edge_take_credit(rt_edge *edge);
/* RT_OK: the next sequence may be sent, and its slot's operations are over. edge->turn held. */
int rt_edge_may_send(rt_edge *edge, uint64_t *sequence_out);
/* Bytes of `lines` at a sender. */
uint64_t rt_edge_source_span(const rt_edge *edge, uint32_t slots, uint32_t stripes);
/* edge_dynamic.c */
/* Whether the record of this sequence is wholly posted, and needs nobody to move it on. Takes edge->turn. */
bool rt_edge_record_posted(rt_edge *edge, uint64_t sequence);
int64_t rt_edge_send_dynamic(rt_edge *edge, const rt_edge_tensor *tensor, uint64_t size, int64_t end_ns);
/* Makes the ring of chunks, which may register: without any turn. */
int rt_edge_stage_prepare(rt_edge *edge, rt_detail *detail);
/* Takes the next sequence for a tensor to be staged. RT_E_NOT_FOUND: there is no ring yet. edge->turn held. */
int rt_edge_stage_begin(rt_edge *edge, const rt_edge_tensor *tensor, uint64_t size, uint64_t sequence);
/* Goes on staging. RT_OK: all is posted. RT_E_AGAIN: chunks are under way, or time is up; then edge->stage_owed, and the service,
 * once it is kicked, goes on too: the receiver may wait for this tensor while its sender waits for something else. edge->turn held. */
int rt_edge_stage_run(rt_edge *edge, int64_t end_ns);
/* The edge closes, or is over: no more is posted of a tensor that is half staged. edge->turn held. */
void rt_edge_stage_give_up(rt_edge *edge);

static inline int64_t rt_edge_slice_end(const rt_device *device, int64_t timeout_ns)
{
    return rt_device_time(device) + (timeout_ns < RT_SLICE_NS ? timeout_ns : RT_SLICE_NS);
}

/* ---- edge_receive.c ---- */
/* One look, edge->turn held: RT_OK with the sequence, or a status. */
int rt_edge_look_once(rt_edge *edge, uint64_t *sequence_out, rt_detail *detail);
int rt_edge_release_held(rt_edge *edge, uint64_t sequence, rt_detail *detail);
/* Posts the credit that is due, if it can be. edge->turn held. */
void rt_edge_give_credit(rt_edge *edge);
/* Where the bytes of a slot lie here, and its flag lines. */
uint8_t *rt_edge_slot_address(const rt_edge *edge, uint32_t slot);
uint8_t *rt_edge_line_address(const rt_edge *edge, uint32_t slot, uint32_t stripe);

/* ---- edge_fetch.c ---- */
/* Reads the record of a tensor that has arrived on a dynamic edge, and says what it is. edge->turn held. */
int rt_edge_take_record(rt_edge *edge, uint64_t sequence, rt_edge_arrival *arrival_out, rt_detail *detail);

/* Collects what has ended of a READ. RT_E_AGAIN, RT_OK, or how the first part of it failed, as often as it is asked. edge->turn held. */
int rt_edge_fetched(const rt_edge *edge, rt_edge_got *got);

/* ---- edge_receives.c: RECVs beside those of the RPC, for immediates; device->lock held ---- */

/* Sees to it that `count` more are posted on a link. RT_E_BUSY: its receive side is too small. */
int rt_receives_reserve(rt_link *link, uint32_t count, rt_detail *detail);
void rt_receives_unreserve(rt_link *link, uint32_t count);
uint32_t rt_receives_count(const rt_link *link);
uint32_t rt_receives_outstanding(const rt_link *link);
rt_segment rt_receives_slot(const rt_link *link, uint32_t index);
int rt_receives_post(rt_link *link, uint32_t index, rt_detail *detail);
void rt_receives_flushed(rt_link *link);
void rt_receives_free(rt_link *link); /* nothing is with the provider any more */
/* An immediate came on this link: into the flag that it means. */
int rt_edge_immediate(rt_link *link, uint32_t immediate, rt_detail *detail);

#endif
