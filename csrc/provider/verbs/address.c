/* address.c: the bytes by which the other end reaches this end of a link. Written by one end and
 * read by the other, where they are hostile until checked: every number against its bounds, and
 * against the ports that this end's port can talk to. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <string.h>

#include "base/bytes.h"

/* version 1 · link layer 1 · GID kind 1 · MTU 1 · READs begun 1 · READs served 1 · LID 2 · QPN 4 · PSN 4 · GID 16 · placement 1 · partition key 2 */
enum {
    ADDRESS_VERSION = 2,
    ADDRESS_SIZE = 35,
    NUMBER_MAX = (1 << 24) - 1,
    QPN_MIN = 2,
    LID_MIN = 1,
    LID_MAX = 0xbfff,
    SUBNET_SIZE = 8
};
enum { PKEY_BASE = 0x7fff, PKEY_FULL = 0x8000 }; /* the partition, and whether the port is a full member */
_Static_assert(ADDRESS_SIZE <= (int)RT_LINK_ADDRESS_SIZE_MAX, "an address fits the seam");

/* A count of READs: devices may report more than the wire's 8 bits can hold. */
static uint8_t reads_of_attribute(int attribute)
{
    return (uint8_t)(attribute < 0 ? 0 : attribute > 255 ? 255 : attribute);
}

void verbs_address_of(const verbs_device *device, const verbs_link *link, verbs_address *address_out)
{
    const verbs_port *port = &device->port;
    uint32_t mtu = verbs_mtu_bytes(port->attr.active_mtu);
    *address_out = (verbs_address){
        .gid = port->gid,
        .qpn = link->qpn,
        .psn = link->psn,
        .lid = port->attr.lid,
        .link_layer = port->attr.link_layer == IBV_LINK_LAYER_ETHERNET ? IBV_LINK_LAYER_ETHERNET : IBV_LINK_LAYER_INFINIBAND,
        .mtu = (uint8_t)verbs_mtu_of(mtu < device->options.mtu ? mtu : device->options.mtu),
        .reads_begun = reads_of_attribute(port->attributes.max_qp_init_rd_atom),
        .reads_served = reads_of_attribute(port->attributes.max_qp_rd_atom),
        .placement = (uint8_t)port->placement,
        .pkey = port->pkey,
    };
}

void verbs_address_write(const verbs_address *address, uint8_t *bytes_out, size_t *size_out)
{
    rt_writer writer = rt_writer_of(bytes_out, RT_LINK_ADDRESS_SIZE_MAX);
    rt_write_uint(&writer, ADDRESS_VERSION, 1);
    rt_write_uint(&writer, address->link_layer, 1);
    rt_write_uint(&writer, address->gid.kind, 1);
    rt_write_uint(&writer, address->mtu, 1);
    rt_write_uint(&writer, address->reads_begun, 1);
    rt_write_uint(&writer, address->reads_served, 1);
    rt_write_uint(&writer, address->lid, 2);
    rt_write_uint(&writer, address->qpn, 4);
    rt_write_uint(&writer, address->psn, 4);
    rt_write_bytes(&writer, address->gid.bytes.raw, sizeof address->gid.bytes.raw);
    rt_write_uint(&writer, address->placement, 1);
    rt_write_uint(&writer, address->pkey, 2);
    assert(!writer.failed && writer.size == ADDRESS_SIZE);
    *size_out = writer.size;
}

/* Whether a GID of this kind may have these bytes: a peer cannot call an IPv6 address IPv4. */
static bool kind_fits(const verbs_address *address)
{
    verbs_gid_kind kind = address->gid.kind;
    bool ethernet = address->link_layer == IBV_LINK_LAYER_ETHERNET;
    if (ethernet != (kind != VERBS_GID_IB) || address->gid.bytes.raw[0] == 0xff)
        return false;
    if (kind == VERBS_GID_IB || kind == VERBS_GID_V1)
        return verbs_gid_classify(IBV_GID_TYPE_IB, &address->gid.bytes) != VERBS_GID_NONE;
    return verbs_gid_classify(IBV_GID_TYPE_ROCE_V2, &address->gid.bytes) == kind;
}

static int address_numbers_check(const verbs_address *address, rt_detail *detail)
{
    if (address->link_layer != IBV_LINK_LAYER_ETHERNET && address->link_layer != IBV_LINK_LAYER_INFINIBAND)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's link address has the unknown link layer %u", address->link_layer);
    if (address->qpn < QPN_MIN || address->qpn > NUMBER_MAX || address->psn > NUMBER_MAX)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's link address has a bad queue pair number (0x%x) or packet number",
                       address->qpn);
    if (verbs_mtu_bytes(address->mtu) == 0)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's link address has the unknown MTU code %u", address->mtu);
    if (address->reads_begun == 0 || address->reads_served == 0)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's link address says that it cannot do READs");
    if (!kind_fits(address))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's link address has a GID that is not of the kind it says (%u)",
                       (unsigned)address->gid.kind);
    if (address->placement != VERBS_PLACEMENT_ORDERED && address->placement != VERBS_PLACEMENT_ANY)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's link address has the unknown placement %u", address->placement);
    if (address->link_layer == IBV_LINK_LAYER_INFINIBAND && (address->lid < LID_MIN || address->lid > LID_MAX))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's link address has the bad LID 0x%x", address->lid);
    return RT_OK;
}

static int address_check_against(const verbs_device *device, const verbs_address *address, rt_detail *detail)
{
    const verbs_port *port = &device->port;
    bool ethernet = port->attr.link_layer == IBV_LINK_LAYER_ETHERNET;
    if (ethernet != (address->link_layer == IBV_LINK_LAYER_ETHERNET))
        return rt_fail(detail, RT_E_REFUSED, 0, "%s is on %s and the peer's device on %s: they cannot reach each other",
                       port->name, ethernet ? "Ethernet" : "InfiniBand", ethernet ? "InfiniBand" : "Ethernet");
    if (!verbs_gid_kinds_match(port->gid.kind, address->gid.kind))
        return rt_fail(detail, RT_E_REFUSED, 0,
                       "%s has a %s address (gid %u) and the peer a %s one: choose the same family at both ends "
                       "with gid=INDEX",
                       port->name, verbs_gid_kind_name(port->gid.kind), port->gid.index, verbs_gid_kind_name(address->gid.kind));
    if (((address->pkey ^ port->pkey) & PKEY_BASE) != 0)
        return rt_fail(detail, RT_E_REFUSED, 0,
                       "%s is in partition 0x%04x and the peer in 0x%04x, so no packet would arrive: choose one that both have "
                       "with pkey=",
                       port->name, port->pkey, address->pkey);
    if (((address->pkey | port->pkey) & PKEY_FULL) == 0)
        return rt_fail(detail, RT_E_REFUSED, 0,
                       "%s and the peer are both limited members of partition 0x%04x, who do not hear each other: the subnet "
                       "manager must make one of them a full member",
                       port->name, port->pkey);
    if (!ethernet && memcmp(port->gid.bytes.raw, address->gid.bytes.raw, SUBNET_SIZE) != 0)
        return rt_fail(detail, RT_E_REFUSED, 0,
                       "%s and the peer are in different InfiniBand subnets: a way through a router needs a path record, which "
                       "is not asked for; connect through a device that both ends have in one subnet",
                       port->name);
    if (address->placement != port->placement)
        return rt_fail(detail, RT_E_REFUSED, 0,
                       "%s has placement=%s and the peer placement=%s: the order of WRITEs is a property of the path between "
                       "them, so give both ends the same placement=",
                       port->name, verbs_placement_name(port->placement), verbs_placement_name(address->placement));
    return RT_OK;
}

int verbs_address_read(const verbs_device *device, const uint8_t *bytes, size_t size, verbs_address *address_out,
                       rt_detail *detail)
{
    rt_reader reader = rt_reader_of(bytes, size);
    verbs_address address;
    memset(&address, 0, sizeof address);
    uint64_t version = rt_read_uint(&reader, 1);
    address.link_layer = (uint8_t)rt_read_uint(&reader, 1);
    address.gid.kind = (verbs_gid_kind)rt_read_uint(&reader, 1);
    address.mtu = (uint8_t)rt_read_uint(&reader, 1);
    address.reads_begun = (uint8_t)rt_read_uint(&reader, 1);
    address.reads_served = (uint8_t)rt_read_uint(&reader, 1);
    address.lid = (uint16_t)rt_read_uint(&reader, 2);
    address.qpn = (uint32_t)rt_read_uint(&reader, 4);
    address.psn = (uint32_t)rt_read_uint(&reader, 4);
    const uint8_t *gid = rt_read_bytes(&reader, sizeof address.gid.bytes.raw);
    address.placement = (uint8_t)rt_read_uint(&reader, 1);
    address.pkey = (uint16_t)rt_read_uint(&reader, 2);
    if (size >= 1 && version != ADDRESS_VERSION)
        return rt_fail(detail, RT_E_VERSION, 0, "the peer's link address has version %u, this end knows %u", (unsigned)version,
                       ADDRESS_VERSION);
    if (gid == NULL || !rt_reader_done(&reader))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's link address has %zu bytes, not %u", size, ADDRESS_SIZE);
    memcpy(address.gid.bytes.raw, gid, sizeof address.gid.bytes.raw);
    int status = address_numbers_check(&address, detail);
    if (status == RT_OK)
        status = address_check_against(device, &address, detail);
    if (status == RT_OK)
        *address_out = address;
    return status;
}

#endif
