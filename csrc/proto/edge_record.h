/* edge_record.h: the metadata record of a dynamic edge: a fixed 192 bytes that say which tensor is
 * sent and where it lies. EDGES.md section 7 has its layout.
 *
 * The sender writes a record into a slot, as a static edge writes a tensor. An eager tensor
 * precedes its record in the slot; any other lies at an offset in a registration that a key names,
 * and the receiver READs or borrows it.
 *
 * Invariant: a record that decodes names a tensor that the edge may carry, and a range inside a
 * registration that was announced.
 *
 * Driver: pure and without state. edge/dynamic.c encodes; edge/fetch.c decodes a copy of the
 * record, since a peer could change the bytes in the slot after they were checked. */
#ifndef RT_PROTO_EDGE_RECORD_H
#define RT_PROTO_EDGE_RECORD_H

#include "proto/edge_layout.h"

enum { RT_EDGE_RECORD_VERSION = 1 };

typedef struct rt_edge_record {
    rt_tensor_shape shape;
    uint64_t sequence;
    uint64_t size;        /* bytes of the tensor */
    bool eager;           /* the bytes precede the record; offset and key are 0 then */
    bool verified;        /* payload_crc is given */
    uint64_t offset;      /* of the tensor in the sender's registration */
    uint32_t key;         /* which registration: one that OPEN_EDGE or ADD_KEY announced */
    uint32_t payload_crc; /* rt_edge_crc of the tensor and the sequence */
} rt_edge_record;

/* The values that a record may have. */
typedef struct rt_edge_expected {
    uint8_t dtype; /* RT_DTYPE_ANY: every one */
    uint8_t rank;  /* RT_EDGE_RANK_ANY: every one */
    bool verify;
    uint64_t sequence;         /* the flag's sequence */
    uint64_t eager_size;       /* bytes of the eager area */
    uint32_t key_count;        /* registrations announced so far … */
    const uint64_t *key_sizes; /* … and their sizes */
} rt_edge_expected;

/* The CRC that goes with a tensor, or with one stripe of it: over its bytes and then the sequence,
 * so that the bytes of an earlier tensor do not match a later flag. `crc` is that of the bytes
 * (rt_crc32c from 0). */
uint32_t rt_edge_crc(uint32_t crc, uint64_t sequence);

/* RT_E_INVALID with the detail, and nothing written: a shape that rt_tensor_bytes refuses, a size
 * that does not match the shape, dimensions beyond the rank, a sequence of 0, a key over the limit,
 * an eager tensor with a place elsewhere, an empty tensor that is not eager. */
int rt_edge_record_encode(const rt_edge_record *record, uint8_t bytes_out[RT_EDGE_RECORD_SIZE], rt_detail *detail);

/* RT_OK; RT_E_CORRUPT when its own CRC does not match; RT_E_VERSION; RT_E_PROTOCOL when it is
 * malformed, or not allowed on the edge: another dtype, rank or sequence, an eager tensor larger
 * than the area, a range outside its registration. Accepts exactly the bytes that
 * rt_edge_record_encode makes. `bytes` are a copy: in the slot, a peer could change them after they
 * were checked. */
int rt_edge_record_decode(const uint8_t bytes[RT_EDGE_RECORD_SIZE], const rt_edge_expected *expected, rt_edge_record *record_out,
                          rt_detail *detail);

/* Whether a record in its slot says that the tensor is eager; a hint, for the record is not checked. */
bool rt_edge_record_looks_eager(const uint8_t *record);

/* Bytes of a dynamic edge's slot: the eager area, rounded up to a multiple of 64, and the record behind it. */
uint64_t rt_edge_record_slot_size(uint64_t eager_size);
/* The offset of the record in the slot, and that of an eager tensor of `size` bytes: the last
 * multiple of 64 that leaves room. */
uint64_t rt_edge_record_offset(uint64_t eager_size);
uint64_t rt_edge_eager_offset(uint64_t eager_size, uint64_t size);

#endif
