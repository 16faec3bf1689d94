/* preface.h: the 48 bytes with which both ends begin. PROTOCOL.md section 1 has the layout.
 *
 * A preface has the same form in every version: a magic, the version, the kind of authentication
 * and a nonce. The connector sends its preface first; the acceptor answers only a preface with the
 * right magic.
 *
 * Invariant: a peer whose preface passes speaks this version, has the same kind of authentication,
 * and did not send our own bytes back.
 *
 * Driver: pure and without state. handshake.c writes and checks prefaces; all checks are on bytes
 * that anybody may have sent. */
#ifndef RT_PROTO_PREFACE_H
#define RT_PROTO_PREFACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/limits.h"

typedef enum rt_handshake_role { RT_ROLE_CONNECTOR, RT_ROLE_ACCEPTOR } rt_handshake_role;

/* Writes this end's preface. */
void rt_preface_write(bool with_secret, const uint8_t nonce[RT_NONCE_SIZE], uint8_t preface_out[RT_PREFACE_SIZE]);

/* Checks as much of the magic as the first `size` bytes of the peer hold, so that a short greeting
 * of another protocol is named at once and not at the deadline. RT_OK or RT_E_PROTOCOL. `role` is
 * this end's. */
int rt_preface_check_magic(const uint8_t *bytes, size_t size, rt_handshake_role role, rt_detail *detail);

/* Checks a whole preface of the peer, whose magic was checked before, against our own. RT_OK, or
 * RT_E_VERSION, RT_E_AUTH or RT_E_PROTOCOL with the detail. */
int rt_preface_check(const uint8_t peer[RT_PREFACE_SIZE], const uint8_t own[RT_PREFACE_SIZE], rt_detail *detail);

#endif
