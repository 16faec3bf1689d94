/* sim_ends.h: two parties of the simulated fabric, joined by a link, with memory known to each other. For test_sim*.c.
 *
 * Every world has a name of its own, so that a failing test leaves nothing to the next. */
#ifndef RT_TESTS_SIM_ENDS_H
#define RT_TESTS_SIM_ENDS_H

#include <stdlib.h>

#include "check.h"
#include "provider/provider.h"

#define SIM (&rt_provider_sim)
#define MS 1000000ll
#define EVERYTHING (RT_ACCESS_LOCAL_WRITE | RT_ACCESS_REMOTE_WRITE | RT_ACCESS_REMOTE_READ)

enum { MEMORY_SIZE = 4096 };

typedef struct sim_end {
    rt_pdevice *device;
    rt_plink *link;
    rt_pmemory *memory;
    rt_premote *remote; /* the other end's memory */
    uint8_t *bytes;
    uint8_t address[RT_LINK_ADDRESS_SIZE_MAX], key[RT_MEMORY_KEY_SIZE_MAX];
    size_t address_size, key_size;
    unsigned served;
} sim_end;

typedef struct sim_pair {
    char world[32];
    sim_end a, b;
} sim_pair;

static unsigned sim_world_count;

__attribute__((unused)) static void sim_served(void *owner)
{
    ((sim_end *)owner)->served++;
}

__attribute__((unused)) static int sim_open(const char *name, const char *arguments, sim_end *end, rt_detail *detail)
{
    const rt_open_options options = {.name = name,
                                     .arguments = arguments,
                                     .data_queues = 1,
                                     .upcalls = {.owner = end, .service = sim_served}};
    return SIM->open(&options, &end->device, detail);
}

/* A command to the world of the pair; its reply is valid until the next. */
__attribute__((unused)) static const char *sim_tell(const char *world, const char *command)
{
    static char reply[8192];
    char text[256];
    rt_detail detail;
    rt_detail_clear(&detail);
    snprintf(text, sizeof text, "world=%s %s", world, command);
    if (SIM->command(text, reply, sizeof reply, &detail) != RT_OK)
        snprintf(reply, sizeof reply, "%s: %s", rt_status_name(detail.status), detail.text);
    return reply;
}

static inline int64_t sim_now(const sim_end *end)
{
    return SIM->clock->now_ns(end->device);
}

static inline int sim_advance(sim_end *end, int64_t for_ns)
{
    return SIM->clock->advance(end->device, sim_now(end) + for_ns);
}

__attribute__((unused)) static void sim_end_prepare(sim_end *end, uint32_t access)
{
    rt_detail detail;
    end->bytes = aligned_alloc(64, MEMORY_SIZE);
    CHECK(end->bytes != NULL);
    memset(end->bytes, 0, MEMORY_SIZE);
    const rt_memory memory = {.address = end->bytes, .size = MEMORY_SIZE, .descriptor = -1, .access = access};
    CHECK_INT(SIM->memory_register(end->device, &memory, &end->memory, &detail), RT_OK);
    CHECK_INT(SIM->memory_key(end->device, end->memory, NULL, 0, end->key, &end->key_size, &detail), RT_OK);
    CHECK_INT(SIM->link_create(end->device, 0, 0, &end->link, end->address, &end->address_size, &detail), RT_OK);
}

__attribute__((unused)) static void sim_end_join(sim_end *end, const sim_end *other, uint64_t claimed_size)
{
    rt_detail detail;
    CHECK_INT(SIM->link_connect(end->link, other->address, other->address_size, &detail), RT_OK);
    CHECK_INT(SIM->remote_attach(end->link, other->key, other->key_size, claimed_size, EVERYTHING, &end->remote, &detail), RT_OK);
}

/* Opens a and b, with rights for b's memory, and with b's size as it tells it to a. */
__attribute__((unused)) static void sim_pair_open_as(sim_pair *pair, uint64_t seed, const char *arguments, uint32_t access,
                                                     uint64_t claimed_size)
{
    char text[256];
    rt_detail detail;
    memset(pair, 0, sizeof *pair);
    snprintf(pair->world, sizeof pair->world, "t%u", sim_world_count++);
    snprintf(text, sizeof text, "world=%s&seed=%llu&hesitates=0%s%s", pair->world, (unsigned long long)seed,
             arguments[0] != '\0' ? "&" : "", arguments);
    CHECK_INT(sim_open("a", text, &pair->a, &detail), RT_OK);
    CHECK_INT(sim_open("b", text, &pair->b, &detail), RT_OK);
    sim_end_prepare(&pair->a, EVERYTHING);
    sim_end_prepare(&pair->b, access);
    sim_end_join(&pair->a, &pair->b, claimed_size);
    sim_end_join(&pair->b, &pair->a, MEMORY_SIZE);
}

__attribute__((unused)) static void sim_pair_open(sim_pair *pair, uint64_t seed, const char *arguments)
{
    sim_pair_open_as(pair, seed, arguments, EVERYTHING, MEMORY_SIZE);
}

/* Takes completions of queue 0 until there are `wanted` or time is up. Returns how many. */
__attribute__((unused)) static uint32_t sim_take(sim_end *end, rt_completion *completions_out, uint32_t wanted, int64_t for_ns)
{
    uint32_t count = 0;
    int64_t until_ns = sim_now(end) + for_ns;
    for (;;) {
        int got = SIM->poll(end->device, 0, completions_out + count, wanted - count);
        if (got > 0)
            count += (uint32_t)got;
        if (count == wanted || got < 0)
            return count;
        if (SIM->clock->advance(end->device, until_ns) == RT_E_AGAIN)
            return count;
    }
}

__attribute__((unused)) static void sim_end_close(sim_end *end)
{
    rt_completion completions[64];
    if (end->link != NULL) {
        SIM->link_shut(end->link);
        while (sim_take(end, completions, 64, MS) != 0)
            continue;
        if (end->remote != NULL)
            SIM->remote_detach(end->link, end->remote);
        SIM->link_destroy(end->link);
    }
    if (end->memory != NULL)
        SIM->memory_release(end->device, end->memory);
    SIM->close(end->device);
    free(end->bytes);
}

__attribute__((unused)) static void sim_pair_close(sim_pair *pair)
{
    sim_end_close(&pair->a);
    sim_end_close(&pair->b);
}

/* Posts one item between the memories of two ends. Returns how many were accepted, or the failure. */
__attribute__((unused)) static int sim_post(sim_end *end, uint8_t opcode, uint8_t flags, uint64_t remote_offset,
                                            uint64_t local_offset, uint64_t size, uint64_t token)
{
    const rt_segment segment = {.memory = end->memory, .address = end->bytes + local_offset, .size = size};
    const rt_work work = {.opcode = opcode,
                          .flags = flags,
                          .segment_count = 1,
                          .immediate = (uint32_t)token + 7,
                          .segments = &segment,
                          .remote = opcode == RT_WORK_SEND || opcode == RT_WORK_RECV ? NULL : end->remote,
                          .remote_offset = remote_offset,
                          .token = token};
    rt_posted posted;
    int status = SIM->post(end->link, &work, 1, &posted);
    return status == RT_OK ? (int)posted.accepted : status;
}

typedef struct sim_streams {
    void *listener, *dialled, *accepted;
} sim_streams;

/* A stream from a to b, accepted. */
__attribute__((unused)) static void sim_streams_open(sim_pair *pair, sim_streams *open)
{
    char bound[64];
    rt_detail detail;
    memset(open, 0, sizeof *open);
    CHECK_INT(SIM->streams->listen(pair->b.device, "b:0", &open->listener, bound, sizeof bound, &detail), RT_OK);
    CHECK_INT(SIM->streams->connect(pair->a.device, bound, &open->dialled, &detail), RT_OK);
    for (int round = 0; round < 100; round++) {
        if (SIM->streams->accept(open->listener, &open->accepted, &detail) == RT_OK)
            return;
        sim_advance(&pair->b, MS);
    }
    CHECK(open->accepted != NULL);
}

__attribute__((unused)) static void sim_streams_close(sim_streams *open)
{
    SIM->streams->close(open->dialled);
    SIM->streams->close(open->accepted);
    SIM->streams->unlisten(open->listener);
}

/* Reads what there is next, or RT_E_AGAIN when time is up. */
__attribute__((unused)) static int64_t sim_read(sim_end *end, void *stream, uint8_t *bytes, int64_t for_ns)
{
    int64_t until_ns = sim_now(end) + for_ns;
    for (;;) {
        int64_t got = SIM->streams->read(stream, bytes, 64);
        if (got != RT_E_AGAIN || SIM->clock->advance(end->device, until_ns) == RT_E_AGAIN)
            return got;
    }
}

#endif
