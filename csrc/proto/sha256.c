/* sha256.c: SHA-256 and HMAC-SHA-256, as FIPS 180-4 and RFC 2104 define them.
 *
 * They serve a few hundred bytes per connection: plain and checkable, not fast. No branch or
 * address depends on secret bytes. Buffers that held key material are wiped before the function
 * returns. */
#include "proto/sha256.h"

#include <string.h>

static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static inline uint32_t word_rotate_right(uint32_t word, unsigned count)
{
    return (word >> count) | (word << (32 - count));
}

static void schedule_fill(const uint8_t block[RT_SHA256_BLOCK], uint32_t schedule[64])
{
    for (size_t index = 0; index < 16; index++) {
        const uint8_t *at = block + 4 * index;
        schedule[index] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | (uint32_t)at[3];
    }
    for (size_t index = 16; index < 64; index++) {
        uint32_t early = schedule[index - 15], late = schedule[index - 2];
        uint32_t sigma0 = word_rotate_right(early, 7) ^ word_rotate_right(early, 18) ^ (early >> 3);
        uint32_t sigma1 = word_rotate_right(late, 17) ^ word_rotate_right(late, 19) ^ (late >> 10);
        schedule[index] = schedule[index - 16] + sigma0 + schedule[index - 7] + sigma1;
    }
}

static void block_compress(uint32_t words[8], const uint8_t block[RT_SHA256_BLOCK])
{
    uint32_t schedule[64];
    schedule_fill(block, schedule);
    uint32_t a = words[0], b = words[1], c = words[2], d = words[3], e = words[4], f = words[5], g = words[6], h = words[7];
    for (size_t index = 0; index < 64; index++) {
        uint32_t sum1 = word_rotate_right(e, 6) ^ word_rotate_right(e, 11) ^ word_rotate_right(e, 25);
        uint32_t choice = (e & f) ^ (~e & g);
        uint32_t first = h + sum1 + choice + round_constants[index] + schedule[index];
        uint32_t sum0 = word_rotate_right(a, 2) ^ word_rotate_right(a, 13) ^ word_rotate_right(a, 22);
        uint32_t majority = (a & b) ^ (a & c) ^ (b & c);
        h = g;
        g = f;
        f = e;
        e = d + first;
        d = c;
        c = b;
        b = a;
        a = first + sum0 + majority;
    }
    const uint32_t after[8] = {a, b, c, d, e, f, g, h};
    for (size_t index = 0; index < 8; index++)
        words[index] += after[index];
    explicit_bzero(schedule, sizeof schedule);
}

void rt_sha256_begin(rt_sha256_state *state)
{
    static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(state->words, initial, sizeof initial);
    state->size = 0;
}

void rt_sha256_add(rt_sha256_state *state, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    while (size > 0) {
        size_t held = (size_t)(state->size % RT_SHA256_BLOCK);
        size_t taken = RT_SHA256_BLOCK - held < size ? RT_SHA256_BLOCK - held : size;
        memcpy(state->block + held, at, taken);
        state->size += taken;
        at += taken;
        size -= taken;
        if (held + taken == RT_SHA256_BLOCK)
            block_compress(state->words, state->block);
    }
}

void rt_sha256_end(rt_sha256_state *state, uint8_t digest_out[RT_SHA256_SIZE])
{
    static const uint8_t padding[RT_SHA256_BLOCK] = {0x80};
    const uint64_t bits = state->size * 8;
    const size_t held = (size_t)(state->size % RT_SHA256_BLOCK);
    uint8_t bits_bytes[8]; /* big-endian, as all numbers of SHA-256 */
    for (size_t index = 0; index < 8; index++)
        bits_bytes[index] = (uint8_t)(bits >> (56 - 8 * index));
    rt_sha256_add(state, padding, held < 56 ? 56 - held : 120 - held);
    rt_sha256_add(state, bits_bytes, sizeof bits_bytes);
    for (size_t index = 0; index < RT_SHA256_SIZE; index++)
        digest_out[index] = (uint8_t)(state->words[index / 4] >> (24 - 8 * (index % 4)));
    explicit_bzero(state, sizeof *state);
}

void rt_hmac_begin(rt_hmac_state *state, const uint8_t *key, size_t key_size)
{
    uint8_t block[RT_SHA256_BLOCK] = {0}, inner_pad[RT_SHA256_BLOCK];
    if (key_size > RT_SHA256_BLOCK)
        rt_sha256(key, key_size, block);
    else if (key_size > 0)
        memcpy(block, key, key_size);
    for (size_t index = 0; index < RT_SHA256_BLOCK; index++) {
        inner_pad[index] = block[index] ^ 0x36;
        state->outer_pad[index] = block[index] ^ 0x5c;
    }
    rt_sha256_begin(&state->inner);
    rt_sha256_add(&state->inner, inner_pad, sizeof inner_pad);
    explicit_bzero(block, sizeof block);
    explicit_bzero(inner_pad, sizeof inner_pad);
}

void rt_hmac_add(rt_hmac_state *state, const void *bytes, size_t size)
{
    rt_sha256_add(&state->inner, bytes, size);
}

void rt_hmac_end(rt_hmac_state *state, uint8_t digest_out[RT_SHA256_SIZE])
{
    uint8_t inner_digest[RT_SHA256_SIZE];
    rt_sha256_end(&state->inner, inner_digest);
    rt_sha256_begin(&state->inner);
    rt_sha256_add(&state->inner, state->outer_pad, sizeof state->outer_pad);
    rt_sha256_add(&state->inner, inner_digest, sizeof inner_digest);
    rt_sha256_end(&state->inner, digest_out);
    explicit_bzero(state, sizeof *state);
}

void rt_sha256(const uint8_t *bytes, size_t size, uint8_t digest_out[RT_SHA256_SIZE])
{
    rt_sha256_state state;
    rt_sha256_begin(&state);
    rt_sha256_add(&state, bytes, size);
    rt_sha256_end(&state, digest_out);
}

void rt_hmac_sha256(const uint8_t *key, size_t key_size, const uint8_t *bytes, size_t size, uint8_t digest_out[RT_SHA256_SIZE])
{
    rt_hmac_state state;
    rt_hmac_begin(&state, key, key_size);
    rt_hmac_add(&state, bytes, size);
    rt_hmac_end(&state, digest_out);
}

bool rt_equal_constant_time(const uint8_t *left, const uint8_t *right, size_t size)
{
    volatile uint8_t difference = 0;
    for (size_t index = 0; index < size; index++)
        difference = (uint8_t)(difference | (left[index] ^ right[index]));
    return difference == 0;
}
