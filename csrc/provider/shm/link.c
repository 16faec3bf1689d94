/* link.c: link ends: creating one with its ring, joining it to the peer's, shutting, destroying,
 * describing. Posting and polling are in post.c and poll.c; the messages to the peer's device in
 * peer.c.
 *
 * A link end is CREATED, then JOINED when the peer's ring is mapped, then in ERROR for ever: by
 * link_shut, by an item that failed, or by a peer that wrote invalid numbers into the ring. Either
 * end writes "shut" into its ring when it enters ERROR, which the other end's next post finds. If
 * the peer had begun a copy before that, it still finishes it: one item at most, because every item
 * checks before it starts. */
#include "base/order.h"
#include "provider/shm/shm.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/random.h"

/* A free place in the device's table, or SHM_LINKS_MAX. */
static uint32_t index_find_free(const shm_device *device)
{
    uint32_t index = 0;
    while (index < SHM_LINKS_MAX && atomic_load_explicit(&device->links[index], memory_order_relaxed) != NULL)
        index++;
    return index;
}

/* The ring that the peer will fill. */
static int ring_open(shm_link *link, rt_detail *detail)
{
    void *address;
    uint64_t mapped_size;
    int status = shm_memfd_create("rdmatensor ring", sizeof(shm_ring), &link->ring_descriptor, detail);
    if (status != RT_OK)
        return status;
    status = shm_map(link->ring_descriptor, sizeof(shm_ring), true, &address, &mapped_size, detail);
    if (status != RT_OK) {
        close(link->ring_descriptor);
        return status;
    }
    link->in = address;
    return RT_OK;
}

int shm_link_create(rt_pdevice *pdevice, uint32_t send_queue, uint32_t receive_queue, rt_plink **link_out, uint8_t *address_out,
                    size_t *address_size_out, rt_detail *detail)
{
    shm_device *device = shm_device_of(pdevice);
    assert(send_queue < device->queue_count && receive_queue < device->queue_count);
    uint32_t index = index_find_free(device);
    if (index == SHM_LINKS_MAX)
        return rt_fail(detail, RT_E_BUSY, 0, "cannot create a link: all %d of this shm device are in use; close channels",
                       SHM_LINKS_MAX);
    shm_link *link = aligned_alloc(64, (sizeof *link + 63) / 64 * 64);
    if (link == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a link");
    memset(link, 0, sizeof *link);
    link->base = (rt_plink){.device = pdevice, .send_queue = send_queue, .receive_queue = receive_queue};
    link->index = index;
    link->queue_bell = -1;
    int status = rt_random(link->token, sizeof link->token, detail);
    if (status == RT_OK)
        status = ring_open(link, detail);
    if (status != RT_OK) {
        free(link);
        return status;
    }
    atomic_store_explicit(&device->links[index], link, memory_order_release); /* pairs with poll.c */
    if (index >= atomic_load_explicit(&device->link_high, memory_order_relaxed))
        atomic_store_explicit(&device->link_high, index + 1, memory_order_release);
    atomic_fetch_add_explicit(&device->queues[receive_queue].receivers, 1, memory_order_release);
    address_out[0] = SHM_VERSION;
    memcpy(address_out + 1, device->name, SHM_TOKEN_SIZE);
    memcpy(address_out + 1 + SHM_TOKEN_SIZE, link->token, SHM_TOKEN_SIZE);
    *address_size_out = SHM_ADDRESS_SIZE;
    *link_out = &link->base;
    return RT_OK;
}

int shm_link_connect(rt_plink *plink, const uint8_t *peer_address, size_t size, rt_detail *detail)
{
    shm_link *link = shm_link_of(plink);
    if (size != SHM_ADDRESS_SIZE || peer_address[0] != SHM_VERSION)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "cannot join a link: %zu bytes are not an address of shm version %d", size,
                       SHM_VERSION);
    if (link->asked && memcmp(link->peer_address, peer_address, SHM_ADDRESS_SIZE) != 0)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot join a link to another peer: it is being joined already");
    if (!link->asked) {
        int status = shm_peer_find(shm_device_of(plink->device), peer_address + 1, plink->any_user, &link->peer, detail);
        if (status != RT_OK)
            return status;
        memcpy(link->peer_address, peer_address, SHM_ADDRESS_SIZE);
        link->progress = SHM_ASKED;
        status =
            shm_peer_ask(link->peer, SHM_REQUEST_LINK, peer_address + 1 + SHM_TOKEN_SIZE, link, NULL, &link->request, detail);
        if (status != RT_OK) {
            shm_peer_unreference(link->peer);
            link->peer = NULL;
            return status;
        }
        link->asked = true;
    }
    switch (link->progress) {
    case SHM_ASKED: return rt_fail(detail, RT_E_AGAIN, 0, "the shm peer was asked for its link end and has not answered yet");
    case SHM_GRANTED: return RT_OK;
    case SHM_FAILED: break;
    }
    rt_detail_pass(detail, &link->failure);
    return link->failure.status;
}

/* Maps the parts of the peer's link end. */
static int link_join(shm_link *link, const shm_reply *reply, int *descriptors, rt_detail *detail)
{
    void *ring;
    uint64_t mapped_size;
    if (reply->value >= SHM_QUEUES_MAX || reply->index >= SHM_LINKS_MAX)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "it names queue %u and link %u", reply->value, reply->index);
    int status = shm_peer_adopt(link->peer, &descriptors[1], &descriptors[2], &descriptors[3], detail);
    if (status != RT_OK)
        return status;
    status = shm_map(descriptors[0], sizeof(shm_ring), true, &ring, &mapped_size, detail);
    if (status != RT_OK)
        return status;
    link->out = ring;
    link->out_queue = reply->value;
    link->out_index = reply->index;
    link->board = link->peer->board;
    link->doorbell = link->peer->doorbell;
    link->memory_bell = link->peer->memory_bell;
    link->queue_bell = descriptors[4];
    descriptors[4] = -1;
    /* A peer that announced a sleep or armed before may still wait: one count less makes the first
     * post wake it and ring. */
    uint32_t armed = atomic_load_explicit(&link->board->armed, memory_order_relaxed);
    uint32_t queue_armed = atomic_load_explicit(&link->board->queue_armed[link->out_queue], memory_order_relaxed);
    link->woken = (uint32_t)(atomic_load_explicit(&link->board->sleepers, memory_order_relaxed) >> 32) - 1;
    link->rung = armed - (armed != 0);
    link->queue_rung = queue_armed - (queue_armed != 0);
    return RT_OK;
}

void shm_link_granted(shm_link *link, const shm_reply *reply, int *descriptors)
{
    rt_detail why;
    link->request = NULL;
    int status = link_join(link, reply, descriptors, &why);
    if (status != RT_OK) {
        link->progress = SHM_FAILED;
        rt_fail(&link->failure, status == RT_E_INVALID ? RT_E_PROTOCOL : status, 0, "cannot join the shm peer's link end: %s",
                why.text);
        return;
    }
    link->progress = SHM_GRANTED;
    uint32_t created = SHM_LINK_CREATED; /* unless it was shut meanwhile */
    atomic_compare_exchange_strong_explicit(&link->state, &created, SHM_LINK_JOINED, memory_order_release, memory_order_relaxed);
}

void shm_link_shut(rt_plink *plink)
{
    shm_link *link = shm_link_of(plink);
    shm_device *device = shm_device_of(plink->device);
    shm_link_fail(link, SHM_FLUSHED);
    if (link->ring_descriptor >= 0) { /* no peer joins it any more */
        close(link->ring_descriptor);
        link->ring_descriptor = -1;
    }
    rt_fence_full(); /* pairs with the entries of shm_poll and shm_memory_help: they see ERROR, or we see them inside */
    shm_queue_wait_out(&device->queues[plink->receive_queue]);
    shm_helper_wait_out(device);
}

void shm_link_destroy(rt_plink *plink)
{
    shm_link *link = shm_link_of(plink);
    shm_device *device = shm_device_of(plink->device);
    atomic_store_explicit(&device->links[link->index], NULL, memory_order_release);
    atomic_fetch_sub_explicit(&device->queues[plink->receive_queue].receivers, 1, memory_order_release);
    /* Pairs with the entries of shm_poll and shm_memory_help: they do not find the link, or we see
     * them inside. */
    rt_fence_full();
    shm_queue_wait_out(&device->queues[plink->receive_queue]);
    shm_queue_wait_out(&device->queues[plink->send_queue]);
    shm_helper_wait_out(device);
    if (link->request != NULL)
        link->request->link = NULL; /* the answer, if it comes, is dropped */
    if (link->queue_bell >= 0)
        shm_peer_close(link->peer, link->queue_bell);
    if (link->peer != NULL)
        shm_peer_unreference(link->peer);
    if (link->out != NULL)
        munmap(link->out, sizeof(shm_ring));
    if (link->ring_descriptor >= 0)
        close(link->ring_descriptor);
    munmap(link->in, sizeof(shm_ring));
    free(link);
}

static unsigned long long counter_load(const _Atomic uint64_t *counter)
{
    return (unsigned long long)atomic_load_explicit(counter, memory_order_relaxed);
}

int shm_link_describe(rt_plink *plink, char *text_out, size_t capacity)
{
    static const char *const states[] = {"created", "joined", "error", "waiting for a helper"};
    shm_link *link = shm_link_of(plink);
    uint32_t posted = atomic_load_explicit(&link->receive_head, memory_order_relaxed) -
                      atomic_load_explicit(&link->receive_tail, memory_order_relaxed);
    return snprintf(
        text_out, capacity,
        "shm link %u %s, writes %llu (%llu bytes, %llu of them copied by the peer), reads %llu (%llu bytes), sends %llu, received %llu, wake-ups %llu, "
        "receives posted %u%s",
        link->index, states[atomic_load_explicit(&link->state, memory_order_relaxed)], counter_load(&link->writes),
        counter_load(&link->bytes_written), counter_load(&link->bytes_helped), counter_load(&link->reads),
        counter_load(&link->bytes_read), counter_load(&link->sends), counter_load(&link->receives_done),
        counter_load(&link->wakes), posted,
        link->out != NULL && atomic_load_explicit(&link->out->shut, memory_order_relaxed) != 0 ? ", shut by the peer" : "");
}
