/* many.c: many tensors over many edges in one call: sends of one link share doorbells, receives
 * share the wait. */
#include "device/device.h"
#include "device/fork.h"
#include "edge/edge.h"
#include "edge/post.h"
#include "edge/send.h"

int64_t rt_edges_send_many(rt_edge_sending *sends, uint64_t count, int64_t timeout_ns, int32_t *status_out)
{
    rt_edge_together together = {.count = 0};
    int64_t done = 0, result = rt_forked() ? RT_E_FORKED : RT_OK;
    bool under_way = false;
    int64_t end_ns =
        count == 0 || result != RT_OK ? 0 : rt_device_slice_end(((rt_edge *)(uintptr_t)sends[0].edge)->device, timeout_ns);
    for (uint64_t index = 0; index < count && result >= 0; index++) {
        result = rt_edge_send_one(&sends[index], end_ns, &together);
        sends[index].result = result;
        done += result >= 0;
        const rt_edge *edge = (const rt_edge *)(uintptr_t)sends[index].edge;
        under_way |= result > 0 && edge->terms.edge_kind == RT_EDGE_STATIC && edge->device->limits.completes_in_post;
    }
    rt_edge_together_flush(&together);
    *status_out = result < 0 ? (int32_t)result : under_way ? RT_E_AGAIN : RT_OK;
    return done;
}

int64_t rt_edges_receive_many(rt_edge *const *edges, uint64_t count, int64_t timeout_ns, rt_edge_arrival *arrivals_out,
                              int32_t *status_out)
{
    *status_out = rt_forked() ? RT_E_FORKED : RT_OK;
    if (*status_out != RT_OK)
        return 0;
    int64_t end_ns = count == 0 ? 0 : rt_device_slice_end(edges[0]->device, timeout_ns);
    for (uint64_t index = 0; index < count; index++) {
        int status = rt_edge_receive(edges[index], 0, &arrivals_out[index]);
        if (status == RT_E_AGAIN) {
            int64_t left = end_ns - rt_device_time(edges[index]->device);
            status = rt_edge_receive(edges[index], left > 0 ? left : 0, &arrivals_out[index]);
        }
        if (status != RT_OK) {
            *status_out = status;
            return (int64_t)index;
        }
    }
    return (int64_t)count;
}
