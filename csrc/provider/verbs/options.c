/* options.c: the arguments of a verbs:// URL: "port=2&gid=10.1.0.0/16&ack_timeout=17". verbs.h says what each
 * means. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <arpa/inet.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/number.h"

typedef struct option {
    const char *key;
    size_t offset; /* in verbs_options */
    uint32_t least, most, usual;
    const char *const *words; /* NULL: a number; else the names of `least` to `most` */
    bool hexadecimal;         /* "0x8001" will do as well */
} option;

static const char *const placements[] = {"auto", "ordered", "any"};

#define OPTION(name, least, most, usual)                                                                                         \
    {                                                                                                                            \
#name, offsetof(verbs_options, name), least, most, usual, NULL, false                                                    \
    }
#define WORDS(name, words)                                                                                                       \
    {                                                                                                                            \
#name, offsetof(verbs_options, name), 0, sizeof words / sizeof words[0] - 1, 0, words, false                             \
    }

static const option options[] = {
    OPTION(port, 1, 255, VERBS_UNSET),
    OPTION(local_rank, 0, 65535, 0),
    OPTION(gid, 0, 255, VERBS_UNSET),
    OPTION(traffic_class, 0, 255, 0),
    OPTION(service_level, 0, 15, 0),
    OPTION(ack_timeout, 1, 31, VERBS_UNSET), /* 0 would wait for ever */
    OPTION(retry_count, 0, 7, VERBS_UNSET),
    OPTION(rnr_retry, 0, 6, 6),
    OPTION(mtu, 256, 4096, 4096),
    OPTION(work_depth, 8, 4096, VERBS_WORK_DEPTH),
    OPTION(completion_depth, 64, 1 << 22, VERBS_COMPLETION_DEPTH),
    OPTION(links, 0, VERBS_LINKS_MAX, 0),
    OPTION(message_size_max, 256, VERBS_MESSAGE_MAX, VERBS_MESSAGE_MAX),
    OPTION(keepalive, 1, 3600, 15), /* outlives a management switch that starts anew, and a host that is moved */
    WORDS(placement, placements),
    {"pkey", offsetof(verbs_options, pkey), 1, 0xffff, VERBS_UNSET, NULL, true},
};
enum { OPTION_COUNT = sizeof options / sizeof options[0] };

static uint32_t *value_of(verbs_options *values, const option *which)
{
    return (uint32_t *)(void *)((char *)values + which->offset);
}

static int key_unknown(const char *key, size_t size, rt_detail *detail)
{
    char known[240];
    size_t used = 0;
    for (size_t index = 0; index < OPTION_COUNT; index++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", index == 0 ? "" : ", ", options[index].key);
    return rt_fail(detail, RT_E_INVALID, 0, "verbs has no argument '%.*s'; it knows %s", (int)(size < 40 ? size : 40), key,
                   known);
}

static int option_word_parse(const option *which, const char *text, size_t size, uint32_t *value_out, rt_detail *detail)
{
    char known[80];
    size_t used = 0;
    for (uint32_t index = which->least; index <= which->most; index++) {
        const char *word = which->words[index];
        if (strlen(word) == size && memcmp(word, text, size) == 0) {
            *value_out = index;
            return RT_OK;
        }
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", index == which->least ? "" : ", ", word);
    }
    return rt_fail(detail, RT_E_INVALID, 0, "verbs argument '%s' is '%.*s': it must be one of %s", which->key,
                   (int)(size < 40 ? size : 40), text, known);
}

static bool hexadecimal_parse(const char *text, size_t size, uint64_t *value_out)
{
    uint64_t value = 0;
    if (size == 0 || size > 8)
        return false;
    for (size_t index = 0; index < size; index++) {
        static const char digits[] = "0123456789abcdef";
        const char *digit = text[index] != '\0' ? strchr(digits, text[index] | (text[index] >= 'A' ? 0x20 : 0)) : NULL;
        if (digit == NULL)
            return false;
        value = value << 4 | (uint64_t)(digit - digits);
    }
    *value_out = value;
    return true;
}

/* "10.1.2.3", "10.1.0.0/16", "2001:db8::/32". */
static bool network_parse(const char *text, size_t size, verbs_network *network_out)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    char address[64];
    verbs_network network = {.bits = 128};
    if (size >= sizeof address)
        return false;
    memcpy(address, text, size);
    address[size] = '\0';
    char *slash = strchr(address, '/');
    if (slash != NULL)
        *slash = '\0';
    bool ipv4 = inet_pton(AF_INET, address, network.address.raw + 12) == 1;
    if (ipv4)
        memcpy(network.address.raw, mapped, sizeof mapped);
    else if (inet_pton(AF_INET6, address, network.address.raw) != 1)
        return false;
    uint64_t bits, first = ipv4 ? 96 : 0;
    if (slash != NULL) {
        if (!rt_parse_u64(slash + 1, strlen(slash + 1), &bits) || bits == 0 || bits > 128 - first)
            return false;
        network.bits = (uint32_t)(first + bits);
    }
    *network_out = network;
    return true;
}

static int option_value_parse(const option *which, const char *text, size_t size, uint32_t *value_out, rt_detail *detail)
{
    uint64_t value;
    if (which->words != NULL)
        return option_word_parse(which, text, size, value_out, detail);
    bool is_hex = which->hexadecimal && size > 2 && memcmp(text, "0x", 2) == 0;
    bool parsed = is_hex ? hexadecimal_parse(text + 2, size - 2, &value) : rt_parse_u64(text, size, &value);
    if (!parsed || value < which->least || value > which->most)
        return rt_fail(detail, RT_E_INVALID, 0, "verbs argument '%s' is '%.*s': it must be a number from %u to %u%s", which->key,
                       (int)(size < 40 ? size : 40), text, which->least, which->most,
                       strcmp(which->key, "gid") == 0 ? ", an address, or a network as in 10.1.0.0/16" : "");
    *value_out = (uint32_t)value;
    return RT_OK;
}

static int option_parse(const char *pair, size_t size, verbs_options *values, uint32_t *seen, rt_detail *detail)
{
    const char *equals = memchr(pair, '=', size);
    size_t key_size = equals != NULL ? (size_t)(equals - pair) : size;
    size_t index = 0;
    while (index < OPTION_COUNT && (strlen(options[index].key) != key_size || memcmp(options[index].key, pair, key_size) != 0))
        index++;
    if (index == OPTION_COUNT)
        return key_unknown(pair, key_size, detail);
    const option *which = &options[index];
    if ((*seen & (1u << index)) != 0)
        return rt_fail(detail, RT_E_INVALID, 0, "verbs argument '%s' is given twice", which->key);
    *seen |= 1u << index;
    size_t value_size = equals != NULL ? size - key_size - 1 : 0;
    if (strcmp(which->key, "gid") == 0 && network_parse(pair + size - value_size, value_size, &values->network))
        return RT_OK;
    return option_value_parse(which, pair + size - value_size, value_size, value_of(values, which), detail);
}

const char *verbs_placement_name(uint32_t placement)
{
    return placement < sizeof placements / sizeof placements[0] ? placements[placement] : "unknown";
}

/* No query tells whether a fabric routes adaptively (RDMA-RULES 3), so the rule goes by what is usual. */
verbs_placement verbs_placement_of(const verbs_options *values, uint8_t link_layer, char reason_out[RT_ORDER_REASON_SIZE])
{
    bool ethernet = link_layer == IBV_LINK_LAYER_ETHERNET;
    verbs_placement placement = (verbs_placement)values->placement;
    const char *why = "asked for by name";
    if (placement == VERBS_PLACEMENT_AUTO) {
        placement = ethernet ? VERBS_PLACEMENT_ORDERED : VERBS_PLACEMENT_ANY;
        why = ethernet ? "RoCE, whose switches keep to one path unless told" : "InfiniBand, which may route adaptively";
    }
    snprintf(reason_out, RT_ORDER_REASON_SIZE, "placement=%s: %s", placements[placement], why);
    return placement;
}

uint32_t verbs_mtu_bytes(uint32_t mtu)
{
    return mtu >= IBV_MTU_256 && mtu <= IBV_MTU_4096 ? 128u << mtu : 0;
}

uint32_t verbs_mtu_of(uint32_t bytes)
{
    uint32_t mtu = IBV_MTU_4096;
    while (mtu >= IBV_MTU_256 && verbs_mtu_bytes(mtu) > bytes)
        mtu--;
    return mtu;
}

int verbs_options_parse(const char *arguments, verbs_options *options_out, rt_detail *detail)
{
    verbs_options values = {.network = {.bits = 0}};
    uint32_t seen = 0;
    for (size_t index = 0; index < OPTION_COUNT; index++)
        *value_of(&values, &options[index]) = options[index].usual;
    const char *at = arguments != NULL ? arguments : "";
    while (*at != '\0') {
        size_t size = strcspn(at, "&");
        int status = option_parse(at, size, &values, &seen, detail);
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
