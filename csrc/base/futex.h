/* futex.h: sleeping on a 32-bit word, within a process or across processes that map it. */
#ifndef RT_BASE_FUTEX_H
#define RT_BASE_FUTEX_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/status.h"

/* Sleeps while *word == seen, for at most timeout_ns. RT_OK: woken or the word differs. RT_E_AGAIN: time is up.
 * RT_E_INTERRUPTED: a signal. `shared` when other processes map the word. */
static inline int rt_futex_sleep(const _Atomic uint32_t *word, uint32_t seen, int64_t timeout_ns, bool shared)
{
    struct timespec timeout = {.tv_sec = timeout_ns / RT_NS_PER_S, .tv_nsec = timeout_ns % RT_NS_PER_S};
    int operation = FUTEX_WAIT | (shared ? 0 : FUTEX_PRIVATE_FLAG);
    if (syscall(SYS_futex, word, operation, seen, &timeout, NULL, 0) == 0 || errno == EAGAIN)
        return RT_OK;
    return errno == EINTR ? RT_E_INTERRUPTED : RT_E_AGAIN;
}

/* Wakes at most `count` sleepers. */
static inline void rt_futex_wake(const _Atomic uint32_t *word, int count, bool shared)
{
    syscall(SYS_futex, word, FUTEX_WAKE | (shared ? 0 : FUTEX_PRIVATE_FLAG), count, NULL, NULL, 0);
}

#endif
