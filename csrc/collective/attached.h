/* attached.h: ranges of tensors that peers read where they lie: how one is announced, and the regions of a peer that stay
 * attached from call to call; attached.c. Private to this room. */
#ifndef RT_COLLECTIVE_ATTACHED_H
#define RT_COLLECTIVE_ATTACHED_H

#include "core/loan.h"

enum { RT_ATTACHED_MAX = 8 }; /* regions of a peer that stay attached */

/* What a member tells a peer of one range. Hostile until checked. */
typedef struct rt_announcement {
    uint32_t direct; /* 1: the peer may read it */
    uint32_t handle_size;
    uint64_t offset;
    uint8_t handle[RT_HANDLE_SIZE_MAX];
} rt_announcement;

/* A region of the peer. */
typedef struct rt_attached {
    rt_remote *remote; /* NULL: free */
    uint32_t holders;  /* ranges in use: it is not replaced */
    uint64_t used;     /* when it was used last, in uses of the table */
    size_t handle_size;
    uint8_t handle[RT_HANDLE_SIZE_MAX];
} rt_attached;

typedef struct rt_attachments {
    rt_attached places[RT_ATTACHED_MAX];
    uint64_t uses;
} rt_attachments;

/* What to tell of a range that is lent; with NULL, that it cannot be read. */
void rt_announcement_make(const rt_loan *loan, rt_announcement *told_out);
/* Attaches what a peer told of, or finds it attached, and holds it. *attached_out is NULL where the `size` bytes cannot be read: what was
 * told makes no sense, gives no right to read, or all places are held. RT_E_AGAIN: the peer has not let it be attached within a slice. */
int rt_attach(rt_attachments *table, rt_channel *channel, const rt_announcement *told, uint64_t size, rt_attached **attached_out);
/* NULL is fine. */
void rt_attached_release(rt_attached *attached);
/* Lets go of all; none is held. */
void rt_attachments_drop(rt_attachments *table);

#endif
