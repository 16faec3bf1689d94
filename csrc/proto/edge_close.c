/* edge_close.c: the steps in which an edge ends (EDGES.md section 9).
 *
 * Two facts keep memory safe. A sender sends or answers CLOSE_EDGE only when its WRITEs have ended,
 * so the receiver may give its slots back once it has the message. A receiver sends CLOSE_EDGE only
 * when its READs and credits have ended, and posts no credit after that. A sender that closed first
 * leaves when all tensors that it sent are released, since the credit of the last tensor is the
 * last WRITE of the other end. */
#include "proto/edge_close.h"

#include <assert.h>
#include <stddef.h>

/* Whether the other end must be told. A receiver whose sender closed first must tell it too while
 * the sender waits for the release of tensors that nobody will take any more. */
static bool receiver_owes_word(const rt_edge_closing *closing, const rt_edge_receiver *rx)
{
    if (closing->told)
        return false;
    if (!closing->peer_knows)
        return true;
    return !closing->sender && closing->joined && rx->flow == RT_EDGE_FLOW_CREDIT && rx->credited < rx->final;
}

rt_edge_close_step rt_edge_close_due(const rt_edge_closing *closing, const rt_edge_sender *tx, const rt_edge_receiver *rx)
{
    uint64_t word;
    if (closing->lost)
        return closing->wanted ? RT_EDGE_CLOSE_LEAVE : RT_EDGE_CLOSE_WAIT;
    if (!closing->wanted || closing->asking)
        return RT_EDGE_CLOSE_WAIT;
    if (!closing->sender && closing->joined && rt_edge_receiver_credit_due(rx, &word))
        return RT_EDGE_CLOSE_WAIT; /* tensors released before the close are reported as released */
    if (receiver_owes_word(closing, rx))
        return RT_EDGE_CLOSE_TELL;
    assert(closing->peer_knows); /* it was told, and has answered */
    bool awaits = closing->sender && closing->joined && tx->state != RT_EDGE_OVER;
    return awaits ? RT_EDGE_CLOSE_WAIT : RT_EDGE_CLOSE_LEAVE;
}

int rt_edge_close_heard(const rt_edge_closing *closing, rt_edge_sender *tx, rt_edge_receiver *rx, uint64_t final,
                        rt_detail *detail)
{
    if (!closing->joined)
        return RT_OK; /* it is being opened: the close follows once it is wired */
    if (!closing->sender)
        return rt_edge_receiver_finish(rx, final, detail);
    rt_edge_sender_end(tx, RT_E_PEER_CLOSED);
    return RT_OK;
}

bool rt_edge_close_answer_waits(const rt_edge_closing *closing)
{
    return closing->sender && closing->joined;
}
