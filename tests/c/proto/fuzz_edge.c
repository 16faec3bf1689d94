/* fuzz_edge.c: any bytes as a metadata record, as a setup message, and as the words a peer leaves in flag, begun and credit. Needs all of
 * csrc/proto, csrc/base/status.c.
 *
 * Held: what decodes encodes to the same bytes and is within what the edge allows; refused bytes get a one-line reason; no words
 * lead a sender or a receiver out of its bounds. */
#undef NDEBUG
#include <assert.h>
#include <string.h>

#include "proto/edge_flow.h"
#include "proto/edge_open.h"
#include "proto/edge_record.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void fuzz_record(const uint8_t *bytes, size_t size)
{
    static const uint64_t key_sizes[] = {1 << 20, 4096};
    uint8_t whole[RT_EDGE_RECORD_SIZE] = {0}, again[RT_EDGE_RECORD_SIZE];
    memcpy(whole, bytes, size < sizeof whole ? size : sizeof whole);
    uint64_t sequence = 0;
    memcpy(&sequence, whole + 8, sizeof sequence); /* as the flag says, so that more is reached */
    rt_edge_expected expected = {.rank = RT_EDGE_RANK_ANY,
                                 .verify = (whole[4] & 2) != 0,
                                 .sequence = sequence,
                                 .eager_size = 4096,
                                 .key_count = 2,
                                 .key_sizes = key_sizes};
    rt_edge_record record;
    rt_detail detail;
    rt_detail_clear(&detail);
    int status = rt_edge_record_decode(whole, &expected, &record, &detail);
    if (status != RT_OK) {
        assert(detail.status == status && detail.text[0] != '\0');
        return;
    }
    assert(record.eager ? record.size <= 4096 : record.offset + record.size <= key_sizes[record.key]);
    assert(rt_edge_record_encode(&record, again, NULL) == RT_OK && memcmp(again, whole, sizeof again) == 0);
}

static void fuzz_message(const uint8_t *bytes, size_t size)
{
    rt_edge_message message, answer;
    rt_edge_layout layout;
    rt_detail detail;
    rt_detail_clear(&detail);
    int status = rt_edge_message_decode(bytes, size, &message, &detail);
    if (status != RT_OK) {
        assert(status == RT_E_PROTOCOL && detail.status == status && detail.text[0] != '\0');
        return;
    }
    uint8_t again[RT_EDGE_MESSAGE_MAX];
    int64_t encoded = rt_edge_message_encode(&message, again, sizeof again);
    assert(encoded == (int64_t)size && memcmp(again, bytes, size) == 0);
    if (message.kind != RT_EDGE_OPEN_EDGE)
        return;
    rt_edge_terms terms = {.edge_kind = message.edge_kind,
                           .flow = message.flow,
                           .stripes = 3,
                           .modes = 14,
                           .slots = 2,
                           .alignment_log = 6,
                           .shape = message.shape};
    bool opened = rt_edge_admit(&terms, &message, &answer);
    assert(opened && answer.stripes <= message.stripes);
    status = rt_edge_answer_check(&message, &answer, &layout, NULL);
    assert(status == RT_OK || status == RT_E_INVALID); /* only for a tensor that is too large to lay out */
}

/* Words of 8 bytes, alternately as flags and as begun words; every third step releases something. */
static void fuzz_receiver(const uint8_t *bytes, size_t size)
{
    rt_edge_receiver receiver;
    const rt_edge_receiver_options options = {.slots = 3,
                                              .stripes = 2,
                                              .flow = size % 2 == 0 ? RT_EDGE_FLOW_CREDIT : RT_EDGE_FLOW_LOOP,
                                              .flags_whole = size % 3 == 0,
                                              .begun_whole = size % 5 == 0,
                                              .loop_check = size % 7 == 0};
    rt_edge_receiver_begin(&receiver, &options);
    for (; size >= 33; bytes += 33, size -= 33) {
        uint64_t words[4], sequence = 0, credit = 0;
        memcpy(words, bytes, 32);
        for (size_t index = 0; index < 4; index++)
            words[index] = words[index] % 16; /* near what is due */
        rt_edge_receiver_look(&receiver, words, words + 2, &sequence, NULL);
        rt_edge_receiver_event(&receiver, words[0], (rt_slot_event)(bytes[32] % RT_SLOT_RELEASE));
        if (bytes[32] % 3 == 0)
            rt_edge_receiver_release(&receiver, words[1], words + 2, NULL);
        if (bytes[32] == 255)
            rt_edge_receiver_finish(&receiver, words[3], NULL);
        if (rt_edge_receiver_credit_due(&receiver, &credit))
            rt_edge_receiver_credit_posted(&receiver, credit);
        assert(receiver.credited <= receiver.released && receiver.released <= receiver.received);
        assert(receiver.received - receiver.released <= receiver.slots && receiver.fetching <= receiver.slots);
    }
}

static void fuzz_sender(const uint8_t *bytes, size_t size)
{
    rt_edge_sender sender;
    rt_edge_sender_begin(&sender, 4, RT_EDGE_FLOW_CREDIT, size % 2 == 0);
    for (; size >= 8; bytes += 8, size -= 8) {
        uint64_t word, sequence = 0;
        memcpy(&word, bytes, sizeof word);
        if (rt_edge_sender_next(&sender, &sequence) == RT_OK)
            rt_edge_sender_sent(&sender, sequence);
        rt_edge_sender_credit(&sender, word % 16, NULL);
        assert(sender.released <= sender.sent && sender.sent - sender.released <= sender.slots);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    fuzz_record(bytes, size);
    fuzz_message(bytes, size);
    fuzz_receiver(bytes, size);
    fuzz_sender(bytes, size);
    return 0;
}
