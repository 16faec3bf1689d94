/* crc32c.c: CRC-32C three ways, chosen at run time: the instruction on three streams at once, the
 * instruction on one, tables.
 *
 * The instruction takes three cycles and one can start in each, so three independent streams run at
 * three times the speed of one. Their CRCs are joined by linearity: the CRC of A followed by n
 * bytes is crc(A) · x^(8n) mod P, plus the CRC of the n bytes. The tables are slicing-by-8; a table
 * is linear in its index, so eight constants give its 256 entries. */
#include "proto/crc32c.h"

#include <stdbool.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are folded as they lie in memory");

/* ---- tables ---- */

#define BIT(n, bit, constant) (((n) >> (bit)&1u) != 0 ? (constant) : 0u)
#define ENTRY(n, a, b, c, d, e, f, g, h)                                                                                         \
    (BIT(n, 0, a) ^ BIT(n, 1, b) ^ BIT(n, 2, c) ^ BIT(n, 3, d) ^ BIT(n, 4, e) ^ BIT(n, 5, f) ^ BIT(n, 6, g) ^ BIT(n, 7, h))
#define FOUR(n, ...) ENTRY(n, __VA_ARGS__), ENTRY((n) + 1, __VA_ARGS__), ENTRY((n) + 2, __VA_ARGS__), ENTRY((n) + 3, __VA_ARGS__)
#define SIXTEEN(n, ...) FOUR(n, __VA_ARGS__), FOUR((n) + 4, __VA_ARGS__), FOUR((n) + 8, __VA_ARGS__), FOUR((n) + 12, __VA_ARGS__)
#define SIXTY_FOUR(n, ...)                                                                                                       \
    SIXTEEN(n, __VA_ARGS__), SIXTEEN((n) + 16, __VA_ARGS__), SIXTEEN((n) + 32, __VA_ARGS__), SIXTEEN((n) + 48, __VA_ARGS__)
#define TABLE(...)                                                                                                               \
    {                                                                                                                            \
        SIXTY_FOUR(0u, __VA_ARGS__), SIXTY_FOUR(64u, __VA_ARGS__), SIXTY_FOUR(128u, __VA_ARGS__), SIXTY_FOUR(192u, __VA_ARGS__)  \
    }

/* tables[k][b] is the CRC of byte b followed by k zero bytes; each row is given by its entries 1, 2, 4, …, 128. */
static const uint32_t tables[8][256] = {
    TABLE(0xf26b8303, 0xe13b70f7, 0xc79a971f, 0x8ad958cf, 0x105ec76f, 0x20bd8ede, 0x417b1dbc, 0x82f63b78),
    TABLE(0x13a29877, 0x274530ee, 0x4e8a61dc, 0x9d14c3b8, 0x3fc5f181, 0x7f8be302, 0xff17c604, 0xfbc3faf9),
    TABLE(0xa541927e, 0x4f6f520d, 0x9edea41a, 0x38513ec5, 0x70a27d8a, 0xe144fb14, 0xc76580d9, 0x8b277743),
    TABLE(0xdd45aab8, 0xbf672381, 0x7b2231f3, 0xf64463e6, 0xe964b13d, 0xd725148b, 0xaba65fe7, 0x52a0c93f),
    TABLE(0x38116fac, 0x7022df58, 0xe045beb0, 0xc5670b91, 0x8f2261d3, 0x1ba8b557, 0x37516aae, 0x6ea2d55c),
    TABLE(0xef306b19, 0xdb8ca0c3, 0xb2f53777, 0x6006181f, 0xc00c303e, 0x85f4168d, 0x0e045beb, 0x1c08b7d6),
    TABLE(0x68032cc8, 0xd0065990, 0xa5e0c5d1, 0x4e2dfd53, 0x9c5bfaa6, 0x3d5b83bd, 0x7ab7077a, 0xf56e0ef4),
    TABLE(0x493c7d27, 0x9278fa4e, 0x211d826d, 0x423b04da, 0x847609b4, 0x0d006599, 0x1a00cb32, 0x34019664),
};

static inline uint64_t word_load(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* Folds bytes into the inverted CRC. */
static uint32_t crc_fold_by_table(uint32_t crc, const uint8_t *bytes, size_t size)
{
    for (; size >= 8; bytes += 8, size -= 8) {
        uint64_t word = word_load(bytes) ^ crc;
        crc = 0;
        for (unsigned byte = 0; byte < 8; byte++)
            crc ^= tables[7 - byte][word >> (8 * byte) & 0xff];
    }
    for (; size > 0; bytes++, size--)
        crc = crc >> 8 ^ tables[0][(crc ^ *bytes) & 0xff];
    return crc;
}

/* ---- the instruction ---- */

#if defined(__x86_64__)
#define HAS_INSTRUCTION 1
#define WITH_INSTRUCTION __attribute__((target("sse4.2")))

static bool instruction_usable(void)
{
    return __builtin_cpu_supports("sse4.2") != 0;
}

WITH_INSTRUCTION static inline uint32_t crc_fold_u64(uint32_t crc, uint64_t word)
{
    return (uint32_t)__builtin_ia32_crc32di(crc, word);
}

WITH_INSTRUCTION static inline uint32_t crc_fold_u8(uint32_t crc, uint8_t byte)
{
    return __builtin_ia32_crc32qi(crc, byte);
}

#elif defined(__aarch64__)
#define HAS_INSTRUCTION 1
#define WITH_INSTRUCTION

/* Linux 4.11 and later answers the read of this register, with a trap, so it is read once; threads
 * that race write the same value. */
static bool instruction_usable(void)
{
    static _Atomic int known; /* 0 unknown, 1 absent, 2 present */
    int answer = known;
    if (answer == 0) {
        uint64_t features;
        __asm__("mrs %0, ID_AA64ISAR0_EL1" : "=r"(features));
        answer = (features >> 16 & 0xf) != 0 ? 2 : 1;
        known = answer;
    }
    return answer == 2;
}

static inline uint32_t crc_fold_u64(uint32_t crc, uint64_t word)
{
    __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
    return crc;
}

static inline uint32_t crc_fold_u8(uint32_t crc, uint8_t byte)
{
    __asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"(byte));
    return crc;
}
#else
#define HAS_INSTRUCTION 0
#endif

#if HAS_INSTRUCTION
enum { STREAM_SIZE = 4096 }; /* of each of the three; joining them costs as much as folding a fifth of one */

#define X_TO_ONE_STREAM 0x35d73a62u  /* x^(8 · 4096) mod P, lowest power in the highest bit */
#define X_TO_TWO_STREAMS 0x28461564u /* x^(8 · 8192) mod P */

/* The product of two polynomials modulo P. */
static uint32_t crc_multiply(uint32_t left, uint32_t right)
{
    uint32_t product = 0;
    for (int bit = 31; bit >= 0; bit--) {
        product ^= right & (0u - (left >> bit & 1u));
        right = right >> 1 ^ (0x82f63b78u & (0u - (right & 1u)));
    }
    return product;
}

WITH_INSTRUCTION static uint32_t crc_fold_three_streams(uint32_t crc, const uint8_t *bytes)
{
    uint32_t second = 0, third = 0;
    for (size_t at = 0; at < STREAM_SIZE; at += 8) {
        crc = crc_fold_u64(crc, word_load(bytes + at));
        second = crc_fold_u64(second, word_load(bytes + STREAM_SIZE + at));
        third = crc_fold_u64(third, word_load(bytes + 2 * STREAM_SIZE + at));
    }
    return crc_multiply(crc, X_TO_TWO_STREAMS) ^ crc_multiply(second, X_TO_ONE_STREAM) ^ third;
}

WITH_INSTRUCTION static uint32_t crc_fold_by_instruction(uint32_t crc, const uint8_t *bytes, size_t size)
{
    for (; size >= 3 * STREAM_SIZE; bytes += 3 * STREAM_SIZE, size -= 3 * STREAM_SIZE)
        crc = crc_fold_three_streams(crc, bytes);
    for (; size >= 8; bytes += 8, size -= 8)
        crc = crc_fold_u64(crc, word_load(bytes));
    for (; size > 0; bytes++, size--)
        crc = crc_fold_u8(crc, *bytes);
    return crc;
}
#endif

uint32_t rt_crc32c_by_table(uint32_t crc, const void *bytes, size_t size)
{
    return ~crc_fold_by_table(~crc, bytes, size);
}

uint32_t rt_crc32c(uint32_t crc, const void *bytes, size_t size)
{
#if HAS_INSTRUCTION
    if (instruction_usable())
        return ~crc_fold_by_instruction(~crc, bytes, size);
#endif
    return rt_crc32c_by_table(crc, bytes, size);
}
