/* test_messages.c: RPC messages and handles there and back, and every small corruption of them. Needs all of csrc/proto,
 * csrc/base/status.c. */
#include "check.h"
#include "proto/handle.h"
#include "proto/rpc_message.h"

/* Decodes, and encodes again what decoded. Returns the status of decoding. */
static int rpc_there_and_back(const uint8_t *bytes, size_t size)
{
    rt_rpc_message message;
    rt_detail detail;
    rt_detail_clear(&detail);
    int status = rt_rpc_decode(bytes, size, &message, &detail);
    CHECK_INT(detail.status, status);
    if (status != RT_OK) {
        CHECK_INT(status, RT_E_PROTOCOL);
        return status;
    }
    uint8_t again[RT_RPC_MESSAGE_MAX];
    CHECK_INT(rt_rpc_encode(&message, again, sizeof again), size);
    CHECK_BYTES(again, bytes, size);
    return RT_OK;
}

static int handle_there_and_back(const uint8_t *bytes, size_t size)
{
    rt_handle handle;
    rt_detail detail;
    rt_detail_clear(&detail);
    int status = rt_handle_decode(bytes, size, &handle, &detail);
    CHECK_INT(detail.status, status);
    if (status != RT_OK) {
        CHECK(status == RT_E_PROTOCOL || (status == RT_E_VERSION && size >= 2));
        return status;
    }
    CHECK(handle.offset + handle.size >= handle.offset && handle.offset + handle.size <= handle.registration_size);
    uint8_t again[RT_HANDLE_SIZE_MAX];
    CHECK_INT(rt_handle_encode(&handle, again, sizeof again), size);
    CHECK_BYTES(again, bytes, size);
    return RT_OK;
}

/* The whole decodes; cut short or prolonged it does not; with any byte changed it fails or is another good encoding. */
static void check_every_corruption(int (*there_and_back)(const uint8_t *, size_t), uint8_t *bytes, size_t size)
{
    CHECK_INT(there_and_back(bytes, size), RT_OK);
    for (size_t shorter = 0; shorter < size; shorter++)
        CHECK_INT(there_and_back(bytes, shorter), RT_E_PROTOCOL);
    bytes[size] = 0;
    CHECK_INT(there_and_back(bytes, size + 1), RT_E_PROTOCOL);
    for (size_t at = 0; at < size; at++) {
        for (unsigned change = 1; change < 256; change++) {
            bytes[at] ^= (uint8_t)change;
            there_and_back(bytes, size);
            bytes[at] ^= (uint8_t)change;
        }
    }
}

static rt_rpc_message lookup_of(size_t name_size)
{
    rt_rpc_message message = {.kind = RT_RPC_LOOKUP, .request = 0xbeef, .wait_ms = 0x01020304, .name_size = (uint8_t)name_size};
    memset(message.name, 'n', name_size);
    return message;
}

static rt_rpc_message found_of(size_t handle_size)
{
    rt_rpc_message message = {.kind = RT_RPC_FOUND, .request = 7, .handle_size = (uint8_t)handle_size};
    memset(message.handle, 0x5a, handle_size);
    return message;
}

static void every_rpc_message_survives_the_way_and_no_corruption_is_taken_for_one(void)
{
    const rt_rpc_message messages[] = {
        lookup_of(1),
        lookup_of(RT_NAME_MAX),
        found_of(1),
        found_of(RT_HANDLE_SIZE_MAX),
        {.kind = RT_RPC_MISSING, .request = 0xffff, .published_count = 3},
    };
    const int64_t sizes[] = {10, 137, 6, 165, 8};
    for (size_t index = 0; index < sizeof messages / sizeof messages[0]; index++) {
        uint8_t bytes[RT_RPC_MESSAGE_MAX + 1];
        int64_t size = rt_rpc_encode(&messages[index], bytes, RT_RPC_MESSAGE_MAX);
        CHECK_INT(size, sizes[index]);
        rt_rpc_message decoded;
        CHECK_INT(rt_rpc_decode(bytes, (size_t)size, &decoded, NULL), RT_OK);
        CHECK_INT(decoded.kind, messages[index].kind);
        CHECK_INT(decoded.request, messages[index].request);
        CHECK_INT(decoded.wait_ms, messages[index].wait_ms);
        CHECK_INT(decoded.published_count, messages[index].published_count);
        CHECK_INT(decoded.handle_size, messages[index].handle_size);
        CHECK_STR(decoded.name, messages[index].name);
        CHECK_BYTES(decoded.handle, messages[index].handle, sizeof decoded.handle);
        check_every_corruption(rpc_there_and_back, bytes, (size_t)size);
        for (size_t capacity = 0; capacity < (size_t)size; capacity++)
            CHECK_INT(rt_rpc_encode(&messages[index], bytes, capacity), RT_E_INVALID);
    }
}

static void a_lookup_is_laid_out_as_the_protocol_says(void)
{
    static const uint8_t wanted[] = {1, 0, 0x34, 0x12, 0xe8, 0x03, 0, 0, 2, 'w', '0'};
    rt_rpc_message message = {.kind = RT_RPC_LOOKUP, .request = 0x1234, .wait_ms = 1000, .name_size = 2, .name = "w0"};
    uint8_t bytes[RT_RPC_MESSAGE_MAX];
    CHECK_INT(rt_rpc_encode(&message, bytes, sizeof bytes), sizeof wanted);
    CHECK_BYTES(bytes, wanted, sizeof wanted);
}

static void rpc_messages_that_break_the_form_are_named_or_refused(void)
{
    static const struct {
        size_t size;
        uint8_t bytes[12];
        const char *words;
    } wrong[] = {
        {3, {1, 0, 0}, "has 3 bytes, too few for a header"},
        {8, {0, 0, 0, 0}, "of the unknown kind 0"},
        {8, {4, 0, 0, 0}, "of the unknown kind 4"},
        {8, {3, 9, 0, 0}, "has 0x09 where zero belongs"},
        {9, {1, 0, 5, 0, 0, 0, 0, 0, 0}, "LOOKUP 5 has a name of 0 bytes"},
        {11, {1, 0, 5, 0, 0, 0, 0, 0, 2, 'a', '\n'}, "or has control characters"},
        {11, {1, 0, 5, 0, 0, 0, 0, 0, 2, 0, 'a'}, "or has control characters"},
        {5, {2, 0, 6, 0, 0}, "FOUND 6 has a handle of 0 bytes"},
        {6, {2, 0, 6, 0, 200, 1}, "it is cut short"},
        {9, {3, 0, 6, 0, 1, 0, 0, 0, 0}, "bytes follow its end"},
    };
    rt_rpc_message message = {.kind = 77};
    rt_detail detail;
    for (size_t index = 0; index < sizeof wrong / sizeof wrong[0]; index++) {
        CHECK_INT(rt_rpc_decode(wrong[index].bytes, wrong[index].size, &message, &detail), RT_E_PROTOCOL);
        CHECK_HAS(detail.text, wrong[index].words);
        CHECK_INT(message.kind, 77); /* set only on success */
    }
    uint8_t bytes[RT_RPC_MESSAGE_MAX];
    rt_rpc_message empty = lookup_of(0), wordy = lookup_of(1), bare = found_of(0), unknown = {.kind = 9};
    wordy.name[0] = '\x7f';
    CHECK_INT(rt_rpc_encode(&empty, bytes, sizeof bytes), RT_E_INVALID);
    CHECK_INT(rt_rpc_encode(&wordy, bytes, sizeof bytes), RT_E_INVALID);
    CHECK_INT(rt_rpc_encode(&bare, bytes, sizeof bytes), RT_E_INVALID);
    CHECK_INT(rt_rpc_encode(&unknown, bytes, sizeof bytes), RT_E_INVALID);
}

static void a_name_has_1_to_128_bytes_without_control_characters(void)
{
    char name[RT_NAME_MAX + 2];
    rt_detail detail;
    memset(name, 'x', sizeof name);
    name[RT_NAME_MAX + 1] = '\0';
    CHECK_INT(rt_rpc_check_name(name, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "has 129 bytes: at most 128 fit");
    name[RT_NAME_MAX] = '\0';
    CHECK_INT(rt_rpc_check_name(name, &detail), RT_OK);
    CHECK_INT(rt_rpc_check_name("", &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "is empty");
    CHECK_INT(rt_rpc_check_name("a b\tc", &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "the control character 0x09 at byte 3");
    CHECK_INT(rt_rpc_check_name("layer/0.weight \xc3\xa4", &detail), RT_OK);
}

/* ---- handles ---- */

static rt_handle handle_of(size_t name_size, size_t key_size)
{
    rt_handle handle = {.offset = 4096,
                        .size = 1u << 20,
                        .registration_size = (1u << 20) + 8192,
                        .rights = 6,
                        .key_size = (uint8_t)key_size};
    memset(handle.provider, 'p', name_size);
    memset(handle.device_id, 0xd1, sizeof handle.device_id);
    memset(handle.key, 0x6b, key_size);
    return handle;
}

static void every_handle_survives_the_way_and_no_corruption_is_taken_for_one(void)
{
    const rt_handle handles[] = {handle_of(1, 0), handle_of(3, 8), handle_of(RT_PROVIDER_NAME_MAX, RT_HANDLE_KEY_MAX)};
    const int64_t sizes[] = {49, 59, 127};
    for (size_t index = 0; index < sizeof handles / sizeof handles[0]; index++) {
        uint8_t bytes[RT_HANDLE_SIZE_MAX + 1];
        int64_t size = rt_handle_encode(&handles[index], bytes, RT_HANDLE_SIZE_MAX);
        CHECK_INT(size, sizes[index]);
        rt_handle decoded;
        CHECK_INT(rt_handle_decode(bytes, (size_t)size, &decoded, NULL), RT_OK);
        CHECK_STR(decoded.provider, handles[index].provider);
        CHECK_BYTES(decoded.device_id, handles[index].device_id, sizeof decoded.device_id);
        CHECK_INT(decoded.offset, handles[index].offset);
        CHECK_INT(decoded.size, handles[index].size);
        CHECK_INT(decoded.registration_size, handles[index].registration_size);
        CHECK_INT(decoded.rights, handles[index].rights);
        CHECK_INT(decoded.key_size, handles[index].key_size);
        CHECK_BYTES(decoded.key, handles[index].key, sizeof decoded.key);
        check_every_corruption(handle_there_and_back, bytes, (size_t)size);
        for (size_t capacity = 0; capacity < (size_t)size; capacity++)
            CHECK_INT(rt_handle_encode(&handles[index], bytes, capacity), RT_E_INVALID);
    }
}

static void a_range_outside_its_registration_is_refused_even_when_it_overflows(void)
{
    static const struct {
        uint64_t offset, size, registration;
        bool inside;
    } cases[] = {
        {0, 0, 0, true},
        {0, 1, 0, false},
        {4096, 0, 4096, true},
        {4097, 0, 4096, false},
        {1, 4096, 4096, false},
        {UINT64_MAX, 1, 4096, false},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, false},
        {2, UINT64_MAX, 4096, false},
        {1, UINT64_MAX - 1, UINT64_MAX, true},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        uint8_t bytes[RT_HANDLE_SIZE_MAX];
        rt_handle handle = handle_of(3, 4), decoded;
        rt_detail detail;
        int64_t size = rt_handle_encode(&handle, bytes, sizeof bytes);
        const uint64_t fields[] = {cases[index].offset, cases[index].size, cases[index].registration};
        const size_t places[] = {22, 30, 42}; /* behind version 2, name 1 + 3, id 16; rights 4 before the last */
        for (size_t field = 0; field < 3; field++) {
            for (size_t byte = 0; byte < 8; byte++)
                bytes[places[field] + byte] = (uint8_t)(fields[field] >> (8 * byte));
        }
        CHECK_INT(rt_handle_decode(bytes, (size_t)size, &decoded, &detail), cases[index].inside ? RT_OK : RT_E_PROTOCOL);
        CHECK(cases[index].inside || strstr(detail.text, "lies outside its region of") != NULL);
        handle.offset = cases[index].offset;
        handle.size = cases[index].size;
        handle.registration_size = cases[index].registration;
        CHECK_INT(rt_handle_encode(&handle, bytes, sizeof bytes) > 0, cases[index].inside);
    }
}

static void handles_that_break_the_form_are_named_or_refused(void)
{
    uint8_t bytes[RT_HANDLE_SIZE_MAX];
    rt_detail detail;
    rt_handle handle = handle_of(3, 4), decoded = {.rights = 77};
    size_t size = (size_t)rt_handle_encode(&handle, bytes, sizeof bytes);
    bytes[0] = 2;
    CHECK_INT(rt_handle_decode(bytes, size, &decoded, &detail), RT_E_VERSION);
    CHECK_HAS(detail.text, "the handle has version 2 and this end reads version 1");
    bytes[0] = 1;
    bytes[3] = '\x1b';
    CHECK_INT(rt_handle_decode(bytes, size, &decoded, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "names no provider");
    bytes[3] = 'p';
    bytes[38] = 8; /* rights */
    CHECK_INT(rt_handle_decode(bytes, size, &decoded, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "unknown rights 0x8");
    CHECK_INT(rt_handle_decode(bytes, size - 1, &decoded, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "these 54 bytes are not a handle: they are cut short or a length inside is wrong");
    CHECK_INT(rt_handle_decode(NULL, 0, &decoded, &detail), RT_E_PROTOCOL);
    CHECK_INT(decoded.rights, 77); /* set only on success */

    rt_handle nameless = handle_of(0, 4), spaced = handle_of(3, 4), keyed = handle_of(3, 4), allowed = handle_of(3, 4);
    spaced.provider[1] = ' ';
    keyed.key_size = RT_HANDLE_KEY_MAX + 1;
    allowed.rights = 1;
    CHECK_INT(rt_handle_encode(&nameless, bytes, sizeof bytes), RT_E_INVALID);
    CHECK_INT(rt_handle_encode(&spaced, bytes, sizeof bytes), RT_E_INVALID);
    CHECK_INT(rt_handle_encode(&keyed, bytes, sizeof bytes), RT_E_INVALID);
    CHECK_INT(rt_handle_encode(&allowed, bytes, sizeof bytes), RT_E_INVALID);
}

/* The last that is taken and the first that is not. */
static void messages_are_taken_up_to_their_bounds(void)
{
    static const struct {
        char character;
        bool printable, control;
    } characters[] = {{0x1f, false, true}, {0x20, false, false}, {0x21, true, false},
                      {0x7e, true, false}, {0x7f, false, true},  {(char)0x80, false, false}};
    uint8_t bytes[RT_RPC_MESSAGE_MAX + 8] = {0};
    for (size_t index = 0; index < sizeof characters / sizeof characters[0]; index++) {
        for (size_t at = 0; at < 3; at += 2) {
            rt_handle handle = handle_of(3, 4), decoded;
            size_t size = (size_t)rt_handle_encode(&handle, bytes, sizeof bytes);
            bytes[3 + at] = (uint8_t)characters[index].character;
            CHECK_INT(rt_handle_decode(bytes, size, &decoded, NULL), characters[index].printable ? RT_OK : RT_E_PROTOCOL);
            handle.provider[at] = characters[index].character;
            CHECK_INT(rt_handle_encode(&handle, bytes, sizeof bytes) > 0, characters[index].printable);
            rt_rpc_message lookup = lookup_of(3), found;
            size = (size_t)rt_rpc_encode(&lookup, bytes, sizeof bytes);
            bytes[9 + at] = (uint8_t)characters[index].character;
            CHECK_INT(rt_rpc_decode(bytes, size, &found, NULL), characters[index].control ? RT_E_PROTOCOL : RT_OK);
            lookup.name[at] = characters[index].character;
            CHECK_INT(rt_rpc_encode(&lookup, bytes, sizeof bytes) > 0, !characters[index].control);
            CHECK_INT(rt_rpc_check_name(lookup.name, NULL), characters[index].control ? RT_E_INVALID : RT_OK);
        }
    }
    for (uint32_t right = 0; right < 32; right++) {
        rt_handle handle = handle_of(3, RT_HANDLE_KEY_MAX);
        handle.rights = 1u << right;
        CHECK_INT(rt_handle_encode(&handle, bytes, sizeof bytes) > 0, ((1u << right) & RT_HANDLE_RIGHTS) != 0);
    }
    rt_rpc_message long_name = lookup_of(RT_NAME_MAX), large = found_of(RT_HANDLE_SIZE_MAX), decoded;
    rt_detail detail;
    long_name.name_size = RT_NAME_MAX + 1;
    large.handle_size = RT_HANDLE_SIZE_MAX + 1;
    CHECK_INT(rt_rpc_encode(&long_name, bytes, sizeof bytes), RT_E_INVALID);
    CHECK_INT(rt_rpc_encode(&large, bytes, sizeof bytes), RT_E_INVALID);
    memset(bytes, 'x', sizeof bytes); /* the same made by hand */
    memcpy(bytes, (const uint8_t[]){RT_RPC_FOUND, 0, 6, 0, RT_HANDLE_SIZE_MAX + 1}, 5);
    CHECK_INT(rt_rpc_decode(bytes, 5 + RT_HANDLE_SIZE_MAX + 1, &decoded, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "FOUND 6 has a handle of 161 bytes, 1 to 160 are allowed");
    memcpy(bytes, (const uint8_t[]){RT_RPC_LOOKUP, 0, 6, 0, 0, 0, 0, 0, RT_NAME_MAX + 1}, 9);
    CHECK_INT(rt_rpc_decode(bytes, 9 + RT_NAME_MAX + 1, &decoded, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "LOOKUP 6 has a name of 129 bytes");
}

static const check_test tests[] = {
    CHECK_TEST(every_rpc_message_survives_the_way_and_no_corruption_is_taken_for_one),
    CHECK_TEST(a_lookup_is_laid_out_as_the_protocol_says),
    CHECK_TEST(rpc_messages_that_break_the_form_are_named_or_refused),
    CHECK_TEST(a_name_has_1_to_128_bytes_without_control_characters),
    CHECK_TEST(every_handle_survives_the_way_and_no_corruption_is_taken_for_one),
    CHECK_TEST(a_range_outside_its_registration_is_refused_even_when_it_overflows),
    CHECK_TEST(handles_that_break_the_form_are_named_or_refused),
    CHECK_TEST(messages_are_taken_up_to_their_bounds),
};
CHECK_MAIN(tests)
