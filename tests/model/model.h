/* model.h: the world that is explored: two parties that run the real code of csrc/proto/edge_*, and an abstract network between them
 * that does whatever the promises allow. world.c says what may happen next, network.c and parties.c do it, explore.c tries all.
 *
 * A world is plain data without pointers, so it can be copied, hashed and thrown away. Bytes are represented by tags: which
 * tensor's bytes lie in a unit of memory. Real bytes, CRCs and records are made from the tags where the code wants them. */
#ifndef RT_TESTS_MODEL_H
#define RT_TESTS_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/edge_flow.h"
#include "proto/edge_message.h"
#include "proto/edge_plan.h"
#include "proto/edge_record.h"

enum {
    MODEL_SLOTS = 3,
    MODEL_STRIPES = 2,
    MODEL_UNIT = 32, /* bytes of payload that are placed at once */
    MODEL_UNITS = 4, /* of one slot */
    MODEL_MESSAGES = 6,
    MODEL_FLIGHTS = 32,  /* WRITEs under way to the receiver */
    MODEL_CREDITS = 6,   /* and to the sender */
    MODEL_ARRIVALS = 12, /* immediates in the completion queue */
    MODEL_BASE = 254,    /* the tensor before the first: numbers cross 256, so a half-seen word is a wrong one */
    MODEL_ACTIONS = 64,
    /* units of a dynamic edge's slot: an eager tensor, the record's fields, its dimensions */
    UNIT_EAGER = 0,
    UNIT_FIELDS = 1,
    UNIT_DIMS = 2,
    TAG_GARBAGE = 255, /* memory that its owner has given up */
};

/* What an exploration may find; the first one ends it. */
typedef enum mc_violation {
    NO_VIOLATION = 0,
    VIOLATION_TORN,      /* a receiver saw bytes that were not sent as this tensor */
    VIOLATION_OVERWRITE, /* a slot was written before it was released */
    VIOLATION_DEADLOCK,  /* somebody waits for ever */
    VIOLATION_END,       /* an end came with the wrong reason, or too early */
    VIOLATION_REFUSED,   /* good bytes were refused, or an honest peer was blamed */
    VIOLATION_MISSED,    /* a tensor was damaged while it was used, and release did not say so */
} mc_violation;

typedef struct mc_model {
    const char *name;
    bool dynamic;
    uint8_t mode, flow;
    uint8_t slots, stripes, messages;
    bool orders_writes, orders_bytes, words_whole;
    bool verify, loop_check;
    bool breaks_loop;      /* the sender sends as fast as it can */
    bool in_pieces;        /* a stripe takes two work items */
    bool hasty_credits;    /* the receiver posts credits although an earlier one is under way, whatever the promises */
    bool late_shut;        /* the sender hears of a loss before its links are shut */
    bool crash;            /* one of the two dies at any moment, or nobody */
    bool cut;              /* their links fail at any moment while both live, or never */
    mc_violation expected; /* NO_VIOLATION: holds in every state */
} mc_model;

typedef struct mc_flight {
    uint8_t part; /* rt_edge_part; 0: none */
    uint8_t tag, slot, stripe;
    uint8_t unit, units;    /* PAYLOAD */
    uint8_t pieces, placed; /* how many, and a bit for each that is placed */
    uint8_t immediate;      /* completes at the receiver */
} mc_flight;

typedef struct mc_line {
    uint8_t begun[2], flag[2]; /* low and high byte of the sequence */
    uint8_t note, count;       /* a tag: whose note it is */
} mc_line;

typedef struct mc_read {
    uint8_t tag;  /* 0: none */
    uint8_t done; /* a bit for each half that was read */
    uint8_t got[2];
} mc_read;

typedef struct mc_world {
    rt_edge_sender sender;
    rt_edge_receiver receiver;
    /* the sender's memory */
    uint8_t tensor[MODEL_SLOTS]; /* tag, of a dynamic edge's tensors */
    uint8_t credit[2];
    /* the receiver's memory */
    uint8_t unit[MODEL_SLOTS][MODEL_UNITS]; /* tags */
    mc_line lines[MODEL_SLOTS][MODEL_STRIPES];
    mc_read reads[MODEL_SLOTS];
    /* the network */
    mc_flight flights[MODEL_FLIGHTS]; /* in posting order, without gaps */
    uint8_t credits[MODEL_CREDITS][2], credit_placed[MODEL_CREDITS];
    uint8_t arrivals[MODEL_ARRIVALS][2]; /* slot and tag, stripe in the high bits of the tag */
    uint8_t credit_count, arrival_count;
    bool close_under_way;
    /* what happened: only for checking */
    uint8_t delivered; /* a bit for each tag that the user got … */
    uint8_t refused;   /* … or that was refused as corrupt */
    uint8_t damaged;   /* a bit for each tag whose bytes were written over before its release */
    uint8_t released;  /* a bit for each tag that the user gave back */
    bool sender_dead, receiver_dead;
    bool cut, dropped, shut; /* the links failed; what was under way is gone; the sender has shut its ends */
    uint8_t violation;
} mc_world;

typedef enum mc_action_kind {
    ACT_SEND = 1,
    ACT_TAKE_CREDIT,
    ACT_CLOSE,
    ACT_FREE, /* the sender overwrites a tensor that it need not keep */
    ACT_LOOK,
    ACT_RELEASE,
    ACT_PLACE,
    ACT_POLL, /* the receiver's poller takes an immediate */
    ACT_PLACE_CREDIT,
    ACT_DELIVER_CLOSE,
    ACT_READ,
    ACT_READ_FAILS,
    ACT_KILL_SENDER,
    ACT_KILL_RECEIVER,
    ACT_CUT,
    ACT_DROP, /* what a dead sender, or a link that failed, had under way */
    ACT_TELL_RECEIVER,
    ACT_TELL_SENDER,
} mc_action_kind;

typedef struct mc_action {
    uint8_t kind, index, piece;
} mc_action;

/* ---- world.c ---- */
void world_begin(const mc_model *model, mc_world *world_out);
/* Everything that may happen next. Returns how many. */
uint32_t world_actions(const mc_model *model, const mc_world *world, mc_action actions_out[MODEL_ACTIONS]);
/* Does it; world->violation says what it broke. */
void world_do(const mc_model *model, mc_world *world, mc_action action);
/* Nothing may happen any more: what is wrong with that, or NO_VIOLATION. */
mc_violation world_ended(const mc_model *model, const mc_world *world);
void world_describe(const mc_model *model, const mc_world *world, mc_action action, char *text_out, size_t capacity);
const char *violation_name(mc_violation violation);

/* ---- shared by network.c and parties.c ---- */
rt_edge_wiring model_wiring(const mc_model *model);
void model_complain(mc_world *world, mc_violation violation);
/* The tag of a sequence and back. */
uint8_t model_tag(uint64_t sequence);
uint64_t model_sequence(uint8_t tag);
/* The CRC that the sender gave with a stripe of this tensor. */
uint32_t model_stripe_crc(const mc_model *model, uint8_t tag, uint32_t stripe);
rt_edge_record model_record(const mc_model *model, uint8_t tag);

/* ---- network.c ---- */
void network_post(const mc_model *model, mc_world *world, uint8_t tag, uint32_t stripe, const rt_edge_plan *plan);
bool network_may_place(const mc_model *model, const mc_world *world, uint32_t index, uint32_t piece);
void network_place(const mc_model *model, mc_world *world, uint32_t index, uint32_t piece);
void network_drop(mc_world *world);
void network_post_credit(const mc_model *model, mc_world *world);
bool network_may_place_credit(const mc_model *model, const mc_world *world, uint32_t index, uint32_t piece);
void network_place_credit(const mc_model *model, mc_world *world, uint32_t index, uint32_t piece);

/* ---- parties.c ---- */
void sender_send(const mc_model *model, mc_world *world);
void receiver_poll(const mc_model *model, mc_world *world, uint32_t index);
void receiver_look(const mc_model *model, mc_world *world);
void receiver_read(const mc_model *model, mc_world *world, uint32_t slot, uint32_t half);
void receiver_release(const mc_model *model, mc_world *world, uint8_t tag);

#endif
