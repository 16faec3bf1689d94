/* ask.h: requests of this end's. device->lock held. */
#ifndef RT_EDGE_ASK_H
#define RT_EDGE_ASK_H

#include "edge/edge.h"

typedef struct rt_edge_message rt_edge_message;

/* Queues the edge's request, which is already made: it is sent after those before it. */
void rt_edge_want_answer(rt_edge *edge);
/* Begins a request of the edge's (ADD_KEY). RT_E_BUSY: another is outstanding. */
int rt_edge_ask(rt_edge *edge, const rt_edge_message *message);

/* An edge was made or closed: checks the requests that wait for names again. */
void rt_edges_changed(rt_device *device);

#endif
