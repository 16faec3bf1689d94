/* round.h: one round over everything that the control plane has to do. */
#ifndef RT_ASSEMBLY_ROUND_H
#define RT_ASSEMBLY_ROUND_H

#include <stdbool.h>

#include "rdmatensor.h"

/* Runs one round. True when something moved. Takes device->lock; sets service->due_ns. */
bool rt_round_run(rt_device *device);
/* True when the provider will announce the next receive; false when one came meanwhile (RDMA-RULES
 * 24). Takes device->lock. */
bool rt_round_arm(rt_device *device);

#endif
