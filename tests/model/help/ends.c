/* ends.c: the two ends of one link. The initiator makes WRITEs of a few pieces, each with a flag
 * behind it; helpers look, claim, copy; a reader reads the slot when it sees the flag. A piece is one
 * byte. The words and the steps on them are those of provider/shm/help.h. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "help.h"
#include "provider/shm/help.h"

/* Where the initiator is. */
enum { IDLE, OPENING, CLAIMING, COPYING, AWAITING, LATE, FLAG };

typedef struct hp_helper {
    bool looking, looked, claimed, copied; /* copied: stored, and not counted yet */
    shm_terms terms;
    uint32_t piece;
    uint8_t loaded; /* the source's byte, in a register */
    bool has_loaded;
} hp_helper;

typedef struct hp_world {
    shm_offer offer;
    uint8_t source[HP_PIECES], slot[HP_PIECES];
    uint8_t flag, read; /* the WRITE that the flag tells of; the last one read */
    /* the initiator */
    uint8_t at, write, first, last, helped;
    uint8_t sequence;
    uint64_t opened;
    bool alone; /* the WRITE is made anew, without an offer */
    bool given_up;
    /* the peer */
    bool released, unfindable;
    hp_helper helpers[HP_HELPERS];
} hp_world;

static hp_world world;
static const hp_model *model;
static hp_violation violation;

static void complain(hp_violation what)
{
    if (violation == HP_NONE)
        violation = what;
}

void ends_begin(const hp_model *given)
{
    model = given;
    violation = HP_NONE;
    memset(&world, 0, sizeof world);
}

static uint8_t content(uint32_t write, uint32_t piece)
{
    return (uint8_t)(16 * write + piece + 1);
}

static bool somebody_inside(void)
{
    for (uint32_t index = 0; index < model->helpers; index++) {
        if (world.helpers[index].looking || world.helpers[index].looked || world.helpers[index].claimed)
            return true;
    }
    return false;
}

/* ---- the initiator ---- */

/* The caller fills its source anew and posts; while the link is LATE, nothing is accepted. */
static void post(void)
{
    world.write++;
    for (uint32_t piece = 0; piece < model->pieces; piece++)
        world.source[piece] = content(world.write, piece);
    world.given_up = false;
    bool offers = !world.alone;
    world.alone = false;
    world.first = 1;
    world.helped = 0;
    if (!offers) {
        for (uint32_t piece = 0; piece < model->pieces && !world.released; piece++)
            world.slot[piece] = world.source[piece];
        world.at = FLAG;
        return;
    }
    shm_terms terms = {.size = model->pieces, .piece = 1, .target_offset = world.write};
    world.sequence = model->mutant == HP_NO_SEQUENCE ? 1 : world.write;
    world.last = model->pieces;
    uint64_t before = atomic_load(&world.offer.claims);
    shm_offer_open(&world.offer, world.sequence, &terms);
    world.opened = atomic_exchange(&world.offer.claims, before); /* which is stored a moment later */
    world.at = OPENING;
}

static void open_now(void)
{
    atomic_store(&world.offer.claims, world.opened);
    world.slot[0] = world.source[0];
    world.at = CLAIMING;
}

static void claim(void)
{
    uint32_t last = world.last;
    switch (shm_offer_claim_first(&world.offer, world.sequence, world.first, &last)) {
    case SHM_CLAIMED: world.at = COPYING; break;
    case SHM_NONE_LEFT:
        world.helped = (uint8_t)(model->pieces - last);
        world.at = world.helped != 0 && model->mutant != HP_EARLY ? AWAITING : FLAG;
        break;
    case SHM_CLAIMS_BROKEN: complain(HP_BLAMED); break;
    }
    world.last = (uint8_t)last;
}

static void copy(void)
{
    if (!world.released)
        world.slot[world.first] = world.source[world.first];
    world.first++;
    world.at = CLAIMING;
}

static void await(void)
{
    uint32_t done = shm_offer_done(&world.offer);
    if (done > world.helped)
        complain(HP_BLAMED);
    if (done != world.helped)
        return;
    if (world.at == LATE && !world.given_up) { /* made anew, from its first byte */
        memcpy(world.slot, world.source, model->pieces);
        world.at = FLAG;
    } else {
        world.at = world.at == LATE ? IDLE : FLAG;
    }
}

static void be_late(void)
{
    world.at = LATE;
    world.alone = true;
    if (model->mutant == HP_TAKEN_BACK) {
        memcpy(world.slot, world.source, model->pieces);
        world.at = FLAG;
    }
    if (model->mutant == HP_OVERTAKEN)
        world.at = FLAG;
}

static void give_up(void)
{
    world.given_up = true;
    if (model->mutant != HP_GIVEN_UP_ENDS)
        return;
    world.at = IDLE;
    world.alone = false;
}

/* ---- the peer ---- */

static void look(hp_helper *helper)
{
    helper->looking = !world.unfindable && shm_offer_look(&world.offer, &helper->terms);
}

/* The description is read a moment after `claims`. */
static void look_at_terms(hp_helper *helper)
{
    helper->terms.target_offset = atomic_load(&world.offer.target_offset);
    helper->looking = false;
    helper->looked = true;
}

static void take(hp_helper *helper)
{
    if (model->mutant == HP_UNCHECKED) {
        helper->terms.claims = atomic_load(&world.offer.claims);
        if (shm_claims_first(helper->terms.claims) >= shm_claims_last(helper->terms.claims)) {
            helper->looked = false;
            return;
        }
    }
    helper->claimed = shm_offer_claim_last(&world.offer, &helper->terms, &helper->piece);
    helper->looked = false;
    if (helper->claimed && model->mutant == HP_DONE_FIRST)
        shm_offer_did(&world.offer);
}

/* A helper reads the source at one moment and writes the target at a later one. Which WRITE it
 * believes to copy is in its terms: a claim of another's piece would go to another's place. */
static void store(hp_helper *helper)
{
    if (!helper->has_loaded) {
        helper->loaded = world.source[helper->piece];
        helper->has_loaded = true;
        return;
    }
    if (world.released)
        complain(HP_OUTSIDE);
    if (helper->terms.target_offset != world.write)
        complain(HP_TORN);
    world.slot[helper->piece] = helper->loaded;
    helper->copied = true;
}

static void did(hp_helper *helper)
{
    if (model->mutant != HP_DONE_FIRST)
        shm_offer_did(&world.offer);
    memset(helper, 0, sizeof *helper);
}

static void read_slot(void)
{
    for (uint32_t piece = 0; piece < model->pieces && !world.released; piece++) {
        if (world.slot[piece] != content(world.flag, piece))
            complain(HP_TORN);
    }
    world.read = world.flag;
}

/* First unfindable, then, when no helper is inside, released. */
static void release(void)
{
    if (world.unfindable)
        world.released = true;
    world.unfindable = true;
    if (model->mutant == HP_NO_WAIT_OUT)
        world.released = true;
}

/* ---- the world ---- */

static void offer(search_step *steps, uint32_t *count, uint8_t kind, uint32_t helper)
{
    assert(*count < SEARCH_STEPS_MAX);
    steps[(*count)++] = (search_step){kind, (uint8_t)helper, 0};
}

static void initiator_steps(search_step *steps, uint32_t *count)
{
    switch (world.at) {
    case IDLE:
        if (world.write < model->writes && world.read == world.flag) /* the reader's credit */
            offer(steps, count, HP_POST, 0);
        break;
    case OPENING: offer(steps, count, HP_OPEN, 0); break;
    case CLAIMING: offer(steps, count, HP_CLAIM, 0); break;
    case COPYING: offer(steps, count, HP_COPY, 0); break;
    case AWAITING:
        offer(steps, count, HP_AWAIT, 0);
        offer(steps, count, HP_LATE, 0);
        break;
    case LATE:
        offer(steps, count, HP_AWAIT, 0);
        if (model->gives_up && !world.given_up)
            offer(steps, count, HP_GIVE_UP, 0);
        break;
    default: offer(steps, count, HP_FLAG, 0); break;
    }
}

uint32_t ends_steps(search_step steps_out[SEARCH_STEPS_MAX])
{
    uint32_t count = 0;
    initiator_steps(steps_out, &count);
    for (uint32_t index = 0; index < model->helpers; index++) {
        const hp_helper *helper = &world.helpers[index];
        if (helper->claimed)
            offer(steps_out, &count, helper->copied ? HP_DID : HP_STORE, index);
        else
            offer(steps_out, &count, helper->looked ? HP_TAKE : helper->looking ? HP_TERMS : HP_LOOK, index);
    }
    if (world.read != world.flag)
        offer(steps_out, &count, HP_READ, 0);
    if (model->releases && !world.released && (!world.unfindable || model->mutant == HP_NO_WAIT_OUT || !somebody_inside()))
        offer(steps_out, &count, HP_RELEASE, 0);
    return count;
}

/* A helper that is stopped does nothing more; a caller need not give up, nor a peer release. */
bool ends_is_optional(search_step step)
{
    bool is_helper =
        step.kind == HP_STORE || step.kind == HP_DID || step.kind == HP_LOOK || step.kind == HP_TERMS || step.kind == HP_TAKE;
    return step.kind == HP_RELEASE || step.kind == HP_GIVE_UP || step.kind == HP_LATE || (model->stops && is_helper);
}

void ends_go(search_step step)
{
    hp_helper *helper = &world.helpers[step.first];
    switch (step.kind) {
    case HP_POST: post(); break;
    case HP_OPEN: open_now(); break;
    case HP_CLAIM: claim(); break;
    case HP_COPY: copy(); break;
    case HP_AWAIT: await(); break;
    case HP_LATE: be_late(); break;
    case HP_GIVE_UP: give_up(); break;
    case HP_LOOK: look(helper); break;
    case HP_TERMS: look_at_terms(helper); break;
    case HP_TAKE: take(helper); break;
    case HP_STORE: store(helper); break;
    case HP_DID: did(helper); break;
    case HP_READ: read_slot(); break;
    case HP_RELEASE: release(); break;
    default:
        world.flag = world.write;
        world.at = IDLE;
        break;
    }
}

int ends_violation(void)
{
    return (int)violation;
}

/* Nothing is left but what nobody may count on: all WRITEs are made and read, unless a helper that is
 * stopped has a piece of one. */
int ends_settled(void)
{
    bool kept = false;
    for (uint32_t index = 0; index < model->helpers; index++)
        kept = kept || world.helpers[index].claimed;
    if (world.at == AWAITING || world.at == LATE)
        return kept && model->stops ? HP_NONE : HP_DEADLOCK;
    return world.at == IDLE && world.write == model->writes && world.read == world.flag ? HP_NONE : HP_DEADLOCK;
}

uint64_t ends_digest(void)
{
    return search_mix(1, &world, sizeof world);
}

void ends_describe(search_step step, char text_out[SEARCH_TEXT])
{
    static const char *const texts[] = {[HP_POST] = "the initiator begins the next WRITE",
                                        [HP_CLAIM] = "the initiator claims the next piece, or finds none left",
                                        [HP_COPY] = "the initiator copies its piece",
                                        [HP_AWAIT] = "the initiator looks whether the helpers have finished",
                                        [HP_LATE] = "the initiator's patience ends",
                                        [HP_GIVE_UP] = "the caller gives the WRITE up",
                                        [HP_OPEN] = "the initiator opens its offer",
                                        [HP_LOOK] = "a helper reads the claims of an offer",
                                        [HP_TERMS] = "a helper reads the description",
                                        [HP_TAKE] = "a helper claims a piece",
                                        [HP_STORE] = "a helper reads its piece, or writes it",
                                        [HP_DID] = "a helper counts its piece",
                                        [HP_READ] = "the reader sees the flag and reads the slot",
                                        [HP_RELEASE] = "the slot is made unfindable, or released",
                                        [HP_FLAG] = "the flag is written"};
    bool helps = step.kind >= HP_LOOK && step.kind <= HP_DID;
    if (helps)
        snprintf(text_out, SEARCH_TEXT, "%s (helper %u)", texts[step.kind], step.first);
    else
        snprintf(text_out, SEARCH_TEXT, "%s (WRITE %u)", texts[step.kind], world.write + (step.kind == HP_POST));
}
