/* closer.c: closes descriptors whose closing another user's process can delay.
 *
 * Closing the last descriptor of a socket, or of a file of a file system in user space, may block
 * for as long as its maker likes: a TCP socket with SO_LINGER waits for its other end. Such
 * descriptors arrive inside messages on a Unix socket, and closing that socket closes them as well.
 * So they are closed on threads of their own, which hold no lock and which no other thread waits
 * for. A thread that blocks for ever costs itself and its descriptor. The number of such threads is
 * bounded, and while too many descriptors wait, exchange.c accepts no further stranger. */
#include "provider/shm/shm.h"

#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/lock_order.h"

enum {
    CLOSERS_MAX = 32,          /* threads at once, of the process */
    CLOSER_STACK_SIZE = 65536, /* they call close and nothing else */
};

typedef struct closing {
    struct closing *next;
    int descriptor;
} closing;

RT_STATIC_MUTEX(closings_lock, RT_RANK_LAST); /* guards the variables below; taken last, for nanoseconds */
static closing *closings;
static uint32_t closings_count; /* waiting for a thread */
static uint32_t closers_count;

static closing *closing_take(void)
{
    pthread_mutex_lock(&closings_lock);
    closing *first = closings;
    if (first != NULL) {
        closings = first->next;
        closings_count--;
    } else {
        closers_count--; /* the calling thread ends */
    }
    pthread_mutex_unlock(&closings_lock);
    return first;
}

static void *closer_main(void *nothing)
{
    (void)nothing;
    for (closing *first = closing_take(); first != NULL; first = closing_take()) {
        close(first->descriptor);
        free(first);
    }
    return NULL;
}

/* False where no thread can be made: the running ones take the waiting descriptors, and the next
 * call tries again. */
static bool closer_start(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    if (pthread_attr_init(&attributes) != 0)
        return false;
    size_t size = CLOSER_STACK_SIZE < PTHREAD_STACK_MIN ? (size_t)PTHREAD_STACK_MIN : CLOSER_STACK_SIZE;
    pthread_attr_setstacksize(&attributes, size);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the caller's threads */
    bool made = pthread_create(&thread, &attributes, closer_main, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return made;
}

void shm_close_elsewhere(int descriptor)
{
    closing *made = malloc(sizeof *made);
    if (made == NULL)
        return; /* it stays open: closing it here could block for ever */
    pthread_mutex_lock(&closings_lock);
    *made = (closing){.next = closings, .descriptor = descriptor};
    closings = made;
    closings_count++;
    bool start = closers_count < CLOSERS_MAX; /* each running closer is busy with a close, which may never end */
    closers_count += start;
    pthread_mutex_unlock(&closings_lock);
    if (!start || closer_start())
        return;
    pthread_mutex_lock(&closings_lock);
    closers_count--;
    pthread_mutex_unlock(&closings_lock);
}

uint32_t shm_closings(void)
{
    pthread_mutex_lock(&closings_lock);
    uint32_t count = closings_count;
    pthread_mutex_unlock(&closings_lock);
    return count;
}
