/* queue.h: a completion queue of the device. Data queues are polled by callers or by poller
 * threads. The last queue, the service queue, takes RECVs and is polled by the service. */
#ifndef RT_DEVICE_QUEUE_H
#define RT_DEVICE_QUEUE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/futex.h"
#include "base/list.h"
#include "base/turn.h"
#include "rdmatensor.h"

typedef struct rt_queue rt_queue;

/* A completion queue of the device. The last one is the service queue: it takes RECVs and is polled by the service. */
struct rt_queue {
    rt_device *device;
    uint32_t index;
    rt_turn turn;             /* guards polling and arming; a leader sleeps with it */
    rt_turn links_turn;       /* guards `links`; taken after `turn`, before a link's turn */
    rt_list links;            /* of rt_link.queue_node */
    _Atomic uint32_t starved; /* links with operations that are not wholly posted */
    _Atomic uint32_t epoch;   /* bumped when a leader found something or left; followers sleep on it */
    _Atomic uint32_t followers;
    _Atomic uint32_t loop_wants; /* an event loop found the turn taken: the thread that leaves it arms the queue */
    int kick_fd; /* eventfd: ends a leader's sleep; stays readable while links are starved where posting is copying */
    pthread_t poller;
    bool has_poller;
    struct rt_poller *several;     /* in the first queue of a poller that serves several: poller.c, as are the next three */
    int poller_event;              /* likewise: wakes that poller; open as long as kick_fd */
    int poller_fd;                 /* the same, in every queue that it serves */
    _Atomic uint32_t poller_wants; /* the poller found the turn taken: the thread that leaves it wakes the poller */
};

/* Bumps the queue's epoch and wakes its followers: they may be asleep until the queue has been
 * polled. */
static inline void rt_queue_tell(rt_queue *queue)
{
    atomic_fetch_add(&queue->epoch, 1); /* before the check for followers: they announce themselves before they read it */
    if (atomic_load(&queue->followers) != 0)
        rt_futex_wake(&queue->epoch, INT_MAX, false);
}

/* Ends a leader's sleep. */
void rt_queue_kick(rt_queue *queue);
/* Withdraws kicks, unless links are starved where posting is copying. Queue turn held. */
void rt_queue_unkick(rt_queue *queue);

#endif
