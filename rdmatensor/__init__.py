"""Tensors moved between processes by one-sided RDMA.

A device is opened by URL; regions are memory registered with it; a channel connects it to a peer's device; `memcpy`
moves bytes between memory here and memory there, without the peer's CPU taking part. Here both ends are in one
process, over shared memory:

>>> import numpy as np
>>> import rdmatensor as rt
>>> receiver, sender = rt.Device("shm://"), rt.Device("shm://")
>>> inbox = receiver.region(1 << 20, access=rt.Access.REMOTE_WRITE)
>>> receiver.publish("inbox", inbox)
>>> listener = receiver.listen("127.0.0.1:0")

The other process needs the address, and nothing else:

>>> channel = sender.connect(listener.address)
>>> remote = channel.lookup("inbox")
>>> source = sender.region(1 << 20).allocate(4096)
>>> source.array((32, 32), np.float32)[:] = np.eye(32)
>>> channel.memcpy(remote[:4096], source)
>>> float(inbox[:4096].array((32, 32), np.float32).sum())
32.0
>>> sender.close()
>>> receiver.close()

The exceptions are in `rdmatensor.errors`; fabrics for tests are in `rdmatensor.testing`, which this
module does not import.
"""

import rdmatensor._source  # noqa: F401 - first: where the compiled module is
from rdmatensor.channel import Channel
from rdmatensor.copies.prepared import PreparedCopy
from rdmatensor.copies.transfer import Transfer
from rdmatensor.device import Device
from rdmatensor.edges.base import Edge
from rdmatensor.edges.many import recv_many, send_many, wait_any
from rdmatensor.edges.options import EdgeOptions
from rdmatensor.edges.prepared import PreparedSend
from rdmatensor.edges.recv import RecvEdge
from rdmatensor.edges.send import SendEdge
from rdmatensor.errors import (
    AccessDenied,
    AddressError,
    AuthenticationError,
    ClosedError,
    ConnectError,
    CorruptError,
    DeadlineExceeded,
    DeviceLost,
    ForkedProcessError,
    InvalidArgument,
    LockedMemoryError,
    NameNotFound,
    NameTaken,
    OutOfBounds,
    OutOfMemory,
    OverlapError,
    OverrunError,
    PeerClosed,
    PeerLost,
    ProviderUnavailable,
    RdmaError,
    RegionBusy,
    TransferError,
    Unsupported,
)
from rdmatensor.gpus import GpuInfo, gpus
from rdmatensor.limits import Limits
from rdmatensor.listener import Listener
from rdmatensor.memory.access import Access
from rdmatensor.memory.buffer import Buffer
from rdmatensor.memory.region import Region
from rdmatensor.memory.remote import Remote, RemoteSpan
from rdmatensor.memory.span import Span
from rdmatensor.memory.tensor import Tensor
from rdmatensor.providers import DeviceInfo, ProviderInfo, providers
from rdmatensor.settings.rendezvous import new_secret
from rdmatensor.signals import dump_all, dump_on_signal
from rdmatensor.stats import AllocationStats, ChannelStats, DeviceStats, EdgeStats, RegionStats, TeamStats
from rdmatensor.team.team import PreparedCall, Team

__version__ = "0.1.0"

__all__ = [
    "Access",
    "AccessDenied",
    "AddressError",
    "AllocationStats",
    "AuthenticationError",
    "Buffer",
    "Channel",
    "ChannelStats",
    "ClosedError",
    "ConnectError",
    "CorruptError",
    "DeadlineExceeded",
    "Device",
    "DeviceInfo",
    "DeviceLost",
    "DeviceStats",
    "Edge",
    "EdgeOptions",
    "EdgeStats",
    "ForkedProcessError",
    "GpuInfo",
    "InvalidArgument",
    "Limits",
    "Listener",
    "LockedMemoryError",
    "NameNotFound",
    "NameTaken",
    "OutOfBounds",
    "OutOfMemory",
    "OverlapError",
    "OverrunError",
    "PeerClosed",
    "PeerLost",
    "PreparedCall",
    "PreparedCopy",
    "PreparedSend",
    "ProviderInfo",
    "ProviderUnavailable",
    "RdmaError",
    "RecvEdge",
    "Region",
    "RegionBusy",
    "RegionStats",
    "Remote",
    "RemoteSpan",
    "SendEdge",
    "Span",
    "Team",
    "TeamStats",
    "Tensor",
    "Transfer",
    "TransferError",
    "Unsupported",
    "dump_all",
    "dump_on_signal",
    "gpus",
    "new_secret",
    "providers",
    "recv_many",
    "send_many",
    "wait_any",
]


def __dir__() -> list[str]:
    """The public names. The modules that define them are left out, except `errors`."""
    return sorted((*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__", "errors"))
