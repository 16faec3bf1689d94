/* memory.c: registered memory, the peer's memory, and sleeping until a WRITE lands.
 *
 * All parties are in one process: memory is a pointer, and a key is a reference to it. A key is
 * checked where a NIC checks it, at the target when bytes are placed (deliver.c); attaching checks
 * only that the bytes are a key of the link's peer. */
#include <assert.h>
#include <stdlib.h>

#include "provider/sim/sim.h"

static const uint32_t key_magic = 0x4b4d4953;    /* "SIMK" */
static const uint32_t window_magic = 0x574d4953; /* "SIMW" */

int rt_sim_memory_register(rt_pdevice *pdevice, const rt_memory *memory, rt_pmemory **out, rt_detail *detail)
{
    sim_device *device = (sim_device *)pdevice;
    sim_world *world = device->world;
    const rt_limits *limits = &device->base.limits;
    int status = rt_sim_refused(device, SIM_CALL_MEMORY_REGISTER, "register memory", detail);
    if (status != RT_OK)
        return status;
    if (memory->address == NULL || memory->size == 0 || memory->size > limits->region_size_max)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot register %llu bytes on '%s': a registration has 1 to %llu bytes",
                       (unsigned long long)memory->size, device->base.name, (unsigned long long)limits->region_size_max);
    if ((memory->access & RT_ACCESS_REMOTE_WRITE) != 0 && (memory->access & RT_ACCESS_LOCAL_WRITE) == 0)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot register memory on '%s' for remote writes without local write",
                       device->base.name);
    if (device->memory_count >= limits->region_count_max)
        return rt_fail(detail, RT_E_BUSY, 0, "cannot register memory on '%s': it has %u registrations, as many as its limit",
                       device->base.name, device->memory_count);
    sim_memory *made = calloc(1, sizeof *made);
    if (made == NULL || rt_sim_table_add(&world->memories, made, &made->reference.slot) != RT_OK) {
        free(made);
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "cannot register memory on '%s': no memory", device->base.name);
    }
    made->base = (rt_pmemory){.address = memory->address, .size = memory->size, .access = memory->access};
    made->device = device;
    made->reference.nonce = rt_sim_random(&world->random) | 1;
    device->memory_count++;
    *out = &made->base;
    return RT_OK;
}

void rt_sim_memory_release(rt_pdevice *pdevice, rt_pmemory *memory)
{
    sim_device *device = (sim_device *)pdevice;
    sim_memory *ended = (sim_memory *)memory;
    assert(ended->device == device && device->memory_count > 0);
    rt_sim_windows_end(device, ended, NULL);
    rt_sim_table_remove(&device->world->memories, ended->reference.slot);
    device->memory_count--;
    free(ended);
}

int rt_sim_memory_key(rt_pdevice *pdevice, rt_pmemory *memory, rt_plink *const *links, uint32_t link_count, uint8_t *key_out,
                      size_t *size_out, rt_detail *detail)
{
    sim_device *device = (sim_device *)pdevice;
    sim_memory *registered = (sim_memory *)memory;
    sim_reference reference = registered->reference;
    bool windowed = (memory->access & RT_ACCESS_PER_PEER_KEYS) != 0;
    int status = rt_sim_refused(device, SIM_CALL_MEMORY_KEY, "make a memory key", detail);
    if (status != RT_OK)
        return status;
    if (windowed && link_count == 0)
        return rt_fail(detail, RT_E_ACCESS, 0, "memory with a key for each peer has none that is good for all of them");
    if (windowed)
        status = rt_sim_window_take(registered, links, link_count, &reference);
    if (status != RT_OK)
        return rt_fail(detail, status, 0, "cannot make a key for a peer of '%s': %s", device->base.name,
                       status == RT_E_CLOSED ? "a link to it was shut" : "no memory");
    rt_sim_reference_write(key_out, windowed ? window_magic : key_magic, device->world, device->id, reference);
    *size_out = SIM_REFERENCE_SIZE;
    return RT_OK;
}

const sim_memory *rt_sim_memory_reached(const sim_link *target, const sim_item *item)
{
    if (item->windowed)
        return rt_sim_window_memory(target, item->remote);
    const sim_memory *memory = rt_sim_table_get(&target->device->world->memories, item->remote.slot);
    if (memory == NULL || memory->reference.nonce != item->remote.nonce || memory->device != target->device)
        return NULL;
    return (memory->base.access & RT_ACCESS_PER_PEER_KEYS) == 0 ? memory : NULL;
}

int rt_sim_remote_attach(rt_plink *plink, const uint8_t *key, size_t key_size, uint64_t size, uint32_t access, rt_premote **out,
                         rt_detail *detail)
{
    const sim_link *link = (const sim_link *)plink;
    sim_device *device = link->device;
    int status = rt_sim_refused(device, SIM_CALL_REMOTE_ATTACH, "attach the peer's memory", detail);
    if (status != RT_OK)
        return status;
    uint32_t party = 0;
    sim_reference reference;
    bool windowed = rt_sim_reference_read(key, key_size, window_magic, device->world, &party, &reference);
    if (!windowed && !rt_sim_reference_read(key, key_size, key_magic, device->world, &party, &reference))
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "cannot attach the peer's memory on '%s': its %zu bytes are not a key of this fabric", device->base.name,
                       key_size);
    if (link->state == SIM_LINK_NEW || party != link->peer_device)
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "cannot attach memory on '%s': it is not of the party at the other end of the link", device->base.name);
    if (device->hesitates && !device->attach_hesitated && rt_sim_random_below(&device->world->random, 4) == 0) {
        device->attach_hesitated = true;
        rt_sim_nudge(device, device->world->now_ns + rt_sim_latency(device->world, device, NULL), true);
        return rt_fail(detail, RT_E_AGAIN, 0, "attaching memory on '%s' goes on", device->base.name);
    }
    device->attach_hesitated = false;
    sim_remote *remote = calloc(1, sizeof *remote);
    if (remote == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "cannot attach the peer's memory on '%s': no memory", device->base.name);
    remote->base = (rt_premote){.size = size, .access = access};
    remote->reference = reference;
    remote->windowed = windowed;
    *out = &remote->base;
    return RT_OK;
}

void rt_sim_remote_detach(rt_plink *plink, rt_premote *remote)
{
    (void)plink;
    free((sim_remote *)remote);
}

/* ---- sleeping ---- */

uint32_t rt_sim_memory_epoch(rt_pdevice *pdevice)
{
    return ((const sim_device *)pdevice)->epoch;
}

int rt_sim_memory_sleep(rt_pdevice *pdevice, uint32_t epoch, int64_t timeout_ns)
{
    sim_device *device = (sim_device *)pdevice;
    if (!device->base.limits.can_wake_receiver)
        return RT_E_UNSUPPORTED;
    int64_t now_ns = device->world->now_ns;
    int64_t until_ns = timeout_ns < SIM_TIME_MAX - now_ns ? now_ns + timeout_ns : SIM_TIME_MAX;
    int status = timeout_ns > 0 ? RT_OK : RT_E_AGAIN;
    while (device->epoch == epoch && status == RT_OK)
        status = rt_sim_advance(pdevice, until_ns);
    return device->epoch != epoch ? RT_OK : status;
}

void rt_sim_memory_wake(rt_pdevice *pdevice)
{
    sim_device *device = (sim_device *)pdevice;
    device->epoch++;
    device->happened = true;
}
