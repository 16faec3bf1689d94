/* poll.h: the completion path. HOT. */
#ifndef RT_CHANNEL_POLL_H
#define RT_CHANNEL_POLL_H

typedef struct rt_queue rt_queue;

/* Polls the queue once if nobody else does, retires completions, posts for starved links. Returns
 * the number of completions it took plus the number of pumps that moved something, or a negative
 * status. HOT. */
int rt_queue_step(rt_queue *queue);
/* As rt_queue_step, with the queue's turn held. */
int rt_queue_step_held(rt_queue *queue);

/* Leaves the queue's turn, which must always be left by this function. */
void rt_queue_leave(rt_queue *queue);

#endif
