/* word.c: words of memory that a peer writes: checking them, and waiting for them. */
#include "base/waiter.h"
#include "channel/channel.h"
#include "channel/wait.h"
#include "device/device.h"
#include "device/fork.h"
#include "region/region.h"

static bool word_came(const uint64_t *word, uint64_t value)
{
    return (int64_t)(rt_load_acquire_u64(word) - value) >= 0;
}

typedef struct rt_awaited_word {
    rt_channel *channel;
    const uint64_t *word;
    uint64_t value;
} rt_awaited_word;

static int word_look(void *object)
{
    const rt_awaited_word *wait = object;
    rt_channel *channel = wait->channel;
    if (word_came(wait->word, wait->value))
        return RT_OK;
    atomic_store_explicit(&channel->word_expected, wait->value, memory_order_relaxed);
    atomic_store_explicit(&channel->word_seen, rt_load_acquire_u64(wait->word), memory_order_relaxed);
    if (atomic_load_explicit(&channel->state, memory_order_acquire) == RT_CHANNEL_READY)
        return RT_E_AGAIN;
    return word_came(wait->word, wait->value) ? RT_OK : rt_channel_refuse(channel, NULL);
}

/* Gives the word at this place of a region, or the status that says why there is none. */
static int word_of(const rt_region *region, uint64_t region_offset, const uint64_t **word_out)
{
    if (region_offset % sizeof(uint64_t) != 0)
        return RT_E_INVALID;
    if (region->size < sizeof(uint64_t) || region_offset > region->size - sizeof(uint64_t))
        return RT_E_BOUNDS;
    if (((uintptr_t)region->address + region_offset) % sizeof(uint64_t) != 0)
        return RT_E_INVALID; /* adopted memory that begins somewhere in a word */
    *word_out = (const uint64_t *)(const void *)(region->address + region_offset);
    return RT_OK;
}

int rt_channel_look_for_word(rt_channel *channel, rt_region *region, uint64_t region_offset, uint64_t value, uint32_t looks)
{
    const uint64_t *word = NULL;
    if (rt_forked() || word_of(region, region_offset, &word) != RT_OK)
        return RT_E_AGAIN;
    if (looks == 0)
        return RT_E_AGAIN;
    looks = rt_wait_mode_checks(&channel->device->wait, looks);
    uint32_t helps = RT_HELPS_AT_ONCE;
    do {
        if (word_came(word, value))
            return RT_OK;
    } while (rt_wait_help_briefly(channel->device, &helps) || rt_spin_again(&looks));
    return RT_E_AGAIN;
}

int rt_channel_wait_word(rt_channel *channel, rt_region *region, uint64_t region_offset, uint64_t value, int64_t timeout_ns)
{
    if (rt_forked())
        return RT_E_FORKED;
    const uint64_t *word = NULL;
    int bad = word_of(region, region_offset, &word);
    if (bad != RT_OK)
        return bad;
    if (word_came(word, value))
        return RT_OK;
    if (region->device != channel->device) /* no peer would place the word, or no channel would report it */
        return region->device == NULL ? RT_E_CLOSED : RT_E_INVALID;
    atomic_fetch_add(&channel->word_waiters, 1); /* before the state is checked: a channel that ends waits for us */
    rt_awaited_word wait = {channel, word, value};
    int status = rt_channel_state(channel) != RT_CHANNEL_READY
                     ? rt_channel_refuse(channel, NULL)
                     : rt_wait_memory(channel->device, word_look, &wait, rt_device_slice_end(channel->device, timeout_ns));
    atomic_fetch_sub(&channel->word_waiters, 1);
    return status;
}
