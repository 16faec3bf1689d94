/* edge_layout.h: the form of a tensor on the wire (rank, dimensions, bytes; dtype.h has the dtypes)
 * and the places of an edge's slots, flags and credit. The full protocol: EDGES.md sections 2 and
 * 3.
 *
 * Receivers own slots and flag lines, senders a credit line. A flag line has a cache line of its
 * own for each slot and stripe; with a tail it is the end of the slot. All words are little-endian
 * and aligned to 8.
 *
 * Invariant: the ranges of different slots, stripes and lines never overlap, and every offset lies
 * inside the span that the receiver allocates.
 *
 * Driver: pure and without state; numbers in, offsets out, every count checked against overflow.
 * edge_flow says which end writes to a place, and when. */
#ifndef RT_PROTO_EDGE_LAYOUT_H
#define RT_PROTO_EDGE_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/limits.h"

enum { RT_EDGE_RANK_ANY = 255 }; /* of an edge that takes every rank; never of a tensor */

typedef struct rt_tensor_shape {
    uint8_t dtype;                   /* rt_dtype */
    uint8_t rank;                    /* 0 to RT_EDGE_RANK_MAX */
    uint64_t dims[RT_EDGE_RANK_MAX]; /* those from rank on are 0 */
} rt_tensor_shape;

/* Bytes of a contiguous tensor. RT_E_INVALID with the detail: unknown dtype, rank over the limit, more than INT64_MAX bytes (a
 * dimension of 0 makes 0 bytes, whatever the others are, as long as each is at most INT64_MAX). `detail` may be NULL. */
int rt_tensor_bytes(const rt_tensor_shape *shape, uint64_t *bytes_out, rt_detail *detail);
/* "float32 [3, 4]", cut to the capacity and terminated. */
void rt_tensor_describe(const rt_tensor_shape *shape, char *text_out, size_t capacity);

/* ---- offsets ---- */

/* A flag line, 64 bytes on its own cache line; one per slot and stripe. All words little-endian and aligned to 8. */
enum {
    RT_EDGE_LINE_BEGUN = 0,  /* sequence the sender has begun to write (loop check), before its first byte */
    RT_EDGE_LINE_NOTE = 8,   /* CRC of the stripe and the sequence it belongs to (verify) */
    RT_EDGE_LINE_COUNT = 16, /* pieces that have arrived (immediate); only the receiver writes it */
    RT_EDGE_LINE_FLAG = 56,  /* sequence that has arrived: the last word, so that a tail WRITE ends with it */
};

typedef struct rt_edge_layout {
    uint64_t payload_size; /* most bytes of one slot: the tensor of a static edge; eager area and record of a dynamic one */
    uint64_t slot_stride;  /* from one slot to the next, a multiple of 64 and of the alignment */
    uint64_t payload_span; /* bytes of all slots: the size that the receiver allocates for them */
    uint64_t flag_span;    /* bytes of all flag lines; 0 when they lie in the slots */
    uint64_t stripe_size;  /* bytes of every stripe but the last ones, which may be shorter or empty; a multiple of 64 */
    uint32_t slots, stripes;
    bool tail; /* each slot ends with its flag line */
} rt_edge_layout;

/* RT_E_INVALID with the detail: slots or stripes out of bounds, an alignment that is no power of two, more than INT64_MAX
 * bytes, or a tail with more than one stripe. */
int rt_edge_lay_out(uint64_t payload_size, uint32_t slots, uint32_t stripes, uint64_t alignment, bool tail,
                    rt_edge_layout *layout_out, rt_detail *detail);

/* slot = sequence mod slots. */
uint32_t rt_edge_slot(const rt_edge_layout *layout, uint64_t sequence);
/* Offset of a slot's payload from the start of the slots. */
uint64_t rt_edge_slot_offset(const rt_edge_layout *layout, uint32_t slot);
/* Offset of a flag line: from the start of the flag lines, or of the slots with a tail. */
uint64_t rt_edge_line_offset(const rt_edge_layout *layout, uint32_t slot, uint32_t stripe);
/* The bytes [*from_out, *from_out + result) of a payload of `size` bytes that this stripe carries; 0 bytes for an empty one. */
uint64_t rt_edge_stripe(const rt_edge_layout *layout, uint64_t size, uint32_t stripe, uint64_t *from_out);

#endif
