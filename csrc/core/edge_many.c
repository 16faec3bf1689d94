/* edge_many.c: many sends over many edges in one call: those of one link share doorbells. Receives: edge_receive.c. */
#include "core/edge.h"

int64_t rt_edges_send_many(const rt_edge_sending *sends, uint64_t count, int64_t timeout_ns, int32_t *status_out)
{
    rt_edge_together together = {.count = 0};
    int64_t done = 0, result = RT_OK;
    int64_t end_ns = count == 0 ? 0 : rt_edge_slice_end(((rt_edge *)(uintptr_t)sends[0].edge)->device, timeout_ns);
    for (uint64_t index = 0; index < count && result >= 0; index++) {
        result = rt_edge_send_one(&sends[index], end_ns, &together);
        done += result >= 0;
    }
    rt_edge_together_flush(&together);
    *status_out = result < 0 ? (int32_t)result : RT_OK;
    return done;
}
