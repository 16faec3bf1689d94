/* edge_mode.h: how the flag of an edge is carried, chosen by the provider's promises. EDGES.md
 * section 4 has the table and the reasons.
 *
 * Each end offers the modes that its own promises make safe. The first in the order chained,
 * immediate, tail that both offer is taken, once, when the edge is opened. A mode asked for by name
 * is the only one offered; `tail` is granted by name even without the promises, with a reason that
 * warns.
 *
 * Invariant: a mode that was not asked for by name is sound at both ends: it never shows a flag
 * before its bytes.
 *
 * Driver: pure and without state. edge/make.c asks when an edge is made or opened; the receiver
 * agrees in edge_open. */
#ifndef RT_PROTO_EDGE_MODE_H
#define RT_PROTO_EDGE_MODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum rt_edge_mode {
    RT_EDGE_TAIL = 1,      /* the last word of the one WRITE that carries the tensor, as in the paper */
    RT_EDGE_CHAINED = 2,   /* a second, inline WRITE on the same QP */
    RT_EDGE_IMMEDIATE = 3, /* the tensor's WRITE carries an immediate */
} rt_edge_mode;

enum { RT_EDGE_MODE_COUNT = 4, RT_EDGE_REASON_SIZE = 384 };

/* The promises of provider.h that the choice needs, and whether the payload's region gave some of them up. */
typedef struct rt_edge_promises {
    bool orders_writes;
    bool orders_bytes_within_a_write;
    bool places_words_whole;
    bool carries_immediate;
    bool relaxed_payload;     /* the slots lie in a region with RT_ACCESS_RELAXED_ORDER */
    const char *order_reason; /* why orders_writes is as it is, or ""; NULL is "" */
} rt_edge_promises;

/* "tail", "chained", "immediate"; "unknown" for another number. */
const char *rt_edge_mode_name(uint32_t mode);

/* Bits (1 << mode) that this end may use: all safe ones, or the one that was asked for by name
 * (`wanted`, 0 for none). `tail` asked for by name is granted even without the promise;
 * *trusting_out says so, and so does the reason. RT_E_UNSUPPORTED with the detail when no mode is
 * left. `reason_out` is the text of channel.ordering: one line. */
int rt_edge_mode_offer(const rt_edge_promises *promises, uint32_t wanted, uint32_t *modes_out, bool *trusting_out,
                       char reason_out[RT_EDGE_REASON_SIZE], rt_detail *detail);

/* The mode that both ends may use: chained before immediate before tail; 0 when they have none in common. */
uint32_t rt_edge_mode_agree(uint32_t own_modes, uint32_t peer_modes);

#endif
