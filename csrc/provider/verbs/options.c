/* options.c: the arguments of a verbs:// URL: "port=2&gid=3&ack_timeout=17". What each means is in verbs.h. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef struct option {
    const char *key;
    size_t offset; /* in verbs_options */
    uint32_t least, most, usual;
} option;

#define OPTION(name, least, most, usual)                                                                                         \
    {                                                                                                                            \
#name, offsetof(verbs_options, name), least, most, usual                                                                 \
    }

static const option options[] = {
    OPTION(port, 1, 255, VERBS_UNSET),
    OPTION(gid, 0, 255, VERBS_UNSET),
    OPTION(traffic_class, 0, 255, 0),
    OPTION(service_level, 0, 15, 0),
    OPTION(ack_timeout, 1, 31, 14), /* 0 would wait for ever; with 6 repeats a dead peer shows in half a second */
    OPTION(retry_count, 0, 7, 6),
    OPTION(rnr_retry, 0, 6, 6),
    OPTION(mtu, 256, 4096, 4096),
    OPTION(work_depth, 8, 4096, VERBS_WORK_DEPTH),
    OPTION(completion_depth, 64, 1 << 22, VERBS_COMPLETION_DEPTH),
    OPTION(message_size_max, 256, VERBS_MESSAGE_MAX, VERBS_MESSAGE_MAX),
};
enum { OPTION_COUNT = sizeof options / sizeof options[0] };

static uint32_t *value_of(verbs_options *values, const option *which)
{
    return (uint32_t *)(void *)((char *)values + which->offset);
}

static int unknown_key(const char *key, size_t size, rt_detail *detail)
{
    char known[240];
    size_t used = 0;
    for (size_t index = 0; index < OPTION_COUNT; index++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", index == 0 ? "" : ", ", options[index].key);
    return rt_fail(detail, RT_E_INVALID, 0, "verbs has no argument '%.*s'; it knows %s", (int)(size < 40 ? size : 40), key,
                   known);
}

/* A decimal number without signs, spaces or more than 10 digits. */
static bool parse_number(const char *text, size_t size, uint32_t *value_out)
{
    uint64_t value = 0;
    if (size == 0 || size > 10)
        return false;
    for (size_t index = 0; index < size; index++) {
        if (text[index] < '0' || text[index] > '9')
            return false;
        value = value * 10 + (uint64_t)(text[index] - '0');
    }
    if (value > UINT32_MAX)
        return false;
    *value_out = (uint32_t)value;
    return true;
}

static int parse_pair(const char *pair, size_t size, verbs_options *values, uint32_t *seen, rt_detail *detail)
{
    const char *equals = memchr(pair, '=', size);
    size_t key_size = equals != NULL ? (size_t)(equals - pair) : size;
    size_t index = 0;
    while (index < OPTION_COUNT && (strlen(options[index].key) != key_size || memcmp(options[index].key, pair, key_size) != 0))
        index++;
    if (index == OPTION_COUNT)
        return unknown_key(pair, key_size, detail);
    const option *which = &options[index];
    if ((*seen & (1u << index)) != 0)
        return rt_fail(detail, RT_E_INVALID, 0, "verbs argument '%s' is given twice", which->key);
    *seen |= 1u << index;
    uint32_t value;
    size_t value_size = equals != NULL ? size - key_size - 1 : 0;
    if (!parse_number(pair + size - value_size, value_size, &value) || value < which->least || value > which->most)
        return rt_fail(detail, RT_E_INVALID, 0, "verbs argument '%s' is '%.*s': it must be a number from %u to %u", which->key,
                       (int)(value_size < 40 ? value_size : 40), pair + size - value_size, which->least, which->most);
    *value_of(values, which) = value;
    return RT_OK;
}

int verbs_options_parse(const char *arguments, verbs_options *options_out, rt_detail *detail)
{
    verbs_options values;
    uint32_t seen = 0;
    for (size_t index = 0; index < OPTION_COUNT; index++)
        *value_of(&values, &options[index]) = options[index].usual;
    const char *at = arguments != NULL ? arguments : "";
    while (*at != '\0') {
        size_t size = strcspn(at, "&");
        int status = parse_pair(at, size, &values, &seen, detail);
        if (status != RT_OK)
            return status;
        at += size;
        if (*at == '&')
            at++;
    }
    if (verbs_mtu_bytes(verbs_mtu_of(values.mtu)) != values.mtu)
        return rt_fail(detail, RT_E_INVALID, 0, "verbs argument 'mtu' is %u: it must be 256, 512, 1024, 2048 or 4096",
                       values.mtu);
    *options_out = values;
    return RT_OK;
}

#endif
