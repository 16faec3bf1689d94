/* gpus.c: the public list of GPUs, for people who ask what a machine can do. */
#include <string.h>

#include "gpu/gpu.h"
#include "rdmatensor_gpu.h"

static int entry_fill(uint32_t ordinal, rt_gpu_entry *entry, rt_detail *detail)
{
    rt_gpu_traits traits;
    rt_detail why;
    int status = rt_gpu_describe(ordinal, &traits, detail);
    if (status != RT_OK)
        return status;
    *entry = (rt_gpu_entry){
        .size = traits.size,
        .driver = traits.driver,
        .major = traits.major,
        .minor = traits.minor,
        .flush = traits.flush,
        .shares = traits.shares,
        .dma_buf = traits.dma_buf,
        .direct = traits.direct,
    };
    memcpy(entry->name, traits.name, sizeof entry->name);
    memcpy(entry->pci, traits.pci, sizeof entry->pci);
    if (rt_gpu_check_sharing(ordinal, &traits, &why) != RT_OK || rt_gpu_check_dma_buf(ordinal, &traits, &why) != RT_OK)
        memcpy(entry->why_not, why.text, sizeof entry->why_not);
    return RT_OK;
}

int rt_gpu_list(rt_gpu_entry *entries_out, int capacity, rt_detail *detail)
{
    uint32_t count = 0;
    rt_detail_clear(detail);
    int status = rt_gpu_count(&count, detail);
    for (int index = 0; status == RT_OK && index < (int)count && index < capacity; index++)
        status = entry_fill((uint32_t)index, &entries_out[index], detail);
    return status == RT_OK ? (int)count : status;
}
