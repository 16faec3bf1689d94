/* help.h: the words by which both ends copy one WRITE, and the steps on them. HELP.md has the protocol.
 *
 * The initiator's part is in offer.c, the helper's in help.c. The steps here are explored in every
 * order by tests/model/help. */
#ifndef RT_PROVIDER_SHM_HELP_H
#define RT_PROVIDER_SHM_HELP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    SHM_HELP_SIZE_MIN = 64 << 10, /* below it, a copy is over before another core has seen the offer */
    SHM_PIECES_WANTED = 16,       /* fewer: one end waits longer for the other's last piece; more: more claims */
    SHM_PIECE_MIN = 16 << 10,
    SHM_PIECE_MAX = 128 << 10, /* a copy of this size takes 4 to 20 us: deadlines and signals wait for it */
};

/* In the helper's ring, written as the table of HELP.md says. */
typedef struct shm_offer {
    _Alignas(64) _Atomic uint64_t claims;
    _Atomic uint64_t target_offset, source_offset;
    _Atomic uint32_t size, piece;
    _Atomic uint32_t target_index, target_generation, source_index, source_generation;
    _Atomic uint64_t target_token[2];
    _Alignas(64) _Atomic uint32_t done;
    _Atomic uint64_t source_token[2];
} shm_offer;

/* A description, as one end holds it in private memory. */
typedef struct shm_terms {
    uint64_t claims; /* when it was read */
    uint64_t target_offset, source_offset;
    uint32_t size, piece;
    uint32_t target_index, target_generation, source_index, source_generation;
    uint64_t target_token[2], source_token[2];
} shm_terms;

/* Claims: the sequence, 32 bits; pieces claimed from the front, 16; the end of what is left, 16. */
static inline uint64_t shm_claims(uint32_t sequence, uint32_t first, uint32_t last)
{
    return (uint64_t)sequence << 32 | first << 16 | last;
}

static inline uint32_t shm_claims_sequence(uint64_t claims)
{
    return (uint32_t)(claims >> 32);
}

static inline uint32_t shm_claims_first(uint64_t claims)
{
    return (uint32_t)(claims >> 16) & 0xffff;
}

static inline uint32_t shm_claims_last(uint64_t claims)
{
    return (uint32_t)claims & 0xffff;
}

static inline uint32_t shm_piece_size(uint32_t size)
{
    uint32_t piece = (size / SHM_PIECES_WANTED + 4095) / 4096 * 4096;
    return piece < SHM_PIECE_MIN ? SHM_PIECE_MIN : piece > SHM_PIECE_MAX ? SHM_PIECE_MAX : piece;
}

static inline uint32_t shm_piece_count(const shm_terms *terms)
{
    return (terms->size + terms->piece - 1) / terms->piece;
}

/* ---- the initiator's steps ---- */

/* Describes and opens an offer, of which the initiator has claimed piece 0. No piece of the one
 * before is left to claim, and none is in a helper's hands. */
static inline void shm_offer_open(shm_offer *offer, uint32_t sequence, const shm_terms *terms)
{
    atomic_store_explicit(&offer->target_offset, terms->target_offset, memory_order_relaxed);
    atomic_store_explicit(&offer->source_offset, terms->source_offset, memory_order_relaxed);
    atomic_store_explicit(&offer->size, terms->size, memory_order_relaxed);
    atomic_store_explicit(&offer->piece, terms->piece, memory_order_relaxed);
    atomic_store_explicit(&offer->target_index, terms->target_index, memory_order_relaxed);
    atomic_store_explicit(&offer->target_generation, terms->target_generation, memory_order_relaxed);
    atomic_store_explicit(&offer->source_index, terms->source_index, memory_order_relaxed);
    atomic_store_explicit(&offer->source_generation, terms->source_generation, memory_order_relaxed);
    for (int word = 0; word < 2; word++) {
        atomic_store_explicit(&offer->target_token[word], terms->target_token[word], memory_order_relaxed);
        atomic_store_explicit(&offer->source_token[word], terms->source_token[word], memory_order_relaxed);
    }
    atomic_store_explicit(&offer->done, 0, memory_order_relaxed);
    atomic_store_explicit(&offer->claims, shm_claims(sequence, 1, shm_piece_count(terms)),
                          memory_order_release); /* pairs with shm_offer_look */
}

enum shm_claim { SHM_CLAIMED, SHM_NONE_LEFT, SHM_CLAIMS_BROKEN };

/* Claims the piece `first`, the next from the front. *last: the end of what was left, as it was
 * before and as it is now. The peer may write anything into `claims`. */
static inline enum shm_claim shm_offer_claim_first(shm_offer *offer, uint32_t sequence, uint32_t first, uint32_t *last)
{
    uint64_t claims = atomic_load_explicit(&offer->claims, memory_order_relaxed);
    for (;;) {
        uint32_t end = shm_claims_last(claims);
        if (shm_claims_sequence(claims) != sequence || shm_claims_first(claims) != first || end > *last || end < first)
            return SHM_CLAIMS_BROKEN;
        *last = end;
        if (first == end)
            return SHM_NONE_LEFT;
        if (atomic_compare_exchange_weak_explicit(&offer->claims, &claims, shm_claims(sequence, first + 1, end),
                                                  memory_order_relaxed, memory_order_relaxed))
            return SHM_CLAIMED;
    }
}

/* The pieces that helpers have finished. Their bytes are visible after this. */
static inline uint32_t shm_offer_done(const shm_offer *offer)
{
    return atomic_load_explicit(&offer->done, memory_order_acquire); /* pairs with shm_offer_did */
}

/* ---- a helper's steps ---- */

/* Whether a piece is left to claim, of what the terms then say. */
static inline bool shm_offer_look(const shm_offer *offer, shm_terms *terms_out)
{
    uint64_t claims = atomic_load_explicit(&offer->claims, memory_order_acquire); /* pairs with shm_offer_open */
    if (shm_claims_first(claims) >= shm_claims_last(claims))
        return false;
    *terms_out = (shm_terms){
        .claims = claims,
        .target_offset = atomic_load_explicit(&offer->target_offset, memory_order_relaxed),
        .source_offset = atomic_load_explicit(&offer->source_offset, memory_order_relaxed),
        .size = atomic_load_explicit(&offer->size, memory_order_relaxed),
        .piece = atomic_load_explicit(&offer->piece, memory_order_relaxed),
        .target_index = atomic_load_explicit(&offer->target_index, memory_order_relaxed),
        .target_generation = atomic_load_explicit(&offer->target_generation, memory_order_relaxed),
        .source_index = atomic_load_explicit(&offer->source_index, memory_order_relaxed),
        .source_generation = atomic_load_explicit(&offer->source_generation, memory_order_relaxed),
    };
    for (int word = 0; word < 2; word++)
        terms_out->target_token[word] = atomic_load_explicit(&offer->target_token[word], memory_order_relaxed);
    return true;
}

/* Claims the last piece that is left. False: `claims` has changed since the terms were read, which
 * may be those of another offer by now. */
static inline bool shm_offer_claim_last(shm_offer *offer, const shm_terms *terms, uint32_t *piece_out)
{
    uint64_t claims = terms->claims;
    *piece_out = shm_claims_last(claims) - 1;
    /* Acquire on success too: the terms were read before, and the piece's source is read after. */
    return atomic_compare_exchange_strong_explicit(&offer->claims, &claims, claims - 1, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

/* The piece is copied. */
static inline void shm_offer_did(shm_offer *offer)
{
    atomic_fetch_add_explicit(&offer->done, 1, memory_order_release); /* pairs with shm_offer_done */
}

#endif
