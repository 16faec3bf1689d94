/* direct.h: collective calls that read directly from the members' tensors; direct.c. Private to
 * this room. */
#ifndef RT_TEAM_DIRECT_H
#define RT_TEAM_DIRECT_H

#include "region/loan.h"
#include "team/agree.h"
#include "team/attached.h"
#include "team/way.h"

enum {
    RT_DIRECT_RANGES = 2, /* ranges of one member that a peer reads in one call */
};

/* The ranges that a member and one peer read of each other. */
typedef struct rt_direct {
    rt_attachments attached;
    /* during a call: */
    rt_loan lent[RT_DIRECT_RANGES];
    rt_attached *held[RT_DIRECT_RANGES];
    uint8_t *place[RT_DIRECT_RANGES]; /* the addresses of the peer's ranges here */
} rt_direct;

_Static_assert(RT_DIRECT_RANGES * sizeof(rt_announcement) <= RT_TEAM_CHUNK_MIN, "one message");

/* A range of memory that a peer will read; a range of the same size of the peer's is read here. */
typedef struct rt_range {
    const void *address;
    uint64_t size;
} rt_range;

/* Maps a peer's range of the call: place[index] is its address here, or NULL, and *reach_out the
 * access to it. */
int rt_direct_map(rt_run *run, uint32_t peer, uint32_t index, const rt_announcement *told, uint64_t size, uint64_t *reach_out);

/* Every member announces `count` ranges to every other, peer by peer in `ranges`, and maps the
 * announced ones. *reach_out is the same at all members. If it is not RT_REACH_NONE, call
 * rt_direct_finish afterwards, or rt_direct_end after a failure. */
int rt_direct_meet(rt_run *run, const rt_range *ranges, uint32_t count, enum rt_reach *reach_out);
/* Fails when a member gave up before this: its caller may have changed its tensors while they were
 * read here. To be called after the last read, and before the peers are told that it was the
 * last. */
int rt_direct_check(rt_run *run);
/* Checks, tells every member that nothing of it is read here any more, and waits until all have
 * said the same. */
int rt_direct_finish(rt_run *run);
/* Ends the loans, and releases the peers' ranges. */
void rt_direct_end(rt_team *team);

/* From one to the others: the root announces its range, … */
int rt_direct_offer(rt_run *run, rt_range range, bool *direct_out);
/* … and each of the others maps it: NULL in *place_out where that is impossible, … */
int rt_direct_accept(rt_run *run, uint32_t root, uint64_t size, bool *direct_out, uint8_t **place_out);
/* … and reports whether it has read it. */
int rt_direct_reply(rt_run *run, uint32_t root, bool taken);
int rt_direct_hear(rt_run *run, uint32_t peer, bool *taken_out);

/* Drops everything that is mapped. */
void rt_direct_drop(rt_team *team);

#endif
