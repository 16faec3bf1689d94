"""Why the core refused to begin a copy: it gives a status, and the words are found where the arguments are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdmatensor import _core
from rdmatensor.pairs import describe
from rdmatensor.remote import RemoteSpan
from rdmatensor.span import Span

if TYPE_CHECKING:
    from rdmatensor.channel import Channel
    from rdmatensor.errors import RdmaError

__all__ = ["copy_refusal"]


def copy_refusal(channel: Channel, status: int, keep: tuple[object, ...], where: str = "") -> RdmaError:
    """The exception for copies of a channel that could not begin; `keep` are their ends."""
    ends = [part for part in keep if isinstance(part, (Span, RemoteSpan))]
    if len(ends) != 2 or channel.state != "ready":
        return channel._refusal(status, where + describe(keep))
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
