/* lanes.c: what lies below transfers, in place of lane.c, run.c, wait.c, loan.c and channels: messages in order, each of which arrives when
 * the exploration says so. */
#include <assert.h>
#include <string.h>

#include "team/block.h"
#include "transfers.h"

static tx_wire wires[TX_MEMBERS][TX_MEMBERS];
static const tx_model *world;
static bool broken;

void lanes_begin(const tx_model *model)
{
    memset(wires, 0, sizeof wires);
    world = model;
    broken = false;
}

tx_wire *lanes_wire(uint32_t from, uint32_t to)
{
    return &wires[from][to];
}

bool lanes_broken(void)
{
    return broken;
}

/* ---- lane.c ---- */

uint8_t *rt_lane_room(rt_lane *lane, uint64_t size)
{
    tx_wire *wire = &wires[lane->team->rank][lane->peer];
    assert(size <= sizeof wire->payloads[0]);
    if (wire->sent - wire->taken >= world->slots && world->mutant != TX_NO_ROOM)
        return NULL;
    return wire->payloads[wire->sent % world->slots];
}

int rt_lane_push(rt_lane *lane, const rt_message *message)
{
    tx_wire *wire = &wires[lane->team->rank][lane->peer];
    bool lost = world->mutant == TX_SILENT_DROP && message->kind == RT_MESSAGE_REFUSE && message->what == RT_MESSAGE_ACCEPT;
    if (!lost)
        wire->messages[wire->sent++ % world->slots] = *message;
    return RT_OK;
}

const uint8_t *rt_lane_peek(rt_lane *lane, int *status_out)
{
    tx_wire *wire = &wires[lane->peer][lane->team->rank];
    *status_out = RT_OK;
    if (wire->taken == wire->arrived)
        return NULL;
    lane->message = wire->messages[wire->taken % world->slots];
    return wire->payloads[wire->taken % world->slots];
}

void rt_lane_take(rt_lane *lane)
{
    wires[lane->peer][lane->team->rank].taken++;
}

void rt_lane_settle(rt_lane *lane)
{
    (void)lane;
}

void rt_lane_until_posted(rt_device *device, rt_channel *channel, int64_t number)
{
    (void)device;
    (void)channel;
    (void)number;
}

int rt_lane_fence(rt_team *team, uint32_t rank, uint32_t slices)
{
    (void)team;
    (void)rank;
    (void)slices;
    return RT_OK;
}

int64_t __wrap_rt_channel_copy(rt_channel *channel, int32_t qp, uint32_t direction, rt_remote *remote, uint64_t remote_offset,
                               rt_region *region, uint64_t region_offset, uint64_t size, int64_t timeout_ns);

/* The one WRITE that transfers post themselves, which the linker brings here: how much was received. The channel is the number of the
 * lane. */
int64_t __wrap_rt_channel_copy(rt_channel *channel, int32_t qp, uint32_t direction, rt_remote *remote, uint64_t remote_offset,
                               rt_region *region, uint64_t region_offset, uint64_t size, int64_t timeout_ns)
{
    (void)qp;
    (void)direction;
    (void)remote;
    (void)remote_offset;
    (void)timeout_ns;
    uintptr_t lane = (uintptr_t)channel - 1;
    tx_wire *wire = &wires[lane % TX_MEMBERS][lane / TX_MEMBERS];
    assert(size == sizeof wire->telling);
    memcpy(&wire->telling, region->address + region_offset, sizeof wire->telling);
    wire->tells = true;
    return RT_OK;
}

/* ---- run.c, wait.c, loan.c, transfer_read.c ---- */

int rt_team_break(rt_team *team, const rt_detail *why, bool quiet)
{
    (void)team;
    (void)quiet;
    broken = true;
    return why->status;
}

void rt_team_leave(rt_team *team)
{
    (void)team; /* after rt_team_break alone, which ends the exploration */
}

int rt_team_trouble(rt_team *team, int32_t needed, bool transfers, rt_detail *detail)
{
    (void)team;
    (void)needed;
    (void)transfers;
    (void)detail;
    return RT_OK;
}

void rt_team_waiter_begin(rt_team_waiter *waiter, rt_team *team, int64_t timeout_ns, int (*interrupted)(void))
{
    (void)timeout_ns;
    (void)interrupted;
    waiter->team = team;
}

int rt_team_waiter_idle(rt_team_waiter *waiter)
{
    (void)waiter;
    return RT_E_DEADLINE;
}

void rt_team_waiter_moved(rt_team_waiter *waiter)
{
    (void)waiter;
}

void rt_team_waiter_end(rt_team_waiter *waiter)
{
    (void)waiter;
}

bool rt_loan_begin(rt_device *device, const void *address, uint64_t size, rt_loan *loan_out)
{
    (void)device;
    (void)address;
    (void)size;
    (void)loan_out;
    return false; /* nothing is read where it lies */
}

bool rt_transfer_reads(rt_team *team, rt_team_transfer *receive, const rt_message *offer, const uint8_t *payload)
{
    (void)team;
    (void)receive;
    (void)offer;
    (void)payload;
    return false;
}

uint32_t rt_transfers_read(rt_team *team)
{
    (void)team;
    return 0;
}

void rt_transfer_let_go(rt_team_transfer *transfer)
{
    (void)transfer;
}
