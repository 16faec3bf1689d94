/* test_hostile.c: a hostile peer (hostile.h) beside one that keeps the rules. It does anything at any moment; the honest peer's edges go
 * on without an error or a wrong byte, and the victim ends what the hostile one broke and nothing else. Over every provider and way of
 * carrying a flag; over shm, a thread writes into all that the hostile peer has mapped meanwhile.
 *
 * Bounded and seeded: RT_HOSTILE_SECONDS makes it a soak, RT_HOSTILE_SEED another run.
 *
 * Needs the whole library. */
#include <sched.h>

#include "hostile.h"
#include "proto/dtype.h"

enum { STEPS = 150, SESSION_STEPS = 60 };

static const uint64_t static_size = SIZE;

/* ---- the honest peer ---- */

static rt_edge_options options_of(const scene *self, const char *name, uint32_t kind)
{
    rt_edge_options options = edge_options(name);
    options.ordering = self->ends.place->ordering;
    options.verify = 1;
    if (kind % 2 == 1) {
        options.kind = RT_EDGE_DYNAMIC;
        options.rank = RT_EDGE_RANK_ANY;
        options.eager_size = 256;
    } else {
        options.dtype = RT_DTYPE_UINT8;
        options.rank = 1;
        options.dims = &static_size;
    }
    return options;
}

/* Makes an edge at one device and opens it through a channel of the other. */
static void open_edge(scene *self, rt_device *to, rt_channel *through, const char *name, uint32_t kind, rt_edge **sender_out,
                      rt_edge **receiver_out)
{
    edge_ends *ends = &self->ends;
    rt_edge_options options = options_of(self, name, kind);
    CHECK_INT(rt_edge_create(to, &options, NULL, receiver_out, &ends->detail), RT_OK);
    CHECK_INT(rt_edge_open(through, &options, RT_NS_PER_S, sender_out, &ends->detail), RT_OK);
    ends->sender = *sender_out;
    int status = edge_wait_open(ends);
    ends->sender = NULL;
    if (status != RT_OK)
        printf("%s, \"%s\": %s\n", ends->place->name, name, ends->detail.text);
    CHECK_INT(status, RT_OK);
}

/* One tensor of an honest edge, from memory that is in no region, so that all the library's own memory is used. */
static void honest_round(scene *self, uint32_t kind)
{
    static uint8_t outside[9000];
    static const uint64_t sizes[] = {1, 100, 256, 257, 9000};
    edge_ends *ends = &self->ends;
    uint64_t size = kind % 2 == 0 ? SIZE : sizes[chance(self, sizeof sizes / sizeof sizes[0])];
    rt_edge_arrival arrival;
    core_fill(outside, size, ++self->rounds[kind] + 17 * kind);
    ends->sender = self->sent[kind];
    ends->receiver = self->got[kind];
    rt_edge_tensor tensor = edge_bytes(outside, size);
    int sent = edge_send(ends, &tensor, kind % 2 == 0), status = edge_receive(ends, &arrival);
    ends->sender = ends->receiver = NULL;
    CHECK_INT(sent, RT_OK);
    CHECK_INT(status, RT_OK);
    CHECK_INT(arrival.sequence, self->rounds[kind]);
    CHECK_INT(arrival.size, size);
    const uint8_t *bytes = (const uint8_t *)(uintptr_t)arrival.address;
    if (bytes == NULL) {
        ends->receiver = self->got[kind];
        status = edge_fetch(ends, arrival.sequence, kind < 2 ? ends->core.target : ends->core.local, PART);
        ends->receiver = NULL;
        CHECK_INT(status, RT_OK);
        bytes = (kind < 2 ? ends->core.there : ends->core.here) + PART;
    }
    CHECK_BYTES(bytes, outside, size);
    if (arrival.address != 0)
        CHECK_INT(rt_edge_release(self->got[kind], arrival.sequence), RT_OK);
    self->done++;
}

/* ---- the victim's dealings with the hostile peer: however they end, nothing else does ---- */

static void victim_receives(scene *self, uint32_t kind)
{
    rt_edge *edge = self->theirs[kind];
    rt_edge_arrival arrival;
    rt_region *target = self->ends.core.target;
    int status = self->fetching[kind] == 0 ? rt_edge_receive(edge, RT_NS_PER_MS, &arrival) : RT_E_AGAIN;
    self->broken += status == RT_E_PROTOCOL || status == RT_E_CORRUPT;
    if (status == RT_OK) {
        uint8_t sum = 0;
        for (uint64_t index = 0; arrival.address != 0 && index < arrival.size; index++)
            sum ^= ((const uint8_t *)(uintptr_t)arrival.address)[index];
        self->random += sum == 0; /* every byte was read */
        if (arrival.address == 0 && arrival.size <= PART)
            self->fetching[kind] = arrival.sequence;
        else
            (void)rt_edge_release(edge, arrival.sequence);
    }
    if (self->fetching[kind] != 0 && rt_edge_fetch(edge, self->fetching[kind], target, 2 * PART, RT_NS_PER_MS) != RT_E_AGAIN) {
        (void)rt_edge_release(edge, self->fetching[kind]);
        self->fetching[kind] = 0;
    }
}

static void victim_sends(scene *self, uint32_t kind)
{
    static uint8_t outside[9000];
    rt_edge_tensor tensor = edge_bytes(outside, kind % 2 == 0 ? SIZE : 1 + chance(self, sizeof outside));
    self->broken += rt_edge_send_tensor(self->theirs[kind], &tensor, RT_NS_PER_MS) == RT_E_PROTOCOL;
}

/* ---- sessions of the hostile peer ---- */

static void join(scene *self)
{
    edge_ends *ends = &self->ends;
    int64_t end_ns = rt_device_now_ns(self->device) + CORE_PATIENCE_NS;
    int status =
        rt_channel_connect(self->device, rt_listener_address(ends->core.listener), NULL, 0, &self->channel, &ends->detail);
    CHECK_INT(status, RT_OK);
    do
        status = rt_channel_wait_ready(self->channel, RT_SLICE_NS, &ends->detail);
    while (status == RT_E_AGAIN && rt_device_now_ns(self->device) < end_ns);
    CHECK_INT(status, RT_OK);
    do
        status = rt_listener_accept(ends->core.listener, RT_SLICE_NS, &self->accepted, &ends->detail);
    while (status == RT_E_AGAIN && rt_device_now_ns(self->device) < end_ns);
    CHECK_INT(status, RT_OK);
}

static void session_begin(scene *self)
{
    char name[32];
    self->session++;
    join(self);
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        snprintf(name, sizeof name, "session %u %u", self->session, kind);
        if (kind < 2)
            open_edge(self, self->ends.core.far, self->channel, name, kind, &self->ours[kind], &self->theirs[kind]);
        else
            open_edge(self, self->device, self->accepted, name, kind, &self->theirs[kind], &self->ours[kind]);
    }
    for (uint32_t bait = 0; bait < BAITS; bait++) {
        snprintf(name, sizeof name, "bait %u %u", self->session, bait);
        rt_edge_options options = options_of(self, name, bait);
        CHECK_INT(rt_edge_create(self->ends.core.far, &options, NULL, &self->baits[bait], &self->ends.detail), RT_OK);
    }
}

static void session_end(scene *self)
{
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        rt_edge_drop(self->ours[kind]);
        rt_edge_drop(self->theirs[kind]);
        self->fetching[kind] = 0;
    }
    for (uint32_t bait = 0; bait < BAITS; bait++)
        rt_edge_drop(self->baits[bait]);
    rt_channel_drop(self->channel);
    rt_channel_drop(self->accepted);
    pthread_mutex_lock(&self->device->lock);
    self->channel = self->accepted = NULL;
    loot_count = 0;
    pthread_mutex_unlock(&self->device->lock);
}

static void session(scene *self, uint32_t steps)
{
    session_begin(self);
    for (uint32_t step = 0; step < steps; step++) {
        bool up = rt_channel_state(self->channel) == RT_CHANNEL_READY;
        if (up)
            misbehave(self);
        uint32_t kind = (uint32_t)chance(self, KINDS);
        if (kind < 2)
            victim_receives(self, kind);
        else
            victim_sends(self, kind);
        honest_round(self, (uint32_t)chance(self, KINDS));
        if (!up && chance(self, 8) == 0)
            break;
    }
    session_end(self);
}

/* ---- the thread that writes into all that is mapped ---- */

typedef struct scribbler {
    scene *self;
    pthread_t thread;
    _Atomic bool stop;
    uint64_t random, written;
} scribbler;

static void scribble(scribbler *own, const rt_remote *remote)
{
    const rt_provider *provider = own->self->device->provider;
    uint8_t *bytes = (uint8_t *)(uintptr_t)provider->remote_map(remote->premote);
    uint64_t size = remote->premote->size;
    for (uint32_t times = 0; times < 64; times++) {
        own->random = own->random * 6364136223846793005u + 1442695040888963407u;
        uint64_t at = (own->random >> 20) % size, value = own->random >> 40;
        bytes[at] = (uint8_t)(value % 3 == 0 ? 0 : value);
    }
    own->written += 64;
}

static void *scribble_on(void *argument)
{
    scribbler *own = argument;
    rt_device *device = own->self->device;
    while (!atomic_load(&own->stop)) {
        pthread_mutex_lock(&device->lock);
        RT_LIST_EACH(node, &device->channels) {
            const rt_channel *channel = RT_LIST_ENTRY(node, rt_channel, node);
            if (channel->rpc == NULL)
                continue;
            RT_LIST_EACH(attached, &channel->remotes) {
                const rt_remote *remote = RT_LIST_ENTRY(attached, rt_remote, node);
                if ((remote->premote->access & RT_ACCESS_REMOTE_WRITE) != 0)
                    scribble(own, remote);
            }
        }
        pthread_mutex_unlock(&device->lock);
        sched_yield();
    }
    return NULL;
}

/* ---- the runs ---- */

static uint64_t setting(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text == NULL || *text == '\0' ? otherwise : strtoull(text, NULL, 10);
}

static rt_device *third_device(scene *self)
{
    rt_device *device = NULL;
    char arguments[160] = "";
    const char *provider = self->ends.place->provider;
    if (strcmp(provider, "sim") == 0)
        snprintf(arguments, sizeof arguments, "world=%s&seed=7&message_size_max=4096%s", self->ends.core.world,
                 self->ends.place->promises != NULL ? self->ends.place->promises : "");
    const char *name = strcmp(provider, "sim") == 0 ? "hostile" : strcmp(provider, "verbs") == 0 ? "fake0" : "";
    rt_device_options options = {.provider = provider, .name = name, .arguments = arguments, .qps_per_peer = 1};
    int status = rt_device_open(&options, &device, &self->ends.detail);
    if (status != RT_OK)
        printf("%s\n", self->ends.detail.text);
    CHECK_INT(status, RT_OK);
    return device;
}

static void scene_begin(scene *self, const edge_place *place, uint64_t seed)
{
    memset(self, 0, sizeof *self);
    edge_begin(&self->ends, place, 1);
    self->random = seed * 0x9e3779b97f4a7c15u + 1;
    self->device = third_device(self);
    self->source = core_region(self->device, PART, 0);
    atomic_store(&hostile_device, self->device);
    core_ends *core = &self->ends.core;
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        char name[32];
        snprintf(name, sizeof name, "honest %u", kind);
        if (kind < 2)
            open_edge(self, core->far, core->channel, name, kind, &self->sent[kind], &self->got[kind]);
        else
            open_edge(self, core->near, core->accepted, name, kind, &self->sent[kind], &self->got[kind]);
    }
}

static uint64_t victim_regions(scene *self)
{
    rt_device_stats stats;
    rt_device_get_stats(self->ends.core.far, &stats);
    return stats.regions;
}

/* All that the hostile peer had at the victim is gone, but for what the device's own pool has grown by. */
static void check_no_leak(scene *self, uint64_t before)
{
    enum { GROWN = 3 };
    core_ends *core = &self->ends.core;
    for (int tries = 0; tries < 4000 && victim_regions(self) > before + GROWN; tries++)
        (void)rt_channel_wait_word(core->accepted, core->target, 3 * PART, 1, RT_NS_PER_MS);
    CHECK(victim_regions(self) <= before + GROWN);
}

static void scene_end(scene *self)
{
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        rt_edge_drop(self->sent[kind]);
        rt_edge_drop(self->got[kind]);
    }
    rt_device_close(self->device);
    rt_region_drop(self->source);
    atomic_store(&hostile_device, NULL);
    edge_end(&self->ends);
}

static void run(const edge_place *place, uint64_t seed, bool scribbles)
{
    static scene self;
    scribbler own = {.self = &self, .random = seed};
    scene_begin(&self, place, seed);
    for (uint32_t kind = 0; kind < KINDS; kind++)
        honest_round(&self, kind);
    uint64_t before = victim_regions(&self);
    if (scribbles)
        CHECK_INT(pthread_create(&own.thread, NULL, scribble_on, &own), 0);
    int64_t seconds = (int64_t)setting("RT_HOSTILE_SECONDS", 0), places = sizeof edge_places / sizeof edge_places[0] + 1;
    int64_t end_ns = rt_clock_now_ns() + seconds * RT_NS_PER_S / places;
    do
        session(&self, SESSION_STEPS);
    while (rt_clock_now_ns() < end_ns || self.done < STEPS);
    if (scribbles) {
        atomic_store(&own.stop, true);
        pthread_join(own.thread, NULL);
        CHECK(own.written != 0);
    }
    CHECK(self.broken != 0); /* the victim met what it was to meet */
    check_no_leak(&self, before);
    for (uint32_t kind = 0; kind < KINDS; kind++)
        honest_round(&self, kind);
    if (seconds != 0)
        printf("%s%s: seed %" PRIu64 ", %u sessions, %" PRIu64 " honest tensors\n", place->name,
               scribbles ? ", scribbled on" : "", seed, self.session, self.done);
    scene_end(&self);
}

static void a_peer_that_does_anything_harms_no_other(void)
{
    EDGE_EACH_PLACE(place)
    run(place, setting("RT_HOSTILE_SEED", 1), false);
}

static void a_peer_that_writes_all_that_it_has_mapped_harms_no_other(void)
{
    run(&edge_places[0], setting("RT_HOSTILE_SEED", 1), true);
}

static const check_test tests[] = {
    CHECK_TEST(a_peer_that_does_anything_harms_no_other),
    CHECK_TEST(a_peer_that_writes_all_that_it_has_mapped_harms_no_other),
};
CHECK_MAIN(tests)
