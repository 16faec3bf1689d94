/* port.c: the RDMA devices of this machine, the reason when there is none, and reading one of their ports: whether it can
 * be used, its partition, address and speed. choice.c chooses among them, list.c describes them.
 *
 * Only ports with reliable connections (InfiniBand and RoCE) can be used; iWARP needs its
 * connections made by rdma_cm. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <arpa/inet.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PKEY_BASE = 0x7fff, PKEY_FULL = 0x8000 }; /* the partition, and whether the port is a full member */

#define KERNEL_CLASS "/sys/class/infiniband"
#define KERNEL_USER_CLASS "/sys/class/infiniband_verbs"

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

int verbs_devices_list(const verbs_library *library, struct ibv_device ***devices_out, int *count_out, rt_detail *detail)
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

/* The variable by which the environment turns off the locks of the driver's queue pairs, which the threads of a device need;
 * NULL: they are there. */
static const char *driver_is_unlocked(const struct ibv_device *device)
{
    static const char *const drivers[][2] = {{"DRIVER=mlx5_core", "MLX5_SINGLE_THREADED"},
                                             {"DRIVER=mlx4_core", "MLX4_SINGLE_THREADED"}};
    char line[64];
    if (!verbs_sysfs_read(device, line, sizeof line, "device/uevent"))
        return NULL;
    for (size_t index = 0; index < sizeof drivers / sizeof drivers[0]; index++) {
        const char *value = strcmp(line, drivers[index][0]) == 0 ? getenv(drivers[index][1]) : NULL;
        if (value != NULL && strcmp(value, "1") == 0)
            return drivers[index][1];
    }
    return NULL;
}

/* The reason why the device cannot make reliable connections without rdma_cm, or NULL. */
static const char *device_obstacle(const struct ibv_device *device)
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

/* Does what the header's inline does, but through the loaded library. Returns 0 or an errno. */
static int port_query(const verbs_library *library, struct ibv_context *context, uint8_t number, struct ibv_port_attr *attr_out)
{
    memset(attr_out, 0, sizeof *attr_out);
    struct verbs_context *extended = verbs_get_ctx_op(context, query_port);
    if (extended != NULL)
        return extended->query_port(context, number, attr_out, sizeof *attr_out);
    return library->ibv_query_port(context, number, (struct _compat_ibv_port_attr *)(void *)attr_out);
}

int verbs_port_device_open(const verbs_library *library, struct ibv_device *device, verbs_port *port_out, rt_detail *detail)
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

static int pkey_absent(const verbs_library *library, const verbs_options *options, const verbs_port *port, rt_detail *detail)
{
    char known[96] = "";
    size_t used = 0;
    __be16 entry;
    for (int index = 0; index < port->attr.pkey_tbl_len && used < sizeof known - 8; index++)
        if (library->ibv_query_pkey(port->context, port->number, index, &entry) == 0 && (ntohs(entry) & PKEY_BASE) != 0)
            used += (size_t)snprintf(known + used, sizeof known - used, "%s0x%04x", used == 0 ? "" : ", ", ntohs(entry));
    if (options->pkey != VERBS_UNSET)
        return rt_fail(detail, RT_E_UNAVAILABLE, 0,
                       "%s is not in the partition pkey=0x%04x: its keys are %s; the subnet manager gives them", port->name,
                       options->pkey, used == 0 ? "none" : known);
    return rt_fail(detail, RT_E_UNAVAILABLE, 0, "%s is in no partition: its subnet manager has given it no key", port->name);
}

/* A queue pair sends with the key at an index of the port's table, and hears only peers of the same partition, one of
 * which is a full member. Without an argument: the first key of a full member, else the first one. RoCE has one partition. */
static int pkey_choose(const verbs_library *library, const verbs_options *options, verbs_port *port, rt_detail *detail)
{
    __be16 entry;
    bool by_rule = options->pkey == VERBS_UNSET, found = false;
    port->pkey = PKEY_FULL | PKEY_BASE;
    port->pkey_index = 0;
    if (port->attr.link_layer == IBV_LINK_LAYER_ETHERNET)
        return by_rule ? RT_OK
                       : rt_fail(detail, RT_E_INVALID, 0, "pkey=0x%04x: %s is on Ethernet, which has no partitions but VLANs",
                                 options->pkey, port->name);
    for (int index = 0; index < port->attr.pkey_tbl_len; index++) {
        errno = 0;
        if (library->ibv_query_pkey(port->context, port->number, index, &entry) != 0)
            return verbs_fail(detail, verbs_errno(), "read partition key %d of %s", index, port->name);
        uint16_t key = ntohs(entry);
        bool fits = (key & PKEY_BASE) != 0 && (by_rule || (key & PKEY_BASE) == (options->pkey & PKEY_BASE));
        if (!fits || (found && ((port->pkey & PKEY_FULL) != 0 || (key & PKEY_FULL) == 0)))
            continue;
        found = true;
        port->pkey = key;
        port->pkey_index = (uint16_t)index;
    }
    return found ? RT_OK : pkey_absent(library, options, port, detail);
}

int verbs_port_read(const verbs_library *library, const verbs_options *options, uint8_t number, verbs_port *port,
                    rt_detail *detail)
{
    const char *name = library->ibv_get_device_name(port->context->device);
    port->number = number;
    if (port->attributes.phys_port_cnt > 1)
        snprintf(port->name, sizeof port->name, "%.59s:%u", name, number);
    else
        snprintf(port->name, sizeof port->name, "%.63s", name);
    int error = port_query(library, port->context, number, &port->attr);
    if (error != 0)
        return verbs_fail(detail, error, "read port %u of %s", number, name);
    const char *unfit = device_obstacle(port->context->device);
    if (unfit != NULL)
        return rt_fail(detail, RT_E_UNAVAILABLE, 0, "%s cannot be used: %s", name, unfit);
    const char *unlocked = driver_is_unlocked(port->context->device);
    if (unlocked != NULL)
        return rt_fail(detail, RT_E_UNAVAILABLE, 0,
                       "%s cannot be used: %s=1 turns off locks of its driver, and several threads use a device: unset it", name,
                       unlocked);
    if (port->attr.state != IBV_PORT_ACTIVE && port->attr.state != IBV_PORT_ACTIVE_DEFER)
        return rt_fail(detail, RT_E_UNAVAILABLE, 0,
                       "port %u of %s is not active: bring its network interface up, or plug the cable in", number, name);
    char reason[RT_ORDER_REASON_SIZE];
    port->placement = verbs_placement_of(options, port->attr.link_layer, reason);
    int status = pkey_choose(library, options, port, detail);
    return status == RT_OK ? verbs_gid_query(library, port->context, number, &port->attr, options, &port->gid, detail) : status;
}

int verbs_port_refresh(verbs_device *device, rt_detail *detail)
{
    verbs_port port = device->port;
    int status = verbs_port_read(device->library, &device->options, port.number, &port, detail);
    if (status == RT_OK)
        device->port = port;
    return status;
}

double verbs_port_gigabits(const verbs_port *port)
{
    const struct ibv_port_attr *attr = &port->attr;
    double shown = verbs_sysfs_gigabits(port->context->device, port->number);
    if (shown > 0)
        return shown;
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

#endif
