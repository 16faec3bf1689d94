/* block.h: the layout of a block, the memory that a member has for one peer in one team; every
 * member computes the same. Private to this room.
 *
 * Only this peer may write to and read the block:
 *
 *   per lane: a line with `arrived`, a line with `acked` · a line with `eaten` ·
 *   a line with `met` · the notice · per lane: slots ·
 *   where memory cannot be mapped, per lane: copies of the peer's slots
 *
 * The words from which WRITEs are made lie in memory that no peer reaches: the text and word of a
 * notice · the word `met` · a word that READs of fences end in · per peer: a word for `eaten` · per
 * peer and lane: words for `arrived`, words for `acked`. */
#ifndef RT_TEAM_BLOCK_H
#define RT_TEAM_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "rdmatensor_team.h"
#include "team/message.h"

/* The first two exist once per lane. */
enum rt_block_word { RT_BLOCK_ARRIVED = 0, RT_BLOCK_ACKED = 1, RT_BLOCK_EATEN = 4, RT_BLOCK_MET = 5 };

enum { RT_BLOCK_NOTICE = 6 * RT_TEAM_LINE, RT_BLOCK_SLOTS = RT_BLOCK_NOTICE + RT_TEAM_NOTICE_SIZE };
_Static_assert(RT_BLOCK_SLOTS % RT_TEAM_LINE == 0, "slots begin with a cache line");

static inline uint64_t rt_block_word_at(enum rt_block_word word, uint32_t kind)
{
    return ((uint64_t)word + (word <= RT_BLOCK_ACKED ? 2ull * kind : 0)) * RT_TEAM_LINE;
}

/* This member's slots of a lane, or with `copies` the place for the peer's. */
static inline uint64_t rt_block_slots_at(const rt_team_options *options, uint32_t kind, bool copies)
{
    uint64_t lane = kind + (copies ? RT_LANE_KINDS : 0);
    return RT_BLOCK_SLOTS + lane * options->slots * RT_TEAM_SLOT;
}

static inline uint64_t rt_words_met_at(void)
{
    return RT_TEAM_NOTICE_SIZE;
}

/* Its value is never used. */
static inline uint64_t rt_words_fence_at(void)
{
    return rt_words_met_at() + sizeof(uint64_t);
}

static inline uint64_t rt_words_eaten_at(uint32_t peer)
{
    return RT_TEAM_NOTICE_SIZE + RT_TEAM_LINE + (uint64_t)peer * sizeof(uint64_t);
}

/* `slots` words for `arrived`, then as many for `acked`. */
static inline uint64_t rt_words_lane_at(const rt_team_options *options, uint32_t peer, uint32_t kind)
{
    uint64_t lane = (uint64_t)peer * RT_LANE_KINDS + kind;
    return rt_words_eaten_at(options->size) + lane * 2 * options->slots * sizeof(uint64_t);
}

#endif
