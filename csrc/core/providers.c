/* providers.c: the public questions about providers: which there are, whether they can be used, what devices they have. */
#include <string.h>

#include "core/copy.h"

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

static const rt_provider *find(const char *name, int *status_out, rt_detail *detail)
{
    if (rt_forked()) {
        *status_out = rt_fail(detail, RT_E_FORKED, 0,
                              "this process is a child made by fork after rdmatensor was used: start it with spawn");
        return NULL;
    }
    const rt_provider *provider = rt_provider_find(name);
    if (provider == NULL)
        *status_out = rt_fail(detail, RT_E_INVALID, 0, "there is no provider \"%s\"", name);
    return provider;
}

int rt_provider_viable(const char *name, rt_detail *detail)
{
    int status = RT_OK;
    rt_detail_clear(detail);
    const rt_provider *provider = find(name, &status, detail);
    return provider != NULL ? provider->viable(detail) : status;
}

int rt_provider_list(const char *name, rt_device_entry *entries_out, int capacity, rt_detail *detail)
{
    int status = RT_OK;
    const rt_provider *provider = find(name, &status, detail);
    if (provider == NULL)
        return status;
    rt_device_info infos[64];
    int wanted = capacity < 64 ? capacity : 64;
    int count = provider->list(infos, wanted, detail);
    for (int index = 0; index < count && index < wanted; index++) {
        memcpy(entries_out[index].name, infos[index].name, sizeof entries_out[index].name);
        memcpy(entries_out[index].state, infos[index].state, sizeof entries_out[index].state);
        rt_limits_public(&infos[index].limits, &entries_out[index].limits);
    }
    return count;
}

int rt_provider_command(const char *name, const char *text, char *reply_out, size_t capacity, rt_detail *detail)
{
    int status = RT_OK;
    const rt_provider *provider = find(name, &status, detail);
    return provider != NULL ? provider->command(text, reply_out, capacity, detail) : status;
}
