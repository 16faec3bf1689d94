/* test_status.c: what an error detail says of the system's errors. */
#include "base/status.h"

#include <errno.h>
#include <stdbool.h>

#include "check.h"

static void a_detail_ends_in_the_name_and_the_words_of_the_systems_error(void)
{
    rt_detail detail;
    CHECK_INT(rt_fail(&detail, RT_E_SYSTEM, ENOENT, "cannot open %s", "it"), RT_E_SYSTEM);
    CHECK_INT(strcmp(detail.text, "cannot open it: ENOENT (No such file or directory)"), 0);
    CHECK_INT(detail.error_number, ENOENT);
    rt_fail(&detail, RT_E_SYSTEM, 9999, "cannot open it");
    CHECK_INT(strcmp(detail.text, "cannot open it: errno 9999"), 0);
    rt_fail(&detail, RT_E_SYSTEM, -1, "cannot open it");
    CHECK_INT(strcmp(detail.text, "cannot open it: errno -1"), 0);
}

static void every_error_that_the_system_has_words_for_has_a_name(void)
{
    int named = 0;
    for (int number = 1; number < 200; number++) {
        const char *name = rt_errno_name(number);
        bool has_words =
            strncmp(strerror(number), "Unknown error", 13) != 0 && strcmp(strerror(number), "No error information") != 0;
        if (has_words != (name != NULL))
            printf("errno %d: %s\n", number, strerror(number));
        CHECK_INT(has_words, name != NULL);
        named += name != NULL;
    }
    CHECK(named > 100);
    CHECK_INT(strcmp(rt_errno_name(EAGAIN), "EAGAIN"), 0);
    CHECK(rt_errno_name(0) == NULL);
}

static const check_test tests[] = {
    CHECK_TEST(a_detail_ends_in_the_name_and_the_words_of_the_systems_error),
    CHECK_TEST(every_error_that_the_system_has_words_for_has_a_name),
};
CHECK_MAIN(tests)
