/* limits.h: the fixed capacities of the protocol and of core, each with its derivation and the
 * effect of reaching it. A limit that only one file needs stands in that file; a provider's limits
 * are in its own header.
 *
 * The sizes of messages and words are part of the wire format: both ends must have the same, and
 * RT_PROTOCOL_VERSION changes with them. The other limits are this end's own.
 *
 * Sizes are bytes unless the name says count or depth. */
#ifndef RT_PROTO_LIMITS_H
#define RT_PROTO_LIMITS_H

enum {
    /* ---- the control connection ---- */

    RT_PROTOCOL_VERSION = 1, /* raised by every change that an older end would misread */

    /* A preface is the same 48 bytes in every version, so that versions can tell each other apart. */
    RT_PREFACE_SIZE = 48,
    RT_NONCE_SIZE = 32,
    RT_PROOF_SIZE = 32,

    /* Header 8 + payload + tag 16. The largest payload is an OFFER: at most 512 bytes before 64
     * links of 1 + 64 bytes. If a peer announces more, the connection ends with RT_E_PROTOCOL
     * before a byte of it is read. */
    RT_FRAME_HEADER_SIZE = 8,
    RT_FRAME_TAG_SIZE = 16,
    RT_FRAME_PAYLOAD_MAX = 512 + 64 * (1 + 64),
    RT_FRAME_SIZE_MAX = RT_FRAME_HEADER_SIZE + RT_FRAME_PAYLOAD_MAX + RT_FRAME_TAG_SIZE,

    /* QPs of one channel. More QPs than cores that post at once bring nothing; 64 covers the
     * largest hosts with NUMA spread. */
    RT_LINKS_PER_CHANNEL_MAX = 64,

    /* A secret longer than the hash's block is hashed first by HMAC anyway; the bound only keeps the object small. */
    RT_SECRET_SIZE_MAX = 256,

    RT_DEVICE_ID_SIZE = 16,    /* random, so that two devices never agree by chance */
    RT_PROVIDER_NAME_MAX = 15, /* a word; 16 bytes with its length or its end */
    RT_PEER_TEXT_MAX = 95,     /* "host pid 1234 device" for messages */
    RT_REASON_MAX = 255,       /* text of a BYE or ERROR frame; longer text is cut */

    /* ---- names and handles (address distribution) ---- */

    RT_NAME_MAX = 128, /* room for "model.layers.79.mlp.down_proj.weight.grad" and a prefix; longer ones are RT_E_INVALID */
    RT_HANDLE_SIZE_MAX = 160, /* 2 version + 16 provider + 16 id + 3 × 8 range + 4 rights + 1 + 64 key = 127, and room to grow */

    /* One RPC message, in one SEND of every provider: header 4 + the larger of LOOKUP (4 + 1 + 128) and FOUND (1 + 160), or a
     * message about an edge, of which the largest is an EDGE_OPENED of 16 dimensions with two handles: 469 bytes. */
    RT_RPC_MESSAGE_MAX = 512,

    /* Lookups outstanding per channel and direction; one more waits for a free one, with its own deadline. */
    RT_RPC_REQUESTS_MAX = 8,

    /* RECVs kept posted per channel: the peer's requests and its replies to ours, so a SEND never finds none. */
    RT_RPC_RECEIVES = 2 * RT_RPC_REQUESTS_MAX,

    /* ---- tensor edges ---- */

    /* Dimensions of a tensor: torch and NumPy stop at 64 and 32, models at 8; 16 keep the record at three cache lines. */
    RT_EDGE_RANK_MAX = 16,

    /* Receive buffers of one edge. A pipeline needs depth + 1 of them. Below 256, so that a credit counter seen half
     * written is never taken for another one (EDGES.md section 5); 128 also fit two words of bits. */
    RT_EDGE_SLOTS_MAX = 128,

    /* QPs that share one tensor. A NIC is full with 2 to 4; each costs a flag line per slot. */
    RT_EDGE_STRIPES_MAX = 8,

    RT_EDGE_LINE_SIZE = 64,    /* one flag, one cache line: polling it disturbs nothing else */
    RT_EDGE_RECORD_SIZE = 192, /* 64 of fields + 16 × 8 of dimensions: three cache lines */

    /* Bytes of a tensor that may ride in its record. Above, a READ costs less than the copy; more slots × this is idle memory. */
    RT_EDGE_EAGER_MAX = 65536,

    /* Registrations of the sender that records of one edge may refer to. For one more, the sender
     * waits until the receiver has released every tensor that lies in one of the others: tensors of
     * an edge come from few regions. */
    RT_EDGE_KEYS_MAX = 64,

    /* Open edges of one channel and direction: the number is 16 bits of an immediate, 0 is none. One more is refused. */
    RT_EDGES_MAX = 65535,

    RT_EDGE_MESSAGE_MAX = RT_RPC_MESSAGE_MAX, /* they travel as messages of the RPC; a peer's longer one cannot arrive */

    /* ---- core ---- */

    RT_QUEUES_MAX = 64,    /* data completion queues of a device */
    RT_POLLERS_MAX = 64,   /* poller threads of a device */
    RT_OPS_PER_LINK = 256, /* transfers of one QP that are not finished; one more waits, with its own deadline */
    RT_POST_BATCH = 32,    /* work items given to `post` at once: one doorbell; fits a few cache lines of stack */
    RT_POLL_BATCH = 32,    /* completions taken by one `poll` */
};

#endif
