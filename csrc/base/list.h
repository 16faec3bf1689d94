/* list.h: a doubly linked list through its members. The owner of the list is named where the list is declared. */
#ifndef RT_BASE_LIST_H
#define RT_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct rt_list {
    struct rt_list *next, *previous;
} rt_list;

#define RT_LIST_ENTRY(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))
#define RT_LIST_EACH(node, list) for (rt_list *node = (list)->next; node != (list); node = node->next)
/* As RT_LIST_EACH, but the visited node may be removed. */
#define RT_LIST_EACH_SAFE(node, list)                                                                                            \
    for (rt_list *node = (list)->next, *node##_next = node->next; node != (list); node = node##_next, node##_next = node->next)

static inline void rt_list_init(rt_list *list)
{
    list->next = list->previous = list;
}

static inline bool rt_list_empty(const rt_list *list)
{
    return list->next == list;
}

static inline void rt_list_append(rt_list *list, rt_list *node)
{
    node->previous = list->previous;
    node->next = list;
    list->previous->next = node;
    list->previous = node;
}

static inline void rt_list_prepend(rt_list *list, rt_list *node)
{
    rt_list_append(list->next, node);
}

/* Removes a node and leaves it pointing at itself, so that removing twice is harmless. */
static inline void rt_list_remove(rt_list *node)
{
    node->previous->next = node->next;
    node->next->previous = node->previous;
    rt_list_init(node);
}

#endif
