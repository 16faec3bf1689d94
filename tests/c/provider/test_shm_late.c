/* test_shm_late.c: helpers that keep a piece of a large WRITE, in threads and in processes that are
 * stopped or killed, and the ends of what a helper uses. A test is the helper itself: it claims a
 * piece, and keeps it for as long as it likes. csrc/provider/shm/HELP.md has the hazards. */
#include <signal.h>
#include <sys/wait.h>

#include "shm_help_ends.h"

/* ---- a helper that keeps its piece ---- */

/* The helper, in a thread or a child: claims a piece of the next offer. */
static uint32_t piece_claim(shm_offer *offer, shm_terms *terms_out)
{
    int64_t end_ns = rt_clock_now_ns() + PATIENCE_NS;
    uint32_t piece;
    while (rt_clock_now_ns() < end_ns) {
        if (shm_offer_look(offer, terms_out) && shm_offer_claim_last(offer, terms_out, &piece))
            return piece;
    }
    _exit(3);
}

typedef struct kept_piece {
    const end *left;
    end *right;
    _Atomic bool claimed, let_go;
    uint32_t too_many;
    pthread_t thread;
} kept_piece;

static void *keep(void *object)
{
    kept_piece *self = object;
    shm_terms terms;
    uint32_t piece = piece_claim(offer_to(self->right), &terms);
    atomic_store(&self->claimed, true);
    while (!atomic_load(&self->let_go))
        sched_yield();
    uint64_t at = (uint64_t)piece * terms.piece;
    memset(self->right->bytes + at, 0x5a, terms.piece); /* what a late copy of old bytes would be */
    atomic_fetch_add(&offer_to(self->right)->done, 1 + self->too_many);
    return NULL;
}

/* WRITEs until the keeper has a piece; that WRITE is not accepted. */
static void write_until_kept(end *left, kept_piece *keeper)
{
    rt_posted posted = {1, 1};
    int64_t end_ns = rt_clock_now_ns() + PATIENCE_NS;
    if (pthread_create(&keeper->thread, NULL, keep, keeper) != 0)
        abort();
    while (posted.accepted == 1 && rt_clock_now_ns() < end_ns) {
        shm_link_of(left->link)->rest_end_ns = 0;
        posted = post_one(left, RT_WORK_WRITE, 0, SIZE, 0, 0);
        sched_yield();
    }
    CHECK(atomic_load(&keeper->claimed));
    CHECK_INT(posted.accepted, 0);
}

static void a_write_does_not_end_before_a_helper_has_let_its_piece_go(void)
{
    end left, right;
    pair_open(&left, &right, SIZE + 4096);
    kept_piece keeper = {.left = &left, .right = &right};
    fill(left.bytes, SIZE, 8);
    write_until_kept(&left, &keeper);
    for (int round = 0; round < 3; round++) {
        CHECK_INT(post_one(&left, RT_WORK_WRITE, SIZE, 8, SIZE, 0).accepted, 0); /* a flag does not overtake it */
        CHECK_INT(post_one(&left, RT_WORK_READ, SIZE + 64, 8, SIZE, 0).accepted, 0);
        CHECK_INT(post_one(&left, RT_WORK_SEND, 0, 8, 0, 0).accepted, 0);
    }
    fill(left.bytes, SIZE, 9); /* the bytes that the item has when it is accepted are those that arrive */
    atomic_store(&keeper.let_go, true);
    pthread_join(keeper.thread, NULL);
    POST_DONE(&left, RT_WORK_WRITE, 0, SIZE, 0);
    CHECK_BYTES(right.bytes, left.bytes, SIZE);
    POST_DONE(&left, RT_WORK_WRITE, 0, 8, SIZE);
    pair_close(&left, &right);
}

static void an_item_given_up_for_a_late_helper_is_not_taken_for_a_later_one(void)
{
    end left, right;
    pair_open(&left, &right, SIZE + 4096);
    kept_piece keeper = {.left = &left, .right = &right};
    write_until_kept(&left, &keeper);
    atomic_store(&keeper.let_go, true);
    pthread_join(keeper.thread, NULL);
    fill(left.bytes, SIZE, 12);
    POST_DONE(&left, RT_WORK_WRITE, SIZE, 8, SIZE); /* another item comes first */
    POST_DONE(&left, RT_WORK_WRITE, 0, SIZE, 0);
    CHECK_BYTES(right.bytes, left.bytes, SIZE);
    pair_close(&left, &right);
}

static void a_link_that_waits_for_a_helper_can_be_shut(void)
{
    end left, right;
    pair_open(&left, &right, SIZE);
    kept_piece keeper = {.left = &left, .right = &right};
    write_until_kept(&left, &keeper);
    shm->link_shut(left.link);
    CHECK_INT(post_one(&left, RT_WORK_WRITE, 0, 8, 0, 41).accepted, 1);
    CHECK_INT(poll_one(&left, DATA_QUEUE).status, RT_E_FLUSHED);
    atomic_store(&keeper.let_go, true);
    pthread_join(keeper.thread, NULL);
    CHECK_INT(post_one(&left, RT_WORK_WRITE, 0, 8, 0, 42).accepted, 1);
    CHECK_INT(poll_one(&left, DATA_QUEUE).status, RT_E_FLUSHED);
    pair_close(&left, &right);
}

static void a_link_whose_peer_shuts_while_a_helper_is_late_fails(void)
{
    end left, right;
    pair_open(&left, &right, SIZE);
    kept_piece keeper = {.left = &left, .right = &right};
    write_until_kept(&left, &keeper);
    shm->link_shut(right.link);
    CHECK_INT(post_one(&left, RT_WORK_WRITE, 0, 8, 0, 41).accepted, 1);
    CHECK_INT(poll_one(&left, DATA_QUEUE).status, RT_E_PEER_LOST);
    atomic_store(&keeper.let_go, true);
    pthread_join(keeper.thread, NULL);
    pair_close(&left, &right);
}

static void a_peer_that_says_too_many_pieces_are_done_loses_its_link(void)
{
    end left, right;
    pair_open(&left, &right, SIZE);
    kept_piece keeper = {.left = &left, .right = &right, .too_many = 7};
    write_until_kept(&left, &keeper);
    atomic_store(&keeper.let_go, true);
    pthread_join(keeper.thread, NULL);
    CHECK_INT(post_one(&left, RT_WORK_WRITE, 0, 8, 0, 41).accepted, 0);
    CHECK_INT(post_one(&left, RT_WORK_WRITE, 0, 8, 0, 42).accepted, 1);
    CHECK_INT(poll_one(&left, DATA_QUEUE).status, RT_E_PROTOCOL);
    pair_close(&left, &right);
}

/* ---- a helper's process that is stopped, continued, killed ---- */

/* Claims a piece in a child, which has the ring and the target, and stops there. */
static pid_t stopped_with_a_piece(end *left, end *right)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        shm_terms terms;
        uint32_t piece = piece_claim(offer_to(right), &terms);
        raise(SIGSTOP);
        memcpy(right->bytes + (uint64_t)piece * terms.piece, left->bytes + (uint64_t)piece * terms.piece, terms.piece);
        shm_offer_did(offer_to(right));
        _exit(0);
    }
    rt_posted posted = {1, 1};
    int64_t end_ns = rt_clock_now_ns() + PATIENCE_NS;
    while (posted.accepted == 1 && rt_clock_now_ns() < end_ns) {
        shm_link_of(left->link)->rest_end_ns = 0;
        posted = post_one(left, RT_WORK_WRITE, 0, SIZE, 0, 0);
        sched_yield();
    }
    if (posted.accepted != 0)
        kill(child, SIGKILL);
    CHECK_INT(posted.accepted, 0);
    return child;
}

static void a_helper_that_was_stopped_and_continued_delays_the_write_and_spoils_nothing(void)
{
    end left, right;
    int status;
    pair_open(&left, &right, SIZE);
    fill(left.bytes, SIZE, 21);
    pid_t child = stopped_with_a_piece(&left, &right);
    CHECK_INT(waitpid(child, &status, WUNTRACED), child);
    CHECK(WIFSTOPPED(status));
    fill(left.bytes, SIZE, 22);
    CHECK_INT(post_one(&left, RT_WORK_WRITE, 0, SIZE, 0, 0).accepted, 0);
    kill(child, SIGCONT);
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    POST_DONE(&left, RT_WORK_WRITE, 0, SIZE, 0);
    CHECK_BYTES(right.bytes, left.bytes, SIZE);
    pair_close(&left, &right);
}

static void a_helper_that_is_killed_with_a_piece_never_lets_the_write_end(void)
{
    end left, right;
    int status;
    pair_open(&left, &right, SIZE);
    pid_t child = stopped_with_a_piece(&left, &right);
    kill(child, SIGKILL);
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK_INT(post_one(&left, RT_WORK_WRITE, 0, 8, 0, 0).accepted, 0);
    shm->link_shut(left.link); /* as core does when it finds that the peer has died */
    CHECK_INT(post_one(&left, RT_WORK_WRITE, 0, 8, 0, 0).accepted, 1);
    CHECK_INT(poll_one(&left, DATA_QUEUE).status, RT_E_FLUSHED);
    pair_close(&left, &right);
}

/* ---- ends of what a helper uses ---- */

typedef struct end_of {
    end *left, *right;
    void (*run)(end *left, end *right);
    _Atomic bool over;
} end_of;

static void *ending_run(void *object)
{
    end_of *self = object;
    self->run(self->left, self->right);
    atomic_store(&self->over, true);
    return NULL;
}

static void release(end *left, end *right)
{
    (void)left;
    shm->memory_release(right->device, right->memory);
    right->memory = NULL;
}

static void shut(end *left, end *right)
{
    (void)left;
    shm->link_shut(right->link);
}

/* The service maps another source in the place of one that has ended. */
static void remap(end *left, end *right)
{
    serve(right->device);
    serve(left->device);
    serve(right->device);
}

/* A source is mapped, has ended, and a helper has met an offer with the next. */
static void remap_prepare(end *left, end *right)
{
    rt_detail detail;
    rt_memory memory = {.address = left->bytes, .size = SIZE, .descriptor = left->descriptor, .access = RIGHTS_ALL};
    map_source(left, right);
    shm->memory_release(left->device, left->memory);
    CHECK_INT(shm->memory_register(left->device, &memory, &left->memory, &detail), RT_OK);
    offer_by_hand(left, right);
    CHECK(!shm->memory_help(right->device));
}

static bool is_unfindable(const end *right, int what, uint32_t index)
{
    const shm_link *link = shm_link_of(right->link);
    switch (what) {
    case 0: return atomic_load(&shm_device_of(right->device)->board->exports[index]) == 0;
    case 1: return atomic_load(&link->state) == SHM_LINK_ERROR;
    default: return atomic_load(&link->peer->mapped[0].generation) == 0;
    }
}

/* A helper is inside: the ends of its target, its link and its source wait until it is out. */
static void what_a_helper_uses_ends_after_it_is_out(void)
{
    void (*const ends[])(end *, end *) = {release, shut, remap};
    for (int at = 0; at < 3; at++) {
        end left, right;
        pthread_t thread;
        pair_open(&left, &right, SIZE);
        uint32_t index = ((const shm_memory *)(const void *)right.memory)->index;
        end_of ending = {.left = &left, .right = &right, .run = ends[at]};
        if (at == 2)
            remap_prepare(&left, &right);
        atomic_fetch_add(&shm_device_of(right.device)->helping, 1);
        CHECK_INT(pthread_create(&thread, NULL, ending_run, &ending), 0);
        while (!is_unfindable(&right, at, index) && !atomic_load(&ending.over))
            sched_yield();
        for (int round = 0; round < 1000; round++)
            sched_yield();
        bool early = atomic_load(&ending.over);
        bool helped = shm->memory_help(right.device); /* one thread at a time */
        atomic_fetch_add(&shm_device_of(right.device)->helping, 1);
        pthread_join(thread, NULL);
        CHECK(!early);
        CHECK(!helped);
        pair_close(&left, &right);
    }
}

static void regions_and_links_end_while_their_waiters_help(void)
{
    int before = mappings_open();
    for (uint32_t round = 0; round < 20; round++) {
        end left, right;
        waiters waiting;
        pair_open(&left, &right, SIZE);
        map_source(&left, &right);
        waiting_begin(&waiting, right.device, 2);
        for (int writes = 0; writes < 3; writes++) {
            shm_link_of(left.link)->rest_end_ns = 0;
            post_one(&left, RT_WORK_WRITE, 0, SIZE, 0, 0);
        }
        offer_by_hand(&left, &right); /* a peer that dies leaves its offer open */
        end_close_on(&right);
        waiting_end(&waiting, 2);
        shm->close(right.device);
        end_close(&left);
    }
    CHECK_INT(mappings_open(), before);
}

static const check_test tests[] = {
    CHECK_TEST(a_write_does_not_end_before_a_helper_has_let_its_piece_go),
    CHECK_TEST(an_item_given_up_for_a_late_helper_is_not_taken_for_a_later_one),
    CHECK_TEST(a_link_that_waits_for_a_helper_can_be_shut),
    CHECK_TEST(a_link_whose_peer_shuts_while_a_helper_is_late_fails),
    CHECK_TEST(a_peer_that_says_too_many_pieces_are_done_loses_its_link),
    CHECK_TEST(a_helper_that_was_stopped_and_continued_delays_the_write_and_spoils_nothing),
    CHECK_TEST(a_helper_that_is_killed_with_a_piece_never_lets_the_write_end),
    CHECK_TEST(what_a_helper_uses_ends_after_it_is_out),
    CHECK_TEST(regions_and_links_end_while_their_waiters_help),
};

CHECK_MAIN(tests)
