/* socket.c: addresses of sockets between devices, the user at the other end, and descriptors that the service sleeps on. */
#include "provider/shm/shm.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

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

bool shm_socket_refuse_rights(int descriptor, bool refuse)
{
    const int passed = !refuse;
    return setsockopt(descriptor, SOL_SOCKET, SO_PASSRIGHTS, &passed, sizeof passed) == 0;
}

int shm_watch(shm_device *device, shm_source *source, rt_detail *detail)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = source}};
    if (epoll_ctl(device->epoll, EPOLL_CTL_ADD, source->descriptor, &event) != 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot watch a socket of shm");
    return RT_OK;
}

/* Unwatch explicitly, not by closing: a forked child may hold the same socket open, and its events
 * would point to freed memory. */
void shm_unwatch(shm_device *device, const shm_source *source)
{
    epoll_ctl(device->epoll, EPOLL_CTL_DEL, source->descriptor, NULL);
}
