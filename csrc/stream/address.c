/* address.c: "host:port" to socket addresses and back. Names are resolved in resolve.c. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stream/stream.h"

static int address_malformed(const char *text, const char *why, rt_detail *detail)
{
    return rt_fail(detail, RT_E_INVALID, 0, "address '%.100s' %s: write host:port, as in 127.0.0.1:4711 or [::1]:4711", text,
                   why);
}

/* Finds the host and the port in the text. */
static int address_split(const char *text, char host[RT_HOST_SIZE], char port[RT_PORT_SIZE], rt_detail *detail)
{
    const char *colon = strrchr(text, ':');
    if (colon == NULL)
        return address_malformed(text, "has no port", detail);
    const char *begin = text, *end = colon;
    if (*begin == '[') {
        if (end - begin < 2 || end[-1] != ']')
            return address_malformed(text, "has an open bracket", detail);
        begin++;
        end--;
    } else if (memchr(begin, ':', (size_t)(end - begin)) != NULL) {
        return address_malformed(text, "is an IPv6 address without brackets", detail);
    }
    if (begin == end)
        return address_malformed(text, "has no host", detail);
    if (end - begin >= RT_HOST_SIZE)
        return address_malformed(text, "is too long", detail);
    size_t digits = strlen(colon + 1);
    if (digits == 0 || digits >= RT_PORT_SIZE || strspn(colon + 1, "0123456789") != digits || atoi(colon + 1) > UINT16_MAX)
        return address_malformed(text, "has no port between 0 and 65535", detail);
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    memcpy(port, colon + 1, digits + 1);
    return RT_OK;
}

int rt_address_resolve(const char *text, bool passive, struct addrinfo **addresses_out, rt_detail *detail)
{
    char host[RT_HOST_SIZE], port[RT_PORT_SIZE];
    int status = address_split(text, host, port, detail);
    if (status != RT_OK)
        return status;
    if (!passive && atoi(port) == 0)
        return address_malformed(text, "has port 0, where nobody can listen", detail);
    const struct addrinfo hints = {
        .ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0),
        .ai_family = AF_UNSPEC,
        .ai_socktype = SOCK_STREAM,
        .ai_protocol = IPPROTO_TCP,
    };
    int result = 0;
    status = rt_name_resolve(host, port, &hints, &result, addresses_out);
    if (status != RT_OK)
        return rt_fail(detail, status, 0, "cannot resolve '%s': %s", host,
                       status == RT_E_NO_MEMORY ? "no memory or no thread for it" : "no name server has answered yet");
    if (result == EAI_MEMORY)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "cannot resolve '%s': out of memory", host);
    if (result == EAI_AGAIN) /* the error number tells that it may be temporary */
        return rt_fail(detail, RT_E_NOT_FOUND, EAGAIN, "cannot resolve '%s' now: %s", host, gai_strerror(result));
    if (result == EAI_SYSTEM)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot resolve '%s'", host);
    if (result != 0)
        return rt_fail(detail, RT_E_NOT_FOUND, 0, "cannot resolve '%s': %s; check the name, or write the address itself", host,
                       gai_strerror(result));
    return RT_OK;
}

void rt_address_text(const struct sockaddr *address, char *text_out, size_t capacity)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)address;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        snprintf(text_out, capacity, "%s:%u", host, ntohs(v4->sin_port));
    } else if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)address;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        if (v6->sin6_scope_id != 0)
            snprintf(text_out, capacity, "[%s%%%u]:%u", host, v6->sin6_scope_id, ntohs(v6->sin6_port));
        else
            snprintf(text_out, capacity, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        snprintf(text_out, capacity, "an unknown address");
    }
}

void rt_address_unmap(struct sockaddr_storage *address)
{
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)address;
    if (address->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
        return;
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = v6->sin6_port};
    memcpy(&v4.sin_addr, v6->sin6_addr.s6_addr + 12, 4);
    memset(address, 0, sizeof *address);
    memcpy(address, &v4, sizeof v4);
}

bool rt_address_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    if (address->sa_family != AF_INET6)
        return false;
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(v6) || (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == IN_LOOPBACKNET);
}
