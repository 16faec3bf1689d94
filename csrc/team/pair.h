/* pair.h: the memory that this process and one peer share, whatever teams both are members of;
 * pair.c. Private to this room.
 *
 * A pair is made once, when two processes first meet, and lives as long as a team uses it. It has
 * the chunks: memory for the payload of messages that do not fit into a slot. Slots are few and
 * small and belong to a lane of one team; chunks are large, so the lanes of all teams take them
 * from the pair, and memory grows with the messages under way and not with the number of teams.
 *
 * Where the provider maps memory the receiver reads a chunk in the sender's memory. When a lane
 * needs a chunk and none is free, the pair makes an extent of more, so teams never wait for each
 * other. Elsewhere each chunk has a copy at the receiver, which is registered once and does not
 * grow: a lane that has RT_LANE_CHUNKS_SURE of them leaves half of them to the others.
 *
 * Layout of the pair's part of a region, the same at both ends: the extents' handles, a record
 * each; the chunks of the first extent; where memory cannot be mapped, copies of the peer's
 * chunks. */
#ifndef RT_TEAM_PAIR_H
#define RT_TEAM_PAIR_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/list.h"
#include "base/turn.h"
#include "proto/limits.h"
#include "rdmatensor.h"
#include "rdmatensor_team.h"

typedef struct rt_lane rt_lane;

enum {
    RT_PAIR_EXTENTS_MAX = 6, /* each as large as all before it: 8, 8, 16, 32, 64 and 128 chunks, enough for 64 lanes */
    RT_PAIR_CHUNKS_MAX = 256,
    RT_PAIR_CHUNKS_FIRST_MAX = 8, /* where the pair can grow */
    RT_LANE_CHUNKS_SURE = 4,      /* enough for a collective call to progress: TEAMS.md, "A message" */
};

/* The handle of a sender's extent, for the receiver to attach. Hostile until checked. */
typedef struct rt_pair_record {
    uint64_t handle_size; /* stored last; 0: there is no such extent */
    uint8_t handle[RT_HANDLE_SIZE_MAX];
} rt_pair_record;

/* Adjacent chunks of one direction. */
typedef struct rt_pair_extent {
    rt_region *region; /* for this process's extents */
    rt_remote *remote; /* for the peer's */
    uint8_t *bytes;
} rt_pair_extent;

struct rt_pair {
    rt_device *device;
    rt_channel *channel;
    rt_remote *remote; /* the peer's part */
    rt_region *region; /* … and this process's part … */
    uint64_t offset;   /* … at this offset */
    bool maps;
    uint32_t chunk, first; /* bytes of a chunk, chunks of the first extent */
    _Atomic uint32_t references;
    rt_turn turn;  /* guards all below */
    rt_list lanes; /* of rt_lane.in_pair */
    uint64_t busy[RT_PAIR_CHUNKS_MAX / 64];
    rt_pair_extent own[RT_PAIR_EXTENTS_MAX], theirs[RT_PAIR_EXTENTS_MAX];
    uint32_t count;      /* this process's chunks */
    uint32_t extents;    /* this process's */
    bool growing;        /* an extent is being made, without the turn */
    bool failed_to_grow; /* no memory: lanes wait for chunks that are in use */
};

void rt_pair_reference(rt_pair *pair);

/* Takes a chunk for the lane's next message; first frees chunks whose messages the peer has read.
 * Returns its place, or -1 when none is free yet. */
int64_t rt_pair_take(rt_pair *pair, rt_lane *lane);
/* The lane is gone: frees the chunks that it held. */
void rt_pair_forget(rt_pair *pair, rt_lane *lane);
/* The memory of a place in this process's part. */
uint8_t *rt_pair_outgoing(const rt_pair *pair, uint32_t place);
/* The address at which the peer's chunk can be read. RT_E_AGAIN: not yet; RT_E_PROTOCOL: there is
 * no such place. */
int rt_pair_incoming(rt_pair *pair, uint32_t place, const uint8_t **bytes_out);
/* Offsets of a chunk in this process's part and of its copy in the peer's, where memory cannot be
 * mapped. */
uint64_t rt_pair_out_at(const rt_pair *pair, uint32_t place);
uint64_t rt_pair_in_at(const rt_pair *pair, uint32_t place);

#endif
