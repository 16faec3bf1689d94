/* choice.c: which port a URL's name means, and which of several: "verbs://" or a list of names leaves a choice.
 *
 * The order is that in which all hosts of a cluster decide alike first, since ends on different fabrics cannot reach each
 * other: an address that can be routed, speed, InfiniBand before Ethernet; then what is this process's own: the distance of
 * the port's NUMA node from the nodes it may run on. Among equals each process of a host takes another (local_rank=). */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NODES "/sys/devices/system/node"

/* ---- the order of ports ---- */

verbs_rank verbs_rank_of(const verbs_port *port)
{
    const struct ibv_device *device = port->context->device;
    cpu_set_t cpus;
    verbs_gid_kind kind = port->gid.kind;
    double gigabits = verbs_port_gigabits(port);
    bool placed = sched_getaffinity(0, sizeof cpus, &cpus) == 0;
    return (verbs_rank){
        .addressed = kind == VERBS_GID_IB || kind == VERBS_GID_V2_IPV4 || kind == VERBS_GID_V2_IPV6,
        .gigabits = gigabits,
        .infiniband = kind == VERBS_GID_IB,
        .distance = placed ? verbs_node_distance(NODES, &cpus, verbs_sysfs_node(device)) : VERBS_DISTANCE_UNKNOWN,
    };
}

/* Why the first is preferred, in words about the second; NULL where it is not. */
static const char *rank_lacks(const verbs_rank *first, const verbs_rank *second)
{
    if (first->addressed != second->addressed)
        return first->addressed ? "no IP address" : NULL;
    if (first->gigabits > second->gigabits || first->gigabits < second->gigabits)
        return first->gigabits > second->gigabits ? "slower" : NULL;
    if (first->infiniband != second->infiniband)
        return first->infiniband ? "Ethernet" : NULL;
    return first->distance < second->distance ? "farther from this process's NUMA nodes" : NULL;
}

size_t verbs_ranks_choose(const verbs_rank *ranks, size_t count, uint32_t local_rank)
{
    size_t best = 0, alike = 0;
    for (size_t index = 1; index < count; index++)
        if (rank_lacks(&ranks[index], &ranks[best]) != NULL)
            best = index;
    for (size_t index = 0; index < count; index++)
        alike += rank_lacks(&ranks[best], &ranks[index]) == NULL;
    size_t wanted = local_rank % alike;
    for (size_t index = best;; index++)
        if (rank_lacks(&ranks[best], &ranks[index]) == NULL && wanted-- == 0)
            return index;
}

void verbs_rank_explain(const verbs_rank *ranks, size_t count, size_t which, char *text_out, size_t capacity)
{
    size_t best = verbs_ranks_choose(ranks, count, 0), alike = 0, before = 0;
    const char *lack = rank_lacks(&ranks[best], &ranks[which]);
    for (size_t index = 0; index < count; index++) {
        bool equal = rank_lacks(&ranks[best], &ranks[index]) == NULL;
        alike += equal;
        before += equal && index < which;
    }
    if (lack != NULL)
        snprintf(text_out, capacity, "not taken by verbs://: %s", lack);
    else if (alike > 1)
        snprintf(text_out, capacity, "taken by verbs:// with local_rank=%zu of %zu alike", before, alike);
    else
        snprintf(text_out, capacity, "taken by verbs://%s", count > 1 ? ", best by address, speed, kind and NUMA distance" : "");
}

/* ---- the name of a URL ---- */

enum { NAMES_MAX = VERBS_NAMES_SIZE - 1 };
#define NETDEV "netdev:"

/* A name, taken apart. */
typedef struct wish {
    const char *names; /* "", "mlx5_0,mlx5_1:2"; behind "^" those that are not wanted; network interfaces behind "netdev:" */
    bool excluded, interfaces;
    uint32_t port; /* of every device; VERBS_UNSET: as the names say */
} wish;

static int wish_item_check(const wish *asked, const char *item, size_t size, rt_detail *detail)
{
    const char *colon = asked->interfaces ? NULL : memchr(item, ':', size);
    int shown = (int)(size < 80 ? size : 80);
    if (size == 0 || colon == item)
        return rt_fail(detail, RT_E_INVALID, 0, "a name in the list of devices '%.80s' is empty", asked->names);
    if (colon == NULL)
        return RT_OK;
    char *end;
    unsigned long number = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || end != item + size || number < 1 || number > 255)
        return rt_fail(detail, RT_E_INVALID, 0, "'%.*s' is not a device: after the colon comes a port, from 1 to 255", shown,
                       item);
    if (asked->port != VERBS_UNSET && asked->port != number)
        return rt_fail(detail, RT_E_INVALID, 0, "'%.*s' says port %lu and the argument says port=%u", shown, item, number,
                       asked->port);
    return RT_OK;
}

static int wish_parse(const char *name, const verbs_options *options, wish *wish_out, rt_detail *detail)
{
    wish asked = {.names = name, .excluded = name[0] == '^', .port = options->port};
    if (strlen(name) > NAMES_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "the list of devices '%.40s...' is longer than %u bytes", name, NAMES_MAX);
    asked.names += asked.excluded;
    asked.interfaces = strncmp(asked.names, NETDEV, strlen(NETDEV)) == 0;
    asked.names += asked.interfaces ? strlen(NETDEV) : 0;
    *wish_out = asked;
    if (name[0] == '\0')
        return RT_OK;
    for (const char *at = asked.names;; at++) {
        size_t size = strcspn(at, ",");
        int status = wish_item_check(&asked, at, size, detail);
        at += size;
        if (status != RT_OK || *at == '\0')
            return status;
    }
}

/* Whether the list has the port of the device: any port where an item or `port` (0) says none. */
static bool names_have_port(const char *names, const char *device, uint32_t port)
{
    size_t name_size = strlen(device);
    for (const char *at = names; *at != '\0'; at += *at == ',') {
        size_t size = strcspn(at, ",");
        bool named = size >= name_size && memcmp(at, device, name_size) == 0;
        bool whole = size == name_size, with_port = size > name_size && at[name_size] == ':';
        if (named && (whole || (with_port && (port == 0 || strtoul(at + name_size + 1, NULL, 10) == port))))
            return true;
        at += size;
    }
    return false;
}

static bool wish_takes(const wish *asked, const struct ibv_device *device, const char *name, uint32_t port)
{
    if (asked->port != VERBS_UNSET && asked->port != port)
        return false;
    if (asked->names[0] == '\0')
        return true;
    bool named =
        asked->interfaces ? verbs_sysfs_has_interface(device, port, asked->names) : names_have_port(asked->names, name, port);
    return named != asked->excluded;
}

/* Whether the device is one that the user named: trouble with it is an error, and the first of its ports will do. */
static bool wish_names_one(const wish *asked)
{
    return asked->names[0] != '\0' && !asked->excluded && !asked->interfaces && strchr(asked->names, ',') == NULL;
}

/* ---- opening ---- */

/* Ports that can be used, and why others cannot. */
typedef struct survey {
    struct survey_port {
        int device; /* in the library's list */
        uint8_t number;
    } * ports;
    verbs_rank *ranks;
    size_t count, capacity;
    int tried; /* ports that the wish takes */
    rt_detail why;
    char reasons[400];
} survey;

static void survey_end(survey *found)
{
    free(found->ports);
    free(found->ranks);
}

static void survey_refuse(survey *found, const rt_detail *why)
{
    size_t used = strlen(found->reasons);
    found->why = *why;
    found->tried++;
    snprintf(found->reasons + used, sizeof found->reasons - used, "%s%.150s", used == 0 ? "" : "; ", why->text);
}

static int survey_add(survey *found, int device, const verbs_port *port, rt_detail *detail)
{
    if (found->count == found->capacity) {
        size_t wanted = found->capacity * 2 + 8;
        void *ports = realloc(found->ports, wanted * sizeof *found->ports);
        if (ports != NULL)
            found->ports = ports;
        void *ranks = ports != NULL ? realloc(found->ranks, wanted * sizeof *found->ranks) : NULL;
        if (ranks == NULL)
            return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a list of RDMA devices");
        found->ranks = ranks;
        found->capacity = wanted;
    }
    found->tried++;
    found->ports[found->count] = (struct survey_port){device, port->number};
    found->ranks[found->count++] = verbs_rank_of(port);
    return RT_OK;
}

/* Looks at the ports of one device that the wish takes. */
static int survey_device(const verbs_library *library, struct ibv_device *device, int number, const wish *asked,
                         const verbs_options *options, survey *found, rt_detail *detail)
{
    verbs_port port;
    rt_detail why;
    const char *name = library->ibv_get_device_name(device);
    bool by_name = asked->names[0] != '\0' && !asked->interfaces;
    if (by_name && !asked->excluded && !names_have_port(asked->names, name, 0))
        return RT_OK;
    if (verbs_port_device_open(library, device, &port, &why) != RT_OK) {
        survey_refuse(found, &why);
        return RT_OK;
    }
    int status = RT_OK, before = found->tried;
    uint32_t count = port.attributes.phys_port_cnt;
    for (uint32_t each = 1; each <= count && status == RT_OK; each++) {
        if (!wish_takes(asked, device, name, each))
            continue;
        if (verbs_port_read(library, options, (uint8_t)each, &port, &why) == RT_OK)
            status = survey_add(found, number, &port, detail);
        else
            survey_refuse(found, &why);
    }
    if (found->tried == before && by_name && !asked->excluded) {
        rt_fail(&why, RT_E_NOT_FOUND, 0, "%s has no such port as '%.80s' says, only 1 to %u", name, asked->names, count);
        survey_refuse(found, &why);
    }
    library->ibv_close_device(port.context);
    return status;
}

/* No port is one that the wish takes. */
static int nothing_taken(const verbs_library *library, struct ibv_device **devices, int count, const char *name,
                         const wish *asked, rt_detail *detail)
{
    char known[256] = "";
    size_t used = 0;
    for (int index = 0; index < count && used < sizeof known - 70; index++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%.63s", index == 0 ? "" : ", ",
                                 library->ibv_get_device_name(devices[index]));
    if (asked->excluded)
        return rt_fail(detail, RT_E_NOT_FOUND, 0, "'%.80s' excludes every RDMA device; there is %s", name, known);
    if (asked->interfaces)
        return rt_fail(detail, RT_E_NOT_FOUND, 0,
                       "no RDMA device has the network interface '%.80s'; there is %s (`rdma link` shows their interfaces)",
                       asked->names, known);
    if (name[0] == '\0')
        return rt_fail(detail, RT_E_NOT_FOUND, 0, "no RDMA device has a port %u; there is %s", asked->port, known);
    return rt_fail(detail, RT_E_NOT_FOUND, 0, "no RDMA device is named '%.80s'; there is %s", name, known);
}

static int nothing_usable(const survey *found, rt_detail *detail)
{
    if (found->tried == 1)
        return rt_detail_pass(detail, &found->why);
    return rt_fail(detail, found->why.status, 0, "none of %d RDMA ports can be used: %s", found->tried, found->reasons);
}

static int port_open(const verbs_library *library, struct ibv_device *device, uint8_t number, const verbs_options *options,
                     verbs_port *port_out, rt_detail *detail)
{
    int status = verbs_port_device_open(library, device, port_out, detail);
    if (status != RT_OK)
        return status;
    status = verbs_port_read(library, options, number, port_out, detail);
    if (status == RT_OK)
        return RT_OK;
    library->ibv_close_device(port_out->context);
    port_out->context = NULL;
    return status;
}

int verbs_port_open(const verbs_library *library, const char *name, verbs_options *options, verbs_port *port_out,
                    rt_detail *detail)
{
    struct ibv_device **devices = NULL;
    int count = 0;
    wish asked;
    int status = wish_parse(name, options, &asked, detail);
    if (status == RT_OK)
        status = verbs_devices_list(library, &devices, &count, detail);
    if (status != RT_OK)
        return status;
    if (asked.interfaces && !asked.excluded)
        snprintf(options->interfaces, sizeof options->interfaces, "%s", asked.names);
    survey found = {.ports = NULL};
    for (int index = 0; index < count && status == RT_OK; index++)
        status = survey_device(library, devices[index], index, &asked, options, &found, detail);
    if (status == RT_OK && found.tried == 0)
        status = nothing_taken(library, devices, count, name, &asked, detail);
    else if (status == RT_OK && found.count == 0)
        status = nothing_usable(&found, detail);
    if (status == RT_OK) {
        uint32_t local_rank = wish_names_one(&asked) ? 0 : options->local_rank;
        struct survey_port chosen = found.ports[verbs_ranks_choose(found.ranks, found.count, local_rank)];
        status = port_open(library, devices[chosen.device], chosen.number, options, port_out, detail);
    }
    survey_end(&found);
    library->ibv_free_device_list(devices);
    return status;
}

int verbs_viable(rt_detail *detail)
{
    struct ibv_device **devices = NULL;
    verbs_options options;
    int count = 0;
    const wish any = {.names = "", .port = VERBS_UNSET};
    survey found = {.ports = NULL};
    const verbs_library *library = verbs_library_load(detail);
    if (library == NULL)
        return RT_E_UNAVAILABLE;
    int status = verbs_options_parse("", &options, detail);
    if (status == RT_OK)
        status = verbs_devices_list(library, &devices, &count, detail);
    if (status != RT_OK)
        return status;
    for (int index = 0; index < count && status == RT_OK && found.count == 0; index++) /* the first will do */
        status = survey_device(library, devices[index], index, &any, &options, &found, detail);
    if (status == RT_OK && found.tried == 0)
        status = nothing_taken(library, devices, count, "", &any, detail);
    else if (status == RT_OK && found.count == 0)
        status = nothing_usable(&found, detail);
    survey_end(&found);
    library->ibv_free_device_list(devices);
    if (status != RT_OK && detail != NULL)
        detail->status = RT_E_UNAVAILABLE;
    return status == RT_OK ? RT_OK : RT_E_UNAVAILABLE;
}

#endif
