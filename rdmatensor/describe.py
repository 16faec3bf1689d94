"""What a user gives as a tensor, described: where it lies, its element type, shape and strides. On the path of `send`.

Taken are `Tensor`, NumPy arrays, whatever has data_ptr(), shape, stride() and dtype as CPU tensors of torch have, and
objects with the buffer protocol or __array_interface__. torch itself is never imported here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rdmatensor import _core
from rdmatensor.errors import InvalidArgument
from rdmatensor.layout import DType, Shape, as_dtype, is_contiguous
from rdmatensor.tensor import Tensor

__all__ = ["Description", "describe"]

Description = tuple[int, DType, Shape, Shape | None, object]
"""Address, element type, shape, strides in bytes (None: contiguous in row-major order), and what keeps it alive.

Valid as long as that lives and is not resized.
"""

_numpy_dtypes: dict[object, DType] = {}  # found before; as many as there are element types
_torch_dtypes: dict[object, DType] = {}
_address_of = _core.address_of
_COMPLEX = 5  # DLPack's kind


def describe(given: Any) -> Description:
    """Where a tensor lies and what it is, without copying. InvalidArgument when its bytes are not its values, or not
    in this process's memory; TypeError when it is no tensor.

    The shape is the object's own tuple.
    """
    kind = type(given)
    if kind is Tensor:
        form = given._form
        if given._ticket < 0:
            form = given._live()
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
            if given.is_contiguous():
                return address(), dtype, given.shape, None, given
            size = dtype.itemsize
            strides = tuple([step * size for step in given.stride()])
            return address(), dtype, given.shape, strides, given
    except (KeyError, AttributeError, RuntimeError, TypeError):
        pass
    return _torch_like(given)


def _torch_like(given: Any) -> Description:
    """The long way for tensors with data_ptr(): those seen first, and those that are refused."""
    what, on = "use a tensor", f"a {type(given).__module__}.{type(given).__name__}"
    device = getattr(given, "device", None)
    if str(getattr(device, "type", device or "cpu")) != "cpu":
        raise InvalidArgument(what, on, f"it lies on {device}, and this moves host memory: give tensor.cpu()")
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
    if len(_torch_dtypes) < 64:
        _torch_dtypes[given.dtype] = dtype
    return _described(address, dtype, shape, tuple(step * dtype.itemsize for step in steps), given)


def _array(given: np.ndarray[Any, Any]) -> Description:
    """The long way for NumPy arrays: element types seen first, strided ones, and those that are refused."""
    dtype = as_dtype(given.dtype)
    _numpy_dtypes[given.dtype] = dtype
    address = given.__array_interface__["data"][0]
    return _described(address, dtype, given.shape, given.strides, given)


def _described(address: int, dtype: DType, shape: Shape, strides: Shape, owner: object) -> Description:
    contiguous = is_contiguous(shape, strides, dtype.itemsize)
    return address, dtype, shape, None if contiguous else strides, owner


def _other(given: Any) -> Description:
    """Subclasses, and objects with a buffer."""
    if isinstance(given, np.ndarray):
        return _array(given)
    if isinstance(given, (str, int, float, complex, list, tuple, np.generic)) or given is None:
        raise TypeError(f"a {type(given).__name__} is no tensor: give a NumPy array, as numpy.asarray makes one")
    try:
        array = np.asarray(given if hasattr(given, "__array_interface__") else memoryview(given))
    except TypeError:
        raise TypeError(
            f"a {type(given).__name__} is no tensor: give an rdmatensor.Tensor, a NumPy array, a CPU tensor of torch "
            "or an object with the buffer protocol"
        ) from None
    return _array(array)
