/* arguments.c: the arguments of a sim:// URL, limits and promises included, by one table; and their
 * defaults.
 *
 * sim://NAME?world=w&seed=7&orders_writes=0&latency_ns=5000. Numbers are decimal; an unknown key, a
 * bad value and a key given twice are RT_E_INVALID with a detail that names the key. */
#include <assert.h>
#include <string.h>

#include "base/number.h"
#include "provider/sim/sim.h"

enum kind { KIND_U64, KIND_U32, KIND_BOOL };

typedef struct key_row {
    const char *name;
    enum kind kind;
    size_t offset;
    uint64_t min, max;
} key_row;

#define LIMIT(name) offsetof(sim_arguments, limits.name)
#define BOOL(name, offset)                                                                                                       \
    {                                                                                                                            \
        name, KIND_BOOL, offset, 0, 1                                                                                            \
    }

static const key_row keys[] = {
    {"seed", KIND_U64, offsetof(sim_arguments, seed), 0, UINT64_MAX},
    {"latency_ns", KIND_U64, offsetof(sim_arguments, latency_ns), 1, 1000000000},
    {"jitter_ns", KIND_U64, offsetof(sim_arguments, jitter_ns), 0, 1000000000},
    {"bytes_per_us", KIND_U64, offsetof(sim_arguments, bytes_per_us), 1, 1000000000},
    {"retry_ns", KIND_U64, offsetof(sim_arguments, retry_ns), 1000, 60000000000},
    BOOL("hesitates", offsetof(sim_arguments, hesitates)),
    {"message_size_max", KIND_U64, LIMIT(message_size_max), 8, UINT64_C(1) << 40},
    {"region_size_max", KIND_U64, LIMIT(region_size_max), 4096, UINT64_C(1) << 46},
    {"region_count_max", KIND_U32, LIMIT(region_count_max), 1, 1 << 24},
    {"link_count_max", KIND_U32, LIMIT(link_count_max), 1, 1 << 24},
    {"work_depth", KIND_U32, LIMIT(work_depth), 1, 1 << 15},
    {"receive_depth", KIND_U32, LIMIT(receive_depth), 1, 1 << 15},
    {"completion_depth", KIND_U32, LIMIT(completion_depth), 1, 1 << 24},
    {"read_depth", KIND_U32, LIMIT(read_depth), 0, 1 << 15},
    {"segments_max", KIND_U32, LIMIT(segments_max), 1, 1024},
    {"inline_max", KIND_U32, LIMIT(inline_size_max), 0, 65536},
    {"send_size_max", KIND_U32, LIMIT(send_size_max), 1, 1 << 24},
    {"links_per_peer", KIND_U32, LIMIT(links_per_peer_default), 1, 64},
    {"queues", KIND_U32, LIMIT(queues_default), 1, 64},
    BOOL("orders_writes", LIMIT(orders_writes)),
    BOOL("orders_bytes", LIMIT(orders_bytes_within_a_write)),
    BOOL("places_words_whole", LIMIT(places_words_whole)),
    BOOL("wakes", LIMIT(can_wake_receiver)),
    BOOL("carries_immediate", LIMIT(carries_immediate)),
    BOOL("keys_per_peer", LIMIT(keys_per_peer)),
};

enum { KEY_COUNT = sizeof keys / sizeof keys[0] };

void rt_sim_arguments_default(sim_arguments *arguments_out)
{
    *arguments_out = (sim_arguments){
        .world = "0",
        .latency_ns = 2000,
        .jitter_ns = 2000,
        .bytes_per_us = 12500, /* 100 Gb/s */
        .retry_ns = 500000000, /* RDMA-RULES 20: the sum of timeout 14 and retry_cnt 7 */
        .hesitates = true,
        .limits =
            {
                .message_size_max = UINT64_C(1) << 30,
                .region_size_max = UINT64_C(1) << 40,
                .region_count_max = 65536,
                .link_count_max = 65536,
                .completion_queue_max = 65,
                .work_depth = 64,
                .receive_depth = 64,
                .completion_depth = 1 << 20,
                .read_depth = 16,
                .segments_max = 4,
                .inline_size_max = 64,
                .send_size_max = 65536,
                .links_per_peer_default = 1,
                .queues_default = 1,
                .orders_writes = true,
                .places_words_whole = true,
                .can_wake_receiver = true,
                .carries_immediate = true,
                .exposes_caller_memory = true,
                .keys_per_peer = true,
                .virtual_time = true,
            },
    };
}

static int number_set(const key_row *key, const char *text, size_t size, sim_arguments *arguments, rt_detail *detail)
{
    uint64_t value = 0;
    if (!rt_parse_u64(text, size, &value) || value < key->min || value > key->max)
        return rt_fail(detail, RT_E_INVALID, 0, "sim: %s=%.*s is not a number from %llu to %llu", key->name,
                       size > 40 ? 40 : (int)size, text, (unsigned long long)key->min, (unsigned long long)key->max);
    uint8_t *at = (uint8_t *)arguments + key->offset;
    uint32_t narrow = (uint32_t)value;
    bool flag = value != 0;
    switch (key->kind) {
    case KIND_U64: memcpy(at, &value, sizeof value); break;
    case KIND_U32: memcpy(at, &narrow, sizeof narrow); break;
    case KIND_BOOL: memcpy(at, &flag, sizeof flag); break;
    }
    return RT_OK;
}

static int world_set(const char *text, size_t size, sim_arguments *arguments, rt_detail *detail)
{
    if (size == 0 || size >= sizeof arguments->world || memchr(text, ' ', size) != NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "sim: world= wants a name of 1 to %zu characters without blanks",
                       sizeof arguments->world - 1);
    memcpy(arguments->world, text, size);
    arguments->world[size] = '\0';
    return RT_OK;
}

/* Parses one "key=value". `seen` has a bit for each key of the table, and one more for the
 * world. */
static int pair_set(const char *text, size_t size, uint64_t *seen, sim_arguments *arguments, rt_detail *detail)
{
    _Static_assert(KEY_COUNT < 63, "a bit for each key");
    const char *equals = memchr(text, '=', size);
    size_t name_size = equals == NULL ? size : (size_t)(equals - text);
    int shown = name_size > 40 ? 40 : (int)name_size;
    if (equals == NULL)
        return rt_fail(detail, RT_E_INVALID, 0, "sim: the argument '%.*s' has no value: write key=value", shown, text);
    size_t value_size = size - name_size - 1;
    int index = 0;
    while (index < KEY_COUNT && (strlen(keys[index].name) != name_size || memcmp(keys[index].name, text, name_size) != 0))
        index++;
    if (index == KEY_COUNT && (name_size != 5 || memcmp(text, "world", 5) != 0))
        return rt_fail(detail, RT_E_INVALID, 0, "sim: unknown argument '%.*s'", shown, text);
    if ((*seen >> index & 1) != 0)
        return rt_fail(detail, RT_E_INVALID, 0, "sim: the argument '%.*s' is given twice", shown, text);
    *seen |= UINT64_C(1) << index;
    if (index == KEY_COUNT)
        return world_set(equals + 1, value_size, arguments, detail);
    arguments->has_seed |= keys[index].offset == offsetof(sim_arguments, seed);
    return number_set(&keys[index], equals + 1, value_size, arguments, detail);
}

int rt_sim_arguments_parse(const char *text, sim_arguments *arguments_out, rt_detail *detail)
{
    sim_arguments arguments;
    rt_sim_arguments_default(&arguments);
    uint64_t seen = 0;
    while (text != NULL && *text != '\0') {
        size_t size = strcspn(text, "&");
        int status = pair_set(text, size, &seen, &arguments, detail);
        if (status != RT_OK)
            return status;
        text += size;
        if (*text == '&' && *++text == '\0')
            return rt_fail(detail, RT_E_INVALID, 0, "sim: the arguments end in '&'");
    }
    *arguments_out = arguments;
    return RT_OK;
}
