/* test_edge_memory.c: where the memory of edges lies: what a peer may write belongs to its channel alone, what this end reads alone has
 * no remote right, and nothing that one peer had is given to another. Over every provider.
 *
 * Needs the whole library. */
#include "edge_ends.h"
#include "proto/dtype.h"

enum { CHANNELS = 2, KINDS = 3, MANY = 500, ENDS_MAX = 64, NEVER_WRITTEN = 1 << 20 };

static const uint64_t hundred = 100, large = 6 << 20;

/* Two channels between the same devices, with edges of every kind in both directions. */
typedef struct scene {
    edge_ends ends;
    rt_channel *channels[CHANNELS], *accepted[CHANNELS];
    rt_edge *near_ends[CHANNELS][2 * KINDS], *far_ends[CHANNELS][2 * KINDS];
} scene;

static rt_edge_options options_of(const edge_place *place, const char *name, uint32_t kind)
{
    rt_edge_options options = edge_options(name);
    options.ordering = place->ordering;
    if (kind == 0) {
        options.kind = RT_EDGE_DYNAMIC;
        options.rank = RT_EDGE_RANK_ANY;
    } else {
        options.dtype = RT_DTYPE_UINT8;
        options.rank = 1;
        options.dims = kind == 1 ? &hundred : &large;
    }
    return options;
}

static void open_edge(scene *self, rt_device *to, rt_channel *through, const rt_edge_options *options, rt_edge **sender_out,
                      rt_edge **receiver_out)
{
    edge_ends *ends = &self->ends;
    CHECK_INT(rt_edge_create(to, options, NULL, receiver_out, &ends->detail), RT_OK);
    CHECK_INT(rt_edge_open(through, options, RT_NS_PER_S, &ends->sender, &ends->detail), RT_OK);
    int status = edge_wait_open(ends);
    if (status != RT_OK)
        printf("%s: %s\n", ends->place->name, ends->detail.text);
    CHECK_INT(status, RT_OK);
    *sender_out = ends->sender;
    ends->sender = NULL;
}

static void scene_begin(scene *self, const edge_place *place)
{
    memset(self, 0, sizeof *self);
    edge_begin(&self->ends, place, 1);
    self->channels[0] = self->ends.core.channel;
    self->accepted[0] = self->ends.core.accepted;
    core_join(&self->ends.core, &self->channels[1], &self->accepted[1]);
    for (uint32_t channel = 0; channel < CHANNELS; channel++) {
        for (uint32_t kind = 0; kind < KINDS; kind++) {
            char name[32];
            snprintf(name, sizeof name, "%u %u", channel, kind);
            rt_edge_options options = options_of(place, name, kind);
            rt_edge **near_ends = &self->near_ends[channel][2 * kind], **far_ends = &self->far_ends[channel][2 * kind];
            open_edge(self, self->ends.core.far, self->channels[channel], &options, &near_ends[0], &far_ends[0]);
            open_edge(self, self->ends.core.near, self->accepted[channel], &options, &far_ends[1], &near_ends[1]);
        }
    }
}

static void drop_edges(scene *self, uint32_t channel)
{
    for (uint32_t index = 0; index < 2 * KINDS; index++) {
        rt_edge_drop(self->near_ends[channel][index]);
        rt_edge_drop(self->far_ends[channel][index]);
    }
}

static void scene_end(scene *self)
{
    for (uint32_t channel = 0; channel < CHANNELS; channel++)
        drop_edges(self, channel);
    rt_channel_drop(self->channels[1]);
    rt_channel_drop(self->accepted[1]);
    edge_end(&self->ends);
}

/* Sends a tensor that is in no region on a dynamic edge, so that it is copied, and takes it. */
static void send_copied(scene *self, uint32_t channel)
{
    static uint8_t outside[70000];
    edge_ends *ends = &self->ends;
    rt_edge_arrival arrival;
    core_fill(outside, sizeof outside, channel);
    ends->sender = self->near_ends[channel][0];
    ends->receiver = self->far_ends[channel][0];
    rt_edge_tensor tensor = edge_bytes(outside, sizeof outside);
    CHECK_INT(edge_send(ends, &tensor, false), RT_OK);
    CHECK_INT(edge_receive(ends, &arrival), RT_OK);
    CHECK_INT(edge_fetch(ends, arrival.sequence, ends->core.target, 0), RT_OK);
    CHECK_BYTES(ends->core.there, outside, sizeof outside);
    ends->sender = ends->receiver = NULL;
}

/* ---- who reaches what ---- */

/* The regions of one device that the peer of a channel may write (or read): at most ENDS_MAX. */
static uint32_t regions_of(rt_edge *const *edges, uint32_t right, rt_region **regions_out)
{
    uint32_t count = 0;
    for (uint32_t index = 0; index < 2 * KINDS; index++) {
        const rt_edge *edge = edges[index];
        rt_region *const places[] = {edge->slots.region, edge->lines.region, edge->credit_line.region,
                                     edge->sender ? edge->sent[1 % edge->tx.slots].staging.region : NULL,
                                     edge->sender ? edge->sent[0].staging.region : NULL};
        for (uint32_t place = 0; place < sizeof places / sizeof places[0]; place++) {
            if (places[place] != NULL && (places[place]->rights & right) != 0)
                regions_out[count++] = places[place];
        }
    }
    return count;
}

static void check_apart(rt_edge *const *left, rt_edge *const *right, uint32_t rights)
{
    rt_region *left_regions[ENDS_MAX], *right_regions[ENDS_MAX];
    uint32_t left_count = regions_of(left, rights, left_regions), right_count = regions_of(right, rights, right_regions);
    CHECK(left_count != 0);
    CHECK(right_count != 0);
    for (uint32_t index = 0; index < left_count; index++) {
        for (uint32_t other = 0; other < right_count; other++)
            CHECK(left_regions[index] != right_regions[other]);
    }
}

static void memory_that_a_peer_reaches_belongs_to_its_channel_alone(void)
{
    static scene self;
    EDGE_EACH_PLACE(place)
    {
        scene_begin(&self, place);
        for (uint32_t channel = 0; channel < CHANNELS; channel++)
            send_copied(&self, channel);
        check_apart(self.far_ends[0], self.far_ends[1], RT_RIGHT_REMOTE_WRITE);
        check_apart(self.near_ends[0], self.near_ends[1], RT_RIGHT_REMOTE_WRITE);
        check_apart(self.near_ends[0], self.near_ends[1], RT_RIGHT_REMOTE_READ);
        scene_end(&self);
    }
}

static void memory_that_one_end_reads_has_no_remote_right_and_memory_that_a_peer_reads_none_to_write(void)
{
    static scene self;
    EDGE_EACH_PLACE(place)
    {
        scene_begin(&self, place);
        for (uint32_t channel = 0; channel < CHANNELS; channel++) {
            for (uint32_t index = 0; index < 4 * KINDS; index++) {
                const rt_edge *edge =
                    index < 2 * KINDS ? self.near_ends[channel][index] : self.far_ends[channel][index - 2 * KINDS];
                const rt_pool_block *source = edge->sender ? &edge->lines : &edge->credit_line;
                CHECK_INT(source->region->rights, 0);
                if (edge->sender && edge->terms.edge_kind == RT_EDGE_DYNAMIC)
                    CHECK_INT(edge->slots.region->rights, RT_RIGHT_REMOTE_READ);
                for (uint32_t more = 0; edge->links[0] != NULL && more < rt_receives_count(edge->links[0]); more++)
                    CHECK_INT(rt_receives_slot(edge->links[0], more).memory->access & CORE_BOTH, 0);
            }
        }
        scene_end(&self);
    }
}

static void a_static_tensor_is_staged_where_no_peer_reaches(void)
{
    static uint8_t outside[100];
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        edge_begin(&ends, place, 1);
        rt_edge_options options = options_of(place, "staged", 1);
        options.staging = 1;
        edge_join(&ends, place, &options);
        rt_edge_tensor tensor = edge_bytes(outside, sizeof outside);
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        CHECK(ends.sender->stage != NULL);
        CHECK_INT(ends.sender->stage->memory.region->rights, 0);
        edge_end(&ends);
    }
}

/* ---- what it costs ---- */

static rt_device_stats stats_of(rt_device *device)
{
    rt_device_stats stats;
    rt_device_get_stats(device, &stats);
    return stats;
}

static void five_hundred_edges_of_a_channel_take_few_registrations(void)
{
    static rt_edge *senders[MANY], *receivers[MANY];
    static scene self;
    memset(&self, 0, sizeof self);
    edge_begin(&self.ends, &edge_places[0], 1);
    self.channels[0] = self.ends.core.channel;
    uint64_t near_before = stats_of(self.ends.core.near).registrations, far_before = stats_of(self.ends.core.far).registrations;
    uint64_t bytes_before = stats_of(self.ends.core.far).region_bytes, first = 0;
    for (uint32_t index = 0; index < MANY; index++) {
        char name[32];
        snprintf(name, sizeof name, "edge %u", index);
        rt_edge_options options = options_of(&edge_places[0], name, 1);
        open_edge(&self, self.ends.core.far, self.channels[0], &options, &senders[index], &receivers[index]);
        if (index == 0)
            first = stats_of(self.ends.core.far).region_bytes - bytes_before;
    }
    CHECK(first <= (256 + 64) << 10); /* the device's first of what no peer reaches, and the channel's first */
    CHECK(stats_of(self.ends.core.near).registrations - near_before <= 4);
    CHECK(stats_of(self.ends.core.far).registrations - far_before <= 4);
    for (uint32_t index = 0; index < MANY; index++) {
        rt_edge_drop(senders[index]);
        rt_edge_drop(receivers[index]);
    }
    edge_end(&self.ends);
}

/* ---- what a peer had ---- */

static uint64_t regions_until(edge_ends *ends, rt_device *device, uint64_t wanted)
{
    for (int tries = 0; tries < 4000 && stats_of(device).regions != wanted; tries++)
        (void)rt_channel_wait_word(ends->core.accepted, ends->core.target, NEVER_WRITTEN, 1, RT_NS_PER_MS);
    return stats_of(device).regions;
}

static void registrations_end_with_their_channel_and_its_last_edge(void)
{
    static scene self;
    EDGE_EACH_PLACE(place)
    {
        scene_begin(&self, place);
        send_copied(&self, 1);
        edge_ends *ends = &self.ends;
        rt_edge *slot_holder = self.far_ends[1][2];
        rt_region *held = slot_holder->slots.region;
        uint8_t *slot = slot_holder->slots.address;
        rt_edge_reference(slot_holder);
        uint64_t near_before = stats_of(ends->core.near).regions, far_before = stats_of(ends->core.far).regions;
        rt_channel_close(self.channels[1]);
        rt_channel_close(self.accepted[1]);
        drop_edges(&self, 1);
        /* Large slots, credits and eager ones, registration 0, and near what was copied. Far: an edge was kept. */
        CHECK_INT(regions_until(ends, ends->core.near, near_before - 4), near_before - 4);
        CHECK_INT(regions_until(ends, ends->core.far, far_before - 2), far_before - 2);
        CHECK(held->memory != NULL);
        *slot = 1;
        rt_edge_unreference(slot_holder);
        CHECK_INT(regions_until(ends, ends->core.far, far_before - 3), far_before - 3);
        drop_edges(&self, 0);
        rt_channel_drop(self.channels[1]);
        rt_channel_drop(self.accepted[1]);
        edge_end(ends);
    }
}

static void memory_of_a_channel_that_ended_is_not_given_to_the_next(void)
{
    static scene self;
    EDGE_EACH_PLACE(place)
    {
        memset(&self, 0, sizeof self);
        edge_begin(&self.ends, place, 1);
        edge_ends *ends = &self.ends;
        uint8_t keys[4][RT_MEMORY_KEY_SIZE_MAX];
        for (uint32_t round = 0; round < 4; round++) {
            rt_edge_options options = options_of(place, "again", 1);
            core_join(&ends->core, &self.channels[1], &self.accepted[1]);
            rt_edge *sender, *receiver;
            open_edge(&self, ends->core.far, self.channels[1], &options, &sender, &receiver);
            size_t size = 0;
            memset(keys[round], 0, sizeof keys[round]);
            const rt_provider *provider = ends->core.far->provider;
            CHECK_INT(provider->memory_key(ends->core.far->pdevice, receiver->slots.region->memory, NULL, 0, keys[round], &size,
                                           &ends->detail),
                      RT_OK);
            for (uint32_t before = 0; before < round; before++)
                CHECK(memcmp(keys[before], keys[round], sizeof keys[round]) != 0);
            rt_edge_drop(sender);
            rt_edge_drop(receiver);
            rt_channel_drop(self.channels[1]);
            rt_channel_drop(self.accepted[1]);
        }
        edge_end(ends);
    }
}

/* An edge was made anew, with a larger shape, while the request of its sender waited for room: what was taken for the first is not used. */
static void memory_that_was_taken_for_another_shape_is_not_the_edges(void)
{
    static const uint64_t size = 5000;
    edge_ends ends;
    edge_begin(&ends, &edge_places[0], 1);
    rt_device *far = ends.core.far;
    rt_edge_options options = options_of(&edge_places[0], "anew", 1);
    options.dims = &size;
    options.flow = RT_EDGE_FLOW_LOOP;
    CHECK_INT(rt_edge_create(far, &options, NULL, &ends.receiver, &ends.detail), RT_OK);
    rt_edge_request request = {.active = true,
                               .message = {.kind = RT_EDGE_OPEN_EDGE,
                                           .edge_kind = RT_EDGE_STATIC,
                                           .flow = RT_EDGE_FLOW_LOOP,
                                           .modes = 1u << RT_EDGE_CHAINED,
                                           .stripes = 1,
                                           .shape = {.dtype = RT_DTYPE_UINT8, .rank = 1, .dims = {size}},
                                           .name_size = 4,
                                           .name = "anew"}};
    bool answered = false;
    for (int tries = 0; tries < 4000 && !answered; tries++) {
        pthread_mutex_lock(&far->lock);
        if (request.slots.region == NULL)
            rt_pool_take_ready(far, &ends.core.accepted->pools, RT_POOL_WRITTEN, 64, 64, &request.slots, &ends.detail);
        answered = request.slots.region != NULL && rt_edge_answer(ends.core.accepted, &request);
        pthread_mutex_unlock(&far->lock);
        (void)rt_channel_wait_word(ends.core.accepted, ends.core.target, NEVER_WRITTEN, 1, RT_NS_PER_MS);
    }
    CHECK(answered);
    CHECK(rt_edge_joined(ends.receiver));
    CHECK(ends.receiver->slots.size >= 2 * size);
    CHECK(request.slots.region == NULL);
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(memory_that_a_peer_reaches_belongs_to_its_channel_alone),
    CHECK_TEST(memory_that_one_end_reads_has_no_remote_right_and_memory_that_a_peer_reads_none_to_write),
    CHECK_TEST(a_static_tensor_is_staged_where_no_peer_reaches),
    CHECK_TEST(five_hundred_edges_of_a_channel_take_few_registrations),
    CHECK_TEST(registrations_end_with_their_channel_and_its_last_edge),
    CHECK_TEST(memory_of_a_channel_that_ended_is_not_given_to_the_next),
    CHECK_TEST(memory_that_was_taken_for_another_shape_is_not_the_edges),
};
CHECK_MAIN(tests)
