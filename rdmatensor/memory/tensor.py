"""A contiguous array inside a region."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from rdmatensor import _core
from rdmatensor.errors import ClosedError, InvalidArgument, Unsupported
from rdmatensor.memory.layout import DType, Shape, nbytes_of
from rdmatensor.memory.span import Span, span_over

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from rdmatensor.memory.buffer import Buffer
    from rdmatensor.memory.span import Registered

__all__ = ["Form", "Tensor", "tensor_in"]

_HOST = (1, 0)  # DLPack's device type and number of host memory


class Form(_core.QuickForm):
    """The place and type of a tensor. Shared by the tensors that a slot holds one after the other."""

    __slots__ = ("address", "dtype", "interface", "nbytes", "offset", "readonly", "region", "shape")

    def __init__(
        self,
        address: int,
        dtype: DType,
        shape: Shape,
        *,
        region: Registered | None,
        offset: int = 0,
        readonly: bool = False,
    ) -> None:
        self.address = address
        self.dtype = dtype
        self.shape = shape
        self.nbytes = nbytes_of(shape, dtype)
        self.region = region  # None for memory outside local regions, as borrowed from a peer
        self.offset = offset
        self.readonly = readonly
        self.interface: dict[str, Any] | None = None
        """NumPy's array interface, or None where NumPy has no such type."""
        if dtype.numpy is not None:
            self.interface = {"version": 3, "shape": shape, "typestr": dtype.numpy.str, "data": (address, readonly)}
        self._describe(address, dtype.numpy, tuple(shape), dtype.dlpack, dtype.itemsize, readonly)


class Tensor(_core.QuickTensor):
    """Memory inside a region, as an array that is contiguous in row-major order.

    Made by `Region.empty` and by receiving edges. NumPy and torch see the memory itself, not a
    copy: `numpy.asarray(tensor)`, `torch.from_dlpack(tensor)`, or
    `rdmatensor.torch.as_tensor(tensor)` for every element type. The memory lives as long as the
    tensor or anything made from it, and then returns to its region, even if the region or device
    was closed before.

    A received tensor is given back with `release()`, at the end of a `with` block, or when it and
    everything made from it are gone. Its slot then belongs to the sender again, and views of it
    that remain show the next tensor.

    >>> import numpy as np
    >>> import rdmatensor as rt
    >>> with rt.Device("shm://") as device:
    ...     tensor = device.region(1 << 20).empty((2, 3), "float32")
    >>> tensor.numpy()[:] = np.arange(6).reshape(2, 3)
    >>> tensor
    <Tensor of (2, 3) float32>
    >>> float(np.asarray(tensor).sum())
    15.0
    """

    # The base class holds the form, the object that keeps the memory, the edge whose slot the
    # tensor lies in until it is released, and the edge's ticket: the tensor's number on the edge,
    # negative after the release. `release` is the base class's, too.
    __slots__ = ("__weakref__",)
    _form: Form

    @property
    def shape(self) -> Shape:
        """The sizes of its dimensions; rank 0 to 16."""
        return self._form.shape

    @property
    def dtype(self) -> str:
        """The element type by its name: "float32", "bfloat16", "float8_e4m3fn", …"""
        return self._form.dtype.name

    @property
    def itemsize(self) -> int:
        return self._form.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self._form.nbytes

    @property
    def address(self) -> int:
        """The address of its first byte in this process."""
        return self._form.address

    @property
    def readonly(self) -> bool:
        """Whether the memory may not be written to, as with a borrowed tensor."""
        return self._form.readonly

    @property
    def span(self) -> Span:
        """The range of the region in which it lies, as one end of a copy. The span keeps the tensor
        alive.
        """
        form = self.live()
        if form.region is None:
            raise Unsupported(
                "take the span", repr(self), "it lies in the peer's memory, not in a region of this process"
            )
        return span_over(form.region, form.offset, form.nbytes, self, readonly=form.readonly)

    def live(self) -> Form:
        if self._ticket < 0:
            why = "its loan is over" if self._lent else "it was released: its slot is the sender's again"
            raise ClosedError("use a tensor", repr(self), why)
        return self._form

    # ---- other libraries ----

    # `numpy`, `__array__`, `__dlpack__` and `__array_struct__` are the base class's. They call these
    # methods outside the common case.

    def _array(self) -> NDArray[Any]:
        form = self._form
        if self._ticket < 0 or form.interface is None:
            raise self._no_array()
        array: NDArray[Any] = np.ndarray(form.shape, form.dtype.numpy, self.view())
        return array

    def _no_array(self) -> Exception:
        self.live()
        why = (
            f"NumPy has no {self.dtype}: use torch.from_dlpack(tensor), rdmatensor.torch.as_tensor(tensor), or "
            "tensor.view(), which gives its bytes"
        )
        return InvalidArgument("view as an array", repr(self), why)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        interface = self._form.interface
        if interface is None or self._ticket < 0 or self._lent:
            raise AttributeError("__array_interface__")  # NumPy then asks __array__, which says why not
        return interface

    def _array_as(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self.numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"{self!r} cannot be seen as {np.dtype(dtype)} without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def view(self) -> memoryview:
        """Its bytes, not copied."""
        form = self.live()
        memory = _core.view(form.address, form.nbytes, self)
        return memory.toreadonly() if form.readonly else memory

    def __buffer__(self, _flags: int) -> memoryview:
        """The buffer that NumPy, from Python 3.12 on, asks for before `__array_interface__`."""
        if self._ticket < 0 or self._form.interface is None:
            raise BufferError(str(self._no_array()))
        return self.numpy().data

    def _dlpack(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        if stream is not None:
            raise BufferError(f"{self!r} lies in host memory, which has no streams: pass stream=None")
        if dl_device is not None and tuple(dl_device) != _HOST:
            raise BufferError(f"{self!r} lies in host memory and is shown there only, not on device {dl_device}")
        form, kind, versioned = self.live(), self._form.dtype, max_version is not None and max_version[0] >= 1
        if copy:
            copied = np.array(self.view(), np.uint8)
            address, owner, flags = _core.address_of(copied), copied, _core.DLPACK_IS_COPIED if versioned else 0
            return _core.dlpack_capsule(address, kind.dlpack, kind.itemsize, form.shape, flags, versioned, owner)
        if form.readonly and not versioned:
            raise BufferError(
                f"{self!r} is read-only, and a consumer without DLPack 1.0 cannot be told so: copy the tensor"
            )
        flags = _core.DLPACK_READ_ONLY if form.readonly else 0
        return _core.dlpack_capsule(form.address, kind.dlpack, kind.itemsize, form.shape, flags, versioned, self)

    # ---- release of received tensors ----

    def __enter__(self) -> Tensor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        form = self._form
        state = ", released" if self._ticket < 0 else ", read-only" if form.readonly else ""
        return f"<Tensor of {form.shape} {form.dtype}{state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a tensor is local memory: send it over an edge, or its bytes (tensor.view())")


def _numpy_table() -> object:
    """The table of functions that NumPy gives to extensions."""
    try:
        inside = importlib.import_module("numpy._core._multiarray_umath")
    except ImportError:  # before NumPy 2
        inside = importlib.import_module("numpy.core._multiarray_umath")
    return inside._ARRAY_API


_core.arrays(_numpy_table())


def tensor_in(region: Registered, buffer: Buffer, dtype: DType, shape: Shape) -> Tensor:
    """A tensor over a buffer of the region."""
    return Tensor(Form(region.address + buffer.offset, dtype, shape, region=region, offset=buffer.offset), buffer)
