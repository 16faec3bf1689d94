/* attached.h: ranges of tensors that peers read in place: how one is announced, and the regions of
 * a peer that stay attached from call to call; attached.c. Private to this room. */
#ifndef RT_TEAM_ATTACHED_H
#define RT_TEAM_ATTACHED_H

#include "proto/limits.h"
#include "rdmatensor.h"

typedef struct rt_loan rt_loan;

enum { RT_ATTACHED_MAX = 8 }; /* regions of a peer that stay attached */

/* The announcement of one range to a peer. Hostile until checked. */
typedef struct rt_announcement {
    uint32_t direct; /* 1: the peer may read it */
    uint32_t handle_size;
    uint64_t offset;
    uint8_t handle[RT_HANDLE_SIZE_MAX];
} rt_announcement;

/* A region of the peer. */
typedef struct rt_attached {
    rt_remote *remote; /* NULL: free */
    uint32_t holders;  /* ranges in use: while there are any, it is not replaced */
    uint64_t used;     /* when it was last used, counted in uses of the table */
    size_t handle_size;
    uint8_t handle[RT_HANDLE_SIZE_MAX];
} rt_attached;

/* All zero: nothing is attached yet. */
typedef struct rt_attachments {
    rt_attached *places; /* an array of RT_ATTACHED_MAX, allocated when the first is needed */
    uint64_t uses;
} rt_attachments;

/* Makes the announcement of a lent range; with NULL, of one that cannot be read. */
void rt_announcement_make(const rt_loan *loan, rt_announcement *told_out);
/* Attaches an announced range, or finds it attached, and holds it. *attached_out is NULL where the
 * `size` bytes cannot be read: the announcement is malformed, gives no right to read, or all places
 * are held. RT_E_AGAIN: the peer did not answer within timeout_ns. */
int rt_attach(rt_attachments *table, rt_channel *channel, const rt_announcement *told, uint64_t size, int64_t timeout_ns,
              rt_attached **attached_out);
/* Releases a hold. NULL is allowed. */
void rt_attached_release(rt_attached *attached);
/* Drops all regions; none may be held. */
void rt_attachments_drop(rt_attachments *table);

#endif
