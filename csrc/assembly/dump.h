/* dump.h: reports of a device. */
#ifndef RT_ASSEMBLY_DUMP_H
#define RT_ASSEMBLY_DUMP_H

#include "rdmatensor.h"

typedef struct rt_limits rt_limits;

void rt_limits_public(const rt_limits *from, rt_device_limits *out);

#endif
