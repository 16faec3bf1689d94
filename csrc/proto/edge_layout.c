/* edge_layout.c: shapes and offsets of tensor edges (EDGES.md sections 2 and 3).
 *
 * A shape may come from a peer, so products are checked before they are formed: a tensor is refused
 * when its bytes exceed INT64_MAX, and a dimension of 0 makes it empty whatever the others are.
 *
 * Slots are laid out one behind the other at a stride that keeps the alignment; a stripe's share is
 * rounded up to 64 bytes, so that two stripes never share a cache line. edge_flow says which end
 * writes to a place, and when. */
#include "proto/edge_layout.h"
#include "proto/dtype.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int rt_tensor_bytes(const rt_tensor_shape *shape, uint64_t *bytes_out, rt_detail *detail)
{
    uint64_t bytes = rt_dtype_size(shape->dtype);
    bool empty = false, overflow = false;
    if (bytes == 0)
        return rt_fail(detail, RT_E_INVALID, 0, "a tensor has the dtype code %u: codes from 1 to %d are known",
                       (unsigned)shape->dtype, RT_DTYPE_COUNT - 1);
    if (shape->rank > RT_EDGE_RANK_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "a tensor has %u dimensions: at most %d can be sent, reshape it",
                       (unsigned)shape->rank, RT_EDGE_RANK_MAX);
    for (size_t index = 0; index < shape->rank; index++) {
        uint64_t dim = shape->dims[index];
        if (dim > INT64_MAX)
            return rt_fail(detail, RT_E_INVALID, 0, "dimension %zu of a tensor is %" PRIu64 ", which no tensor has", index, dim);
        empty = empty || dim == 0;
        overflow = overflow || (dim != 0 && bytes > INT64_MAX / dim);
        bytes = overflow || dim == 0 ? bytes : bytes * dim;
    }
    if (overflow && !empty)
        return rt_fail(detail, RT_E_INVALID, 0, "a tensor of %u dimensions has more than 2^63 - 1 bytes", (unsigned)shape->rank);
    *bytes_out = empty ? 0 : bytes;
    return RT_OK;
}

void rt_tensor_describe(const rt_tensor_shape *shape, char *text_out, size_t capacity)
{
    assert(capacity > 0 && shape->rank <= RT_EDGE_RANK_MAX);
    int size = snprintf(text_out, capacity, "%s [", rt_dtype_name(shape->dtype));
    for (size_t index = 0; index < shape->rank && size < (int)capacity; index++)
        size += snprintf(text_out + size, capacity - (size_t)size, "%s%" PRIu64, index == 0 ? "" : ", ", shape->dims[index]);
    if (size < (int)capacity)
        snprintf(text_out + size, capacity - (size_t)size, "]");
}

/* ---- offsets ---- */

_Static_assert(RT_EDGE_LINE_FLAG + 8 == RT_EDGE_LINE_SIZE, "a tail WRITE ends with the flag");
_Static_assert(RT_EDGE_STRIPES_MAX <= RT_LINKS_PER_CHANNEL_MAX, "a stripe has a QP");

/* Rounds up to a multiple of a power of two; false when the result is over INT64_MAX. */
static bool span_round_up(uint64_t value, uint64_t multiple, uint64_t *rounded_out)
{
    if (value > (uint64_t)INT64_MAX - (multiple - 1))
        return false;
    *rounded_out = (value + multiple - 1) & ~(multiple - 1);
    return true;
}

static bool layout_spans(rt_edge_layout *layout, uint64_t alignment)
{
    uint64_t used = 0;
    if (!span_round_up(layout->payload_size, RT_EDGE_LINE_SIZE, &used))
        return false;
    if (layout->tail)
        used += RT_EDGE_LINE_SIZE; /* it was below 2^63 */
    if (used == 0)
        used = RT_EDGE_LINE_SIZE; /* an empty tensor has an address of its own, too */
    if (!span_round_up(used, alignment, &layout->slot_stride) || layout->slot_stride > INT64_MAX / layout->slots)
        return false;
    layout->payload_span = layout->slot_stride * layout->slots;
    layout->flag_span = layout->tail ? 0 : (uint64_t)layout->slots * layout->stripes * RT_EDGE_LINE_SIZE;
    return span_round_up(layout->payload_size / layout->stripes + (layout->payload_size % layout->stripes != 0),
                         RT_EDGE_LINE_SIZE, &layout->stripe_size);
}

int rt_edge_lay_out(uint64_t payload_size, uint32_t slots, uint32_t stripes, uint64_t alignment, bool tail,
                    rt_edge_layout *layout_out, rt_detail *detail)
{
    rt_edge_layout layout = {.payload_size = payload_size, .slots = slots, .stripes = stripes, .tail = tail};
    if (slots == 0 || slots > RT_EDGE_SLOTS_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "an edge with %" PRIu32 " slots: 1 to %d are possible", slots, RT_EDGE_SLOTS_MAX);
    if (stripes == 0 || stripes > RT_EDGE_STRIPES_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "an edge with %" PRIu32 " stripes: 1 to %d are possible", stripes,
                       RT_EDGE_STRIPES_MAX);
    if (tail && stripes != 1)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "an edge with %" PRIu32 " stripes and the flag in the tail of its one WRITE: take one stripe or another "
                       "ordering",
                       stripes);
    if (alignment == 0 || (alignment & (alignment - 1)) != 0)
        return rt_fail(detail, RT_E_INVALID, 0, "slots aligned to %" PRIu64 " bytes, which is no power of two", alignment);
    if (alignment < RT_EDGE_LINE_SIZE)
        alignment = RT_EDGE_LINE_SIZE;
    if (alignment > INT64_MAX / 2 || payload_size > INT64_MAX / 2 || !layout_spans(&layout, alignment))
        return rt_fail(detail, RT_E_INVALID, 0,
                       "an edge of %" PRIu32 " slots of %" PRIu64 " bytes needs more than 2^63 - 1 bytes", slots, payload_size);
    *layout_out = layout;
    return RT_OK;
}

uint32_t rt_edge_slot(const rt_edge_layout *layout, uint64_t sequence)
{
    return (uint32_t)(sequence % layout->slots);
}

uint64_t rt_edge_slot_offset(const rt_edge_layout *layout, uint32_t slot)
{
    assert(slot < layout->slots);
    return slot * layout->slot_stride;
}

uint64_t rt_edge_line_offset(const rt_edge_layout *layout, uint32_t slot, uint32_t stripe)
{
    assert(slot < layout->slots && stripe < layout->stripes);
    if (!layout->tail)
        return ((uint64_t)slot * layout->stripes + stripe) * RT_EDGE_LINE_SIZE;
    uint64_t used = (layout->payload_size + RT_EDGE_LINE_SIZE - 1) & ~(uint64_t)(RT_EDGE_LINE_SIZE - 1);
    return rt_edge_slot_offset(layout, slot) + used;
}

uint64_t rt_edge_stripe(const rt_edge_layout *layout, uint64_t size, uint32_t stripe, uint64_t *from_out)
{
    assert(stripe < layout->stripes && size <= layout->payload_size);
    uint64_t from = stripe * layout->stripe_size; /* below payload_size + 8 × 64 */
    if (from > size)
        from = size;
    *from_out = from;
    return size - from < layout->stripe_size ? size - from : layout->stripe_size;
}
