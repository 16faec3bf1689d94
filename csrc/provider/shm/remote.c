/* remote.c: the peer's memory. A registration is mapped once for all remotes that attach it (a
 * window), so ten thousand handles into one region cost one mapping. peer.c asks for it, exchange.c
 * answers, post.c uses it. */
#include "provider/shm/shm.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Page tables filled when a window is mapped: 0.12 ms per MiB here, where the first copy would pay 0.45. Larger windows
 * fill the rest as they are used, so that attaching never takes long. */
#define SHM_POPULATE_SIZE_MAX ((uint64_t)256 << 20)

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

static shm_window *shm_window_find(shm_peer *peer, const uint8_t *token)
{
    RT_LIST_EACH(node, &peer->windows) {
        shm_window *window = RT_LIST_ENTRY(node, shm_window, node);
        if (memcmp(window->token, token, SHM_TOKEN_SIZE) == 0)
            return window;
    }
    return NULL;
}

/* Keeps answers that no caller came back for (a deadline passed meanwhile) for a while only. */
static void windows_evict(shm_peer *peer)
{
    uint32_t unclaimed = 0;
    RT_LIST_EACH(node, &peer->windows) {
        const shm_window *window = RT_LIST_ENTRY(node, shm_window, node);
        unclaimed += window->references == 0 && window->progress != SHM_ASKED;
    }
    RT_LIST_EACH_SAFE(node, &peer->windows) {
        shm_window *window = RT_LIST_ENTRY(node, shm_window, node);
        if (unclaimed < SHM_WINDOWS_UNCLAIMED_MAX)
            return;
        if (window->references == 0 && window->progress != SHM_ASKED) {
            shm_window_free(window);
            unclaimed--;
        }
    }
}

static int window_failed(shm_window *window, rt_detail *detail)
{
    int status = window->failure.status;
    rt_detail_pass(detail, &window->failure);
    shm_window_free(window);
    return status;
}

static int window_ask(shm_peer *peer, const uint8_t *token, rt_detail *detail)
{
    windows_evict(peer);
    shm_window *window = calloc(1, sizeof *window);
    if (window == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory to attach a remote region");
    window->peer = peer;
    window->progress = SHM_ASKED;
    memcpy(window->token, token, SHM_TOKEN_SIZE);
    rt_list_append(&peer->windows, &window->node);
    int status = shm_peer_ask(peer, SHM_REQUEST_REGION, token, NULL, window, NULL, detail);
    if (status != RT_OK) {
        shm_window_free(window);
        return status;
    }
    if (window->progress == SHM_FAILED) /* the peer turned out to be gone */
        return window_failed(window, detail);
    return rt_fail(detail, RT_E_AGAIN, 0, "the shm peer was asked for the region and has not answered yet");
}

void shm_window_granted(shm_window *window, const shm_reply *reply, int descriptor)
{
    const uint32_t rights = RT_ACCESS_REMOTE_WRITE | RT_ACCESS_REMOTE_READ;
    rt_detail why;
    int status = RT_OK;
    void *address;
    if (reply->size == 0 || reply->index >= SHM_EXPORTS_MAX || reply->generation == 0 || (reply->value & ~rights) != 0 ||
        reply->value == 0)
        status = rt_fail(&why, RT_E_PROTOCOL, 0, "its sizes or rights contradict each other");
    if (status == RT_OK)
        status =
            shm_map(descriptor, reply->size, (reply->value & RT_ACCESS_REMOTE_WRITE) != 0, &address, &window->mapped_size, &why);
    if (status != RT_OK) {
        window->progress = SHM_FAILED;
        rt_fail(&window->failure, status == RT_E_INVALID ? RT_E_PROTOCOL : status, 0,
                "cannot use the memory the shm peer handed out: %s", why.text);
        return;
    }
    window->address = address;
    window->size = reply->size;
    window->access = reply->value;
    window->index = reply->index;
    window->generation = reply->generation;
    window->progress = SHM_GRANTED;
    /* Only fills page tables; a kernel before 5.14 refuses, and then the first copy fills them. */
    madvise(address, window->mapped_size < SHM_POPULATE_SIZE_MAX ? window->mapped_size : SHM_POPULATE_SIZE_MAX,
            MADV_POPULATE_READ);
}

/* Whether the mapped registration matches the handle. */
static int window_check(const shm_window *window, uint64_t size, uint32_t access, rt_detail *detail)
{
    const _Atomic uint32_t *live = &window->peer->board->exports[window->index];
    if (atomic_load_explicit(live, memory_order_acquire) != window->generation)
        return rt_fail(detail, RT_E_REMOTE_ACCESS, 0, "cannot attach: the region was closed by its owner");
    if (size > window->size)
        return rt_fail(detail, RT_E_REMOTE_ACCESS, 0, "cannot attach %llu bytes: the peer registered %llu",
                       (unsigned long long)size, (unsigned long long)window->size);
    if ((access & ~window->access) != 0)
        return rt_fail(detail, RT_E_REMOTE_ACCESS, 0, "cannot attach for %s: the peer did not give that right to the region",
                       (access & ~window->access & RT_ACCESS_REMOTE_WRITE) != 0 ? "writing" : "reading");
    return RT_OK;
}

static int window_attach(shm_window *window, uint64_t size, uint32_t access, rt_premote **out, rt_detail *detail)
{
    int status = window_check(window, size, access, detail);
    if (status != RT_OK)
        goto drop_unused;
    shm_remote *remote = calloc(1, sizeof *remote);
    if (remote == NULL) {
        status = rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory to attach a remote region");
        goto drop_unused;
    }
    remote->base = (rt_premote){.size = size, .access = access};
    remote->address = window->address;
    remote->live = &window->peer->board->exports[window->index];
    remote->generation = window->generation;
    remote->window = window;
    window->references++;
    window->peer->references++;
    *out = &remote->base;
    return RT_OK;

drop_unused:
    if (window->references == 0)
        shm_window_free(window);
    return status;
}

int shm_remote_attach(rt_plink *plink, const uint8_t *key, size_t key_size, uint64_t size, uint32_t access, rt_premote **out,
                      rt_detail *detail)
{
    shm_link *link = shm_link_of(plink);
    if (key_size != SHM_KEY_SIZE || key[0] != SHM_VERSION)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "cannot attach: %zu bytes are not a key of shm version %d", key_size,
                       SHM_VERSION);
    if (size == 0)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot attach a region of no bytes");
    access &= RT_ACCESS_REMOTE_WRITE | RT_ACCESS_REMOTE_READ;
    if (link->peer == NULL || link->progress != SHM_GRANTED)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot attach through a link that is not connected");
    if (link->peer->lost)
        return rt_detail_pass(detail, &link->peer->failure);
    shm_window *window = shm_window_find(link->peer, key + 1);
    if (window == NULL)
        return window_ask(link->peer, key + 1, detail);
    switch (window->progress) {
    case SHM_ASKED: return rt_fail(detail, RT_E_AGAIN, 0, "the shm peer was asked for the region and has not answered yet");
    case SHM_FAILED: return window_failed(window, detail);
    case SHM_GRANTED: break;
    }
    return window_attach(window, size, access, out, detail);
}

/* The link may be gone already: only the window matters, and it keeps the peer. */
void shm_remote_detach(rt_plink *link, rt_premote *premote)
{
    (void)link;
    shm_remote *remote = (shm_remote *)(void *)premote;
    shm_window *window = remote->window;
    shm_peer *peer = window->peer;
    if (--window->references == 0)
        shm_window_free(window);
    shm_peer_unreference(peer);
    free(remote);
}

const void *shm_remote_map(const rt_premote *premote)
{
    return ((const shm_remote *)(const void *)premote)->address;
}

void shm_sources_ask(shm_device *device)
{
    uint64_t times;
    rt_detail ignored;
    (void)!read(device->unmapped.descriptor, &times, sizeof times);
    RT_LIST_EACH(node, &device->peers) {
        shm_peer *peer = RT_LIST_ENTRY(node, shm_peer, node);
        if (atomic_load_explicit(&peer->wish, memory_order_acquire) != SHM_WISH_MADE) /* pairs with shm_source_wish */
            continue;
        atomic_store_explicit(&peer->wish, SHM_WISH_ASKED, memory_order_relaxed);
        const uint8_t *token = (const uint8_t *)(const void *)peer->wish_token;
        if (shm_peer_ask(peer, SHM_REQUEST_SOURCE, token, NULL, NULL, NULL, &ignored) != RT_OK)
            shm_source_refused(peer);
    }
}
