/* stream.h: byte streams for the control connection: rt_stream_ops of the seam over non-blocking
 * TCP, and the features that only TCP has: descriptors to sleep on, addresses, and the owner of the
 * other end.
 *
 * Providers with streams of their own (virtual time) do not use these files. Nothing in them knows
 * the protocol. */
#ifndef RT_STREAM_STREAM_H
#define RT_STREAM_STREAM_H

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "base/status.h"
#include "provider/provider.h"

enum {
    RT_SOCKET_TEXT_SIZE = 96, /* "[v6 address%scope]:port" and its zero */
    RT_SOCKET_BACKLOG = 1024, /* connections that the kernel keeps for a listener; one more is asked to try again by TCP */
};

/* TCP behind the seam's table; the device is not used. `listen` and `connect` sleep up to a slice
 * while a name is resolved: call them without locks, and again after RT_E_AGAIN and
 * RT_E_INTERRUPTED. connect only begins the connection; see rt_socket_connected. */
extern const rt_stream_ops rt_socket_ops;

/* For a listener or stream of rt_socket_ops: the descriptor to sleep on. */
int rt_socket_descriptor(const void *socket);

/* RT_OK once connected, RT_E_AGAIN while connecting, else the reason why no address of the name
 * could be connected: RT_E_REFUSED or RT_E_PEER_LOST. While connecting, the descriptor may be
 * replaced by one for the next address of the name. */
int rt_socket_connected(void *stream, rt_detail *detail);

/* Whether rt_socket_connected has yet to give its answer. */
bool rt_socket_connecting(const void *stream);

/* Whether a listener is bound, or every address that a stream may be connected to leads, to this machine only. */
bool rt_socket_loopback(const void *socket);

/* RT_OK: the other end belongs to a process of this process's user. RT_E_AGAIN: no process owns it now, so that it was
 * closed, or not accepted yet. RT_E_AUTH: another user's, or the kernel cannot tell. */
int rt_socket_same_user(const void *stream, rt_detail *detail);

/* A number for the origin of an accepted connection, as far as it can be determined at once: the
 * same number for connections of one user of this machine, or of one other machine. */
uint64_t rt_socket_origin(const void *stream);

/* The reason why a listener of this machine may have closed a connection without sending a byte:
 * RT_E_AUTH, it belongs to another user. RT_OK: it does not, or that cannot be determined. */
int rt_socket_foreign_listener(const void *stream, rt_detail *detail);

/* The address that was asked for, or that an accepted connection came from. */
const char *rt_socket_text(const void *socket);

/* The reason why a read or write returned RT_E_PEER_LOST: an errno, or 0 at the end of the
 * stream. */
int rt_socket_error(const void *stream);

/* Whether bytes (or the end) can be read, without reading them. */
bool rt_socket_readable(const void *stream);

/* ---- resolve.c ---- */

enum { RT_HOST_SIZE = 256, RT_PORT_SIZE = 6 };

/* Runs getaddrinfo for a slice: RT_OK with its result, RT_E_AGAIN and RT_E_INTERRUPTED: call again,
 * RT_E_NO_MEMORY. */
int rt_name_resolve(const char *host, const char *port, const struct addrinfo *hints, int *result_out,
                    struct addrinfo **addresses_out);

/* ---- address.c ---- */

/* "host:port" or "[v6]:port" to addresses that the caller frees with freeaddrinfo. RT_E_INVALID, RT_E_NOT_FOUND; RT_E_AGAIN,
 * RT_E_INTERRUPTED: a name is not resolved yet, call again. Sleeps up to a slice: never under a lock. */
int rt_address_resolve(const char *text, bool passive, struct addrinfo **addresses_out, rt_detail *detail);
void rt_address_text(const struct sockaddr *address, char *text_out, size_t capacity);
bool rt_address_loopback(const struct sockaddr *address);
/* Turns an IPv4-mapped IPv6 address back into an IPv4 address. */
void rt_address_unmap(struct sockaddr_storage *address);

/* ---- owner.c ---- */

/* The owner of the TCP socket of this machine that is bound to `local` and connected to `remote`.
 * RT_OK; RT_E_AGAIN: no process owns it; RT_E_NOT_FOUND: there is no such socket; RT_E_UNAVAILABLE:
 * this way of asking does not work here. */
int rt_owner_by_netlink(const struct sockaddr_storage *local, const struct sockaddr_storage *remote, uid_t *user_out);
int rt_owner_by_proc(const struct sockaddr_storage *local, const struct sockaddr_storage *remote, uid_t *user_out);

/* The same two ways of asking, for the socket of this machine that listens for connections to
 * `address`. */
int rt_listener_owner_by_netlink(const struct sockaddr_storage *address, uid_t *user_out);
int rt_listener_owner_by_proc(const struct sockaddr_storage *address, uid_t *user_out);

#endif
