/* wait.c: how a call of a team waits. It looks; spins while there is a core to spin on; gives the core away between looks; then
 * sleeps until a peer writes, or naps where peers cannot wake. Between looks it finds out whether waiting makes sense. */
#include "collective/collective.h"

#include <sched.h>
#include <time.h>

enum {
    YIELDS = 24,       /* looks with the core given away in between: cheaper than a sleep when the peer runs on this core */
    CLOCK_EVERY = 256, /* looks between two readings of the clock while spinning */
};

void rt_team_waiter_begin(rt_team_waiter *waiter, rt_team *team, int64_t timeout_ns, int (*interrupted)(void))
{
    waiter->team = team;
    waiter->end_ns = timeout_ns >= INT64_MAX / 2 ? INT64_MAX : rt_clock_now_ns() + timeout_ns;
    waiter->interrupted = interrupted;
    waiter->needed = -1;
    waiter->transfers = false;
    waiter->looks = 0;
    waiter->announced = false;
    waiter->napped_ns = 0;
    waiter->status = RT_OK;
}

void rt_team_waiter_end(rt_team_waiter *waiter)
{
    rt_device *device = waiter->team->device;
    if (waiter->announced)
        device->provider->memory_sleep(device->pdevice, waiter->epoch, 0);
    waiter->announced = false;
}

void rt_team_waiter_moved(rt_team_waiter *waiter)
{
    if (waiter->announced)
        rt_team_waiter_end(waiter);
    waiter->looks = 0;
    waiter->napped_ns = 0;
    waiter->status = RT_OK;
}

/* Whether to go on waiting. A reason to stop is acted on after one more look: what was waited for may have come before it. */
static int examine(rt_team_waiter *waiter, int64_t now)
{
    waiter->status = rt_team_trouble(waiter->team, waiter->needed, waiter->transfers, &waiter->detail);
    if (waiter->status == RT_OK && now >= waiter->end_ns)
        waiter->status = rt_fail(&waiter->detail, RT_E_DEADLINE, 0, "the deadline passed");
    return RT_OK;
}

static void drive(rt_device *device)
{
    if (!device->limits.completes_in_post)
        rt_device_progress(device);
}

static int nap(rt_team_waiter *waiter, int64_t left)
{
    int64_t time = rt_nap_next_ns(&waiter->napped_ns);
    time = time < left ? time : left;
    struct timespec span = {.tv_nsec = time > 0 ? time : 1};
    return nanosleep(&span, NULL) != 0 ? RT_E_INTERRUPTED : RT_OK;
}

static int sleep_now(rt_team_waiter *waiter)
{
    rt_device *device = waiter->team->device;
    int64_t now = rt_clock_now_ns();
    int64_t left = waiter->end_ns - now < RT_SLICE_NS ? waiter->end_ns - now : RT_SLICE_NS;
    int status;
    if (waiter->announced) {
        status = device->provider->memory_sleep(device->pdevice, waiter->epoch, left > 0 ? left : 0);
        waiter->announced = false;
        atomic_fetch_add_explicit(&waiter->team->sleeps, 1, memory_order_relaxed);
    } else {
        status = nap(waiter, left);
    }
    if (status == RT_OK && left > 0 && device->limits.can_wake_receiver)
        return RT_OK;
    if (waiter->interrupted != NULL && waiter->interrupted() != 0) {
        waiter->status = rt_fail(&waiter->detail, RT_E_INTERRUPTED, 0, "a signal ended the wait");
        return RT_OK;
    }
    return examine(waiter, rt_clock_now_ns());
}

int rt_team_waiter_idle(rt_team_waiter *waiter)
{
    rt_device *device = waiter->team->device;
    if (waiter->status != RT_OK)
        return waiter->status;
    drive(device);
    uint32_t looks = ++waiter->looks;
    if (looks <= waiter->team->options.spins) {
        rt_pause();
        return looks % CLOCK_EVERY == 0 ? examine(waiter, rt_clock_now_ns()) : RT_OK;
    }
    if (looks <= waiter->team->options.spins + YIELDS) {
        sched_yield();
        return RT_OK;
    }
    if (!device->limits.can_wake_receiver || waiter->announced)
        return sleep_now(waiter);
    waiter->epoch = device->provider->memory_epoch(device->pdevice);
    waiter->announced = true; /* one more look, then sleep */
    return examine(waiter, rt_clock_now_ns());
}
