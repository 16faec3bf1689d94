/* stream_resolve.c: names to addresses without blocking for longer than a slice, so that a signal or a deadline ends the wait for
 * a DNS server that does not answer. getaddrinfo cannot be interrupted: it runs on a thread of its own, and its result waits
 * here for who asked, who calls again after each slice.
 *
 * A lookup that nobody waits for any more goes on until getaddrinfo gives up (resolv.conf says when); its result is taken by the
 * next call for the same name, or dropped when it is old. A child made by fork has no lookups: its calls are refused before. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/futex.h"
#include "base/list.h"
#include "core/stream.h"
#include "rdmatensor.h"

enum {
    RT_LOOKUPS_MAX = 64, /* a thread each; a process that connects to more names at once waits for the first ones */
    RT_LOOKUP_FRESH_S = 5,
};

typedef struct lookup {
    rt_list node; /* in `lookups`; removed by who takes the result */
    bool done;
    int64_t done_ns;
    int result, error_number;
    struct addrinfo *addresses;
    struct addrinfo hints;
    char host[RT_HOST_SIZE], port[RT_PORT_SIZE];
} lookup;

static pthread_mutex_t lookups_lock = PTHREAD_MUTEX_INITIALIZER;
static rt_list lookups = {&lookups, &lookups};
static uint32_t lookups_count;
static _Atomic uint32_t lookups_done; /* bumped when one ends; waiters sleep on it */

static void *lookup_main(void *argument)
{
    lookup *self = argument;
    int result = getaddrinfo(self->host, self->port, &self->hints, &self->addresses);
    int error = errno;
    pthread_mutex_lock(&lookups_lock);
    self->result = result;
    self->error_number = error;
    self->done_ns = rt_clock_now_ns();
    self->done = true; /* from here on it is whoever's that takes it */
    pthread_mutex_unlock(&lookups_lock);
    atomic_fetch_add(&lookups_done, 1);
    rt_futex_wake(&lookups_done, INT_MAX, false);
    return NULL;
}

/* lookups_lock held, as in the next three. */
static void lookup_drop(lookup *self)
{
    rt_list_remove(&self->node);
    lookups_count--;
    if (self->done && self->result == 0 && self->addresses != NULL)
        freeaddrinfo(self->addresses);
    free(self);
}

static void drop_old(void)
{
    int64_t oldest = rt_clock_now_ns() - RT_LOOKUP_FRESH_S * RT_NS_PER_S;
    for (rt_list *node = lookups.next, *next; node != &lookups; node = next) {
        next = node->next;
        lookup *old = RT_LIST_ENTRY(node, lookup, node);
        if (old->done && old->done_ns < oldest)
            lookup_drop(old);
    }
}

static lookup *find(const char *host, const char *port, int flags)
{
    RT_LIST_EACH(node, &lookups) {
        lookup *at = RT_LIST_ENTRY(node, lookup, node);
        if (at->hints.ai_flags == flags && strcmp(at->host, host) == 0 && strcmp(at->port, port) == 0)
            return at;
    }
    return NULL;
}

static int start(const char *host, const char *port, const struct addrinfo *hints)
{
    if (lookups_count == RT_LOOKUPS_MAX)
        return RT_E_AGAIN;
    lookup *made = calloc(1, sizeof *made);
    if (made == NULL)
        return RT_E_NO_MEMORY;
    made->hints = *hints;
    memcpy(made->host, host, strlen(host) + 1);
    memcpy(made->port, port, strlen(port) + 1);
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the caller's threads */
    int error = pthread_create(&thread, NULL, lookup_main, made);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        free(made);
        return RT_E_NO_MEMORY;
    }
    pthread_detach(thread);
    rt_list_append(&lookups, &made->node);
    lookups_count++;
    return RT_E_AGAIN;
}

/* Takes the result if it is there; starts the lookup if nobody has. RT_OK: taken. RT_E_AGAIN: not yet. */
static int take(const char *host, const char *port, const struct addrinfo *hints, int *result_out,
                struct addrinfo **addresses_out)
{
    int status = RT_E_AGAIN;
    pthread_mutex_lock(&lookups_lock);
    drop_old();
    lookup *found = find(host, port, hints->ai_flags);
    if (found == NULL) {
        status = start(host, port, hints);
    } else if (found->done) {
        *result_out = found->result;
        *addresses_out = found->addresses;
        errno = found->error_number;
        found->addresses = NULL;
        lookup_drop(found);
        status = RT_OK;
    }
    pthread_mutex_unlock(&lookups_lock);
    return status;
}

int rt_name_resolve(const char *host, const char *port, const struct addrinfo *hints, int *result_out,
                    struct addrinfo **addresses_out)
{
    struct addrinfo numeric = *hints;
    numeric.ai_flags |= AI_NUMERICHOST;
    *result_out = getaddrinfo(host, port, &numeric, addresses_out); /* an address asks nobody */
    if (*result_out != EAI_NONAME)
        return RT_OK;
    int64_t end = rt_clock_now_ns() + RT_SLICE_NS;
    for (;;) {
        uint32_t seen = atomic_load(&lookups_done);
        int status = take(host, port, hints, result_out, addresses_out);
        int64_t left = end - rt_clock_now_ns();
        if (status != RT_E_AGAIN || left <= 0)
            return status;
        if (rt_futex_sleep(&lookups_done, seen, left, false) == RT_E_INTERRUPTED)
            return RT_E_INTERRUPTED;
    }
}
