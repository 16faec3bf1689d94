/* rdmatensor_team.h: the C interface of teams: processes that send to each other and reduce
 * together. cffi reads it as its second header; code compiled against torch sees it too, and calls
 * through the table that rt_team_get_api returns.
 *
 * A team has `size` members. With every other member it has a pair, which all teams of the two
 * processes share, and a block of rt_team_block_size bytes, zero at first, in a region with both
 * remote rights, whose handle only this peer gets. Words that only this member reads lie in
 * rt_team_words_size bytes of a region without remote rights. csrc/team/TEAMS.md describes the
 * memory layout, and how a message crosses.
 *
 * Ownership, forks and status as in rdmatensor.h. The team holds references to its pairs, remotes
 * and regions.
 * Threads: collective calls one at a time; sends and receives from any thread, also beside a
 * collective call.
 * Waiting: a collective call returns when it is done, has failed, or its deadline has passed;
 * `interrupted`, if given, is asked every RT_SLICE_NS whether to give up. A failed collective call
 * ends the team: members would no longer agree on which call comes next. Every later call returns
 * the same failure, and the other members are told. */
#ifndef RDMATENSOR_TEAM_H
#define RDMATENSOR_TEAM_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "rdmatensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* <cffi> */
typedef struct rt_pair rt_pair; /* the memory and state that this process and a peer share */
typedef struct rt_team rt_team;
typedef struct rt_team_transfer rt_team_transfer; /* a send or receive that is under way */

enum rt_team_reduction {
    RT_TEAM_SUM = 0,
    RT_TEAM_PRODUCT = 1,
    RT_TEAM_MIN = 2,
    RT_TEAM_MAX = 3,
    RT_TEAM_AND = 4,
    RT_TEAM_OR = 5,
    RT_TEAM_XOR = 6,
};

/* The purpose of an exchange, in place of a reduction. */
enum rt_team_exchange_for {
    RT_TEAM_ALL_TO_ALL = 0,
    RT_TEAM_GATHER = 1,
    RT_TEAM_SCATTER = 2,
};

typedef struct rt_team_options {
    uint32_t rank, size;
    uint32_t chunk; /* largest size of one message in bytes: that of the pairs */
    uint32_t slots; /* messages under way to one peer and lane; 4 to 16 */
    uint32_t spins; /* times a waiting thread checks before it gives its core away; 0 with more members than cores */
} rt_team_options;

/* The arguments of a collective call besides its memory. Calls of all members must agree in all but
 * the last four. */
typedef struct rt_team_call {
    uint32_t dtype;     /* a code of EDGES.md section 2 */
    uint32_t reduction; /* rt_team_reduction; for an exchange, rt_team_exchange_for; 0 where nothing is reduced */
    int32_t root;       /* for calls that have one */
    int64_t timeout_ns;
    /* target = left (reduction) right, for types without a kernel here; target may be left or
     * right. Returns 0 on success. */
    int (*reduce)(uint32_t dtype, uint32_t reduction, void *target, const void *left, const void *right, uint64_t count);
    int (*interrupted)(void);
    rt_detail *detail;
} rt_team_call;

typedef struct rt_team_piece {
    void *address;
    uint64_t size;
} rt_team_piece;

typedef struct rt_team_stats {
    uint64_t collectives, sends, receives;
    uint64_t bytes_sent, bytes_received;   /* payload, without headers */
    uint64_t staged_bytes;                 /* copied into this member's slots */
    uint64_t reduced_in_place_bytes;       /* reduced directly from a peer's memory */
    uint64_t direct_bytes;                 /* collective calls: read directly from a peer's tensor */
    uint64_t direct_received_bytes;        /* receives: read directly from a peer's tensor */
    uint64_t unexpected, unexpected_bytes; /* messages that came before their receive and were kept: in total … */
    uint64_t kept_bytes, kept_bytes_max;   /* … and now, and at most */
    uint64_t held_back;                    /* small sends that had to wait for their receive, because the peer keeps enough */
    uint64_t sleeps;
} rt_team_stats;

/* Bytes of a pair's part of a region. `chunk` is a multiple of 64, at least 512; `chunks` is 4 to 8
 * where the provider maps memory, else 4 to 256. */
uint64_t rt_pair_size(uint32_t chunk, uint32_t chunks, int maps_remote);
/* Makes the memory that this process and the channel's peer share: this process's part, in a region
 * with both remote rights, and the attached part of the peer. A pair that was dropped is freed with
 * the last team that uses it. */
int rt_pair_create(rt_channel *channel, rt_region *region, uint64_t offset, rt_remote *remote, uint32_t chunk, uint32_t chunks,
                   rt_pair **pair_out, rt_detail *detail);
void rt_pair_drop(rt_pair *pair);

uint64_t rt_team_block_size(const rt_team_options *options, int maps_remote);
uint64_t rt_team_words_size(const rt_team_options *options);
int rt_team_create(rt_device *device, rt_region *words, uint64_t words_at, const rt_team_options *options, rt_team **team_out,
                   rt_detail *detail);
/* The place of a peer's block for this member. */
typedef struct rt_team_place {
    rt_remote *remote;
    uint64_t offset, size; /* as stated by the peer */
} rt_team_place;

/* Joins a peer, given their pair, this member's block for the peer, and the peer's block for this
 * member, whose remote the team references. */
int rt_team_join(rt_team *team, uint32_t peer, rt_pair *pair, rt_region *region, uint64_t block, const rt_team_place *theirs,
                 rt_detail *detail);
/* Tells every peer that this member has joined all of them, with a sign, which is not 0, and waits
 * at most timeout_ns and one slice until all have told the same sign: from then on any member may
 * leave. Members that found each other by different information say different signs. RT_E_AGAIN:
 * not yet; *missing_out is a rank that is still missing. RT_E_INVALID: no sign, or not the one of an
 * earlier call. */
int rt_team_meet(rt_team *team, uint64_t sign, int64_t timeout_ns, int32_t *missing_out, rt_detail *detail);
/* Ends every pending and later call with RT_E_CLOSED and the text. */
void rt_team_abort(rt_team *team, const char *why);
/* Tells the peers that nothing more comes, so that they know when their block is no longer written
 * to. */
void rt_team_leave(rt_team *team);
/* Whether every peer has left or is gone: no peer writes into the blocks any more. */
int rt_team_left(rt_team *team);
void rt_team_drop(rt_team *team);
void rt_team_get_stats(rt_team *team, rt_team_stats *stats_out);
/* RT_OK while the team can be used, else the status that ended it. */
int rt_team_failure(rt_team *team, rt_detail *detail);

int rt_team_barrier(rt_team *team, const rt_team_call *call);
/* `output` may be `input`. root < 0: every member gets the result; else the root alone, and other outputs are not touched. */
int rt_team_reduce(rt_team *team, const rt_team_call *call, const void *input, void *output, uint64_t count);
/* inputs: one block of `count` elements per member. */
int rt_team_reduce_scatter(rt_team *team, const rt_team_call *call, const void *const *inputs, void *output, uint64_t count);
/* outputs: `size` bytes per member. This member's own output may be `input`. */
int rt_team_gather_all(rt_team *team, const rt_team_call *call, const void *input, void *const *outputs, uint64_t size);
int rt_team_broadcast(rt_team *team, const rt_team_call *call, void *bytes, uint64_t size);
/* Sends one piece to every member and receives one from every member; the sizes may differ, but
 * both ends know them. */
int rt_team_exchange(rt_team *team, const rt_team_call *call, const rt_team_piece *sends, const rt_team_piece *receives);

/* Start a send or receive. RT_OK: it is done, and *transfer_out is NULL. RT_E_AGAIN: it goes on,
 * *transfer_out is the caller's until rt_team_transfer_drop; the memory stays in place until then.
 * source < 0: from any member. */
int rt_team_send(rt_team *team, uint32_t peer, uint64_t tag, uint32_t dtype, const void *bytes, uint64_t size,
                 rt_team_transfer **transfer_out, rt_detail *detail);
int rt_team_receive(rt_team *team, int32_t source, uint64_t tag, uint32_t dtype, void *bytes, uint64_t size,
                    rt_team_transfer **transfer_out, int32_t *source_out, rt_detail *detail);
/* Drives the team for at most timeout_ns and one slice. RT_OK: done. RT_E_AGAIN: not yet. Any other
 * status: it failed. */
int rt_team_transfer_wait(rt_team_transfer *transfer, int64_t timeout_ns, int32_t *source_out, rt_detail *detail);
/* Drops a transfer. One that is not done is given up: its memory is no longer touched. */
void rt_team_transfer_drop(rt_team_transfer *transfer);
/* Drives sends and receives for at most timeout_ns, as long as there are any. Returns how many are
 * under way. */
int rt_team_progress(rt_team *team, int64_t timeout_ns);

typedef struct rt_team_api {
    uint32_t version;
    void (*get_stats)(rt_team *, rt_team_stats *);
    int (*failure)(rt_team *, rt_detail *);
    void (*abort)(rt_team *, const char *);
    int (*barrier)(rt_team *, const rt_team_call *);
    int (*reduce)(rt_team *, const rt_team_call *, const void *, void *, uint64_t);
    int (*reduce_scatter)(rt_team *, const rt_team_call *, const void *const *, void *, uint64_t);
    int (*gather_all)(rt_team *, const rt_team_call *, const void *, void *const *, uint64_t);
    int (*broadcast)(rt_team *, const rt_team_call *, void *, uint64_t);
    int (*exchange)(rt_team *, const rt_team_call *, const rt_team_piece *, const rt_team_piece *);
    int (*send)(rt_team *, uint32_t, uint64_t, uint32_t, const void *, uint64_t, rt_team_transfer **, rt_detail *);
    int (*receive)(rt_team *, int32_t, uint64_t, uint32_t, void *, uint64_t, rt_team_transfer **, int32_t *, rt_detail *);
    int (*transfer_wait)(rt_team_transfer *, int64_t, int32_t *, rt_detail *);
    void (*transfer_drop)(rt_team_transfer *);
    int (*progress)(rt_team *, int64_t);
} rt_team_api;
#define RT_TEAM_API_VERSION 4
const rt_team_api *rt_team_get_api(void);
/* </cffi> */

#ifdef __cplusplus
}
#endif

#endif
