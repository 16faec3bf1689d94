/* world.c: a world (one fabric), its time, its trace, and the parts that all its objects share:
 * paths, and the faults that are still to come.
 *
 * `advance` is here, the only place where time passes: it takes the next event, moves the clock,
 * lets the event happen, and then serves every device that it concerned. The first device that
 * names a world makes it, and the last one that leaves ends it. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock_order.h"
#include "provider/sim/sim.h"

static rt_list worlds = {&worlds, &worlds};
RT_STATIC_MUTEX(worlds_lock, RT_RANK_PROVIDER); /* guards the list only */

/* ---- faults to come ---- */

int rt_sim_due_add(sim_world *world, sim_due *due, int64_t at_ns)
{
    if (rt_sim_heap_reserve(&world->heap, 1) != RT_OK)
        return RT_E_NO_MEMORY;
    world->indexed_faults += due->indexed ? 1 : 0;
    rt_list_append(&world->faults, &due->node);
    if (!due->indexed)
        rt_sim_schedule(&world->heap, &due->event, at_ns > world->now_ns ? at_ns : world->now_ns);
    return RT_OK;
}

void rt_sim_due_remove(sim_world *world, sim_due *due)
{
    rt_sim_cancel(&world->heap, &due->event);
    rt_sim_heap_unreserve(&world->heap, 1);
    world->indexed_faults -= due->indexed ? 1 : 0;
    rt_list_remove(&due->node);
    free(due);
}

static void indexed_fire(sim_world *world)
{
    RT_LIST_EACH_SAFE(node, &world->faults) {
        sim_due *due = RT_LIST_ENTRY(node, sim_due, node);
        if (due->indexed && due->event_index <= world->event_count)
            due->event.fire(world, &due->event);
    }
}

static void faults_free(sim_world *world)
{
    RT_LIST_EACH_SAFE(node, &world->faults) {
        rt_sim_due_remove(world, RT_LIST_ENTRY(node, sim_due, node));
    }
    RT_LIST_EACH_SAFE(cut_node, &world->cuts) {
        free(RT_LIST_ENTRY(cut_node, sim_cut, node));
    }
}

/* ---- worlds ---- */

sim_world *rt_sim_world_find(const char *name)
{
    sim_world *found = NULL;
    pthread_mutex_lock(&worlds_lock);
    RT_LIST_EACH(node, &worlds) {
        sim_world *world = RT_LIST_ENTRY(node, sim_world, node);
        if (strcmp(world->name, name) == 0)
            found = world;
    }
    pthread_mutex_unlock(&worlds_lock);
    return found;
}

static sim_world *world_create(const char *name, uint64_t seed)
{
    sim_world *world = calloc(1, sizeof *world);
    if (world == NULL)
        return NULL;
    memcpy(world->name, name, strlen(name) + 1);
    uint64_t hash = 0;
    for (const char *at = name; *at != '\0'; at++)
        hash = rt_sim_mix(hash * 256 + (uint8_t)*at + 1);
    world->name_hash = (uint32_t)hash;
    world->owner = pthread_self();
    world->seed = seed;
    rt_sim_random_seed(&world->random, seed);
    world->tick_ns = SIM_TICK_NS;
    world->port_next = 40000;
    world->tears = true;
    rt_list_init(&world->devices);
    rt_list_init(&world->waiting);
    rt_list_init(&world->listeners);
    rt_list_init(&world->connections);
    rt_list_init(&world->cuts);
    rt_list_init(&world->faults);
    pthread_mutex_lock(&worlds_lock);
    rt_list_append(&worlds, &world->node);
    pthread_mutex_unlock(&worlds_lock);
    return world;
}

int rt_sim_world_enter(const char *name, bool has_seed, uint64_t seed, sim_world **world_out, rt_detail *detail)
{
    sim_world *world = rt_sim_world_find(name);
    if (world == NULL) {
        world = world_create(name, has_seed ? seed : 0);
        if (world == NULL)
            return rt_fail(detail, RT_E_NO_MEMORY, 0, "cannot make the simulated world '%s': no memory", name);
        *world_out = world;
        return RT_OK;
    }
    int status = rt_sim_world_owned(world, "open a device", detail);
    if (status != RT_OK)
        return status;
    if (has_seed && seed != world->seed)
        return rt_fail(
            detail, RT_E_INVALID, 0,
            "cannot open a device in the simulated world '%s' with seed %llu: its first device set seed %llu; give the same "
            "or none",
            name, (unsigned long long)seed, (unsigned long long)world->seed);
    *world_out = world;
    return RT_OK;
}

void rt_sim_world_leave(sim_world *world)
{
    if (!rt_list_empty(&world->devices))
        return;
    assert(world->depth == 0 && rt_list_empty(&world->connections) && rt_list_empty(&world->listeners));
    pthread_mutex_lock(&worlds_lock);
    rt_list_remove(&world->node);
    pthread_mutex_unlock(&worlds_lock);
    faults_free(world);
    free(world->links.entries);
    free(world->links.free_slots);
    free(world->memories.entries);
    free(world->memories.free_slots);
    free(world->windows.entries);
    free(world->windows.free_slots);
    free(world->heap.events);
    free(world);
}

int rt_sim_world_owned(const sim_world *world, const char *what, rt_detail *detail)
{
    if (pthread_equal(world->owner, pthread_self()))
        return RT_OK;
    return rt_fail(
        detail, RT_E_INVALID, 0,
        "cannot %s in the simulated world '%s' from this thread: a world runs in the thread that opened its first device; "
        "use that thread or another world",
        what, world->name);
}

sim_device *rt_sim_party_find(const sim_world *world, const char *name)
{
    sim_device *dead = NULL;
    RT_LIST_EACH(node, &world->devices) {
        sim_device *device = RT_LIST_ENTRY(node, sim_device, node);
        if (strcmp(device->base.name, name) != 0)
            continue;
        if (!device->dead)
            return device;
        dead = device;
    }
    return dead;
}

/* ---- the trace ---- */

void rt_sim_trace(sim_world *world, uint32_t kind, uint64_t one, uint64_t two, uint64_t three)
{
    const uint64_t values[] = {(uint64_t)world->now_ns, kind, one, two, three};
    for (size_t index = 0; index < sizeof values / sizeof values[0]; index++)
        world->trace_hash = rt_sim_mix(world->trace_hash * UINT64_C(0x9e3779b97f4a7c15) + values[index] + 1);
}

/* ---- time ---- */

int64_t rt_sim_now_ns(rt_pdevice *pdevice)
{
    return ((sim_device *)pdevice)->world->now_ns;
}

/* Serves every device that an event concerned. Only the outermost advance does so: a device that
 * advances from within its own service holds locks that serving would take. */
static void world_serve(sim_world *world)
{
    while (world->depth == 1 && !rt_list_empty(&world->waiting)) {
        sim_device *device = RT_LIST_ENTRY(world->waiting.next, sim_device, waiting_node);
        rt_list_remove(&device->waiting_node);
        if (!device->paused && device->upcalls.service != NULL)
            device->upcalls.service(device->upcalls.owner);
    }
}

static void world_tick(sim_world *world)
{
    world->now_ns = world->tick_ns;
    world->tick_ns += SIM_TICK_NS;
    RT_LIST_EACH(node, &world->devices) {
        sim_device *device = RT_LIST_ENTRY(node, sim_device, node);
        if (rt_list_empty(&device->waiting_node))
            rt_list_append(&world->waiting, &device->waiting_node);
    }
}

/* Lets the next event happen. False when none is due until `until_ns`, and the clock now stands at
 * that time. */
static bool world_step(sim_world *world, int64_t until_ns)
{
    if (world->indexed_faults != 0)
        indexed_fire(world);
    sim_event *event = rt_sim_heap_first(&world->heap);
    int64_t event_ns = event != NULL ? event->at_ns : SIM_TIME_MAX;
    if (world->tick_ns < event_ns && world->tick_ns <= until_ns) {
        world_tick(world);
        return true;
    }
    if (event == NULL || event_ns > until_ns) {
        world->now_ns = until_ns;
        return false;
    }
    assert(event_ns >= world->now_ns);
    world->now_ns = event_ns;
    world->event_count++;
    rt_sim_cancel(&world->heap, event);
    event->fire(world, event);
    return true;
}

int rt_sim_advance(rt_pdevice *pdevice, int64_t until_ns)
{
    sim_device *device = (sim_device *)pdevice;
    sim_world *world = device->world;
    if (rt_sim_world_owned(world, "let time pass", NULL) != RT_OK)
        return RT_E_INVALID;
    if (until_ns < world->now_ns)
        until_ns = world->now_ns;
    if (until_ns > SIM_TIME_MAX - 1)
        until_ns = SIM_TIME_MAX - 1;
    world->depth++;
    bool more = true;
    do {
        world_serve(world);
        more = !device->happened && world_step(world, until_ns);
    } while (more);
    int status = device->happened ? RT_OK : RT_E_AGAIN;
    device->happened = false;
    world->depth--;
    return status;
}

/* ---- paths ---- */

bool rt_sim_path_cut(const sim_world *world, const sim_device *one, const sim_device *other)
{
    RT_LIST_EACH(node, &world->cuts) {
        const sim_cut *cut = RT_LIST_ENTRY(node, sim_cut, node);
        if ((strcmp(cut->one, one->base.name) == 0 && strcmp(cut->other, other->base.name) == 0) ||
            (strcmp(cut->one, other->base.name) == 0 && strcmp(cut->other, one->base.name) == 0))
            return true;
    }
    return false;
}

int64_t rt_sim_latency(sim_world *world, const sim_device *one, const sim_device *other)
{
    int64_t latency = one->latency_ns;
    if (other != NULL && other->latency_ns > latency)
        latency = other->latency_ns;
    uint64_t spread = (uint64_t)one->jitter_ns + (uint64_t)(world->delay_max_ns - world->delay_min_ns) + 1;
    return latency + world->delay_min_ns + (int64_t)rt_sim_random_below(&world->random, spread);
}
