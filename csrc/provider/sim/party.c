/* party.c: what every file tells or asks of a party: that something happened to it, that it is to be served later, and
 * whether the fault plan refuses its call. */
#include "provider/sim/sim.h"

/* ---- events of the party ---- */

void rt_sim_happen(sim_device *device, bool serve)
{
    if (device->paused)
        return; /* all of it is reported when it resumes */
    device->happened = true;
    if (serve && rt_list_empty(&device->waiting_node))
        rt_list_append(&device->world->waiting, &device->waiting_node);
}

void rt_sim_nudge(sim_device *device, int64_t at_ns, bool progress)
{
    device->progress_untold |= progress;
    if (device->nudge.place == 0 || device->nudge.at_ns > at_ns)
        rt_sim_schedule(&device->world->heap, &device->nudge, at_ns);
}

void rt_sim_nudge_fire(sim_world *world, sim_event *event)
{
    sim_device *device = RT_LIST_ENTRY(event, sim_device, nudge);
    rt_sim_trace(world, SIM_TRACE_NUDGE, device->id, 0, 0);
    rt_sim_happen(device, true);
}

/* ---- refusals of the fault plan ---- */

int rt_sim_refusal_take(sim_refusal *refusal)
{
    if (refusal->nth == 0 || --refusal->nth != 0)
        return RT_OK;
    return refusal->status;
}

int rt_sim_refused(sim_device *device, enum sim_call call, const char *name, rt_detail *detail)
{
    int status = rt_sim_world_owned(device->world, name, detail);
    if (status != RT_OK)
        return status;
    if (device->dead)
        return rt_fail(detail, RT_E_DEVICE_LOST, 0, "cannot %s: the simulated party '%s' was killed", name, device->base.name);
    status = rt_sim_refusal_take(&device->refusals[call]);
    if (status == RT_OK)
        return RT_OK;
    if (status == RT_E_AGAIN)
        rt_sim_nudge(device, device->world->now_ns + device->latency_ns, true);
    return rt_fail(detail, status, 0, "cannot %s on the simulated party '%s': refused by the fault plan", name,
                   device->base.name);
}
