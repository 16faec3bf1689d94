/* peer.c: another device as reached through its socket: connecting, and asking for descriptors. The
 * answers are in answer.c.
 *
 * No call waits here. A request is sent, or stays in the peer's list until earlier ones are
 * answered; the answer comes in `service`, is checked, and goes to the link (link.c) or window
 * (remote.c) that made the request. When the connection ends, every request that waited fails with
 * RT_E_PEER_LOST; links that are joined go on, because their mappings outlive the peer. The other
 * side is in exchange.c. */
#include "provider/shm/shm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"

static int peer_connect_failed(int error, rt_detail *detail)
{
    if (error == ECONNREFUSED)
        return rt_fail(detail, RT_E_PEER_LOST, error,
                       "no shm peer listens at the address it gave: its process ended, or it is on another host or in another "
                       "network namespace (container), where shm does not reach");
    if (error == EAGAIN)
        return rt_fail(detail, RT_E_BUSY, error, "the shm peer has too many connections waiting: try again later");
    return rt_fail(detail, RT_E_SYSTEM, error, "cannot connect to a shm peer");
}

/* Whether a peer of this user may be joined. */
static int peer_user_check(const shm_device *device, uid_t user, bool any_user, rt_detail *detail)
{
    if (any_user || user == device->user)
        return RT_OK;
    return rt_fail(detail, RT_E_AUTH, 0,
                   "the shm peer belongs to user %u and this process to user %u: shm joins processes of two users only when both "
                   "know the same secret (secret= or RDMATENSOR_SECRET)",
                   (unsigned)user, (unsigned)device->user);
}

/* Connects; peer->user is the user that listens there. Until that user is known, no process can
 * leave descriptors in the socket. */
static int peer_connect(shm_peer *peer, bool any_user, rt_detail *detail)
{
    int descriptor = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot create a socket to a shm peer");
    struct sockaddr_un address;
    socklen_t size = shm_socket_address(peer->name, &address);
    bool rights_refused = shm_socket_refuse_rights(descriptor, true);
    if (connect(descriptor, (struct sockaddr *)&address, size) != 0) {
        int error = errno;
        close(descriptor);
        return peer_connect_failed(error, detail);
    }
    int status = shm_socket_user(descriptor, &peer->user, detail);
    if (status == RT_OK)
        status = peer_user_check(peer->device, peer->user, any_user, detail);
    if (status == RT_OK) {
        peer->doubtful = peer->user != peer->device->user;
        peer->source.descriptor = descriptor;
        shm_socket_refuse_rights(descriptor, false);
    } else if (rights_refused) {
        close(descriptor);
    } else {
        shm_close_elsewhere(descriptor);
    }
    return status;
}

void shm_peer_close(const shm_peer *peer, int descriptor)
{
    if (peer->doubtful)
        shm_close_elsewhere(descriptor);
    else
        close(descriptor);
}

int shm_peer_find(shm_device *device, const uint8_t *name, bool any_user, shm_peer **peer_out, rt_detail *detail)
{
    RT_LIST_EACH(node, &device->peers) {
        shm_peer *known = RT_LIST_ENTRY(node, shm_peer, node);
        if (known->lost || memcmp(known->name, name, SHM_TOKEN_SIZE) != 0)
            continue;
        int allowed = peer_user_check(device, known->user, any_user, detail);
        if (allowed != RT_OK)
            return allowed;
        known->references++;
        *peer_out = known;
        return RT_OK;
    }
    shm_peer *peer = calloc(1, sizeof *peer);
    if (peer == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory to connect to a shm peer");
    *peer =
        (shm_peer){.device = device, .references = 1, .memory_bell = -1, .source = {.kind = SHM_SOURCE_PEER, .descriptor = -1}};
    memcpy(peer->name, name, SHM_TOKEN_SIZE);
    rt_list_init(&peer->waiting);
    rt_list_init(&peer->sent);
    rt_list_init(&peer->windows);
    int status = peer_connect(peer, any_user, detail);
    if (status != RT_OK)
        goto free_peer;
    status = shm_watch(device, &peer->source, detail);
    if (status != RT_OK)
        goto close_socket;
    rt_list_append(&device->peers, &peer->node);
    *peer_out = peer;
    return RT_OK;

close_socket:
    shm_peer_close(peer, peer->source.descriptor);
free_peer:
    free(peer);
    return status;
}

static void peer_disconnect(shm_peer *peer)
{
    if (peer->source.descriptor < 0)
        return;
    shm_unwatch(peer->device, &peer->source);
    shm_peer_close(peer, peer->source.descriptor); /* with the messages queued in it */
    peer->source.descriptor = -1;
}

void shm_request_fail(shm_peer *peer, shm_request *request, const rt_detail *why)
{
    if (request->link != NULL) {
        request->link->progress = SHM_FAILED;
        request->link->request = NULL;
        rt_detail_pass(&request->link->failure, why);
    }
    if (request->window != NULL) {
        request->window->progress = SHM_FAILED;
        rt_detail_pass(&request->window->failure, why);
    }
    if (request->kind == SHM_REQUEST_SOURCE)
        shm_source_refused(peer);
    rt_list_remove(&request->node);
    free(request);
}

static void requests_fail(shm_peer *peer, const rt_detail *why)
{
    RT_LIST_EACH_SAFE(node, &peer->sent)
        shm_request_fail(peer, RT_LIST_ENTRY(node, shm_request, node), why);
    RT_LIST_EACH_SAFE(node, &peer->waiting)
        shm_request_fail(peer, RT_LIST_ENTRY(node, shm_request, node), why);
    peer->sent_count = peer->waiting_count = 0;
}

void shm_peer_lose(shm_peer *peer)
{
    peer->lost = true;
    peer_disconnect(peer);
    requests_fail(peer, &peer->failure);
}

void shm_window_free(shm_window *window)
{
    if (window->address != NULL)
        munmap(window->address, window->mapped_size);
    rt_list_remove(&window->node);
    free(window);
}

void shm_peer_unreference(shm_peer *peer)
{
    if (--peer->references != 0)
        return;
    rt_detail why;
    rt_fail(&why, RT_E_CLOSED, 0, "the last link to this peer was closed");
    peer_disconnect(peer);
    requests_fail(peer, &why);
    RT_LIST_EACH_SAFE(node, &peer->windows)
        shm_window_free(RT_LIST_ENTRY(node, shm_window, node));
    shm_sources_free(peer);
    if (peer->board != NULL) {
        munmap((void *)(uintptr_t)peer->board, sizeof(shm_board));
        munmap(peer->doorbell, sizeof(shm_doorbell));
        shm_peer_close(peer, peer->memory_bell);
    }
    rt_list_remove(&peer->node);
    free(peer);
}

void shm_peer_send(shm_peer *peer)
{
    while (peer->sent_count < SHM_REQUESTS_SENT_MAX && !rt_list_empty(&peer->waiting)) {
        shm_request *request = RT_LIST_ENTRY(peer->waiting.next, shm_request, node);
        uint8_t bytes[SHM_REQUEST_SIZE];
        rt_writer writer = rt_writer_of(bytes, sizeof bytes);
        rt_write_uint(&writer, SHM_VERSION, 1);
        rt_write_uint(&writer, request->kind, 1);
        rt_write_uint(&writer, 0, 2);
        rt_write_uint(&writer, request->number, 4);
        rt_write_bytes(&writer, request->token, SHM_TOKEN_SIZE);
        if (send(peer->source.descriptor, bytes, sizeof bytes, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)sizeof bytes) {
            /* The socket had room, so the peer is gone, or it shuts us out. */
            rt_fail(&peer->failure, RT_E_PEER_LOST, errno, "cannot ask the shm peer: it ended or closed its device");
            shm_peer_lose(peer);
            return;
        }
        rt_list_remove(&request->node);
        rt_list_append(&peer->sent, &request->node);
        peer->waiting_count--;
        peer->sent_count++;
    }
}

int shm_peer_ask(shm_peer *peer, enum shm_request_kind kind, const uint8_t *token, shm_link *link, shm_window *window,
                 shm_request **request_out, rt_detail *detail)
{
    if (peer->lost)
        return rt_detail_pass(detail, &peer->failure);
    if (peer->waiting_count >= SHM_REQUESTS_WAITING_MAX)
        return rt_fail(detail, RT_E_AGAIN, 0, "too many requests to the shm peer wait for its answer");
    shm_request *request = calloc(1, sizeof *request);
    if (request == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory to ask a shm peer");
    *request = (shm_request){.kind = kind, .number = peer->next_number++, .link = link, .window = window};
    memcpy(request->token, token, SHM_TOKEN_SIZE);
    if (request_out != NULL)
        *request_out = request;
    rt_list_append(&peer->waiting, &request->node);
    peer->waiting_count++;
    shm_peer_send(peer);
    return RT_OK;
}

int shm_peer_adopt(shm_peer *peer, int *board, int *doorbell, int *bell, rt_detail *detail)
{
    if (peer->board != NULL)
        return RT_OK;
    void *board_address, *doorbell_address;
    uint64_t board_size, doorbell_size;
    int status = shm_map(*board, sizeof(shm_board), false, &board_address, &board_size, detail);
    if (status != RT_OK)
        return status;
    status = shm_map(*doorbell, sizeof(shm_doorbell), true, &doorbell_address, &doorbell_size, detail);
    if (status != RT_OK) {
        munmap(board_address, board_size);
        return status;
    }
    peer->board = board_address;
    peer->doorbell = doorbell_address;
    peer->memory_bell = *bell;
    *bell = -1;
    return RT_OK;
}
