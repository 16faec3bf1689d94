/* window.c: keys for one peer. A window is checked where packets are placed, as other keys are: it
 * must be alive, and the link through which the packets came must be one of its own. */
#include <stdlib.h>

#include "provider/sim/sim.h"

static bool window_covers(const sim_window *window, const sim_link *link)
{
    for (uint32_t index = 0; index < window->link_count; index++)
        if (window->links[index] == link)
            return true;
    return false;
}

int rt_sim_window_take(sim_memory *memory, rt_plink *const *links, uint32_t link_count, sim_reference *reference_out)
{
    sim_device *device = memory->device;
    sim_world *world = device->world;
    for (uint32_t index = 0; index < link_count; index++)
        if (((const sim_link *)links[index])->state != SIM_LINK_JOINED)
            return RT_E_CLOSED;
    RT_LIST_EACH(node, &device->windows) {
        const sim_window *window = RT_LIST_ENTRY(node, sim_window, node);
        if (window->memory != memory || !window_covers(window, (const sim_link *)links[0]))
            continue;
        *reference_out = window->reference;
        return RT_OK;
    }
    sim_window *window = calloc(1, sizeof *window);
    if (window == NULL || rt_sim_table_add(&world->windows, window, &window->reference.slot) != RT_OK) {
        free(window);
        return RT_E_NO_MEMORY;
    }
    window->reference.nonce = rt_sim_random(&world->random) | 1;
    window->memory = memory;
    for (; window->link_count < link_count; window->link_count++)
        window->links[window->link_count] = (const sim_link *)links[window->link_count];
    rt_list_append(&device->windows, &window->node);
    *reference_out = window->reference;
    return RT_OK;
}

void rt_sim_windows_end(sim_device *device, const sim_memory *memory, const sim_link *link)
{
    RT_LIST_EACH_SAFE(node, &device->windows) {
        sim_window *window = RT_LIST_ENTRY(node, sim_window, node);
        if (window->memory != memory && !window_covers(window, link))
            continue;
        rt_list_remove(node);
        rt_sim_table_remove(&device->world->windows, window->reference.slot);
        free(window);
    }
}

const sim_memory *rt_sim_window_memory(const sim_link *target, sim_reference reference)
{
    const sim_window *window = rt_sim_table_get(&target->device->world->windows, reference.slot);
    if (window == NULL || window->reference.nonce != reference.nonce || !window_covers(window, target))
        return NULL;
    return window->memory;
}
