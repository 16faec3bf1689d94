/* join.c: from the peer's offer to a ready channel: creates the acceptor's channel, makes offers,
 * joins links, posts the receives of the RPC. All of it with device->lock held and without waiting:
 * a step that cannot be done now is tried again after the provider's next event. */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "channel/channel.h"
#include "channel/link.h"
#include "control/connection.h"
#include "device/device.h"
#include "rpc/carrier.h"

static void self_describe(const rt_device *device, char *text_out, size_t capacity)
{
    char host[48] = "";
    if (device->limits.virtual_time) { /* the same in every run, so that a seed repeats */
        snprintf(text_out, capacity, "simulated %.36s", device->pdevice->name);
        return;
    }
    if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0')
        snprintf(host, sizeof host, "host");
    snprintf(text_out, capacity, "%.40s pid %d %.36s", host, (int)getpid(), device->pdevice->name);
}

static void offer_fill(const rt_channel *channel, rt_offer *offer)
{
    const rt_device *device = channel->device;
    memset(offer, 0, sizeof *offer);
    snprintf(offer->provider, sizeof offer->provider, "%s", device->provider->name);
    memcpy(offer->device_id, device->id, sizeof offer->device_id);
    self_describe(device, offer->description, sizeof offer->description);
    offer->link_count = channel->link_count;
    for (uint32_t index = 0; index < channel->link_count; index++) {
        offer->address_sizes[index] = channel->link_address_sizes[index];
        memcpy(offer->addresses[index], channel->link_addresses[index], channel->link_address_sizes[index]);
    }
}

/* Creates the acceptor's channel, once its peer has authenticated itself and offered links. */
static int channel_create(rt_control *control, rt_detail *detail)
{
    rt_device *device = control->device;
    uint32_t offered = control->handshake.peer_offer.link_count;
    uint32_t count = offered < device->links_per_peer ? offered : device->links_per_peer;
    int admitted = control->owner == NULL ? RT_OK : control->owner->admits(control->listener, detail);
    if (admitted != RT_OK)
        return admitted;
    int status = rt_channel_create(device, count, control->secret, &control->channel, detail);
    if (status == RT_OK)
        control->channel->control = control;
    return status;
}

static int offer_make(rt_control *control, rt_detail *detail)
{
    rt_offer offer;
    int status = control->channel != NULL ? RT_OK : channel_create(control, detail);
    if (status != RT_OK)
        return status;
    offer_fill(control->channel, &offer);
    status = rt_handshake_offer(&control->handshake, &offer);
    assert(status != RT_E_INVALID);
    return status == RT_OK ? RT_OK : rt_detail_pass(detail, &control->handshake.failure);
}

/* Copies the peer's identity from its offer into the channel. */
static void peer_learn(rt_control *control)
{
    rt_channel *channel = control->channel;
    const rt_offer *offer = &control->handshake.peer_offer;
    control->told = true;
    memcpy(channel->peer_id, offer->device_id, sizeof channel->peer_id);
    if (offer->description[0] != '\0')
        memcpy(channel->peer, offer->description, sizeof channel->peer);
    if (offer->link_count < channel->link_count)
        rt_links_destroy(channel, offer->link_count);
}

static int links_join(rt_control *control, bool *moved_out, rt_detail *detail)
{
    const rt_channel *channel = control->channel;
    const rt_offer *offer = &control->handshake.peer_offer;
    while (control->joined < channel->link_count) {
        uint32_t index = control->joined;
        int status = control->device->provider->link_connect(channel->links[index].plink, offer->addresses[index],
                                                             offer->address_sizes[index], detail);
        if (status != RT_OK)
            return status;
        control->joined++;
        *moved_out = true;
    }
    return RT_OK;
}

int rt_control_join(rt_control *control, bool *moved_out, rt_detail *detail)
{
    rt_handshake *handshake = &control->handshake;
    if (rt_handshake_wants_offer(handshake)) {
        int status = offer_make(control, detail);
        if (status != RT_OK)
            return status;
        *moved_out = true;
    }
    rt_channel *channel = control->channel;
    if (handshake->state == RT_HS_JOIN && !handshake->ready_sent) {
        if (!control->told)
            peer_learn(control);
        int status = links_join(control, moved_out, detail);
        if (status == RT_OK && channel->rpc == NULL)
            status = rt_rpc_open(channel, detail);
        if (status != RT_OK)
            return status == RT_E_AGAIN ? RT_OK : status;
        status = rt_handshake_joined(handshake);
        assert(status == RT_OK);
        *moved_out = true;
    }
    if (handshake->state == RT_HS_READY && control->deadline_ns != INT64_MAX) {
        control->deadline_ns = INT64_MAX;
        rt_channel_ready(channel);
        rt_device_changed(control->device);
        *moved_out = true;
    }
    return RT_OK;
}
