/* world.c: a world (one fabric), its time, its trace, and what all its parts share: tables, references, paths, refusals.
 *
 * `advance` is here, the only place where time passes: it takes the next event, moves the clock, lets the event happen, and
 * then serves every device that it concerned. Worlds are made by the first device that names them and end with the last. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "provider/sim/sim.h"

static rt_list worlds = {&worlds, &worlds};
static pthread_mutex_t worlds_lock = PTHREAD_MUTEX_INITIALIZER; /* guards the list only */

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
    rt_sim_faults_free(world);
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

/* Serves every device that something happened to. Only the outermost advance does: a device that advances from within
 * its own service holds locks that serving would take. */
static void serve(sim_world *world)
{
    while (world->depth == 1 && !rt_list_empty(&world->waiting)) {
        sim_device *device = RT_LIST_ENTRY(world->waiting.next, sim_device, waiting_node);
        rt_list_remove(&device->waiting_node);
        if (!device->paused && device->upcalls.service != NULL)
            device->upcalls.service(device->upcalls.owner);
    }
}

static void tick(sim_world *world)
{
    world->now_ns = world->tick_ns;
    world->tick_ns += SIM_TICK_NS;
    RT_LIST_EACH(node, &world->devices) {
        sim_device *device = RT_LIST_ENTRY(node, sim_device, node);
        if (rt_list_empty(&device->waiting_node))
            rt_list_append(&world->waiting, &device->waiting_node);
    }
}

/* Lets the next event happen. False when there is none until then, and time has come there. */
static bool step(sim_world *world, int64_t until_ns)
{
    if (world->indexed_faults != 0)
        rt_sim_faults_due(world);
    sim_event *event = rt_sim_heap_first(&world->heap);
    int64_t event_ns = event != NULL ? event->at_ns : SIM_TIME_MAX;
    if (world->tick_ns < event_ns && world->tick_ns <= until_ns) {
        tick(world);
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
        serve(world);
        more = !device->happened && step(world, until_ns);
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

/* ---- tables and references ---- */

int rt_sim_table_add(sim_table *table, void *object, uint32_t *slot_out)
{
    if (table->free_count == 0 && table->count == table->capacity) {
        uint32_t capacity = table->capacity == 0 ? 64 : table->capacity * 2;
        void **entries = realloc(table->entries, capacity * sizeof *entries);
        if (entries == NULL)
            return RT_E_NO_MEMORY;
        table->entries = entries;
        uint32_t *free_slots = realloc(table->free_slots, capacity * sizeof *free_slots);
        if (free_slots == NULL)
            return RT_E_NO_MEMORY;
        table->free_slots = free_slots;
        table->capacity = capacity;
    }
    uint32_t slot = table->free_count != 0 ? table->free_slots[--table->free_count] : table->count++;
    table->entries[slot] = object;
    *slot_out = slot;
    return RT_OK;
}

void *rt_sim_table_get(const sim_table *table, uint32_t slot)
{
    return slot < table->count ? table->entries[slot] : NULL;
}

void rt_sim_table_remove(sim_table *table, uint32_t slot)
{
    assert(slot < table->count && table->entries[slot] != NULL);
    table->entries[slot] = NULL;
    table->free_slots[table->free_count++] = slot;
}

void rt_sim_reference_write(uint8_t *bytes_out, uint32_t magic, const sim_world *world, uint32_t device, sim_reference reference)
{
    rt_writer writer = rt_writer_of(bytes_out, SIM_REFERENCE_SIZE);
    rt_write_uint(&writer, magic, 4);
    rt_write_uint(&writer, world->name_hash, 4);
    rt_write_uint(&writer, device, 4);
    rt_write_uint(&writer, reference.slot, 4);
    rt_write_uint(&writer, reference.nonce, 8);
    assert(!writer.failed && writer.size == SIM_REFERENCE_SIZE);
}

bool rt_sim_reference_read(const uint8_t *bytes, size_t size, uint32_t magic, const sim_world *world, uint32_t *device_out,
                           sim_reference *reference_out)
{
    rt_reader reader = rt_reader_of(bytes, size);
    uint64_t magic_read = rt_read_uint(&reader, 4);
    uint64_t hash = rt_read_uint(&reader, 4);
    uint32_t device = (uint32_t)rt_read_uint(&reader, 4);
    uint32_t slot = (uint32_t)rt_read_uint(&reader, 4);
    uint64_t nonce = rt_read_uint(&reader, 8);
    if (!rt_reader_done(&reader) || magic_read != magic || hash != world->name_hash || nonce == 0)
        return false;
    *device_out = device;
    *reference_out = (sim_reference){.slot = slot, .nonce = nonce};
    return true;
}
