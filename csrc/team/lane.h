/* lane.h: messages from member to member; lane.c. */
#ifndef RT_TEAM_LANE_H
#define RT_TEAM_LANE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/order.h"
#include "rdmatensor_team.h"
#include "team/block.h"
#include "team/message.h"

typedef struct rt_lane rt_lane;

/* As many messages as a lane has chunks for sure: enough for a collective call to progress. */
enum { RT_LANE_PARTS = 4 };

/* A message that goes through the slots in parts: lane_parts.c. */
typedef struct rt_parts {
    uint8_t *bytes;      /* a chunk's size of memory, or NULL while none was needed */
    uint64_t size, done; /* of the message; bytes of it that were sent or have come */
    rt_message head;
} rt_parts;

/* Messages between this member and one peer, both ways. Guarded by the thread that runs collective
 * calls, or by team->lock; fields guarded by the pair's turn are marked. */
struct rt_lane {
    rt_team *team;
    uint32_t peer;
    enum rt_lane_kind kind;
    /* sending */
    uint8_t *out;          /* slots, in this member's block, … */
    uint32_t slots;        /* … so many, and as many of the peer's */
    const uint64_t *acked; /* how many the peer has taken: written by the peer */
    uint64_t sent;
    uint8_t *room;                               /* payload of the message that is being built */
    uint32_t room_place;                         /* … its rt_message.place */
    uint64_t heads, tails;                       /* offsets of the words that head and ack WRITEs are made from */
    int64_t operation;                           /* the last WRITE that may be under way; 0: none */
    rt_list in_pair;                             /* guarded by the pair's turn, as … */
    uint32_t places[RT_TEAM_SLOTS_MAX];          /* … the chunks of messages under way, plus one; 0: none, … */
    uint64_t place_sequences[RT_TEAM_SLOTS_MAX]; /* … and the sequences of those messages */
    _Atomic uint32_t held;                       /* how many chunks are held */
    rt_parts out_parts[RT_LANE_PARTS];           /* a ring of messages that wait for slots, since no chunk was free … */
    uint32_t parts_first, parts_count;           /* … its first, and how many there are; … */
    int parts_status;                            /* … after a failure nothing more is sent */
    int64_t short_since_ns;                      /* no chunk was free since then; 0: one was */
    /* receiving */
    const uint8_t *in;       /* the peer's slots, mapped or copied here */
    const uint64_t *arrived; /* how many the peer has sent: written by the peer */
    uint64_t taken, told;    /* … how many were taken here, and how many of them the peer knows of */
    uint32_t untold_chunks;  /* … how many of the others lie in chunks, which the peer may be short of */
    rt_message message;      /* the header that was checked last */
    rt_parts in_parts;
};

/* Room for the payload of a message of at most `size` bytes, or NULL while the peer has not taken
 * enough. */
uint8_t *rt_lane_room(rt_lane *lane, uint64_t size);
/* Sends the message whose payload was put there; message->size is its size. */
int rt_lane_push(rt_lane *lane, const rt_message *message);
/* Sends messages that wait for slots as far as there is room: to be called again until none is left.
 * After a failure it fails for good, as rt_lane_room gives no room: a part is missing. */
int rt_lane_flush(rt_lane *lane);
/* Whether messages wait for slots. */
static inline bool rt_lane_flushes(const rt_lane *lane)
{
    return lane->parts_count > 0;
}
/* The next message that has arrived, its header checked and copied to lane->message, or NULL;
 * *status_out then tells whether the peer sent invalid data. */
const uint8_t *rt_lane_peek(rt_lane *lane, int *status_out);
/* Marks the message as used. */
void rt_lane_take(rt_lane *lane);
/* No more messages are expected for now: tells the peer of the chunks that were taken, which its
 * other teams may need. */
void rt_lane_settle(rt_lane *lane);
/* Waits until a WRITE is wholly with the provider. */
void rt_lane_until_posted(rt_device *device, rt_channel *channel, int64_t number);
/* Waits until the peer's device is done with the messages sent; does nothing where posting is
 * copying. */
void rt_lane_drain(rt_lane *lane);
/* Frees what the lane has allocated. */
void rt_lane_free(rt_lane *lane);

/* Where a later WRITE to the peer may be placed before an earlier one: waits, `slices` of
 * RT_SLICE_NS at most, until all that were posted to it are placed. RT_E_AGAIN: they are not yet;
 * another status is that of the channel. Elsewhere RT_OK at once. TEAMS.md, "Without order". */
int rt_lane_fence(rt_team *team, uint32_t rank, uint32_t slices);

/* ---- lane_slot.c, for lane.c and lane_parts.c ---- */

/* Whether the peer has taken enough for one more slot: never when its word is invalid. */
static inline bool rt_lane_has_slot(const rt_lane *lane)
{
    return lane->sent - rt_load_acquire_u64(lane->acked) < lane->slots;
}
/* The payload behind the next slot's header. */
static inline uint8_t *rt_lane_slot(const rt_lane *lane)
{
    return lane->out + lane->sent % lane->slots * RT_TEAM_SLOT + RT_TEAM_LINE;
}
/* Sends the next slot with this header. */
int rt_lane_push_slot(rt_lane *lane, const rt_message *head);
/* WRITEs a word, made at `words` for this sequence, to the peer. */
int rt_lane_post_word(rt_lane *lane, uint64_t words, uint64_t sequence, uint64_t value, enum rt_block_word to);

/* ---- lane_parts.c, for lane.c ---- */

/* No chunk is free, or earlier messages wait: memory for a payload that will go in parts. NULL while
 * it is better to wait for a chunk, and while four wait. */
uint8_t *rt_lane_parts_room(rt_lane *lane);
/* Appends the message whose payload was put there. */
int rt_lane_parts_push(rt_lane *lane, const rt_message *message);
/* The header in lane->message is that of a part. Returns the payload when it is the last one, with
 * the header of the whole. NULL when others are due: the part is to be taken; but not while there is
 * no memory for it. */
static inline bool rt_lane_waits_for_memory(const rt_lane *lane)
{
    return lane->in_parts.bytes == NULL;
}
const uint8_t *rt_lane_parts_peek(rt_lane *lane, const uint8_t *part, int *status_out);
/* The whole was taken. */
void rt_lane_parts_take(rt_lane *lane);

#endif
