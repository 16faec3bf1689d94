/* port.c: the RDMA devices and ports of this machine: why there is none, what each is like, and opening the one asked for.
 *
 * Only ports with reliable connections (InfiniBand and RoCE) can be used; iWARP wants its connections made by rdma_cm. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KERNEL_CLASS "/sys/class/infiniband"
#define KERNEL_USER_CLASS "/sys/class/infiniband_verbs"

uint32_t verbs_mtu_bytes(uint32_t mtu)
{
    return mtu >= IBV_MTU_256 && mtu <= IBV_MTU_4096 ? 128u << mtu : 0;
}

uint32_t verbs_mtu_of(uint32_t bytes)
{
    uint32_t mtu = IBV_MTU_4096;
    while (mtu >= IBV_MTU_256 && verbs_mtu_bytes(mtu) > bytes)
        mtu--;
    return mtu;
}

/* The first device the kernel shows, or false. */
static bool kernel_device(const char *kernel_class, char name_out[64])
{
    DIR *directory = opendir(kernel_class);
    bool found = false;
    if (directory == NULL)
        return false;
    for (struct dirent *entry = readdir(directory); entry != NULL && !found; entry = readdir(directory)) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name_out, 64, "%.63s", entry->d_name);
        found = true;
    }
    closedir(directory);
    return found;
}

int verbs_explain_absence(const char *kernel_class, int error, rt_detail *detail)
{
    char name[64];
    if (kernel_device(kernel_class, name)) {
        if (access(KERNEL_USER_CLASS, F_OK) != 0 && error == ENOSYS)
            return rt_fail(detail, RT_E_UNAVAILABLE, error,
                           "the kernel has the RDMA device %s but does not offer it to programs: "
                           "`modprobe ib_uverbs`",
                           name);
        return rt_fail(
            detail, RT_E_UNAVAILABLE, 0,
            "the kernel has the RDMA device %s, but libibverbs has no driver for it: install the provider package (`apt "
            "install ibverbs-providers`, Fedora: `dnf install libibverbs`), of the same version as libibverbs",
            name);
    }
    if (error != 0 && error != ENOSYS)
        return rt_fail(detail, RT_E_UNAVAILABLE, error, "cannot list RDMA devices");
    return rt_fail(detail, RT_E_UNAVAILABLE, 0,
                   "no RDMA device: %s is empty or not there. With a network card that has RDMA load its driver; without one "
                   "soft-RoCE does: `modprobe rdma_rxe && rdma link add rxe0 type rxe netdev eth0`",
                   kernel_class);
}

/* The devices, never empty; give them back with ibv_free_device_list. */
static int list_devices(const verbs_library *library, struct ibv_device ***devices_out, int *count_out, rt_detail *detail)
{
    errno = 0;
    int count = 0;
    struct ibv_device **devices = library->ibv_get_device_list(&count);
    if (devices == NULL)
        return verbs_explain_absence(KERNEL_CLASS, verbs_errno(), detail);
    if (count == 0) {
        library->ibv_free_device_list(devices);
        return verbs_explain_absence(KERNEL_CLASS, 0, detail);
    }
    *devices_out = devices;
    *count_out = count;
    return RT_OK;
}

/* Why the device cannot do reliable connections made without rdma_cm, or NULL. */
static const char *unfit_device(const struct ibv_device *device)
{
    switch (device->transport_type) {
    case IBV_TRANSPORT_IB: return NULL;
    case IBV_TRANSPORT_IWARP: return "iWARP needs connections made by rdma_cm, which this provider does not do";
    case IBV_TRANSPORT_UNKNOWN:
    case IBV_TRANSPORT_USNIC:
    case IBV_TRANSPORT_USNIC_UDP:
    case IBV_TRANSPORT_UNSPECIFIED: return "it has no reliable connections (RC)";
    }
    return "its transport is unknown";
}

/* As the header's inline does it, but with the loaded library behind it. Returns 0 or an errno. */
static int query_port(const verbs_library *library, struct ibv_context *context, uint8_t number, struct ibv_port_attr *attr_out)
{
    memset(attr_out, 0, sizeof *attr_out);
    struct verbs_context *extended = verbs_get_ctx_op(context, query_port);
    if (extended != NULL)
        return extended->query_port(context, number, attr_out, sizeof *attr_out);
    return library->ibv_query_port(context, number, (struct _compat_ibv_port_attr *)(void *)attr_out);
}

/* Opens a device and reads its attributes. */
static int open_device(const verbs_library *library, struct ibv_device *device, verbs_port *port_out, rt_detail *detail)
{
    const char *name = library->ibv_get_device_name(device);
    errno = 0;
    memset(port_out, 0, sizeof *port_out);
    port_out->context = library->ibv_open_device(device);
    if (port_out->context == NULL)
        return verbs_fail(detail, verbs_errno(), "open the RDMA device %s", name);
    int error = library->ibv_query_device(port_out->context, &port_out->attributes);
    if (error == 0)
        return RT_OK;
    library->ibv_close_device(port_out->context);
    port_out->context = NULL;
    return verbs_fail(detail, error, "read the attributes of %s", name);
}

/* Reads a port of an opened device: RT_E_UNAVAILABLE when it cannot be used now. */
static int read_port(const verbs_library *library, verbs_port *port, uint8_t number, uint32_t wanted_gid, rt_detail *detail)
{
    const char *name = library->ibv_get_device_name(port->context->device);
    port->number = number;
    if (port->attributes.phys_port_cnt > 1)
        snprintf(port->name, sizeof port->name, "%.59s:%u", name, number);
    else
        snprintf(port->name, sizeof port->name, "%.63s", name);
    int error = query_port(library, port->context, number, &port->attr);
    if (error != 0)
        return verbs_fail(detail, error, "read port %u of %s", number, name);
    const char *unfit = unfit_device(port->context->device);
    if (unfit != NULL)
        return rt_fail(detail, RT_E_UNAVAILABLE, 0, "%s cannot be used: %s", name, unfit);
    if (port->attr.state != IBV_PORT_ACTIVE && port->attr.state != IBV_PORT_ACTIVE_DEFER)
        return rt_fail(detail, RT_E_UNAVAILABLE, 0,
                       "port %u of %s is not active: bring its network interface up, or plug the cable in", number, name);
    return verbs_gid_query(library, port->context, number, &port->attr, wanted_gid, &port->gid, detail);
}

/* The first usable port of the device, or the wanted one; leaves it open on success. */
static int open_port_of(const verbs_library *library, struct ibv_device *device, uint32_t wanted, uint32_t wanted_gid,
                        verbs_port *port_out, rt_detail *detail)
{
    int status = open_device(library, device, port_out, detail);
    if (status != RT_OK)
        return status;
    uint32_t count = port_out->attributes.phys_port_cnt;
    if (wanted != VERBS_UNSET && wanted > count)
        status = rt_fail(detail, RT_E_NOT_FOUND, 0, "%s has no port %u, only 1 to %u", library->ibv_get_device_name(device),
                         wanted, count);
    else if (wanted != VERBS_UNSET)
        status = read_port(library, port_out, (uint8_t)wanted, wanted_gid, detail);
    else
        status = rt_fail(detail, RT_E_UNAVAILABLE, 0, "%s has no ports", library->ibv_get_device_name(device));
    if (wanted == VERBS_UNSET) {
        for (uint32_t number = 1; number <= count; number++) {
            status = read_port(library, port_out, (uint8_t)number, wanted_gid, detail);
            if (status == RT_OK)
                break;
        }
    }
    if (status == RT_OK)
        return RT_OK;
    library->ibv_close_device(port_out->context);
    port_out->context = NULL;
    return status;
}

static int not_found(const verbs_library *library, struct ibv_device **devices, int count, const char *name, size_t size,
                     rt_detail *detail)
{
    char known[256];
    size_t used = 0;
    for (int index = 0; index < count && used < sizeof known - 70; index++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%.63s", index == 0 ? "" : ", ",
                                 library->ibv_get_device_name(devices[index]));
    return rt_fail(detail, RT_E_NOT_FOUND, 0, "no RDMA device is named '%.*s'; there is %s", (int)(size < 63 ? size : 63), name,
                   known);
}

/* Splits "mlx5_0:2" into the size of the name and the port, which an argument may say as well. */
static int parse_name(const char *name, const verbs_options *options, size_t *size_out, uint32_t *port_out, rt_detail *detail)
{
    size_t size = strcspn(name, ":");
    uint32_t port = options->port;
    if (name[size] == ':') {
        char *end;
        unsigned long number = strtoul(name + size + 1, &end, 10);
        if (name[size + 1] < '0' || name[size + 1] > '9' || *end != '\0' || number < 1 || number > 255)
            return rt_fail(detail, RT_E_INVALID, 0, "'%.80s' is not a device: after the colon comes a port, from 1 to 255", name);
        if (port != VERBS_UNSET && port != number)
            return rt_fail(detail, RT_E_INVALID, 0, "'%.80s' says port %lu and the argument says port=%u", name, number, port);
        port = (uint32_t)number;
    }
    *size_out = size;
    *port_out = port;
    return RT_OK;
}

int verbs_port_open(const verbs_library *library, const char *name, const verbs_options *options, verbs_port *port_out,
                    rt_detail *detail)
{
    struct ibv_device **devices = NULL;
    int count = 0;
    size_t size = 0;
    uint32_t port = VERBS_UNSET;
    int status = parse_name(name, options, &size, &port, detail);
    if (status == RT_OK)
        status = list_devices(library, &devices, &count, detail);
    if (status != RT_OK)
        return status;
    status = not_found(library, devices, count, name, size, detail);
    for (int index = 0; index < count; index++) {
        const char *candidate = library->ibv_get_device_name(devices[index]);
        if (size != 0 && (strlen(candidate) != size || memcmp(candidate, name, size) != 0))
            continue;
        status = open_port_of(library, devices[index], port, options->gid, port_out, detail);
        if (status == RT_OK)
            break;
    }
    library->ibv_free_device_list(devices);
    return status;
}

int verbs_viable(rt_detail *detail)
{
    verbs_options options;
    verbs_port port;
    const verbs_library *library = verbs_library_load(detail);
    if (library == NULL)
        return RT_E_UNAVAILABLE;
    int status = verbs_options_parse("", &options, detail);
    if (status == RT_OK)
        status = verbs_port_open(library, "", &options, &port, detail);
    if (status == RT_OK)
        library->ibv_close_device(port.context);
    else if (detail != NULL)
        detail->status = RT_E_UNAVAILABLE;
    return status == RT_OK ? RT_OK : RT_E_UNAVAILABLE;
}

/* Gb/s of a port as its width and speed say, or 0. */
static double gigabits(const struct ibv_port_attr *attr)
{
    double lanes = attr->active_width == 1    ? 1
                   : attr->active_width == 2  ? 4
                   : attr->active_width == 4  ? 8
                   : attr->active_width == 8  ? 12
                   : attr->active_width == 16 ? 2
                                              : 0;
    double lane = attr->active_speed == 1     ? 2.5
                  : attr->active_speed == 2   ? 5
                  : attr->active_speed == 4   ? 10
                  : attr->active_speed == 8   ? 10
                  : attr->active_speed == 16  ? 14
                  : attr->active_speed == 32  ? 25
                  : attr->active_speed == 64  ? 50
                  : attr->active_speed == 128 ? 100
                                              : 0;
    return lanes * lane;
}

static const char *state_name(enum ibv_port_state state)
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

/* "active, Ethernet, 100 Gb/s, gid 3 RoCEv2 IPv4 10.0.0.1, mtu 1024, fork-safe" */
static void describe(const verbs_library *library, const verbs_port *port, const char *trouble, rt_device_info *info_out)
{
    bool ethernet = port->attr.link_layer == IBV_LINK_LAYER_ETHERNET;
    if (trouble != NULL) {
        snprintf(info_out->state, sizeof info_out->state, "%s, %s: %.110s", state_name(port->attr.state),
                 ethernet ? "Ethernet" : "InfiniBand", trouble);
        return;
    }
    char gid[64];
    verbs_gid_text(&port->gid, gid, sizeof gid);
    snprintf(info_out->state, sizeof info_out->state, "%s, %s, %g Gb/s, gid %u %s %.45s, mtu %u, %.40s",
             state_name(port->attr.state), ethernet ? "Ethernet" : "InfiniBand", gigabits(&port->attr), port->gid.index,
             verbs_gid_kind_name(port->gid.kind), gid, verbs_mtu_bytes(port->attr.active_mtu), library->fork_state);
}

/* One entry per port of the device, whatever its state. Returns how many ports it has; entries beyond `capacity` are not filled. */
static int list_ports(const verbs_library *library, struct ibv_device *device, const verbs_options *options,
                      rt_device_info *infos_out, int capacity)
{
    verbs_port port;
    verbs_request request;
    rt_detail trouble;
    if (open_device(library, device, &port, &trouble) != RT_OK) {
        if (capacity > 0) {
            memset(infos_out, 0, sizeof *infos_out);
            snprintf(infos_out->name, sizeof infos_out->name, "%.63s", library->ibv_get_device_name(device));
            snprintf(infos_out->state, sizeof infos_out->state, "%.159s", trouble.text);
        }
        return 1;
    }
    int count = port.attributes.phys_port_cnt;
    for (int index = 0; index < count && index < capacity; index++) {
        rt_device_info *info = &infos_out[index];
        memset(info, 0, sizeof *info);
        int status = read_port(library, &port, (uint8_t)(index + 1), VERBS_UNSET, &trouble);
        if (status == RT_OK)
            status = verbs_limits_probe(library, &port, options, 1, &info->limits, &request, &trouble);
        memcpy(info->name, port.name, sizeof info->name);
        describe(library, &port, status == RT_OK ? NULL : trouble.text, info);
    }
    library->ibv_close_device(port.context);
    return count;
}

int verbs_list(rt_device_info *infos_out, int capacity, rt_detail *detail)
{
    struct ibv_device **devices = NULL;
    verbs_options options;
    int count = 0, total = 0;
    const verbs_library *library = verbs_library_load(detail);
    if (library == NULL)
        return RT_E_UNAVAILABLE;
    int status = verbs_options_parse("", &options, detail);
    if (status == RT_OK)
        status = list_devices(library, &devices, &count, detail);
    if (status != RT_OK)
        return status;
    for (int index = 0; index < count; index++) {
        int room = capacity > total ? capacity - total : 0;
        total += list_ports(library, devices[index], &options, room > 0 ? infos_out + total : NULL, room);
    }
    library->ibv_free_device_list(devices);
    return total;
}

#endif
