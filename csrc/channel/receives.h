/* receives.h: RECVs of a link beside those of the RPC, for immediates. device->lock held. */
#ifndef RT_CHANNEL_RECEIVES_H
#define RT_CHANNEL_RECEIVES_H

#include <stdint.h>

#include "channel/link.h"

/* Ensures that `count` more are posted on a link. RT_E_BUSY: its receive side is too small. */
int rt_receives_reserve(rt_link *link, uint32_t count, rt_detail *detail);
void rt_receives_unreserve(rt_link *link, uint32_t count);
uint32_t rt_receives_count(const rt_link *link);
uint32_t rt_receives_outstanding(const rt_link *link);
rt_segment rt_receives_slot(const rt_link *link, uint32_t index);
int rt_receives_post(rt_link *link, uint32_t index, rt_detail *detail);
void rt_receives_flushed(rt_link *link);
void rt_receives_free(rt_link *link); /* nothing is with the provider any more */

#endif
