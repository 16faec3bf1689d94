/* transfer_hold.c: the resources that a transfer holds: lent memory, an attached region, a posted
 * READ. */
#include <stdlib.h>

#include "region/loan.h"
#include "team/attached.h"
#include "team/transfer_state.h"

void rt_transfer_attached(rt_team_transfer *receive)
{
    free(receive->told);
    receive->told = NULL;
    atomic_fetch_sub_explicit(&receive->team->attaching, 1, memory_order_relaxed);
}

void rt_transfer_let_go(rt_team_transfer *transfer)
{
    if (transfer->told != NULL)
        rt_transfer_attached(transfer);
    if (transfer->operation > 0)
        rt_op_release(transfer->team->peers[transfer->peer].channel, transfer->operation, NULL);
    transfer->operation = 0;
    rt_loan_end(&transfer->loan);
    rt_attached_release(transfer->attached);
    transfer->attached = NULL;
}
