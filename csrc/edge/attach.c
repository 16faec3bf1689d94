/* attach.c: attaches memory that the other end of an edge gives for it: the receiver's slots and flag lines, the sender's
 * credit line and the regions of its tensors. */
#include "edge/attach.h"
#include "channel/channel.h"
#include "channel/remote.h"
#include "device/device.h"

int rt_edge_attach(const rt_edge *edge, rt_channel *channel, const rt_edge_need *need, int64_t end_ns, rt_remote **remote,
                   rt_detail *detail)
{
    const rt_edge_bytes *handle = need->handle;
    if (need->size == 0 || *remote != NULL)
        return RT_OK;
    int64_t left = end_ns == RT_EDGE_LOCKED ? 0 : end_ns - rt_device_time(channel->device);
    int status = end_ns == RT_EDGE_LOCKED
                     ? rt_remote_attach_now(channel, handle->bytes, handle->size, remote, detail)
                     : rt_remote_attach(channel, handle->bytes, handle->size, left > 0 ? left : 0, remote, detail);
    if (status == RT_OK && ((*remote)->size < need->size || ((*remote)->rights & need->right) == 0))
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "the peer's handle does not reach what edge \"%s\" needs: %llu bytes and the right 0x%x", edge->name,
                       (unsigned long long)need->size, need->right);
    return status;
}
