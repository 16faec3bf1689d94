/* check.h: the smallest thing that runs C tests. A test is a function without arguments in a table, named as a claim:
 *
 *     static void a_sealed_frame_opens_again(void) { CHECK_INT(open(...), RT_OK); }
 *     static const check_test tests[] = {CHECK_TEST(a_sealed_frame_opens_again)};
 *     CHECK_MAIN(tests)
 *
 * A failing CHECK prints file, line and values and ends that test only; `./test_x WORD` runs the tests whose name contains
 * WORD. The last line is `N passed, N failed`; the exit status is 1 when one failed. One thread: threads report by values. */
#ifndef RT_TESTS_CHECK_H
#define RT_TESTS_CHECK_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef struct check_test {
    const char *name;
    void (*run)(void);
} check_test;

/* clang-format off */
#define CHECK_TEST(function) {#function, function}
/* clang-format on */

static jmp_buf check_jump;
static const char *check_skip_reason;

__attribute__((noreturn)) static inline void check_leave(void)
{
    fflush(stdout);
    longjmp(check_jump, 1);
}

__attribute__((unused, noreturn)) static void check_bytes_differ(const char *file, int line, const char *text, const void *left,
                                                                 const void *right, size_t size)
{
    const unsigned char *a = left, *b = right;
    size_t at = 0;
    while (at < size && a[at] == b[at])
        at++;
    printf("%s:%d: bytes differ: %s: at byte %zu of %zu: 0x%02x, wanted 0x%02x\n", file, line, text, at, size, a[at], b[at]);
    check_leave();
}

/* The condition holds. */
#define CHECK(condition)                                                                                                         \
    do {                                                                                                                         \
        if (!(condition)) {                                                                                                      \
            printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                                                       \
            check_leave();                                                                                                       \
        }                                                                                                                        \
    } while (0)

/* Two integers are equal: what was got, what was wanted. */
#define CHECK_INT(got, wanted)                                                                                                   \
    do {                                                                                                                         \
        int64_t check_got = (int64_t)(got), check_wanted = (int64_t)(wanted);                                                    \
        if (check_got != check_wanted) {                                                                                         \
            printf("%s:%d: %s is %" PRId64 ", wanted %s, which is %" PRId64 "\n", __FILE__, __LINE__, #got, check_got, #wanted,  \
                   check_wanted);                                                                                                \
            check_leave();                                                                                                       \
        }                                                                                                                        \
    } while (0)

/* Two strings are equal. */
#define CHECK_STR(got, wanted)                                                                                                   \
    do {                                                                                                                         \
        const char *check_got = (got), *check_wanted = (wanted);                                                                 \
        if (strcmp(check_got, check_wanted) != 0) {                                                                              \
            printf("%s:%d: %s is \"%s\", wanted \"%s\"\n", __FILE__, __LINE__, #got, check_got, check_wanted);                   \
            check_leave();                                                                                                       \
        }                                                                                                                        \
    } while (0)

/* The text contains the part: for error details. One that ends with an errno of 1, and is not asked for it, has a number where none
 * belongs. */
#define CHECK_HAS(text, part)                                                                                                    \
    do {                                                                                                                         \
        const char *check_text = (text), *check_part = (part);                                                                   \
        bool check_stray = strstr(check_text, ": EPERM (") != NULL && strstr(check_part, "EPERM") == NULL;                       \
        if (strstr(check_text, check_part) == NULL || check_stray) {                                                             \
            printf("%s:%d: %s is \"%s\", which lacks \"%s\"\n", __FILE__, __LINE__, #text, check_text, check_part);              \
            check_leave();                                                                                                       \
        }                                                                                                                        \
    } while (0)

/* Two byte ranges are equal. */
#define CHECK_BYTES(got, wanted, size)                                                                                           \
    do {                                                                                                                         \
        if (memcmp((got), (wanted), (size)) != 0)                                                                                \
            check_bytes_differ(__FILE__, __LINE__, #got, (got), (wanted), (size));                                               \
    } while (0)

/* Ends the test as skipped, with the reason. */
#define CHECK_SKIP(reason)                                                                                                       \
    do {                                                                                                                         \
        check_skip_reason = (reason);                                                                                            \
        check_leave();                                                                                                           \
    } while (0)

static inline int check_run(const check_test *tests, size_t count, const char *only)
{
    /* volatile: they change between setjmp and longjmp */
    volatile unsigned passed = 0, failed = 0, skipped = 0;
    for (volatile size_t index = 0; index < count; index++) {
        if (only != NULL && strstr(tests[index].name, only) == NULL)
            continue;
        check_skip_reason = NULL;
        if (setjmp(check_jump) == 0) {
            tests[index].run();
            passed = passed + 1;
        } else if (check_skip_reason != NULL) {
            printf("skipped: %s: %s\n", tests[index].name, check_skip_reason);
            skipped = skipped + 1;
        } else {
            printf("FAILED: %s\n", tests[index].name);
            failed = failed + 1;
        }
    }
    if (skipped != 0)
        printf("%u skipped\n", skipped);
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0 || passed + skipped == 0;
}

#define CHECK_MAIN(tests)                                                                                                        \
    int main(int argument_count, char **arguments)                                                                               \
    {                                                                                                                            \
        return check_run((tests), sizeof(tests) / sizeof((tests)[0]), argument_count > 1 ? arguments[1] : NULL);                 \
    }

#endif
