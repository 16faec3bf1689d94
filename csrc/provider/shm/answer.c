/* answer.c: the answers of another device to requests of this one: received, checked, and passed to
 * the link (link.c) or window (remote.c) that made the request. */
#include "provider/shm/shm.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/bytes.h"

/* Receives one message. Returns its size, 0 at the end of the connection, or -1 with errno: EPROTO
 * when it brought too many descriptors, EMFILE when this process had no room for them. */
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

/* Turns the peer's refusal into a detail. False: this protocol has no such refusal. */
static bool refusal_detail(const shm_request *request, int32_t status, rt_detail *why)
{
    if (request->kind == SHM_REQUEST_LINK && status == RT_E_REFUSED)
        rt_fail(why, RT_E_REFUSED, 0, "the shm peer has no such link end: it was closed, or is joined to another already");
    else if (request->kind != SHM_REQUEST_LINK && status == RT_E_REMOTE_ACCESS)
        rt_fail(why, RT_E_REMOTE_ACCESS, 0,
                "the key fits no region of the shm peer: the region was closed there, or the handle is wrong");
    else if (status == RT_E_SYSTEM)
        rt_fail(why, RT_E_REFUSED, 0, "the shm peer could not hand out a descriptor: raise its limit of open files (ulimit -n)");
    else
        return false;
    return true;
}

/* The answer came, but not its descriptors: ends the request at the head of the list. False: there
 * is no request. */
static bool reply_lost(shm_peer *peer)
{
    rt_detail why;
    if (rt_list_empty(&peer->sent))
        return false;
    rt_fail(&why, RT_E_SYSTEM, EMFILE, "cannot take descriptors from the shm peer: raise the limit of open files (ulimit -n)");
    peer->sent_count--;
    shm_request_fail(peer, RT_LIST_ENTRY(peer->sent.next, shm_request, node), &why);
    return true;
}

/* Passes the answer to the request at the head of the list. False: it does not answer that
 * request. */
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
        shm_request_fail(peer, request, &why);
        return true;
    }
    if (request->link != NULL)
        shm_link_granted(request->link, reply, descriptors);
    if (request->window != NULL)
        shm_window_granted(request->window, reply, descriptors[0]);
    if (request->kind == SHM_REQUEST_SOURCE)
        shm_source_granted(peer, reply, descriptors[0]);
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
        shm_peer_send(peer);
    } else if (size == 0 || (size < 0 && errno != EPROTO)) {
        rt_fail(&peer->failure, RT_E_PEER_LOST, size < 0 ? errno : 0, "the shm peer ended or closed its device");
        shm_peer_lose(peer);
    } else if (size < 0 || !reply_parse(bytes, size, &reply)) {
        rt_fail(&peer->failure, RT_E_PROTOCOL, 0, "the shm peer sent %zd bytes that are not an answer of version %d", size,
                SHM_VERSION);
        shm_peer_lose(peer);
    } else if (reply.kind == SHM_REFUSAL) {
        rt_fail(&peer->failure, RT_E_AUTH, 0, "the shm peer belongs to user %u and refused this process of user %u", reply.value,
                (unsigned)peer->device->user);
        shm_peer_lose(peer);
    } else if (!reply_deliver(peer, &reply, descriptors, count)) {
        rt_fail(&peer->failure, RT_E_PROTOCOL, 0, "the shm peer sent an answer that does not fit the request");
        shm_peer_lose(peer);
    } else {
        shm_peer_send(peer);
    }
    for (size_t index = 0; index < count; index++) {
        if (descriptors[index] >= 0)
            shm_peer_close(peer, descriptors[index]);
    }
}
