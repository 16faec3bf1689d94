/* transfer_state.h: sends and receives: the state of each, its end, and answers to the peer. All
 * with team->lock held. */
#ifndef RT_TEAM_TRANSFER_STATE_H
#define RT_TEAM_TRANSFER_STATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/status.h"
#include "region/loan.h"
#include "team/attached.h"
#include "team/message.h"
#include "team/team.h"

struct rt_team_transfer {
    rt_list node;
    rt_team *team;
    bool sends;
    _Atomic int32_t status; /* RT_E_AGAIN while it goes on; stored last */
    bool dropped;           /* nobody wants it: its bytes are discarded */
    bool offered;           /* it is in its peer's `offered` list */
    int32_t peer;           /* the destination, or the requested source (-1: any) and then the actual one */
    uint64_t tag;
    uint32_t dtype;
    uint8_t *bytes;
    uint64_t size, done;
    uint64_t number, partner;
    rt_loan loan;          /* of a send: lent to the receiver; of a receive: the target of a READ */
    rt_announcement *told; /* of a receive that reads in place, until the region is attached */
    rt_attached *attached; /* … from then on */
    uint64_t offset;       /* … the offset in it */
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

void rt_transfer_finish(rt_team_transfer *transfer, int status, const rt_detail *detail);

/* Frees the announcement, which is not needed any more: the region is attached, or will not be. */
void rt_transfer_attached(rt_team_transfer *receive);
/* Releases everything lent, attached or posted for the transfer. */
void rt_transfer_let_go(rt_team_transfer *transfer);

/* Keeps an answer to the peer until there is room for it. */
void rt_transfer_answer(rt_team *team, uint32_t peer, const rt_message *message);

/* Answers the offer that a receive has met: `what`, an rt_accept_what, requests its bytes or tells that they were read. The
 * receive is in no list. */
void rt_transfer_accept(rt_team *team, rt_team_transfer *receive, uint32_t what);

#endif
