/* transfer_read.c: reads a send in place: with a copy where the provider maps memory, else with a
 * READ into the receive's own region. The receive then says so and waits for an empty PART: a send
 * that was given up meanwhile, so that its memory may have changed, is refused instead. */
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"
#include "device/device.h"
#include "region/loan.h"
#include "team/attached.h"
#include "team/copy.h"
#include "team/message.h"
#include "team/team.h"
#include "team/transfer_read.h"
#include "team/transfer_state.h"

/* Bytes copied before other transfers proceed. */
enum { STEP = 4 << 20 };

/* Whether the receive can take the bytes: anywhere by a copy, but by a READ only into registered
 * memory. */
static bool receive_can_take(rt_team *team, rt_team_transfer *receive)
{
    if (team->maps)
        return rt_remote_address(receive->attached->remote) != 0;
    return team->device->limits.read_depth > 0 && rt_loan_hold(team->device, receive->bytes, receive->size, &receive->loan);
}

bool rt_transfer_reads(rt_team *team, rt_team_transfer *receive, const rt_message *offer, const uint8_t *payload)
{
    if (offer->size != sizeof(rt_announcement))
        return false;
    receive->told = malloc(sizeof *receive->told);
    if (receive->told == NULL)
        return false;
    memcpy(receive->told, payload, sizeof *receive->told); /* once: the peer could change it */
    atomic_fetch_add_explicit(&team->attaching, 1, memory_order_relaxed);
    return true;
}

/* Requests the region, or checks whether the answer has come, without waiting for it while
 * team->lock is held. False: not yet. Where the bytes cannot be read, they come in parts. */
static bool receive_attach(rt_team *team, rt_team_transfer *receive)
{
    rt_peer *from = &team->peers[receive->peer];
    int status = rt_attach(&from->attached, from->channel, receive->told, receive->size, 0, &receive->attached);
    if (status == RT_E_AGAIN)
        return false;
    receive->offset = receive->told->offset;
    rt_transfer_attached(receive);
    if (receive->attached != NULL && receive_can_take(team, receive))
        return true;
    rt_transfer_let_go(receive);
    rt_list_remove(&receive->node);
    rt_transfer_accept(team, receive, RT_ACCEPT_SEND);
    return true;
}

static void receive_copy_step(rt_team *team, rt_team_transfer *receive)
{
    const uint8_t *place = (const uint8_t *)(uintptr_t)(rt_remote_address(receive->attached->remote) + receive->offset);
    uint64_t left = receive->size - receive->done, size = left < STEP ? left : STEP;
    rt_direct_copy(team, receive->bytes + receive->done, place + receive->done, size);
    receive->done += size;
}

/* Begins the READ, or checks it. RT_E_AGAIN: it is under way. */
static int receive_read_on(rt_team *team, rt_team_transfer *receive)
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

/* The bytes are here, or nobody wants them: tells the sender. */
static void receive_taken(rt_team *team, rt_team_transfer *receive)
{
    if (!receive->dropped)
        team->stats.direct_received_bytes += receive->size;
    team->stats.bytes_received += receive->size;
    rt_transfer_let_go(receive);
    rt_list_remove(&receive->node);
    rt_transfer_accept(team, receive, RT_ACCEPT_READ);
}

static bool receive_advance(rt_team *team, rt_team_transfer *receive)
{
    uint64_t before = receive->done;
    int status = RT_OK;
    if (receive->told != NULL && !receive->dropped)
        return receive_attach(team, receive);
    if (receive->dropped)
        receive->done = receive->size;
    else if (team->maps)
        receive_copy_step(team, receive);
    else
        status = receive_read_on(team, receive);
    if (status != RT_OK && status != RT_E_AGAIN) {
        rt_detail why;
        rt_fail(&why, status, 0, "reading what rank %d sends: %s", receive->peer, rt_status_name(status));
        rt_transfer_finish(receive, status, &why);
        return true;
    }
    bool moved = receive->done != before;
    if (receive->done == receive->size)
        receive_taken(team, receive);
    return moved;
}

uint32_t rt_transfers_read(rt_team *team)
{
    uint32_t moved = 0;
    RT_LIST_EACH_SAFE(node, &team->reading)
        moved += receive_advance(team, RT_LIST_ENTRY(node, rt_team_transfer, node));
    return moved;
}
