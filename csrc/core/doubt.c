/* doubt.c: an operation that the peer's end refused. Either it asked for what it has no right to, or the peer is dying: a process that
 * ends loses its memory before its queue pairs, so that what it would have allowed is refused, and its control connection ends a
 * moment earlier or later.
 *
 * So a refusal does not fail the channel at once. Its operation, and those that fail after it on the same link, are held until it
 * is sure what it means: the control connection ends without a goodbye, and the peer is lost; or the peer says a word, which the
 * dead do not, and the refusal stands. A peer of ours does, since its link failed too. One that is silent (another
 * implementation, a stopped process) is taken for alive after RT_DOUBT_NS. Simulated peers die all at once: no doubt there.
 *
 * The peer's word may also come before the completion that it is about. Shutting a link turns what has not completed into
 * flushes, so a channel that fails by its peer's word lets its completions come first. */
#include "core/copy.h"

#define RT_DOUBT_NS (500 * RT_NS_PER_MS)

bool rt_channel_refused(const rt_channel *channel)
{
    /* pairs with the release in rt_channel_doubt: `refusal` is visible */
    return atomic_load_explicit(&channel->doubt, memory_order_acquire) == RT_DOUBT_OPEN && !atomic_load(&channel->died);
}

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
    rt_control_last_words(channel);
    if (rt_channel_state(channel) == RT_CHANNEL_READY)
        rt_service_kick(channel->device); /* it sees to the deadline */
    else
        rt_links_fail_starved(channel, RT_E_FLUSHED); /* it failed before something was held */
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

int32_t rt_doubt_status(const rt_channel *channel, int32_t status)
{
    return status == RT_E_REMOTE_ACCESS && atomic_load(&channel->died) ? RT_E_PEER_LOST : status;
}

bool rt_doubt_hold(rt_link *link, rt_op *op)
{
    const rt_channel *channel = link->channel;
    if (op->status == RT_OK || channel->device->limits.virtual_time || rt_channel_state(channel) != RT_CHANNEL_READY)
        return false;
    link->doubted = link->doubted || op->status == RT_E_REMOTE_ACCESS;
    if (link->doubted)
        rt_list_append(&link->doubted_ops, &op->node);
    return link->doubted;
}

void rt_doubt_release(rt_link *link)
{
    RT_LIST_EACH_SAFE(node, &link->doubted_ops) {
        rt_op *op = RT_LIST_ENTRY(node, rt_op, node);
        rt_list_remove(node);
        op->status = rt_doubt_status(link->channel, op->status);
        rt_op_end(link, op);
    }
    link->doubted = false;
}
