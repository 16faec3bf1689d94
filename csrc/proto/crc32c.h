/* crc32c.h: the Castagnoli CRC of iSCSI (RFC 3720) over the bytes of tensors and records. EDGES.md
 * section 10 says where it travels.
 *
 * A CRC is a running value: a caller begins with 0 and may pass the bytes in any pieces. It is no
 * signature: it finds accidental changes only.
 *
 * Invariant: every processor computes the same number, by its instruction or by tables.
 *
 * Driver: pure; any thread. edge/send.c and edge/stage.c compute it over sent tensors,
 * edge/receive.c and edge/fetch.c over received ones. */
#ifndef RT_PROTO_CRC32C_H
#define RT_PROTO_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continues a CRC (0 to begin with) over these bytes. Any thread. Uses the processor's instruction
 * where it has one (SSE4.2, ARMv8 CRC), tables elsewhere; both give the same number. */
uint32_t rt_crc32c(uint32_t crc, const void *bytes, size_t size);

/* The same by tables, on every processor: for tests, and to compare speeds. */
uint32_t rt_crc32c_by_table(uint32_t crc, const void *bytes, size_t size);

#endif
