/* attached.c: ranges of tensors that peers read in place: announcing them, and attaching announced
 * ones. */
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"
#include "channel/remote.h"
#include "region/loan.h"
#include "team/attached.h"

void rt_announcement_make(const rt_loan *loan, rt_announcement *told_out)
{
    *told_out = (rt_announcement){.direct = loan != NULL};
    if (loan == NULL)
        return;
    told_out->handle_size = (uint32_t)loan->handle_size;
    told_out->offset = loan->offset;
    memcpy(told_out->handle, loan->handle, loan->handle_size);
}

static rt_attached *attached_find(rt_attachments *table, const rt_announcement *told)
{
    for (uint32_t index = 0; index < RT_ATTACHED_MAX && table->places != NULL; index++) {
        rt_attached *attached = &table->places[index];
        if (attached->remote != NULL && attached->handle_size == told->handle_size &&
            memcmp(attached->handle, told->handle, told->handle_size) == 0)
            return attached;
    }
    return NULL;
}

/* A free place, or that of the least recently used region; NULL when all are held, or without
 * memory. */
static rt_attached *attached_make_room(rt_attachments *table)
{
    rt_attached *oldest = NULL;
    if (table->places == NULL)
        table->places = calloc(RT_ATTACHED_MAX, sizeof *table->places);
    if (table->places == NULL)
        return NULL;
    for (uint32_t index = 0; index < RT_ATTACHED_MAX; index++) {
        rt_attached *attached = &table->places[index];
        if (attached->remote == NULL)
            return attached;
        if (attached->holders == 0 && (oldest == NULL || attached->used < oldest->used))
            oldest = attached;
    }
    if (oldest != NULL) {
        rt_remote_drop(oldest->remote);
        oldest->remote = NULL;
    }
    return oldest;
}

static int attached_make(rt_attachments *table, rt_channel *channel, const rt_announcement *told, int64_t timeout_ns,
                         rt_attached **attached_out)
{
    rt_remote *remote;
    rt_detail why;
    *attached_out = NULL;
    int status = rt_remote_attach(channel, told->handle, told->handle_size, timeout_ns, &remote, &why);
    if (status == RT_E_AGAIN || status == RT_E_DEADLINE)
        return RT_E_AGAIN;
    if (status != RT_OK) /* a range of another device, or the channel is gone: the waiting call then reports that */
        return RT_OK;
    rt_attached *attached = attached_make_room(table);
    if (attached == NULL) {
        rt_remote_drop(remote);
        return RT_OK;
    }
    attached->remote = remote;
    attached->handle_size = told->handle_size;
    memcpy(attached->handle, told->handle, told->handle_size);
    *attached_out = attached;
    return RT_OK;
}

int rt_attach(rt_attachments *table, rt_channel *channel, const rt_announcement *told, uint64_t size, int64_t timeout_ns,
              rt_attached **attached_out)
{
    *attached_out = NULL;
    if (told->direct != 1 || told->handle_size == 0 || told->handle_size > sizeof told->handle)
        return RT_OK;
    rt_attached *attached = attached_find(table, told);
    int status = attached != NULL ? RT_OK : attached_make(table, channel, told, timeout_ns, &attached);
    if (status != RT_OK || attached == NULL)
        return status;
    attached->used = ++table->uses;
    uint64_t whole = rt_remote_size(attached->remote);
    if ((rt_remote_rights(attached->remote) & RT_RIGHT_REMOTE_READ) == 0 || size > whole || told->offset > whole - size)
        return RT_OK;
    attached->holders++;
    *attached_out = attached;
    return RT_OK;
}

void rt_attached_release(rt_attached *attached)
{
    if (attached != NULL)
        attached->holders--;
}

void rt_attachments_drop(rt_attachments *table)
{
    for (uint32_t index = 0; index < RT_ATTACHED_MAX && table->places != NULL; index++)
        if (table->places[index].remote != NULL)
            rt_remote_drop(table->places[index].remote);
    free(table->places);
    table->places = NULL;
}
