/* command.c: the text commands of the fabric: its fault plan, and questions about it.
 *
 *     [world=W] VERB [KEY=VALUE …] [at=NS | in=NS | event=N]
 *
 *     kill party=P            it vanishes as with kill -9; its own calls give device-lost
 *     pause party=P           SIGSTOP: its control plane is not served, one-sided work on its memory goes on
 *     resume party=P
 *     cut party=P with=Q      packets between the two are lost; streams stand still. The parties need not exist yet
 *     heal party=P with=Q
 *     drop p=0.05             every packet may be lost and sent again: delay only
 *     delay min=NS max=NS     added to the latency of everything
 *     tear on | tear off      whether WRITEs and READs are cut into pieces
 *     refuse call=C nth=N status=S [party=P]   the n-th call from now fails; 0 takes it back (no party
 *                             for call=open; status as rt_status_name says it)
 *     corrupt party=P byte=K [xor=M]           byte K of each stream that P writes from now on is xor-ed (255)
 *     truncate party=P bytes=K                 each stream that P writes ends after K bytes
 *     mend party=P            ends corrupt and truncate
 *     now | seed | trace | dump                answered with key=value text
 *
 * A fault answers "ok". With at= (virtual time), in= (from now) or event= (a count of events) it is
 * executed at that moment, and the objects that it names are looked up at that moment too. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/number.h"
#include "provider/sim/sim.h"

enum verb {
    VERB_KILL,
    VERB_PAUSE,
    VERB_RESUME,
    VERB_CUT,
    VERB_HEAL,
    VERB_DROP,
    VERB_DELAY,
    VERB_TEAR,
    VERB_REFUSE,
    VERB_CORRUPT,
    VERB_TRUNCATE,
    VERB_MEND,
    VERB_NOW,
    VERB_SEED,
    VERB_TRACE,
    VERB_DUMP,
    VERB_COUNT
};

enum word {
    WORD_PARTY = 1 << 0,
    WORD_WITH = 1 << 1,
    WORD_P = 1 << 2,
    WORD_MIN = 1 << 3,
    WORD_MAX = 1 << 4,
    WORD_CALL = 1 << 5,
    WORD_NTH = 1 << 6,
    WORD_STATUS = 1 << 7,
    WORD_BYTE = 1 << 8,
    WORD_XOR = 1 << 9,
    WORD_BYTES = 1 << 10,
    WORD_ON = 1 << 11,
    WORD_OFF = 1 << 12,
    WORD_AT = 1 << 13,
    WORD_IN = 1 << 14,
    WORD_EVENT = 1 << 15,
    WORDS_WHEN = WORD_AT | WORD_IN | WORD_EVENT,
};

enum { WORD_COUNT = 16 };

static const char *const word_names[WORD_COUNT] = {"party", "with", "p",     "min", "max", "call", "nth", "status",
                                                   "byte",  "xor",  "bytes", "on",  "off", "at",   "in",  "event"};

static const struct verb_row {
    const char *name;
    uint32_t required, optional;
} verbs[VERB_COUNT] = {
    [VERB_KILL] = {"kill", WORD_PARTY, WORDS_WHEN},
    [VERB_PAUSE] = {"pause", WORD_PARTY, WORDS_WHEN},
    [VERB_RESUME] = {"resume", WORD_PARTY, WORDS_WHEN},
    [VERB_CUT] = {"cut", WORD_PARTY | WORD_WITH, WORDS_WHEN},
    [VERB_HEAL] = {"heal", WORD_PARTY | WORD_WITH, WORDS_WHEN},
    [VERB_DROP] = {"drop", WORD_P, WORDS_WHEN},
    [VERB_DELAY] = {"delay", WORD_MIN | WORD_MAX, WORDS_WHEN},
    [VERB_TEAR] = {"tear", 0, WORD_ON | WORD_OFF | WORDS_WHEN},
    [VERB_REFUSE] = {"refuse", WORD_CALL | WORD_NTH | WORD_STATUS, WORD_PARTY | WORDS_WHEN},
    [VERB_CORRUPT] = {"corrupt", WORD_PARTY | WORD_BYTE, WORD_XOR | WORDS_WHEN},
    [VERB_TRUNCATE] = {"truncate", WORD_PARTY | WORD_BYTES, WORDS_WHEN},
    [VERB_MEND] = {"mend", WORD_PARTY, WORDS_WHEN},
    [VERB_NOW] = {"now", 0, 0},
    [VERB_SEED] = {"seed", 0, 0},
    [VERB_TRACE] = {"trace", 0, 0},
    [VERB_DUMP] = {"dump", 0, 0},
};

static const char *const call_names[SIM_CALL_COUNT] = {
    [SIM_CALL_OPEN] = "open",
    [SIM_CALL_MEMORY_REGISTER] = "memory_register",
    [SIM_CALL_MEMORY_KEY] = "memory_key",
    [SIM_CALL_LINK_CREATE] = "link_create",
    [SIM_CALL_LINK_CONNECT] = "link_connect",
    [SIM_CALL_REMOTE_ATTACH] = "remote_attach",
    [SIM_CALL_POST] = "post",
    [SIM_CALL_LISTEN] = "listen",
    [SIM_CALL_ACCEPT] = "accept",
    [SIM_CALL_CONNECT] = "connect",
};

typedef struct sim_fault {
    sim_due due; /* the first member: its world frees a fault that was not executed */
    enum verb verb;
    uint32_t words; /* given in the command */
    char party[SIM_NAME_SIZE], with[SIM_NAME_SIZE];
    uint64_t numbers[WORD_COUNT]; /* by word, of those that are numbers */
    enum sim_call call;
    int status;
} sim_fault;

static uint32_t word_index(uint32_t word)
{
    uint32_t index = 0;
    while (word >> index != 1)
        index++;
    return index;
}

static uint64_t fault_number(const sim_fault *fault, enum word word)
{
    return fault->numbers[word_index(word)];
}

/* ---- executing ---- */

static sim_cut *cut_find(const sim_world *world, const sim_fault *fault)
{
    RT_LIST_EACH(node, &world->cuts) {
        sim_cut *cut = RT_LIST_ENTRY(node, sim_cut, node);
        if ((strcmp(cut->one, fault->party) == 0 && strcmp(cut->other, fault->with) == 0) ||
            (strcmp(cut->one, fault->with) == 0 && strcmp(cut->other, fault->party) == 0))
            return cut;
    }
    return NULL;
}

static int path_execute(sim_world *world, const sim_fault *fault, rt_detail *detail)
{
    sim_cut *cut = cut_find(world, fault);
    if (fault->verb == VERB_HEAL) {
        if (cut == NULL)
            return rt_fail(detail, RT_E_NOT_FOUND, 0, "heal: nothing is cut between '%s' and '%s'", fault->party, fault->with);
        rt_list_remove(&cut->node);
        free(cut);
        return RT_OK;
    }
    if (cut != NULL)
        return RT_OK;
    cut = calloc(1, sizeof *cut);
    if (cut == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "cut: no memory");
    memcpy(cut->one, fault->party, sizeof cut->one);
    memcpy(cut->other, fault->with, sizeof cut->other);
    rt_list_append(&world->cuts, &cut->node);
    return RT_OK;
}

static void world_execute(sim_world *world, const sim_fault *fault)
{
    if (fault->verb == VERB_DROP)
        world->drop_per_2_32 = fault_number(fault, WORD_P);
    if (fault->verb == VERB_TEAR)
        world->tears = (fault->words & WORD_ON) != 0;
    if (fault->verb == VERB_DELAY) {
        world->delay_min_ns = (int64_t)fault_number(fault, WORD_MIN);
        world->delay_max_ns = (int64_t)fault_number(fault, WORD_MAX);
    }
    if (fault->verb == VERB_REFUSE)
        world->open_refusal = (sim_refusal){.nth = fault_number(fault, WORD_NTH), .status = fault->status};
}

static void party_execute(sim_device *device, const sim_fault *fault)
{
    if (fault->verb == VERB_KILL)
        rt_sim_kill(device);
    if (fault->verb == VERB_PAUSE || fault->verb == VERB_RESUME)
        rt_sim_pause(device, fault->verb == VERB_PAUSE);
    if (fault->verb == VERB_REFUSE)
        device->refusals[fault->call] = (sim_refusal){.nth = fault_number(fault, WORD_NTH), .status = fault->status};
    if (fault->verb == VERB_MEND)
        device->corrupt_at = device->truncate_at = SIM_UNLIMITED;
    if (fault->verb == VERB_CORRUPT) {
        device->corrupt_at = fault_number(fault, WORD_BYTE);
        device->corrupt_mask = (fault->words & WORD_XOR) != 0 ? (uint8_t)fault_number(fault, WORD_XOR) : 255;
    }
    if (fault->verb == VERB_TRUNCATE)
        device->truncate_at = fault_number(fault, WORD_BYTES);
}

static int fault_execute(sim_world *world, const sim_fault *fault, rt_detail *detail)
{
    rt_sim_trace(world, SIM_TRACE_FAULT, fault->verb, fault->words, 0);
    if (fault->verb == VERB_CUT || fault->verb == VERB_HEAL)
        return path_execute(world, fault, detail);
    if ((fault->words & WORD_PARTY) == 0) {
        world_execute(world, fault);
        return RT_OK;
    }
    sim_device *device = rt_sim_party_find(world, fault->party);
    if (device == NULL)
        return rt_fail(detail, RT_E_NOT_FOUND, 0, "%s: no party '%s' in the world '%s'", verbs[fault->verb].name, fault->party,
                       world->name);
    party_execute(device, fault);
    return RT_OK;
}

/* ---- scheduling ---- */

/* A scheduled fault whose party is gone has nothing to do. */
static void fault_fire(sim_world *world, sim_event *event)
{
    sim_fault *fault = RT_LIST_ENTRY(event, sim_fault, due.event);
    fault_execute(world, fault, NULL);
    rt_sim_due_remove(world, &fault->due);
}

static int fault_schedule(sim_world *world, const sim_fault *parsed, rt_detail *detail)
{
    int64_t at_ns = (int64_t)fault_number(parsed, WORD_AT);
    if ((parsed->words & WORD_IN) != 0)
        at_ns = world->now_ns + (int64_t)fault_number(parsed, WORD_IN);
    sim_fault *fault = malloc(sizeof *fault);
    if (fault != NULL) {
        *fault = *parsed;
        fault->due.event.fire = fault_fire;
        fault->due.indexed = (fault->words & WORD_EVENT) != 0;
        fault->due.event_index = fault_number(fault, WORD_EVENT);
        if (rt_sim_due_add(world, &fault->due, at_ns) == RT_OK)
            return RT_OK;
    }
    free(fault);
    return rt_fail(detail, RT_E_NO_MEMORY, 0, "%s: no memory to schedule it", verbs[parsed->verb].name);
}

/* ---- parsing ---- */

static int party_name_parse(const char *text, const char *word, char *name_out, rt_detail *detail)
{
    if (*text == '\0' || strlen(text) >= SIM_NAME_SIZE)
        return rt_fail(detail, RT_E_INVALID, 0, "%s=%.70s is not a name of 1 to %d characters", word, text, SIM_NAME_SIZE - 1);
    memcpy(name_out, text, strlen(text) + 1);
    return RT_OK;
}

/* Parses "0", "0.25": at most nine digits behind the point, below 1. */
static int probability_parse(const char *text, uint64_t *per_2_32_out, rt_detail *detail)
{
    uint64_t value = 0, scale = 1;
    size_t size = strlen(text);
    bool good = size == 1 ? text[0] == '0' : size > 2 && size <= 11 && text[0] == '0' && text[1] == '.';
    if (good && size > 1)
        good = rt_parse_u64(text + 2, size - 2, &value);
    if (!good)
        return rt_fail(detail, RT_E_INVALID, 0, "p=%.40s is not a probability: write 0 or 0.05, below 1", text);
    for (size_t index = 2; index < size; index++)
        scale *= 10;
    *per_2_32_out = (value << 32) / scale;
    return RT_OK;
}

static int status_parse(const char *text, int *status_out, rt_detail *detail)
{
    for (int status = RT_E_INVALID; status >= RT_E_SYSTEM; status--) {
        if (strcmp(rt_status_name(status), text) == 0) {
            *status_out = status;
            return RT_OK;
        }
    }
    return rt_fail(detail, RT_E_INVALID, 0, "status=%.40s is not the name of a failure, as in no-memory", text);
}

static int call_parse(const char *text, enum sim_call *call_out, rt_detail *detail)
{
    for (int call = 0; call < SIM_CALL_COUNT; call++) {
        if (strcmp(call_names[call], text) == 0) {
            *call_out = (enum sim_call)call;
            return RT_OK;
        }
    }
    return rt_fail(detail, RT_E_INVALID, 0, "call=%.40s is not a function that can be refused, as in memory_register", text);
}

static int value_parse(sim_fault *fault, enum word word, const char *text, rt_detail *detail)
{
    uint32_t index = word_index(word);
    uint64_t most = word == WORD_XOR ? 255 : (uint64_t)SIM_TIME_MAX / 4;
    switch (word) {
    case WORD_PARTY: return party_name_parse(text, "party", fault->party, detail);
    case WORD_WITH: return party_name_parse(text, "with", fault->with, detail);
    case WORD_P: return probability_parse(text, &fault->numbers[index], detail);
    case WORD_STATUS: return status_parse(text, &fault->status, detail);
    case WORD_CALL: return call_parse(text, &fault->call, detail);
    case WORD_MIN:
    case WORD_MAX: most = 60000000000; break;
    case WORD_NTH:
    case WORD_BYTE:
    case WORD_XOR:
    case WORD_BYTES:
    case WORD_AT:
    case WORD_IN:
    case WORD_EVENT: break;
    case WORD_ON:
    case WORD_OFF:
    case WORDS_WHEN: assert(false);
    }
    if (!rt_parse_u64(text, strlen(text), &fault->numbers[index]) || fault->numbers[index] > most)
        return rt_fail(detail, RT_E_INVALID, 0, "%s=%.40s is not a number from 0 to %llu", word_names[index], text,
                       (unsigned long long)most);
    return RT_OK;
}

static int token_parse(sim_fault *fault, char *token, rt_detail *detail)
{
    const struct verb_row *row = &verbs[fault->verb];
    char *equals = strchr(token, '=');
    if (equals != NULL)
        *equals = '\0';
    uint32_t index = 0;
    while (index < WORD_COUNT && strcmp(word_names[index], token) != 0)
        index++;
    uint32_t word = index < WORD_COUNT ? 1u << index : 0;
    if ((word & (row->required | row->optional)) == 0)
        return rt_fail(detail, RT_E_INVALID, 0, "%s: unknown word '%.40s'", row->name, token);
    if ((fault->words & word) != 0)
        return rt_fail(detail, RT_E_INVALID, 0, "%s: '%s' is given twice", row->name, token);
    fault->words |= word;
    bool bare = word == WORD_ON || word == WORD_OFF;
    if (bare != (equals == NULL))
        return rt_fail(detail, RT_E_INVALID, 0, "%s: '%s' %s", row->name, token, bare ? "takes no value" : "has no value");
    return bare ? RT_OK : value_parse(fault, (enum word)word, equals + 1, detail);
}

/* Checks that concern several words at once. */
static int words_check(const sim_fault *fault, rt_detail *detail)
{
    const char *name = verbs[fault->verb].name;
    uint32_t missing = verbs[fault->verb].required & ~fault->words;
    for (uint32_t index = 0; index < WORD_COUNT; index++) {
        if ((missing >> index & 1) != 0)
            return rt_fail(detail, RT_E_INVALID, 0, "%s: '%s=' is missing", name, word_names[index]);
    }
    uint32_t when = fault->words & WORDS_WHEN, state = fault->words & (WORD_ON | WORD_OFF);
    if ((when & (when - 1)) != 0)
        return rt_fail(detail, RT_E_INVALID, 0, "%s: give one of at=, in= and event=", name);
    if (fault->verb == VERB_TEAR && (state == 0 || (state & (state - 1)) != 0))
        return rt_fail(detail, RT_E_INVALID, 0, "tear: write 'tear on' or 'tear off'");
    if (fault->verb == VERB_DELAY && fault_number(fault, WORD_MIN) > fault_number(fault, WORD_MAX))
        return rt_fail(detail, RT_E_INVALID, 0, "delay: min= is larger than max=");
    if (fault->verb == VERB_REFUSE && (fault->call == SIM_CALL_OPEN) == ((fault->words & WORD_PARTY) != 0))
        return rt_fail(detail, RT_E_INVALID, 0, "refuse: call=open takes no party=, every other call needs one");
    return RT_OK;
}

/* ---- questions ---- */

static void reply_add(char *text_out, size_t capacity, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void reply_add(char *text_out, size_t capacity, const char *format, ...)
{
    size_t used = strlen(text_out);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text_out + used, capacity - used, format, arguments);
    va_end(arguments);
}

static void world_dump(const sim_world *world, char *reply_out, size_t capacity)
{
    reply_add(reply_out, capacity, "world=%s seed=%llu now_ns=%lld events=%llu scheduled=%u\n", world->name,
              (unsigned long long)world->seed, (long long)world->now_ns, (unsigned long long)world->event_count,
              world->heap.count);
    RT_LIST_EACH(node, &world->devices) {
        const sim_device *device = RT_LIST_ENTRY(node, sim_device, node);
        reply_add(reply_out, capacity, "party %u '%s'%s%s: %u links, %u registrations, %u streams\n", device->id,
                  device->base.name, device->dead ? " killed" : "", device->paused ? " paused" : "", device->link_count,
                  device->memory_count, device->stream_count);
        RT_LIST_EACH(link_node, &device->links) {
            char line[256];
            rt_sim_link_describe(&RT_LIST_ENTRY(link_node, sim_link, node)->base, line, sizeof line);
            reply_add(reply_out, capacity, "  %s\n", line);
        }
    }
    RT_LIST_EACH(cut_node, &world->cuts) {
        const sim_cut *cut = RT_LIST_ENTRY(cut_node, sim_cut, node);
        reply_add(reply_out, capacity, "cut between '%s' and '%s'\n", cut->one, cut->other);
    }
}

static int command_answer(sim_world *world, const sim_fault *fault, char *reply_out, size_t capacity, rt_detail *detail)
{
    if (fault->verb == VERB_NOW)
        reply_add(reply_out, capacity, "now_ns=%lld", (long long)world->now_ns);
    else if (fault->verb == VERB_SEED)
        reply_add(reply_out, capacity, "seed=%llu", (unsigned long long)world->seed);
    else if (fault->verb == VERB_TRACE)
        reply_add(reply_out, capacity, "hash=%016llx events=%llu", (unsigned long long)world->trace_hash,
                  (unsigned long long)world->event_count);
    else if (fault->verb == VERB_DUMP)
        world_dump(world, reply_out, capacity);
    else {
        bool later = (fault->words & WORDS_WHEN) != 0;
        int status = later ? fault_schedule(world, fault, detail) : fault_execute(world, fault, detail);
        if (status != RT_OK)
            return status;
        reply_add(reply_out, capacity, "ok");
    }
    return RT_OK;
}

int rt_sim_command(const char *text, char *reply_out, size_t capacity, rt_detail *detail)
{
    char copy[512], *rest = NULL;
    const char *world_name = "0";
    sim_fault fault = {.verb = VERB_COUNT};
    if (strlen(text) >= sizeof copy || capacity == 0)
        return rt_fail(detail, RT_E_INVALID, 0, "sim: a command has at most %zu characters", sizeof copy - 1);
    memcpy(copy, text, strlen(text) + 1);
    char *token = strtok_r(copy, " ", &rest);
    if (token != NULL && strncmp(token, "world=", 6) == 0) {
        world_name = token + 6;
        token = strtok_r(NULL, " ", &rest);
    }
    for (int verb = 0; token != NULL && verb < VERB_COUNT; verb++)
        fault.verb = strcmp(verbs[verb].name, token) == 0 ? (enum verb)verb : fault.verb;
    if (fault.verb == VERB_COUNT)
        return rt_fail(detail, RT_E_INVALID, 0, "sim: unknown command '%.40s'", token == NULL ? "" : token);
    int status = RT_OK;
    while (status == RT_OK && (token = strtok_r(NULL, " ", &rest)) != NULL)
        status = token_parse(&fault, token, detail);
    if (status == RT_OK)
        status = words_check(&fault, detail);
    if (status != RT_OK)
        return status;
    sim_world *world = rt_sim_world_find(world_name);
    if (world == NULL)
        return rt_fail(detail, RT_E_NOT_FOUND, 0, "sim: no world '%.64s': it begins with its first device", world_name);
    status = rt_sim_world_owned(world, "execute a command", detail);
    reply_out[0] = '\0';
    return status != RT_OK ? status : command_answer(world, &fault, reply_out, capacity, detail);
}
