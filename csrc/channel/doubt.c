/* doubt.c: an operation that the peer's end refused. Either the operation lacked a right, or the
 * peer is dying: a process that ends loses its memory before its queue pairs, so that operations it
 * would have allowed are refused, and its control connection ends a moment earlier or later.
 *
 * So a refusal does not fail the channel at once. Its operation, and those that fail after it on
 * the same link, are held until the cause is certain: either the control connection ends without a
 * BYE, and the peer is lost; or the peer sends a message, which a dead process cannot, and the
 * refusal stands. A peer that runs this library sends one, since its link failed too. A silent peer
 * (another implementation, a stopped process) is taken to be alive after RT_DOUBT_NS. Simulated
 * peers die all at once, so no doubt arises for them.
 *
 * The peer's message may also come before the completion that it concerns. Shutting a link turns
 * items that have not completed into flushes, so a channel that fails because of its peer's message
 * lets its completions arrive first. */
#include "channel/doubt.h"
#include "channel/channel.h"
#include "channel/link.h"
#include "device/device.h"
#include "device/service.h"

#define RT_DOUBT_NS (500 * RT_NS_PER_MS)

void rt_channel_doubt(rt_channel *channel, const rt_detail *refusal)
{
    uint32_t none = RT_DOUBT_NONE;
    if (atomic_compare_exchange_strong(&channel->doubt, &none, RT_DOUBT_WRITING)) {
        channel->refusal = *refusal;
        channel->doubt_end_ns = rt_device_time(channel->device) + RT_DOUBT_NS;
        atomic_store_explicit(&channel->doubt, RT_DOUBT_OPEN, memory_order_release);
    }
    if (channel->device->limits.virtual_time) {
        rt_channel_fail(channel, refusal);
        return;
    }
    channel->device->upcalls->hear_peer(channel);
    if (rt_channel_state(channel) == RT_CHANNEL_READY)
        rt_service_kick(channel->device); /* the service watches the deadline */
    else
        rt_links_fail_starved(channel, RT_E_FLUSHED); /* the channel failed before an operation was held */
}

bool rt_channel_settled(rt_channel *channel)
{
    const rt_device *device = channel->device;
    int32_t status = channel->failure.status;
    bool by_peer = (status == RT_E_PEER_LOST || status == RT_E_PEER_CLOSED) && !atomic_load(&channel->died);
    if (!by_peer || device->limits.virtual_time || rt_links_quiet(channel))
        return true;
    if (channel->settling_ns == 0)
        channel->settling_ns = rt_device_time(device) + RT_SETTLE_NS;
    return rt_device_time(device) >= channel->settling_ns;
}

int64_t rt_doubt_deadline(const rt_channel *channel)
{
    bool open = atomic_load_explicit(&channel->doubt, memory_order_acquire) == RT_DOUBT_OPEN;
    return open && rt_channel_state(channel) == RT_CHANNEL_READY ? channel->doubt_end_ns : INT64_MAX;
}

void rt_doubt_run(rt_channel *channel)
{
    if (rt_device_time(channel->device) >= rt_doubt_deadline(channel))
        rt_channel_fail(channel, &channel->refusal);
}
