/* fork.c: knows whether this process is a child made by fork after the library was used.
 *
 * A page that the kernel wipes in the child (MADV_WIPEONFORK) holds the mark, so that the test is one load, and holds for
 * clone() as well, which runs no atfork handlers. */
#include <sys/mman.h>
#include <unistd.h>

#include "core/core.h"

static _Atomic(volatile uint32_t *) fork_mark;
static pid_t marked_pid;

int rt_fork_watch(rt_detail *detail)
{
    if (atomic_load_explicit(&fork_mark, memory_order_acquire) != NULL)
        return RT_OK;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    volatile uint32_t *mark = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mark == MAP_FAILED)
        return rt_fail(detail, RT_E_NO_MEMORY, errno, "cannot map the page that notices fork");
    if (madvise((void *)mark, page, MADV_WIPEONFORK) != 0) {
        int error = errno;
        munmap((void *)mark, page);
        return rt_fail(detail, RT_E_SYSTEM, error, "cannot mark a page to be wiped on fork (Linux 4.14 or newer is needed)");
    }
    *mark = 1;
    marked_pid = getpid();
    volatile uint32_t *expected = NULL;
    if (!atomic_compare_exchange_strong_explicit(&fork_mark, &expected, mark, memory_order_acq_rel, memory_order_acquire))
        munmap((void *)mark, page);
    return RT_OK;
}

bool rt_forked(void)
{
    volatile uint32_t *mark = atomic_load_explicit(&fork_mark, memory_order_acquire);
    return mark != NULL && *mark == 0;
}
