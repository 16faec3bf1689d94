/* transfer_ends.h: sends and receives of members that one thread drives by turns. For the tests of csrc/team/transfer*.c. */
#ifndef RT_TESTS_TRANSFER_ENDS_H
#define RT_TESTS_TRANSFER_ENDS_H

#include "proto/dtype.h"
#include "team_ends.h"

/* A send or receive, and how it stands. */
typedef struct started {
    team_member *member;
    rt_team_transfer *transfer;
    int status;
    int32_t source;
} started;

static inline started begin_send(team_ends *ends, uint32_t from, uint32_t to, uint64_t tag, uint64_t size)
{
    team_member *member = &ends->members[from];
    started send = {.member = member};
    send.status = rt_team_send(member->team, to, tag, RT_DTYPE_UINT8, member->bytes, size, &send.transfer, &member->detail);
    CHECK_INT(send.transfer != NULL, send.status == RT_E_AGAIN);
    return send;
}

/* Receives land beside what is sent. */
static inline started begin_receive(team_ends *ends, uint32_t at, int32_t from, uint64_t tag, uint64_t size)
{
    team_member *member = &ends->members[at];
    started receive = {.member = member, .source = -2};
    receive.status = rt_team_receive(member->team, from, tag, RT_DTYPE_UINT8, member->bytes + TEAM_MEMORY / 2, size,
                                     &receive.transfer, &receive.source, &member->detail);
    CHECK_INT(receive.transfer != NULL, receive.status == RT_E_AGAIN);
    return receive;
}

static inline int ask(started *one)
{
    if (one->status == RT_E_AGAIN)
        one->status = rt_team_transfer_wait(one->transfer, 0, &one->source, &one->member->detail);
    return one->status;
}

/* Asks two by turns until the first is done: both are driven here, so nobody has to be waited for but the regions' owner. */
static inline int finish(started *one, started *other)
{
    for (int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS; ask(one) == RT_E_AGAIN && rt_clock_now_ns() < end;)
        if (other != NULL)
            ask(other);
    return one->status;
}

static inline void drop(started *one)
{
    if (one->transfer != NULL)
        rt_team_transfer_drop(one->transfer);
    one->transfer = NULL;
}

#endif
