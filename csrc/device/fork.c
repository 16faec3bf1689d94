/* fork.c: tells whether this process is a child made by fork, and whether anything of this library
 * was in use at that moment.
 *
 * A page that the kernel wipes in the child (MADV_WIPEONFORK) holds the mark, so the test is one
 * load, and works after clone() as well, which runs no atfork handlers. The mark numbers the
 * processes that used the library one after another: a child of a process in which nothing was open
 * may use the library, and takes the next number. */
#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/fork.h"
#include "rdmatensor.h"

static _Atomic(_Atomic uint32_t *) fork_mark;
static _Atomic uint32_t numbers;
static _Atomic uint32_t in_use; /* devices whose struct lives, and calls under way that may hold a lock of the process */

/* The page, made by the first call. */
static int fork_page_map(_Atomic uint32_t **mark_out, rt_detail *detail)
{
    *mark_out = atomic_load_explicit(&fork_mark, memory_order_acquire);
    if (*mark_out != NULL)
        return RT_OK;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *made = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED)
        return rt_fail(detail, RT_E_NO_MEMORY, errno, "cannot map the page that notices fork");
    if (madvise(made, page, MADV_WIPEONFORK) != 0) {
        int error = errno;
        munmap(made, page);
        return rt_fail(detail, RT_E_SYSTEM, error, "cannot mark a page to be wiped on fork (Linux 4.14 or newer is needed)");
    }
    _Atomic uint32_t *expected = NULL;
    *mark_out = made;
    if (!atomic_compare_exchange_strong_explicit(&fork_mark, &expected, made, memory_order_acq_rel, memory_order_acquire)) {
        munmap(made, page);
        *mark_out = expected;
    }
    return RT_OK;
}

int rt_fork_watch(rt_detail *detail)
{
    _Atomic uint32_t *mark;
    int status = fork_page_map(&mark, detail);
    uint32_t none = 0;
    if (status == RT_OK && atomic_load_explicit(mark, memory_order_acquire) == 0)
        atomic_compare_exchange_strong(mark, &none, atomic_fetch_add(&numbers, 1) + 1);
    return status;
}

void rt_fork_enter(void)
{
    atomic_fetch_add(&in_use, 1);
}

void rt_fork_leave(void)
{
    atomic_fetch_sub(&in_use, 1);
}

bool rt_forked(void)
{
    _Atomic uint32_t *mark = atomic_load_explicit(&fork_mark, memory_order_acquire);
    return mark != NULL && atomic_load_explicit(mark, memory_order_relaxed) == 0 && atomic_load(&in_use) != 0;
}

int rt_process_forked(void)
{
    return rt_forked();
}

int rt_fork_refuse(rt_detail *detail)
{
    return rt_fail(
        detail, RT_E_FORKED, 0,
        "this process was forked while a device was open, and devices do not cross a fork: fork while none is open, or "
        "start the process by spawn");
}

uint32_t rt_fork_number(void)
{
    _Atomic uint32_t *mark = atomic_load_explicit(&fork_mark, memory_order_acquire);
    return mark != NULL ? atomic_load_explicit(mark, memory_order_relaxed) : 0;
}
