/* wait.c: how a call of a team waits. The waiter (base/waiter.h) decides when to sleep; this file
 * sleeps until a peer writes, or naps where peers cannot wake it. Between checks it examines whether
 * waiting still makes sense. */
#include "team/wait.h"
#include "device/device.h"
#include "team/ending.h"
#include "team/team.h"

enum {
    YIELDS = 24,         /* checks with the core yielded in between: cheaper than a sleep when the peer runs on this core */
    EXAMINE_EVERY = 256, /* checks between two examinations */
    ATTACH_LOOK_NS = RT_NS_PER_MS / 2, /* between two checks whether a region is attached */
};

void rt_team_waiter_begin(rt_team_waiter *waiter, rt_team *team, int64_t timeout_ns, int (*interrupted)(void))
{
    int64_t end_ns = timeout_ns >= INT64_MAX / 2 ? INT64_MAX : rt_clock_now_ns() + timeout_ns;
    rt_waiter_begin(&waiter->wait, &(rt_wait_mode){.spins = team->options.spins, .yields = YIELDS}, end_ns);
    waiter->team = team;
    waiter->interrupted = interrupted;
    waiter->needed = -1;
    waiter->transfers = false;
    waiter->announced = false;
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
    rt_waiter_moved(&waiter->wait);
    waiter->status = RT_OK;
}

/* Whether to continue waiting. A reason to stop takes effect after one more check: the awaited
 * event may have come before it. */
static int waiter_examine(rt_team_waiter *waiter, int64_t now)
{
    waiter->status = rt_team_trouble(waiter->team, waiter->needed, waiter->transfers, &waiter->detail);
    if (waiter->status == RT_OK && now >= waiter->wait.end_ns)
        waiter->status = rt_fail(&waiter->detail, RT_E_DEADLINE, 0, "the deadline passed");
    return RT_OK;
}

static void waiter_drive(rt_device *device)
{
    if (!device->limits.completes_in_post)
        rt_device_progress(device);
}

static int waiter_sleep(rt_team_waiter *waiter)
{
    rt_device *device = waiter->team->device;
    int64_t now = rt_clock_now_ns();
    int64_t slice = atomic_load_explicit(&waiter->team->attaching, memory_order_relaxed) > 0 ? ATTACH_LOOK_NS : RT_SLICE_NS;
    int64_t left = waiter->wait.end_ns - now < slice ? waiter->wait.end_ns - now : slice;
    int status;
    if (waiter->announced) {
        status = device->provider->memory_sleep(device->pdevice, waiter->epoch, left > 0 ? left : 0);
        waiter->announced = false;
        atomic_fetch_add_explicit(&waiter->team->sleeps, 1, memory_order_relaxed);
    } else {
        status = rt_waiter_nap(&waiter->wait, left);
    }
    if (status == RT_OK && left > 0 && device->limits.can_wake_receiver)
        return RT_OK;
    if (waiter->interrupted != NULL && waiter->interrupted() != 0) {
        waiter->status = rt_fail(&waiter->detail, RT_E_INTERRUPTED, 0, "a signal ended the wait");
        return RT_OK;
    }
    return waiter_examine(waiter, rt_clock_now_ns());
}

int rt_team_waiter_idle(rt_team_waiter *waiter)
{
    rt_device *device = waiter->team->device;
    if (waiter->status != RT_OK)
        return waiter->status;
    waiter_drive(device);
    if (device->provider->memory_help(device->pdevice)) {
        rt_team_waiter_moved(waiter);
        return waiter_examine(waiter, rt_clock_now_ns());
    }
    rt_wait_step step = rt_waiter_pause(&waiter->wait);
    if (step != RT_STEP_SLEEP) {
        bool examines = step == RT_STEP_END || waiter->wait.checks % EXAMINE_EVERY == 0;
        return examines ? waiter_examine(waiter, rt_clock_now_ns()) : RT_OK;
    }
    if (!device->limits.can_wake_receiver || waiter->announced)
        return waiter_sleep(waiter);
    waiter->epoch = device->provider->memory_epoch(device->pdevice);
    waiter->announced = true; /* one more check, then sleep */
    return waiter_examine(waiter, rt_clock_now_ns());
}
