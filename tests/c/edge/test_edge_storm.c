/* test_edge_storm.c: edges of any options, tensors of any size and place, sent, received and released in any order that credit allows:
 * every byte arrives, and is counted once. A seed decides; a failing one is printed with the options. And: immediates that a peer makes up.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

enum { ROUNDS = 12, TENSORS = 9, SLOTS = 4, LARGEST = 700000, PITCH = 64 };

static uint32_t state;

static uint32_t any(uint32_t below)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
}

typedef struct storm {
    edge_ends ends;
    rt_edge_options options;
    uint64_t dims[2];
    uint64_t sizes[SLOTS]; /* of the tensors under way, by sequence */
    uint8_t *bytes[SLOTS]; /* what they are made of … */
    bool strided, registered;
    uint64_t sent_bytes;
} storm;

static uint8_t outside[SLOTS][2 * LARGEST], wanted[LARGEST];

static uint64_t any_size(void)
{
    static const uint64_t sizes[] = {0, 1, 63, 64, 65, 500, 512, 4095, 4096, 4097, 20000, 262144, 262145, 600001};
    return sizes[any(sizeof sizes / sizeof sizes[0])];
}

static void choose_options(storm *all)
{
    bool dynamic = any(2) == 0;
    all->options = edge_options("storm");
    all->options.kind = dynamic ? RT_EDGE_DYNAMIC : RT_EDGE_STATIC;
    all->options.dtype = RT_DTYPE_UINT8;
    all->strided = any(4) == 0;
    all->options.rank = all->strided ? 2 : 1;
    all->dims[0] = any_size();
    all->dims[1] = 0;
    if (all->strided) {
        all->dims[1] = 1 + any(40);
        all->dims[0] = any(100);
    }
    all->options.dims = all->dims;
    all->options.slots = 1 + any(SLOTS);
    all->options.stripes = 1 + any(3);
    all->options.verify = any(2);
    all->options.staging = any(4) == 0;
    all->options.eager_size = any(2) * 600;
    all->registered = any(2) == 0;
}

/* The tensor with this sequence: its bytes, and as they arrive in `wanted`. */
static rt_edge_tensor make_tensor(storm *all, uint64_t sequence)
{
    uint32_t slot = (uint32_t)(sequence % SLOTS);
    bool dynamic = all->options.kind == RT_EDGE_DYNAMIC;
    uint64_t rows = dynamic && all->strided ? any(100) : all->dims[0], columns = all->dims[1];
    uint64_t size = all->strided ? rows * columns : dynamic ? any_size() : all->dims[0];
    uint8_t *bytes = all->registered ? all->ends.core.here + slot * (1 << 20) + any(60) : outside[slot] + any(60);
    rt_edge_tensor tensor = edge_bytes(bytes, size);
    core_fill(bytes, all->strided ? rows * PITCH : size, (uint32_t)sequence * 3);
    if (all->strided) {
        tensor.rank = 2;
        tensor.strided = 1;
        tensor.dims[0] = rows;
        tensor.dims[1] = columns;
        tensor.strides[0] = PITCH;
        tensor.strides[1] = 1;
    }
    all->sizes[slot] = size;
    all->bytes[slot] = bytes;
    return tensor;
}

static void check_tensor(const storm *all, uint64_t sequence, const uint8_t *got)
{
    uint32_t slot = (uint32_t)(sequence % SLOTS);
    uint64_t columns = all->dims[1];
    if (!all->strided) {
        CHECK_BYTES(got, all->bytes[slot], all->sizes[slot]);
        return;
    }
    for (uint64_t at = 0; at < all->sizes[slot]; at += columns)
        memcpy(wanted + at, all->bytes[slot] + at / columns * PITCH, columns);
    CHECK_BYTES(got, wanted, all->sizes[slot]);
}

static void take_one(storm *all, uint64_t sequence)
{
    edge_ends *ends = &all->ends;
    rt_edge_arrival arrival;
    int status, tries = 0;
    do {
        rt_device_progress(ends->core.near); /* the sender posts what had no room */
        status = rt_edge_receive(ends->receiver, RT_SLICE_NS, &arrival);
    } while (status == RT_E_AGAIN && ++tries < 400);
    CHECK_INT(status, RT_OK);
    CHECK_INT(arrival.sequence, sequence);
    CHECK_INT(arrival.size, all->sizes[sequence % SLOTS]);
    CHECK_INT(arrival.rank, all->options.rank);
    if (arrival.address != 0) {
        check_tensor(all, sequence, (const uint8_t *)(uintptr_t)arrival.address);
        return;
    }
    CHECK_INT(edge_fetch(ends, sequence, ends->core.target, 8), RT_OK);
    check_tensor(all, sequence, ends->core.there + 8);
}

/* Sends, receives and releases TENSORS tensors, as many at once as there are slots. */
static void run_storm(storm *all)
{
    edge_ends *ends = &all->ends;
    uint64_t sent = 0, received = 0, released = 0, slots = all->options.slots;
    bool gone[SLOTS] = {false}; /* released before those in front of them */
    while (released < TENSORS) {
        uint32_t what = any(3);
        if (what == 0 && sent < TENSORS && sent - released < slots) {
            rt_edge_tensor tensor = make_tensor(all, sent + 1);
            CHECK_INT(edge_send(ends, &tensor, all->options.kind == RT_EDGE_STATIC), RT_OK);
            sent++;
            all->sent_bytes += all->sizes[sent % SLOTS];
        } else if (what == 1 && received < sent) {
            take_one(all, ++received);
        } else if (what == 2 && released < received) {
            uint64_t which = released + 1 + any((uint32_t)(received - released));
            int status = gone[which % SLOTS] ? RT_E_INVALID : RT_OK;
            int got = rt_edge_release(ends->receiver, which);
            CHECK(got == status || (got == RT_E_INVALID && all->options.kind == RT_EDGE_DYNAMIC)); /* a fetch releases */
            gone[which % SLOTS] = true;
            while (released < received && gone[(released + 1) % SLOTS])
                gone[++released % SLOTS] = false;
        }
    }
    rt_edge_stats near, far;
    rt_edge_get_stats(ends->sender, &near);
    rt_edge_get_stats(ends->receiver, &far);
    CHECK_INT(near.transfers, TENSORS);
    CHECK_INT(far.transfers, TENSORS);
    CHECK_INT(near.bytes, all->sent_bytes);
    CHECK_INT(far.bytes, all->sent_bytes);
    CHECK_INT(near.sequence, TENSORS);
    CHECK_INT(far.released, TENSORS);
    CHECK_INT(far.corrupt, 0);
    CHECK_INT(near.eager, far.eager);
    CHECK_INT(far.eager + far.fetched, all->options.kind == RT_EDGE_DYNAMIC ? TENSORS : 0);
    CHECK(near.copied_bytes <= near.bytes && (near.copied_bytes == 0 || near.copies > 0) && near.copies <= TENSORS);
    if (all->options.staging != 0 && all->options.kind == RT_EDGE_STATIC && all->sizes[0] != 0)
        CHECK_INT(near.copies, TENSORS);
    if (all->registered && all->options.staging == 0 && !all->strided)
        CHECK_INT(near.copies, 0);
}

static void every_tensor_arrives_over_edges_of_any_options(void)
{
    EDGE_EACH_PLACE(place)
    {
        static storm all;
        memset(&all, 0, sizeof all);
        edge_begin(&all.ends, place, 3);
        rt_region_drop(all.ends.core.local); /* one that can be read, so that nothing needs to be copied */
        all.ends.core.local = core_region(all.ends.core.near, 4 << 20, RT_RIGHT_REMOTE_READ);
        all.ends.core.here = (uint8_t *)(uintptr_t)rt_region_address(all.ends.core.local);
        for (uint32_t round = 0; round < ROUNDS; round++) {
            state = 77 + round * 13;
            all.sent_bytes = 0;
            choose_options(&all);
            printf("%s, round %u: kind %u, %llu x %llu, %u slots, %u stripes, verify %u, staging %u, eager %llu, %s\n",
                   place->name, round, all.options.kind, (unsigned long long)all.dims[0], (unsigned long long)all.dims[1],
                   all.options.slots, all.options.stripes, all.options.verify, all.options.staging,
                   (unsigned long long)all.options.eager_size, all.registered ? "registered" : "outside");
            edge_join(&all.ends, place, &all.options);
            run_storm(&all);
            rt_edge_drop(all.ends.sender);
            rt_edge_drop(all.ends.receiver);
            all.ends.sender = all.ends.receiver = NULL;
        }
        edge_end(&all.ends);
    }
}

/* ---- immediates that a peer makes up ---- */

static const uint64_t hundred = 100;

static void begin_immediate(edge_ends *ends, uint32_t qps)
{
    static const edge_place place = {"sim, immediate", "sim", NULL, RT_EDGE_IMMEDIATE, RT_EDGE_IMMEDIATE};
    rt_edge_options options = edge_options("immediate");
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = &hundred;
    edge_begin(ends, &place, qps);
    edge_join(ends, &place, &options);
}

static int give_immediate(edge_ends *ends, uint32_t link, uint32_t immediate)
{
    pthread_mutex_lock(&ends->core.far->lock);
    int status = rt_edge_immediate(&ends->core.accepted->links[link], immediate, NULL);
    pthread_mutex_unlock(&ends->core.far->lock);
    return status;
}

static void an_immediate_of_nothing_that_is_due_ends_its_edge_alone(void)
{
    for (uint32_t lie = 0; lie < 4; lie++) {
        edge_ends ends;
        rt_edge_arrival arrival;
        begin_immediate(&ends, 2);
        uint32_t number = ends.receiver->number, link = number % 2, good = number << 16 | 1u << 8; /* slot 1, round 0 */
        uint32_t immediates[] = {good | 1, number << 16 | 2u << 8, good, (number + 1) << 16 | 1u << 8};
        CHECK_INT(give_immediate(&ends, lie == 2 ? 1 - link : link, immediates[lie]), RT_OK);
        CHECK_INT(rt_edge_receive(ends.receiver, 0, &arrival), lie == 3 ? RT_E_AGAIN : RT_E_PROTOCOL); /* of no edge: dropped */
        if (lie == 2)
            CHECK_INT(rt_edge_explain(ends.receiver, RT_E_PROTOCOL, &ends.detail), RT_E_PROTOCOL);
        CHECK_INT(rt_channel_state(ends.core.accepted), RT_CHANNEL_READY);
        edge_end(&ends);
    }
    edge_ends ends;
    rt_edge_arrival arrival;
    begin_immediate(&ends, 2);
    uint32_t number = ends.receiver->number;
    CHECK_INT(give_immediate(&ends, number % 2, number << 16 | 1u << 8), RT_OK);
    CHECK_INT(rt_edge_receive(ends.receiver, 0, &arrival), RT_OK); /* as if it had been sent */
    CHECK_INT(arrival.sequence, 1);
    edge_end(&ends);
}

static void receives_are_reserved_while_an_edge_is_open_and_used_again(void)
{
    edge_ends ends;
    begin_immediate(&ends, 1);
    rt_link *link = &ends.core.accepted->links[0];
    rt_detail detail;
    uint32_t count = rt_receives_count(link), depth = ends.core.far->limits.receive_depth;
    CHECK_INT(count, 2); /* one per slot */
    CHECK_INT(rt_receives_outstanding(link), 2);
    pthread_mutex_lock(&ends.core.far->lock);
    CHECK_INT(rt_receives_reserve(link, depth - RT_RPC_RECEIVES - 1, &detail), RT_E_BUSY); /* 2 are taken */
    char words[100];
    snprintf(words, sizeof words, "need %u receives and it holds %u: take fewer slots, or more qps", depth - RT_RPC_RECEIVES + 1,
             depth - RT_RPC_RECEIVES);
    CHECK_HAS(detail.text, words);
    CHECK_INT(rt_receives_reserve(link, UINT32_MAX, &detail), RT_E_BUSY);
    CHECK_INT(rt_receives_count(link), 2);
    rt_receives_unreserve(link, 2);
    CHECK_INT(rt_receives_reserve(link, 2, &detail), RT_OK);
    CHECK_INT(rt_receives_count(link), 2); /* those of before */
    CHECK_INT(rt_receives_reserve(link, 3, &detail), RT_OK);
    CHECK_INT(rt_receives_count(link), 5);
    CHECK_INT(rt_receives_outstanding(link), 5);
    CHECK_INT(rt_receives_slot(link, 0).size, RT_RPC_MESSAGE_MAX);
    for (uint32_t index = 1; index < 5; index++)
        CHECK(rt_receives_slot(link, index).address != rt_receives_slot(link, index - 1).address);
    CHECK_INT(rt_receives_reserve(link, depth - RT_RPC_RECEIVES - 5, &detail), RT_OK); /* as many as there may be */
    CHECK_INT(rt_receives_reserve(link, 1, &detail), RT_E_BUSY);
    rt_receives_unreserve(link, depth - RT_RPC_RECEIVES - 2);
    rt_receives_unreserve(link, 3); /* more than are reserved: nothing */
    CHECK_INT(rt_receives_reserve(link, depth - RT_RPC_RECEIVES - 2, &detail), RT_OK);
    rt_receives_unreserve(link, depth - RT_RPC_RECEIVES - 2);
    pthread_mutex_unlock(&ends.core.far->lock);
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(every_tensor_arrives_over_edges_of_any_options),
    CHECK_TEST(an_immediate_of_nothing_that_is_due_ends_its_edge_alone),
    CHECK_TEST(receives_are_reserved_while_an_edge_is_open_and_used_again),
};

CHECK_MAIN(tests)
