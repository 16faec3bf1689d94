/* test_table.c: base/table.h finds objects by hash, however many there are, and keeps its chains short. */
#include "base/table.h"
#include "check.h"

enum { COUNT = 5000 };

typedef struct thing {
    uint64_t number;
    rt_table_node node;
} thing;

static thing things[COUNT];

static thing *find(const rt_table *table, uint64_t number)
{
    RT_TABLE_EACH(node, table, rt_hash_u64(number))
    {
        thing *found = RT_TABLE_ENTRY(node, thing, node);
        if (found->number == number)
            return found;
    }
    return NULL;
}

static void fill(rt_table *table, uint64_t stride)
{
    for (uint32_t index = 0; index < COUNT; index++) {
        things[index] = (thing){.number = index * stride};
        CHECK(rt_table_add(table, &things[index].node, rt_hash_u64(things[index].number)));
    }
}

static uint32_t longest(const rt_table *table)
{
    uint32_t most = 0;
    for (uint32_t chain = 0; chain <= table->mask; chain++) {
        uint32_t length = 0;
        for (const rt_table_node *node = table->chains[chain]; node != NULL; node = node->next)
            length++;
        most = length > most ? length : most;
    }
    return most;
}

static void every_object_is_found_until_it_is_removed(void)
{
    rt_table table = {.chains = NULL};
    CHECK(find(&table, 0) == NULL);
    fill(&table, 1);
    CHECK_INT(table.count, COUNT);
    for (uint32_t index = 0; index < COUNT; index += 2) {
        rt_table_remove(&table, &things[index].node);
        rt_table_remove(&table, &things[index].node); /* twice is harmless */
    }
    CHECK_INT(table.count, COUNT / 2);
    for (uint32_t index = 0; index < COUNT; index++)
        CHECK(find(&table, index) == (index % 2 == 0 ? NULL : &things[index]));
    rt_table_end(&table);
    CHECK(find(&table, 1) == NULL);
}

static void chains_stay_short_and_the_table_small(void)
{
    const uint64_t strides[] = {1, 2, 64, 4096, 1ull << 32};
    for (uint32_t at = 0; at < sizeof strides / sizeof strides[0]; at++) {
        rt_table table = {.chains = NULL};
        fill(&table, strides[at]);
        CHECK(table.mask + 1 >= COUNT && table.mask + 1 <= 2 * COUNT);
        printf("numbers %" PRIu64 " apart: the longest chain has %u\n", strides[at], longest(&table));
        CHECK(longest(&table) <= 10);
        rt_table_end(&table);
    }
}

static void objects_with_one_hash_are_told_apart_by_who_asks(void)
{
    rt_table table = {.chains = NULL};
    uint32_t seen = 0;
    for (uint32_t index = 0; index < 40; index++) {
        things[index] = (thing){.number = index};
        CHECK(rt_table_add(&table, &things[index].node, index % 2));
    }
    RT_TABLE_EACH(node, &table, 1)
    seen += RT_TABLE_ENTRY(node, thing, node)->number % 2;
    CHECK_INT(seen, 20);
    rt_table_end(&table);
}

static void all_objects_can_be_taken_out(void)
{
    rt_table table = {.chains = NULL};
    uint32_t chain = 0, taken = 0;
    CHECK(rt_table_take(&table, &chain) == NULL);
    fill(&table, 3);
    for (rt_table_node *node; (node = rt_table_take(&table, &chain)) != NULL;)
        taken += !node->held;
    CHECK_INT(taken, COUNT);
    CHECK_INT(table.count, 0);
    rt_table_end(&table);
}

static void texts_hash_apart(void)
{
    CHECK(rt_hash_text("") != rt_hash_text("a"));
    CHECK(rt_hash_text("ab") != rt_hash_text("ba"));
    CHECK(rt_hash_text("weights 1") == rt_hash_text("weights 1"));
}

static const check_test tests[] = {CHECK_TEST(every_object_is_found_until_it_is_removed),
                                   CHECK_TEST(chains_stay_short_and_the_table_small),
                                   CHECK_TEST(objects_with_one_hash_are_told_apart_by_who_asks),
                                   CHECK_TEST(all_objects_can_be_taken_out), CHECK_TEST(texts_hash_apart)};
CHECK_MAIN(tests)
