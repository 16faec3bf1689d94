"""The description of a user's tensor: its address, element type, shape and strides. On the path of
`send`.

Accepted are `Tensor`, NumPy arrays, objects with data_ptr(), shape, stride() and dtype like CPU
tensors of torch, and objects with the buffer protocol or __array_interface__. torch itself is never
imported here.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

import numpy as np

from rdmatensor import _core
from rdmatensor.errors import InvalidArgument
from rdmatensor.memory.layout import DType, Shape, as_dtype, is_contiguous, nbytes_of
from rdmatensor.memory.tensor import Tensor

__all__ = ["Array", "Description", "buffer_of", "describe", "probe", "writable"]


class Array(Protocol):
    """A NumPy array, a CPU tensor of torch, a memoryview."""

    @property
    def nbytes(self) -> int: ...


Description = tuple[int, DType, Shape, Shape | None, object]
"""Address, element type, shape, strides in bytes (None: contiguous in row-major order), and the
object that keeps the memory alive. Valid as long as that object lives and is not resized.
"""

_numpy_dtypes: dict[object, DType] = {}  # cache of element types seen; at most one entry for each
_torch_dtypes: dict[object, DType] = {}
_address_of = _core.address_of
_COMPLEX = 5  # DLPack's kind


def describe(given: Any) -> Description:
    """The place and type of a tensor, without copying. InvalidArgument when its bytes are not its
    values, or are not in this process's memory; TypeError when it is not a tensor.

    The shape is the object's own tuple.
    """
    kind = type(given)
    if kind is Tensor:
        form = given._form
        if given._ticket < 0:
            form = given.live()
        return form.address, form.dtype, form.shape, None, given
    if kind is np.ndarray:
        try:
            dtype = _numpy_dtypes[given.dtype]
            if given.flags.c_contiguous:
                return _address_of(given), dtype, given.shape, None, given
        except (KeyError, ValueError, BufferError):
            pass
        return _array(given)
    try:
        address = given.data_ptr
    except AttributeError:
        return _other(given)
    try:
        dtype = _torch_dtypes[given.dtype]
        if given.is_cpu and not given.is_neg() and not (dtype.dlpack == _COMPLEX and given.is_conj()):
            size = dtype.itemsize
            found = address()
            if found != given.storage_offset() * size:  # if equal, the storage is at address 0 (freed): the slow path
                if given.is_contiguous():
                    return found, dtype, given.shape, None, given
                return found, dtype, given.shape, tuple([step * size for step in given.stride()]), given
    except (KeyError, AttributeError, RuntimeError, TypeError):
        pass
    return _torch_like(given)


def _torch_like(given: Any) -> Description:
    """The slow path for tensors with data_ptr(): element types seen for the first time, and refused
    tensors.
    """
    what, on = "use a tensor", f"a {type(given).__module__}.{type(given).__name__}"
    device = getattr(given, "device", None)
    if str(getattr(device, "type", device or "cpu")) != "cpu":
        raise InvalidArgument(what, on, f"it lies on {device}, and only host memory is moved: give tensor.cpu()")
    if str(getattr(given, "layout", "torch.strided")) != "torch.strided":
        raise InvalidArgument(what, on, f"its layout is {given.layout}: give tensor.to_dense()")
    for lazy, remedy in (("is_conj", "resolve_conj"), ("is_neg", "resolve_neg")):
        if getattr(given, lazy, bool)():
            raise InvalidArgument(what, on, f"its bytes are not its values yet: give tensor.{remedy}()")
    dtype = as_dtype(given.dtype)
    try:
        shape, steps, address = tuple(given.shape), given.stride(), given.data_ptr()
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InvalidArgument(what, on, f"it has no memory of its own that could be read: {error}") from error
    if 0 not in shape and address == getattr(given, "storage_offset", int)() * dtype.itemsize:
        why = (
            "its storage was freed (untyped_storage().resize_(0), as FSDP does with parameters that are not in use): "
            "use it while it has memory"
        )
        raise InvalidArgument(what, on, why)
    if len(_torch_dtypes) < 64:
        _torch_dtypes[given.dtype] = dtype
    return _described(address, dtype, shape, tuple(step * dtype.itemsize for step in steps), given)


def _array(given: np.ndarray[Any, Any]) -> Description:
    """The slow path for NumPy arrays: element types seen for the first time, strided arrays, and
    refused ones.
    """
    dtype = as_dtype(given.dtype)
    _numpy_dtypes[given.dtype] = dtype
    address = given.__array_interface__["data"][0]
    return _described(address, dtype, given.shape, given.strides, given)


def _described(address: int, dtype: DType, shape: Shape, strides: Shape, owner: object) -> Description:
    contiguous = is_contiguous(shape, strides, dtype.itemsize)
    return address, dtype, shape, None if contiguous else strides, owner


def _other(given: Any) -> Description:
    """Handles subclasses, and objects with a buffer."""
    if isinstance(given, np.ndarray):
        return _array(given)
    if isinstance(given, (str, int, float, complex, list, tuple, np.generic)) or given is None:
        raise TypeError(f"a {type(given).__name__} is not a tensor: give a NumPy array, as numpy.asarray makes one")
    try:
        array = np.asarray(given if hasattr(given, "__array_interface__") else memoryview(given))
    except TypeError:
        raise TypeError(
            f"a {type(given).__name__} is not a tensor: give an rdmatensor.Tensor, a NumPy array, a CPU tensor of "
            "torch or an object with the buffer protocol"
        ) from None
    return _array(array)


def writable(given: Any) -> bool:
    """Whether the described tensor may be written to."""
    return not getattr(given, "readonly", False) and bool(getattr(getattr(given, "flags", None), "writeable", True))


# ---- registering ----


def buffer_of(memory: object, on: str) -> object:
    """An object with the buffer protocol: the memory itself, or a view of a torch tensor, which
    keeps the tensor.
    """
    if not hasattr(memory, "data_ptr"):
        return memory
    address, dtype, shape, strides, owner = describe(memory)
    if strides is not None:
        raise InvalidArgument("register memory", on, "the tensor is not contiguous: register the one it is a view of")
    view: Any = (ctypes.c_ubyte * nbytes_of(shape, dtype)).from_address(address)
    view.owner = owner
    return view


def probe(owner: object, on: str, *, written: bool) -> bool:
    """Whether the memory behind an object with the buffer protocol is writable; `written` requires
    that it is.
    """
    what = "register memory"
    try:
        with memoryview(owner) as view:  # type: ignore[arg-type]
            size, readonly, contiguous = view.nbytes, view.readonly, view.c_contiguous
    except TypeError:
        why = f"{type(owner).__name__} has no buffer: give a NumPy array, a bytearray, a memoryview, …"
        raise InvalidArgument(what, on, why) from None
    if not contiguous:
        raise InvalidArgument(what, on, "the buffer is not contiguous: register the array it is a view of")
    if size == 0:
        raise InvalidArgument(what, on, "the buffer is empty")
    if written and readonly:
        raise InvalidArgument(what, on, "the buffer is read-only: register it without remote write")
    return not readonly
