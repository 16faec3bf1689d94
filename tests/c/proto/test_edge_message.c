/* test_edge_message.c: the messages that open an edge there and back, every small corruption, and who is let in. Needs
 * csrc/proto/edge_*.c, frame.c, sha256.c, csrc/base/status.c. */
#include "check.h"
#include "proto/dtype.h"
#include "proto/edge_flow.h"
#include "proto/edge_mode.h"
#include "proto/edge_open.h"

enum { TAIL = 1 << RT_EDGE_TAIL, CHAINED = 1 << RT_EDGE_CHAINED, IMMEDIATE = 1 << RT_EDGE_IMMEDIATE };

static rt_edge_bytes handle_of(uint8_t size)
{
    rt_edge_bytes handle = {.size = size};
    memset(handle.bytes, 0x40 + size, size);
    return handle;
}

static rt_edge_message open_of(enum rt_edge_kind kind, uint8_t rank, size_t name_size, uint8_t handle_size)
{
    rt_edge_message open = {.kind = RT_EDGE_OPEN_EDGE,
                            .request = 0xbeef,
                            .edge_kind = (uint8_t)kind,
                            .flow = RT_EDGE_FLOW_CREDIT,
                            .modes = CHAINED | IMMEDIATE,
                            .stripes = 4,
                            .shape = {.dtype = RT_DTYPE_FLOAT32, .rank = rank},
                            .name_size = (uint8_t)name_size,
                            .wait_ms = 0x01020304,
                            .credit = handle_of(handle_size)};
    memset(open.name, 'n', name_size);
    for (size_t index = 0; kind == RT_EDGE_STATIC && index < rank && index < RT_EDGE_RANK_MAX; index++)
        open.shape.dims[index] = index + 1;
    if (kind == RT_EDGE_DYNAMIC)
        open.tensors = handle_of(handle_size);
    return open;
}

static rt_edge_message opened_of(enum rt_edge_kind kind, uint8_t rank, uint8_t modes, uint8_t handle_size)
{
    rt_edge_message opened = {.kind = RT_EDGE_EDGE_OPENED,
                              .request = 7,
                              .edge_kind = (uint8_t)kind,
                              .verify = 1,
                              .modes = modes,
                              .stripes = 1,
                              .slots = 3,
                              .alignment_log = 12,
                              .eager_size = kind == RT_EDGE_DYNAMIC ? 4096 : 0,
                              .shape = {.dtype = RT_DTYPE_FLOAT32, .rank = rank},
                              .number = 0x1234,
                              .slots_handle = handle_of(handle_size)};
    for (size_t index = 0; kind == RT_EDGE_STATIC && index < rank; index++)
        opened.shape.dims[index] = 1;
    if (modes != TAIL)
        opened.flags_handle = handle_of(handle_size);
    return opened;
}

static int there_and_back(const uint8_t *bytes, size_t size)
{
    rt_edge_message message = {.kind = 77};
    rt_detail detail;
    rt_detail_clear(&detail);
    int status = rt_edge_message_decode(bytes, size, &message, &detail);
    CHECK_INT(detail.status, status);
    if (status != RT_OK) {
        CHECK_INT(status, RT_E_PROTOCOL);
        CHECK_INT(message.kind, 77);
        return status;
    }
    uint8_t again[RT_EDGE_MESSAGE_MAX];
    CHECK_INT(rt_edge_message_encode(&message, again, sizeof again), size);
    CHECK_BYTES(again, bytes, size);
    return RT_OK;
}

static void every_message_survives_the_way_and_no_corruption_is_taken_for_one(void)
{
    const rt_edge_message messages[] = {
        open_of(RT_EDGE_STATIC, 16, RT_NAME_MAX, RT_HANDLE_SIZE_MAX),
        open_of(RT_EDGE_STATIC, 0, 1, 1),
        open_of(RT_EDGE_DYNAMIC, RT_EDGE_RANK_ANY, RT_NAME_MAX, RT_HANDLE_SIZE_MAX),
        opened_of(RT_EDGE_STATIC, 16, CHAINED, RT_HANDLE_SIZE_MAX),
        opened_of(RT_EDGE_DYNAMIC, 2, TAIL, 1),
        {.kind = RT_EDGE_EDGE_REFUSED, .request = 9, .refusal = RT_EDGE_REFUSED_SHAPE, .text_size = 2, .text = "no"},
        {.kind = RT_EDGE_CLOSE_EDGE, .request = 10, .number = 3, .by_sender = 1, .final = UINT64_MAX - 5},
        {.kind = RT_EDGE_EDGE_CLOSED, .request = 11},
        {.kind = RT_EDGE_ADD_KEY, .request = 12, .number = 3, .key = 63, .tensors = handle_of(RT_HANDLE_SIZE_MAX)},
        {.kind = RT_EDGE_KEY_ADDED, .request = 13},
    };
    const int64_t sizes[] = {434, 20, 466, 470, 23, 8, 15, 4, 169, 4};
    for (size_t index = 0; index < sizeof messages / sizeof messages[0]; index++) {
        uint8_t bytes[RT_EDGE_MESSAGE_MAX + 1];
        int64_t size = rt_edge_message_encode(&messages[index], bytes, RT_EDGE_MESSAGE_MAX);
        CHECK_INT(size, sizes[index]);
        CHECK_INT(there_and_back(bytes, (size_t)size), RT_OK);
        rt_edge_message decoded;
        CHECK_INT(rt_edge_message_decode(bytes, (size_t)size, &decoded, NULL), RT_OK);
        CHECK_STR(decoded.name, messages[index].name);
        CHECK_BYTES(&decoded.tensors, &messages[index].tensors, sizeof decoded.tensors);
        CHECK_BYTES(decoded.shape.dims, messages[index].shape.dims, sizeof decoded.shape.dims);
        CHECK_INT(decoded.final, messages[index].final);
        for (size_t shorter = 0; shorter < (size_t)size; shorter++) {
            CHECK_INT(there_and_back(bytes, shorter), RT_E_PROTOCOL);
            CHECK_INT(rt_edge_message_encode(&messages[index], bytes, shorter), RT_E_INVALID);
        }
        bytes[size] = 0;
        CHECK_INT(there_and_back(bytes, (size_t)size + 1), RT_E_PROTOCOL);
        for (size_t at = 0; at < (size_t)size; at++) {
            for (unsigned change = 1; change < 256; change++) {
                bytes[at] ^= (uint8_t)change;
                there_and_back(bytes, (size_t)size);
                bytes[at] ^= (uint8_t)change;
            }
        }
    }
}

static void messages_that_break_the_rules_are_neither_made_nor_taken(void)
{
    rt_edge_message wrong[] = {
        open_of(RT_EDGE_STATIC, 17, 1, 1),
        open_of(RT_EDGE_STATIC, 1, 0, 1),
        open_of(RT_EDGE_STATIC, 1, 1, 0),
        open_of(RT_EDGE_DYNAMIC, 17, 1, 1),
        open_of((enum rt_edge_kind)3, 1, 1, 1),
        open_of(RT_EDGE_STATIC, 1, 1, 1),
        open_of(RT_EDGE_STATIC, 1, 1, 1),
        open_of(RT_EDGE_STATIC, 1, 1, 1),
        open_of(RT_EDGE_STATIC, 1, 1, 1),
        open_of(RT_EDGE_DYNAMIC, 1, 1, 1),
        open_of(RT_EDGE_STATIC, 2, 1, 1),
        opened_of(RT_EDGE_STATIC, 1, TAIL | CHAINED, 1),
        opened_of(RT_EDGE_DYNAMIC, 1, CHAINED, 1),
        opened_of(RT_EDGE_STATIC, 1, CHAINED, 1),
        opened_of(RT_EDGE_STATIC, 1, CHAINED, 0),
        opened_of(RT_EDGE_STATIC, 1, TAIL, 1),
        {.kind = 11},
        {.kind = RT_EDGE_EDGE_REFUSED},
        {.kind = RT_EDGE_CLOSE_EDGE},
        {.kind = RT_EDGE_ADD_KEY, .number = 1, .key = 64, .tensors = handle_of(1)},
    };
    wrong[5].flow = 3;
    wrong[6].modes = 1;
    wrong[7].stripes = 9;
    wrong[8].name[0] = '\n';
    wrong[9].flow = RT_EDGE_FLOW_LOOP;
    wrong[10].shape.dims[0] = wrong[10].shape.dims[1] = 1ull << 62;
    wrong[12].stripes = 2;
    wrong[13].slots = 129;
    wrong[15].stripes = 2;
    for (size_t index = 0; index < sizeof wrong / sizeof wrong[0]; index++) {
        uint8_t bytes[RT_EDGE_MESSAGE_MAX];
        CHECK_INT(rt_edge_message_encode(&wrong[index], bytes, sizeof bytes), RT_E_INVALID);
    }
    uint8_t hostile[] = {RT_EDGE_CLOSE_EDGE, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0};
    rt_edge_message message;
    rt_detail detail;
    CHECK_INT(rt_edge_message_decode(hostile, sizeof hostile, &message, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "an invalid edge number or last tensor");
}

/* ---- who is let in ---- */

static rt_edge_terms terms_of(enum rt_edge_kind kind, uint8_t rank)
{
    rt_edge_terms terms = {.edge_kind = (uint8_t)kind,
                           .flow = RT_EDGE_FLOW_CREDIT,
                           .stripes = 2,
                           .modes = CHAINED,
                           .slots = 2,
                           .alignment_log = 6,
                           .eager_size = kind == RT_EDGE_DYNAMIC ? 1024 : 0,
                           .shape = {.dtype = RT_DTYPE_FLOAT32, .rank = rank}};
    for (size_t index = 0; kind == RT_EDGE_STATIC && index < rank; index++)
        terms.shape.dims[index] = index + 1;
    return terms;
}

static void check_refused(const rt_edge_terms *terms, const rt_edge_message *open, rt_edge_refusal refusal, int status,
                          const char *words)
{
    rt_edge_message answer;
    uint8_t bytes[RT_EDGE_MESSAGE_MAX];
    CHECK(!rt_edge_admit(terms, open, &answer));
    CHECK_INT(answer.kind, RT_EDGE_EDGE_REFUSED);
    CHECK_INT(answer.request, open->request);
    CHECK_INT(answer.refusal, refusal);
    CHECK_INT(rt_edge_refusal_status(answer.refusal), status);
    CHECK_HAS(answer.text, words);
    CHECK(rt_edge_message_encode(&answer, bytes, sizeof bytes) > 0);
}

static void an_edge_that_disagrees_or_has_a_sender_is_refused_with_the_reason(void)
{
    rt_edge_message open = open_of(RT_EDGE_STATIC, 3, 4, 8);
    rt_edge_terms terms = terms_of(RT_EDGE_STATIC, 3);
    terms.has_sender = true;
    check_refused(&terms, &open, RT_EDGE_REFUSED_SENDER, RT_E_EXISTS, "has a sender already");
    terms = terms_of(RT_EDGE_DYNAMIC, 3);
    check_refused(&terms, &open, RT_EDGE_REFUSED_KIND, RT_E_REFUSED,
                  "the receiver's edge is dynamic float32 of 3 dimensions and the sender's static float32 [1, 2, 3]");
    terms = terms_of(RT_EDGE_STATIC, 3);
    terms.shape.dtype = RT_DTYPE_FLOAT16;
    check_refused(&terms, &open, RT_EDGE_REFUSED_DTYPE, RT_E_REFUSED, "static float16 [1, 2, 3]");
    terms = terms_of(RT_EDGE_STATIC, 3);
    terms.shape.dims[2] = 4;
    check_refused(&terms, &open, RT_EDGE_REFUSED_SHAPE, RT_E_REFUSED, "static float32 [1, 2, 4]");
    terms = terms_of(RT_EDGE_STATIC, 2);
    check_refused(&terms, &open, RT_EDGE_REFUSED_SHAPE, RT_E_REFUSED, "static float32 [1, 2] and");
    terms = terms_of(RT_EDGE_STATIC, 3);
    terms.flow = RT_EDGE_FLOW_LOOP;
    check_refused(&terms, &open, RT_EDGE_REFUSED_FLOW, RT_E_REFUSED, "flow=\"loop\"");
    terms = terms_of(RT_EDGE_STATIC, 3);
    terms.modes = TAIL;
    check_refused(&terms, &open, RT_EDGE_REFUSED_ORDERING, RT_E_UNSUPPORTED, "no ordering that both ends may use");
    rt_edge_message dynamic = open_of(RT_EDGE_DYNAMIC, 2, 4, 8);
    terms = terms_of(RT_EDGE_DYNAMIC, 3);
    check_refused(&terms, &dynamic, RT_EDGE_REFUSED_SHAPE, RT_E_REFUSED, "of 3 dimensions and the sender's dynamic");
    CHECK_INT(rt_edge_refusal_status(RT_EDGE_REFUSED_NAME), RT_E_NOT_FOUND);
    CHECK_INT(rt_edge_refusal_status(RT_EDGE_REFUSED_FULL), RT_E_BUSY);
    CHECK_INT(rt_edge_refusal_status(RT_EDGE_REFUSED_MEMORY), RT_E_NO_MEMORY);
}

static void an_edge_opens_as_both_ends_can(void)
{
    rt_edge_message open = open_of(RT_EDGE_STATIC, 3, 4, 8), answer;
    rt_edge_terms terms = terms_of(RT_EDGE_STATIC, 3);
    rt_edge_layout layout;
    rt_detail detail;
    terms.verify = true;
    terms.loop_check = true; /* has no meaning with credit */
    CHECK(rt_edge_admit(&terms, &open, &answer));
    CHECK_INT(answer.verify, 1);
    CHECK_INT(answer.stripes, 2);
    CHECK_INT(answer.modes, CHAINED);
    CHECK_INT(answer.loop_check, 0);
    CHECK_INT(rt_edge_answer_check(&open, &answer, &layout, &detail), RT_OK);
    CHECK_INT(layout.payload_size, 24);
    CHECK_INT(layout.payload_span, 128);
    CHECK_INT(layout.flag_span, 256);

    rt_edge_message dynamic = open_of(RT_EDGE_DYNAMIC, RT_EDGE_RANK_ANY, 4, 8);
    terms = terms_of(RT_EDGE_DYNAMIC, 2);
    dynamic.shape.dtype = RT_DTYPE_ANY;
    CHECK(rt_edge_admit(&terms, &dynamic, &answer));
    CHECK_INT(answer.stripes, 1);
    CHECK_INT(rt_edge_answer_check(&dynamic, &answer, &layout, NULL), RT_OK);
    CHECK_INT(layout.payload_size, 1024 + RT_EDGE_RECORD_SIZE);
}

static void an_answer_that_grants_what_was_not_asked_is_refused(void)
{
    rt_edge_message open = open_of(RT_EDGE_STATIC, 2, 4, 8), good, wrong[7];
    rt_edge_terms terms = terms_of(RT_EDGE_STATIC, 2);
    rt_edge_layout layout;
    rt_detail detail;
    CHECK(rt_edge_admit(&terms, &open, &good));
    open.verify = 1;
    good.verify = 1;
    for (size_t index = 0; index < 7; index++)
        wrong[index] = good;
    wrong[0].edge_kind = RT_EDGE_DYNAMIC;
    wrong[1].modes = TAIL;
    wrong[2].stripes = 5;
    wrong[3].verify = 0;
    wrong[4].loop_check = 1;
    wrong[5].shape.dims[1] = 9;
    wrong[6].shape.dtype = RT_DTYPE_INT32;
    CHECK_INT(rt_edge_answer_check(&open, &good, &layout, NULL), RT_OK);
    for (size_t index = 0; index < 7; index++) {
        CHECK_INT(rt_edge_answer_check(&open, &wrong[index], &layout, &detail), RT_E_PROTOCOL);
        CHECK_HAS(detail.text, "the peer opened the edge \"nnnn\" with ");
    }
}

static void a_refusal_never_carries_control_characters(void)
{
    rt_edge_message open = open_of(RT_EDGE_STATIC, 1, 1, 1), answer;
    char text[400];
    memset(text, 'x', sizeof text);
    text[3] = '\x1b';
    text[399] = '\0';
    rt_edge_refuse(&open, RT_EDGE_REFUSED_NAME, text, &answer);
    CHECK_INT(answer.text_size, RT_REASON_MAX);
    CHECK(answer.text[3] == '?');
    uint8_t bytes[RT_EDGE_MESSAGE_MAX];
    CHECK_INT(rt_edge_message_encode(&answer, bytes, sizeof bytes), 4 + 1 + 1 + RT_REASON_MAX);
}

static const check_test tests[] = {
    CHECK_TEST(every_message_survives_the_way_and_no_corruption_is_taken_for_one),
    CHECK_TEST(messages_that_break_the_rules_are_neither_made_nor_taken),
    CHECK_TEST(an_edge_that_disagrees_or_has_a_sender_is_refused_with_the_reason),
    CHECK_TEST(an_edge_opens_as_both_ends_can),
    CHECK_TEST(an_answer_that_grants_what_was_not_asked_is_refused),
    CHECK_TEST(a_refusal_never_carries_control_characters),
};
CHECK_MAIN(tests)
