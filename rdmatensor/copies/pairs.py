"""The ends of copies: packed for the core, and explained when the core refuses them.

Many copies become one block of `rt_copy` at C speed: on success, no Python loop runs over the
pairs. The core refuses with a status; this module, which knows the arguments, finds the words.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from rdmatensor import _core
from rdmatensor.errors import InvalidArgument
from rdmatensor.memory.buffer import Buffer
from rdmatensor.memory.describe import Array
from rdmatensor.memory.region import Region
from rdmatensor.memory.remote import Remote, RemoteSpan
from rdmatensor.memory.span import Span, target_refusal
from rdmatensor.memory.tensor import Tensor

if TYPE_CHECKING:
    from rdmatensor.errors import RdmaError
    from rdmatensor.owners import OwningChannel

__all__ = ["Local", "Pair", "as_pair", "copy_refusal", "describe", "pack"]

Local = Span | Region | Tensor | Array
"""The local end of a copy: a range of a region, or an object that lies in a region."""
Pair = tuple[Any, Any]
"""Destination and source: one is a RemoteSpan, the other a Span, Region, Tensor or array."""

_nbytes = attrgetter("nbytes")
_attachment = attrgetter("attachment")
_local = attrgetter("_packed")
_write = attrgetter("packed_write")
_read = attrgetter("packed_read")
_REMOTE: frozenset[type] = frozenset((RemoteSpan, Remote))
_WRITABLE: frozenset[type] = frozenset((Span, Buffer))


def pack(channel: OwningChannel, pairs: Iterable[Pair]) -> tuple[bytes, tuple[Pair, ...]]:
    """The pairs as rt_copy structs, and the objects that must be kept alive with them."""
    given = tuple(pairs)
    if not given:
        return b"", given
    try:
        return _packed(channel, given), given
    except (AttributeError, TypeError, ValueError):
        given = tuple(as_pair(channel, pair, f"pair {index}: ") for index, pair in enumerate(given))
    return _packed(channel, given), given


def _packed(channel: OwningChannel, given: tuple[Pair, ...]) -> bytes:
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
    except TypeError:  # some are used for the first time, or were freed
        halves[0::2] = [half or end.pack() for half, end in zip(halves[0::2], locals_, strict=True)]
        halves[1::2] = [half or end.pack(direction) for half, end in zip(halves[1::2], remotes, strict=True)]
    return b"".join(halves)  # type: ignore[arg-type]


def _unwritable(target: Any) -> Exception:
    if isinstance(target, Span) and target.readonly:
        return target_refusal(target)
    return TypeError(f"dst is a {type(target).__name__}")


def _foreign(channel: OwningChannel, other: OwningChannel) -> InvalidArgument:
    return InvalidArgument(
        "memcpy", repr(channel), f"the remote range was attached through {other!r}: attach it through this one as well"
    )


def as_pair(channel: OwningChannel, pair: object, where: str = "") -> Pair:
    """A pair with regions, tensors and arrays turned into spans; explains what is wrong with a pair
    that is invalid. Slow, so called only after a failure.
    """
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError(f"{where}a copy is a pair (destination, source), not {pair!r}")
    target, source = (_range_of(channel, end, f"{where}{name}") for name, end in zip(("dst", "src"), pair, strict=True))
    if isinstance(target, RemoteSpan) == isinstance(source, RemoteSpan):
        which = "both are the peer's" if isinstance(target, RemoteSpan) else "both are local"
        raise InvalidArgument("memcpy", why=f"{where}exactly one of dst and src must be remote, but {which}")
    for end in (target, source):
        end.live()
    if target.nbytes != source.nbytes:
        raise InvalidArgument(
            "memcpy", why=f"{where}dst has {target.nbytes} bytes and src {source.nbytes}: slice one of them"
        )
    return target, source


def _range_of(channel: OwningChannel, end: object, name: str) -> Any:
    if isinstance(end, (Span, RemoteSpan)):
        return end
    try:
        return channel.local_range(end, name)
    except TypeError:
        raise TypeError(
            f"{name} is a {type(end).__name__}: a copy goes between a Span, Region, Tensor or array here and a "
            "RemoteSpan of the peer; device.register(object) makes a Region of memory that you own"
        ) from None


def describe(keep: tuple[object, ...]) -> str:
    """The two ends of a transfer, as text for messages."""
    ends = [part for part in keep if isinstance(part, (Span, RemoteSpan))]
    if len(ends) == 2:
        verb = "WRITE" if isinstance(ends[0], RemoteSpan) else "READ"
        return f"{verb} of {ends[1].nbytes} bytes"
    pairs = next((part for part in keep if isinstance(part, tuple)), ())
    return f"memcpy of {len(pairs)} ranges, {sum(pair[0].nbytes for pair in pairs)} bytes"


def copy_refusal(channel: OwningChannel, status: int, keep: tuple[object, ...], where: str = "") -> RdmaError:
    """The exception for copies of a channel that could not begin; `keep` holds their ends."""
    ends = [part for part in keep if isinstance(part, (Span, RemoteSpan))]
    if len(ends) != 2 or channel.state != "ready":
        return channel.refusal(status, where + describe(keep))
    target, source = ends
    remote, local = (target, source) if isinstance(target, RemoteSpan) else (source, target)
    assert isinstance(remote, RemoteSpan) and not isinstance(local, RemoteSpan)
    why = ""
    if status == _core.ACCESS:
        needed = "REMOTE_WRITE" if remote is target else "REMOTE_READ"
        why = f"the peer gave {remote.access!r}, and this needs Access.{needed} where the region is made"
    elif status == _core.CLOSED:
        why = f"{local!r} was closed"
    elif status == _core.INVALID:
        if remote.channel is not channel:
            why = f"the remote range was attached through {remote.channel!r}: attach it through this one as well"
        else:
            why = f"the local region belongs to {local.region.device!r}: use one of {channel.device!r}"
    elif status == _core.OVERLAP:
        why = "both ends share bytes of the same memory"
    elif status == _core.BOUNDS:
        why = f"{local!r} or {remote!r} reaches outside"
    return _core.failure(status, where + describe(keep), repr(channel), why)
