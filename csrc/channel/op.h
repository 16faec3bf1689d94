/* op.h: an operation: a transfer that the call that began it did not finish. */
#ifndef RT_CHANNEL_OP_H
#define RT_CHANNEL_OP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "rdmatensor.h"

typedef struct rt_link rt_link;
typedef struct rt_op rt_op;

enum rt_piece_flags {
    RT_PIECE_JOINED = 1,     /* the next piece continues where this one ends, in the same item if one item can carry both */
    RT_PIECE_IMMEDIATE = 2,  /* its last item is a WRITE_IMM … */
    RT_PIECE_IMMEDIATES = 4, /* … or each of its items is */
};

/* A copy as operations have it. copy.c makes one of each copy that a caller gives, after checking
 * it; edges make their own, and they alone use flags. */
typedef struct rt_piece {
    rt_region *region;
    uint64_t region_offset;
    rt_remote *remote;
    uint64_t remote_offset;
    uint64_t size;
    uint16_t direction; /* rt_direction */
    uint16_t flags;     /* rt_piece_flags */
    uint32_t immediate; /* of a piece with one of the flags for it */
} rt_piece;

/* The position of the next byte of an operation to post. */
typedef struct rt_cursor {
    const rt_piece *pieces; /* of a prepared object or an edge, or op->few */
    uint64_t count;
    uint64_t index;  /* the next piece to post … */
    uint64_t offset; /* … and the offset in it */
} rt_cursor;

enum { RT_OP_FEW = 2 }; /* pieces that an operation keeps itself: a payload and its word */

/* A transfer that the call that began it did not finish. Lives in its link's pool; guarded by
 * link->turn, except `state`, which waiters read. */
enum rt_op_state { RT_OP_FREE = 0, RT_OP_RUNNING = 1, RT_OP_DONE = 2 };

struct rt_op {
    _Atomic uint32_t state;
    uint32_t index;                                    /* in the pool */
    _Atomic int64_t number;                            /* the number that the caller holds, or 0: nobody wants it any more */
    uint64_t generation;                               /* part of the number, so that an old number finds nothing */
    int32_t status;                                    /* the first failure, or RT_OK */
    bool cancelled;                                    /* its unposted rest must not be posted */
    bool pinned;                                       /* its regions and remotes are counted as used */
    bool unwatched;                                    /* gives itself back when it ends well; else it waits to be collected */
    uint32_t outstanding;                              /* posted items that are not retired */
    rt_cursor cursor;                                  /* the part that is not posted yet */
    rt_piece few[RT_OP_FEW];                           /* its pieces, where they are few and nobody else keeps them */
    rt_prepared *prepared;                             /* the prepared copies that it runs, or NULL; referenced while pinned */
    uint64_t writes, reads, bytes_written, bytes_read; /* sums over the posted items; added to the link's when it ends well */
    rt_list node; /* in link->starved_ops until wholly posted, link->doubted_ops or link->free_ops */
};

/* op.c; link turn held. rt_op_take returns NULL when the pool is empty. rt_op_end is called when
 * nothing of the operation is outstanding or left to post; it keeps the slot while the caller wants
 * the number. */
rt_op *rt_op_take(rt_link *link);
void rt_op_end(rt_link *link, rt_op *op);
void rt_op_give(rt_link *link, rt_op *op);
void rt_op_starve(rt_link *link, rt_op *op);
void rt_op_fed(rt_link *link);

rt_op *rt_op_find(rt_channel *channel, int64_t number, rt_link **link_out);

/* RT_E_AGAIN, or the status with which it ended: then the number is void, like a number that finds
 * nothing. One holder of the number at a time may call it. */
int rt_op_collect(rt_channel *channel, int64_t number);

/* Whether all of it is with the provider, so that nobody needs to post more of it. */
bool rt_op_posted(rt_channel *channel, int64_t number);

/* Gives a taken operation its number before it begins: its holder may check it from here on. */
int64_t rt_op_hold(rt_link *link, rt_op *op);
/* Makes an operation, pinned and with a number, from pieces that were already given to the
 * provider. Link turn held; one operation is free. */
int64_t rt_op_adopt(rt_link *link, const rt_piece *pieces, uint32_t count);

/* Gives up the caller's interest: nobody will ask for the result, but the operation still runs to
 * its end. */
void rt_op_forget(rt_channel *channel, int64_t number);

#endif
