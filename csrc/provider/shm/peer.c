/* peer.c: another device as reached through its socket: connecting, asking for descriptors, taking the answers.
 *
 * Nothing waits here. A request is sent, or stands in the peer's list until earlier ones are answered; the answer comes in
 * `service`, is checked, and goes to the link (link.c) or window (remote.c) that asked. When the connection ends, everything that
 * waited fails with RT_E_PEER_LOST; links that are joined go on, because their mappings outlive the peer. The other side is
 * in exchange.c. */
#include "provider/shm/shm.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"

static int connect_to(const uint8_t *name, uid_t user, int *descriptor_out, rt_detail *detail)
{
    int descriptor = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot create a socket to a shm peer");
    struct sockaddr_un address;
    socklen_t size = shm_socket_address(name, &address);
    int status = RT_OK;
    if (connect(descriptor, (struct sockaddr *)&address, size) != 0) {
        if (errno == ECONNREFUSED)
            status =
                rt_fail(detail, RT_E_PEER_LOST, errno,
                        "no shm peer listens at the address it gave: its process ended, or it is on another host or in another "
                        "network namespace (container), where shm does not reach");
        else if (errno == EAGAIN)
            status = rt_fail(detail, RT_E_BUSY, errno, "the shm peer has too many connections waiting: try again later");
        else
            status = rt_fail(detail, RT_E_SYSTEM, errno, "cannot connect to a shm peer");
    }
    uid_t owner;
    if (status == RT_OK)
        status = shm_socket_user(descriptor, &owner, detail);
    if (status == RT_OK && owner != user)
        status = rt_fail(detail, RT_E_AUTH, 0,
                         "the shm peer belongs to user %u and this process to user %u: shm joins processes of one user; run both "
                         "as the same one",
                         (unsigned)owner, (unsigned)user);
    if (status != RT_OK) {
        close(descriptor);
        return status;
    }
    *descriptor_out = descriptor;
    return RT_OK;
}

int shm_peer_find(shm_device *device, const uint8_t *name, shm_peer **peer_out, rt_detail *detail)
{
    RT_LIST_EACH(node, &device->peers) {
        shm_peer *known = RT_LIST_ENTRY(node, shm_peer, node);
        if (known->lost || memcmp(known->name, name, SHM_TOKEN_SIZE) != 0)
            continue;
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
    int status = connect_to(name, device->user, &peer->source.descriptor, detail);
    if (status != RT_OK)
        goto free_peer;
    status = shm_watch(device, &peer->source, detail);
    if (status != RT_OK)
        goto close_socket;
    rt_list_append(&device->peers, &peer->node);
    *peer_out = peer;
    return RT_OK;

close_socket:
    close(peer->source.descriptor);
free_peer:
    free(peer);
    return status;
}

static void disconnect(shm_peer *peer)
{
    if (peer->source.descriptor < 0)
        return;
    shm_unwatch(peer->device, &peer->source);
    close(peer->source.descriptor);
    peer->source.descriptor = -1;
}

/* Ends a request with the reason, told to whoever asked. */
static void request_fail(shm_request *request, const rt_detail *why)
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
    rt_list_remove(&request->node);
    free(request);
}

static void requests_fail(shm_peer *peer, const rt_detail *why)
{
    RT_LIST_EACH_SAFE(node, &peer->sent)
        request_fail(RT_LIST_ENTRY(node, shm_request, node), why);
    RT_LIST_EACH_SAFE(node, &peer->waiting)
        request_fail(RT_LIST_ENTRY(node, shm_request, node), why);
    peer->sent_count = peer->waiting_count = 0;
}

/* The connection is over; peer->failure says why. */
static void peer_lose(shm_peer *peer)
{
    peer->lost = true;
    disconnect(peer);
    requests_fail(peer, &peer->failure);
}

void shm_peer_unreference(shm_peer *peer)
{
    if (--peer->references != 0)
        return;
    rt_detail why;
    rt_fail(&why, RT_E_CLOSED, 0, "the last link to this peer was closed");
    disconnect(peer);
    requests_fail(peer, &why);
    RT_LIST_EACH_SAFE(node, &peer->windows)
        shm_window_free(RT_LIST_ENTRY(node, shm_window, node));
    if (peer->board != NULL) {
        munmap((void *)(uintptr_t)peer->board, sizeof(shm_board));
        munmap(peer->doorbell, sizeof(shm_doorbell));
        close(peer->memory_bell);
    }
    rt_list_remove(&peer->node);
    free(peer);
}

/* Sends what waits, as far as few enough are unanswered. */
static void send_waiting(shm_peer *peer)
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
            /* Room there was; so the peer is gone, or shuts us out. */
            rt_fail(&peer->failure, RT_E_PEER_LOST, errno, "cannot ask the shm peer: it ended or closed its device");
            peer_lose(peer);
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
    send_waiting(peer);
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

/* Receives one message. Returns its size, 0 at the end of the connection, or -1 with errno: EPROTO when it brought too many
 * descriptors, EMFILE when this process had no place for them. */
static ssize_t reply_receive(int socket, uint8_t *bytes, size_t capacity, int *descriptors, size_t *count_out)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * SHM_DESCRIPTORS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = bytes, .iov_len = capacity};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    *count_out = 0;
    ssize_t size = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_TRUNC);
    if (size < 0)
        return -1;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t more = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        assert(*count_out + more <= SHM_DESCRIPTORS_MAX);
        memcpy(descriptors + *count_out, CMSG_DATA(header), more * sizeof(int));
        *count_out += more;
    }
    if ((message.msg_flags & MSG_CTRUNC) == 0)
        return size;
    errno = *count_out < SHM_DESCRIPTORS_MAX ? EMFILE : EPROTO;
    return -1;
}

/* Reads the fields; false when they are not a reply. */
static bool reply_parse(const uint8_t *bytes, ssize_t size, shm_reply *reply_out)
{
    rt_reader reader = rt_reader_of(bytes, SHM_REPLY_SIZE);
    if (size != SHM_REPLY_SIZE || rt_read_uint(&reader, 1) != SHM_VERSION)
        return false;
    reply_out->kind = (uint8_t)rt_read_uint(&reader, 1);
    if (rt_read_uint(&reader, 2) != 0)
        return false;
    reply_out->number = (uint32_t)rt_read_uint(&reader, 4);
    reply_out->status = (int32_t)(uint32_t)rt_read_uint(&reader, 4);
    reply_out->value = (uint32_t)rt_read_uint(&reader, 4);
    reply_out->index = (uint32_t)rt_read_uint(&reader, 4);
    reply_out->generation = (uint32_t)rt_read_uint(&reader, 4);
    reply_out->size = rt_read_uint(&reader, 8);
    return rt_reader_done(&reader);
}

/* Turns the peer's no into words. False: it is none that this protocol has. */
static bool refusal_detail(const shm_request *request, int32_t status, rt_detail *why)
{
    if (request->kind == SHM_REQUEST_LINK && status == RT_E_REFUSED)
        rt_fail(why, RT_E_REFUSED, 0, "the shm peer has no such link end: it was closed, or is joined to another already");
    else if (request->kind == SHM_REQUEST_REGION && status == RT_E_REMOTE_ACCESS)
        rt_fail(why, RT_E_REMOTE_ACCESS, 0,
                "the key fits no region of the shm peer: the region was closed there, or the handle is wrong");
    else if (status == RT_E_SYSTEM)
        rt_fail(why, RT_E_REFUSED, 0, "the shm peer could not hand out a descriptor: raise its limit of open files (ulimit -n)");
    else
        return false;
    return true;
}

/* The answer came, but not its descriptors: ends the request at the head of the list. False: there is none. */
static bool reply_lost(shm_peer *peer)
{
    rt_detail why;
    if (rt_list_empty(&peer->sent))
        return false;
    rt_fail(&why, RT_E_SYSTEM, EMFILE, "cannot take descriptors from the shm peer: raise the limit of open files (ulimit -n)");
    peer->sent_count--;
    request_fail(RT_LIST_ENTRY(peer->sent.next, shm_request, node), &why);
    return true;
}

/* Gives the answer to the request at the head of the list. False: it does not answer that. */
static bool reply_deliver(shm_peer *peer, const shm_reply *reply, int *descriptors, size_t count)
{
    if (rt_list_empty(&peer->sent))
        return false;
    shm_request *request = RT_LIST_ENTRY(peer->sent.next, shm_request, node);
    size_t wanted = reply->status != RT_OK ? 0 : request->kind == SHM_REQUEST_LINK ? SHM_LINK_DESCRIPTORS : 1;
    rt_detail why;
    if (reply->kind != request->kind || reply->number != request->number || count != wanted ||
        (reply->status != RT_OK && !refusal_detail(request, reply->status, &why)))
        return false;
    peer->sent_count--;
    if (reply->status != RT_OK) {
        request_fail(request, &why);
        return true;
    }
    if (request->link != NULL)
        shm_link_granted(request->link, reply, descriptors);
    if (request->window != NULL)
        shm_window_granted(request->window, reply, descriptors[0]);
    rt_list_remove(&request->node);
    free(request);
    return true;
}

void shm_peer_run(shm_peer *peer, rt_event *event_out)
{
    uint8_t bytes[SHM_REPLY_SIZE];
    int descriptors[SHM_DESCRIPTORS_MAX];
    size_t count;
    shm_reply reply;
    ssize_t size = reply_receive(peer->source.descriptor, bytes, sizeof bytes, descriptors, &count);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    event_out->kind = RT_EVENT_PROGRESS;
    if (size < 0 && errno == EMFILE && reply_lost(peer)) {
        send_waiting(peer);
    } else if (size == 0 || (size < 0 && errno != EPROTO)) {
        rt_fail(&peer->failure, RT_E_PEER_LOST, size < 0 ? errno : 0, "the shm peer ended or closed its device");
        peer_lose(peer);
    } else if (size < 0 || !reply_parse(bytes, size, &reply)) {
        rt_fail(&peer->failure, RT_E_PROTOCOL, 0, "the shm peer sent %zd bytes that are not an answer of version %d", size,
                SHM_VERSION);
        peer_lose(peer);
    } else if (reply.kind == SHM_REFUSAL) {
        rt_fail(&peer->failure, RT_E_AUTH, 0, "the shm peer belongs to user %u and refused this process of user %u", reply.value,
                (unsigned)peer->device->user);
        peer_lose(peer);
    } else if (!reply_deliver(peer, &reply, descriptors, count)) {
        rt_fail(&peer->failure, RT_E_PROTOCOL, 0, "the shm peer answered what was not asked");
        peer_lose(peer);
    } else {
        send_waiting(peer);
    }
    for (size_t index = 0; index < count; index++) {
        if (descriptors[index] >= 0)
            close(descriptors[index]);
    }
}
