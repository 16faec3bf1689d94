/* test_edge_bounds.c: the last value that is taken and the first that is refused, of all that a peer says of an edge. Pure: needs csrc/proto/edge_*.c, frame.c, sha256.c, csrc/base/status.c. */
#include <stddef.h>

#include "check.h"
#include "proto/dtype.h"
#include "proto/edge_flow.h"
#include "proto/edge_mode.h"
#include "proto/edge_open.h"

enum { TAIL = 1 << RT_EDGE_TAIL, CHAINED = 1 << RT_EDGE_CHAINED, IMMEDIATE = 1 << RT_EDGE_IMMEDIATE };

/* ---- messages, field by field ---- */

static const rt_edge_bytes one_byte = {.size = 1, .bytes = {7}};
static const rt_tensor_shape scalar = {.dtype = RT_DTYPE_FLOAT32, .rank = 0};

static rt_edge_message good_open(enum rt_edge_kind kind, enum rt_edge_flow flow)
{
    rt_edge_message open = {.kind = RT_EDGE_OPEN_EDGE,
                            .edge_kind = (uint8_t)kind,
                            .flow = (uint8_t)flow,
                            .modes = CHAINED,
                            .stripes = 1,
                            .shape = scalar,
                            .name_size = 3,
                            .name = "abc"};
    if (flow == RT_EDGE_FLOW_CREDIT)
        open.credit = one_byte;
    if (kind == RT_EDGE_DYNAMIC)
        open.tensors = one_byte;
    return open;
}

static rt_edge_message good_opened(enum rt_edge_kind kind, uint8_t modes)
{
    rt_edge_message opened = {.kind = RT_EDGE_EDGE_OPENED,
                              .edge_kind = (uint8_t)kind,
                              .modes = modes,
                              .stripes = 1,
                              .slots = 1,
                              .alignment_log = 6,
                              .shape = scalar,
                              .number = 1,
                              .slots_handle = one_byte};
    if (modes != TAIL)
        opened.flags_handle = one_byte;
    return opened;
}

/* The encoding of a message with whatever values it has: that of a good one with its fields replaced. A message is taken when it is made,
 * and made when it is taken. */
static bool is_taken(const rt_edge_message *message)
{
    uint8_t bytes[RT_EDGE_MESSAGE_MAX];
    rt_edge_message decoded;
    int64_t size = rt_edge_message_encode(message, bytes, sizeof bytes);
    if (size < 0) {
        CHECK_INT(size, RT_E_INVALID);
        return false;
    }
    CHECK_INT(rt_edge_message_decode(bytes, (size_t)size, &decoded, NULL), RT_OK);
    CHECK_BYTES(&decoded, message, sizeof decoded);
    return true;
}

typedef struct field_case {
    size_t offset, width;
    uint64_t value;
    bool taken;
} field_case;

#define FIELD(member, value, taken)                                                                                              \
    {                                                                                                                            \
        offsetof(rt_edge_message, member), sizeof(((rt_edge_message *)NULL)->member), value, taken                               \
    }

static void check_fields(const rt_edge_message *good, const field_case *cases, size_t count)
{
    CHECK(is_taken(good));
    for (size_t index = 0; index < count; index++) {
        rt_edge_message message = *good;
        memcpy((uint8_t *)&message + cases[index].offset, &cases[index].value, cases[index].width); /* little end first */
        if (is_taken(&message) != cases[index].taken)
            printf("message %u, case %zu: %llu\n", good->kind, index, (unsigned long long)cases[index].value);
        CHECK_INT(is_taken(&message), cases[index].taken);
    }
}

#define CHECK_FIELDS(good, ...)                                                                                                  \
    do {                                                                                                                         \
        const rt_edge_message check_message = (good);                                                                            \
        const field_case check_cases[] = {__VA_ARGS__};                                                                          \
        check_fields(&check_message, check_cases, sizeof check_cases / sizeof check_cases[0]);                                   \
    } while (0)

static void a_request_to_open_is_taken_up_to_its_bounds(void)
{
    CHECK_FIELDS(good_open(RT_EDGE_STATIC, RT_EDGE_FLOW_CREDIT), FIELD(edge_kind, 0, false), FIELD(edge_kind, 3, false),
                 FIELD(flow, 0, false), FIELD(flow, 3, false), FIELD(verify, 1, true), FIELD(verify, 2, false),
                 FIELD(modes, 0, false), FIELD(modes, 1, false), FIELD(modes, TAIL, true), FIELD(modes, IMMEDIATE, true),
                 FIELD(modes, TAIL | CHAINED | IMMEDIATE, true), FIELD(modes, CHAINED | 1, false), FIELD(modes, 16, false),
                 FIELD(modes, 16 | CHAINED, false), FIELD(stripes, 0, false), FIELD(stripes, RT_EDGE_STRIPES_MAX, true),
                 FIELD(stripes, RT_EDGE_STRIPES_MAX + 1, false), FIELD(name[0], 0x1f, false), FIELD(name[0], 0x20, true),
                 FIELD(name[2], 0x7e, true), FIELD(name[2], 0x7f, false), FIELD(name[2], 0x80, true), FIELD(name[2], 0xff, true),
                 FIELD(name[2], 0x1f, false), FIELD(name[2], 0, false), FIELD(credit.size, 0, false),
                 FIELD(tensors.size, 1, false), FIELD(credit.size, RT_HANDLE_SIZE_MAX + 1, false),
                 FIELD(shape.dtype, RT_DTYPE_ANY, false), FIELD(shape.dtype, RT_DTYPE_COUNT - 1, true),
                 FIELD(shape.dtype, RT_DTYPE_COUNT, false), FIELD(shape.rank, RT_EDGE_RANK_MAX, true),
                 FIELD(shape.rank, RT_EDGE_RANK_MAX + 1, false), FIELD(shape.rank, RT_EDGE_RANK_ANY, false),
                 FIELD(wait_ms, UINT32_MAX, true), FIELD(request, UINT16_MAX, true));
    CHECK_FIELDS(good_open(RT_EDGE_STATIC, RT_EDGE_FLOW_LOOP), FIELD(credit.size, 1, false), FIELD(tensors.size, 1, false),
                 FIELD(flow, RT_EDGE_FLOW_CREDIT, false));
    CHECK_FIELDS(good_open(RT_EDGE_DYNAMIC, RT_EDGE_FLOW_CREDIT), FIELD(tensors.size, 0, false), FIELD(credit.size, 0, false),
                 FIELD(shape.dtype, RT_DTYPE_ANY, true), FIELD(shape.dtype, RT_DTYPE_COUNT - 1, true),
                 FIELD(shape.dtype, RT_DTYPE_COUNT, false), FIELD(shape.rank, RT_EDGE_RANK_MAX, true),
                 FIELD(shape.rank, RT_EDGE_RANK_MAX + 1, false), FIELD(shape.rank, RT_EDGE_RANK_ANY - 1, false),
                 FIELD(shape.rank, RT_EDGE_RANK_ANY, true));
    rt_edge_message dynamic = good_open(RT_EDGE_DYNAMIC, RT_EDGE_FLOW_CREDIT);
    dynamic.flow = RT_EDGE_FLOW_LOOP;
    dynamic.credit.size = 0;
    CHECK(!is_taken(&dynamic)); /* what a receiver has not released would be read while it changes */
    rt_edge_message nameless = good_open(RT_EDGE_STATIC, RT_EDGE_FLOW_CREDIT);
    nameless.name_size = 0;
    CHECK(!is_taken(&nameless));
    nameless.name_size = RT_NAME_MAX + 1;
    CHECK(!is_taken(&nameless));
}

static void an_answer_is_taken_up_to_its_bounds(void)
{
    CHECK_FIELDS(good_opened(RT_EDGE_STATIC, CHAINED), FIELD(edge_kind, 0, false), FIELD(edge_kind, 3, false),
                 FIELD(number, 0, false), FIELD(number, UINT16_MAX, true), FIELD(verify, 1, true), FIELD(verify, 2, false),
                 FIELD(loop_check, 1, true), FIELD(loop_check, 2, false), FIELD(lends, 1, true), FIELD(lends, 2, false),
                 FIELD(modes, 0, false), FIELD(modes, 1, false), FIELD(modes, IMMEDIATE, true), FIELD(modes, TAIL, false),
                 FIELD(modes, CHAINED | IMMEDIATE, false), FIELD(modes, 16, false), FIELD(slots, 0, false),
                 FIELD(slots, RT_EDGE_SLOTS_MAX, true), FIELD(slots, RT_EDGE_SLOTS_MAX + 1, false), FIELD(stripes, 0, false),
                 FIELD(stripes, RT_EDGE_STRIPES_MAX, true), FIELD(stripes, RT_EDGE_STRIPES_MAX + 1, false),
                 FIELD(alignment_log, 5, false), FIELD(alignment_log, 21, true), FIELD(alignment_log, 22, false),
                 FIELD(eager_size, 1, false), FIELD(slots_handle.size, 0, false), FIELD(flags_handle.size, 0, false),
                 FIELD(shape.dtype, RT_DTYPE_ANY, false), FIELD(shape.rank, RT_EDGE_RANK_MAX + 1, false));
    CHECK_FIELDS(good_opened(RT_EDGE_STATIC, TAIL), FIELD(stripes, 2, false), FIELD(flags_handle.size, 1, false),
                 FIELD(modes, IMMEDIATE, false));
    CHECK_FIELDS(good_opened(RT_EDGE_DYNAMIC, CHAINED), FIELD(eager_size, 1, true), FIELD(eager_size, RT_EDGE_EAGER_MAX, true),
                 FIELD(eager_size, RT_EDGE_EAGER_MAX + 1, false), FIELD(stripes, 2, false),
                 FIELD(shape.rank, RT_EDGE_RANK_ANY, true));
}

static void the_other_messages_are_taken_up_to_their_bounds(void)
{
    const rt_edge_message refused = {.kind = RT_EDGE_EDGE_REFUSED, .refusal = 1, .text_size = 2, .text = "no"};
    CHECK_FIELDS(refused, FIELD(refusal, 0, false), FIELD(refusal, RT_EDGE_REFUSALS - 1, true),
                 FIELD(refusal, RT_EDGE_REFUSALS, false), FIELD(text[0], 0x1f, false), FIELD(text[0], 0x20, true),
                 FIELD(text[1], 0x7e, true), FIELD(text[1], 0x7f, false), FIELD(text[1], 0x1f, false));
    const rt_edge_message by_receiver = {.kind = RT_EDGE_CLOSE_EDGE, .number = 1},
                          by_sender = {.kind = RT_EDGE_CLOSE_EDGE, .number = 1, .by_sender = 1, .final = 5};
    CHECK_FIELDS(by_receiver, FIELD(number, 0, false), FIELD(number, UINT16_MAX, true), FIELD(final, 1, false),
                 FIELD(by_sender, 1, true));
    CHECK_FIELDS(by_sender, FIELD(by_sender, 2, false), FIELD(by_sender, 0, false), FIELD(final, UINT64_MAX, true),
                 FIELD(final, 0, true));
    const rt_edge_message key = {.kind = RT_EDGE_ADD_KEY, .number = 1, .key = 1, .tensors = one_byte};
    CHECK_FIELDS(key, FIELD(number, 0, false), FIELD(key, 0, false), FIELD(key, RT_EDGE_KEYS_MAX - 1, true),
                 FIELD(key, RT_EDGE_KEYS_MAX, false), FIELD(tensors.size, 0, false));
    const rt_edge_message done = {.kind = RT_EDGE_EDGE_CLOSED, .request = 1};
    CHECK_FIELDS(done, FIELD(kind, RT_EDGE_KEY_ADDED, true), FIELD(kind, RT_EDGE_KEY_ADDED + 1, false), FIELD(kind, 0, false));
}

/* Bytes that this code never makes may come from a peer all the same. */
static void bytes_that_are_never_made_are_refused_with_the_reason(void)
{
    rt_edge_message messages[] = {good_open(RT_EDGE_STATIC, RT_EDGE_FLOW_CREDIT), good_opened(RT_EDGE_DYNAMIC, CHAINED)};
    for (size_t index = 0; index < sizeof messages / sizeof messages[0]; index++) {
        uint8_t bytes[RT_EDGE_MESSAGE_MAX + 1] = {0};
        rt_edge_message decoded;
        rt_detail detail;
        int64_t size = rt_edge_message_encode(&messages[index], bytes, sizeof bytes);
        CHECK(size > 4);
        bytes[1] = 1; /* is kept for later */
        CHECK_INT(rt_edge_message_decode(bytes, (size_t)size, &decoded, &detail), RT_E_PROTOCOL);
        CHECK_HAS(detail.text, "it is cut short or has an invalid field");
        bytes[1] = 0;
        CHECK_INT(rt_edge_message_decode(bytes, (size_t)size + 1, &decoded, &detail), RT_E_PROTOCOL);
        CHECK_HAS(detail.text, "bytes follow its end");
        CHECK_INT(rt_edge_message_decode(bytes, (size_t)size - 1, &decoded, &detail), RT_E_PROTOCOL);
        CHECK_HAS(detail.text, "it is cut short or has an invalid field");
    }
}

/* ---- who is let in ---- */

static rt_edge_terms terms_of(const rt_edge_message *open)
{
    return (rt_edge_terms){.edge_kind = open->edge_kind,
                           .flow = open->flow,
                           .stripes = 1,
                           .modes = open->modes,
                           .slots = 1,
                           .alignment_log = 6,
                           .shape = open->shape};
}

static void ends_agree_on_the_smaller_number_of_stripes_and_on_every_check(void)
{
    rt_edge_message open = good_open(RT_EDGE_STATIC, RT_EDGE_FLOW_LOOP), answer;
    for (uint8_t asked = 1; asked <= 3; asked++) {
        for (uint8_t given = 1; given <= 3; given++) {
            for (uint8_t bits = 0; bits < 8; bits++) {
                rt_edge_terms terms = terms_of(&open);
                rt_edge_layout layout;
                terms.stripes = given;
                terms.verify = (bits & 1) != 0;
                terms.loop_check = (bits & 2) != 0;
                open.verify = (bits & 4) != 0;
                open.stripes = asked;
                CHECK(rt_edge_admit(&terms, &open, &answer));
                CHECK_INT(answer.stripes, asked < given ? asked : given);
                CHECK_INT(answer.verify, terms.verify || open.verify);
                CHECK_INT(answer.loop_check, terms.loop_check);
                CHECK_INT(answer.eager_size, 0);
                CHECK_INT(rt_edge_answer_check(&open, &answer, &layout, NULL), RT_OK);
                CHECK_INT(layout.stripes, answer.stripes);
            }
        }
    }
    rt_edge_terms tail = terms_of(&open);
    tail.modes = open.modes = TAIL;
    tail.stripes = open.stripes = 3;
    CHECK(rt_edge_admit(&tail, &open, &answer));
    CHECK_INT(answer.stripes, 1);
}

static void any_dtype_and_any_rank_fit_on_either_side(void)
{
    for (uint32_t bits = 0; bits < 16; bits++) {
        rt_edge_message open = good_open(RT_EDGE_DYNAMIC, RT_EDGE_FLOW_CREDIT), answer;
        rt_edge_terms terms = terms_of(&open);
        terms.eager_size = 4096;
        terms.shape.dtype = (bits & 1) != 0 ? RT_DTYPE_ANY : RT_DTYPE_INT8;
        terms.shape.rank = (bits & 2) != 0 ? RT_EDGE_RANK_ANY : 2;
        open.shape.dtype = (bits & 4) != 0 ? RT_DTYPE_ANY : RT_DTYPE_INT16;
        open.shape.rank = (bits & 8) != 0 ? RT_EDGE_RANK_ANY : 3;
        bool dtypes = (bits & 5) != 0, ranks = (bits & 10) != 0;
        CHECK_INT(rt_edge_admit(&terms, &open, &answer), dtypes && ranks);
        if (!dtypes || !ranks)
            CHECK_INT(answer.refusal, !dtypes ? RT_EDGE_REFUSED_DTYPE : RT_EDGE_REFUSED_SHAPE);
        else
            CHECK_INT(answer.eager_size, 4096);
    }
}

static void refusals_say_what_each_end_has(void)
{
    rt_edge_message open = good_open(RT_EDGE_DYNAMIC, RT_EDGE_FLOW_CREDIT), answer;
    rt_edge_terms terms = terms_of(&open);
    terms.shape.dtype = RT_DTYPE_INT8;
    open.shape.rank = RT_EDGE_RANK_ANY;
    CHECK(!rt_edge_admit(&terms, &open, &answer));
    CHECK_STR(answer.text, "the receiver's edge is dynamic int8 of 0 dimensions and the sender's dynamic float32 of any rank");
    CHECK_INT(answer.text_size, strlen(answer.text));
    terms = terms_of(&open);
    terms.flow = RT_EDGE_FLOW_LOOP;
    CHECK(!rt_edge_admit(&terms, &open, &answer));
    CHECK_HAS(answer.text, "flow=\"loop\"");
    open.flow = RT_EDGE_FLOW_LOOP;
    terms.flow = RT_EDGE_FLOW_CREDIT;
    CHECK(!rt_edge_admit(&terms, &open, &answer));
    CHECK_HAS(answer.text, "flow=\"credit\"");
    static const int statuses[RT_EDGE_REFUSALS] =
        {[RT_EDGE_REFUSED_NAME] = RT_E_NOT_FOUND,       [RT_EDGE_REFUSED_SENDER] = RT_E_EXISTS,
         [RT_EDGE_REFUSED_KIND] = RT_E_REFUSED,         [RT_EDGE_REFUSED_DTYPE] = RT_E_REFUSED,
         [RT_EDGE_REFUSED_SHAPE] = RT_E_REFUSED,        [RT_EDGE_REFUSED_FLOW] = RT_E_REFUSED,
         [RT_EDGE_REFUSED_ORDERING] = RT_E_UNSUPPORTED, [RT_EDGE_REFUSED_FULL] = RT_E_BUSY,
         [RT_EDGE_REFUSED_KEY] = RT_E_REFUSED,          [RT_EDGE_REFUSED_MEMORY] = RT_E_NO_MEMORY};
    for (uint32_t refusal = 1; refusal < RT_EDGE_REFUSALS; refusal++)
        CHECK_INT(rt_edge_refusal_status(refusal), statuses[refusal]);
}

static void an_answer_to_something_else_is_refused(void)
{
    rt_edge_message open = good_open(RT_EDGE_STATIC, RT_EDGE_FLOW_LOOP), good;
    rt_edge_terms terms = terms_of(&open);
    rt_edge_layout layout;
    rt_detail detail;
    terms.loop_check = true;
    CHECK(rt_edge_admit(&terms, &open, &good));
    CHECK_INT(rt_edge_answer_check(&open, &good, &layout, NULL), RT_OK);
    rt_edge_message wrong = good, other = open;
    wrong.kind = RT_EDGE_EDGE_CLOSED;
    CHECK_INT(rt_edge_answer_check(&open, &wrong, &layout, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "\"abc\" with another kind of edge");
    other.kind = RT_EDGE_ADD_KEY;
    CHECK_INT(rt_edge_answer_check(&other, &good, &layout, NULL), RT_E_PROTOCOL);
    other = open;
    other.flow = RT_EDGE_FLOW_CREDIT;
    CHECK_INT(rt_edge_answer_check(&other, &good, &layout, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "a loop check on an edge with credit");
    good.loop_check = 0;
    CHECK_INT(rt_edge_answer_check(&other, &good, &layout, NULL), RT_OK);
    good.verify = 1; /* more than was asked for is fine */
    CHECK_INT(rt_edge_answer_check(&other, &good, &layout, NULL), RT_OK);
    rt_edge_message dynamic = good_open(RT_EDGE_DYNAMIC, RT_EDGE_FLOW_CREDIT), opened = good_opened(RT_EDGE_DYNAMIC, CHAINED);
    opened.shape.dtype = RT_DTYPE_INT8; /* records say what comes */
    CHECK_INT(rt_edge_answer_check(&dynamic, &opened, &layout, NULL), RT_OK);
}

static const check_test tests[] = {
    CHECK_TEST(a_request_to_open_is_taken_up_to_its_bounds),
    CHECK_TEST(an_answer_is_taken_up_to_its_bounds),
    CHECK_TEST(the_other_messages_are_taken_up_to_their_bounds),
    CHECK_TEST(bytes_that_are_never_made_are_refused_with_the_reason),
    CHECK_TEST(ends_agree_on_the_smaller_number_of_stripes_and_on_every_check),
    CHECK_TEST(any_dtype_and_any_rank_fit_on_either_side),
    CHECK_TEST(refusals_say_what_each_end_has),
    CHECK_TEST(an_answer_to_something_else_is_refused),
};

CHECK_MAIN(tests)
