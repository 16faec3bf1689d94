/* edge.h: a tensor edge and what its ends know of the tensors in its slots. The protocol is
 * proto/EDGES.md, whose decisions proto/edge_*.c make; here are the words of memory, the WRITEs and
 * READs, the messages and the waiting.
 *
 *   make.c     makes an edge            ask.c        this end's requests
 *   wire.c     answer becomes wiring    admit.c      answers to the peer's
 *   close.c    close and drop           attend.c     edges that need the service
 *   attach.c   the peer's memory for it
 *   quiet.c    whether it may end       round.c      the service's work for it
 *   report.c   reports of it            handler.c    … called by the RPC
 *   send.c     sends a tensor           slot.c       flags and releases
 *   copies.c   … stripes to copies      receive.c    receives a tensor
 *   credit.c   … while there is credit  quick.c      the usual case, without waiting
 *   source.c   … from its own place     fetch.c      READ, borrow
 *   post.c     … by operations          immediate.c  flags by immediates
 *   sent.c     … whether it is free     stage.c, dynamic.c, many.c: kinds of sends
 *   lend.c     lends a tensor's place
 *
 * Locks: edge->turn guards the fields below its comment; taken after device->lock, before a link's
 * turn. A thread that holds it never takes device->lock and never sleeps, but for a channel that
 * fails under it: rt_control_last_words tries for the lock for up to 5 ms. The control plane
 * (device->lock held) joins and ends edges. */
#ifndef RT_EDGE_EDGE_H
#define RT_EDGE_EDGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/table.h"
#include "base/turn.h"
#include "channel/channel.h"
#include "channel/op.h"
#include "proto/edge_chunks.h"
#include "proto/edge_flow.h"
#include "proto/edge_keys.h"
#include "proto/edge_message.h"
#include "proto/edge_mode.h"
#include "proto/edge_open.h"
#include "proto/edge_record.h"
#include "rdmatensor.h"
#include "region/pool.h"

typedef struct rt_link rt_link;

typedef enum rt_edge_phase {
    RT_EDGE_PHASE_NEW = 0,  /* receiver: no peer has opened it yet. Sender: the request is under way */
    RT_EDGE_PHASE_ANSWERED, /* sender: the answer is here; the thread that waits for it wires the edge */
    RT_EDGE_PHASE_JOINED,   /* tensors may travel; `wiring`, `layout` and links are constant from here on */
    RT_EDGE_PHASE_REFUSED,  /* sender: `failure` is the reason */
} rt_edge_phase;

typedef enum rt_edge_ask_state { RT_ASK_NONE = 0, RT_ASK_NEW, RT_ASK_SENT, RT_ASK_DONE } rt_edge_ask_state;

/* The one request of an edge that may be outstanding. device->lock. */
typedef struct rt_edge_asking {
    rt_edge_ask_state state;
    rt_edge_message message;
    rt_edge_message answer; /* DONE */
} rt_edge_asking;

/* The state of a tensor in a slot at the sender: operations of its WRITEs, and the memory that must
 * stay until the release. */
typedef struct rt_edge_sent {
    uint64_t sequence;                /* 0: none */
    int64_t ops[RT_EDGE_STRIPES_MAX]; /* numbers of operations that are not collected yet, or 0 */
    rt_region *kept;                  /* dynamic: counted in region->operations until the release */
    rt_pool_block staging; /* dynamic: the buffer that a tensor was copied to; used again after its release. Static: of loans */
    uint64_t staged;       /* … the sequence of that tensor */
    bool in_place;         /* dynamic: the receiver READs the tensor at its place at the sender */
    bool plain;            /* `copies` are those of a contiguous tensor, payload first */
    rt_piece *copies;      /* RT_EDGE_COPIES × stripes, or more where a tensor is gathered from many places */
    uint32_t copies_max;
} rt_edge_sent;
enum { RT_EDGE_COPIES = 6 }; /* of one stripe: BEGUN, NOTE, two of payload, trailer, FLAG */

/* Source words of one slot and stripe at the sender, from which WRITEs of words and trailers are
 * made. The line comes last. */
enum { RT_EDGE_SOURCE_LINE = 64, RT_EDGE_SOURCE_SIZE = 128 };
/* On a dynamic edge, up to 63 bytes of padding and the record follow, then room for eager bytes of
 * unregistered tensors. */
enum { RT_EDGE_SOURCE_RECORD = 192, RT_EDGE_SOURCE_EAGER = RT_EDGE_SOURCE_RECORD + RT_EDGE_RECORD_SIZE };

/* A static tensor from unregistered memory is copied through a ring of chunks; the copy of one overlaps the WRITE of another. */
enum { RT_EDGE_STAGES = 4, RT_EDGE_STAGE_SIZE = 256 * 1024 };
typedef struct rt_edge_stage {
    rt_pool_block memory; /* RT_EDGE_STAGES chunks */
    uint64_t chunk_size;
    rt_edge_tensor tensor; /* the tensor that is being staged, … */
    rt_edge_chunks chunks; /* … and the progress of that */
    uint32_t crc;          /* of the bytes of the stripe that were copied */
    int64_t ops[RT_EDGE_STAGES];
    rt_piece copies[RT_EDGE_STAGES][RT_EDGE_COPIES];
} rt_edge_stage;

/* The place of the next tensor, while a caller of the sender's writes it there (EDGES.md section 13). */
typedef struct rt_edge_loan {
    uint64_t ticket; /* of the open loan; 0: none is open */
    uint64_t given;  /* tickets so far */
    uint64_t sequence, address, size;
    bool in_place; /* in the receiver's slot, else in memory of the sender's */
    bool awaited;  /* another thread waits for its end */
    /* dynamic: */
    rt_edge_tensor tensor;
    bool eager;
    rt_region *region; /* not in place: where it lies, and under which key the receiver knows that */
    uint64_t offset;
    uint32_t key;
    rt_pool_block room; /* … a buffer of the edge's, for a tensor that the receiver READs */
} rt_edge_loan;

/* A tensor at the receiver that is in its slot, at the sender, or being fetched. */
typedef struct rt_edge_got {
    rt_edge_record record; /* dynamic */
    bool decoded;
    bool fetching; /* the READ has begun */
    bool borrowed;
    int32_t failed;    /* the first failure of a part of the READ, or RT_OK: the part's number is void then */
    uint32_t unposted; /* a bit for each copy for which no operation was free yet */
    uint32_t op_count;
    int64_t ops[RT_EDGE_STRIPES_MAX];
    rt_piece copies[RT_EDGE_STRIPES_MAX];
} rt_edge_got;

struct rt_edge {
    rt_device *device;           /* referenced */
    rt_table_node name_node;     /* receiver: in device->edges from creation to close */
    rt_list node;                /* in its channel's rt_edges.list while the control plane has work for it */
    rt_list work_node, ask_node; /* in a list of rt_edges, or in none: attend.c; device->lock */
    rt_table_node number_node;   /* in rt_edges.numbers once it has a number; device->lock */
    rt_list call_node;           /* in channel->called, or in none; channel->calls_turn */
    bool listed;                 /* `node` is in a list, so it may be called; channel->calls_turn */
    _Atomic uint32_t references; /* the caller's, one for each list it is in, and one per thread that waits for many */
    bool sender;
    char name[RT_NAME_MAX + 1];
    rt_edge_terms terms; /* the terms that this end stated */
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
    bool lends;          /* sender: a loan is the receiver's slot itself */
    uint64_t eager_size; /* dynamic */

    rt_pool_block
        slots; /* receiver: from JOINED on, or before where it is of no pool. Dynamic sender: a block of registration 0 */
    rt_pool_block lines;       /* receiver: flag lines, from JOINED on. Sender: source words of every slot and stripe */
    rt_pool_block credit_line; /* flow="credit". Sender: target of credits. Receiver: their source */
    rt_remote *slots_remote, *lines_remote; /* sender */
    rt_remote *credit_remote;               /* receiver, flow="credit" */

    /* device->lock */
    rt_edge_asking ask;
    _Atomic bool close_wanted; /* CLOSE_EDGE must be sent when no other request is outstanding */
    bool close_told;           /* … or was sent */
    bool peer_knows;           /* EDGE_CLOSED came, or the peer closed it, or the channel is gone */
    bool lingers;              /* it was checked and still waits to close */
    rt_region *asked_region;   /* its ADD_KEY is outstanding; referenced. Changed under the turn, too */
    rt_detail failure;         /* of opening, until JOINED */

    rt_turn turn;      /* guards all below */
    rt_detail trouble; /* the newest failure, in words */
    uint32_t borrowed; /* tensors read in place that are not released */
    rt_edge_sender tx;
    rt_edge_receiver rx;
    rt_piece credit_copy;     /* receiver: the copy of every credit, from its credit line */
    int64_t credit_op;        /* … the newest operation under way; where WRITEs are ordered, it ends last */
    _Atomic bool credit_owed; /* the service continues with the credit */
    _Atomic bool stage_owed;  /* … and with a tensor that was left half staged, … */
    _Atomic bool record_owed; /* … and with records for which the link had no room yet */
    rt_edge_sent *sent;       /* by slot */
    rt_edge_got *got;         /* by slot, of a dynamic edge */
    rt_edge_stage *stage;
    rt_edge_loan *loan;                   /* sender, from its first loan on */
    rt_pool_block spare;                  /* dynamic sender: a large staging buffer between two tensors */
    rt_region *source;                    /* cache: the region of the last tensor; referenced */
    rt_edge_keys key_numbers;             /* dynamic */
    rt_region *keys[RT_EDGE_KEYS_MAX];    /* sender: announced regions, referenced; NULL while another is announced … */
    rt_remote *remotes[RT_EDGE_KEYS_MAX]; /* … and receiver: attached, by key */
    uint64_t key_sizes[RT_EDGE_KEYS_MAX]; /* receiver */
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
/* As rt_pool_take, from the channel's pools; returns the channel's failure when it has ended. */
int rt_edge_take(rt_channel *channel, rt_pool_use use, uint64_t size, uint64_t alignment, rt_pool_block *block_out,
                 bool *registered_out, rt_detail *detail);
/* Polls for completions when no other thread may be about to: a sender that does something else
 * polls nothing. */
void rt_edge_step(const rt_edge *edge);
/* Makes the wiring and the links of an end from the agreed terms. */
void rt_edge_wire(rt_edge *edge, const rt_channel *channel, const rt_edge_message *answer, const rt_edge_layout *layout,
                  uint32_t first_link);
/* Records a failure for rt_edge_explain. edge->turn held. Returns the status. */
int rt_edge_fail(rt_edge *edge, const rt_detail *why);
/* The receiving edge that this device has under the name. device->lock held. */
rt_edge *rt_edge_of_name(const rt_device *device, const char *name);
/* Releases the peer's memory, unless tensors are read in place: the edge is closed, or over with
 * its channel. After close_wanted nothing is borrowed anew, so one check under the turn is enough.
 * Takes edge->turn, leaves it for the rest. */
void rt_edge_let_go(rt_edge *edge);
#endif
