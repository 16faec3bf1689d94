/* test_waiter.c: base/waiter.h and base/backoff.h: in which order a wait spins, yields, sleeps and naps, when it ends, how pauses
 * grow, and when a mode is patient. Threads never CHECK. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include "base/clock.h"
#include "base/status.h"
#include "base/waiter.h"
#include "check.h"

enum { TRIES = 10000 }; /* of what a busy machine may spoil */

static const int64_t past_ns = 1, never_ns = INT64_MAX;

static rt_waiter waiter_of(rt_wait_mode mode, int64_t end_ns)
{
    rt_waiter waiter;
    rt_waiter_begin(&waiter, &mode, end_ns);
    return waiter;
}

/* ---- pauses that grow ---- */

static void pauses_of_share_1_double_between_their_bounds(void)
{
    const rt_backoff_curve curve = {.first_ns = 3, .last_ns = 50, .share = 1};
    rt_backoff backoff = {0};
    const int64_t expected[] = {3, 6, 12, 24, 48, 50, 50};
    for (size_t index = 0; index < sizeof expected / sizeof expected[0]; index++)
        CHECK_INT(rt_backoff_next(&backoff, &curve), expected[index]);
    backoff = (rt_backoff){0};
    CHECK_INT(rt_backoff_next(&backoff, &curve), 3);
}

static void a_pause_is_at_most_its_share_of_the_wait_and_reaches_the_last(void)
{
    const rt_backoff_curve curve = {.first_ns = 20000, .last_ns = 2000000, .share = 4};
    rt_backoff backoff = {0};
    int64_t before_ns = 0, waited_ns = 0;
    for (uint32_t index = 0; index < 40; index++) {
        int64_t pause_ns = rt_backoff_next(&backoff, &curve);
        CHECK(pause_ns >= before_ns && pause_ns >= curve.first_ns && pause_ns <= curve.last_ns);
        CHECK(pause_ns == curve.first_ns || pause_ns <= (waited_ns + curve.first_ns) / 4);
        waited_ns += pause_ns;
        before_ns = pause_ns;
    }
    CHECK_INT(before_ns, curve.last_ns);
}

/* ---- the order of things ---- */

static void expect_quick_checks(rt_waiter *waiter, uint32_t count)
{
    for (uint32_t index = 0; index < count; index++)
        CHECK_INT(rt_waiter_pause(waiter), RT_STEP_CHECK);
}

static void a_wait_spins_and_yields_as_often_as_its_mode_says_and_then_sleeps(void)
{
    rt_waiter waiter = waiter_of((rt_wait_mode){.spins = 3, .yields = 2}, never_ns);
    for (uint32_t turn = 0; turn < 2; turn++) {
        expect_quick_checks(&waiter, 5);
        CHECK_INT(rt_waiter_pause(&waiter), RT_STEP_SLEEP);
        CHECK_INT(rt_waiter_pause(&waiter), RT_STEP_SLEEP);
        rt_waiter_moved(&waiter);
    }
    _Atomic bool patient = false;
    waiter = waiter_of((rt_wait_mode){.spins = 3, .yields = 2, .patient = &patient}, never_ns);
    expect_quick_checks(&waiter, 3);
    CHECK_INT(waiter.spun_ns, 0);
    (void)rt_waiter_pause(&waiter);
    CHECK(waiter.spun_ns != 0);                     /* when it first yielded */
    waiter = waiter_of((rt_wait_mode){0}, past_ns); /* the sleeper compares its own clock */
    CHECK_INT(rt_waiter_pause(&waiter), RT_STEP_SLEEP);
}

static void a_mode_without_a_bound_never_sleeps_and_notices_the_end(void)
{
    const rt_wait_mode modes[] = {{.spins = UINT32_MAX}, {.yields = UINT32_MAX}};
    for (uint32_t index = 0; index < 2; index++) {
        rt_waiter waiter = waiter_of(modes[index], never_ns);
        expect_quick_checks(&waiter, 1000);
        waiter.checks = UINT32_MAX - 100; /* the count of checks may pass its largest value */
        expect_quick_checks(&waiter, 200);
        waiter = waiter_of(modes[index], past_ns);
        uint32_t checks = 1;
        while (rt_waiter_pause(&waiter) != RT_STEP_END && checks < 1000)
            checks++;
        CHECK(checks <= 64);
    }
}

static void a_wait_without_sleep_makes_the_number_of_checks_it_was_given(void)
{
    for (uint32_t given = 1; given < 5; given++) {
        uint32_t left = given, made = 0;
        do
            made++;
        while (rt_spin_again(&left));
        CHECK_INT(made, given);
    }
    const rt_wait_mode spins = {.spins = 1}, yields = {.yields = UINT32_MAX};
    CHECK_INT(rt_wait_mode_checks(&spins, 80), 80);
    CHECK_INT(rt_wait_mode_checks(&yields, 80), 1); /* there is no core to spin on */
    CHECK_INT(rt_wait_mode_checks(&yields, 0), 0);
}

/* ---- naps ---- */

static void an_idle_wait_naps_for_longer_and_longer_until_its_end(void)
{
    int64_t begun_ns = rt_clock_now_ns(), end_ns = begun_ns + 5 * RT_NS_PER_MS;
    rt_waiter waiter = waiter_of((rt_wait_mode){.spins = 2, .yields = 2}, end_ns);
    uint32_t checks = 0;
    while (rt_waiter_idle(&waiter) != RT_E_AGAIN)
        checks++;
    CHECK(rt_clock_now_ns() >= end_ns);
    CHECK(checks < 40); /* of the shortest naps there would be 250 */
    CHECK(waiter.naps.paused_ns > 0 && waiter.naps.paused_ns <= rt_clock_now_ns() - begun_ns + 2 * RT_NS_PER_MS);
    const int64_t expected[] = {20000, 20000, 20000, 20000, 25000, 31250};
    for (uint32_t turn = 0; turn < 2; turn++) {
        rt_waiter_moved(&waiter);
        for (size_t index = 0; index < sizeof expected / sizeof expected[0]; index++)
            CHECK_INT(rt_waiter_nap_ns(&waiter, INT64_MAX), expected[index]);
    }
    CHECK_INT(rt_waiter_nap_ns(&waiter, 700), 700);
    CHECK_INT(rt_waiter_nap_ns(&waiter, 0), 1);
    CHECK_INT(rt_waiter_nap_ns(&waiter, -1), 1);
}

typedef struct napper {
    pthread_t thread;
    _Atomic bool interrupted;
} napper;

static void *nap_main(void *argument)
{
    napper *self = argument;
    rt_waiter waiter = waiter_of((rt_wait_mode){0}, never_ns);
    while (rt_waiter_nap(&waiter, never_ns) != RT_E_INTERRUPTED)
        continue;
    atomic_store(&self->interrupted, true);
    return NULL;
}

static void on_signal(int number)
{
    (void)number;
}

static void a_signal_ends_a_nap_and_is_reported(void)
{
    const struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    napper one = {0};
    CHECK_INT(pthread_create(&one.thread, NULL, nap_main, &one), 0);
    while (!atomic_load(&one.interrupted)) {
        pthread_kill(one.thread, SIGUSR1);
        sched_yield();
    }
    pthread_join(one.thread, NULL);
}

/* ---- patience ---- */

/* Yields once, sleeps for no time and ends; returns whether the mode is patient after it. */
static bool patient_after(_Atomic bool *patient, bool sleeps, bool found, int64_t slept_ns)
{
    rt_waiter waiter = waiter_of((rt_wait_mode){.yields = 1, .patient = patient}, never_ns);
    (void)rt_waiter_pause(&waiter);
    if (sleeps)
        rt_waiter_sleeps(&waiter);
    waiter.spun_ns -= slept_ns; /* as if it began earlier */
    rt_waiter_end(&waiter, found);
    return atomic_load(patient);
}

static void a_short_sleep_makes_the_next_wait_patient_and_a_long_or_vain_one_does_not(void)
{
    _Atomic bool patient = false;
    CHECK(!patient_after(&patient, false, true, 0));
    uint32_t tries = 0;
    while (!patient_after(&patient, true, true, 0) && tries++ < TRIES)
        continue;
    CHECK(atomic_load(&patient));
    CHECK(patient_after(&patient, false, true, RT_NS_PER_S)); /* it never slept: no news of how long sleeps are */
    CHECK(!patient_after(&patient, true, true, RT_NS_PER_S));
    atomic_store(&patient, true);
    CHECK(!patient_after(&patient, true, false, 0));
}

static uint32_t checks_before_sleep(_Atomic bool *patient)
{
    rt_waiter waiter = waiter_of((rt_wait_mode){.spins = 2, .yields = 2, .patient = patient}, never_ns);
    uint32_t checks = 0;
    while (rt_waiter_pause(&waiter) == RT_STEP_CHECK)
        checks++;
    return checks;
}

static void a_patient_wait_checks_on_for_a_while_and_others_do_not(void)
{
    _Atomic bool patient = false;
    CHECK(checks_before_sleep(&patient) <= 4);
    atomic_store(&patient, true);
    uint32_t most = 0;
    for (uint32_t turn = 0; turn < TRIES && most <= 100; turn++) {
        uint32_t checks = checks_before_sleep(&patient);
        most = checks > most ? checks : most;
    }
    CHECK(most > 100);
    rt_waiter slept = waiter_of((rt_wait_mode){.patient = &patient}, never_ns);
    rt_waiter_sleeps(&slept);
    CHECK_INT(rt_waiter_pause(&slept), RT_STEP_SLEEP); /* patience is for the time before the first sleep */
}

static const check_test tests[] = {
    CHECK_TEST(pauses_of_share_1_double_between_their_bounds),
    CHECK_TEST(a_pause_is_at_most_its_share_of_the_wait_and_reaches_the_last),
    CHECK_TEST(a_wait_spins_and_yields_as_often_as_its_mode_says_and_then_sleeps),
    CHECK_TEST(a_mode_without_a_bound_never_sleeps_and_notices_the_end),
    CHECK_TEST(a_wait_without_sleep_makes_the_number_of_checks_it_was_given),
    CHECK_TEST(an_idle_wait_naps_for_longer_and_longer_until_its_end),
    CHECK_TEST(a_signal_ends_a_nap_and_is_reported),
    CHECK_TEST(a_short_sleep_makes_the_next_wait_patient_and_a_long_or_vain_one_does_not),
    CHECK_TEST(a_patient_wait_checks_on_for_a_while_and_others_do_not),
};
CHECK_MAIN(tests)
