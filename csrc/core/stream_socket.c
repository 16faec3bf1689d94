/* stream_socket.c: rt_stream_ops over TCP. Nothing blocks, but for a slice where a name is resolved; a connection goes through the addresses of a
 * name one after the other. Who may talk to whom is decided in control.c and listener.c.
 *
 * A child made by fork closes its copies of all these descriptors: otherwise it would keep connections of a parent that
 * was killed alive, and its peers would wait for a dead process. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/list.h"
#include "core/stream.h"

/* A silent host is given up after 1 s without traffic and 3 probes of 1 s; unacknowledged bytes after as long. */
enum { RT_KEEPALIVE_IDLE_S = 1, RT_KEEPALIVE_INTERVAL_S = 1, RT_KEEPALIVE_PROBES = 3, RT_UNANSWERED_MS = 4000 };

typedef struct rt_socket {
    rt_list node; /* in `sockets` */
    int descriptor;
    int error_number;
    bool connecting;
    bool loopback;
    struct addrinfo *addresses; /* of the name; NULL once connected */
    const struct addrinfo *next;
    char text[RT_SOCKET_TEXT_SIZE];
} rt_socket;

/* ---- what a forked child closes ---- */

static pthread_mutex_t sockets_lock = PTHREAD_MUTEX_INITIALIZER;
static rt_list sockets = {&sockets, &sockets};
static pthread_once_t sockets_once = PTHREAD_ONCE_INIT;

static void before_fork(void)
{
    pthread_mutex_lock(&sockets_lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&sockets_lock);
}

static void in_child(void)
{
    RT_LIST_EACH(node, &sockets)
        close(RT_LIST_ENTRY(node, rt_socket, node)->descriptor);
    rt_list_init(&sockets);
    pthread_mutex_unlock(&sockets_lock);
}

static void watch_fork(void)
{
    pthread_atfork(before_fork, after_fork, in_child);
}

static int socket_new(rt_socket **out, rt_detail *detail)
{
    rt_socket *self = calloc(1, sizeof *self);
    if (self == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a control connection");
    self->descriptor = -1;
    pthread_once(&sockets_once, watch_fork);
    pthread_mutex_lock(&sockets_lock);
    rt_list_append(&sockets, &self->node);
    pthread_mutex_unlock(&sockets_lock);
    *out = self;
    return RT_OK;
}

/* Replaces the descriptor by a new one; no fork comes between its making and its being known. Returns 0 or an errno. */
static int socket_open(rt_socket *self, const struct addrinfo *address)
{
    pthread_mutex_lock(&sockets_lock);
    if (self->descriptor >= 0)
        close(self->descriptor);
    self->descriptor = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    int error = self->descriptor < 0 ? errno : 0;
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
static int bind_one(rt_socket *self, const struct addrinfo *address)
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

static int bind_failed(int error, const char *address, rt_detail *detail)
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
    (void)device;
    struct addrinfo *addresses;
    int status = rt_address_resolve(address, true, &addresses, detail);
    if (status != RT_OK)
        return status;
    rt_socket *self;
    status = socket_new(&self, detail);
    if (status != RT_OK)
        goto free_addresses;
    int error = EADDRNOTAVAIL;
    for (const struct addrinfo *at = addresses; at != NULL && error != 0; at = at->ai_next)
        error = bind_one(self, at);
    if (error != 0) {
        status = bind_failed(error, address, detail);
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

/* Keeps the other host's death from going unnoticed. Best effort: without it the connection still works. */
static void keep_alive(int descriptor)
{
    const int on = 1, idle = RT_KEEPALIVE_IDLE_S, interval = RT_KEEPALIVE_INTERVAL_S, probes = RT_KEEPALIVE_PROBES;
    const unsigned unanswered_ms = RT_UNANSWERED_MS;
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    setsockopt(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
}

static int socket_accept(void *listener, void **stream_out, rt_detail *detail)
{
    const rt_socket *from = listener;
    rt_socket *self;
    int status = socket_new(&self, detail);
    if (status != RT_OK)
        return status;
    struct sockaddr_storage peer = {.ss_family = AF_UNSPEC};
    socklen_t size = sizeof peer;
    pthread_mutex_lock(&sockets_lock);
    self->descriptor = accept4(from->descriptor, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    int error = self->descriptor < 0 ? errno : 0;
    pthread_mutex_unlock(&sockets_lock);
    if (error != 0) {
        socket_close(self);
        if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM)
            return rt_fail(detail, RT_E_SYSTEM, error, "cannot accept a connection at %s", from->text);
        return RT_E_AGAIN; /* nobody there, or gone again: a connection's own errors are not the listener's */
    }
    keep_alive(self->descriptor);
    self->loopback = rt_address_loopback((struct sockaddr *)&peer);
    rt_address_unmap(&peer);
    rt_address_text((struct sockaddr *)&peer, self->text, sizeof self->text);
    *stream_out = self;
    return RT_OK;
}

/* ---- connecting ---- */

/* Begins to connect to the next address; replaces the descriptor. RT_OK: it goes on. Else no address is left. */
static int connect_next(rt_socket *self)
{
    while (self->next != NULL) {
        const struct addrinfo *address = self->next;
        self->next = address->ai_next;
        self->error_number = socket_open(self, address);
        if (self->error_number != 0)
            continue;
        if (connect(self->descriptor, address->ai_addr, address->ai_addrlen) == 0 || errno == EINPROGRESS)
            return RT_OK;
        self->error_number = errno;
    }
    return RT_E_PEER_LOST;
}

static int connect_failed(const rt_socket *self, rt_detail *detail)
{
    if (self->error_number == ECONNREFUSED)
        return rt_fail(detail, RT_E_REFUSED, 0, "nobody listens at %s", self->text);
    return rt_fail(detail, RT_E_PEER_LOST, self->error_number, "cannot reach %s", self->text);
}

static int socket_connect(rt_pdevice *device, const char *address, void **stream_out, rt_detail *detail)
{
    (void)device;
    struct addrinfo *addresses;
    int status = rt_address_resolve(address, false, &addresses, detail);
    if (status != RT_OK)
        return status;
    rt_socket *self;
    status = socket_new(&self, detail);
    if (status != RT_OK) {
        freeaddrinfo(addresses);
        return status;
    }
    self->connecting = true;
    self->addresses = addresses;
    self->next = addresses;
    self->loopback = true;
    for (const struct addrinfo *at = addresses; at != NULL; at = at->ai_next)
        self->loopback = self->loopback && rt_address_loopback(at->ai_addr);
    snprintf(self->text, sizeof self->text, "%s", address);
    if (connect_next(self) != RT_OK) {
        status = connect_failed(self, detail);
        socket_close(self);
        return status;
    }
    *stream_out = self;
    return RT_OK;
}

/* A port that nobody has can be connected to itself: TCP allows both ends to be one socket. */
static bool is_own_end(int descriptor)
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
    if (error == 0 && is_own_end(self->descriptor))
        error = ECONNREFUSED;
    if (error != 0) {
        self->error_number = error;
        return connect_next(self) == RT_OK ? RT_E_AGAIN : connect_failed(self, detail);
    }
    keep_alive(self->descriptor);
    self->connecting = false;
    self->error_number = 0;
    freeaddrinfo(self->addresses);
    self->addresses = NULL;
    return RT_OK;
}

/* ---- moving bytes ---- */

static int64_t moved_or(rt_socket *self, ssize_t moved)
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
    return moved_or(self, recv(self->descriptor, bytes, capacity, 0));
}

static int64_t socket_write(void *stream, const void *bytes, size_t size)
{
    rt_socket *self = stream;
    return moved_or(self, send(self->descriptor, bytes, size, MSG_NOSIGNAL));
}

const rt_stream_ops rt_socket_ops = {
    socket_listen,  socket_accept, socket_close, /* unlisten */
    socket_connect, socket_read,   socket_write, socket_close,
};

/* ---- questions ---- */

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

int rt_socket_same_user(const void *stream, rt_detail *detail)
{
    const rt_socket *self = stream;
    struct sockaddr_storage own = {.ss_family = AF_UNSPEC}, peer = {.ss_family = AF_UNSPEC};
    socklen_t own_size = sizeof own, peer_size = sizeof peer;
    if (getsockname(self->descriptor, (struct sockaddr *)&own, &own_size) != 0 ||
        getpeername(self->descriptor, (struct sockaddr *)&peer, &peer_size) != 0)
        return RT_E_AGAIN; /* the connection ended */
    rt_address_unmap(&own);
    rt_address_unmap(&peer);
    uid_t user = 0;
    int status = RT_E_NOT_FOUND;
    if (rt_address_loopback((struct sockaddr *)&peer)) {
        status = rt_owner_by_netlink(&peer, &own, &user);
        if (status == RT_E_UNAVAILABLE)
            status = rt_owner_by_proc(&peer, &own, &user);
    }
    if (status == RT_E_AGAIN || (status == RT_OK && user == geteuid()))
        return status;
    if (status == RT_OK)
        return rt_fail(detail, RT_E_AUTH, 0,
                       "%s belongs to user %u and this process to user %u: without a secret only processes of "
                       "one user are joined; give both ends the same secret",
                       self->text, user, geteuid());
    return rt_fail(detail, RT_E_AUTH, 0,
                   "the kernel cannot tell which user is at the other end of the connection with %s: give both ends "
                   "the same secret (secret= or RDMATENSOR_SECRET)",
                   self->text);
}
