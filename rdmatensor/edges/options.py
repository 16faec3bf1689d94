"""The options of an edge, beyond its name and the type of its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdmatensor.memory.region import Region

__all__ = ["PLAIN", "EdgeOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeOptions:
    """The options of an edge, for `Device.recv_edge` and `Channel.send_edge`. Both ends may be
    given the same value: each uses its own fields. The first five concern both ends, which may not
    contradict each other.

    >>> import rdmatensor as rt
    >>> rt.EdgeOptions(slots=4, verify="crc32c").slots
    4
    """

    rank: int | None = None
    """Dynamic edges: the number of dimensions of every tensor; None accepts any."""
    flow: str = "credit"
    """ "credit", or "loop" (static): no release, since the caller promises not to overwrite a slot
    before it was used.
    """
    verify: str | None = None
    """ "crc32c" checks every tensor from end to end."""
    ordering: str | None = None
    """ "tail", "chained" or "immediate": asks by name for a way to carry the flag."""
    stripes: int = 1
    """The number of QPs that share a tensor."""

    slots: int = 2
    """Receiver: the number of tensors that may have arrived or be on their way before one is
    released; 1 to 128.
    """
    region: Region | None = None
    """Receiver: the region in which tensors arrive. The slots of a static edge need
    Access.REMOTE_WRITE there. None takes memory of the device's own.
    """
    alignment: int = 64
    """Receiver: the alignment of a slot."""
    eager: int | None = None
    """Receiver of a dynamic edge: tensors of up to this many bytes, at most 65536, travel in the
    record; larger ones are READ. None takes 4096, or as much as the provider's work items hold.
    """
    check_loop: bool = False
    """Receiver: checks whether the promise of flow="loop" is kept."""

    qp: int | None = None
    """Sender: the QP of the first stripe; None lets the library spread edges over the QPs."""
    staging: bool = False
    """Sender: copies every tensor into registered memory first, as if it lay outside; for
    comparison.
    """


PLAIN = EdgeOptions()
"""The options of an edge that is given none."""
