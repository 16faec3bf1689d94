/* owner.c: asks the kernel which user owns the other end of a TCP connection within this machine.
 *
 * It asks sock_diag first, which looks up one connection; where that is not allowed, it reads
 * /proc/net/tcp, which lists all of them. An end without an inode belongs to no process: it was
 * closed, or still waits to be accepted. The kernel then reports user 0 for it, which must not be
 * believed. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "stream/stream.h"

typedef struct diag_request {
    struct nlmsghdr header;
    struct inet_diag_req_v2 body;
} diag_request;

static size_t address_bytes(const struct sockaddr_storage *address, const void **bytes_out, in_port_t *port_out)
{
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)address;
        *bytes_out = &v4->sin_addr;
        *port_out = v4->sin_port;
        return sizeof v4->sin_addr;
    }
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)address;
    *bytes_out = &v6->sin6_addr;
    *port_out = v6->sin6_port;
    return sizeof v6->sin6_addr;
}

static struct inet_diag_sockid socket_identity(const struct sockaddr_storage *local, const struct sockaddr_storage *remote)
{
    struct inet_diag_sockid id = {.idiag_cookie = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE}};
    const void *bytes;
    size_t size = address_bytes(local, &bytes, &id.idiag_sport);
    memcpy(id.idiag_src, bytes, size);
    size = address_bytes(remote, &bytes, &id.idiag_dport);
    memcpy(id.idiag_dst, bytes, size);
    return id;
}

/* Checks that the answer is about this connection: for an unknown connection the kernel falls back
 * to a listener on its port. The listener is the right answer where `wanted` has no remote port. */
static int answer_judge(const void *answer, size_t size, const struct inet_diag_sockid *wanted, uid_t *user_out)
{
    struct nlmsghdr header;
    if (size < sizeof header)
        return RT_E_UNAVAILABLE;
    memcpy(&header, answer, sizeof header);
    if (header.nlmsg_type == NLMSG_ERROR) {
        struct nlmsgerr error;
        if (size < NLMSG_HDRLEN + sizeof error)
            return RT_E_UNAVAILABLE;
        memcpy(&error, (const char *)answer + NLMSG_HDRLEN, sizeof error);
        return error.error == -ENOENT ? RT_E_NOT_FOUND : RT_E_UNAVAILABLE;
    }
    struct inet_diag_msg found;
    if (header.nlmsg_type != SOCK_DIAG_BY_FAMILY || size < NLMSG_HDRLEN + sizeof found)
        return RT_E_UNAVAILABLE;
    memcpy(&found, (const char *)answer + NLMSG_HDRLEN, sizeof found);
    bool one = found.id.idiag_dport == wanted->idiag_dport &&
               memcmp(found.id.idiag_src, wanted->idiag_src, sizeof found.id.idiag_src) == 0 &&
               memcmp(found.id.idiag_dst, wanted->idiag_dst, sizeof found.id.idiag_dst) == 0;
    if (found.id.idiag_sport != wanted->idiag_sport || (wanted->idiag_dport == 0 ? found.idiag_state != TCP_LISTEN : !one))
        return RT_E_NOT_FOUND;
    if (found.idiag_inode == 0)
        return RT_E_AGAIN;
    *user_out = found.idiag_uid;
    return RT_OK;
}

int rt_owner_by_netlink(const struct sockaddr_storage *local, const struct sockaddr_storage *remote, uid_t *user_out)
{
    int netlink = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (netlink < 0)
        return RT_E_UNAVAILABLE;
    const struct timeval patience = {.tv_sec = 1};
    diag_request request = {
        .header = {.nlmsg_len = sizeof request, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
        .body = {.sdiag_family = (uint8_t)local->ss_family,
                 .sdiag_protocol = IPPROTO_TCP,
                 .idiag_states = UINT32_MAX,
                 .id = socket_identity(local, remote)},
    };
    const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    _Alignas(struct nlmsghdr) char answer[1024];
    ssize_t size = -1;
    if (setsockopt(netlink, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
        sendto(netlink, &request, sizeof request, 0, (const struct sockaddr *)&kernel, sizeof kernel) ==
            (ssize_t)sizeof request) {
        do
            size = recv(netlink, answer, sizeof answer, 0);
        while (size < 0 && errno == EINTR);
    }
    close(netlink);
    return size < 0 ? RT_E_UNAVAILABLE : answer_judge(answer, (size_t)size, &request.body.id, user_out);
}

/* The same address with port 0, from which no connection comes. */
static struct sockaddr_storage address_portless(const struct sockaddr_storage *address)
{
    struct sockaddr_storage without = *address;
    if (without.ss_family == AF_INET)
        ((struct sockaddr_in *)(void *)&without)->sin_port = 0;
    else
        ((struct sockaddr_in6 *)(void *)&without)->sin6_port = 0;
    return without;
}

int rt_listener_owner_by_netlink(const struct sockaddr_storage *address, uid_t *user_out)
{
    const struct sockaddr_storage nobody = address_portless(address);
    return rt_owner_by_netlink(address, &nobody, user_out);
}

/* The address as /proc/net/tcp writes it: each word of it as a number in this machine's byte order,
 * then the port. */
static void proc_text(const struct sockaddr_storage *address, char *text_out, size_t capacity)
{
    const void *bytes;
    in_port_t port;
    size_t size = address_bytes(address, &bytes, &port), used = 0;
    for (size_t at = 0; at < size; at += 4) {
        uint32_t word;
        memcpy(&word, (const char *)bytes + at, sizeof word);
        used += (size_t)snprintf(text_out + used, capacity - used, "%08" PRIX32, word);
    }
    snprintf(text_out + used, capacity - used, ":%04X", ntohs(port));
}

/* Whether the local address of a line is `wanted`, or stands for all addresses with its port. */
static bool address_listens(const char *found, const char *wanted)
{
    const char *port = strchr(found, ':'), *wanted_port = strchr(wanted, ':');
    if (port == NULL || wanted_port == NULL || strcmp(port, wanted_port) != 0)
        return false;
    return strcmp(found, wanted) == 0 || strspn(found, "0") == (size_t)(port - found);
}

/* Looks through a table of the kernel's. `remote` is NULL for the listener at `local`. */
static int table_search(const char *path, const char *local, const char *remote, uid_t *user_out)
{
    FILE *table = fopen(path, "re");
    if (table == NULL)
        return RT_E_UNAVAILABLE;
    char line[512];
    int status = RT_E_NOT_FOUND;
    while (status == RT_E_NOT_FOUND && fgets(line, sizeof line, table) != NULL) {
        char found_local[48], found_remote[48];
        unsigned long user, inode;
        unsigned state;
        if (sscanf(line, " %*[^:]: %47s %47s %x %*s %*s %*s %lu %*s %lu", found_local, found_remote, &state, &user, &inode) != 5)
            continue;
        bool fits = remote == NULL ? state == TCP_LISTEN && address_listens(found_local, local)
                                   : strcmp(found_local, local) == 0 && strcmp(found_remote, remote) == 0;
        if (!fits)
            continue;
        status = inode == 0 ? RT_E_AGAIN : RT_OK;
        if (status == RT_OK)
            *user_out = (uid_t)user;
    }
    fclose(table);
    return status;
}

int rt_owner_by_proc(const struct sockaddr_storage *local, const struct sockaddr_storage *remote, uid_t *user_out)
{
    char local_text[48], remote_text[48];
    proc_text(local, local_text, sizeof local_text);
    proc_text(remote, remote_text, sizeof remote_text);
    return table_search(local->ss_family == AF_INET ? "/proc/net/tcp" : "/proc/net/tcp6", local_text, remote_text, user_out);
}

int rt_listener_owner_by_proc(const struct sockaddr_storage *address, uid_t *user_out)
{
    char text[48];
    proc_text(address, text, sizeof text);
    int status = address->ss_family == AF_INET ? table_search("/proc/net/tcp", text, NULL, user_out) : RT_E_NOT_FOUND;
    if (status != RT_E_NOT_FOUND)
        return status;
    if (address->ss_family == AF_INET) /* or one that listens for both families */
        snprintf(text, sizeof text, "%032d:%04X", 0, ntohs(((const struct sockaddr_in *)(const void *)address)->sin_port));
    return table_search("/proc/net/tcp6", text, NULL, user_out);
}
