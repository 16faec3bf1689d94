/* direct.h: collective calls that read straight out of the members' tensors; direct.c. Private to this room. */
#ifndef RT_COLLECTIVE_DIRECT_H
#define RT_COLLECTIVE_DIRECT_H

#include "collective/run.h"

enum {
    RT_DIRECT_SIZE_MIN = 32 << 10, /* bytes of a call: below it, slots are as quick as agreeing on anything else */
    RT_DIRECT_RANGES = 2,          /* of one member that a peer reads in one call */
};

/* What a member and one peer read of each other. */
typedef struct rt_direct {
    rt_attachments attached;
    /* while a call goes on: */
    rt_loan lent[RT_DIRECT_RANGES];
    rt_attached *held[RT_DIRECT_RANGES];
    uint8_t *place[RT_DIRECT_RANGES]; /* where the peer's ranges lie */
} rt_direct;

_Static_assert(RT_DIRECT_RANGES * sizeof(rt_announcement) <= RT_TEAM_CHUNK_MIN, "one message");

/* What all members can do with each other's ranges. */
enum rt_reach {
    RT_REACH_NONE = 0,
    RT_REACH_READ = 1,
    RT_REACH_WRITE = 3, /* and write to them */
};

/* A range of memory that a peer is to read; and as much of the peer's is read here. */
typedef struct rt_range {
    const void *address;
    uint64_t size;
} rt_range;

/* Maps a peer's range of the call: place[index] says where it lies here, or NULL, and *reach_out what can be done with it. */
int rt_direct_map(rt_run *run, uint32_t peer, uint32_t index, const rt_announcement *told, uint64_t size, uint64_t *reach_out);

/* Whether calls of this size are worth asking the others. The same at all members. */
bool rt_direct_worth(const rt_run *run);
/* Everybody tells everybody where `count` ranges lie, peer by peer in `ranges`, and maps what it was told. *reach_out is the same at
 * all members. If it is not RT_REACH_NONE: then rt_direct_finish, or after a failure rt_direct_end. */
int rt_direct_meet(rt_run *run, const rt_range *ranges, uint32_t count, enum rt_reach *reach_out);
/* Tells everybody that nothing of theirs is read any more, and waits until they all have said so. */
int rt_direct_finish(rt_run *run);
/* Ends the loans, and lets go of the peers' ranges. */
void rt_direct_end(rt_team *team);

/* From one to the others: the root tells where its range lies, … */
int rt_direct_offer(rt_run *run, rt_range range, bool *direct_out);
/* … and each of the others maps it: NULL in *place_out where that cannot be, … */
int rt_direct_accept(rt_run *run, uint32_t root, uint64_t size, bool *direct_out, uint8_t **place_out);
/* … and says whether it has read it. */
int rt_direct_reply(rt_run *run, uint32_t root, bool taken);
int rt_direct_hear(rt_run *run, uint32_t peer, bool *taken_out);

/* Calls without slots, for members that have met. */
int rt_direct_reduce(rt_run *run, enum rt_reach reach, const uint8_t *input, uint8_t *output, uint64_t count);
/* Where all may write to all ranges, each member reduces its block into the root's output; else the root reduces everything. */
int rt_direct_reduce_to(rt_run *run, enum rt_reach reach, uint32_t root, const uint8_t *input, uint8_t *output, uint64_t count);
int rt_direct_reduce_scatter(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count);
int rt_direct_gather(rt_run *run, void *const *outputs, uint64_t size);

/* As memcpy, for ranges of any size. */
void rt_direct_copy(rt_team *team, void *to, const void *from, uint64_t size);
/* Lets go of all that is mapped. */
void rt_direct_drop(rt_team *team);

#endif
