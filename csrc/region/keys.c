/* keys.c: keys for one peer, of regions with RT_RIGHT_PER_PEER_KEYS. The provider makes them for
 * the links of a channel and ends them with those links or with the memory. They are kept here, so
 * that a channel that asks again gets the same one, and so that a handle is recognised in the
 * process it came from. Every function has device->lock held. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "device/device.h"
#include "device/devices.h"
#include "proto/handle.h"
#include "region/keys.h"
#include "region/region.h"

typedef struct rt_peer_key {
    rt_list node; /* in its region's peer_keys */
    const rt_channel *channel;
    size_t size;
    uint8_t bytes[RT_MEMORY_KEY_SIZE_MAX];
} rt_peer_key;

static void key_forget(rt_peer_key *key)
{
    rt_list_remove(&key->node);
    explicit_bzero(key->bytes, sizeof key->bytes);
    free(key);
}

static rt_peer_key *peer_key_find(const rt_region *region, const rt_channel *channel)
{
    RT_LIST_EACH(node, &region->peer_keys) {
        rt_peer_key *key = RT_LIST_ENTRY(node, rt_peer_key, node);
        if (key->channel == channel)
            return key;
    }
    return NULL;
}

int rt_key_for(rt_region *region, const rt_channel *channel, rt_plink *const *links, uint32_t link_count, uint8_t *key_out,
               uint8_t *size_out, rt_detail *detail)
{
    const rt_device *device = region->device;
    rt_peer_key *key = peer_key_find(region, channel);
    if (key == NULL) {
        key = calloc(1, sizeof *key);
        if (key == NULL)
            return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the key of a peer");
        int status =
            device->provider->memory_key(device->pdevice, region->memory, links, link_count, key->bytes, &key->size, detail);
        if (status != RT_OK) {
            free(key);
            return status;
        }
        assert(key->size <= sizeof key->bytes);
        key->channel = channel;
        rt_list_append(&region->peer_keys, &key->node);
    }
    memcpy(key_out, key->bytes, key->size);
    *size_out = (uint8_t)key->size;
    return RT_OK;
}

/* Whether the key of a handle is one that the region gave to a peer. */
static bool keys_include(const rt_region *region, const rt_handle *handle)
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
        key_forget(RT_LIST_ENTRY(node, rt_peer_key, node));
}

void rt_keys_forget_channel(const rt_device *device, const rt_channel *channel)
{
    RT_LIST_EACH(node, &device->regions) {
        rt_peer_key *key = peer_key_find(RT_LIST_ENTRY(node, rt_region, node), channel);
        if (key != NULL)
            key_forget(key);
    }
}

/* ---- the memory that a handle leads to ---- */

typedef struct rt_alias {
    const rt_handle *handle;
    uint64_t address;
} rt_alias;

static bool handle_leads_to(const rt_handle *handle, const rt_region *region)
{
    const rt_device *device = region->device;
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    size_t size = 0;
    bool own = (region->rights & RT_RIGHT_PER_PEER_KEYS) == 0 &&
               device->provider->memory_key(device->pdevice, region->memory, NULL, 0, key, &size, NULL) == RT_OK &&
               size == handle->key_size && memcmp(key, handle->key, size) == 0;
    return own || keys_include(region, handle);
}

static void alias_seek(rt_device *device, void *argument)
{
    rt_alias *alias = argument;
    if (memcmp(device->id, alias->handle->device_id, sizeof device->id) != 0)
        return;
    pthread_mutex_lock(&device->lock);
    RT_LIST_EACH(node, &device->regions) {
        const rt_region *region = RT_LIST_ENTRY(node, rt_region, node);
        if (handle_leads_to(alias->handle, region))
            alias->address = (uint64_t)(uintptr_t)region->address;
    }
    pthread_mutex_unlock(&device->lock);
}

uint64_t rt_device_alias(const rt_handle *handle)
{
    rt_alias alias = {.handle = handle};
    rt_devices_each(alias_seek, &alias);
    return alias.address;
}
