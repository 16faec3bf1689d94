/* test_lock_order.c: locks that are taken against their order end a debug build, and only that. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/turn.h"
#include "check.h"

/* True in a child, which ends by _exit(0) unless a check ends it; its parent gets the child's signal,
 * or 0. */
static bool in_child(int *signal_out)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        (void)!freopen("/dev/null", "w", stderr);
        return true;
    }
    waitpid(child, &status, 0);
    *signal_out = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return false;
}

/* How a child ends that takes two turns one after the other. */
static int take_both(rt_rank first, rt_rank second, bool tries)
{
    int ended = -1;
    if (!in_child(&ended))
        return ended;
    rt_turn one = {0}, two = {0};
    rt_turn_rank(&one, first);
    rt_turn_rank(&two, second);
    rt_turn_take(&one);
    if (tries)
        (void)rt_turn_try(&two);
    else
        rt_turn_take(&two);
    _exit(0);
}

RT_STATIC_MUTEX(of_the_process, RT_RANK_STREAM);

/* How a child ends that waits for a mutex of the process while it has a turn. */
static int take_mutex_after(rt_rank first)
{
    int ended = -1;
    if (!in_child(&ended))
        return ended;
    rt_turn one = {0};
    rt_turn_rank(&one, first);
    rt_turn_take(&one);
    pthread_mutex_lock(&of_the_process);
    _exit(0);
}

static void a_lock_that_is_waited_for_against_the_order_ends_a_debug_build(void)
{
#ifdef RT_DEBUG_LOCKS
    const int checked = SIGABRT;
#else
    const int checked = 0;
#endif
    CHECK_INT(take_both(RT_RANK_EDGE, RT_RANK_LINK, false), 0);
    CHECK_INT(take_both(RT_RANK_LINK, RT_RANK_EDGE, false), checked);
    CHECK_INT(take_both(RT_RANK_EDGE, RT_RANK_EDGE, false), checked);
    CHECK_INT(take_both(RT_RANK_LINK, RT_RANK_EDGE, true), 0);
    CHECK_INT(take_both(RT_RANK_LINK, RT_RANK_NONE, false), 0);
    CHECK_INT(take_mutex_after(RT_RANK_DEVICE), 0);
    CHECK_INT(take_mutex_after(RT_RANK_LAST), checked);
}

/* A thread that closes a device takes the turns of all queues; one that forks, the mutexes of streams. */
static void a_thread_waits_for_a_second_lock_of_one_rank_only_where_it_takes_all_of_them(void)
{
#ifdef RT_DEBUG_LOCKS
    const int checked = SIGABRT;
#else
    const int checked = 0;
#endif
    for (uint32_t rank = RT_RANK_NONE; rank <= RT_RANK_LAST; rank++) {
        bool many = rank == RT_RANK_NONE || rank == RT_RANK_QUEUE || rank == RT_RANK_STREAM;
        CHECK_INT(take_both((rt_rank)rank, (rt_rank)rank, false), many ? 0 : checked);
    }
}

/* How a child ends that leaves a turn which another thread may hold. */
static int leave_one(rt_rank rank, uint32_t state)
{
    int ended = -1;
    if (!in_child(&ended))
        return ended;
    rt_turn turn = {.state = state};
    rt_turn_rank(&turn, rank);
    rt_turn_leave(&turn);
    _exit(0);
}

static void a_turn_that_nobody_holds_is_not_left(void)
{
#ifdef RT_DEBUG_LOCKS
    const int checked = SIGABRT;
#else
    const int checked = 0;
#endif
    CHECK_INT(leave_one(RT_RANK_NONE, RT_TURN_FREE), SIGABRT);
    CHECK_INT(leave_one(RT_RANK_NONE, RT_TURN_HELD), 0);
    CHECK_INT(leave_one(RT_RANK_EDGE, RT_TURN_HELD), checked); /* it is held, by another thread */
}

static const check_test tests[] = {
    CHECK_TEST(a_lock_that_is_waited_for_against_the_order_ends_a_debug_build),
    CHECK_TEST(a_thread_waits_for_a_second_lock_of_one_rank_only_where_it_takes_all_of_them),
    CHECK_TEST(a_turn_that_nobody_holds_is_not_left),
};
CHECK_MAIN(tests)
