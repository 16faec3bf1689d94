/* without_verbs.h: for the tests of the verbs provider in a build without its header: each is skipped, and says why. */
#ifndef RT_TESTS_WITHOUT_VERBS_H
#define RT_TESTS_WITHOUT_VERBS_H

#include "check.h"

static void skipped(void)
{
    CHECK_SKIP("built without infiniband/verbs.h: install libibverbs-dev");
}

#undef CHECK_TEST
#define CHECK_TEST(function)                                                                                                     \
    {                                                                                                                            \
#function, skipped                                                                                                       \
    }

#endif
