/* source.c: the region and the runs in which the bytes of a tensor lie; and copying the bytes where
 * a copy is needed. Row-major order throughout; strides in bytes, of any sign. */
#include <string.h>

#include "device/device.h"
#include "edge/edge.h"
#include "edge/source.h"
#include "proto/dtype.h"
#include "region/region.h"

/* ---- shapes ---- */

static bool edge_is_static(const rt_edge *edge)
{
    return edge->terms.edge_kind == RT_EDGE_STATIC;
}

static int shape_mismatch(const rt_edge *edge, const rt_tensor_shape *given, rt_detail *detail)
{
    char own[96], theirs[96];
    rt_tensor_describe(given, theirs, sizeof theirs);
    if (edge_is_static(edge)) /* else it may have no rank to describe */
        rt_tensor_describe(&edge->terms.shape, own, sizeof own);
    if (edge_is_static(edge))
        return rt_fail(detail, RT_E_INVALID, 0, "edge \"%s\" carries %s, not %s: convert or reshape the tensor", edge->name, own,
                       theirs);
    return rt_fail(detail, RT_E_INVALID, 0, "edge \"%s\" carries tensors of dtype %s and %s%u dimensions, not %s", edge->name,
                   rt_dtype_name(edge->terms.shape.dtype), edge->terms.shape.rank == RT_EDGE_RANK_ANY ? "up to " : "",
                   edge->terms.shape.rank == RT_EDGE_RANK_ANY ? (unsigned)RT_EDGE_RANK_MAX : (unsigned)edge->terms.shape.rank,
                   theirs);
}

int rt_edge_check_tensor(const rt_edge *edge, const rt_edge_tensor *tensor, uint64_t *size_out, rt_detail *detail)
{
    const rt_tensor_shape *own = &edge->terms.shape;
    rt_tensor_shape shape = {.dtype = (uint8_t)tensor->dtype, .rank = (uint8_t)tensor->rank};
    if (tensor->rank > RT_EDGE_RANK_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "a tensor of %u dimensions: at most %d can be sent, reshape it", tensor->rank,
                       RT_EDGE_RANK_MAX);
    if (tensor->dtype >= RT_DTYPE_COUNT)
        return rt_fail(detail, RT_E_INVALID, 0, "a tensor of the unknown dtype code %u", tensor->dtype);
    memcpy(shape.dims, tensor->dims, tensor->rank * sizeof shape.dims[0]);
    int status = rt_tensor_bytes(&shape, size_out, detail);
    if (status != RT_OK)
        return status;
    bool dtype_fits = own->dtype == shape.dtype || own->dtype == RT_DTYPE_ANY;
    bool rank_fits = own->rank == shape.rank || own->rank == RT_EDGE_RANK_ANY;
    bool dims_fit = !edge_is_static(edge) || memcmp(own->dims, shape.dims, sizeof own->dims) == 0;
    if (!dtype_fits || !rank_fits || !dims_fit)
        return shape_mismatch(edge, &shape, detail);
    return RT_OK;
}

/* ---- strides ---- */

/* The number of last dimensions that are contiguous, and the bytes of such a run. */
static uint32_t dense_dims(const rt_edge_tensor *tensor, uint64_t item_size, uint64_t *run_size_out)
{
    uint64_t run = item_size;
    uint32_t dense = 0;
    while (dense < tensor->rank) {
        uint32_t dim = tensor->rank - 1 - dense;
        if (tensor->dims[dim] != 1 && tensor->strides[dim] != (int64_t)run)
            break;
        run *= tensor->dims[dim];
        dense++;
    }
    *run_size_out = run;
    return dense;
}

uint64_t rt_edge_runs(const rt_edge_tensor *tensor, uint64_t item_size, uint64_t *run_size_out)
{
    uint64_t count = 1;
    if (tensor->strided == 0) {
        for (uint32_t dim = 0; dim < tensor->rank; dim++)
            item_size *= tensor->dims[dim];
        *run_size_out = item_size;
        return 1;
    }
    uint32_t dense = dense_dims(tensor, item_size, run_size_out);
    for (uint32_t dim = 0; dim + dense < tensor->rank; dim++)
        count *= tensor->dims[dim];
    return count;
}

uint64_t rt_edge_run_address(const rt_edge_tensor *tensor, uint64_t item_size, uint64_t run_size, uint64_t index)
{
    uint64_t address = tensor->address, ignored;
    if (tensor->strided == 0)
        return address + index * run_size;
    uint32_t dense = dense_dims(tensor, item_size, &ignored);
    for (uint32_t left = tensor->rank - dense; left > 0; left--) {
        address += (uint64_t)((int64_t)(index % tensor->dims[left - 1]) * tensor->strides[left - 1]);
        index /= tensor->dims[left - 1];
    }
    return address;
}

bool rt_edge_span(const rt_edge_tensor *tensor, uint64_t item_size, uint64_t *address_out, uint64_t *size_out)
{
    int64_t low = 0, high = 0;
    uint64_t bytes = item_size;
    for (uint32_t dim = 0; dim < tensor->rank; dim++) {
        if (tensor->dims[dim] == 0)
            return false;
        bytes *= tensor->dims[dim];
        int64_t reach = 0;
        if (tensor->strided != 0 && __builtin_mul_overflow((int64_t)(tensor->dims[dim] - 1), tensor->strides[dim], &reach))
            return false;
        low += reach < 0 ? reach : 0;
        high += reach > 0 ? reach : 0;
    }
    *address_out = tensor->address + (uint64_t)low;
    *size_out = tensor->strided != 0 ? (uint64_t)(high - low) + item_size : bytes;
    return true;
}

void rt_edge_gather(const rt_edge_tensor *tensor, uint64_t item_size, uint64_t from, uint64_t size, uint8_t *to)
{
    uint64_t run_size;
    rt_edge_runs(tensor, item_size, &run_size);
    while (size != 0) {
        uint64_t within = from % run_size, part = run_size - within < size ? run_size - within : size;
        uint64_t address = rt_edge_run_address(tensor, item_size, run_size, from / run_size) + within;
        memcpy(to, (const void *)(uintptr_t)address, part);
        to += part;
        from += part;
        size -= part;
    }
}

/* ---- regions ---- */

rt_region *rt_edge_region_of(rt_edge *edge, uint64_t address, uint64_t size, bool *left_out)
{
    rt_device *device = edge->device;
    if (edge->source != NULL && rt_region_holds(edge->source, address, size))
        return edge->source;
    if (device->limits.local_anywhere && edge_is_static(edge))
        return device->anywhere; /* registering the tensor would not make the copy faster */
    *left_out = true;
    rt_turn_leave(&edge->turn); /* device->lock comes before it in the order of locks */
    rt_region *found = NULL;
    pthread_mutex_lock(&device->lock);
    for (rt_list *node = device->regions.next; found == NULL && node != &device->regions; node = node->next) {
        rt_region *region = RT_LIST_ENTRY(node, rt_region, node);
        if (rt_region_holds(region, address, size)) {
            rt_region_reference(region);
            found = region;
        }
    }
    pthread_mutex_unlock(&device->lock);
    rt_turn_take(&edge->turn);
    if (found != NULL) {
        rt_region *before = edge->source;
        edge->source = found;
        if (before != NULL)
            rt_region_unreference(before);
    }
    return found;
}
