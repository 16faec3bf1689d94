/* collective.h: the objects of a team, who guards their members, and what the files of this room offer each other.
 *
 * direct.c     reading straight out of the tensors of others: agreeing    direct_run.c  what is done then
 * team.c       create, join, abort, leave, drop            wait.c       how a call waits, and what ends its waiting
 * lane.c       messages from member to member (hot)         reduce.c     sums and the like of what lies in memory
 * exchange.c   everybody to everybody, gather, scatter      collective.c barrier, reduce, reduce-scatter, gather, broadcast
 * transfer.c   sends and receives: calls and matching       transfer_run.c  what moves them
 * attached.c   ranges that peers read where they lie        transfer_read.c what reads a send where it lies
 *
 * A team stands on top of core: it posts WRITEs through channels and sleeps as core's waits do. COLLECTIVE.md explains. */
#ifndef RT_COLLECTIVE_H
#define RT_COLLECTIVE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/large.h"
#include "base/list.h"
#include "base/order.h"
#include "collective/attached.h"
#include "core/core.h"
#include "proto/edge_layout.h"
#include "rdmatensor_team.h"

enum {
    RT_TEAM_SIZE_MAX = 1024,
    RT_TEAM_LINE = 64,
    RT_TEAM_NOTICE_SIZE = 320, /* text of a member that gave up; its last 8 bytes are the word that says so */
    RT_TEAM_SLOTS_MAX = 64,
    RT_TEAM_CHUNK_MIN = 512, /* what members tell each other of their tensors fits one message */
    RT_TEAM_CHUNK_MAX = 4 << 20,
};

/* Two lanes to each peer, so that a send which nobody receives yet never stands in the way of a collective call. */
enum rt_lane_kind { RT_LANE_COLLECTIVE = 0, RT_LANE_TRANSFER = 1, RT_LANE_KINDS = 2 };

enum rt_message_kind {
    RT_MESSAGE_COLLECTIVE = 1, /* `what` says which call */
    RT_MESSAGE_EAGER = 2,      /* a whole send */
    RT_MESSAGE_OFFER = 3,      /* a send whose bytes wait for a receive; the payload is an rt_announcement of them, or nothing */
    RT_MESSAGE_ACCEPT = 4,     /* the receive is there: send the bytes; or, rt_accept_what, they were read */
    RT_MESSAGE_PART = 5,       /* some of the bytes; of those that were read, none: the send was not given up meanwhile */
    RT_MESSAGE_REFUSE = 6,     /* the receive does not fit */
};

enum rt_accept_what { RT_ACCEPT_SEND = 0, RT_ACCEPT_READ = 1 };

/* What lies in front of each payload, one cache line. From a peer it is hostile until checked. */
typedef struct rt_message {
    uint32_t kind; /* rt_message_kind */
    uint32_t what; /* collective: rt_team_what; ACCEPT: rt_accept_what; REFUSE: kind of what is refused */
    uint64_t size; /* of the payload in this slot */
    uint64_t total;
    uint64_t number;  /* collective: of the call; OFFER, ACCEPT, PART, REFUSE: the sender's number of the send */
    uint64_t partner; /* ACCEPT, PART: the receiver's number of the receive; exchange: what the message is */
    uint64_t tag;
    uint32_t dtype;
    uint32_t reduction;
    int32_t root;
    uint32_t zero;
} rt_message;
_Static_assert(sizeof(rt_message) == RT_TEAM_LINE, "one cache line");

enum rt_team_what {
    RT_WHAT_BARRIER = 1,
    RT_WHAT_REDUCE,
    RT_WHAT_REDUCE_SCATTER,
    RT_WHAT_GATHER_ALL,
    RT_WHAT_BROADCAST,
    RT_WHAT_EXCHANGE,
};

/* Messages between this member and one peer, both ways. Guarded by whoever runs collective calls, or by team->lock. */
typedef struct rt_lane {
    rt_team *team;
    uint32_t peer;
    enum rt_lane_kind kind;
    /* outwards */
    uint8_t *out;          /* slots, in the own region */
    const uint64_t *acked; /* how many the peer has taken: written by it */
    uint64_t sent;
    uint64_t heads, tails;                     /* offsets of the words that head and ack WRITEs are made from */
    uint64_t remote_arrived, remote_acked;     /* offsets of our words at the peer */
    uint64_t remote_in;                        /* offset of its copy of our slots, where it cannot map ours */
    int64_t operations[3 * RT_TEAM_SLOTS_MAX]; /* of the WRITEs that may go on: payload, head, ack; 0: none */
    /* inwards */
    const uint8_t *in;       /* the peer's slots, mapped or copied here */
    const uint64_t *arrived; /* how many the peer has sent: written by it */
    uint64_t taken, told;    /* … how many were taken here, and how many of them the peer was told of */
    rt_message message;      /* the header that was looked at last */
} rt_lane;

typedef struct rt_direct rt_direct; /* direct.h */

typedef struct rt_peer {
    rt_channel *channel;
    rt_remote *remote;
    const uint8_t *mapped;  /* its region, or NULL */
    const uint64_t *notice; /* nonzero: it gave up, or left; its text lies before */
    rt_lane lanes[RT_LANE_KINDS];
    rt_attachments attached; /* regions whose sends are read in place; team->lock, as all below */
    rt_list queue;           /* transfer.c: sends not announced yet, in order */
    rt_list offered;         /* sends that wait for a receive */
    rt_list flowing;         /* sends whose bytes are being sent */
    rt_list controls;        /* of rt_control_note.node: ACCEPT and REFUSE to be sent */
    rt_detail refused;       /* an eager send did not fit its receive: the next transfer with this peer says so */
} rt_peer;

struct rt_team {
    rt_device *device;
    rt_region *region;
    rt_team_options options;
    uint32_t rank, size;
    bool maps;                           /* the peers' slots are read where they lie */
    uint64_t stride;                     /* from slot to slot */
    rt_peer *peers;                      /* by rank; the own entry is empty */
    rt_direct *directs;                  /* likewise; used by who runs collective calls */
    rt_large_pace paces[RT_LARGE_PACES]; /* of copies out of the peers' tensors; any thread */
    uint64_t calls;                      /* collective calls begun */
    _Atomic int32_t broken;              /* status of `failure`, set after it */
    rt_detail failure;
    pthread_mutex_t failing; /* guards writing `failure` */
    bool left;

    pthread_mutex_t lock; /* guards transfers and the transfer lanes */
    rt_list receives;     /* of rt_team_transfer.node: posted, not matched, in order */
    rt_list reading;      /* matched to an OFFER, and read in place */
    rt_list arriving;     /* matched to an OFFER, bytes are coming, or were read */
    rt_list unexpected;   /* of rt_unexpected.node, in order of arrival */
    uint64_t next_number;
    _Atomic uint32_t pending; /* transfers that are not done */
    rt_team_stats stats;      /* collective side by its caller, transfer side under lock: no member is shared */
    _Atomic uint64_t sleeps;
};

/* ---- team.c ---- */
/* Offsets in a member's region. */
uint64_t rt_team_flags_at(uint32_t peer, uint32_t kind);
uint64_t rt_team_notice_at(const rt_team_options *options, uint32_t peer);
uint64_t rt_team_words_at(const rt_team_options *options, uint32_t peer, uint32_t kind);
uint64_t rt_team_slots_at(const rt_team_options *options, uint32_t peer, uint32_t kind);
uint64_t rt_team_inbox_at(const rt_team_options *options, uint32_t peer, uint32_t kind);
/* Ends the team, the first time: keeps the failure, and tells the peers unless `quiet`. Returns the status of what ended it. */
int rt_team_break(rt_team *team, const rt_detail *why, bool quiet);
/* Whether something ended the waiting for peer `needed` (or for anybody, with -1): the channel's loss, a notice, an abort. */
int rt_team_trouble(rt_team *team, int32_t needed, bool transfers, rt_detail *detail);

/* ---- wait.c ---- */
typedef struct rt_team_waiter {
    rt_team *team;
    int64_t end_ns;
    int (*interrupted)(void);
    int32_t needed; /* the peer that is waited for, or -1 */
    bool transfers; /* waits for a send or receive: a notice of a failed collective call does not concern it */
    uint32_t looks;
    bool announced;
    uint32_t epoch;
    int64_t napped_ns;
    int status; /* what to return at the next look that finds nothing */
    rt_detail detail;
} rt_team_waiter;

void rt_team_waiter_begin(rt_team_waiter *waiter, rt_team *team, int64_t timeout_ns, int (*interrupted)(void));
/* After a look that found nothing. RT_OK: look again. RT_E_DEADLINE, or why waiting is over, with waiter->detail. */
int rt_team_waiter_idle(rt_team_waiter *waiter);
/* After a look that found something: the next ones are quick again. */
void rt_team_waiter_moved(rt_team_waiter *waiter);
void rt_team_waiter_end(rt_team_waiter *waiter);

/* ---- lane.c ---- */
/* Room for a message's header and payload, or NULL as long as the peer has not taken enough. */
rt_message *rt_lane_room(rt_lane *lane);
static inline uint8_t *rt_message_payload(rt_message *message)
{
    return (uint8_t *)(message + 1);
}
/* Sends what was put there; message->size says how much. */
int rt_lane_push(rt_lane *lane, rt_message *message);
/* The next message that has arrived, its header checked and copied to lane->message, or NULL; *status_out then says whether the
 * peer sent nonsense. */
const uint8_t *rt_lane_peek(rt_lane *lane, int *status_out);
/* It is used. */
void rt_lane_take(rt_lane *lane);
/* Waits until the peer's device is done with what was sent: nothing to do where posting is copying. */
void rt_lane_drain(rt_lane *lane);

/* ---- reduce.c ---- */
/* target = sources[0] (reduction) sources[1] …, in this order; target may be one of them. */
int rt_team_reduce_blocks(const rt_team_call *call, void *target, const void *const *sources, uint32_t count_of_sources,
                          uint64_t count);

/* ---- collective.c, exchange.c ---- */
/* A call in progress. */
typedef struct rt_run {
    rt_team *team;
    const rt_team_call *call;
    enum rt_team_what what;
    uint64_t number, total;
    uint64_t kind; /* exchange: of the message; else 0 */
    rt_team_waiter waiter;
} rt_run;
int rt_run_begin(rt_run *run, rt_team *team, const rt_team_call *call, enum rt_team_what what, uint64_t total);
/* Ends the team when status is a failure. Returns the status. */
int rt_run_end(rt_run *run, int status);
void rt_run_head(const rt_run *run, rt_message *message, uint64_t size);
/* RT_OK, or RT_E_PROTOCOL with both sides' words when the peer's message is of another call. */
int rt_run_check(rt_run *run, const rt_lane *lane);
rt_lane *rt_run_lane(const rt_run *run, uint32_t peer);

/* ---- transfer_run.c ---- */
/* Moves all sends and receives as far as they can go. team->lock held. Returns how many messages moved. */
uint32_t rt_transfers_move(rt_team *team);

struct rt_team_transfer {
    rt_list node;
    rt_team *team;
    bool sends;
    _Atomic int32_t status; /* RT_E_AGAIN while it goes on; stored last */
    bool dropped;           /* nobody wants it: its bytes are thrown away */
    int32_t peer;           /* the destination, or the source asked for (-1: any) and then found */
    uint64_t tag;
    uint32_t dtype;
    uint8_t *bytes;
    uint64_t size, done;
    uint64_t number, partner;
    rt_loan loan;          /* of a send: lent to the receiver; of a receive: where a READ puts the bytes */
    rt_attached *attached; /* of a receive that reads in place */
    uint64_t offset;       /* … there */
    int64_t operation;     /* the READ under way, or 0 */
    rt_detail detail;
};

typedef struct rt_unexpected {
    rt_list node;
    uint32_t peer;
    rt_message message;
    uint8_t payload[]; /* message.size bytes */
} rt_unexpected;

typedef struct rt_control_note {
    rt_list node;
    rt_message message;
} rt_control_note;

/* ---- transfer_read.c ---- */
/* Whether the bytes of this offer are read where they lie: then they are, by rt_transfers_read. Else they are to be sent. */
bool rt_transfer_reads(rt_team *team, rt_team_transfer *receive, uint32_t peer, const rt_message *offer, const uint8_t *payload);
/* Reads on. Returns how many receives came further. */
uint32_t rt_transfers_read(rt_team *team);
/* Lets go of what was lent, attached or posted for it. */
void rt_transfer_let_go(rt_team_transfer *transfer);

/* Keeps an answer to the peer until there is room for it. */
void rt_transfer_answer(rt_team *team, uint32_t peer, const rt_message *message);
/* A receive and the message for it have met. team->lock held. */
void rt_transfer_meet(rt_team *team, rt_team_transfer *receive, uint32_t peer, const rt_message *message, const uint8_t *payload);
/* Tells the receiver of a send that is given up half way. */
void rt_transfer_refuse_rest(rt_team *team, const rt_team_transfer *send);
void rt_transfer_finish(rt_team_transfer *transfer, int status, const rt_detail *detail);
/* Fails everything that has to do with a peer that is gone (or all, with a lost one). team->lock held. */
void rt_transfers_fail(rt_team *team, int32_t peer, const rt_detail *why);

#endif
