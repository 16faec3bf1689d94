/* message.h: the sizes of a team, and the header in front of each payload. */
#ifndef RT_TEAM_MESSAGE_H
#define RT_TEAM_MESSAGE_H

#include <stdint.h>

enum {
    RT_TEAM_SIZE_MAX = 1024,
    RT_TEAM_LINE = 64,
    RT_TEAM_NOTICE_SIZE = 320, /* text of a member that gave up; its last 8 bytes are the notice's word */
    RT_TEAM_SLOTS_MAX = 16,
    RT_TEAM_SLOT = 256,                           /* a header, and payload that is small enough to lie behind it: … */
    RT_TEAM_INLINE = RT_TEAM_SLOT - RT_TEAM_LINE, /* … at most this much. Larger payload lies in a chunk of the pair */
    RT_TEAM_CHUNK_MIN = 512,                      /* members' announcements of their tensors fit one message */
    RT_TEAM_CHUNK_MAX = 4 << 20,
    /* Limit of the bytes that a peer sends before they are received, with RT_TEAM_KEPT_COST for
     * each message. A send beyond it is offered, and is not done before it is received. */
    RT_TEAM_KEPT_MAX = 1 << 20,
    RT_TEAM_KEPT_COST = 128,
    RT_TEAM_OFFERS_MAX = 1 << 16, /* sends to one peer that are announced and not received; later ones queue */
};

/* Two lanes to each peer, so that a send that is not received yet never blocks a collective
 * call. */
enum rt_lane_kind { RT_LANE_COLLECTIVE = 0, RT_LANE_TRANSFER = 1, RT_LANE_KINDS = 2 };

enum rt_message_kind {
    RT_MESSAGE_COLLECTIVE = 1, /* `what` tells which call */
    RT_MESSAGE_EAGER = 2,      /* a whole send */
    RT_MESSAGE_OFFER = 3,      /* a send whose bytes wait for a receive; the payload is an rt_announcement of them, or nothing */
    RT_MESSAGE_ACCEPT = 4,     /* the receive is posted: send the bytes; or, rt_accept_what, they were read */
    RT_MESSAGE_PART = 5,       /* some of the bytes; none of a send that was read: it was not given up meanwhile */
    RT_MESSAGE_REFUSE = 6,     /* the receive does not fit */
    RT_MESSAGE_WORD = 7,       /* collective: the sender waits in this call */
};

enum rt_accept_what { RT_ACCEPT_SEND = 0, RT_ACCEPT_READ = 1 };

/* Values of rt_message.place for a payload that comes in parts, each of which lies behind its
 * header. */
#define RT_PLACE_PART UINT32_MAX        /* a part, and others follow */
#define RT_PLACE_LAST (UINT32_MAX - 1u) /* the last part */

/* The header in front of each payload, one cache line. From a peer it is hostile until checked. */
typedef struct rt_message {
    uint32_t kind; /* rt_message_kind */
    uint32_t what; /* collective: rt_team_what; ACCEPT: rt_accept_what; REFUSE: kind of the refused message */
    uint64_t size; /* of the payload in this slot */
    uint64_t total;
    uint64_t number;  /* collective: of the call; OFFER, ACCEPT, PART, REFUSE: the sender's number of the send */
    uint64_t partner; /* ACCEPT, PART: the receiver's number of the receive; exchange: the meaning of the message */
    uint64_t tag;
    uint32_t dtype;
    uint32_t reduction;
    int32_t root;
    uint32_t place; /* 0: the payload lies behind this header; else in the sender's chunk with number place - 1, or in parts */
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

#endif
