/* list.c: the ports of this machine as `rdmatensor devices` shows them: in one line what the rules chose, and which port a URL
 * without a name takes, and why. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *port_state_name(enum ibv_port_state state)
{
    switch (state) {
    case IBV_PORT_NOP: return "unknown";
    case IBV_PORT_DOWN: return "down";
    case IBV_PORT_INIT: return "initializing";
    case IBV_PORT_ARMED: return "armed";
    case IBV_PORT_ACTIVE: return "active";
    case IBV_PORT_ACTIVE_DEFER: return "active (deferred)";
    }
    return "unknown";
}

static const char *link_layer_name(const verbs_port *port)
{
    return port->attr.link_layer == IBV_LINK_LAYER_ETHERNET ? "Ethernet" : "InfiniBand";
}

/* "active, Ethernet, 100 Gb/s, gid 3 RoCEv2 IPv4 10.0.0.1, mtu 1024, traffic class 0, NUMA node 1, fork-safe, placement=…" */
static void port_describe(const verbs_library *library, const verbs_port *port, const verbs_options *options,
                          rt_device_info *info_out)
{
    char gid[64], order[RT_ORDER_REASON_SIZE], node[16] = "unknown";
    uint32_t mtu = verbs_mtu_bytes(port->attr.active_mtu);
    bool small = port->attr.link_layer == IBV_LINK_LAYER_ETHERNET && mtu <= 1024 && port->attr.max_mtu > port->attr.active_mtu;
    int number = verbs_sysfs_node(port->context->device);
    if (number >= 0)
        snprintf(node, sizeof node, "%d", number);
    verbs_gid_text(&port->gid, gid, sizeof gid);
    verbs_placement_of(options, port->attr.link_layer, order);
    snprintf(info_out->state, sizeof info_out->state,
             "%s, %s, %g Gb/s, gid %u %s %.45s, mtu %u%s, traffic class %u, NUMA node %s, %.48s, %s",
             port_state_name(port->attr.state), link_layer_name(port), verbs_port_gigabits(port), port->gid.index,
             verbs_gid_kind_name(port->gid.kind), gid, mtu, small ? " (4096 needs an interface MTU of 4200)" : "",
             options->traffic_class, node, library->fork_state, order);
}

/* The ports found so far; of those that can be used, how they rank. */
typedef struct listing {
    rt_device_info *infos;
    int capacity, total;
    verbs_rank *ranks; /* capacity; of the usable ones */
    int *of;           /* capacity; the info of each rank */
    size_t usable;
} listing;

static void port_list(const verbs_library *library, const verbs_options *options, uint8_t number, verbs_port *port, listing *into)
{
    verbs_request request;
    rt_detail trouble;
    rt_device_info *info = &into->infos[into->total];
    memset(info, 0, sizeof *info);
    int status = verbs_port_read(library, options, number, port, &trouble);
    if (status == RT_OK)
        status = verbs_limits_probe(library, port, options, 1, &info->limits, &request, &trouble);
    memcpy(info->name, port->name, sizeof info->name);
    if (status != RT_OK) {
        snprintf(info->state, sizeof info->state, "%s, %s: %.280s", port_state_name(port->attr.state), link_layer_name(port),
                 trouble.text);
        return;
    }
    port_describe(library, port, options, info);
    into->of[into->usable] = into->total;
    into->ranks[into->usable++] = verbs_rank_of(port);
}

/* One entry per port of the device, whatever its state; those beyond the capacity are counted only. */
static void ports_list(const verbs_library *library, struct ibv_device *device, const verbs_options *options, listing *into)
{
    verbs_port port;
    rt_detail trouble;
    if (verbs_port_device_open(library, device, &port, &trouble) != RT_OK) {
        if (into->total < into->capacity) {
            rt_device_info *info = &into->infos[into->total];
            memset(info, 0, sizeof *info);
            snprintf(info->name, sizeof info->name, "%.63s", library->ibv_get_device_name(device));
            snprintf(info->state, sizeof info->state, "%.280s", trouble.text);
        }
        into->total++;
        return;
    }
    for (int index = 0; index < port.attributes.phys_port_cnt; index++) {
        if (into->total < into->capacity)
            port_list(library, options, (uint8_t)(index + 1), &port, into);
        into->total++;
    }
    library->ibv_close_device(port.context);
}

static void choice_explain(const listing *listed)
{
    for (size_t index = 0; index < listed->usable; index++) {
        rt_device_info *info = &listed->infos[listed->of[index]];
        size_t used = strlen(info->state);
        char why[120];
        verbs_rank_explain(listed->ranks, listed->usable, index, why, sizeof why);
        snprintf(info->state + used, sizeof info->state - used, "; %s", why);
    }
}

int verbs_list(rt_device_info *infos_out, int capacity, rt_detail *detail)
{
    struct ibv_device **devices = NULL;
    verbs_options options;
    int count = 0;
    const verbs_library *library = verbs_library_load(detail);
    if (library == NULL)
        return RT_E_UNAVAILABLE;
    size_t room = capacity > 0 ? (size_t)capacity : 1;
    listing listed = {.infos = infos_out,
                      .capacity = capacity,
                      .ranks = calloc(room, sizeof *listed.ranks),
                      .of = calloc(room, sizeof *listed.of)};
    int status = listed.ranks != NULL && listed.of != NULL
                     ? verbs_options_parse("", &options, detail)
                     : rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a list of %d RDMA ports", capacity);
    if (status == RT_OK)
        status = verbs_devices_list(library, &devices, &count, detail);
    for (int index = 0; index < count && status == RT_OK; index++)
        ports_list(library, devices[index], &options, &listed);
    if (status == RT_OK) {
        choice_explain(&listed);
        library->ibv_free_device_list(devices);
    }
    free(listed.ranks);
    free(listed.of);
    return status == RT_OK ? listed.total : status;
}

#endif
