/* absent.c: the operations that a provider does not have. Each returns "not supported" in the way
 * its prototype allows, so that a table is complete and core needs no null checks. */
#include "provider/provider.h"

int rt_absent_command(const char *text, char *reply_out, size_t capacity, rt_detail *detail)
{
    (void)text;
    (void)reply_out;
    (void)capacity;
    return rt_fail(detail, RT_E_UNSUPPORTED, 0, "this provider takes no commands: fault plans are for sim://");
}

const void *rt_absent_remote_map(const rt_premote *remote)
{
    (void)remote;
    return NULL;
}

uint32_t rt_absent_memory_epoch(rt_pdevice *device)
{
    (void)device;
    return 0;
}

int rt_absent_memory_sleep(rt_pdevice *device, uint32_t epoch, int64_t timeout_ns)
{
    (void)device;
    (void)epoch;
    (void)timeout_ns;
    return RT_E_UNSUPPORTED;
}

void rt_absent_memory_wake(rt_pdevice *device)
{
    (void)device;
}

int rt_absent_memory_event_fd(rt_pdevice *device)
{
    (void)device;
    return -1;
}

void rt_absent_memory_arm(rt_pdevice *device)
{
    (void)device;
}

bool rt_absent_memory_help(rt_pdevice *device)
{
    (void)device;
    return false;
}
