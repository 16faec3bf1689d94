/* registry.c: the providers of this build. */
#include <string.h>

#include "provider/provider.h"

const rt_provider *const rt_providers[] = {&rt_provider_verbs, &rt_provider_shm, &rt_provider_sim, NULL};

const rt_provider *rt_provider_find(const char *name)
{
    for (size_t index = 0; rt_providers[index] != NULL; index++)
        if (strcmp(rt_providers[index]->name, name) == 0)
            return rt_providers[index];
    return NULL;
}
