/* layout.h: the numbers of the shared memory provider, the memory that processes share, and the
 * messages between devices. shm.h has the objects, which are private to a process. */
#ifndef RT_PROVIDER_SHM_LAYOUT_H
#define RT_PROVIDER_SHM_LAYOUT_H

#include <stdatomic.h>
#include <stdint.h>

#include "provider/shm/help.h"

enum {
    SHM_VERSION = 2, /* of addresses, keys, messages and the layouts below */
    SHM_TOKEN_SIZE = 16,
    SHM_ADDRESS_SIZE = 1 + 2 * SHM_TOKEN_SIZE, /* version, name of the device's socket, token of the link */
    SHM_KEY_SIZE = 1 + SHM_TOKEN_SIZE,         /* version, token of the registration */

    SHM_QUEUES_MAX = 65,    /* 64 for data and the service queue */
    SHM_LINKS_MAX = 1024,   /* 8 KiB of table in the device; poll of a queue with receives walks it up to its highest link */
    SHM_EXPORTS_MAX = 4096, /* registrations with remote rights: 16 KiB of the board */

    /* No item stays outstanding, so the depth only bounds the failures that wait to be polled: 2
     * KiB per link. */
    SHM_WORK_DEPTH = 128,
    SHM_RECEIVE_DEPTH = 64,
    SHM_RECEIVE_SEGMENTS = 256, /* segments of all posted RECVs of a link; when none is left, post takes a prefix */
    SHM_SEGMENTS_MAX = 32,

    /* A SEND is a message of address distribution: 16 can be under way to an end, 32 leaves room. Full: post takes a prefix. */
    SHM_RING_SLOTS = 32,
    SHM_SEND_SIZE_MAX = 512,
    SHM_INLINE_SIZE_MAX = 256,

    /* A copy of 32 MiB takes 2 to 6 ms here: between items core checks deadlines and signals. */
    SHM_MESSAGE_SIZE_MAX = 32 << 20,

    /* Requests sent to a peer and not answered. The kernel queues net.unix.max_dgram_qlen messages
     * (10 by default) on a socket of this kind, so a send never finds it full; further requests
     * wait in the peer object. */
    SHM_REQUESTS_SENT_MAX = 4,
    SHM_REQUESTS_WAITING_MAX = 2 * SHM_LINKS_MAX, /* per peer; full: RT_E_AGAIN without a request */
    SHM_WINDOWS_UNCLAIMED_MAX = 64,               /* mappings that no attach has claimed; the oldest is unmapped */

    /* Connections that peers hold to this device: two devices need one each way. One more is refused. */
    SHM_GUESTS_MAX = SHM_LINKS_MAX,
    /* Of those, connections of other users that have not named a link of theirs. One more ends the
     * oldest of the user who has the most: a well-behaved peer names its link as soon as it has
     * connected. */
    SHM_STRANGERS_MAX = 16,
    /* Descriptors that wait for closer.c to close them. Above this number strangers are not
     * accepted for SHM_PAUSE_MS. */
    SHM_CLOSINGS_MAX = 256,
    SHM_PAUSE_MS = 100,

    SHM_SOURCES_MAX = 16,     /* registrations of one peer device that are mapped to help it; full: the ended ones make room */
    SHM_SOURCES_SCANNED = 64, /* places of the board in which an initiator looks for the registration of its source */
};

/* ---- memory that is shared between processes ---- */

/* Written by the device that owns it, read-only for its peers. */
typedef struct shm_board {
    _Alignas(64) _Atomic uint64_t sleepers; /* low half: sleeping now; high half: announcements so far. wait.c explains */
    _Atomic uint32_t armed;                 /* times memory_arm was called */
    _Alignas(64) _Atomic uint32_t queue_armed[SHM_QUEUES_MAX]; /* times `arm` was called for the queue */
    _Alignas(64) _Atomic uint32_t exports[SHM_EXPORTS_MAX];    /* number of the registration that is live here; 0: none */
} shm_board;

/* Written by the device and by its peers. */
typedef struct shm_doorbell {
    _Alignas(64) _Atomic uint32_t epoch;
    _Alignas(64) _Atomic uint32_t offer; /* the link here that has an offer, by its place in the table, plus one; or 0 */
} shm_doorbell;

enum shm_slot_kind { SHM_SLOT_SEND = 1, SHM_SLOT_IMMEDIATE = 2 };

typedef struct shm_slot {
    _Atomic uint32_t kind; /* shm_slot_kind */
    _Atomic uint32_t size; /* of the SEND, in `bytes`; or of the WRITE_IMM, which is in the region already */
    _Atomic uint32_t immediate;
    uint32_t zero;
    uint8_t bytes[SHM_SEND_SIZE_MAX];
} shm_slot;

/* The slots that arrive at one link end. Both numbers run free; each end keeps its own number in
 * private memory and checks the other's. */
typedef struct shm_ring {
    _Alignas(64) _Atomic uint32_t head; /* slots filled; by the peer */
    _Alignas(64) _Atomic uint32_t tail; /* slots taken; by the owner */
    _Alignas(64) _Atomic uint32_t shut; /* 1: the owner's end takes nothing more; by the owner */
    shm_offer offer;                    /* by the peer; the owner claims */
    _Alignas(64) shm_slot slots[SHM_RING_SLOTS];
} shm_ring;

/* ---- messages between devices: a request and its reply, in order, one packet each ---- */

enum shm_request_kind { SHM_REQUEST_LINK = 1, SHM_REQUEST_REGION = 2, SHM_REFUSAL = 3, SHM_REQUEST_SOURCE = 4 };

enum {
    SHM_REQUEST_SIZE = 8 + SHM_TOKEN_SIZE, /* version 1, kind 1, zero 2, number 4, token */
    SHM_REPLY_SIZE = 32, /* version 1, kind 1, zero 2, number 4, status 4, access or queue 4, index 4, generation 4, size 8 */
    SHM_LINK_DESCRIPTORS = 5, /* ring, board, doorbell, memory bell, queue bell */
    SHM_DESCRIPTORS_MAX = 8,  /* room for a wrong number of descriptors, so that it is seen and they are closed */
};

typedef struct shm_reply {
    uint8_t kind;
    uint32_t number;
    int32_t status;
    uint32_t value; /* access of a region, queue of a link's receives, user of a refusal */
    uint32_t index; /* of a registration in the board, of a link in the device's table */
    uint32_t generation;
    uint64_t size;
} shm_reply;

#endif
