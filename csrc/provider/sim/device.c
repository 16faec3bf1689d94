/* device.c: a party of the fabric: opening and closing it, its asynchronous events, and its death. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "provider/sim/sim.h"

int rt_sim_viable(rt_detail *detail)
{
    rt_detail_clear(detail);
    return RT_OK;
}

int rt_sim_list(rt_device_info *infos_out, int capacity, rt_detail *detail)
{
    rt_detail_clear(detail);
    if (capacity < 1)
        return 1;
    sim_arguments arguments;
    rt_sim_arguments_default(&arguments);
    memset(infos_out, 0, sizeof *infos_out);
    memcpy(infos_out->name, "sim", sizeof "sim");
    infos_out->limits = arguments.limits;
    snprintf(infos_out->state, sizeof infos_out->state,
             "simulated: any name opens a party; virtual time, one process and thread");
    return 1;
}

/* ---- opening and closing ---- */

static int device_name_choose(const sim_world *world, const char *wanted, char *name_out, rt_detail *detail)
{
    if (wanted == NULL || wanted[0] == '\0') {
        uint32_t number = world->device_next;
        do
            snprintf(name_out, SIM_NAME_SIZE, "party%u", number++);
        while (rt_sim_party_find(world, name_out) != NULL);
        return RT_OK;
    }
    if (strlen(wanted) >= SIM_NAME_SIZE || strpbrk(wanted, " =") != NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "sim: the party name '%.70s' has a blank or '=', or more than %d characters",
                       wanted, SIM_NAME_SIZE - 1);
    const sim_device *other = rt_sim_party_find(world, wanted);
    if (other != NULL && !other->dead)
        return rt_fail(detail, RT_E_EXISTS, 0, "cannot open the simulated party '%s': the world '%s' has one of that name",
                       wanted, world->name);
    memcpy(name_out, wanted, strlen(wanted) + 1);
    return RT_OK;
}

static sim_device *device_create(sim_world *world, const rt_open_options *options, const sim_arguments *arguments)
{
    sim_device *device = calloc(1, sizeof *device);
    if (device == NULL)
        return NULL;
    device->base.limits = arguments->limits;
    device->world = world;
    device->upcalls = options->upcalls;
    device->queue_count = (options->data_queues != 0 ? options->data_queues : arguments->limits.queues_default) + 1;
    device->queues = calloc(device->queue_count, sizeof *device->queues);
    if (device->queues == NULL) {
        free(device);
        return NULL;
    }
    device->latency_ns = (int64_t)arguments->latency_ns;
    device->jitter_ns = (int64_t)arguments->jitter_ns;
    device->retry_ns = (int64_t)arguments->retry_ns;
    device->bytes_per_us = arguments->bytes_per_us;
    device->hesitates = arguments->hesitates;
    device->corrupt_at = device->truncate_at = SIM_UNLIMITED;
    device->nudge.fire = rt_sim_nudge_fire;
    rt_list_init(&device->waiting_node);
    rt_list_init(&device->links);
    rt_list_init(&device->lost);
    rt_list_init(&device->windows);
    return device;
}

int rt_sim_open(const rt_open_options *options, rt_pdevice **device_out, rt_detail *detail)
{
    sim_arguments arguments;
    int status = rt_sim_arguments_parse(options->arguments, &arguments, detail);
    if (status != RT_OK)
        return status;
    uint32_t queues = options->data_queues != 0 ? options->data_queues : arguments.limits.queues_default;
    if (queues >= arguments.limits.completion_queue_max)
        return rt_fail(detail, RT_E_INVALID, 0, "sim: %u data queues; a device has 1 to %u", queues,
                       arguments.limits.completion_queue_max - 1);
    sim_world *world = NULL;
    status = rt_sim_world_enter(arguments.world, arguments.has_seed, arguments.seed, &world, detail);
    if (status != RT_OK)
        return status;
    status = rt_sim_refusal_take(&world->open_refusal);
    if (status != RT_OK) {
        rt_fail(detail, status, 0, "cannot open a simulated party in the world '%s': refused by the fault plan", world->name);
        goto leave_world;
    }
    char name[SIM_NAME_SIZE];
    status = device_name_choose(world, options->name, name, detail);
    if (status != RT_OK)
        goto leave_world;
    sim_device *device = device_create(world, options, &arguments);
    if (device == NULL || rt_sim_heap_reserve(&world->heap, 1) != RT_OK) {
        status = rt_fail(detail, RT_E_NO_MEMORY, 0, "cannot open the simulated party '%s': no memory", name);
        goto free_device;
    }
    memcpy(device->base.name, name, sizeof name);
    device->id = world->device_next++;
    rt_list_append(&world->devices, &device->node);
    *device_out = &device->base;
    return RT_OK;
free_device:
    if (device != NULL)
        free(device->queues);
    free(device);
leave_world:
    rt_sim_world_leave(world);
    return status;
}

void rt_sim_close(rt_pdevice *pdevice)
{
    sim_device *device = (sim_device *)pdevice;
    sim_world *world = device->world;
    assert(device->link_count == 0 && device->memory_count == 0);     /* destroyed and released before */
    assert(device->stream_count == 0 && device->listener_count == 0); /* closed before */
    rt_sim_cancel(&world->heap, &device->nudge);
    rt_sim_heap_unreserve(&world->heap, 1);
    rt_list_remove(&device->node);
    rt_list_remove(&device->waiting_node);
    for (uint32_t index = 0; index < device->queue_count; index++)
        free(device->queues[index].entries);
    free(device->queues);
    free(device);
    rt_sim_world_leave(world);
}

/* ---- events of the device ---- */

void rt_sim_kill(sim_device *device)
{
    if (device->dead)
        return;
    device->dead = device->death_untold = true;
    device->paused = false;
    RT_LIST_EACH(node, &device->links) {
        rt_sim_link_kill(RT_LIST_ENTRY(node, sim_link, node));
    }
    rt_sim_streams_kill(device);
    rt_sim_happen(device, true);
}

void rt_sim_pause(sim_device *device, bool paused)
{
    if (device->dead || device->paused == paused)
        return;
    device->paused = paused;
    rt_sim_happen(device, true); /* has no effect while it is paused */
}

int rt_sim_service_fd(rt_pdevice *pdevice)
{
    (void)pdevice;
    return -1;
}

void rt_sim_service(rt_pdevice *pdevice, rt_event *event_out)
{
    sim_device *device = (sim_device *)pdevice;
    event_out->kind = RT_EVENT_NONE;
    event_out->link = NULL;
    rt_detail_clear(&event_out->detail);
    if (device->death_untold) {
        device->death_untold = device->progress_untold = false;
        event_out->kind = RT_EVENT_DEVICE_LOST;
        rt_fail(&event_out->detail, RT_E_DEVICE_LOST, 0, "the simulated party '%s' was killed", device->base.name);
    } else if (!rt_list_empty(&device->lost)) {
        sim_link *link = RT_LIST_ENTRY(device->lost.next, sim_link, lost_node);
        rt_list_remove(&link->lost_node);
        event_out->kind = RT_EVENT_LINK_LOST;
        event_out->link = &link->base;
        rt_detail_pass(&event_out->detail, &link->loss);
    } else if (device->progress_untold && device->nudge.place == 0) {
        device->progress_untold = false;
        event_out->kind = RT_EVENT_PROGRESS;
    }
}
