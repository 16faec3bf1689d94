/* edge_mode.c: which way of carrying a flag is sound under the promises, and the sentence that says
 * why (EDGES.md section 4).
 *
 * `mode_facts` holds the words of each mode, the name, the reason and the promise that it lacks,
 * and `mode_safe` its condition. Both ends keep the same order of preference, so they agree without
 * a further message.
 *
 * A new mode needs a row in each, its WRITEs in edge_plan, and its place among the explorations of
 * tests/model. */
#include "proto/edge_mode.h"

#include <stdio.h>

typedef struct mode_fact {
    const char *name;
    const char *reason; /* why the mode may be used, if it may */
    const char *lack;   /* the promise that is missing, if it may not */
} mode_fact;

static const mode_fact mode_facts[RT_EDGE_MODE_COUNT] = {
    [RT_EDGE_TAIL] = {"tail",
                      "the provider places the WRITEs of a QP, and the bytes of each, in ascending order, so a last word says "
                      "that all are there",
                      "the provider does not promise that the bytes of one WRITE are placed in ascending order and after earlier "
                      "WRITEs, or the payload's region has relaxed ordering"},
    [RT_EDGE_CHAINED] = {"chained", "the provider places a later WRITE of a QP after an earlier one, and aligned words whole",
                         "the provider does not promise that a later WRITE is placed after an earlier one as a whole word, or "
                         "the payload's region has relaxed ordering"},
    [RT_EDGE_IMMEDIATE] = {"immediate", "the provider completes a WRITE with immediate at the receiver after placing all of it",
                           "the provider does not carry immediates"},
};

/* The order of preference, best first. */
static const rt_edge_mode preference[] = {RT_EDGE_CHAINED, RT_EDGE_IMMEDIATE, RT_EDGE_TAIL};

const char *rt_edge_mode_name(uint32_t mode)
{
    return mode >= RT_EDGE_TAIL && mode < RT_EDGE_MODE_COUNT ? mode_facts[mode].name : "unknown";
}

/* Whether the promises allow this mode. */
static bool mode_safe(const rt_edge_promises *promises, rt_edge_mode mode)
{
    switch (mode) {
    case RT_EDGE_TAIL: return promises->orders_bytes_within_a_write && promises->orders_writes && !promises->relaxed_payload;
    case RT_EDGE_CHAINED: return promises->orders_writes && promises->places_words_whole && !promises->relaxed_payload;
    case RT_EDGE_IMMEDIATE: return promises->carries_immediate;
    }
    return false;
}

static int mode_refuse(const rt_edge_promises *promises, uint32_t wanted, rt_detail *detail)
{
    const char *order = promises->order_reason != NULL ? promises->order_reason : "";
    if (wanted == 0)
        return rt_fail(detail, RT_E_UNSUPPORTED, 0,
                       "no way to carry a tensor's flag: the provider neither orders writes with whole words, nor the bytes of "
                       "a write, nor carries immediates");
    if (wanted >= RT_EDGE_MODE_COUNT)
        return rt_fail(detail, RT_E_INVALID, 0, "an ordering with the number %u: tail, chained and immediate are known", wanted);
    return rt_fail(detail, RT_E_UNSUPPORTED, 0,
                   "the ordering \"%s\" was asked for by name, but %s%s%s: leave the choice to the library",
                   mode_facts[wanted].name, mode_facts[wanted].lack, order[0] != '\0' ? "; " : "", order);
}

static void reason_write(const rt_edge_promises *promises, const mode_fact *fact, bool named, bool trusting,
                         char reason_out[RT_EDGE_REASON_SIZE])
{
    const char *order = promises->order_reason != NULL ? promises->order_reason : "";
    const char *before = order[0] != '\0' ? " (" : "", *after = order[0] != '\0' ? ")" : "";
    if (trusting)
        snprintf(reason_out, RT_EDGE_REASON_SIZE,
                 "%s: asked for by name, although %s; a torn tensor is possible and only "
                 "verify=\"crc32c\" would notice%s%s%s",
                 fact->name, fact->lack, before, order, after);
    else
        snprintf(reason_out, RT_EDGE_REASON_SIZE, "%s: %s%s%s%s%s", fact->name, named ? "asked for by name; " : "", fact->reason,
                 before, order, after);
}

int rt_edge_mode_offer(const rt_edge_promises *promises, uint32_t wanted, uint32_t *modes_out, bool *trusting_out,
                       char reason_out[RT_EDGE_REASON_SIZE], rt_detail *detail)
{
    uint32_t modes = 0, best = 0;
    bool trusting = wanted == RT_EDGE_TAIL && !mode_safe(promises, RT_EDGE_TAIL);
    for (size_t index = 0; index < sizeof preference / sizeof preference[0]; index++) {
        uint32_t mode = preference[index];
        if ((wanted != 0 && mode != wanted) || !(mode_safe(promises, (rt_edge_mode)mode) || trusting))
            continue;
        modes |= 1u << mode;
        best = best == 0 ? mode : best;
    }
    if (modes == 0)
        return mode_refuse(promises, wanted, detail);
    reason_write(promises, &mode_facts[best], wanted != 0, trusting, reason_out);
    *modes_out = modes;
    *trusting_out = trusting;
    return RT_OK;
}

uint32_t rt_edge_mode_agree(uint32_t own_modes, uint32_t peer_modes)
{
    for (size_t index = 0; index < sizeof preference / sizeof preference[0]; index++) {
        if ((own_modes & peer_modes & 1u << preference[index]) != 0)
            return preference[index];
    }
    return 0;
}
