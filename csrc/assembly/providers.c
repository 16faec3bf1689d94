/* providers.c: the public functions about providers: their names, whether they can be used, and
 * their devices. */
#include <string.h>

#include "assembly/dump.h"
#include "device/fork.h"
#include "provider/provider.h"

int rt_provider_count(void)
{
    int count = 0;
    while (rt_providers[count] != NULL)
        count++;
    return count;
}

const char *rt_provider_name_at(int index)
{
    return index >= 0 && index < rt_provider_count() ? rt_providers[index]->name : NULL;
}

/* The provider of this name, to be left by rt_fork_leave, or NULL. */
static const rt_provider *provider_enter(const char *name, int *status_out, rt_detail *detail)
{
    *status_out = rt_forked() ? rt_fork_refuse(detail) : rt_fork_watch(detail);
    if (*status_out != RT_OK)
        return NULL;
    const rt_provider *provider = rt_provider_find(name);
    if (provider == NULL)
        *status_out = rt_fail(detail, RT_E_INVALID, 0, "there is no provider \"%s\"", name);
    else
        rt_fork_enter();
    return provider;
}

int rt_provider_viable(const char *name, rt_detail *detail)
{
    int status;
    rt_detail_clear(detail);
    const rt_provider *provider = provider_enter(name, &status, detail);
    if (provider == NULL)
        return status;
    status = provider->viable(detail);
    rt_fork_leave();
    return status;
}

int rt_provider_list(const char *name, rt_device_entry *entries_out, int capacity, rt_detail *detail)
{
    int status;
    const rt_provider *provider = provider_enter(name, &status, detail);
    if (provider == NULL)
        return status;
    rt_device_info infos[64];
    int wanted = capacity < 64 ? capacity : 64;
    int count = provider->list(infos, wanted, detail);
    rt_fork_leave();
    for (int index = 0; index < count && index < wanted; index++) {
        memcpy(entries_out[index].name, infos[index].name, sizeof entries_out[index].name);
        memcpy(entries_out[index].state, infos[index].state, sizeof entries_out[index].state);
        rt_limits_public(&infos[index].limits, &entries_out[index].limits);
    }
    return count;
}

int rt_provider_command(const char *name, const char *text, char *reply_out, size_t capacity, rt_detail *detail)
{
    int status;
    const rt_provider *provider = provider_enter(name, &status, detail);
    if (provider == NULL)
        return status;
    status = provider->command(text, reply_out, capacity, detail);
    rt_fork_leave();
    return status;
}
