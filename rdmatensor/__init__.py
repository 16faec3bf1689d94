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

What can go wrong is in `rdmatensor.errors`; fabrics for tests are in `rdmatensor.testing`, which is not imported
here.
"""

from rdmatensor.access import Access
from rdmatensor.buffer import Buffer
from rdmatensor.channel import Channel
from rdmatensor.device import Device
from rdmatensor.edge import Edge
from rdmatensor.edges import recv_many, send_many, wait_any
from rdmatensor.errors import (
    AccessDenied,
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
from rdmatensor.limits import Limits
from rdmatensor.listener import Listener
from rdmatensor.prepared import PreparedCopy
from rdmatensor.providers import DeviceInfo, ProviderInfo, providers
from rdmatensor.recv_edge import RecvEdge
from rdmatensor.region import Region
from rdmatensor.remote import Remote, RemoteSpan
from rdmatensor.rendezvous import new_secret
from rdmatensor.send_edge import SendEdge
from rdmatensor.sending import BoundSend, Sending
from rdmatensor.signals import dump_all, dump_on_signal
from rdmatensor.span import Span
from rdmatensor.stats import AllocationStats, ChannelStats, DeviceStats, EdgeStats, RegionStats
from rdmatensor.tensor import Tensor
from rdmatensor.transfer import Transfer

__version__ = "0.1.0"

__all__ = [
    "Access",
    "AccessDenied",
    "AllocationStats",
    "AuthenticationError",
    "BoundSend",
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
    "EdgeStats",
    "ForkedProcessError",
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
    "PreparedCopy",
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
    "Sending",
    "Span",
    "Tensor",
    "Transfer",
    "TransferError",
    "Unsupported",
    "dump_all",
    "dump_on_signal",
    "new_secret",
    "providers",
    "recv_many",
    "send_many",
    "wait_any",
]
