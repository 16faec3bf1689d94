/* immediate.h: immediates that serve as flags of tensors. */
#ifndef RT_EDGE_IMMEDIATE_H
#define RT_EDGE_IMMEDIATE_H

#include <stdint.h>

#include "base/status.h"

typedef struct rt_link rt_link;

/* Takes an immediate that came on this link: stores the flag that it stands for. */
int rt_edge_immediate(rt_link *link, uint32_t immediate, rt_detail *detail);

#endif
