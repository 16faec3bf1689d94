/* test_proto.c: digests against published vectors, and frames against every small corruption. Needs all of csrc/proto,
 * csrc/base/status.c. */
#include "check.h"
#include "proto/frame.h"
#include "proto/limits.h"
#include "proto/sha256.h"

static void check_hex(const uint8_t digest[RT_SHA256_SIZE], const char *wanted)
{
    char hex[2 * RT_SHA256_SIZE + 1];
    for (size_t index = 0; index < RT_SHA256_SIZE; index++)
        snprintf(hex + 2 * index, 3, "%02x", (unsigned)digest[index]);
    CHECK_STR(hex, wanted);
}

/* ---- digests ---- */

static void sha256_of(const char *text, const char *wanted)
{
    uint8_t digest[RT_SHA256_SIZE];
    rt_sha256((const uint8_t *)text, strlen(text), digest);
    check_hex(digest, wanted);
}

static void sha256_gives_the_digests_of_fips_180_4(void)
{
    sha256_of("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha256_of("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
              "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    sha256_of("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
              "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
}

static void sha256_of_a_million_letters_does_not_depend_on_how_they_are_cut(void)
{
    static uint8_t letters[1000];
    const size_t pieces[] = {1, 63, 64, 65, 1000};
    memset(letters, 'a', sizeof letters);
    for (size_t index = 0; index < sizeof pieces / sizeof pieces[0]; index++) {
        uint8_t digest[RT_SHA256_SIZE];
        rt_sha256_state state;
        rt_sha256_begin(&state);
        for (size_t done = 0; done < 1000000;) {
            size_t size = 1000000 - done < pieces[index] ? 1000000 - done : pieces[index];
            rt_sha256_add(&state, letters, size);
            done += size;
        }
        rt_sha256_end(&state, digest);
        check_hex(digest, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
}

/* The wanted value was made with Python's hashlib and hmac: one digest over those of every length from 0 to 299. */
static void digests_of_every_length_agree_with_another_maker(void)
{
    uint8_t bytes[300], key[300], digest[RT_SHA256_SIZE];
    rt_sha256_state plain, keyed;
    rt_sha256_begin(&plain);
    rt_sha256_begin(&keyed);
    for (size_t size = 0; size < sizeof bytes; size++) {
        for (size_t index = 0; index < size; index++) {
            bytes[index] = (uint8_t)(index * 7 + size);
            key[index] = (uint8_t)(index * 5 + size);
        }
        rt_sha256(bytes, size, digest);
        rt_sha256_add(&plain, digest, sizeof digest);
        rt_hmac_sha256(key, size, bytes, size, digest);
        rt_sha256_add(&keyed, digest, sizeof digest);
    }
    rt_sha256_end(&plain, digest);
    check_hex(digest, "d5238871a46ac4a1a75ac3fb19d645b0b3b9e5f35f5f720e2b240d605c6b694e");
    rt_sha256_end(&keyed, digest);
    check_hex(digest, "3a3a0b07e4304548fd699c010024c92aa783e412d27312b912c37b5eec588eca");
}

static void hmac_gives_the_digests_of_rfc_4231(void)
{
    static const uint8_t counted[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25};
    uint8_t key[131], data[50], digest[RT_SHA256_SIZE];
    const struct {
        uint8_t key_byte;
        const uint8_t *key;
        size_t key_size;
        uint8_t data_byte;
        const char *text; /* NULL: 50 times data_byte */
        const char *wanted;
    } cases[] = {
        {0x0b, NULL, 20, 0, "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
        {0, (const uint8_t *)"Jefe", 4, 0, "what do ya want for nothing?",
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
        {0xaa, NULL, 20, 0xdd, NULL, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
        {0, counted, 25, 0xcd, NULL, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"},
        {0x0c, NULL, 20, 0, "Test With Truncation", "a3b6167473100ee06e0c796c2955552bfa6f7c0a6a8aef8b93f860aab0cd20c5"},
        {0xaa, NULL, 131, 0, "Test Using Larger Than Block-Size Key - Hash Key First",
         "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
        {0xaa, NULL, 131, 0,
         "This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before "
         "being used by the HMAC algorithm.",
         "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"},
    };
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        memset(key, cases[index].key_byte, sizeof key);
        memset(data, cases[index].data_byte, sizeof data);
        rt_hmac_sha256(cases[index].key != NULL ? cases[index].key : key, cases[index].key_size,
                       cases[index].text != NULL ? (const uint8_t *)cases[index].text : data,
                       cases[index].text != NULL ? strlen(cases[index].text) : sizeof data, digest);
        check_hex(digest, cases[index].wanted);
    }
}

static void equality_sees_a_difference_in_any_byte(void)
{
    uint8_t left[32] = {0}, right[32] = {0};
    CHECK(rt_equal_constant_time(left, right, sizeof left));
    CHECK(rt_equal_constant_time(left, right, 0));
    for (size_t at = 0; at < sizeof left; at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            right[at] = (uint8_t)(1u << bit);
            CHECK(!rt_equal_constant_time(left, right, sizeof left));
            CHECK(rt_equal_constant_time(left, right, at));
        }
        right[at] = 0;
    }
}

/* ---- frames ---- */

static rt_frame_lane lane_with(uint8_t key)
{
    rt_frame_lane lane = {.counter = 0};
    memset(lane.key, key, sizeof lane.key);
    return lane;
}

static int open_frame(rt_frame_lane *lane, const uint8_t *bytes, size_t size, size_t *payload_size_out)
{
    uint16_t kind = 0;
    const uint8_t *payload = NULL;
    size_t frame_size = 0;
    rt_detail detail;
    rt_detail_clear(&detail);
    int status = rt_frame_open(lane, bytes, size, &kind, &payload, payload_size_out, &frame_size, &detail);
    CHECK_INT(detail.status, status == RT_E_PROTOCOL ? RT_E_PROTOCOL : RT_OK);
    CHECK(status != RT_OK || frame_size <= size);
    return status;
}

static void frames_open_in_the_order_in_which_they_were_sealed(void)
{
    static uint8_t payload[RT_FRAME_PAYLOAD_MAX], bytes[5 * RT_FRAME_SIZE_MAX];
    const size_t sizes[] = {0, 1, 40, 41, RT_FRAME_PAYLOAD_MAX};
    rt_frame_lane sender = lane_with(7), receiver = lane_with(7);
    size_t end = 0, at = 0;
    for (size_t index = 0; index < 5; index++) {
        memset(payload, (int)index + 1, sizes[index]);
        int64_t sealed =
            rt_frame_seal(&sender, (uint16_t)(1 + index % 4), payload, sizes[index], bytes + end, sizeof bytes - end);
        CHECK_INT(sealed, RT_FRAME_HEADER_SIZE + sizes[index] + RT_FRAME_TAG_SIZE);
        end += (size_t)sealed;
    }
    for (size_t index = 0; index < 5; index++) {
        uint16_t kind = 0;
        const uint8_t *opened = NULL;
        size_t opened_size = 0, frame_size = 0;
        CHECK_INT(rt_frame_open(&receiver, bytes + at, end - at, &kind, &opened, &opened_size, &frame_size, NULL), RT_OK);
        CHECK_INT(kind, 1 + index % 4);
        CHECK_INT(opened_size, sizes[index]);
        memset(payload, (int)index + 1, sizes[index]);
        CHECK_BYTES(opened, payload, opened_size);
        at += frame_size;
    }
    CHECK_INT(at, end);
}

static void a_frame_that_cannot_be_sealed_leaves_its_lane_alone(void)
{
    static uint8_t payload[RT_FRAME_PAYLOAD_MAX + 1], bytes[RT_FRAME_SIZE_MAX];
    rt_frame_lane lane = lane_with(7);
    CHECK_INT(rt_frame_seal(&lane, 0, payload, 1, bytes, sizeof bytes), RT_E_INVALID);
    CHECK_INT(rt_frame_seal(&lane, 5, payload, 1, bytes, sizeof bytes), RT_E_INVALID);
    CHECK_INT(rt_frame_seal(&lane, 1, payload, sizeof payload, bytes, sizeof bytes), RT_E_INVALID);
    CHECK_INT(rt_frame_seal(&lane, 1, payload, 1, bytes, 24), RT_E_INVALID);
    CHECK_INT(lane.counter, 0);
    CHECK_INT(rt_frame_seal(&lane, 1, payload, 1, bytes, 25), 25);
}

static void a_frame_with_any_byte_changed_does_not_open(void)
{
    static const uint8_t payload[] = "what an OFFER says";
    uint8_t bytes[128];
    rt_frame_lane sender = lane_with(7);
    size_t size = (size_t)rt_frame_seal(&sender, RT_FRAME_OFFER, payload, sizeof payload, bytes, sizeof bytes), opened;
    for (size_t at = 0; at < size; at++) {
        for (unsigned change = 1; change < 256; change++) {
            rt_frame_lane receiver = lane_with(7);
            bytes[at] ^= (uint8_t)change;
            int status = open_frame(&receiver, bytes, size, &opened);
            CHECK(status == RT_E_PROTOCOL || (status == RT_E_AGAIN && at < 4)); /* a larger size waits for more */
            CHECK_INT(receiver.counter, 0);
            bytes[at] ^= (uint8_t)change;
        }
    }
    for (size_t shorter = 0; shorter < size; shorter++) {
        rt_frame_lane receiver = lane_with(7);
        CHECK_INT(open_frame(&receiver, bytes, shorter, &opened), RT_E_AGAIN);
    }
    rt_frame_lane receiver = lane_with(7);
    CHECK_INT(open_frame(&receiver, bytes, size, &opened), RT_OK);
    CHECK_INT(opened, sizeof payload);
}

static void a_frame_opens_once_with_its_own_key_only(void)
{
    uint8_t bytes[64];
    size_t opened;
    rt_frame_lane sender = lane_with(7), receiver = lane_with(7), other = lane_with(8), late = lane_with(7);
    size_t size = (size_t)rt_frame_seal(&sender, RT_FRAME_READY, NULL, 0, bytes, sizeof bytes);
    late.counter = 1;
    CHECK_INT(open_frame(&other, bytes, size, &opened), RT_E_PROTOCOL);
    CHECK_INT(open_frame(&late, bytes, size, &opened), RT_E_PROTOCOL);
    CHECK_INT(open_frame(&receiver, bytes, size, &opened), RT_OK);
    CHECK_INT(open_frame(&receiver, bytes, size, &opened), RT_E_PROTOCOL);
}

/* A frame made by hand from PROTOCOL.md, with what the sealing end would never put into it. */
static void a_frame_is_what_the_protocol_says_and_its_padding_is_zero(void)
{
    static const uint8_t tagged[] = {5, 0, 0, 0, 0, 0, 0, 0, /* counter */ 2, 0, 0, 0, 3, 0, 0, 0, /* header */ 'h', 'i'};
    for (uint8_t padding = 0; padding < 2; padding++) {
        uint8_t bytes[sizeof tagged], digest[RT_SHA256_SIZE], frame[sizeof tagged - 8 + RT_FRAME_TAG_SIZE], sealed[sizeof frame];
        rt_frame_lane sender = lane_with(7), receiver = lane_with(7);
        sender.counter = receiver.counter = 5;
        memcpy(bytes, tagged, sizeof tagged);
        bytes[15] = padding;
        rt_hmac_sha256(sender.key, sizeof sender.key, bytes, sizeof bytes, digest);
        memcpy(frame, bytes + 8, sizeof bytes - 8);
        memcpy(frame + sizeof bytes - 8, digest, RT_FRAME_TAG_SIZE);
        size_t opened;
        CHECK_INT(open_frame(&receiver, frame, sizeof frame, &opened), padding == 0 ? RT_OK : RT_E_PROTOCOL);
        CHECK_INT(rt_frame_seal(&sender, RT_FRAME_BYE, (const uint8_t *)"hi", 2, sealed, sizeof sealed), sizeof frame);
        CHECK_INT(memcmp(sealed, frame, sizeof frame) == 0, padding == 0);
    }
}

static void cleaned_text_is_printable_and_terminated(void)
{
    char text[8];
    rt_text_clean((const uint8_t *)"a\x1b[\n\x7f\x80z~!", 9, text, sizeof text);
    CHECK_STR(text, "a?[???z");
    rt_text_clean((const uint8_t *)"ab", 2, text, 1);
    CHECK_STR(text, "");
    rt_text_clean(NULL, 0, text, sizeof text);
    CHECK_STR(text, "");
}

static const check_test tests[] = {
    CHECK_TEST(sha256_gives_the_digests_of_fips_180_4),
    CHECK_TEST(sha256_of_a_million_letters_does_not_depend_on_how_they_are_cut),
    CHECK_TEST(digests_of_every_length_agree_with_another_maker),
    CHECK_TEST(hmac_gives_the_digests_of_rfc_4231),
    CHECK_TEST(equality_sees_a_difference_in_any_byte),
    CHECK_TEST(frames_open_in_the_order_in_which_they_were_sealed),
    CHECK_TEST(a_frame_that_cannot_be_sealed_leaves_its_lane_alone),
    CHECK_TEST(a_frame_with_any_byte_changed_does_not_open),
    CHECK_TEST(a_frame_opens_once_with_its_own_key_only),
    CHECK_TEST(a_frame_is_what_the_protocol_says_and_its_padding_is_zero),
    CHECK_TEST(cleaned_text_is_printable_and_terminated),
};
CHECK_MAIN(tests)
