"""Many copies as one block of `rt_copy`, at C speed: no Python loop over the pairs on the way that goes well."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from rdmatensor import _core
from rdmatensor.buffer import Buffer
from rdmatensor.errors import InvalidArgument
from rdmatensor.region import Region
from rdmatensor.remote import Remote, RemoteSpan
from rdmatensor.span import ReadOnlySpan, Span

if TYPE_CHECKING:
    from rdmatensor.channel import Channel

__all__ = ["Local", "Pair", "as_pair", "describe", "pack"]

Local = Span | Region
"""What can be the local end of a copy."""
Pair = tuple[Any, Any]
"""Destination and source: one of them a RemoteSpan or Remote, the other a Span, Buffer or Region."""

_nbytes = attrgetter("nbytes")
_attachment = attrgetter("_attachment")
_local = attrgetter("_packed")
_write = attrgetter("_write")
_read = attrgetter("_read")
_REMOTE: frozenset[type] = frozenset((RemoteSpan, Remote))
_WRITABLE: frozenset[type] = frozenset((Span, Buffer))


def pack(channel: Channel, pairs: Iterable[Pair]) -> tuple[bytes, tuple[Pair, ...]]:
    """The pairs as rt_copy structs, and all that must be kept alive with them."""
    given = tuple(pairs)
    if not given:
        return b"", given
    try:
        return _packed(channel, given), given
    except (AttributeError, TypeError, ValueError):
        given = tuple(as_pair(pair, f"pair {index}: ") for index, pair in enumerate(given))
    return _packed(channel, given), given


def _packed(channel: Channel, given: tuple[Pair, ...]) -> bytes:
    targets, sources = zip(*given, strict=True)
    kinds = set(map(type, targets))
    if kinds <= _REMOTE:
        locals_, remotes, rest, direction = sources, targets, _write, _core.WRITE
    elif kinds <= _WRITABLE:
        locals_, remotes, rest, direction = targets, sources, _read, _core.READ
    elif len(given) == 1:
        raise _unwritable(targets[0])
    else:
        return b"".join(_packed(channel, (pair,)) for pair in given)
    if list(map(_nbytes, targets)) != list(map(_nbytes, sources)):
        raise ValueError("sizes differ")
    for attachment in set(map(_attachment, remotes)):
        attachment.live()
        if attachment.channel is not channel:
            raise _foreign(channel, attachment.channel)
    halves: list[bytes | None] = [None] * (2 * len(given))
    halves[0::2] = map(_local, locals_)
    halves[1::2] = map(rest, remotes)
    try:
        return b"".join(halves)  # type: ignore[arg-type]
    except TypeError:  # some are used for the first time, or freed
        halves[0::2] = [half or end._pack() for half, end in zip(halves[0::2], locals_, strict=True)]
        halves[1::2] = [half or end._pack(direction) for half, end in zip(halves[1::2], remotes, strict=True)]
    return b"".join(halves)  # type: ignore[arg-type]


def _unwritable(target: Any) -> Exception:
    if isinstance(target, ReadOnlySpan):
        return target.refusal()
    return TypeError(f"dst is a {type(target).__name__}")


def _foreign(channel: Channel, other: Channel) -> InvalidArgument:
    return InvalidArgument(
        "memcpy", repr(channel), f"the remote range was attached through {other!r}: attach it through this one as well"
    )


def as_pair(pair: object, where: str = "") -> Pair:
    """A pair with regions turned into spans; explains what is wrong with one that is none. Slow: only for what
    failed.
    """
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(f"{where}a copy is a pair (destination, source), not {pair!r}")
    target, source = (end.span if isinstance(end, Region) else end for end in pair)
    for name, end in (("dst", target), ("src", source)):
        if not isinstance(end, (Span, RemoteSpan)):
            raise TypeError(
                f"{where}{name} is a {type(end).__name__}: a copy goes between a local Span, Buffer or Region "
                "and a Remote or RemoteSpan of the peer; device.register(object) makes a Region of memory that you own"
            )
    if isinstance(target, RemoteSpan) == isinstance(source, RemoteSpan):
        which = "both are the peer's" if isinstance(target, RemoteSpan) else "both are local"
        raise InvalidArgument("memcpy", why=f"{where}exactly one of dst and src must be remote, but {which}")
    for end in (target, source):
        end._live()
    if target.nbytes != source.nbytes:
        raise InvalidArgument(
            "memcpy", why=f"{where}dst has {target.nbytes} bytes and src {source.nbytes}: slice one of them"
        )
    return target, source


def describe(keep: tuple[object, ...]) -> str:
    """What a transfer moved, for messages."""
    ends = [part for part in keep if isinstance(part, (Span, RemoteSpan))]
    if len(ends) == 2:
        verb = "WRITE" if isinstance(ends[0], RemoteSpan) else "READ"
        return f"{verb} of {ends[1].nbytes} bytes"
    pairs = next((part for part in keep if isinstance(part, tuple)), ())
    return f"memcpy of {len(pairs)} ranges, {sum(pair[0].nbytes for pair in pairs)} bytes"
