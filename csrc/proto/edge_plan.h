/* edge_plan.h: the WRITEs that carry one tensor, and the meaning of an arriving immediate. The full
 * protocol: EDGES.md sections 3 to 6.
 *
 * A plan is a list of at most four WRITEs for one stripe: BEGUN, NOTE, payload, FLAG, as far as the
 * edge has them. The mode decides how the flag travels: as a WRITE of its own (chained), as an
 * immediate of the payload's WRITE, or as the last word of the payload's WRITE (tail).
 *
 * Invariant: in every mode that the promises allow, the receiver sees the flag of a sequence only
 * after all its bytes are placed.
 *
 * Driver: pure and without state of its own. Core turns a plan into work items of one QP, in order
 * and with one doorbell (edge/copies.c, edge/post.c); the receiver's poller passes immediates in
 * (edge/immediate.c). edge_flow decides when a tensor may be sent. */
#ifndef RT_PROTO_EDGE_PLAN_H
#define RT_PROTO_EDGE_PLAN_H

#include "proto/edge_layout.h"

/* The terms that both ends agreed on when the edge was opened, and the promises of the sender's
 * provider. */
typedef struct rt_edge_wiring {
    rt_edge_layout layout;
    uint8_t mode;        /* rt_edge_mode */
    bool verify;         /* a CRC goes with each stripe */
    bool loop_check;     /* the sender announces the tensor that it begins to write */
    bool orders_writes;  /* the provider's promise, as … */
    bool covers_earlier; /* … immediate_covers_earlier */
    bool record;         /* the payload is a dynamic edge's record: any part of a slot, never in pieces */
    uint16_t number;     /* of the edge at its receiver, 1 to RT_EDGES_MAX: in every immediate */
    uint64_t piece_size; /* largest work item: limits.message_size_max */
    uint32_t apart_min;  /* RT_EDGE_APART_MIN, or less in explorations */
} rt_edge_wiring;

typedef enum rt_edge_part {
    RT_EDGE_PART_BEGUN = 1, /* 8 bytes, inline: the sequence, into the line's BEGUN */
    RT_EDGE_PART_NOTE,      /* 8 bytes, inline: CRC and sequence, into the line's NOTE */
    RT_EDGE_PART_PAYLOAD,   /* bytes of the tensor (or eager bytes and record), into the slot */
    RT_EDGE_PART_FLAG,      /* 8 bytes, inline: the sequence, into the line's FLAG */
} rt_edge_part;

typedef struct rt_edge_write {
    uint8_t part;           /* rt_edge_part */
    bool immediate;         /* its last piece is a WRITE_IMM … */
    bool every_piece;       /* … or each of them is, … */
    bool apart;             /* … or none is, and a WRITE_IMM of 0 bytes follows */
    uint64_t remote_offset; /* PAYLOAD: from the start of the slots. Words: of the flag lines, or of the slots with a tail */
    uint64_t from, size;    /* PAYLOAD: these bytes of the slot's payload; words: size 8 */
    uint64_t trailer_size;  /* PAYLOAD with a tail: zero bytes and the line that follow in the same WRITE */
    uint64_t word;          /* of a word */
} rt_edge_write;

/* A payload of more bytes travels in plain WRITEs that the fabric may spread over its paths, and a WRITE_IMM of 0 bytes
 * follows: EDGES.md section 4. */
enum { RT_EDGE_WRITES_MAX = 4, RT_EDGE_APART_MIN = 8 << 10 };

/* Whether each work item needs an immediate of its own, which the receiver counts. */
static inline bool rt_edge_counts_pieces(const rt_edge_wiring *wiring)
{
    return !wiring->orders_writes && !wiring->covers_earlier;
}

typedef struct rt_edge_plan {
    uint32_t count;
    uint32_t immediate;
    rt_edge_write writes[RT_EDGE_WRITES_MAX]; /* in the order in which they are posted */
} rt_edge_plan;

/* RT_OK, or RT_E_UNSUPPORTED with the detail: a tail in several WRITEs, or a loop check, over a provider that does not order
 * WRITEs; a record larger than a work item. */
int rt_edge_wiring_check(const rt_edge_wiring *wiring, rt_detail *detail);

/* The WRITEs of bytes [from, from + size) of the payload, on the QP of this stripe. `crc` as
 * rt_edge_crc gives it; 0 without verify. */
void rt_edge_plan_make(const rt_edge_wiring *wiring, uint64_t sequence, uint32_t stripe, uint64_t from, uint64_t size,
                       uint32_t crc, rt_edge_plan *plan_out);

/* The line that ends a tail WRITE; `begun` as in the plan. */
void rt_edge_line_fill(const rt_edge_wiring *wiring, uint64_t sequence, uint32_t crc, uint8_t line_out[RT_EDGE_LINE_SIZE]);

/* ---- notes ---- */

/* The CRC in the low half, the sequence's low half in the high one, so that an old note never
 * matches. */
uint64_t rt_edge_note(uint64_t sequence, uint32_t crc);
/* RT_OK, or RT_E_CORRUPT with the detail. `crc` is rt_edge_crc over the bytes that are in the slot. */
int rt_edge_note_check(uint64_t note, uint64_t sequence, uint32_t crc, rt_detail *detail);

/* ---- immediates: edge number 16 bits, slot 8, low 8 bits of sequence / slots ---- */

uint16_t rt_edge_immediate_number(uint32_t immediate);
/* How many immediates one tensor brings on this stripe. Both ends count the same. */
uint32_t rt_edge_immediate_count(const rt_edge_wiring *wiring, uint32_t stripe);
/* The receiver's poller took an immediate; it owns the line's COUNT and, in this mode, FLAG. RT_OK:
 * the stripe is whole, store *flag_out with release. RT_E_AGAIN: store *count_out. RT_E_PROTOCOL
 * with the detail: no tensor that is due in the slot has this immediate. `flag` and `count` are the
 * line's words, slot 0 to slots - 1 as rt_edge_immediate_slot says. */
int rt_edge_immediate_slot(const rt_edge_wiring *wiring, uint32_t immediate, uint32_t *slot_out, rt_detail *detail);
int rt_edge_immediate_take(const rt_edge_wiring *wiring, uint32_t immediate, uint32_t stripe, uint64_t flag, uint64_t count,
                           uint64_t *flag_out, uint64_t *count_out, rt_detail *detail);

#endif
