/* test_edge_crc32c.c: CRC-32C against the vectors of RFC 3720, and its three ways against each other. Needs csrc/proto/crc32c.c. */
#include "check.h"
#include "proto/crc32c.h"

static void the_vectors_of_rfc_3720_come_out(void)
{
    static const uint8_t read_command[48] =
        {0x01, 0xc0, [16] = 0x14, [22] = 0x04, [27] = 0x14, [31] = 0x18, [32] = 0x28, [40] = 0x02};
    uint8_t bytes[32];
    memset(bytes, 0, sizeof bytes);
    CHECK_INT(rt_crc32c(0, bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, sizeof bytes);
    CHECK_INT(rt_crc32c(0, bytes, 32), 0x62a8ab43);
    for (size_t at = 0; at < 32; at++)
        bytes[at] = (uint8_t)at;
    CHECK_INT(rt_crc32c(0, bytes, 32), 0x46dd794e);
    for (size_t at = 0; at < 32; at++)
        bytes[at] = (uint8_t)(31 - at);
    CHECK_INT(rt_crc32c(0, bytes, 32), 0x113fdb5c);
    CHECK_INT(rt_crc32c(0, read_command, 48), 0xd9963a56);
    CHECK_INT(rt_crc32c_by_table(0, read_command, 48), 0xd9963a56);
    CHECK_INT(rt_crc32c(0, "123456789", 9), 0xe3069283);
    CHECK_INT(rt_crc32c(0, NULL, 0), 0);
}

static uint8_t noise[3 * 3 * 4096 + 64];

static void make_noise(void)
{
    uint32_t state = 1;
    for (size_t at = 0; at < sizeof noise; at++) {
        state = state * 1664525u + 1013904223u;
        noise[at] = (uint8_t)(state >> 24);
    }
}

static void the_instruction_and_the_tables_agree_at_every_size_and_alignment(void)
{
    make_noise();
    for (size_t start = 0; start < 9; start++) {
        for (size_t size = 0; size < 80; size++)
            CHECK_INT(rt_crc32c(7, noise + start, size), rt_crc32c_by_table(7, noise + start, size));
        for (size_t block = 1; block <= 3; block++) { /* around one, two and three rounds of three streams */
            for (size_t size = block * 12288 - 10; size <= block * 12288 + 10; size++)
                CHECK_INT(rt_crc32c(7, noise + start, size), rt_crc32c_by_table(7, noise + start, size));
        }
    }
}

static void a_crc_goes_on_where_it_was_left(void)
{
    make_noise();
    uint32_t whole = rt_crc32c(0, noise, sizeof noise);
    for (size_t cut = 0; cut < sizeof noise; cut += 997)
        CHECK_INT(rt_crc32c(rt_crc32c(0, noise, cut), noise + cut, sizeof noise - cut), whole);
}

static void every_single_bit_of_a_page_changes_it(void)
{
    make_noise();
    uint32_t whole = rt_crc32c(0, noise, 512);
    for (size_t bit = 0; bit < 8 * 512; bit++) {
        noise[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(rt_crc32c(0, noise, 512) != whole);
        noise[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static const check_test tests[] = {
    CHECK_TEST(the_vectors_of_rfc_3720_come_out),
    CHECK_TEST(the_instruction_and_the_tables_agree_at_every_size_and_alignment),
    CHECK_TEST(a_crc_goes_on_where_it_was_left),
    CHECK_TEST(every_single_bit_of_a_page_changes_it),
};
CHECK_MAIN(tests)
