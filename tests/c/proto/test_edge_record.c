/* test_edge_record.c: the metadata record there and back, every single-byte change of it, and what an edge does not allow. Needs
 * csrc/proto/edge_record.c, edge_layout.c, crc32c.c, csrc/base/status.c. */
#include "check.h"
#include "proto/crc32c.h"
#include "proto/dtype.h"
#include "proto/edge_record.h"

static const uint64_t key_sizes[] = {1 << 20, 4096};

static rt_edge_record record_of(bool eager, bool verified)
{
    rt_edge_record record = {.shape = {.dtype = RT_DTYPE_BFLOAT16, .rank = 3, .dims = {2, 3, 5}},
                             .sequence = 0x0102030405060708,
                             .size = 60,
                             .eager = eager,
                             .verified = verified,
                             .offset = eager ? 0 : 4096 - 60,
                             .key = eager ? 0 : 1,
                             .payload_crc = verified ? 0xabcdef01 : 0};
    return record;
}

static rt_edge_expected expected_of(bool verify)
{
    return (rt_edge_expected){.dtype = RT_DTYPE_ANY,
                              .rank = RT_EDGE_RANK_ANY,
                              .verify = verify,
                              .sequence = 0x0102030405060708,
                              .eager_size = 256,
                              .key_count = 2,
                              .key_sizes = key_sizes};
}

static void a_record_is_laid_out_as_the_protocol_says(void)
{
    static const uint8_t wanted[RT_EDGE_RECORD_SIZE] = {
        1, 0,  RT_DTYPE_BFLOAT16, 3,    0,        0,        0,        0,        8, 7, 6, 5, 4, 3, 2,
        1, 60, [24] = 0xc4,       0x0f, [32] = 1, [64] = 2, [72] = 3, [80] = 5,
    };
    rt_edge_record record = record_of(false, false);
    uint8_t bytes[RT_EDGE_RECORD_SIZE];
    CHECK_INT(rt_edge_record_encode(&record, bytes, NULL), RT_OK);
    CHECK_BYTES(bytes, wanted, sizeof wanted);
}

static void check_equal(const rt_edge_record *got, const rt_edge_record *wanted)
{
    CHECK_INT(got->shape.dtype, wanted->shape.dtype);
    CHECK_INT(got->shape.rank, wanted->shape.rank);
    CHECK_BYTES(got->shape.dims, wanted->shape.dims, sizeof wanted->shape.dims);
    CHECK_INT(got->sequence, wanted->sequence);
    CHECK_INT(got->size, wanted->size);
    CHECK_INT(got->eager, wanted->eager);
    CHECK_INT(got->verified, wanted->verified);
    CHECK_INT(got->offset, wanted->offset);
    CHECK_INT(got->key, wanted->key);
    CHECK_INT(got->payload_crc, wanted->payload_crc);
}

static void every_record_survives_the_way_and_a_changed_one_is_refused_or_another_good_one(void)
{
    for (unsigned each = 0; each < 4; each++) {
        rt_edge_record record = record_of((each & 1) != 0, (each & 2) != 0), decoded;
        rt_edge_expected expected = expected_of(record.verified);
        uint8_t bytes[RT_EDGE_RECORD_SIZE], again[RT_EDGE_RECORD_SIZE];
        CHECK_INT(rt_edge_record_encode(&record, bytes, NULL), RT_OK);
        CHECK_INT(rt_edge_record_decode(bytes, &expected, &decoded, NULL), RT_OK);
        check_equal(&decoded, &record);
        for (size_t at = 0; at < sizeof bytes; at++) {
            for (unsigned change = 1; change < 256; change++) {
                rt_detail detail;
                rt_detail_clear(&detail);
                bytes[at] ^= (uint8_t)change;
                int status = rt_edge_record_decode(bytes, &expected, &decoded, &detail);
                CHECK_INT(detail.status, status);
                CHECK(!record.verified || status == RT_E_CORRUPT);
                CHECK(status == RT_OK || status == RT_E_CORRUPT || status == RT_E_PROTOCOL || (status == RT_E_VERSION && at < 2));
                if (status == RT_OK) {
                    CHECK_INT(rt_edge_record_encode(&decoded, again, NULL), RT_OK);
                    CHECK_BYTES(again, bytes, sizeof bytes);
                }
                bytes[at] ^= (uint8_t)change;
            }
        }
    }
}

static void a_record_that_the_edge_does_not_allow_is_named_and_refused(void)
{
    rt_edge_record record = record_of(false, false), eager = record_of(true, false), decoded = {.size = 77};
    uint8_t bytes[RT_EDGE_RECORD_SIZE], eager_bytes[RT_EDGE_RECORD_SIZE];
    rt_detail detail;
    CHECK_INT(rt_edge_record_encode(&record, bytes, NULL), RT_OK);
    CHECK_INT(rt_edge_record_encode(&eager, eager_bytes, NULL), RT_OK);
    const struct {
        rt_edge_expected expected;
        const uint8_t *bytes;
        const char *words;
    } wrong[] = {
        {{.dtype = RT_DTYPE_FLOAT16, .rank = 3, .sequence = record.sequence}, bytes, "dtype bfloat16 over an edge of float16"},
        {{.rank = 2, .sequence = record.sequence}, bytes, "3 dimensions over an edge of 2"},
        {{.rank = 3, .sequence = 5}, bytes, "and its flag 5"},
        {{.rank = 3, .sequence = record.sequence, .verify = true}, bytes, "does not fit its bytes"},
        {{.rank = 3, .sequence = record.sequence, .key_count = 1, .key_sizes = key_sizes},
         bytes,
         "registration 1 and 1 were announced"},
        {{.rank = 3, .sequence = record.sequence, .key_count = 2, .key_sizes = (const uint64_t[]){9, 4095}},
         bytes,
         "outside its registration of 4095"},
        {{.rank = 3, .sequence = record.sequence, .key_count = 2, .key_sizes = (const uint64_t[]){9, 59}},
         bytes,
         "outside its registration of 59"},
        {{.rank = 3, .sequence = record.sequence, .eager_size = 59},
         eager_bytes,
         "60 bytes of tensor where the edge has room for 59"},
    };
    for (size_t index = 0; index < sizeof wrong / sizeof wrong[0]; index++) {
        int status = rt_edge_record_decode(wrong[index].bytes, &wrong[index].expected, &decoded, &detail);
        CHECK_INT(status, wrong[index].expected.verify ? RT_E_CORRUPT : RT_E_PROTOCOL);
        CHECK_HAS(detail.text, wrong[index].words);
        CHECK_INT(decoded.size, 77); /* set only on success */
    }
    record.verified = true;
    rt_edge_expected unverified = expected_of(false);
    CHECK_INT(rt_edge_record_encode(&record, bytes, NULL), RT_OK);
    CHECK_INT(rt_edge_record_decode(bytes, &unverified, &decoded, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "with a CRC on an edge that goes without");
}

/* Both ends hold the same rules: the encoder refuses, and the same bytes made by hand are refused by the decoder. */
static void records_that_no_tensor_has_are_neither_made_nor_taken(void)
{
    static const struct {
        size_t at;
        uint8_t byte;
        const char *words;
    } wrong[] = {
        {2, 0, "dtype code 0"},    {2, 22, "dtype code 22"},          {3, 17, "17 dimensions"},    {3, 2, "has a dimension 2"},
        {16, 61, "says 61 bytes"}, {71, 0x80, "which no tensor has"}, {32, 64, "registration 64"}, {36, 1, "although it says"},
        {4, 1, "lies elsewhere"},  {31, 0xff, "lies outside"},        {4, 4, "zero belongs"},      {50, 1, "zero belongs"},
        {40, 1, "zero belongs"},   {64, 0, "says 60 bytes"},
    };
    rt_edge_record record = record_of(false, false), decoded;
    rt_edge_expected expected = expected_of(false);
    for (size_t index = 0; index < sizeof wrong / sizeof wrong[0]; index++) {
        uint8_t bytes[RT_EDGE_RECORD_SIZE];
        rt_detail detail;
        CHECK_INT(rt_edge_record_encode(&record, bytes, NULL), RT_OK);
        bytes[wrong[index].at] = wrong[index].byte;
        CHECK_INT(rt_edge_record_decode(bytes, &expected, &decoded, &detail), RT_E_PROTOCOL);
        CHECK_INT(detail.status, RT_E_PROTOCOL);
        CHECK_HAS(detail.text, wrong[index].words);
    }
    rt_edge_record empty = {.shape = {.dtype = RT_DTYPE_INT8, .rank = 1}, .sequence = 1}, many = record, late = record,
                   none = record;
    uint8_t bytes[RT_EDGE_RECORD_SIZE];
    rt_detail detail;
    CHECK_INT(rt_edge_record_encode(&empty, bytes, &detail), RT_E_INVALID); /* an empty tensor is eager */
    empty.eager = true;
    CHECK_INT(rt_edge_record_encode(&empty, bytes, NULL), RT_OK);
    many.shape.rank = RT_EDGE_RANK_MAX + 1;
    CHECK_INT(rt_edge_record_encode(&many, bytes, &detail), RT_E_INVALID);
    CHECK_INT(detail.status, RT_E_INVALID);
    late.offset = UINT64_MAX - 59;
    CHECK_INT(rt_edge_record_encode(&late, bytes, NULL), RT_E_INVALID);
    none.sequence = 0;
    CHECK_INT(rt_edge_record_encode(&none, bytes, NULL), RT_E_INVALID);
}

/* Field by field of a record that is good otherwise: the last that is made and the first that is not. */
static void records_are_made_and_taken_up_to_their_bounds(void)
{
    const uint64_t sizes[RT_EDGE_KEYS_MAX] = {[0] = 60, [63] = UINT64_MAX};
    rt_edge_record cases[12];
    static const bool good[12] = {true, false, true, false, false, false, true, true, false, true, false, true};
    for (size_t index = 0; index < 12; index++)
        cases[index] = record_of(index < 6, index % 2 == 0);
    for (size_t index = 0; index < 12; index++)
        cases[index].payload_crc = 0;
    cases[1].offset = 1; /* eager: nothing lies elsewhere */
    cases[3].key = 1;
    cases[4].sequence = 0;
    cases[5].payload_crc = 1;
    cases[6].key = 63, cases[6].offset = UINT64_MAX - 60;
    cases[7].key = 0, cases[7].offset = 0;
    cases[8].key = 63, cases[8].offset = UINT64_MAX - 59;
    cases[9].key = 63;
    cases[10].key = 64;
    cases[11].key = 63, cases[11].offset = UINT64_MAX - 61;
    for (size_t index = 0; index < 12; index++) {
        uint8_t bytes[RT_EDGE_RECORD_SIZE];
        rt_edge_record decoded;
        rt_edge_expected expected = {.rank = RT_EDGE_RANK_ANY,
                                     .sequence = cases[index].sequence,
                                     .verify = cases[index].verified,
                                     .eager_size = 60,
                                     .key_count = RT_EDGE_KEYS_MAX,
                                     .key_sizes = sizes};
        int status = rt_edge_record_encode(&cases[index], bytes, NULL);
        if ((status == RT_OK) != good[index])
            printf("case %zu\n", index);
        CHECK_INT(status, good[index] ? RT_OK : RT_E_INVALID);
        if (!good[index])
            continue;
        CHECK_INT(rt_edge_record_decode(bytes, &expected, &decoded, NULL), RT_OK);
        check_equal(&decoded, &cases[index]);
    }
    rt_edge_record last = record_of(false, false), decoded;
    rt_edge_expected expected = expected_of(false);
    uint8_t bytes[RT_EDGE_RECORD_SIZE];
    const uint64_t rooms[] = {60, 4096};
    expected.key_sizes = rooms;
    last.key = 0;
    for (last.offset = 0; last.offset < 2; last.offset++) { /* as large as its registration, and one further */
        CHECK_INT(rt_edge_record_encode(&last, bytes, NULL), RT_OK);
        CHECK_INT(rt_edge_record_decode(bytes, &expected, &decoded, NULL), last.offset == 0 ? RT_OK : RT_E_PROTOCOL);
    }
}

static void yesterdays_bytes_do_not_fit_todays_sequence(void)
{
    uint32_t bytes = rt_crc32c(0, "tensor", 6);
    CHECK(rt_edge_crc(bytes, 7) != rt_edge_crc(bytes, 8));
    CHECK_INT(rt_edge_crc(bytes, 7), rt_crc32c(0, "tensor\7\0\0\0\0\0\0\0", 14));
}

static void an_eager_tensor_ends_where_its_record_begins(void)
{
    for (uint64_t area = 0; area <= 300; area++) {
        CHECK_INT(rt_edge_record_slot_size(area), rt_edge_record_offset(area) + RT_EDGE_RECORD_SIZE);
        CHECK(rt_edge_record_offset(area) % 64 == 0 && rt_edge_record_offset(area) >= area);
        for (uint64_t size = 0; size <= area; size++) {
            uint64_t start = rt_edge_eager_offset(area, size);
            CHECK(start % 64 == 0 && start + size <= rt_edge_record_offset(area) &&
                  start + size + 64 > rt_edge_record_offset(area));
        }
    }
}

static const check_test tests[] = {
    CHECK_TEST(a_record_is_laid_out_as_the_protocol_says),
    CHECK_TEST(every_record_survives_the_way_and_a_changed_one_is_refused_or_another_good_one),
    CHECK_TEST(a_record_that_the_edge_does_not_allow_is_named_and_refused),
    CHECK_TEST(records_that_no_tensor_has_are_neither_made_nor_taken),
    CHECK_TEST(records_are_made_and_taken_up_to_their_bounds),
    CHECK_TEST(yesterdays_bytes_do_not_fit_todays_sequence),
    CHECK_TEST(an_eager_tensor_ends_where_its_record_begins),
};
CHECK_MAIN(tests)
