/* window.c: a key for one peer: memory windows of type 2 (RDMA-RULES 14).
 *
 * A bound window is valid through the queue pair that bound it and no other, whether the device
 * calls it 2A or 2B; so a key for a peer has one window for each link. Binding is a work request:
 * it is posted here, in room of the send queue and of the completion queue that core does not know
 * of (limits.c), and poll.c does not report its completion. Freeing a window revokes the key. It
 * comes before the end of the queue pair and of the registration, neither of which can end while a
 * window is bound. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <stdlib.h>

typedef struct verbs_window {
    rt_list of_link, of_memory;
    verbs_link *link;
    verbs_memory *memory;
    struct ibv_mw *mw;
    uint32_t key;      /* once it is bound */
    uint32_t position; /* of the bind among those of its link */
} verbs_window;

/* Everything below has device->windows_lock held unless it says otherwise. */

/* Whether the bind is over, with or without success. Pairs with the release in poll. */
static bool window_is_settled(const verbs_window *window)
{
    uint32_t done = atomic_load_explicit(&window->link->binds_done, memory_order_acquire);
    return (int32_t)(done - window->position) > 0;
}

void verbs_memory_free(const verbs_device *device, verbs_memory *memory)
{
    assert(rt_list_empty(&memory->windows));
    device->library->ibv_dereg_mr(memory->mr);
    free(memory);
}

static void window_end(const verbs_device *device, verbs_window *window)
{
    verbs_memory *memory = window->memory;
    rt_list_remove(&window->of_link);
    rt_list_remove(&window->of_memory);
    ibv_dealloc_mw(window->mw);
    free(window);
    if (memory->released && rt_list_empty(&memory->windows))
        verbs_memory_free(device, memory);
}

/* A bind that the device will refuse would end the link, so a window whose bind is under way outlives its memory's release. */
static void forgotten_end(const verbs_device *device, verbs_link *link)
{
    RT_LIST_EACH_SAFE(node, &link->windows) {
        verbs_window *window = RT_LIST_ENTRY(node, verbs_window, of_link);
        if (window->memory->released && window_is_settled(window))
            window_end(device, window);
    }
}

static verbs_window *verbs_window_find(const verbs_link *link, const verbs_memory *memory)
{
    RT_LIST_EACH(node, &link->windows) {
        verbs_window *window = RT_LIST_ENTRY(node, verbs_window, of_link);
        if (window->memory == memory)
            return window;
    }
    return NULL;
}

/* Returns 0 or an errno. */
static int bind_post(verbs_link *link, const verbs_memory *memory, verbs_window *window)
{
    uint32_t access = memory->base.access;
    struct ibv_send_wr request = {
        .wr_id = VERBS_WR_BIND | link->tag << 32 | window->position,
        .opcode = IBV_WR_BIND_MW,
        .send_flags = IBV_SEND_SIGNALED,
        .bind_mw = {.mw = window->mw,
                    .rkey = window->key,
                    .bind_info = {.mr = memory->mr,
                                  .addr = (uintptr_t)memory->base.address,
                                  .length = memory->base.size,
                                  .mw_access_flags =
                                      ((access & RT_ACCESS_REMOTE_WRITE) != 0 ? (unsigned)IBV_ACCESS_REMOTE_WRITE : 0u) |
                                      ((access & RT_ACCESS_REMOTE_READ) != 0 ? (unsigned)IBV_ACCESS_REMOTE_READ : 0u)}},
    };
    struct ibv_send_wr *bad = NULL;
    errno = 0;
    int result = ibv_post_send(link->qp, &request, &bad); /* thread-safe: others may post work items meanwhile */
    return result >= 0 ? result : verbs_errno();
}

/* Makes a window and begins to bind it: RT_E_AGAIN. */
static int window_begin(verbs_device *device, verbs_link *link, verbs_memory *memory, rt_detail *detail)
{
    uint32_t outstanding = link->binds_posted - atomic_load_explicit(&link->binds_done, memory_order_acquire);
    if (outstanding == device->request.binds)
        return RT_E_AGAIN;
    verbs_window *window = calloc(1, sizeof *window);
    if (window == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a memory window of %s", device->base.name);
    errno = 0;
    window->mw = ibv_alloc_mw(device->pd, IBV_MW_TYPE_2);
    int error = window->mw == NULL ? verbs_errno() : 0;
    if (error != 0)
        goto free_window;
    window->link = link;
    window->memory = memory;
    window->position = link->binds_posted;
    window->key = ibv_inc_rkey(window->mw->rkey);
    error = bind_post(link, memory, window);
    if (error != 0)
        goto dealloc_mw;
    link->binds_posted++;
    rt_list_append(&link->windows, &window->of_link);
    rt_list_append(&memory->windows, &window->of_memory);
    return RT_E_AGAIN;
dealloc_mw:
    ibv_dealloc_mw(window->mw);
free_window:
    free(window);
    return verbs_fail(detail, error, "bind a memory window of %s, which has at most %d, to queue pair 0x%x", device->base.name,
                      device->port.attributes.max_mw, link->qpn);
}

/* RT_OK with the key when the window of this link is bound. */
static int link_key(verbs_device *device, verbs_link *link, verbs_memory *memory, uint32_t *key_out, rt_detail *detail)
{
    forgotten_end(device, link);
    if (link->qp == NULL || link->shut)
        return rt_fail(detail, RT_E_CLOSED, 0, "cannot make a key for the peer of queue pair 0x%x: it was shut", link->qpn);
    const verbs_window *window = verbs_window_find(link, memory);
    if (window == NULL)
        return window_begin(device, link, memory, detail);
    if (!window_is_settled(window))
        return RT_E_AGAIN;
    uint32_t failure = atomic_load_explicit(&link->failure, memory_order_relaxed);
    if (failure != 0)
        return rt_fail(detail, verbs_completion_status(failure), 0,
                       "cannot make a key for the peer of queue pair 0x%x: the queue pair failed with %s", link->qpn,
                       verbs_completion_name(failure));
    *key_out = window->key;
    return RT_OK;
}

/* Takes the lock, as do those below. */
int verbs_windows_bind(verbs_device *device, verbs_memory *memory, rt_plink *const *links, uint32_t link_count,
                       uint32_t *keys_out, rt_detail *detail)
{
    int status = RT_OK;
    assert(link_count <= RT_MEMORY_KEY_LINKS_MAX);
    pthread_mutex_lock(&device->windows_lock);
    for (uint32_t index = 0; index < link_count; index++) {
        int each = link_key(device, verbs_link_of(links[index]), memory, &keys_out[index], detail);
        if (each != RT_OK)
            status = each;
        if (each != RT_OK && each != RT_E_AGAIN)
            break;
    }
    pthread_mutex_unlock(&device->windows_lock);
    if (status == RT_E_AGAIN)
        return rt_fail(detail, RT_E_AGAIN, 0, "binding memory windows of %s goes on", device->base.name);
    return status;
}

void verbs_windows_end(verbs_device *device, verbs_link *link)
{
    pthread_mutex_lock(&device->windows_lock);
    RT_LIST_EACH_SAFE(node, &link->windows)
        window_end(device, RT_LIST_ENTRY(node, verbs_window, of_link));
    pthread_mutex_unlock(&device->windows_lock);
}

bool verbs_windows_release(verbs_device *device, verbs_memory *memory)
{
    pthread_mutex_lock(&device->windows_lock);
    RT_LIST_EACH_SAFE(node, &memory->windows) {
        verbs_window *window = RT_LIST_ENTRY(node, verbs_window, of_memory);
        if (window_is_settled(window))
            window_end(device, window);
    }
    memory->released = !rt_list_empty(&memory->windows);
    bool over = !memory->released;
    pthread_mutex_unlock(&device->windows_lock);
    return over;
}

#endif
