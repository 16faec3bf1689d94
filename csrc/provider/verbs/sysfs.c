/* sysfs.c: what the kernel says of a port in /sys and libibverbs does not: its speed in words, which needs no number of a
 * header, the NUMA node of its device, and its network interfaces. Nothing here fails: what cannot be read is not known. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_SIZE = IBV_SYSFS_PATH_MAX + 96, GIDS_MAX = 256 };

/* The first line of a file, without its end. False where there is none. */
static bool line_read(const char *path, char *line_out, size_t capacity)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return false;
    ssize_t size = read(descriptor, line_out, capacity - 1);
    close(descriptor);
    line_out[size > 0 ? size : 0] = '\0';
    line_out[strcspn(line_out, "\n")] = '\0';
    return size > 0;
}

bool verbs_sysfs_read(const struct ibv_device *device, char *line_out, size_t capacity, const char *format, ...)
{
    char name[96], path[PATH_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    if (device->ibdev_path[0] == '\0')
        return false;
    snprintf(path, sizeof path, "%s/%s", device->ibdev_path, name);
    return line_read(path, line_out, capacity);
}

/* The file begins with the number: "800 Gb/sec (4X XDR)", "2.5 Gb/sec (1X SDR)". */
double verbs_sysfs_gigabits(const struct ibv_device *device, uint32_t port)
{
    char line[64];
    unsigned whole = 0, tenths = 0;
    if (!verbs_sysfs_read(device, line, sizeof line, "ports/%u/rate", port))
        return 0;
    if (sscanf(line, "%6u.%1u", &whole, &tenths) < 1)
        return 0;
    return whole + tenths / 10.0;
}

int verbs_sysfs_node(const struct ibv_device *device)
{
    char line[32];
    return verbs_sysfs_read(device, line, sizeof line, "device/numa_node") ? atoi(line) : -1;
}

static bool names_have(const char *names, const char *name, size_t size)
{
    while (*names != '\0') {
        size_t length = strcspn(names, ",");
        if (length == size && memcmp(names, name, size) == 0)
            return true;
        names += length + (names[length] == ',');
    }
    return false;
}

bool verbs_sysfs_gid_is_of(const struct ibv_device *device, uint32_t port, uint32_t index, const char *interfaces)
{
    char line[64];
    return verbs_sysfs_read(device, line, sizeof line, "ports/%u/gid_attrs/ndevs/%u", port, index) &&
           names_have(interfaces, line, strlen(line));
}

/* The interfaces that the device itself has; of a bond or a VLAN only the table of GIDs knows. */
static bool device_has_interface(const struct ibv_device *device, uint32_t port, const char *interfaces)
{
    for (const char *at = interfaces; *at != '\0';) {
        char line[32];
        int length = (int)strcspn(at, ",");
        if (verbs_sysfs_read(device, line, sizeof line, "device/net/%.*s/dev_port", length, at) &&
            (strtoul(line, NULL, 10) + 1 == port || port == 1))
            return true;
        at += length + (at[length] == ',');
    }
    return false;
}

bool verbs_sysfs_has_interface(const struct ibv_device *device, uint32_t port, const char *interfaces)
{
    for (uint32_t index = 0; index < GIDS_MAX; index++)
        if (verbs_sysfs_gid_is_of(device, port, index, interfaces))
            return true;
    return device_has_interface(device, port, interfaces);
}

/* ---- the distance of a NUMA node ---- */

/* The next number of "0-3,8,10-11"; false at the end. `at` and `last` keep the place: -1 as *last begins. */
static bool number_next(const char **at, long *number, long *last)
{
    char *end;
    if (*number < *last) {
        (*number)++;
        return true;
    }
    if (**at < '0' || **at > '9')
        return false;
    *number = *last = strtol(*at, &end, 10);
    if (*end == '-')
        *last = strtol(end + 1, &end, 10);
    *at = *end == ',' ? end + 1 : end;
    return true;
}

static bool node_has_cpu(const char *nodes, long node, const cpu_set_t *cpus)
{
    char path[PATH_SIZE], line[1024];
    long cpu = -1, last = -1;
    snprintf(path, sizeof path, "%s/node%ld/cpulist", nodes, node);
    const char *at = line;
    if (!line_read(path, line, sizeof line))
        return false;
    while (number_next(&at, &cpu, &last))
        if (cpu >= 0 && cpu < CPU_SETSIZE && CPU_ISSET((size_t)cpu, cpus))
            return true;
    return false;
}

/* The kernel's table has one number for each node that is there, in their order. */
int verbs_node_distance(const char *nodes, const cpu_set_t *cpus, int node)
{
    char path[PATH_SIZE], online[1024], distances[4096];
    long other = -1, last = -1;
    int least = VERBS_DISTANCE_UNKNOWN;
    if (node < 0)
        return least;
    snprintf(path, sizeof path, "%s/online", nodes);
    if (!line_read(path, online, sizeof online))
        return least;
    snprintf(path, sizeof path, "%s/node%d/distance", nodes, node);
    if (!line_read(path, distances, sizeof distances))
        return least;
    const char *at = online;
    char *distance = distances;
    while (number_next(&at, &other, &last)) {
        char *end;
        long value = strtol(distance, &end, 10);
        if (end == distance)
            break;
        distance = end;
        if (value > 0 && value < least && node_has_cpu(nodes, other, cpus))
            least = (int)value;
    }
    return least;
}

#endif
