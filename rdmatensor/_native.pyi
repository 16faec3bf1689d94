"""The compiled module: cffi's `ffi` and `lib`, and the classes and functions of csrc/python.

An edge is a QuickEdge and a channel a QuickChannel: `Any` where callers know them by a protocol.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, final

from numpy.typing import NDArray
from typing_extensions import Self, disjoint_base

from rdmatensor._core.base import RegionHandle

ffi: Any
lib: Any
DLPACK_READ_ONLY: Final = 1
DLPACK_IS_COPIED: Final = 2

@disjoint_base
class QuickTensor:
    _form: Any
    _keep: object
    _edge: Any
    _ticket: int

    @property
    def _lent(self) -> bool: ...
    def __init__(self, form: Any, keep: object, edge: Any = None, ticket: int = 0) -> None: ...
    def release(self) -> None: ...
    def numpy(self) -> NDArray[Any]: ...
    @property
    def __array_struct__(self) -> object: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]: ...
    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

@disjoint_base
class QuickForm:
    def _describe(
        self,
        address: int,
        description: Any,
        shape: tuple[int, ...],
        dlpack: int,
        itemsize: int,
        readonly: bool,
        /,
    ) -> None: ...

@disjoint_base
class QuickEdge:
    _handle: Any
    _forms: tuple[Any, ...]
    _waiting: Any
    _backlog: Any
    _kept: Any
    _pointer: int
    _slice_ns: int
    _dynamic: bool

    @property
    def _lender(self) -> int: ...
    def _forget(self) -> None: ...

@disjoint_base
class QuickLoan:
    _edge: Any
    _places: Any
    _tensor: int
    _patient: bool

    @property
    def _ticket(self) -> int: ...
    def _take(self, ns: int, /) -> int: ...
    def _send(self, ns: int, /) -> int: ...
    def __enter__(self) -> Any: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def cancel(self) -> None: ...

@disjoint_base
class QuickArrival:
    form: Any
    keep: Any
    region: int
    offset: int
    fetched: int
    in_slot: bool

    @property
    def sequence(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def address(self) -> int: ...
    @property
    def borrowed(self) -> int: ...
    @property
    def code(self) -> int: ...
    @property
    def dims(self) -> tuple[int, ...]: ...
    @property
    def busy(self) -> bool: ...
    def _take(self, edge: Any, ns: int, /) -> int: ...
    def _fetch(self, edge: Any, ns: int, /) -> int: ...
    def _borrow(self, edge: Any, /) -> int: ...
    def _leave(self, edge: Any, form: Any, keep: object, /) -> None: ...

@disjoint_base
class QuickBound:
    _edge: Any
    _pointer: int
    _address: int
    _size: int
    _tensor: int

    def __call__(self, timeout: float | None = None) -> None: ...

@disjoint_base
class QuickPrepared:
    _handle: Any
    _pointer: int
    _brief: bool

    def __call__(self, timeout: float | None = None) -> None: ...

@disjoint_base
class QuickChannel:
    _handle: Any
    _pointer: int
    _slice_ns: int
    _brief: int

    def memcpy(self, dst: Any, src: Any, *, qp: int | None = None, timeout: float | None = None) -> None: ...
    def wait_word(self, span: Any, value: int, *, timeout: float | None = None) -> None: ...

@disjoint_base
class QuickTeam:
    _handle: Any
    _pointer: int

    @property
    def _inside(self) -> int: ...
    @property
    def _collective(self) -> bool: ...
    def _progress(self, timeout_ns: int, /) -> int: ...

@disjoint_base
class QuickTeamCall:
    result: Any

    def __new__(
        cls,
        team: QuickTeam,
        kind: int,
        dtype: int,
        reduction: int,
        root: int,
        count: int,
        timeout_ns: int,
        sends: tuple[tuple[int, int], ...],
        receives: tuple[tuple[int, int], ...],
        result: object,
        keep: object,
        /,
    ) -> Self: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

@disjoint_base
class QuickTeamTransfer:
    @property
    def _team(self) -> QuickTeam: ...
    @property
    def _status(self) -> int: ...
    @property
    def _source(self) -> int: ...
    def __new__(cls, team: QuickTeam, keep: object, /) -> Self: ...
    def _begin(self, sends: bool, peer: int, tag: int, dtype: int, address: int, size: int, /) -> bool: ...
    def _wait(self, timeout_ns: int, /) -> bool: ...
    def _end(self) -> None: ...

@final
class Held:
    @property
    def number(self) -> int: ...
    def end(self) -> tuple[int, str]: ...

@final
class Block:
    @property
    def offset(self) -> int: ...

@final
class handing:
    def __init__(self, method: Callable[..., Any], /) -> None: ...
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any: ...

def receiving(method: Callable[..., None], doc: str, tensor: type[QuickTensor], /) -> Any: ...
def receiving_many(function: Callable[..., None], doc: str, /) -> Callable[..., list[Any]]: ...
def move(edge: QuickEdge, item: object, taken: list[Any], out: object = None, many: bool = False, /) -> bool: ...
def take_many(taken: list[Any], edges: tuple[Any, ...], ns: int, kind: type[QuickArrival], /) -> int: ...
def fetch_many(taken: list[Any], ns: int, /) -> int: ...
def send(
    edge: QuickEdge,
    owner: object,
    tensor: int,
    address: int,
    nbytes: int,
    ns: int,
    sending: object = None,
    /,
) -> int: ...
def send_many(
    edges: tuple[Any, ...], packed: bytearray, owners: tuple[object, ...], first: int, ns: int, /
) -> tuple[int, int]: ...
def hand(pocket: Any, item: object, taken: list[Any], thing: object, /) -> bool: ...
def hold(channel: Any, keep: object, lookup: bool, function: Callable[..., int], /, *args: object) -> int | Held: ...
def allocate(handle: RegionHandle, region: int, nbytes: int, alignment: int, /) -> Block | int: ...
def dlpack_capsule(
    address: int,
    code: int,
    itemsize: int,
    shape: tuple[int, ...],
    flags: int,
    versioned: bool,
    owner: object,
    /,
) -> object: ...
def dlpack_alive() -> int: ...
def team_reduces_with(function: Callable[[int, int, int, int, int, int], None], /) -> None: ...
def arrays(table: object, /) -> None: ...
