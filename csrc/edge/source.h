/* source.h: the memory of a tensor that is sent; strides. */
#ifndef RT_EDGE_SOURCE_H
#define RT_EDGE_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "edge/edge.h"
#include "rdmatensor.h"

/* The open region of the device that holds these bytes, referenced by edge->source; NULL: none.
 * edge->turn held on entry and on return; *left_out tells whether it was left in between. */
rt_region *rt_edge_region_of(rt_edge *edge, uint64_t address, uint64_t size, bool *left_out);

/* Copies a tensor's bytes [from, from + size) in row-major order to `to`. */
void rt_edge_gather(const rt_edge_tensor *tensor, uint64_t item_size, uint64_t from, uint64_t size, uint8_t *to);
/* The number of contiguous runs that a tensor consists of, and the size of each; 1 run for a
 * contiguous one. */
uint64_t rt_edge_runs(const rt_edge_tensor *tensor, uint64_t item_size, uint64_t *run_size_out);
/* The address of run `index`. */
uint64_t rt_edge_run_address(const rt_edge_tensor *tensor, uint64_t item_size, uint64_t run_size, uint64_t index);
/* Lowest address and span of all bytes of a tensor; false when it is empty or wraps. */
bool rt_edge_span(const rt_edge_tensor *tensor, uint64_t item_size, uint64_t *address_out, uint64_t *size_out);
/* Fills in contiguous strides where there are none; RT_E_INVALID with the detail for a tensor that
 * does not fit the edge. */
int rt_edge_check_tensor(const rt_edge *edge, const rt_edge_tensor *tensor, uint64_t *size_out, rt_detail *detail);

#endif
