/* loan.h: memory of a region that peers may read in place while a call goes on. */
#ifndef RT_REGION_LOAN_H
#define RT_REGION_LOAN_H

#include "proto/limits.h"
#include "region/region.h"

/* A range of a region with remote read, and the handle by which a peer reaches the region. All
 * zero: nothing is lent. */
typedef struct rt_loan {
    rt_region *region;
    uint64_t offset; /* of the range in the region */
    size_t handle_size;
    uint8_t handle[RT_HANDLE_SIZE_MAX]; /* of the whole region, so that it is the same for all ranges in it */
} rt_loan;

/* False when no open region of the device that peers may read holds the range, or the region gives
 * each peer a key of its own. Until rt_loan_end the region cannot be closed (RT_E_BUSY), and its
 * memory stays. */
bool rt_loan_begin(rt_device *device, const void *address, uint64_t size, rt_loan *loan_out);
/* As rt_loan_begin, for this process's own use of a range of any region: there is no handle. */
bool rt_loan_hold(rt_device *device, const void *address, uint64_t size, rt_loan *loan_out);
/* A second call is harmless. */
void rt_loan_end(rt_loan *loan);

#endif
