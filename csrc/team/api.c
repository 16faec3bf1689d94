/* api.c: the table of functions for code that is built apart from the library, and statistics. */
#include <string.h>

#include "device/fork.h"
#include "team/team.h"

void rt_team_get_stats(rt_team *team, rt_team_stats *stats_out)
{
    memset(stats_out, 0, sizeof *stats_out);
    if (rt_forked())
        return;
    pthread_mutex_lock(&team->lock);
    *stats_out = team->stats;
    pthread_mutex_unlock(&team->lock);
    stats_out->sleeps = atomic_load(&team->sleeps);
}

const rt_team_api *rt_team_get_api(void)
{
    static const rt_team_api api = {
        RT_TEAM_API_VERSION, rt_team_get_stats,      rt_team_failure,       rt_team_abort,         rt_team_barrier,
        rt_team_reduce,      rt_team_reduce_scatter, rt_team_gather_all,    rt_team_broadcast,     rt_team_exchange,
        rt_team_send,        rt_team_receive,        rt_team_transfer_wait, rt_team_transfer_drop, rt_team_progress,
    };
    return &api;
}
