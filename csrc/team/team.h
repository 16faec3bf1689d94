/* team.h: a team and its members, and the lock or thread that guards each part. A team stands on
 * top of channels: it posts WRITEs through them and sleeps as their waits do. TEAMS.md explains. */
#ifndef RT_TEAM_TEAM_H
#define RT_TEAM_TEAM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/large.h"
#include "base/list.h"
#include "rdmatensor_team.h"
#include "team/attached.h"
#include "team/lane.h"
#include "team/pair.h"
#include "team/way.h"

typedef struct rt_direct rt_direct;

typedef struct rt_peer {
    rt_channel *channel; /* the pair's; NULL until it has joined */
    rt_pair *pair;
    rt_region *region;      /* this member's block for the peer, which the peer writes to and reads messages from, … */
    uint64_t block;         /* … at this offset */
    rt_remote *remote;      /* the peer's block for us … */
    uint64_t remote_at;     /* … at this offset */
    const uint8_t *mapped;  /* … its address where it is mapped, or NULL */
    const uint64_t *met;    /* the sign of a peer that has reached every member, or 0 */
    const uint64_t *notice; /* nonzero: the peer gave up, or left; its text lies before the word */
    rt_lane lanes[RT_LANE_KINDS];
    rt_attachments attached; /* regions of the peer's sends that are read in place; team->lock, as all below */
    rt_list queue;           /* transfer.c: sends not announced yet, in order */
    rt_list offered;         /* sends that wait for a receive */
    rt_list flowing;         /* sends whose bytes are being sent */
    rt_list controls;        /* of rt_control_note.node: ACCEPT and REFUSE messages to send */
    uint32_t offers;         /* sends in `offered` */
    uint64_t eager_sent;     /* with their cost, bytes that were sent and may lie at the peer unreceived … */
    const uint64_t *eaten;   /* … less those that were received: written by the peer */
    uint64_t kept;           /* unreceived bytes kept here, counted likewise, … */
    uint32_t kept_offers;    /* … and the number of kept offers */
    uint64_t received, told; /* bytes received here, counted likewise, and the count that the peer knows */
    int64_t telling;         /* the WRITE that tells the peer, or 0 */
    rt_detail refused;       /* an eager send did not fit its receive: the next transfer with this peer returns this */
} rt_peer;

struct rt_team {
    rt_device *device;
    rt_region *words;  /* memory that no peer reaches: WRITEs of words and notices are made from it … */
    uint64_t words_at; /* … at this offset */
    rt_team_options options;
    uint32_t rank, size;
    bool maps;                           /* the peers' slots are read in place */
    bool fences;                         /* a later WRITE may be placed before an earlier one: a READ separates them */
    rt_way_terms terms;                  /* on which the ways of collective calls depend */
    rt_peer *peers;                      /* by rank; this member's own entry is empty */
    rt_direct *directs;                  /* likewise; used by the thread that runs collective calls */
    rt_large_pace paces[RT_LARGE_PACES]; /* of copies from the peers' tensors; any thread */
    uint64_t calls;                      /* collective calls begun */
    _Atomic int32_t broken;              /* status of `failure`, set after it */
    rt_detail failure;
    pthread_mutex_t failing; /* guards writing `failure` */
    uint64_t sign;           /* told to the peers by rt_team_meet; 0 before */
    bool left, noticed;      /* noticed: the peers were sent a notice of the failure */

    pthread_mutex_t lock; /* guards transfers and the transfer lanes */
    rt_list receives;     /* of rt_team_transfer.node: posted, not matched, in order */
    rt_list reading;      /* matched to an OFFER, and being read in place */
    rt_list arriving;     /* matched to an OFFER; bytes are coming, or were read */
    rt_list unexpected;   /* of rt_unexpected.node, in order of arrival */
    uint64_t next_number;
    _Atomic uint32_t pending;   /* transfers that are not done */
    _Atomic uint32_t attaching; /* … of them, receives that wait for a region to be attached, an event that wakes nobody */
    rt_team_stats stats;        /* collective side by its caller, transfer side under lock: the two share no field */
    _Atomic uint64_t sleeps;
};

#endif
