/* handler.h: the functions by which the RPC calls edges. */
#ifndef RT_EDGE_HANDLER_H
#define RT_EDGE_HANDLER_H

#include "rpc/handler.h"

/* handler.c */
extern const rt_rpc_handler rt_edges_handler;

#endif
