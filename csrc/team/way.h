/* way.h: which way a collective call goes. The table in way.c is the only place that decides;
 * collective.c, exchange.c and direct_run.c have a function for each way. A barrier has one way and
 * no row. All members choose from what they share, so they choose alike. Pure. */
#ifndef RT_TEAM_WAY_H
#define RT_TEAM_WAY_H

#include <stdbool.h>
#include <stdint.h>

enum rt_way_call {
    RT_CALL_REDUCE_TO_ALL,
    RT_CALL_REDUCE_TO_ROOT,
    RT_CALL_REDUCE_SCATTER, /* the bytes of a member's block count */
    RT_CALL_GATHER_ALL,     /* the bytes of a member's part count */
    RT_CALL_BROADCAST,
    RT_CALL_EXCHANGE, /* each piece by itself */
    RT_CALL_COUNT
};

/* The access that all members have to each other's tensors. */
enum rt_reach {
    RT_REACH_NONE = 0,
    RT_REACH_READ = 1,
    RT_REACH_WRITE = 3,   /* to read and to write */
    RT_REACH_UNKNOWN = 4, /* they have not told each other yet */
};

/* TEAMS.md shows these comments. */
enum rt_way {
    RT_WAY_ASK,     /* no way yet: the members tell each other what can be reached, and choose again */
    RT_WAY_NOTHING, /* nothing is sent */
    RT_WAY_COPY,    /* the one member copies its input to its output */
    RT_WAY_WHOLE,   /* every member sends all of it to each member that needs the result, which reduces it */
    RT_WAY_STEPS,   /* in steps of a chunk per member: each reduces its block of the step and sends it on */
    RT_WAY_SPREAD,  /* each reduces its block out of all inputs and writes it into all outputs */
    RT_WAY_PIECES,  /* each reduces its block, piece by piece, and the others copy the pieces */
    RT_WAY_DELIVER, /* each reduces its block out of all inputs and writes it into the root's output */
    RT_WAY_COLLECT, /* the root reduces all inputs where they lie */
    RT_WAY_PARTS,   /* chunk by chunk: each is sent its block of all inputs, and reduces it */
    RT_WAY_OWN,     /* each reduces its block out of all inputs where they lie */
    RT_WAY_CHUNKS,  /* chunk by chunk, to all peers at once */
    RT_WAY_READ,    /* each copies what the others have from where it lies */
    RT_WAY_STAR,    /* the root sends all of it to every other member */
    RT_WAY_CHAIN,   /* chunk by chunk down a chain of members that begins at the root */
};

enum {
    RT_DIRECT_SIZE_MIN = 32768, /* bytes from which asking is worth it: below, slots are as fast */
};

/* Upper bounds of a call's bytes that depend on the team. */
enum rt_way_bound {
    RT_BYTES_ANY,   /* no bound */
    RT_BYTES_SHARE, /* 32 KiB / (members - 1), at most a chunk */
    RT_BYTES_CHUNK, /* a chunk */
    RT_BYTES_BOUNDS
};

/* The terms of one team, on which the choice depends besides the call. */
typedef struct rt_way_terms {
    uint64_t bounds[RT_BYTES_BOUNDS];
    uint32_t members;
    bool maps; /* the provider maps the peers' memory */
} rt_way_terms;

rt_way_terms rt_way_terms_of(uint32_t members, uint64_t chunk, bool maps);

/* The first row of a call that fits is taken: of at least this many members and bytes, and at most
 * those bytes. A row that needs a reach fits only where memory is mapped. The last row of each call
 * fits always. Small calls come first where rows exclude each other: they are the frequent ones. */
typedef struct rt_way_row {
    uint32_t members;
    uint64_t bytes_from;
    enum rt_way_bound bytes_to;
    enum rt_reach reach;
    enum rt_way way;
} rt_way_row;

enum { RT_WAY_ROWS = 6 };
extern const rt_way_row rt_ways[RT_CALL_COUNT][RT_WAY_ROWS];

/* The way of a call. RT_WAY_ASK only while `reach` is RT_REACH_UNKNOWN. HOT. */
static inline enum rt_way rt_way_choose(const rt_way_terms *terms, enum rt_way_call call, uint64_t bytes, enum rt_reach reach)
{
    for (const rt_way_row *row = rt_ways[call];; row++) {
        if (bytes < row->bytes_from || bytes > terms->bounds[row->bytes_to] || terms->members < row->members)
            continue;
        if (row->reach == RT_REACH_NONE)
            return row->way;
        if (terms->maps && reach == RT_REACH_UNKNOWN)
            return RT_WAY_ASK;
        if (terms->maps && (reach & row->reach) == row->reach)
            return row->way;
    }
}

#endif
