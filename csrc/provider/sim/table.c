/* table.c: the provider table of `sim`, by position. provider/provider.h says what each entry must
 * do. */
#include "provider/sim/sim.h"

static const rt_clock_ops clock_ops = {
    rt_sim_now_ns,
    rt_sim_advance,
};

const rt_provider rt_provider_sim = {
    "sim",
    rt_sim_viable,
    rt_sim_list,
    rt_sim_open,
    rt_sim_close,
    rt_sim_memory_register,
    rt_sim_memory_release,
    rt_sim_memory_key,
    rt_sim_link_create,
    rt_sim_link_connect,
    rt_sim_link_shut,
    rt_sim_link_destroy,
    rt_sim_remote_attach,
    rt_sim_remote_detach,
    rt_absent_remote_map,
    rt_sim_post,
    rt_sim_poll,
    rt_sim_arm,
    rt_sim_event_fd,
    rt_sim_event_clear,
    rt_sim_service_fd,
    rt_sim_service,
    rt_sim_memory_epoch,
    rt_sim_memory_sleep,
    rt_sim_memory_wake,
    rt_absent_memory_event_fd,
    rt_absent_memory_arm,
    rt_absent_memory_help,
    rt_sim_completion_name,
    rt_sim_link_describe,
    rt_sim_command,
    &clock_ops,
    &rt_sim_streams,
};
