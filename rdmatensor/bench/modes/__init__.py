"""The modes by name, in the order of the tables: ours, the limits, the peers. A new mode is one
file and one line here.
"""

from __future__ import annotations

from rdmatensor.bench.modes.base import Mode
from rdmatensor.bench.modes.borrow import Borrow
from rdmatensor.bench.modes.by_hand import ByHand, ByHandInPlace
from rdmatensor.bench.modes.copy import Copy
from rdmatensor.bench.modes.dynamic import Dynamic
from rdmatensor.bench.modes.floor import Floor, FloorTwo
from rdmatensor.bench.modes.gloo import Gloo
from rdmatensor.bench.modes.grpc import Grpc, GrpcTcp
from rdmatensor.bench.modes.iceoryx import Iceoryx, IceoryxLoan
from rdmatensor.bench.modes.loan import Loan
from rdmatensor.bench.modes.memcpy import Memcpy
from rdmatensor.bench.modes.memcpy_read import MemcpyRead
from rdmatensor.bench.modes.mooncake import Mooncake
from rdmatensor.bench.modes.mpi import Mpi
from rdmatensor.bench.modes.nixl import Nixl
from rdmatensor.bench.modes.perftest import Perftest, PerftestRead
from rdmatensor.bench.modes.rpc import RpcC, RpcMode
from rdmatensor.bench.modes.static import Static, StaticC
from rdmatensor.bench.modes.torch_rpc import TorchRpc
from rdmatensor.bench.modes.ucx import Ucx

__all__ = ["MODES", "Mode"]

_OURS: tuple[Mode, ...] = (
    Static(),
    StaticC(),
    Dynamic(),
    Borrow(),
    Loan(),
    Copy(),
    RpcMode(),
    RpcC(),
    Memcpy(),
    MemcpyRead(),
)
_LIMITS: tuple[Mode, ...] = (Floor(), FloorTwo(), Perftest(), PerftestRead())
_PEERS: tuple[Mode, ...] = (
    Mpi(),
    Ucx(),
    ByHand(),
    ByHandInPlace(),
    Iceoryx(),
    IceoryxLoan(),
    Nixl(),
    Gloo(),
    TorchRpc(),
    Grpc(),
    GrpcTcp(),
    Mooncake(),
)

MODES: dict[str, Mode] = {mode.name: mode for mode in (*_OURS, *_LIMITS, *_PEERS)}
