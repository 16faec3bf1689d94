/* socket.c: rt_stream_ops over TCP. No call blocks, except for a slice while a name is resolved; a
 * connection tries the addresses of a name one after the other. control/connection.c and
 * control/listener.c decide which ends may talk.
 *
 * A child made by fork closes its copies of all these descriptors: otherwise it would keep
 * connections of a killed parent open, and its peers would wait for a dead process. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/list.h"
#include "base/lock_order.h"
#include "stream/stream.h"

/* A silent host is given up after this time, of which a fourth passes before the first of 3 probes; unacknowledged bytes after
 * as long. */
enum { RT_SILENCE_S = 4, RT_KEEPALIVE_PROBES = 3 };

typedef struct rt_socket {
    rt_list node; /* in `sockets` */
    int descriptor;
    int error_number;
    bool connecting;
    bool loopback;
    uint32_t silence_s;           /* seconds until a silent host counts as dead */
    struct sockaddr_storage peer; /* the address that it is, or was last, connected to */
    struct addrinfo *addresses;   /* of the name; NULL once connected */
    const struct addrinfo *next;
    char text[RT_SOCKET_TEXT_SIZE];
} rt_socket;

/* ---- the sockets that a forked child closes ---- */

RT_STATIC_MUTEX(sockets_lock, RT_RANK_STREAM);
static rt_list sockets = {&sockets, &sockets};
static pthread_once_t sockets_once = PTHREAD_ONCE_INIT;

static void sockets_before_fork(void)
{
    pthread_mutex_lock(&sockets_lock);
}

static void sockets_after_fork(void)
{
    pthread_mutex_unlock(&sockets_lock);
}

static void sockets_in_child(void)
{
    RT_LIST_EACH(node, &sockets)
        close(RT_LIST_ENTRY(node, rt_socket, node)->descriptor);
    rt_list_init(&sockets);
    pthread_mutex_unlock(&sockets_lock);
}

static void sockets_watch_fork(void)
{
    pthread_atfork(sockets_before_fork, sockets_after_fork, sockets_in_child);
}

/* NULL without memory. */
static rt_socket *socket_new(uint32_t silence_s, rt_detail *detail)
{
    rt_socket *self = calloc(1, sizeof *self);
    if (self == NULL) {
        rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a control connection");
        return NULL;
    }
    self->descriptor = -1;
    self->silence_s = silence_s;
    pthread_once(&sockets_once, sockets_watch_fork);
    pthread_mutex_lock(&sockets_lock);
    rt_list_append(&sockets, &self->node);
    pthread_mutex_unlock(&sockets_lock);
    return self;
}

static uint32_t silence_of(const rt_pdevice *device)
{
    return device != NULL && device->silence_s != 0 ? device->silence_s : RT_SILENCE_S;
}

/* Every peer costs a descriptor, so where the limit of open files is reached and may be raised, it is: many systems allow a
 * process 1,024 at first and far more on request. Only then, since programs that use select() must stay below. */
static bool files_raise(int error)
{
    struct rlimit limit;
    if (error != EMFILE || getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max)
        return false;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

/* Replaces the descriptor by a new one; no fork comes between making the descriptor and recording
 * it. Returns 0 or an errno. */
static int socket_open(rt_socket *self, const struct addrinfo *address)
{
    pthread_mutex_lock(&sockets_lock);
    if (self->descriptor >= 0)
        close(self->descriptor);
    int error;
    do {
        self->descriptor = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
        error = self->descriptor < 0 ? errno : 0;
    } while (files_raise(error));
    pthread_mutex_unlock(&sockets_lock);
    return error;
}

static void socket_close(void *object)
{
    rt_socket *self = object;
    pthread_mutex_lock(&sockets_lock);
    rt_list_remove(&self->node);
    if (self->descriptor >= 0)
        close(self->descriptor);
    pthread_mutex_unlock(&sockets_lock);
    if (self->addresses != NULL)
        freeaddrinfo(self->addresses);
    free(self);
}

/* ---- listening ---- */

/* Returns 0 or an errno. */
static int address_bind(rt_socket *self, const struct addrinfo *address)
{
    const int on = 1;
    int error = socket_open(self, address);
    if (error != 0)
        return error;
    /* Lets a port be taken again while old connections of it linger; two live listeners still exclude each other. */
    setsockopt(self->descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(self->descriptor, address->ai_addr, address->ai_addrlen) == 0 && listen(self->descriptor, RT_SOCKET_BACKLOG) == 0)
        return 0;
    return errno;
}

static int binding_failed(int error, const char *address, rt_detail *detail)
{
    if (error == EADDRINUSE)
        return rt_fail(detail, RT_E_EXISTS, 0,
                       "cannot listen at %s: another listener has this port; choose another, or 0 for a free one", address);
    if (error == EADDRNOTAVAIL)
        return rt_fail(detail, RT_E_NOT_FOUND, 0, "cannot listen at %s: no interface of this machine has this address", address);
    return rt_fail(detail, RT_E_SYSTEM, error, "cannot listen at %s", address);
}

static int socket_listen(rt_pdevice *device, const char *address, void **listener_out, char *bound_out, size_t bound_capacity,
                         rt_detail *detail)
{
    struct addrinfo *addresses;
    int status = rt_address_resolve(address, true, &addresses, detail);
    if (status != RT_OK)
        return status;
    rt_socket *self = socket_new(silence_of(device), detail);
    if (self == NULL) {
        status = RT_E_NO_MEMORY;
        goto free_addresses;
    }
    int error = EADDRNOTAVAIL;
    for (const struct addrinfo *at = addresses; at != NULL && error != 0; at = at->ai_next)
        error = address_bind(self, at);
    if (error != 0) {
        status = binding_failed(error, address, detail);
        socket_close(self);
        goto free_addresses;
    }
    struct sockaddr_storage bound = {.ss_family = AF_UNSPEC};
    socklen_t size = sizeof bound;
    getsockname(self->descriptor, (struct sockaddr *)&bound, &size);
    self->loopback = rt_address_loopback((struct sockaddr *)&bound);
    rt_address_text((struct sockaddr *)&bound, self->text, sizeof self->text);
    snprintf(bound_out, bound_capacity, "%s", self->text);
    *listener_out = self;
free_addresses:
    freeaddrinfo(addresses);
    return status;
}

/* Detects the death of the other host. Best effort: without it the connection still works. */
static void socket_keep_alive(const rt_socket *self)
{
    const int on = 1, idle = (int)(self->silence_s + RT_KEEPALIVE_PROBES) / (RT_KEEPALIVE_PROBES + 1), interval = idle,
              probes = RT_KEEPALIVE_PROBES, descriptor = self->descriptor;
    const unsigned unanswered_ms = self->silence_s * 1000;
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    setsockopt(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
}

static const char *files_hint(int error)
{
    return error == EMFILE ? " (this process has as many files open as it may: raise the limit with ulimit -n)" : "";
}

static int socket_accept(void *listener, void **stream_out, rt_detail *detail)
{
    const rt_socket *from = listener;
    rt_socket *self = socket_new(from->silence_s, detail);
    if (self == NULL)
        return RT_E_NO_MEMORY;
    int error;
    struct sockaddr_storage peer = {.ss_family = AF_UNSPEC};
    socklen_t size = sizeof peer;
    pthread_mutex_lock(&sockets_lock);
    do {
        self->descriptor = accept4(from->descriptor, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        error = self->descriptor < 0 ? errno : 0;
    } while (files_raise(error));
    pthread_mutex_unlock(&sockets_lock);
    if (error != 0) {
        socket_close(self);
        if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM)
            return rt_fail(detail, RT_E_SYSTEM, error, "cannot accept a connection at %s%s", from->text, files_hint(error));
        return RT_E_AGAIN; /* no connection waits, or it is gone again: a connection's own errors are not the listener's */
    }
    socket_keep_alive(self);
    self->loopback = rt_address_loopback((struct sockaddr *)&peer);
    rt_address_unmap(&peer);
    rt_address_text((struct sockaddr *)&peer, self->text, sizeof self->text);
    *stream_out = self;
    return RT_OK;
}

/* ---- connecting ---- */

/* Begins to connect to the next address; replaces the descriptor. RT_OK: it goes on. Else no address is left. */
static int address_connect_next(rt_socket *self)
{
    while (self->next != NULL) {
        const struct addrinfo *address = self->next;
        self->next = address->ai_next;
        self->error_number = socket_open(self, address);
        if (self->error_number != 0)
            continue;
        memcpy(&self->peer, address->ai_addr, address->ai_addrlen);
        if (connect(self->descriptor, address->ai_addr, address->ai_addrlen) == 0 || errno == EINPROGRESS)
            return RT_OK;
        self->error_number = errno;
    }
    return RT_E_PEER_LOST;
}

static int connection_failed(const rt_socket *self, rt_detail *detail)
{
    if (self->error_number == ECONNREFUSED)
        return rt_fail(detail, RT_E_REFUSED, 0, "nobody listens at %s", self->text);
    if (self->error_number == EMFILE)
        return rt_fail(detail, RT_E_SYSTEM, EMFILE, "cannot connect to %s%s", self->text, files_hint(EMFILE));
    return rt_fail(detail, RT_E_PEER_LOST, self->error_number, "cannot reach %s", self->text);
}

static int socket_connect(rt_pdevice *device, const char *address, void **stream_out, rt_detail *detail)
{
    struct addrinfo *addresses;
    int status = rt_address_resolve(address, false, &addresses, detail);
    if (status != RT_OK)
        return status;
    rt_socket *self = socket_new(silence_of(device), detail);
    if (self == NULL) {
        freeaddrinfo(addresses);
        return RT_E_NO_MEMORY;
    }
    self->connecting = true;
    self->addresses = addresses;
    self->next = addresses;
    self->loopback = true;
    for (const struct addrinfo *at = addresses; at != NULL; at = at->ai_next)
        self->loopback = self->loopback && rt_address_loopback(at->ai_addr);
    snprintf(self->text, sizeof self->text, "%s", address);
    if (address_connect_next(self) != RT_OK) {
        status = connection_failed(self, detail);
        socket_close(self);
        return status;
    }
    *stream_out = self;
    return RT_OK;
}

/* A port that no socket is bound to can be connected to itself: TCP allows both ends to be one
 * socket. */
static bool socket_is_own_end(int descriptor)
{
    struct sockaddr_storage own = {.ss_family = AF_UNSPEC}, peer = {.ss_family = AF_UNSPEC};
    socklen_t own_size = sizeof own, peer_size = sizeof peer;
    return getsockname(descriptor, (struct sockaddr *)&own, &own_size) == 0 &&
           getpeername(descriptor, (struct sockaddr *)&peer, &peer_size) == 0 && own_size == peer_size &&
           memcmp(&own, &peer, own_size) == 0;
}

int rt_socket_connected(void *stream, rt_detail *detail)
{
    rt_socket *self = stream;
    if (!self->connecting)
        return RT_OK;
    struct pollfd look = {.fd = self->descriptor, .events = POLLOUT};
    if (poll(&look, 1, 0) == 0)
        return RT_E_AGAIN;
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(self->descriptor, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        error = errno;
    if (error == 0 && socket_is_own_end(self->descriptor))
        error = ECONNREFUSED;
    if (error != 0) {
        self->error_number = error;
        return address_connect_next(self) == RT_OK ? RT_E_AGAIN : connection_failed(self, detail);
    }
    socket_keep_alive(self);
    self->connecting = false;
    self->error_number = 0;
    freeaddrinfo(self->addresses);
    self->addresses = NULL;
    return RT_OK;
}

/* ---- moving bytes ---- */

static int64_t stream_result(rt_socket *self, ssize_t moved)
{
    if (moved > 0)
        return moved;
    if (moved < 0 && (errno == EAGAIN || errno == EINTR || self->connecting))
        return RT_E_AGAIN;
    self->error_number = moved < 0 ? errno : 0;
    return RT_E_PEER_LOST;
}

static int64_t socket_read(void *stream, void *bytes, size_t capacity)
{
    rt_socket *self = stream;
    return stream_result(self, recv(self->descriptor, bytes, capacity, 0));
}

static int64_t socket_write(void *stream, const void *bytes, size_t size)
{
    rt_socket *self = stream;
    return stream_result(self, send(self->descriptor, bytes, size, MSG_NOSIGNAL));
}

const rt_stream_ops rt_socket_ops = {
    socket_listen,  socket_accept, socket_close, /* unlisten */
    socket_connect, socket_read,   socket_write, socket_close,
};

/* ---- queries ---- */

int rt_socket_descriptor(const void *socket)
{
    return ((const rt_socket *)socket)->descriptor;
}

bool rt_socket_connecting(const void *stream)
{
    return ((const rt_socket *)stream)->connecting;
}

bool rt_socket_loopback(const void *socket)
{
    return ((const rt_socket *)socket)->loopback;
}

const char *rt_socket_text(const void *socket)
{
    return ((const rt_socket *)socket)->text;
}

int rt_socket_error(const void *stream)
{
    return ((const rt_socket *)stream)->error_number;
}

bool rt_socket_readable(const void *stream)
{
    struct pollfd look = {.fd = ((const rt_socket *)stream)->descriptor, .events = POLLIN};
    return poll(&look, 1, 0) != 0;
}

/* Both ends of a connection. False: it ended. */
static bool ends_of(const rt_socket *self, struct sockaddr_storage *own, struct sockaddr_storage *peer)
{
    socklen_t own_size = sizeof *own, peer_size = sizeof *peer;
    memset(own, 0, sizeof *own);
    memset(peer, 0, sizeof *peer);
    if (getsockname(self->descriptor, (struct sockaddr *)own, &own_size) != 0 ||
        getpeername(self->descriptor, (struct sockaddr *)peer, &peer_size) != 0)
        return false;
    rt_address_unmap(own);
    rt_address_unmap(peer);
    return true;
}

static int owner_of(const struct sockaddr_storage *local, const struct sockaddr_storage *remote, uid_t *user_out)
{
    if (!rt_address_loopback((const struct sockaddr *)local))
        return RT_E_NOT_FOUND;
    int status = rt_owner_by_netlink(local, remote, user_out);
    return status == RT_E_UNAVAILABLE ? rt_owner_by_proc(local, remote, user_out) : status;
}

int rt_socket_same_user(const void *stream, rt_detail *detail)
{
    const rt_socket *self = stream;
    struct sockaddr_storage own, peer;
    if (!ends_of(self, &own, &peer))
        return RT_E_AGAIN;
    uid_t user = 0;
    int status = owner_of(&peer, &own, &user);
    if (status == RT_E_AGAIN || (status == RT_OK && user == geteuid()))
        return status;
    if (status == RT_OK)
        return rt_fail(detail, RT_E_AUTH, 0,
                       "%s belongs to user %u and this process to user %u: without a secret only processes of "
                       "one user are joined; give both ends the same secret (secret= or RDMATENSOR_SECRET)",
                       self->text, user, geteuid());
    return rt_fail(detail, RT_E_AUTH, 0,
                   "the kernel cannot tell which user is at the other end of the connection with %s: give both ends "
                   "the same secret (secret= or RDMATENSOR_SECRET)",
                   self->text);
}

uint64_t rt_socket_origin(const void *stream)
{
    struct sockaddr_storage own, peer;
    uid_t user;
    uint64_t origin = 0;
    if (!ends_of(stream, &own, &peer))
        return 0;
    if (rt_owner_by_netlink(&peer, &own, &user) == RT_OK) /* by an address of another interface, too */
        return (uint64_t)user + 1;
    if (peer.ss_family == AF_INET) {
        origin = ((const struct sockaddr_in *)(const void *)&peer)->sin_addr.s_addr;
        return origin | (uint64_t)1 << 32;
    }
    memcpy(&origin, &((const struct sockaddr_in6 *)(const void *)&peer)->sin6_addr,
           sizeof origin); /* the network of the address: one host has many addresses */
    return origin | (uint64_t)1 << 63;
}

int rt_socket_foreign_listener(const void *stream, rt_detail *detail)
{
    const rt_socket *self = stream;
    struct sockaddr_storage peer = self->peer;
    uid_t user;
    rt_address_unmap(&peer);
    if (!rt_address_loopback((struct sockaddr *)&peer))
        return RT_OK;
    int status = rt_listener_owner_by_netlink(&peer, &user);
    if (status == RT_E_UNAVAILABLE)
        status = rt_listener_owner_by_proc(&peer, &user);
    if (status != RT_OK || user == geteuid())
        return RT_OK;
    return rt_fail(
        detail, RT_E_AUTH, 0,
        "the listener at %s belongs to user %u and this process to user %u: without a secret only processes of one user "
        "are joined; give both ends the same secret (secret= or RDMATENSOR_SECRET)",
        self->text, user, geteuid());
}
