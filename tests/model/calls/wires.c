/* wires.c: what lies below collective calls, in place of lane.c, wait.c, ending.c, loan.c and attached.c: messages in order;
 * and a coroutine gives way before it reads or writes another member's memory, and in the middle of it. */
#include <assert.h>
#include <string.h>
#include <time.h>

#include "calls.h"
#include "proto/dtype.h"
#include "region/loan.h"
#include "team/direct.h"
#include "team/reduce.h"

enum { BASE = 8 }; /* the offsets of announcements are addresses, less this */

static tc_wire wires[TC_MEMBERS][TC_MEMBERS];
static const tc_model *world;
static int broken[TC_MEMBERS];

void wires_begin(const tc_model *model)
{
    for (uint32_t from = 0; from < TC_MEMBERS; from++) {
        for (uint32_t to = 0; to < TC_MEMBERS; to++)
            wires[from][to].sent = wires[from][to].arrived = wires[from][to].taken = 0;
    }
    memset(broken, 0, sizeof broken);
    world = model;
}

tc_wire *wires_wire(uint32_t from, uint32_t to)
{
    return &wires[from][to];
}

uint64_t wires_signature(uint32_t rank)
{
    uint64_t seen = 0;
    for (uint32_t other = 0; other < world->members; other++) {
        seen = seen * 64 + wires[other][rank].arrived;
        seen = seen * 64 + wires[rank][other].taken;
        seen = 2 * seen + (broken[other] != RT_OK);
    }
    return seen;
}

/* ---- lane.c ---- */

static tc_wire *out_of(const rt_lane *lane)
{
    return &wires[lane->team->rank][lane->peer];
}

static tc_wire *in_of(const rt_lane *lane)
{
    return &wires[lane->peer][lane->team->rank];
}

uint8_t *rt_lane_room(rt_lane *lane, uint64_t size)
{
    tc_wire *wire = out_of(lane);
    assert(size <= sizeof wire->payloads[0]);
    if (wire->sent - wire->taken >= world->slots && world->mutant != TC_NO_ROOM)
        return NULL;
    return wire->payloads[wire->sent % world->slots];
}

int rt_lane_push(rt_lane *lane, const rt_message *message)
{
    tc_wire *wire = out_of(lane);
    if (message->kind == RT_MESSAGE_WORD && world->mutant == TC_NO_WORD)
        return RT_OK;
    members_saw(message, sizeof *message);
    members_point();
    wire->messages[wire->sent++ % world->slots] = *message;
    wire->arrived += world->maps;
    return RT_OK;
}

const uint8_t *rt_lane_peek(rt_lane *lane, int *status_out)
{
    const tc_wire *wire = in_of(lane);
    *status_out = RT_OK;
    if (wire->taken == wire->arrived)
        return NULL;
    lane->message = wire->messages[wire->taken % world->slots];
    if (lane->sent != wire->taken + 1) { /* seen for the first time; the field is not used otherwise */
        lane->sent = wire->taken + 1;
        members_saw(&lane->message, sizeof lane->message);
        members_saw(wire->payloads[wire->taken % world->slots], lane->message.size);
    }
    return wire->payloads[wire->taken % world->slots];
}

void rt_lane_take(rt_lane *lane)
{
    in_of(lane)->taken++;
    members_saw("take", 4);
}

void rt_lane_settle(rt_lane *lane)
{
    (void)lane;
}

int rt_lane_flush(rt_lane *lane)
{
    (void)lane;
    return RT_OK;
}

/* ---- wait.c, ending.c ---- */

static int trouble(const rt_team *team, rt_detail *detail)
{
    for (uint32_t rank = 0; rank < team->size; rank++) {
        if (broken[rank] != RT_OK)
            return rt_fail(detail, rank == team->rank ? broken[rank] : RT_E_PEER_LOST, 0, "rank %u gave up", rank);
    }
    return RT_OK;
}

/* Called by those that wait no more. */
int rt_team_trouble(rt_team *team, int32_t needed, bool transfers, rt_detail *detail)
{
    (void)needed;
    (void)transfers;
    return world->mutant == TC_NO_CHECK ? RT_OK : trouble(team, detail);
}

int rt_team_break(rt_team *team, const rt_detail *why, bool quiet)
{
    (void)quiet;
    members_point();
    if (broken[team->rank] == RT_OK)
        broken[team->rank] = why->status;
    return why->status;
}

int rt_team_failure(rt_team *team, rt_detail *detail)
{
    return broken[team->rank] == RT_OK ? RT_OK : rt_fail(detail, broken[team->rank], 0, "the team has ended");
}

void rt_team_waiter_begin(rt_team_waiter *waiter, rt_team *team, int64_t timeout_ns, int (*interrupted)(void))
{
    (void)timeout_ns;
    waiter->team = team;
    waiter->interrupted = interrupted;
    waiter->wait.checks = UINT32_MAX / 2; /* the wait would sleep */
    waiter->status = RT_OK;
}

/* As the real one: a reason to stop counts after one more check. */
int rt_team_waiter_idle(rt_team_waiter *waiter)
{
    if (waiter->status != RT_OK)
        return waiter->status;
    waiter->status = trouble(waiter->team, &waiter->detail);
    if (waiter->status != RT_OK)
        return RT_OK;
    int status = members_wait();
    if (status != RT_OK)
        waiter->status = rt_fail(&waiter->detail, status, 0, "a signal ended the wait");
    return RT_OK;
}

void rt_team_waiter_moved(rt_team_waiter *waiter)
{
    waiter->status = RT_OK;
}

void rt_team_waiter_end(rt_team_waiter *waiter)
{
    (void)waiter;
}

/* ---- loan.c, attached.c: a range is announced by its address ---- */

bool rt_loan_begin(rt_device *device, const void *address, uint64_t size, rt_loan *loan_out)
{
    (void)device;
    (void)size;
    if (world->memory[members_running()] == 'o')
        return false;
    *loan_out = (rt_loan){.region = (rt_region *)(uintptr_t)1, .offset = (uintptr_t)address};
    return true;
}

void rt_loan_end(rt_loan *loan)
{
    *loan = (rt_loan){.region = NULL};
}

void rt_announcement_make(const rt_loan *loan, rt_announcement *told_out)
{
    memset(told_out, 0, sizeof *told_out);
    told_out->direct = loan != NULL;
    told_out->offset = loan == NULL ? 0 : loan->offset - BASE;
}

int rt_attach(rt_attachments *table, rt_channel *channel, const rt_announcement *told, uint64_t size, int64_t timeout_ns,
              rt_attached **attached_out)
{
    static rt_attached of_rank[TC_MEMBERS];
    uintptr_t peer = ((uintptr_t)channel - 1) % TC_MEMBERS;
    (void)table;
    (void)told;
    (void)size;
    (void)timeout_ns;
    of_rank[peer].remote = (rt_remote *)(peer + 1);
    *attached_out = &of_rank[peer];
    return RT_OK;
}

void rt_attached_release(rt_attached *attached)
{
    (void)attached;
}

void rt_attachments_drop(rt_attachments *table)
{
    (void)table;
}

/* ---- what the linker brings here ---- */

uint64_t __wrap_rt_remote_address(const rt_remote *remote);
uint32_t __wrap_rt_remote_rights(const rt_remote *remote);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now_out);
void *__wrap_memcpy(void *to, const void *from, size_t size);
void *__real_memcpy(void *to, const void *from, size_t size);
int __wrap_rt_team_reduce_blocks(const rt_team_call *call, void *target, const void *const *sources, uint32_t sources_count,
                                 uint64_t count);
int __real_rt_team_reduce_blocks(const rt_team_call *call, void *target, const void *const *sources, uint32_t sources_count,
                                 uint64_t count);
int __wrap_rt_direct_finish(rt_run *run);
int __real_rt_direct_finish(rt_run *run);

uint64_t __wrap_rt_remote_address(const rt_remote *remote)
{
    (void)remote;
    return BASE;
}

uint32_t __wrap_rt_remote_rights(const rt_remote *remote)
{
    return RT_RIGHT_REMOTE_READ | (world->memory[(uintptr_t)remote - 1] == 'w' ? RT_RIGHT_REMOTE_WRITE : 0);
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now_out)
{
    (void)clock;
    int64_t now = members_time();
    *now_out = (struct timespec){.tv_sec = now / RT_NS_PER_S, .tv_nsec = now % RT_NS_PER_S};
    return 0;
}

static bool is_foreign(const void *address)
{
    int32_t owner = members_owner(address);
    return members_running() >= 0 && owner >= 0 && owner != members_running();
}

static void point_of_access(const char *what)
{
    members_saw(what, strlen(what));
    members_point();
}

void *__wrap_memcpy(void *to, const void *from, size_t size)
{
    size_t half = size / 16 * 8;
    if (!is_foreign(to) && !is_foreign(from))
        return __real_memcpy(to, from, size);
    point_of_access("copy");
    __real_memcpy(to, from, half);
    point_of_access("half");
    __real_memcpy((uint8_t *)to + half, (const uint8_t *)from + half, size - half);
    return to;
}

int __wrap_rt_team_reduce_blocks(const rt_team_call *call, void *target, const void *const *sources, uint32_t sources_count,
                                 uint64_t count)
{
    const void *later[TC_MEMBERS];
    uint64_t half = count / 2, item = rt_dtype_size(call->dtype);
    bool foreign = is_foreign(target);
    for (uint32_t index = 0; index < sources_count; index++) {
        foreign = foreign || is_foreign(sources[index]);
        later[index] = (const uint8_t *)sources[index] + half * item;
    }
    if (!foreign)
        return __real_rt_team_reduce_blocks(call, target, sources, sources_count, count);
    point_of_access("reduce");
    __real_rt_team_reduce_blocks(call, target, sources, sources_count, half);
    point_of_access("half");
    return __real_rt_team_reduce_blocks(call, (uint8_t *)target + half * item, later, sources_count, count - half);
}

int __wrap_rt_direct_finish(rt_run *run)
{
    if (world->mutant != TC_NO_FINISH)
        return __real_rt_direct_finish(run);
    rt_direct_end(run->team);
    return RT_OK;
}
