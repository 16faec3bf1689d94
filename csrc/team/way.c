/* way.c: the table of the ways of collective calls. TEAMS.md is drawn from it (make notes), and
 * says how each way goes. */
#include "team/way.h"

enum {
    SHARED = 32768, /* bytes that one member receives in RT_BYTES_SHARE, from all others together */
};

const rt_way_row rt_ways[RT_CALL_COUNT][RT_WAY_ROWS] = {
    [RT_CALL_REDUCE_TO_ALL] =
        {
            {2, 1, RT_BYTES_SHARE, RT_REACH_NONE, RT_WAY_WHOLE},
            {2, RT_DIRECT_SIZE_MIN, RT_BYTES_ANY, RT_REACH_WRITE, RT_WAY_SPREAD},
            {2, RT_DIRECT_SIZE_MIN, RT_BYTES_ANY, RT_REACH_READ, RT_WAY_PIECES},
            {2, 1, RT_BYTES_ANY, RT_REACH_NONE, RT_WAY_STEPS},
            {2, 0, RT_BYTES_ANY, RT_REACH_NONE, RT_WAY_NOTHING},
            {1, 0, RT_BYTES_ANY, RT_REACH_NONE, RT_WAY_COPY},
        },
    [RT_CALL_REDUCE_TO_ROOT] =
        {
            {2, 1, RT_BYTES_SHARE, RT_REACH_NONE, RT_WAY_WHOLE},
            {2, RT_DIRECT_SIZE_MIN, RT_BYTES_ANY, RT_REACH_WRITE, RT_WAY_DELIVER},
            {2, RT_DIRECT_SIZE_MIN, RT_BYTES_ANY, RT_REACH_READ, RT_WAY_COLLECT},
            {2, 1, RT_BYTES_ANY, RT_REACH_NONE, RT_WAY_STEPS},
            {2, 0, RT_BYTES_ANY, RT_REACH_NONE, RT_WAY_NOTHING},
            {1, 0, RT_BYTES_ANY, RT_REACH_NONE, RT_WAY_COPY},
        },
    [RT_CALL_REDUCE_SCATTER] =
        {
            {2, RT_DIRECT_SIZE_MIN, RT_BYTES_ANY, RT_REACH_READ, RT_WAY_OWN},
            {2, 0, RT_BYTES_ANY, RT_REACH_NONE, RT_WAY_PARTS},
            {1, 0, RT_BYTES_ANY, RT_REACH_NONE, RT_WAY_COPY},
        },
    [RT_CALL_GATHER_ALL] =
        {
            {2, RT_DIRECT_SIZE_MIN, RT_BYTES_ANY, RT_REACH_READ, RT_WAY_READ},
            {1, 0, RT_BYTES_ANY, RT_REACH_NONE, RT_WAY_CHUNKS},
        },
    [RT_CALL_BROADCAST] =
        {
            {2, RT_DIRECT_SIZE_MIN, RT_BYTES_ANY, RT_REACH_READ, RT_WAY_READ},
            {1, 0, RT_BYTES_CHUNK, RT_REACH_NONE, RT_WAY_STAR},
            {1, 0, RT_BYTES_ANY, RT_REACH_NONE, RT_WAY_CHAIN},
        },
    [RT_CALL_EXCHANGE] =
        {
            {1, RT_DIRECT_SIZE_MIN, RT_BYTES_ANY, RT_REACH_READ, RT_WAY_READ},
            {1, 1, RT_BYTES_ANY, RT_REACH_NONE, RT_WAY_CHUNKS},
            {1, 0, RT_BYTES_ANY, RT_REACH_NONE, RT_WAY_NOTHING},
        },
};

rt_way_terms rt_way_terms_of(uint32_t members, uint64_t chunk, bool maps)
{
    rt_way_terms terms = {.members = members, .maps = maps};
    uint64_t share = members > 1 ? SHARED / (members - 1) : 0;
    terms.bounds[RT_BYTES_ANY] = UINT64_MAX;
    terms.bounds[RT_BYTES_SHARE] = share < chunk ? share : chunk;
    terms.bounds[RT_BYTES_CHUNK] = chunk;
    return terms;
}
