/* exchange.c: the device's socket as its peers see it, and the dispatch of all socket events.
 *
 * A device listens on an abstract Unix socket with a random name: it has no place in the file
 * system and ends with the process. A peer connects and asks, by random tokens that act as
 * capabilities, for the descriptors of a link end or of a registration. Requests and replies have a
 * fixed size; the server keeps no state between them, so a peer can make it hold nothing but the
 * connection. peer.c makes this device's own requests.
 *
 * All users can read the names of abstract sockets. A process of another user is turned away at
 * once, unless a link waits here whose peer may be another user's; then it must name such a link
 * first, by a token that only that peer was given. No request carries descriptors, and none are
 * taken: the kernel refuses to send them, or (before Linux 6.16) a message is looked at before it
 * is received, and a connection that may hold some is closed by closer.c. */
#include "provider/shm/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/random.h"

enum { SHM_SERVICE_BATCH = 16 }; /* messages of peers handled in one `service` before core gets its turn */

static int listener_open(shm_device *device, rt_detail *detail)
{
    int status = rt_random(device->name, sizeof device->name, detail);
    if (status != RT_OK)
        return status;
    int descriptor = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot create the socket of a shm device");
    device->rights_refused = shm_socket_refuse_rights(descriptor, true); /* its connections inherit that */
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

/* Closes a socket of this device's listener, which another user's process may have filled with descriptors. */
static void connection_close_doubtful(const shm_device *device, int descriptor)
{
    if (device->rights_refused)
        close(descriptor);
    else
        shm_close_elsewhere(descriptor);
}

static void guest_end(shm_device *device, shm_guest *guest)
{
    rt_list_remove(&guest->node);
    device->guest_count--;
    shm_unwatch(device, &guest->source);
    if (guest->doubtful)
        connection_close_doubtful(device, guest->source.descriptor);
    else
        close(guest->source.descriptor);
    free(guest);
}

/* An eventfd that wakes the service. */
static int unmapped_open(shm_device *device, rt_detail *detail)
{
    int descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    device->unmapped = (shm_source){.kind = SHM_SOURCE_UNMAPPED, .descriptor = descriptor};
    if (descriptor < 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot create the eventfd of a shm device");
    int status = shm_watch(device, &device->unmapped, detail);
    if (status != RT_OK)
        close(descriptor);
    return status;
}

/* A timer that is not running. */
static int pause_open(shm_device *device, rt_detail *detail)
{
    int descriptor = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    device->pause = (shm_source){.kind = SHM_SOURCE_PAUSE, .descriptor = descriptor};
    if (descriptor < 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot create the timer of a shm device");
    int status = shm_watch(device, &device->pause, detail);
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
    int status = device->spare < 0 ? rt_fail(detail, RT_E_SYSTEM, errno, "cannot open a shm device") : RT_OK;
    if (status != RT_OK)
        goto close_epoll;
    status = pause_open(device, detail);
    if (status != RT_OK)
        goto close_spare;
    status = unmapped_open(device, detail);
    if (status != RT_OK)
        goto close_pause;
    status = listener_open(device, detail);
    if (status == RT_OK)
        return RT_OK;
    close(device->unmapped.descriptor);
close_pause:
    close(device->pause.descriptor);
close_spare:
    close(device->spare);
close_epoll:
    close(device->epoll);
    return status;
}

void shm_exchange_close(shm_device *device)
{
    RT_LIST_EACH_SAFE(node, &device->guests)
        guest_end(device, RT_LIST_ENTRY(node, shm_guest, node));
    connection_close_doubtful(device, device->listener.descriptor); /* with the connections that were not accepted */
    close(device->pause.descriptor);
    close(device->unmapped.descriptor);
    if (device->spare >= 0)
        close(device->spare);
    close(device->epoll);
}

/* Sends a reply with its descriptors. The peer keeps few requests outstanding, so a reply that does
 * not fit belongs to a peer that breaks the protocol; false then. */
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

/* Hands out a link end: only once, because it has one peer. */
static bool link_serve(shm_device *device, shm_guest *guest, const uint8_t *token, shm_reply *reply)
{
    uint32_t high = atomic_load_explicit(&device->link_high, memory_order_relaxed);
    for (uint32_t index = 0; index < high; index++) {
        shm_link *link = atomic_load_explicit(&device->links[index], memory_order_relaxed);
        if (link == NULL || link->ring_descriptor < 0 || memcmp(link->token, token, SHM_TOKEN_SIZE) != 0)
            continue;
        guest->proven |= link->base.any_user;
        if (!guest->proven)
            break;
        int descriptors[SHM_LINK_DESCRIPTORS] = {link->ring_descriptor, device->board_descriptor, device->doorbell_descriptor,
                                                 device->memory_bell.ring_end,
                                                 device->queues[link->base.receive_queue].bell.ring_end};
        reply->value = link->base.receive_queue;
        reply->index = link->index;
        bool sent = reply_send(guest->source.descriptor, reply, descriptors, SHM_LINK_DESCRIPTORS);
        close(link->ring_descriptor);
        link->ring_descriptor = -1;
        return sent;
    }
    reply->status = RT_E_REFUSED;
    return reply_send(guest->source.descriptor, reply, NULL, 0);
}

static bool region_serve(shm_device *device, const shm_guest *guest, const uint8_t *token, bool as_source, shm_reply *reply)
{
    int descriptor = -1;
    reply->status = shm_export_find(device, token, as_source, reply, &descriptor);
    if (reply->status != RT_OK)
        return reply_send(guest->source.descriptor, reply, NULL, 0);
    bool sent = reply_send(guest->source.descriptor, reply, &descriptor, 1);
    close(descriptor);
    return sent;
}

/* Takes one message without any descriptor. Returns its size; 0 at the end of the connection, or
 * when the message brought descriptors, in which case it stays in the socket; -1 with errno. */
static ssize_t request_receive(shm_guest *guest, uint8_t *bytes, size_t capacity)
{
    struct iovec part = {.iov_base = bytes, .iov_len = capacity};
    struct msghdr look = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t size = recvmsg(guest->source.descriptor, &look, MSG_DONTWAIT | MSG_PEEK | MSG_TRUNC);
    if (size >= 0 && (look.msg_flags & MSG_CTRUNC) != 0) {
        guest->doubtful = true;
        return 0;
    }
    return size <= 0 ? size : recv(guest->source.descriptor, bytes, capacity, MSG_DONTWAIT | MSG_TRUNC);
}

/* Reads one request and answers it. False: the connection is over, in good order or not. */
static bool guest_serve(shm_device *device, shm_guest *guest)
{
    uint8_t bytes[SHM_REQUEST_SIZE];
    ssize_t size = request_receive(guest, bytes, sizeof bytes);
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
        return link_serve(device, guest, token, &reply) && guest->proven;
    bool as_source = reply.kind == SHM_REQUEST_SOURCE;
    return (as_source || reply.kind == SHM_REQUEST_REGION) && guest->proven &&
           region_serve(device, guest, token, as_source, &reply);
}

/* ---- admission ---- */

/* Whether a link waits here that a process of another user may join. */
static bool device_expects_others(const shm_device *device)
{
    uint32_t high = atomic_load_explicit(&device->link_high, memory_order_relaxed);
    for (uint32_t index = 0; index < high; index++) {
        const shm_link *link = atomic_load_explicit(&device->links[index], memory_order_relaxed);
        if (link != NULL && link->ring_descriptor >= 0 && link->base.any_user)
            return true;
    }
    return false;
}

static uint32_t strangers_of(const shm_device *device, uid_t user)
{
    uint32_t count = 0;
    RT_LIST_EACH(node, &device->guests) {
        const shm_guest *guest = RT_LIST_ENTRY(node, shm_guest, node);
        count += !guest->proven && guest->user == user;
    }
    return count;
}

/* When there are too many strangers, ends the oldest one of the user who has the most. */
static void stranger_evict(shm_device *device)
{
    uint32_t strangers = 0, most = 0;
    shm_guest *victim = NULL;
    RT_LIST_EACH(node, &device->guests) {
        shm_guest *guest = RT_LIST_ENTRY(node, shm_guest, node);
        if (guest->proven)
            continue;
        strangers++;
        uint32_t count = strangers_of(device, guest->user);
        if (count > most) {
            most = count;
            victim = guest;
        }
    }
    if (strangers >= SHM_STRANGERS_MAX)
        guest_end(device, victim);
}

/* Accepts no connection for a while: the listener would stay readable, and the service would run
 * without end. */
static void accepting_pause(shm_device *device)
{
    const struct itimerspec soon = {.it_value.tv_nsec = SHM_PAUSE_MS * 1000000L};
    if (timerfd_settime(device->pause.descriptor, 0, &soon, NULL) == 0)
        shm_unwatch(device, &device->listener);
}

static void pause_over(shm_device *device)
{
    uint64_t expirations;
    (void)!read(device->pause.descriptor, &expirations, sizeof expirations);
    if (shm_watch(device, &device->listener, NULL) != RT_OK)
        accepting_pause(device);
}

/* Turns a peer away with the spare descriptor, because no other is left. */
static void guest_turn_away(shm_device *device, rt_event *event_out)
{
    if (device->spare >= 0)
        close(device->spare);
    int descriptor = accept4(device->listener.descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (descriptor >= 0)
        connection_close_doubtful(device, descriptor);
    device->spare = fcntl(device->epoll, F_DUPFD_CLOEXEC, 0);
    if (device->spare < 0)
        accepting_pause(device);
    event_out->kind = RT_EVENT_NOTICE;
    rt_fail(&event_out->detail, RT_E_BUSY, EMFILE, "turned a shm peer away: raise the limit of open files (ulimit -n)");
}

static void user_refuse(const shm_device *device, int descriptor, uid_t user, rt_event *event_out)
{
    shm_reply refusal = {.kind = SHM_REFUSAL, .status = RT_E_AUTH, .value = device->user};
    reply_send(descriptor, &refusal, NULL, 0);
    event_out->kind = RT_EVENT_NOTICE;
    rt_fail(&event_out->detail, RT_E_AUTH, 0, "refused a shm peer that belongs to user %u: this process belongs to user %u",
            (unsigned)user, (unsigned)device->user);
}

/* Keeps a connection; false when there is no room or no memory for it. */
static bool guest_add(shm_device *device, int descriptor, uid_t user)
{
    rt_detail ignored;
    shm_guest *guest = device->guest_count < SHM_GUESTS_MAX ? calloc(1, sizeof *guest) : NULL;
    if (guest == NULL)
        return false;
    guest->source = (shm_source){.kind = SHM_SOURCE_GUEST, .descriptor = descriptor};
    guest->user = user;
    guest->proven = user == device->user;
    guest->doubtful = !guest->proven;
    rt_list_append(&device->guests, &guest->node);
    device->guest_count++;
    if (shm_watch(device, &guest->source, &ignored) != RT_OK)
        guest_end(device, guest);
    return true;
}

/* Takes one connection, and keeps it if it may become a peer's. */
static void guest_accept(shm_device *device, rt_event *event_out)
{
    if (shm_closings() >= SHM_CLOSINGS_MAX) {
        accepting_pause(device);
        return;
    }
    int descriptor = accept4(device->listener.descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (descriptor < 0) {
        if (errno == EMFILE || errno == ENFILE)
            guest_turn_away(device, event_out);
        return;
    }
    uid_t user = (uid_t)-1; /* no user, until it is known */
    rt_detail ignored;
    if (shm_socket_user(descriptor, &user, &ignored) != RT_OK) {
        connection_close_doubtful(device, descriptor);
        return;
    }
    if (user != device->user && !device_expects_others(device)) {
        user_refuse(device, descriptor, user, event_out);
        connection_close_doubtful(device, descriptor);
        return;
    }
    if (user != device->user)
        stranger_evict(device);
    if (guest_add(device, descriptor, user))
        return;
    if (user == device->user)
        close(descriptor);
    else
        connection_close_doubtful(device, descriptor);
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
        case SHM_SOURCE_PAUSE: pause_over(device); break;
        case SHM_SOURCE_UNMAPPED: shm_sources_ask(device); break;
        case SHM_SOURCE_PEER: shm_peer_run((shm_peer *)(void *)source, event_out); break;
        }
        if (event_out->kind != RT_EVENT_NONE)
            return;
    }
    event_out->kind = RT_EVENT_PROGRESS; /* there may be more: core calls again */
}
