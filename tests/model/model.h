/* model.h: the world that is explored: two parties that run the real code of csrc/proto/edge_*, and an abstract network between them
 * that does whatever the promises allow. world.c says what may happen next, network.c, parties.c, ends.c, keys.c, stage.c and lend.c do it, explore.c tries all.
 *
 * A world is plain data without pointers, so it can be copied, hashed and thrown away. Bytes are represented by tags: which
 * tensor's bytes lie in a unit of memory. Real bytes, CRCs and records are made from the tags where the code wants them. */
#ifndef RT_TESTS_MODEL_H
#define RT_TESTS_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/edge_chunks.h"
#include "proto/edge_flow.h"
#include "proto/edge_keys.h"
#include "proto/edge_message.h"
#include "proto/edge_mode.h"
#include "proto/edge_plan.h"
#include "proto/edge_record.h"
#include "search.h"

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
    MODEL_INBOX = 3, /* messages under way to one end */
    MODEL_REGIONS = 4,
    MODEL_RING = 3, /* places for chunks */
    SENDER_END = 0,
    RECEIVER_END = 1,
    /* units of a dynamic edge's slot: an eager tensor, the record's fields, its dimensions */
    UNIT_EAGER = 0,
    UNIT_FIELDS = 1,
    UNIT_DIMS = 2,
    TAG_GARBAGE = 255, /* memory that its owner has given up */
};

/* The faults that an exploration may find; the first one ends it. */
typedef enum mc_violation {
    NO_VIOLATION = 0,
    VIOLATION_TORN,      /* a receiver saw bytes that were not sent as this tensor */
    VIOLATION_OVERWRITE, /* a slot was written before it was released */
    VIOLATION_DEADLOCK,  /* somebody waits for ever */
    VIOLATION_END,       /* an end came with the wrong reason, or too early */
    VIOLATION_REFUSED,   /* good bytes were refused, or an honest peer was blamed */
    VIOLATION_MISSED,    /* a tensor was damaged while it was used, and release did not say so */
    VIOLATION_GIVEN,     /* memory was touched after its owner had given it back */
} mc_violation;

typedef enum mc_message {
    MESSAGE_CLOSE = 1,
    MESSAGE_CLOSED,
    MESSAGE_ADD_KEY,
    MESSAGE_KEY_ADDED,
    MESSAGE_KEY_REFUSED,
} mc_message;

/* A rule that is left out, to show that it is needed. */
typedef enum mc_mutant {
    MUTANT_NONE = 0,
    MUTANT_HASTY_CREDITS,      /* the receiver posts credits although an earlier one is under way, whatever the promises */
    MUTANT_LATE_SHUT,          /* the sender hears of a loss before its links are shut */
    MUTANT_HASTY_TELL,         /* an end tells that it closes while it is not quiet */
    MUTANT_HASTY_ANSWER,       /* a sender answers a close while its WRITEs are under way */
    MUTANT_HASTY_LEAVE,        /* a sender gives its memory back before its tensors are released */
    MUTANT_CREDITS_FORGOTTEN,  /* a receiver counts as quiet while a credit is under way … */
    MUTANT_READS_FORGOTTEN,    /* … or a READ */
    MUTANT_CREDIT_AFTER_CLOSE, /* a receiver gives credit after it told that it closes */
    MUTANT_HASTY_KEY,          /* a record names a number before the receiver has answered */
    MUTANT_KEY_IN_USE,         /* a number is given away while a tensor that is not released is named by it */
    MUTANT_KEY_BY_NUMBER,      /* a region that was made anew is taken for the one that it was */
    MUTANT_HASTY_CHUNK,        /* a chunk's place is taken again before its WRITE has ended */
    MUTANT_FLAG_FIRST,         /* the flag goes with the first chunk */
    MUTANT_STAGING_GOES_ON,    /* a close does not give up what is half staged */
    MUTANT_UNCOVERED,          /* an immediate completes before earlier WRITEs are placed, whatever the promise */
    MUTANT_SILENT_RECEIVER,    /* a receiver that closes after its sender says nothing */
    MUTANT_LENT_EARLY,         /* a slot is lent before it is released */
    MUTANT_SENT_BESIDE,        /* a tensor is sent while a slot is lent */
    MUTANT_LOANS_FORGOTTEN,    /* a sender counts as quiet while a slot is written in place */
} mc_mutant;

typedef struct mc_model {
    const char *name;
    bool dynamic;
    uint8_t mode, flow;
    uint8_t slots, stripes, messages;
    bool orders_writes, orders_bytes, words_whole;
    bool covers; /* an immediate completes after all earlier WRITEs of its QP are placed */
    bool apart;  /* the immediate follows the payload in a WRITE of 0 bytes */
    bool verify, loop_check;
    bool breaks_loop;    /* the sender sends as fast as it can */
    bool in_pieces;      /* a stripe takes two work items */
    bool closes;         /* either end closes the edge at any moment, or never */
    bool borrows;        /* a tensor that is not eager is used where it lies at the sender, until its release */
    uint8_t regions;     /* that tensors of a dynamic edge lie in, none of them eager; 0: one, announced at the opening */
    uint8_t key_numbers; /* for them, that of the opening included */
    bool regions_end;    /* one of them is closed and made anew at any moment when nothing unreleased lies in it */
    uint8_t ring;        /* static tensors are copied, a unit at a time, through so many places; 0: sent from where they lie */
    bool lends;          /* static tensors are written in the receiver's slots */
    mc_mutant mutant;
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
    uint8_t place;          /* of the ring whose chunk it carries or goes with, from 1; 0: none */
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

/* The close of an edge, at one end. */
typedef struct mc_end {
    bool wanted, told, peer_knows, asking;
    bool asked; /* the other end's CLOSE_EDGE waits for its answer */
    bool left;  /* its memory was given back */
    bool lost;  /* the channel is gone */
    uint8_t inbox_count, inbox[MODEL_INBOX];
} mc_end;

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
    mc_end ends[2];
    rt_edge_keys keys[2];
    uint8_t key_region[2][MODEL_REGIONS]; /* what each number stands for, at either end */
    uint8_t incarnation[MODEL_REGIONS];
    uint8_t asked_key, asked_region;
    uint8_t key_of[MODEL_MESSAGES + 1], place_of[MODEL_MESSAGES + 1];
    rt_edge_chunks chunks;
    uint8_t ring[MODEL_RING][2]; /* tag and unit of what lies there */
    uint8_t staged;              /* the tag of the tensor that is copied from, TAG_GARBAGE once its owner may have it back */
    uint8_t lent, written;       /* the tag of the tensor whose slot is lent, or 0; a bit for each unit that is written */
    uint8_t borrowed;            /* a bit for each slot whose tensor is read in place */
    /* what happened: only for checking */
    uint8_t delivered; /* a bit for each tag that the user got … */
    uint8_t refused;   /* … or that was refused as corrupt */
    uint8_t damaged;   /* a bit for each tag whose bytes were written over before its release */
    uint8_t released;  /* a bit for each tag that the user gave back */
    bool sender_dead, receiver_dead;
    bool cut, dropped, shut; /* the links failed; transfers under way are gone; the sender has shut its ends */
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
    ACT_LENT_WRITE, /* the sender's caller writes a unit in the slot that it was lent, … */
    ACT_LENT_SEND,  /* … sends the tensor, … */
    ACT_LENT_BACK,  /* … or gives the slot back */
    ACT_CHUNK,      /* the sender copies the next chunk and posts it */
    ACT_ASK_KEY,
    ACT_REGION,
    ACT_WANT, /* an end's owner closes it */
    ACT_STEP, /* its service takes the step that is due */
    ACT_HEAR, /* a message reaches it */
    ACT_ANSWER,
} mc_action_kind;

typedef struct mc_choices {
    search_step *actions;
    uint32_t count;
} mc_choices;

/* ---- world.c ---- */
void world_begin(const mc_model *model, mc_world *world_out);
/* Everything that may happen next. Returns how many. */
uint32_t world_actions(const mc_model *model, const mc_world *world, search_step actions_out[MODEL_ACTIONS]);
/* Does it; world->violation says what it broke. */
void world_do(const mc_model *model, mc_world *world, search_step action);
/* Nothing may happen any more: what is wrong with that, or NO_VIOLATION. */
mc_violation world_ended(const mc_model *model, const mc_world *world);
void world_describe(const mc_model *model, const mc_world *world, search_step action, char *text_out, size_t capacity);
const char *violation_name(mc_violation violation);

/* ---- shared by network.c, parties.c and ends.c ---- */
void choices_add(mc_choices *choices, mc_action_kind kind, uint32_t index, uint32_t piece);
rt_edge_wiring model_wiring(const mc_model *model);
void model_complain(mc_world *world, mc_violation violation);
/* The tag of a sequence and back. */
uint8_t model_tag(uint64_t sequence);
uint64_t model_sequence(uint8_t tag);
/* The CRC that the sender gave with a stripe of this tensor. */
uint32_t model_stripe_crc(const mc_model *model, uint8_t tag, uint32_t stripe);
rt_edge_record model_record(const mc_model *model, const mc_world *world, uint8_t tag);

/* ---- network.c ---- */
/* `place`: of the ring, from 1, or 0. */
void network_post(const mc_model *model, mc_world *world, uint8_t tag, uint32_t stripe, const rt_edge_plan *plan, uint8_t place);
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

/* ---- ends.c ---- */
void ends_post(mc_world *world, uint32_t to, mc_message message);
void ends_actions(const mc_model *model, const mc_world *world, mc_choices *choices);
void end_close(const mc_model *model, mc_world *world, uint32_t which);
void end_step(const mc_model *model, mc_world *world, uint32_t which);
void end_hear(const mc_model *model, mc_world *world, uint32_t which, bool refused);
void end_answer(mc_world *world, uint32_t which);
void end_lost(mc_world *world, uint32_t which);
/* Nothing happens by itself any more, whether or not the ends were closed: as world_ended. */
mc_violation ends_settled(const mc_model *model, const mc_world *world);

/* ---- stage.c ---- */
void stage_begin(mc_world *world, uint64_t sequence, uint64_t size);
bool stage_is_idle(const mc_world *world);
void stage_actions(const mc_model *model, const mc_world *world, mc_choices *choices);
void stage_chunk(const mc_model *model, mc_world *world);
void stage_close(const mc_model *model, mc_world *world);

/* ---- lend.c ---- */
void lend_actions(const mc_model *model, const mc_world *world, mc_choices *choices);
void lend_begin(const mc_model *model, mc_world *world);
void lend_write(const mc_model *model, mc_world *world, uint32_t unit);
void lend_send(const mc_model *model, mc_world *world);
void lend_back(mc_world *world);

/* ---- keys.c ---- */
void keys_begin(const mc_model *model, mc_world *world);
bool keys_allow(const mc_model *model, const mc_world *world, uint64_t sequence);
void keys_sent(const mc_model *model, mc_world *world, uint64_t sequence);
void keys_actions(const mc_model *model, const mc_world *world, mc_choices *choices);
void keys_ask(const mc_model *model, mc_world *world);
void keys_region_anew(mc_world *world, uint32_t region);
bool keys_may_be_refused(const mc_world *world);
void keys_hear_ask(const mc_model *model, mc_world *world, bool refused);
void keys_hear_answer(mc_world *world, bool added);
void keys_check(const mc_model *model, mc_world *world, uint8_t tag);

#endif
