/* edge_record.h: the metadata record of a dynamic edge, a fixed 192 bytes that say what tensor is sent and where it lies
 * (EDGES.md section 7). Pure. It is written by a peer: hostile until decoded against what the edge allows. */
#ifndef RT_PROTO_EDGE_RECORD_H
#define RT_PROTO_EDGE_RECORD_H

#include "proto/edge_layout.h"

enum { RT_EDGE_RECORD_VERSION = 1 };

typedef struct rt_edge_record {
    rt_tensor_shape shape;
    uint64_t sequence;
    uint64_t size;        /* bytes of the tensor */
    bool eager;           /* they lie in front of the record; offset and key are 0 then */
    bool verified;        /* payload_crc is given */
    uint64_t offset;      /* of the tensor in the sender's registration */
    uint32_t key;         /* which registration: one that OPEN_EDGE or ADD_KEY announced */
    uint32_t payload_crc; /* rt_edge_crc of the tensor and the sequence */
} rt_edge_record;

/* What a record may say. */
typedef struct rt_edge_expected {
    uint8_t dtype; /* RT_DTYPE_ANY: every one */
    uint8_t rank;  /* RT_EDGE_RANK_ANY: every one */
    bool verify;
    uint64_t sequence;         /* that of the flag */
    uint64_t eager_size;       /* bytes of the eager area */
    uint32_t key_count;        /* registrations announced so far … */
    const uint64_t *key_sizes; /* … and their sizes */
} rt_edge_expected;

/* The CRC that goes with a tensor, or with one stripe of it: over its bytes and then the sequence, so that yesterday's bytes do
 * not fit today's flag. `crc` is that of the bytes (rt_crc32c from 0). */
uint32_t rt_edge_crc(uint32_t crc, uint64_t sequence);

/* RT_E_INVALID with the detail, and nothing written: a shape that rt_tensor_bytes refuses, a size that is not the shape's,
 * dimensions beyond the rank, a sequence of 0, a key over the limit, an eager tensor with a place elsewhere, an empty one that is
 * not eager. */
int rt_edge_record_encode(const rt_edge_record *record, uint8_t bytes_out[RT_EDGE_RECORD_SIZE], rt_detail *detail);

/* RT_OK; RT_E_CORRUPT when its own CRC does not fit; RT_E_VERSION; RT_E_PROTOCOL when it is malformed, or is not what the edge
 * allows: another dtype, rank or sequence, an eager tensor larger than the area, a range outside its registration. Accepts
 * exactly what rt_edge_record_encode makes. `bytes` are a copy: in the slot, a peer could change them after they were checked. */
int rt_edge_record_decode(const uint8_t bytes[RT_EDGE_RECORD_SIZE], const rt_edge_expected *expected, rt_edge_record *record_out,
                          rt_detail *detail);

/* Bytes of a dynamic edge's slot: the eager area, rounded up to a multiple of 64, and the record behind it. */
uint64_t rt_edge_record_slot_size(uint64_t eager_size);
/* Where the record starts in the slot, and where an eager tensor of `size` bytes does: the last multiple of 64 that leaves room. */
uint64_t rt_edge_record_offset(uint64_t eager_size);
uint64_t rt_edge_eager_offset(uint64_t eager_size, uint64_t size);

#endif
