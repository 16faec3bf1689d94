/* loan.c: memory of a region that peers may read in place while a call goes on. */
#include "region/loan.h"
#include "device/device.h"
#include "region/region.h"

static bool region_readable(const rt_region *region)
{
    return (region->rights & RT_RIGHT_REMOTE_READ) != 0 && (region->rights & RT_RIGHT_PER_PEER_KEYS) == 0;
}

/* device->lock held, so the region is not closed meanwhile. */
static void region_hold(rt_region *region, uint64_t address, rt_loan *loan)
{
    atomic_fetch_add_explicit(&region->operations, 1, memory_order_relaxed);
    rt_region_reference(region);
    loan->region = region;
    loan->offset = address - (uint64_t)(uintptr_t)region->address;
    loan->handle_size = 0;
}

static bool region_lend(rt_region *region, uint64_t address, rt_loan *loan)
{
    rt_detail detail;
    size_t size;
    if (!region_readable(region) || rt_region_handle(region, 0, region->size, loan->handle, &size, &detail) != RT_OK)
        return false;
    region_hold(region, address, loan);
    loan->handle_size = size;
    return true;
}

static bool region_keep(rt_region *region, uint64_t address, rt_loan *loan)
{
    region_hold(region, address, loan);
    return true;
}

static bool region_find(rt_device *device, const void *address, uint64_t size, rt_loan *loan_out,
                        bool (*begin)(rt_region *region, uint64_t address, rt_loan *loan))
{
    uint64_t start = (uint64_t)(uintptr_t)address;
    bool found = false;
    loan_out->region = NULL;
    if (size == 0)
        return false;
    pthread_mutex_lock(&device->lock);
    for (rt_list *node = device->regions.next; !found && node != &device->regions; node = node->next) {
        rt_region *region = RT_LIST_ENTRY(node, rt_region, node);
        found = rt_region_holds(region, start, size) && begin(region, start, loan_out);
    }
    pthread_mutex_unlock(&device->lock);
    return found;
}

bool rt_loan_begin(rt_device *device, const void *address, uint64_t size, rt_loan *loan_out)
{
    return region_find(device, address, size, loan_out, region_lend);
}

bool rt_loan_hold(rt_device *device, const void *address, uint64_t size, rt_loan *loan_out)
{
    return region_find(device, address, size, loan_out, region_keep);
}

void rt_loan_end(rt_loan *loan)
{
    if (loan->region == NULL)
        return;
    atomic_fetch_sub_explicit(&loan->region->operations, 1, memory_order_release);
    rt_region_unreference(loan->region);
    loan->region = NULL;
}
