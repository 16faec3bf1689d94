/* sha256.h: SHA-256 and HMAC-SHA-256 (FIPS 180-4, RFC 2104), for the proofs and tags of PROTOCOL.md
 * sections 1 and 2.
 *
 * A computation has three steps, begin, add and end; its state lies at the caller, one thread at a
 * time. No state outlives the end.
 *
 * Invariant: equal bytes in equal order give equal digests, however they are divided into calls,
 * and no branch or address depends on secret bytes.
 *
 * Driver: pure. handshake.c derives proofs and keys, frame.c computes tags. */
#ifndef RT_PROTO_SHA256_H
#define RT_PROTO_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RT_SHA256_SIZE = 32, RT_SHA256_BLOCK = 64 };

typedef struct rt_sha256_state {
    uint32_t words[8];
    uint64_t size;
    uint8_t block[RT_SHA256_BLOCK];
} rt_sha256_state;

void rt_sha256_begin(rt_sha256_state *state);
void rt_sha256_add(rt_sha256_state *state, const void *bytes, size_t size);
void rt_sha256_end(rt_sha256_state *state, uint8_t digest_out[RT_SHA256_SIZE]);

typedef struct rt_hmac_state {
    rt_sha256_state inner;
    uint8_t outer_pad[RT_SHA256_BLOCK];
} rt_hmac_state;

void rt_hmac_begin(rt_hmac_state *state, const uint8_t *key, size_t key_size);
void rt_hmac_add(rt_hmac_state *state, const void *bytes, size_t size);
void rt_hmac_end(rt_hmac_state *state, uint8_t digest_out[RT_SHA256_SIZE]);

/* The same in one call. Part of the C interface too (rdmatensor.h), so that Python and tests can
 * compare it with another implementation. */
void rt_sha256(const uint8_t *bytes, size_t size, uint8_t digest_out[RT_SHA256_SIZE]);
void rt_hmac_sha256(const uint8_t *key, size_t key_size, const uint8_t *bytes, size_t size, uint8_t digest_out[RT_SHA256_SIZE]);

/* Compares in time that does not depend on where the bytes differ. */
bool rt_equal_constant_time(const uint8_t *left, const uint8_t *right, size_t size);

#endif
