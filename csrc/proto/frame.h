/* frame.h: frames of the control connection, with the tags that authenticate them. PROTOCOL.md
 * section 2 has the layout.
 *
 * After the proofs all bytes travel in frames: OFFER, READY, BYE and ERROR. Each direction is a
 * lane with a key of its own and a counter of frames; the tag covers counter, header and payload.
 *
 * Invariant: a payload is handed out only if its frame is the next one that the peer sealed:
 * inserted, dropped, repeated and reflected frames fail. Nothing is encrypted.
 *
 * Driver: pure; bytes in, frames out. handshake.c seals and opens; payload.c reads and writes the
 * payloads. */
#ifndef RT_PROTO_FRAME_H
#define RT_PROTO_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/sha256.h"

enum rt_frame_kind { RT_FRAME_OFFER = 1, RT_FRAME_READY = 2, RT_FRAME_BYE = 3, RT_FRAME_ERROR = 4 };

/* One direction of a connection: its key and how many frames it has carried. */
typedef struct rt_frame_lane {
    uint8_t key[RT_SHA256_SIZE];
    uint64_t counter;
} rt_frame_lane;

/* Writes a whole frame and advances the lane. Returns its size, or RT_E_INVALID when the payload or capacity is wrong. */
int64_t rt_frame_seal(rt_frame_lane *lane, uint16_t kind, const uint8_t *payload, size_t payload_size, uint8_t *bytes_out,
                      size_t capacity);

/* Looks at the start of `bytes`. RT_E_AGAIN: more bytes are needed. RT_E_PROTOCOL: too large, unknown kind, padding, tag.
 * RT_OK: kind, payload (a pointer into `bytes`) and the whole frame's size are set, the lane is advanced. */
int rt_frame_open(rt_frame_lane *lane, const uint8_t *bytes, size_t size, uint16_t *kind_out, const uint8_t **payload_out,
                  size_t *payload_size_out, size_t *frame_size_out, rt_detail *detail);

/* "OFFER", "READY", "BYE", "ERROR". */
const char *rt_frame_kind_name(enum rt_frame_kind kind);

/* Copies peer text of `size` bytes into `text_out` with '?' for every byte that is not printable
 * ASCII; always terminated. */
void rt_text_clean(const uint8_t *bytes, size_t size, char *text_out, size_t capacity);

#endif
