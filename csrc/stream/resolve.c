/* resolve.c: resolves names without blocking for longer than a slice, so that a signal or a
 * deadline ends the wait for a DNS server that does not answer. getaddrinfo cannot be interrupted:
 * it runs on a thread of its own, and its result waits here for the caller, who calls again after
 * each slice.
 *
 * A lookup that no caller waits for any more goes on until getaddrinfo gives up (resolv.conf says
 * when); its result is taken by the next call for the same name, or dropped when it is old. A child
 * made by fork has no lookups: its calls are refused before they come here. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/futex.h"
#include "base/list.h"
#include "base/lock_order.h"
#include "rdmatensor.h"
#include "stream/stream.h"

enum {
    RT_LOOKUPS_MAX = 64, /* one thread each; a process that connects to more names at once waits for the first lookups */
    RT_LOOKUP_FRESH_S = 5,
};

typedef struct lookup {
    rt_list node; /* in `lookups`; removed by the caller that takes the result */
    bool done;
    int64_t done_ns;
    int result, error_number;
    struct addrinfo *addresses;
    struct addrinfo hints;
    char host[RT_HOST_SIZE], port[RT_PORT_SIZE];
} lookup;

RT_STATIC_MUTEX(lookups_lock, RT_RANK_STREAM);
static rt_list lookups = {&lookups, &lookups};
static uint32_t lookups_count;
static _Atomic uint32_t lookups_done; /* bumped when a lookup ends; waiters sleep on it */
static pthread_once_t lookups_once = PTHREAD_ONCE_INIT;

static void lookups_before_fork(void)
{
    pthread_mutex_lock(&lookups_lock);
}

static void lookups_after_fork(void)
{
    pthread_mutex_unlock(&lookups_lock);
}

/* A child does not have the threads that look up: it begins without their lookups, which are not
 * freed. */
static void lookups_in_child(void)
{
    rt_list_init(&lookups);
    lookups_count = 0;
    pthread_mutex_unlock(&lookups_lock);
}

static void lookups_watch_fork(void)
{
    pthread_atfork(lookups_before_fork, lookups_after_fork, lookups_in_child);
}

static void *host_lookup_main(void *argument)
{
    lookup *self = argument;
    int result = getaddrinfo(self->host, self->port, &self->hints, &self->addresses);
    int error = errno;
    pthread_mutex_lock(&lookups_lock);
    self->result = result;
    self->error_number = error;
    self->done_ns = rt_clock_now_ns();
    self->done = true; /* from here on it belongs to the thread that takes it */
    pthread_mutex_unlock(&lookups_lock);
    atomic_fetch_add(&lookups_done, 1);
    rt_futex_wake(&lookups_done, INT_MAX, false);
    return NULL;
}

/* lookups_lock held, as in the next three. */
static void host_lookup_drop(lookup *self)
{
    rt_list_remove(&self->node);
    lookups_count--;
    if (self->done && self->result == 0 && self->addresses != NULL)
        freeaddrinfo(self->addresses);
    free(self);
}

static void lookups_drop_old(void)
{
    int64_t oldest = rt_clock_now_ns() - RT_LOOKUP_FRESH_S * RT_NS_PER_S;
    for (rt_list *node = lookups.next, *next; node != &lookups; node = next) {
        next = node->next;
        lookup *old = RT_LIST_ENTRY(node, lookup, node);
        if (old->done && old->done_ns < oldest)
            host_lookup_drop(old);
    }
}

static lookup *host_lookup_find(const char *host, const char *port, int flags)
{
    RT_LIST_EACH(node, &lookups) {
        lookup *at = RT_LIST_ENTRY(node, lookup, node);
        if (at->hints.ai_flags == flags && strcmp(at->host, host) == 0 && strcmp(at->port, port) == 0)
            return at;
    }
    return NULL;
}

static int host_lookup_start(const char *host, const char *port, const struct addrinfo *hints)
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
    int error = pthread_create(&thread, NULL, host_lookup_main, made);
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

/* Takes the result if there is one; starts the lookup if no thread has. RT_OK: taken. RT_E_AGAIN:
 * not yet. */
static int host_lookup_take(const char *host, const char *port, const struct addrinfo *hints, int *result_out,
                            struct addrinfo **addresses_out)
{
    int status = RT_E_AGAIN;
    pthread_once(&lookups_once, lookups_watch_fork);
    pthread_mutex_lock(&lookups_lock);
    lookups_drop_old();
    lookup *found = host_lookup_find(host, port, hints->ai_flags);
    if (found == NULL) {
        status = host_lookup_start(host, port, hints);
    } else if (found->done) {
        *result_out = found->result;
        *addresses_out = found->addresses;
        errno = found->error_number;
        found->addresses = NULL;
        host_lookup_drop(found);
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
    *result_out = getaddrinfo(host, port, &numeric, addresses_out); /* a numeric address needs no server */
    if (*result_out != EAI_NONAME)
        return RT_OK;
    int64_t end = rt_clock_now_ns() + RT_SLICE_NS;
    for (;;) {
        uint32_t seen = atomic_load(&lookups_done);
        int status = host_lookup_take(host, port, hints, result_out, addresses_out);
        int64_t left = end - rt_clock_now_ns();
        if (status != RT_E_AGAIN || left <= 0)
            return status;
        if (rt_futex_sleep(&lookups_done, seen, left, false) == RT_E_INTERRUPTED)
            return RT_E_INTERRUPTED;
    }
}
