/* keys.c: keys for one peer, of regions with RT_RIGHT_PER_PEER_KEYS. The provider makes them for the links of a channel and ends them
 * with those links or with the memory; here they are kept, so that a channel that asks again gets the same one, and so
 * that a handle is known again in the process it came from. Everything has device->lock held. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"

typedef struct rt_peer_key {
    rt_list node; /* in its region's peer_keys */
    const rt_channel *channel;
    size_t size;
    uint8_t bytes[RT_MEMORY_KEY_SIZE_MAX];
} rt_peer_key;

static void forget(rt_peer_key *key)
{
    rt_list_remove(&key->node);
    explicit_bzero(key->bytes, sizeof key->bytes);
    free(key);
}

static rt_peer_key *find(const rt_region *region, const rt_channel *channel)
{
    RT_LIST_EACH(node, &region->peer_keys) {
        rt_peer_key *key = RT_LIST_ENTRY(node, rt_peer_key, node);
        if (key->channel == channel)
            return key;
    }
    return NULL;
}

static int make(rt_region *region, const rt_channel *channel, rt_peer_key **key_out, rt_detail *detail)
{
    const rt_device *device = region->device;
    rt_plink *links[RT_MEMORY_KEY_LINKS_MAX];
    assert(channel->link_count <= RT_MEMORY_KEY_LINKS_MAX); /* the device has no larger ones, or the region would not be */
    for (uint32_t index = 0; index < channel->link_count; index++)
        links[index] = channel->links[index].plink;
    rt_peer_key *key = calloc(1, sizeof *key);
    if (key == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a key of %s", channel->peer);
    int status =
        device->provider->memory_key(device->pdevice, region->memory, links, channel->link_count, key->bytes, &key->size, detail);
    if (status != RT_OK) {
        free(key);
        return status;
    }
    assert(key->size <= sizeof key->bytes);
    key->channel = channel;
    rt_list_append(&region->peer_keys, &key->node);
    *key_out = key;
    return RT_OK;
}

int rt_region_handle_for(rt_region *region, uint64_t offset, uint64_t size, rt_channel *channel, uint8_t *handle_out,
                         size_t *size_out, rt_detail *detail)
{
    rt_handle handle;
    assert((region->rights & RT_RIGHT_PER_PEER_KEYS) != 0);
    int status = rt_region_describe(region, offset, size, &handle, detail);
    if (status != RT_OK)
        return status;
    rt_peer_key *key = find(region, channel);
    if (key == NULL)
        status = make(region, channel, &key, detail);
    if (status != RT_OK)
        return status;
    handle.key_size = (uint8_t)key->size;
    memcpy(handle.key, key->bytes, key->size);
    int64_t encoded = rt_handle_encode(&handle, handle_out, RT_HANDLE_SIZE_MAX);
    explicit_bzero(&handle, sizeof handle);
    assert(encoded > 0);
    *size_out = (size_t)encoded;
    return RT_OK;
}

bool rt_keys_include(const rt_region *region, const rt_handle *handle)
{
    RT_LIST_EACH(node, &region->peer_keys) {
        const rt_peer_key *key = RT_LIST_ENTRY(node, rt_peer_key, node);
        if (key->size == handle->key_size && memcmp(key->bytes, handle->key, key->size) == 0)
            return true;
    }
    return false;
}

void rt_keys_forget_region(rt_region *region)
{
    RT_LIST_EACH_SAFE(node, &region->peer_keys)
        forget(RT_LIST_ENTRY(node, rt_peer_key, node));
}

void rt_keys_forget_channel(const rt_channel *channel)
{
    RT_LIST_EACH(node, &channel->device->regions) {
        rt_peer_key *key = find(RT_LIST_ENTRY(node, rt_region, node), channel);
        if (key != NULL)
            forget(key);
    }
}
