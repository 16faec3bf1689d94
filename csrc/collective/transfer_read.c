/* transfer_read.c: reads a send where it lies: with a copy where the provider maps memory, else with a READ into the receive's own
 * region. The receive then says so and waits for an empty PART: a send that was given up meanwhile, so that its memory may have
 * changed, is refused instead. */
#include "collective/direct.h"

#include <string.h>

/* Bytes copied before others get their turn. */
enum { STEP = 4 << 20 };

/* Where the bytes are put: anywhere, or, by a READ, only into registered memory. */
static bool can_take(rt_team *team, rt_team_transfer *receive)
{
    if (team->maps)
        return rt_remote_address(receive->attached->remote) != 0;
    return team->device->limits.read_depth > 0 && rt_loan_hold(team->device, receive->bytes, receive->size, &receive->loan);
}

/* A region that is not attached yet is waited for, a slice at most, with team->lock held; then the bytes come in parts. */
bool rt_transfer_reads(rt_team *team, rt_team_transfer *receive, uint32_t peer, const rt_message *offer, const uint8_t *payload)
{
    rt_announcement told;
    rt_peer *from = &team->peers[peer];
    if (offer->size != sizeof told)
        return false;
    memcpy(&told, payload, sizeof told); /* once: the peer could change it */
    if (rt_attach(&from->attached, from->channel, &told, receive->size, &receive->attached) != RT_OK || receive->attached == NULL)
        return false;
    receive->offset = told.offset;
    if (can_take(team, receive))
        return true;
    rt_transfer_let_go(receive);
    return false;
}

void rt_transfer_let_go(rt_team_transfer *transfer)
{
    if (transfer->operation > 0)
        rt_op_release(transfer->team->peers[transfer->peer].channel, transfer->operation, NULL);
    transfer->operation = 0;
    rt_loan_end(&transfer->loan);
    rt_attached_release(transfer->attached);
    transfer->attached = NULL;
}

static void copy_step(rt_team *team, rt_team_transfer *receive)
{
    const uint8_t *place = (const uint8_t *)(uintptr_t)(rt_remote_address(receive->attached->remote) + receive->offset);
    uint64_t left = receive->size - receive->done, size = left < STEP ? left : STEP;
    rt_direct_copy(team, receive->bytes + receive->done, place + receive->done, size);
    receive->done += size;
}

/* Begins the READ, or looks at it. RT_E_AGAIN: it is under way. */
static int read_on(rt_team *team, rt_team_transfer *receive)
{
    rt_channel *channel = team->peers[receive->peer].channel;
    if (receive->operation == 0) {
        int64_t number = rt_channel_copy(channel, -1, RT_READ, receive->attached->remote, receive->offset, receive->loan.region,
                                         receive->loan.offset, receive->size, 0);
        if (number == RT_E_BUSY)
            return RT_E_AGAIN; /* too many transfers of this QP are under way */
        if (number < 0)
            return (int)number;
        receive->operation = number;
    }
    int status = receive->operation == 0 ? RT_OK : rt_op_wait(channel, receive->operation, 0);
    if (status == RT_OK)
        receive->done = receive->size;
    return status;
}

/* Its bytes are here, or nobody wants them: the sender is told. */
static void taken(rt_team *team, rt_team_transfer *receive)
{
    if (!receive->dropped)
        team->stats.direct_received_bytes += receive->size;
    team->stats.bytes_received += receive->size;
    rt_transfer_let_go(receive);
    rt_list_remove(&receive->node);
    rt_list_append(&team->arriving, &receive->node);
    rt_message accept = {.kind = RT_MESSAGE_ACCEPT,
                         .what = RT_ACCEPT_READ,
                         .number = receive->partner,
                         .partner = receive->number};
    rt_transfer_answer(team, (uint32_t)receive->peer, &accept);
}

static bool advance(rt_team *team, rt_team_transfer *receive)
{
    uint64_t before = receive->done;
    int status = RT_OK;
    if (receive->dropped)
        receive->done = receive->size;
    else if (team->maps)
        copy_step(team, receive);
    else
        status = read_on(team, receive);
    if (status != RT_OK && status != RT_E_AGAIN) {
        rt_detail why;
        rt_fail(&why, status, 0, "reading what rank %d sends: %s", receive->peer, rt_status_name(status));
        rt_transfer_finish(receive, status, &why);
        return true;
    }
    bool moved = receive->done != before;
    if (receive->done == receive->size)
        taken(team, receive);
    return moved;
}

uint32_t rt_transfers_read(rt_team *team)
{
    uint32_t moved = 0;
    RT_LIST_EACH_SAFE(node, &team->reading)
        moved += advance(team, RT_LIST_ENTRY(node, rt_team_transfer, node));
    return moved;
}
