/* exchange.c: the device's socket as its peers see it, and the dispatch of everything that happens on sockets.
 *
 * A device listens on an abstract Unix socket with a random name: it has no place in the file system and ends with the
 * process. A peer of the same user connects and asks, by random tokens that act as capabilities, for the descriptors of a
 * link end or of a registration. Requests and replies have a fixed size; the server keeps no state between them, so a
 * peer can make it hold nothing but the connection. What asks on our behalf is in peer.c. */
#include "provider/shm/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/random.h"

enum { SHM_SERVICE_BATCH = 16 }; /* messages of peers handled in one `service` before core gets its turn */

uint32_t shm_socket_address(const uint8_t *name, struct sockaddr_un *address_out)
{
    static const char hex[] = "0123456789abcdef";
    static const char prefix[] = "rdmatensor-";
    memset(address_out, 0, sizeof *address_out);
    address_out->sun_family = AF_UNIX;
    char *at = address_out->sun_path + 1; /* a leading zero byte: abstract */
    memcpy(at, prefix, sizeof prefix - 1);
    at += sizeof prefix - 1;
    for (size_t index = 0; index < SHM_TOKEN_SIZE; index++) {
        *at++ = hex[name[index] >> 4];
        *at++ = hex[name[index] & 15];
    }
    return (uint32_t)(at - (char *)address_out);
}

int shm_socket_user(int descriptor, uid_t *user_out, rt_detail *detail)
{
    struct ucred credentials;
    socklen_t size = sizeof credentials;
    if (getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot ask which user the peer is");
    *user_out = credentials.uid;
    return RT_OK;
}

int shm_watch(shm_device *device, shm_source *source, rt_detail *detail)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = source}};
    if (epoll_ctl(device->epoll, EPOLL_CTL_ADD, source->descriptor, &event) != 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot watch a socket of shm");
    return RT_OK;
}

/* Explicitly, not by closing: a forked child may hold the same socket open, and its events would point to freed memory. */
void shm_unwatch(shm_device *device, const shm_source *source)
{
    epoll_ctl(device->epoll, EPOLL_CTL_DEL, source->descriptor, NULL);
}

static int listen_on(shm_device *device, rt_detail *detail)
{
    int status = rt_random(device->name, sizeof device->name, detail);
    if (status != RT_OK)
        return status;
    int descriptor = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot create the socket of a shm device");
    struct sockaddr_un address;
    socklen_t size = shm_socket_address(device->name, &address);
    device->listener = (shm_source){.kind = SHM_SOURCE_LISTENER, .descriptor = descriptor};
    if (bind(descriptor, (struct sockaddr *)&address, size) != 0 || listen(descriptor, SHM_GUESTS_MAX) != 0)
        status = rt_fail(detail, RT_E_SYSTEM, errno, "cannot listen for shm peers");
    else
        status = shm_watch(device, &device->listener, detail);
    if (status != RT_OK)
        close(descriptor);
    return status;
}

int shm_exchange_open(shm_device *device, rt_detail *detail)
{
    device->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (device->epoll < 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot create the event set of a shm device");
    device->spare = fcntl(device->epoll, F_DUPFD_CLOEXEC, 0);
    int status = device->spare < 0 ? rt_fail(detail, RT_E_SYSTEM, errno, "cannot open a shm device") : listen_on(device, detail);
    if (status == RT_OK)
        return RT_OK;
    if (device->spare >= 0)
        close(device->spare);
    close(device->epoll);
    return status;
}

static void guest_end(shm_device *device, shm_guest *guest)
{
    rt_list_remove(&guest->node);
    device->guest_count--;
    shm_unwatch(device, &guest->source);
    close(guest->source.descriptor);
    free(guest);
}

void shm_exchange_close(shm_device *device)
{
    RT_LIST_EACH_SAFE(node, &device->guests)
        guest_end(device, RT_LIST_ENTRY(node, shm_guest, node));
    close(device->listener.descriptor);
    if (device->spare >= 0)
        close(device->spare);
    close(device->epoll);
}

/* Sends a reply with its descriptors. The peer keeps few requests outstanding, so one that does not fit is from a peer that
 * breaks the protocol; false then. */
static bool reply_send(int socket, const shm_reply *reply, const int *descriptors, size_t count)
{
    uint8_t bytes[SHM_REPLY_SIZE];
    rt_writer writer = rt_writer_of(bytes, sizeof bytes);
    rt_write_uint(&writer, SHM_VERSION, 1);
    rt_write_uint(&writer, reply->kind, 1);
    rt_write_uint(&writer, 0, 2);
    rt_write_uint(&writer, reply->number, 4);
    rt_write_uint(&writer, (uint32_t)reply->status, 4);
    rt_write_uint(&writer, reply->value, 4);
    rt_write_uint(&writer, reply->index, 4);
    rt_write_uint(&writer, reply->generation, 4);
    rt_write_uint(&writer, reply->size, 8);
    union {
        char bytes[CMSG_SPACE(sizeof(int) * SHM_DESCRIPTORS_MAX)];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof control);
    struct iovec part = {.iov_base = bytes, .iov_len = writer.size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count != 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(header), descriptors, sizeof(int) * count);
    }
    return sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof bytes;
}

/* Hands out a link end: once, because it has one peer. */
static bool serve_link(shm_device *device, const shm_guest *guest, const uint8_t *token, shm_reply *reply)
{
    uint32_t high = atomic_load_explicit(&device->link_high, memory_order_relaxed);
    for (uint32_t index = 0; index < high; index++) {
        shm_link *link = atomic_load_explicit(&device->links[index], memory_order_relaxed);
        if (link == NULL || link->ring_descriptor < 0 || memcmp(link->token, token, SHM_TOKEN_SIZE) != 0)
            continue;
        int descriptors[SHM_LINK_DESCRIPTORS] = {link->ring_descriptor, device->board_descriptor, device->doorbell_descriptor,
                                                 device->memory_bell.ring_end,
                                                 device->queues[link->base.receive_queue].bell.ring_end};
        reply->value = link->base.receive_queue;
        bool sent = reply_send(guest->source.descriptor, reply, descriptors, SHM_LINK_DESCRIPTORS);
        close(link->ring_descriptor);
        link->ring_descriptor = -1;
        return sent;
    }
    reply->status = RT_E_REFUSED;
    return reply_send(guest->source.descriptor, reply, NULL, 0);
}

static bool serve_region(shm_device *device, const shm_guest *guest, const uint8_t *token, shm_reply *reply)
{
    int descriptor = -1;
    reply->status = shm_export_find(device, token, reply, &descriptor);
    if (reply->status != RT_OK)
        return reply_send(guest->source.descriptor, reply, NULL, 0);
    bool sent = reply_send(guest->source.descriptor, reply, &descriptor, 1);
    close(descriptor);
    return sent;
}

/* Reads one request and answers it. False: the connection is over, in good order or not. */
static bool guest_serve(shm_device *device, shm_guest *guest)
{
    uint8_t bytes[SHM_REQUEST_SIZE];
    ssize_t size = recv(guest->source.descriptor, bytes, sizeof bytes, MSG_DONTWAIT | MSG_TRUNC);
    if (size < 0)
        return errno == EAGAIN || errno == EINTR;
    if (size != SHM_REQUEST_SIZE)
        return false;
    rt_reader reader = rt_reader_of(bytes, sizeof bytes);
    uint64_t version = rt_read_uint(&reader, 1);
    shm_reply reply = {.kind = (uint8_t)rt_read_uint(&reader, 1)};
    uint64_t zero = rt_read_uint(&reader, 2);
    reply.number = (uint32_t)rt_read_uint(&reader, 4);
    const uint8_t *token = rt_read_bytes(&reader, SHM_TOKEN_SIZE);
    if (version != SHM_VERSION || zero != 0 || !rt_reader_done(&reader))
        return false;
    if (reply.kind == SHM_REQUEST_LINK)
        return serve_link(device, guest, token, &reply);
    return reply.kind == SHM_REQUEST_REGION && serve_region(device, guest, token, &reply);
}

/* Lets one peer in, if it is of our user. */
static void guest_accept(shm_device *device, rt_event *event_out)
{
    int descriptor = accept4(device->listener.descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (descriptor < 0 && (errno == EMFILE || errno == ENFILE) && device->spare >= 0) {
        /* The listener would stay readable and the service run for ever: turn the peer away with the spare descriptor. */
        close(device->spare);
        descriptor = accept4(device->listener.descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor >= 0)
            close(descriptor);
        device->spare = fcntl(device->epoll, F_DUPFD_CLOEXEC, 0);
        event_out->kind = RT_EVENT_NOTICE;
        rt_fail(&event_out->detail, RT_E_BUSY, EMFILE, "turned a shm peer away: raise the limit of open files (ulimit -n)");
        return;
    }
    if (descriptor < 0)
        return;
    uid_t user;
    rt_detail ignored;
    if (shm_socket_user(descriptor, &user, &ignored) != RT_OK) {
        close(descriptor);
        return;
    }
    shm_guest *guest = NULL;
    if (user != device->user) {
        shm_reply refusal = {.kind = SHM_REFUSAL, .status = RT_E_AUTH, .value = device->user};
        reply_send(descriptor, &refusal, NULL, 0);
        event_out->kind = RT_EVENT_NOTICE;
        rt_fail(&event_out->detail, RT_E_AUTH, 0, "refused a shm peer that belongs to user %u: this process belongs to user %u",
                (unsigned)user, (unsigned)device->user);
    } else if (device->guest_count < SHM_GUESTS_MAX && (guest = calloc(1, sizeof *guest)) != NULL) {
        guest->source = (shm_source){.kind = SHM_SOURCE_GUEST, .descriptor = descriptor};
        rt_list_append(&device->guests, &guest->node);
        device->guest_count++;
        if (shm_watch(device, &guest->source, &ignored) != RT_OK)
            guest_end(device, guest);
        return;
    }
    close(descriptor);
}

int shm_service_fd(rt_pdevice *device)
{
    return shm_device_of(device)->epoll;
}

void shm_service(rt_pdevice *pdevice, rt_event *event_out)
{
    shm_device *device = shm_device_of(pdevice);
    event_out->kind = RT_EVENT_NONE;
    event_out->link = NULL;
    rt_detail_clear(&event_out->detail);
    for (int handled = 0; handled < SHM_SERVICE_BATCH; handled++) {
        struct epoll_event ready;
        if (epoll_wait(device->epoll, &ready, 1, 0) <= 0)
            return;
        shm_source *source = ready.data.ptr;
        switch (source->kind) {
        case SHM_SOURCE_LISTENER: guest_accept(device, event_out); break;
        case SHM_SOURCE_GUEST:
            if (!guest_serve(device, (shm_guest *)(void *)source))
                guest_end(device, (shm_guest *)(void *)source);
            break;
        case SHM_SOURCE_PEER: shm_peer_run((shm_peer *)(void *)source, event_out); break;
        }
        if (event_out->kind != RT_EVENT_NONE)
            return;
    }
    event_out->kind = RT_EVENT_PROGRESS; /* there may be more: core calls again */
}
