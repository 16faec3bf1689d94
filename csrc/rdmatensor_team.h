/* rdmatensor_team.h: the C interface of teams: processes that send to each other and reduce together. The second header that
 * cffi reads; it is also what code compiled against torch sees, which calls through the table that rt_team_get_api gives.
 *
 * A team has `size` members; each has one region of rt_team_region_size bytes with both remote rights, and a channel to
 * every other member. csrc/collective/COLLECTIVE.md says what lies in the region and how a message crosses.
 *
 * Ownership, forks and status as in rdmatensor.h. The team holds references to its channels, remotes and region.
 * Threads: collective calls one at a time; sends and receives by any thread, also beside a collective call.
 * Waiting: a collective call returns when it is done, failed, or its deadline has passed; `interrupted`, if given, is asked
 * every RT_SLICE_NS whether to give up. A failed collective call ends the team: members would no longer agree on what
 * comes next. Every later call gives the same failure, and the other members are told. */
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
typedef struct rt_team rt_team;
typedef struct rt_team_transfer rt_team_transfer; /* a send or receive that goes on */

enum rt_team_reduction {
    RT_TEAM_SUM = 0,
    RT_TEAM_PRODUCT = 1,
    RT_TEAM_MIN = 2,
    RT_TEAM_MAX = 3,
    RT_TEAM_AND = 4,
    RT_TEAM_OR = 5,
    RT_TEAM_XOR = 6,
};

typedef struct rt_team_options {
    uint32_t rank, size;
    uint32_t chunk; /* bytes of one message at most; a multiple of 64, at least 512 */
    uint32_t slots; /* messages under way to one peer and lane; at least 4 */
    uint32_t spins; /* looks before a waiting thread gives its core away; 0 with more members than cores */
} rt_team_options;

/* What a collective call needs beside its memory. Calls of all members must agree in all but the last four. */
typedef struct rt_team_call {
    uint32_t dtype;     /* a code of EDGES.md section 2 */
    uint32_t reduction; /* rt_team_reduction; 0 where nothing is reduced */
    int32_t root;       /* of those that have one */
    int64_t timeout_ns;
    /* target = left (reduction) right, for what the core has no kernel; target may be left or right. 0: good. */
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
    uint64_t reduced_in_place_bytes;       /* reduced straight out of a peer's memory */
    uint64_t direct_bytes;                 /* collective calls: read straight out of a peer's tensor */
    uint64_t direct_received_bytes;        /* receives: likewise */
    uint64_t unexpected, unexpected_bytes; /* messages that came before their receive, and were kept */
    uint64_t sleeps;
} rt_team_stats;

uint64_t rt_team_region_size(const rt_team_options *options, int maps_remote);
int rt_team_create(rt_device *device, rt_region *region, const rt_team_options *options, rt_team **team_out, rt_detail *detail);
/* Joins a peer by its channel and the attached whole of its region. */
int rt_team_join(rt_team *team, uint32_t peer, rt_channel *channel, rt_remote *remote, rt_detail *detail);
/* Ends every pending and later call with RT_E_CLOSED and the text, or with RT_OK only takes note of the peers' ends. */
void rt_team_abort(rt_team *team, const char *why);
/* Tells the peers that nothing more comes, so that they can tell when the region is theirs no longer to write. */
void rt_team_leave(rt_team *team);
/* Whether every peer has left or is gone: nobody writes into the region any more. */
int rt_team_left(rt_team *team);
void rt_team_drop(rt_team *team);
void rt_team_get_stats(rt_team *team, rt_team_stats *stats_out);
/* RT_OK while it can be used, or what ended it. */
int rt_team_failure(rt_team *team, rt_detail *detail);

int rt_team_barrier(rt_team *team, const rt_team_call *call);
/* `output` may be `input`. root < 0: every member gets the result; else the root alone, and other outputs are not touched. */
int rt_team_reduce(rt_team *team, const rt_team_call *call, const void *input, void *output, uint64_t count);
/* inputs: one block of `count` elements per member. */
int rt_team_reduce_scatter(rt_team *team, const rt_team_call *call, const void *const *inputs, void *output, uint64_t count);
/* outputs: `size` bytes per member. The own one may be `input`. */
int rt_team_gather_all(rt_team *team, const rt_team_call *call, const void *input, void *const *outputs, uint64_t size);
int rt_team_broadcast(rt_team *team, const rt_team_call *call, void *bytes, uint64_t size);
/* One piece to and one from every member, sizes as they like, where both ends know them. */
int rt_team_exchange(rt_team *team, const rt_team_call *call, const rt_team_piece *sends, const rt_team_piece *receives);

/* Start a send or receive. RT_OK: it is done, and *transfer_out is NULL. RT_E_AGAIN: it goes on, *transfer_out is the
 * caller's until rt_team_transfer_drop; the memory stays in place until then. source < 0: from anybody. */
int rt_team_send(rt_team *team, uint32_t peer, uint64_t tag, uint32_t dtype, const void *bytes, uint64_t size,
                 rt_team_transfer **transfer_out, rt_detail *detail);
int rt_team_receive(rt_team *team, int32_t source, uint64_t tag, uint32_t dtype, void *bytes, uint64_t size,
                    rt_team_transfer **transfer_out, int32_t *source_out, rt_detail *detail);
/* Drives the team for at most timeout_ns and one slice. RT_OK: done. RT_E_AGAIN. Or why it failed. */
int rt_team_transfer_wait(rt_team_transfer *transfer, int64_t timeout_ns, int32_t *source_out, rt_detail *detail);
/* One that is not done is given up: its memory is not touched any more. */
void rt_team_transfer_drop(rt_team_transfer *transfer);
/* Drives sends and receives for at most timeout_ns, as long as there are any. Returns how many are under way. */
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
#define RT_TEAM_API_VERSION 3
const rt_team_api *rt_team_get_api(void);
/* </cffi> */

#ifdef __cplusplus
}
#endif

#endif
