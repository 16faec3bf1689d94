/* admit.h: answers to requests of the peer's. device->lock held. */
#ifndef RT_EDGE_ADMIT_H
#define RT_EDGE_ADMIT_H

#include <stdbool.h>

#include "edge/attend.h"
#include "rdmatensor.h"

/* Answers a request of the peer; true when it was answered. */
bool rt_edge_answer(rt_channel *channel, rt_edge_request *request);
void rt_edge_requests_end(rt_edges *edges);

#endif
