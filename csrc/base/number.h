/* number.h: small arithmetic on numbers, and numbers in text. */
#ifndef RT_BASE_NUMBER_H
#define RT_BASE_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The least power of two that is not below `least`, which is at most 1 << 31. */
static inline uint32_t rt_power_of_two(uint32_t least)
{
    uint32_t size = 1;
    while (size < least)
        size *= 2;
    return size;
}

/* Reads a decimal number of 1 to 20 digits, without sign or space. False: the text is something else, or too large. */
static inline bool rt_parse_u64(const char *text, size_t size, uint64_t *value_out)
{
    uint64_t value = 0;
    if (size == 0 || size > 20)
        return false;
    for (size_t index = 0; index < size; index++) {
        if (text[index] < '0' || text[index] > '9')
            return false;
        uint64_t digit = (uint64_t)(text[index] - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *value_out = value;
    return true;
}

#endif
