/* gid.c: the choice among a port's addresses (GIDs): the rule, and reading the table it works on
 * (RDMA-RULES 19).
 *
 * On Ethernet: RoCEv2 with an IPv4-mapped address, then a global IPv6 one, then a link-local one,
 * then RoCEv1; the lowest index among equals. A table may also have addresses of other network
 * namespaces, of VLANs and of bonds, so those that an interface of this namespace has come first, and
 * before them those of an interface that the URL names. On InfiniBand: index 0. The URL's gid=INDEX overrides the rule, gid=NETWORK narrows it. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

enum { GIDS_MAX = 256 }; /* an index travels in 8 bits of the address vector */

static bool gid_is_ipv4_mapped(const union ibv_gid *gid)
{
    static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
    return memcmp(gid->raw, prefix, sizeof prefix) == 0;
}

static bool gid_is_link_local(const union ibv_gid *gid)
{
    return gid->raw[0] == 0xfe && (gid->raw[1] & 0xc0) == 0x80;
}

verbs_gid_kind verbs_gid_classify(uint32_t type, const union ibv_gid *bytes)
{
    static const union ibv_gid empty;
    if (memcmp(bytes, &empty, sizeof empty) == 0)
        return VERBS_GID_NONE;
    switch ((enum ibv_gid_type)type) {
    case IBV_GID_TYPE_IB: return VERBS_GID_IB;
    case IBV_GID_TYPE_ROCE_V1: return VERBS_GID_V1;
    case IBV_GID_TYPE_ROCE_V2:
        if (gid_is_ipv4_mapped(bytes))
            return VERBS_GID_V2_IPV4;
        return gid_is_link_local(bytes) ? VERBS_GID_V2_LINK_LOCAL : VERBS_GID_V2_IPV6;
    }
    return VERBS_GID_NONE;
}

static bool gid_is_better(const verbs_gid *gid, const verbs_gid *than)
{
    if (gid->asked != than->asked)
        return gid->asked;
    return gid->local != than->local ? gid->local : gid->kind > than->kind;
}

const verbs_gid *verbs_gid_choose(const verbs_gid *gids, size_t count)
{
    const verbs_gid *best = NULL;
    for (size_t index = 0; index < count; index++)
        if (gids[index].kind != VERBS_GID_NONE && (best == NULL || gid_is_better(&gids[index], best)))
            best = &gids[index];
    return best;
}

static bool gid_is_of(const union ibv_gid *gid, const verbs_network *network)
{
    uint32_t bytes = network->bits / 8, rest = network->bits % 8;
    if (memcmp(gid->raw, network->address.raw, bytes) != 0)
        return false;
    return rest == 0 || ((gid->raw[bytes] ^ network->address.raw[bytes]) & (uint8_t)(0xff00u >> rest)) == 0;
}

/* Marks the GIDs that are addresses of this network namespace. Without a list of those none is. */
static void gids_mark_local(verbs_gid *gids, size_t count)
{
    struct ifaddrs *addresses = NULL;
    if (getifaddrs(&addresses) != 0)
        return;
    for (const struct ifaddrs *at = addresses; at != NULL; at = at->ifa_next) {
        union ibv_gid bytes = {.raw = {[10] = 0xff, [11] = 0xff}};
        if (at->ifa_addr == NULL)
            continue;
        if (at->ifa_addr->sa_family == AF_INET)
            memcpy(bytes.raw + 12, &((const struct sockaddr_in *)(const void *)at->ifa_addr)->sin_addr, 4);
        else if (at->ifa_addr->sa_family == AF_INET6)
            memcpy(bytes.raw, &((const struct sockaddr_in6 *)(const void *)at->ifa_addr)->sin6_addr, 16);
        else
            continue;
        for (size_t index = 0; index < count; index++)
            gids[index].local = gids[index].local || memcmp(&gids[index].bytes, &bytes, sizeof bytes) == 0;
    }
    freeifaddrs(addresses);
}

const char *verbs_gid_kind_name(verbs_gid_kind kind)
{
    switch (kind) {
    case VERBS_GID_NONE: return "none";
    case VERBS_GID_IB: return "InfiniBand";
    case VERBS_GID_V1: return "RoCEv1";
    case VERBS_GID_V2_LINK_LOCAL: return "RoCEv2 IPv6 link-local";
    case VERBS_GID_V2_IPV6: return "RoCEv2 IPv6";
    case VERBS_GID_V2_IPV4: return "RoCEv2 IPv4";
    }
    return "unknown";
}

bool verbs_gid_kinds_match(verbs_gid_kind left, verbs_gid_kind right)
{
    bool left_ipv6 = left == VERBS_GID_V2_IPV6 || left == VERBS_GID_V2_LINK_LOCAL;
    bool right_ipv6 = right == VERBS_GID_V2_IPV6 || right == VERBS_GID_V2_LINK_LOCAL;
    return left == right || (left_ipv6 && right_ipv6);
}

void verbs_gid_text(const verbs_gid *gid, char *text_out, size_t capacity)
{
    char text[INET6_ADDRSTRLEN] = "";
    if (gid_is_ipv4_mapped(&gid->bytes))
        inet_ntop(AF_INET, gid->bytes.raw + 12, text, sizeof text);
    else
        inet_ntop(AF_INET6, gid->bytes.raw, text, sizeof text);
    snprintf(text_out, capacity, "%s", text);
}

/* The type of an entry where the library is too old to report it: the kernel shows it as a line of
 * text. */
static uint32_t type_from_sysfs(const struct ibv_context *context, uint8_t port, uint32_t index)
{
    char line[32] = "";
    bool known = verbs_sysfs_read(context->device, line, sizeof line, "ports/%u/gid_attrs/types/%u", port, index);
    return known && strncmp(line, "RoCE v2", 7) == 0 ? IBV_GID_TYPE_ROCE_V2 : IBV_GID_TYPE_ROCE_V1;
}

/* Reads one entry; kind NONE when it is empty. Returns 0 or an errno. */
static int gid_entry_read(const verbs_library *library, struct ibv_context *context, uint8_t port, uint8_t link_layer,
                          uint32_t index, verbs_gid *gid_out)
{
    uint32_t type = IBV_GID_TYPE_IB;
    memset(gid_out, 0, sizeof *gid_out);
    gid_out->index = index;
    if (library->_ibv_query_gid_ex != NULL) {
        struct ibv_gid_entry entry;
        memset(&entry, 0, sizeof entry);
        int error = library->_ibv_query_gid_ex(context, port, index, &entry, 0, sizeof entry);
        if (error == ENODATA)
            return 0;
        if (error != 0)
            return error;
        gid_out->bytes = entry.gid;
        type = entry.gid_type;
    } else {
        errno = 0;
        if (library->ibv_query_gid(context, port, (int)index, &gid_out->bytes) != 0)
            return verbs_errno();
        if (link_layer == IBV_LINK_LAYER_ETHERNET)
            type = type_from_sysfs(context, port, index);
    }
    gid_out->kind = verbs_gid_classify(type, &gid_out->bytes);
    return 0;
}

static int gid_absent(const verbs_options *options, uint8_t port, const char *device, rt_detail *detail)
{
    char network[INET6_ADDRSTRLEN];
    if (options->gid != VERBS_UNSET)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "gid=%u of port %u of %s is empty: leave the argument out, or see `rdma link` and `show_gids`",
                       options->gid, port, device);
    if (options->network.bits == 0)
        return rt_fail(detail, RT_E_UNAVAILABLE, 0, "port %u of %s has no GID: give its network interface an IP address", port,
                       device);
    verbs_gid_text(&(verbs_gid){.bytes = options->network.address}, network, sizeof network);
    return rt_fail(detail, RT_E_UNAVAILABLE, 0, "port %u of %s has no GID in the network that gid= asks for, %s: see `show_gids`",
                   port, device, network);
}

int verbs_gid_query(const verbs_library *library, struct ibv_context *context, uint8_t port,
                    const struct ibv_port_attr *port_attr, const verbs_options *options, verbs_gid *gid_out, rt_detail *detail)
{
    const char *device = library->ibv_get_device_name(context->device);
    uint32_t size = port_attr->gid_tbl_len < GIDS_MAX ? (uint32_t)port_attr->gid_tbl_len : GIDS_MAX;
    verbs_gid gids[GIDS_MAX];
    uint32_t wanted = options->gid;
    if (wanted != VERBS_UNSET && wanted >= size)
        return rt_fail(detail, RT_E_INVALID, 0, "gid=%u: port %u of %s has %u GIDs, from 0", wanted, port, device, size);
    uint32_t from = wanted != VERBS_UNSET ? wanted : 0;
    uint32_t to = wanted != VERBS_UNSET ? wanted + 1 : size;
    bool by_rule = wanted == VERBS_UNSET && options->network.bits == 0;
    if (by_rule && port_attr->link_layer != IBV_LINK_LAYER_ETHERNET)
        to = size < 1 ? size : 1;
    for (uint32_t index = from; index < to; index++) {
        verbs_gid *gid = &gids[index - from];
        int error = gid_entry_read(library, context, port, port_attr->link_layer, index, gid);
        if (error != 0)
            return verbs_fail(detail, error, "read GID %u of port %u of %s", index, port, device);
        if (!gid_is_of(&gid->bytes, &options->network))
            gid->kind = VERBS_GID_NONE;
        gid->asked = options->interfaces[0] != '\0' && gid->kind != VERBS_GID_NONE &&
                     verbs_sysfs_gid_is_of(context->device, port, index, options->interfaces);
    }
    gids_mark_local(gids, to - from);
    const verbs_gid *best = verbs_gid_choose(gids, to - from);
    if (best == NULL)
        return gid_absent(options, port, device, detail);
    *gid_out = *best;
    return RT_OK;
}

#endif
