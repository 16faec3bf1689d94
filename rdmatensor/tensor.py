"""Memory inside a region, seen as a contiguous array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from rdmatensor import _core
from rdmatensor.errors import ClosedError, InvalidArgument, Unsupported
from rdmatensor.layout import DType, Shape, nbytes_of
from rdmatensor.span import ReadOnlySpan, Span

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from rdmatensor.region import Region

__all__ = ["Form", "Tensor"]

_HOST = (1, 0)  # DLPack's kind and number of the device that host memory is


class Form:
    """Where a tensor lies and what it is. Shared by the tensors that a slot holds one after the other."""

    __slots__ = ("address", "dtype", "interface", "nbytes", "offset", "readonly", "region", "shape")

    def __init__(
        self,
        address: int,
        dtype: DType,
        shape: Shape,
        *,
        region: Region | None,
        offset: int = 0,
        readonly: bool = False,
    ) -> None:
        self.address = address
        self.dtype = dtype
        self.shape = shape
        self.nbytes = nbytes_of(shape, dtype)
        self.region = region  # None: no range of a region here, as what is borrowed from a peer
        self.offset = offset
        self.readonly = readonly
        self.interface: dict[str, Any] | None = None
        """What NumPy asks for, or None where it has no such type."""
        if dtype.numpy is not None:
            self.interface = {"version": 3, "shape": shape, "typestr": dtype.numpy.str, "data": (address, readonly)}


class Tensor(_core.QuickTensor):
    """Memory inside a region, as an array that is contiguous in row-major order.

    Made by `Region.empty`, and given by the edges that receive. NumPy and torch see the memory itself, not a copy:
    `numpy.asarray(tensor)`, `torch.from_dlpack(tensor)`, or `rdmatensor.torch.as_tensor(tensor)` for every element
    type. The memory lives as long as the tensor or anything made from it, and goes back to its region then; whether
    region or device were closed before makes no difference.

    A tensor that was received is given back with `release()` or at the end of a `with` block, or when it and all that
    was made from it are gone; its slot is then the sender's again, and what still looks at it sees the next tensor
    come.

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

    # Its form, what keeps the memory, the edge whose slot it lies in until it is released, and for the edge a ticket:
    # which of its tensors this is, and negative once it was released. These and `release` are the base's.
    __slots__ = ("__weakref__",)
    _form: Form

    @property
    def shape(self) -> Shape:
        """Rank 0 to 16."""
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
        """Where it begins in this process."""
        return self._form.address

    @property
    def readonly(self) -> bool:
        """Whether the memory may not be written to, as that of a tensor that is borrowed."""
        return self._form.readonly

    @property
    def span(self) -> Span:
        """The range of the region in which it lies, as one end of a copy. Keeps it alive."""
        form = self._live()
        if form.region is None:
            raise Unsupported("take the span", repr(self), "it lies in memory of the peer, which is no region here")
        kind = ReadOnlySpan if form.readonly else Span
        return kind(form.region, form.region._handle, form.offset, form.nbytes, self)

    def _live(self) -> Form:
        if self._ticket < 0:
            raise ClosedError("use a tensor", repr(self), "it was released: its slot is the sender's again")
        return self._form

    # ---- other libraries ----

    def numpy(self) -> NDArray[Any]:
        """The memory as a NumPy array, not copied. InvalidArgument for the types that NumPy lacks: bfloat16, float8,
        complex32.
        """
        form = self._form
        if self._ticket < 0 or form.interface is None:
            raise self._no_array()
        array: NDArray[Any] = np.ndarray(form.shape, form.dtype.numpy, self.view())
        return array

    def _no_array(self) -> Exception:
        self._live()
        why = (
            f"NumPy has no {self.dtype}: use torch.from_dlpack(tensor), rdmatensor.torch.as_tensor(tensor), or "
            "tensor.view(), which gives its bytes"
        )
        return InvalidArgument("view as an array", repr(self), why)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        interface = self._form.interface
        if interface is None or self._ticket < 0:
            raise AttributeError("__array_interface__")  # NumPy then asks __array__, which says why not
        return interface

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self.numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"{self!r} cannot be seen as {np.dtype(dtype)} without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def view(self) -> memoryview:
        """Its bytes, not copied."""
        form = self._live()
        memory = _core.view(form.address, form.nbytes, self)
        return memory.toreadonly() if form.readonly else memory

    def __buffer__(self, _flags: int) -> memoryview:
        """What NumPy asks for before `__array_interface__`, from Python 3.12 on."""
        if self._ticket < 0 or self._form.interface is None:
            raise BufferError(str(self._no_array()))
        return self.numpy().data

    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A DLPack capsule, of version 1.1 for a consumer that knows 1.0 or later; every element type."""
        if stream is not None:
            raise BufferError(f"{self!r} lies in host memory, which knows no stream")
        if dl_device is not None and tuple(dl_device) != _HOST:
            raise BufferError(f"{self!r} lies in host memory and is shown there only, not on device {dl_device}")
        form, kind, versioned = self._live(), self._form.dtype, max_version is not None and max_version[0] >= 1
        if copy:
            copied = np.array(self.view(), np.uint8)
            address, owner, flags = _core.address_of(copied), copied, _core.DLPACK_IS_COPIED if versioned else 0
            return _core.dlpack_capsule(address, kind.dlpack, kind.itemsize, form.shape, flags, versioned, owner)
        if form.readonly and not versioned:
            raise BufferError(f"{self!r} is read-only, which a consumer that knows no DLPack 1.0 would not be told")
        flags = _core.DLPACK_READ_ONLY if form.readonly else 0
        return _core.dlpack_capsule(form.address, kind.dlpack, kind.itemsize, form.shape, flags, versioned, self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _HOST

    # ---- giving back what was received: with `release`, or when it goes ----

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
