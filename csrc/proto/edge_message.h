/* edge_message.h: the messages that open and close an edge, and announce registrations, over the
 * RPC of PROTOCOL.md section 4. EDGES.md section 9 has their layout.
 *
 * Requests are OPEN_EDGE, CLOSE_EDGE and ADD_KEY; each has exactly one reply. The kinds continue
 * the numbers of rpc_message, so the first byte of a message tells which decoder it needs.
 *
 * Invariant: each message has one encoding; bytes that decode are encoded to the same bytes again,
 * and fields that a kind does not have are zero.
 *
 * Driver: pure and without state. edge/round.c encodes and decodes on the service's thread;
 * edge/admit.c and edge/wire.c act on the messages. edge_open decides on the terms. The handles
 * inside are decoded when they are attached. */
#ifndef RT_PROTO_EDGE_MESSAGE_H
#define RT_PROTO_EDGE_MESSAGE_H

#include "proto/edge_layout.h"

/* These numbers go on where rt_rpc_kind ends: one number space, so a message's first byte tells its
 * kind. */
enum rt_edge_message_kind {
    RT_EDGE_OPEN_EDGE = 4,    /* request, from the sender */
    RT_EDGE_EDGE_OPENED = 5,  /* reply */
    RT_EDGE_EDGE_REFUSED = 6, /* reply, also to ADD_KEY */
    RT_EDGE_CLOSE_EDGE = 7,   /* request, from either side */
    RT_EDGE_EDGE_CLOSED = 8,  /* reply */
    RT_EDGE_ADD_KEY = 9,      /* request, from the sender of a dynamic edge */
    RT_EDGE_KEY_ADDED = 10,   /* reply */
};

enum rt_edge_kind { RT_EDGE_STATIC = 1, RT_EDGE_DYNAMIC = 2 };

/* The reason why an edge, or a key, was refused. */
typedef enum rt_edge_refusal {
    RT_EDGE_REFUSED_NAME = 1, /* no such edge within the wait */
    RT_EDGE_REFUSED_SENDER,   /* it has a sender */
    RT_EDGE_REFUSED_KIND,     /* static here, dynamic there */
    RT_EDGE_REFUSED_DTYPE,
    RT_EDGE_REFUSED_SHAPE, /* or rank */
    RT_EDGE_REFUSED_FLOW,
    RT_EDGE_REFUSED_ORDERING, /* no mode that both ends may use */
    RT_EDGE_REFUSED_FULL,     /* RT_EDGES_MAX, RT_EDGE_KEYS_MAX, or no receives */
    RT_EDGE_REFUSED_KEY,      /* the registration cannot be attached */
    RT_EDGE_REFUSED_MEMORY,   /* the receiver is out of memory, or of memory that it may lock */
    RT_EDGE_REFUSALS
} rt_edge_refusal;

/* The status that the sender's call ends with: RT_E_NOT_FOUND, RT_E_EXISTS, RT_E_UNSUPPORTED, RT_E_BUSY, RT_E_REFUSED. */
int rt_edge_refusal_status(uint32_t refusal);

typedef struct rt_edge_bytes {
    uint8_t size;
    uint8_t bytes[RT_HANDLE_SIZE_MAX];
} rt_edge_bytes;

typedef struct rt_edge_message {
    uint8_t kind; /* rt_edge_message_kind */
    uint16_t request;
    /* OPEN_EDGE and EDGE_OPENED */
    uint8_t edge_kind;     /* OPEN_EDGE: rt_edge_kind */
    uint8_t flow;          /* OPEN_EDGE: rt_edge_flow */
    uint8_t verify;        /* 0 or 1; EDGE_OPENED: 1 when either end asks for it */
    uint8_t stripes;       /* OPEN_EDGE: the most that may be used; EDGE_OPENED: the number used */
    uint8_t modes;         /* OPEN_EDGE: bits 1 << rt_edge_mode; EDGE_OPENED: the one that was taken */
    rt_tensor_shape shape; /* a static edge's, all of it; a dynamic one's dtype and rank, or ANY, and no dimensions */
    uint8_t name_size;     /* OPEN_EDGE */
    char name[RT_NAME_MAX + 1];
    uint32_t wait_ms;      /* OPEN_EDGE: how long it may wait for the name */
    rt_edge_bytes credit;  /* OPEN_EDGE: handle of the sender's credit line; empty with flow="loop" */
    rt_edge_bytes tensors; /* OPEN_EDGE, dynamic: handle of registration 0. ADD_KEY: of registration `key` */
    uint8_t slots;         /* EDGE_OPENED */
    uint8_t alignment_log; /* EDGE_OPENED: slots are aligned to 1 << it, 6 to 21 */
    uint8_t loop_check;    /* EDGE_OPENED: 0 or 1 */
    uint8_t lends;         /* EDGE_OPENED: 1 when the sender may write tensors in the slots themselves, where it can map them */
    uint32_t eager_size;   /* EDGE_OPENED, dynamic */
    rt_edge_bytes slots_handle; /* EDGE_OPENED */
    rt_edge_bytes flags_handle; /* EDGE_OPENED; empty with a tail */
    /* others */
    uint16_t number; /* EDGE_OPENED, CLOSE_EDGE, ADD_KEY: of the edge at its receiver, from 1 */
    uint8_t refusal; /* EDGE_REFUSED: rt_edge_refusal */
    uint8_t text_size;
    char text[RT_REASON_MAX + 1]; /* EDGE_REFUSED: printable ASCII */
    uint8_t by_sender;            /* CLOSE_EDGE: 1 from the sender, 0 from the receiver */
    uint64_t final;               /* CLOSE_EDGE by the sender: its last sequence */
    uint16_t key;                 /* ADD_KEY: its reference in records */
} rt_edge_message;

/* Returns the encoded size, or RT_E_INVALID. */
int64_t rt_edge_message_encode(const rt_edge_message *message, uint8_t *bytes_out, size_t capacity);
/* RT_OK or RT_E_PROTOCOL with the detail. Accepts exactly the bytes that rt_edge_message_encode
 * makes. The caller decodes the handles when it attaches them. */
int rt_edge_message_decode(const uint8_t *bytes, size_t size, rt_edge_message *message_out, rt_detail *detail);

#endif
