/* table.c: the table of the verbs provider, and the remainder of it in a build without libibverbs'
 * header. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

const rt_provider rt_provider_verbs = {
    "verbs",
    verbs_viable,
    verbs_list,
    verbs_open,
    verbs_close,
    verbs_memory_register,
    verbs_memory_release,
    verbs_memory_key,
    verbs_link_create,
    verbs_link_connect,
    verbs_link_shut,
    verbs_link_destroy,
    verbs_remote_attach,
    verbs_remote_detach,
    rt_absent_remote_map,
    verbs_post,
    verbs_poll,
    verbs_arm,
    verbs_event_fd,
    verbs_event_clear,
    verbs_service_fd,
    verbs_service,
    rt_absent_memory_epoch,
    rt_absent_memory_sleep,
    rt_absent_memory_wake,
    rt_absent_memory_event_fd,
    rt_absent_memory_arm,
    rt_absent_memory_help,
    verbs_completion_name,
    verbs_link_describe,
    rt_absent_command,
    NULL,
    NULL,
};

#else

static int absent_fail(rt_detail *detail)
{
    return rt_fail(
        detail, RT_E_UNAVAILABLE, 0,
        "built without verbs: install libibverbs-dev (Fedora: rdma-core-devel), version 37 or newer, and rebuild rdmatensor");
}

static int absent_list(rt_device_info *infos_out, int capacity, rt_detail *detail)
{
    (void)infos_out;
    (void)capacity;
    return absent_fail(detail);
}

static int absent_open(const rt_open_options *options, rt_pdevice **device_out, rt_detail *detail)
{
    (void)options;
    (void)device_out;
    return absent_fail(detail);
}

static const char *absent_name(uint32_t foreign_status)
{
    (void)foreign_status;
    return "unknown ibv_wc_status";
}

/* No device can be opened, so no function that takes a device is ever called. */
const rt_provider rt_provider_verbs = {
    "verbs",
    absent_fail,
    absent_list,
    absent_open,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
    rt_absent_remote_map,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
    rt_absent_memory_epoch,
    rt_absent_memory_sleep,
    rt_absent_memory_wake,
    rt_absent_memory_event_fd,
    rt_absent_memory_arm,
    rt_absent_memory_help,
    absent_name,
    NULL,
    rt_absent_command,
    NULL,
    NULL,
};

#endif
