/* transfer_state.c: the end of a transfer, and answers to the peer. */
#include <stdlib.h>

#include "team/ending.h"
#include "team/message.h"
#include "team/team.h"
#include "team/transfer_state.h"

void rt_transfer_finish(rt_team_transfer *transfer, int status, const rt_detail *detail)
{
    rt_list_remove(&transfer->node);
    rt_transfer_let_go(transfer);
    if (transfer->offered)
        transfer->team->peers[transfer->peer].offers--;
    atomic_fetch_sub(&transfer->team->pending, 1);
    if (detail != NULL)
        transfer->detail = *detail;
    bool dropped = transfer->dropped;
    atomic_store_explicit(&transfer->status, status, memory_order_release); /* from here on it is the caller's to free */
    if (dropped)
        free(transfer);
}

void rt_transfer_answer(rt_team *team, uint32_t peer, const rt_message *message)
{
    rt_control_note *note = calloc(1, sizeof *note);
    if (note == NULL) { /* without it, the peer would wait: both ends are told that no answer comes */
        rt_detail why;
        rt_fail(&why, RT_E_NO_MEMORY, 0, "no memory for an answer to rank %u", peer);
        rt_team_break(team, &why, false);
        rt_team_leave(team);
        return;
    }
    note->message = *message;
    rt_list_append(&team->peers[peer].controls, &note->node);
}

void rt_transfer_accept(rt_team *team, rt_team_transfer *receive, uint32_t what)
{
    rt_list_append(&team->arriving, &receive->node);
    rt_message accept = {.kind = RT_MESSAGE_ACCEPT, .what = what, .number = receive->partner, .partner = receive->number};
    rt_transfer_answer(team, (uint32_t)receive->peer, &accept);
}
