"""Tensors inside a region: seen without a copy, and alive as long as anything looks at them. With NumPy alone."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import rdmatensor as rt
from rdmatensor import _core
from rdmatensor.memory.describe import describe
from rdmatensor.memory.layout import DTYPES, DType


@pytest.fixture
def region() -> Iterator[rt.Region]:
    with rt.Device("shm://") as device:
        yield device.region(1 << 20)


def bits(nbytes: int, seed: int = 1) -> bytes:
    """Random bytes: in floating-point types, NaNs with payloads among them."""
    return np.random.default_rng(seed).bytes(nbytes)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (5, 7), (1,) * 16, (2,) * 12])
def test_every_type_and_rank_is_seen_where_it_lies(region: rt.Region, dtype: DType, shape: tuple[int, ...]) -> None:
    tensor = region.empty(shape, dtype.name)
    assert (tensor.shape, tensor.dtype, tensor.itemsize) == (shape, dtype.name, dtype.itemsize)
    assert tensor.nbytes == int(np.prod(shape)) * dtype.itemsize == len(tensor.view())
    data = bits(tensor.nbytes)
    tensor.view()[:] = data
    assert bytes(tensor.view()) == bytes(tensor.span.view()) == data
    assert region.address <= tensor.address < region.address + region.nbytes
    assert tensor.span.address == tensor.address
    if dtype.numpy is None:
        with pytest.raises(rt.InvalidArgument, match=f"NumPy has no {dtype.name}"):
            tensor.numpy()
        with pytest.raises(rt.InvalidArgument, match="NumPy has no"):
            np.asarray(tensor)
        return
    for array in (tensor.numpy(), np.asarray(tensor), np.from_dlpack(tensor)):
        assert (array.dtype, array.shape) == (dtype.numpy, shape)
        assert array.tobytes() == data
        assert array.size == 0 or array.__array_interface__["data"][0] == tensor.address
        assert array.flags.writeable


def test_numpy_may_ask_for_another_type_or_a_copy(region: rt.Region) -> None:
    tensor = region.empty(4, "int32")
    tensor.numpy()[:] = [1, 2, 3, 4]
    assert np.asarray(tensor, dtype="float64").tolist() == [1.0, 2.0, 3.0, 4.0]
    assert np.array(tensor, copy=True).__array_interface__["data"][0] != tensor.address
    assert tensor.__array__("float64").dtype == np.float64
    assert tensor.__array__().__array_interface__["data"][0] == tensor.address
    assert tensor.__array__(copy=True).__array_interface__["data"][0] != tensor.address
    with pytest.raises(ValueError, match="without a copy"):
        tensor.__array__("float64", copy=False)


def test_a_tensor_says_what_it_is_and_is_not_sent_by_pickle(region: rt.Region) -> None:
    tensor = region.empty((2, 3), "bfloat16")
    assert repr(tensor) == "<Tensor of (2, 3) bfloat16>"
    with pytest.raises(TypeError, match="local memory"):
        tensor.__reduce__()
    with tensor as same:
        assert same is tensor
    tensor.release()  # was not received: it stays
    tensor.view()


def test_a_tensor_for_which_there_is_no_room_is_refused(region: rt.Region) -> None:
    with pytest.raises(rt.OutOfMemory, match="no room"):
        region.empty((1 << 20, 2))
    with pytest.raises(rt.InvalidArgument, match="rank 17"):
        region.empty((1,) * 17)
    assert region.stats.allocations == 0


# ---- lifetimes ----

LOOKS: dict[str, Callable[[rt.Tensor], object]] = {
    "numpy": lambda tensor: tensor.numpy(),
    "asarray": lambda tensor: np.asarray(tensor)[1:, ::2],
    "from_dlpack": lambda tensor: np.from_dlpack(tensor),
    "capsule": lambda tensor: tensor.__dlpack__(),
    "versioned capsule": lambda tensor: tensor.__dlpack__(max_version=(1, 0)),
    "view": lambda tensor: tensor.view()[8:],
    "span": lambda tensor: tensor.span,
    "slice of the span": lambda tensor: tensor.span[8:16],
    "view of the span": lambda tensor: tensor.span.view(),
    "description": lambda tensor: describe(tensor),
}


@pytest.mark.parametrize("look", list(LOOKS))
def test_memory_goes_back_with_the_last_look(region: rt.Region, look: str) -> None:
    tensor = region.empty((16, 16))
    assert region.stats.allocations == 1
    looker = LOOKS[look](tensor)
    del tensor
    gc.collect()
    assert region.stats.allocations == 1
    del looker
    gc.collect()
    assert region.stats.allocations == 0


@pytest.mark.parametrize("look", [look for look in LOOKS if "span" not in look and look != "description"])
def test_a_look_outlives_its_region_and_its_device(look: str) -> None:
    device = rt.Device("shm://")
    region = device.region(1 << 16)
    tensor = region.empty((16, 16))
    tensor.numpy()[:] = 7
    looker = LOOKS[look](tensor)
    region.close()
    device.close()
    del tensor, region, device
    gc.collect()
    if isinstance(looker, np.ndarray):
        assert (looker == 7).all()
        if looker.flags.writeable:
            looker[:] = 8
    del looker
    gc.collect()


def test_a_capsule_nobody_uses_is_ended_while_an_exception_is_on_its_way(region: rt.Region) -> None:
    """NumPy refuses bfloat16 with the capsule in hand: its end must not swallow the reason."""
    alive = _core.dlpack_alive()
    tensor = region.empty(4, "bfloat16")
    for _ in range(3):
        with pytest.raises((RuntimeError, BufferError)):
            np.from_dlpack(tensor)
    del tensor
    gc.collect()
    assert region.stats.allocations == 0
    assert _core.dlpack_alive() == alive


def test_dlpack_says_where_the_tensor_is_and_refuses_elsewhere(region: rt.Region) -> None:
    tensor = region.empty(4)
    tensor.numpy()[:] = 3
    assert tensor.__dlpack_device__() == (1, 0)
    for refused in ({"stream": 1}, {"dl_device": (2, 0)}):
        with pytest.raises(BufferError, match="host memory"):
            tensor.__dlpack__(**refused)  # type: ignore[arg-type]
    assert "dltensor_versioned" in repr(tensor.__dlpack__(max_version=(1, 0)))
    assert '"dltensor"' in repr(tensor.__dlpack__(max_version=(0, 8)))
    copied = np.from_dlpack(tensor, copy=True)
    tensor.numpy()[:] = 4
    assert copied.tolist() == [3.0] * 4


def test_an_interpreter_that_ends_with_tensors_alive_ends_quietly() -> None:
    code = """
import numpy as np, rdmatensor as rt
device = rt.Device("shm://")
region = device.region(1 << 16)
tensor = region.empty((4, 4))
array, capsule, other = tensor.numpy(), tensor.__dlpack__(), np.from_dlpack(tensor)
ring = [tensor, region, array]
ring.append(ring)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_package_needs_no_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None  # importing it fails, as where it is not installed
import numpy as np, rdmatensor as rt
with rt.Device("shm://") as device:
    tensor = device.region(1 << 16).empty((4, 4), "bfloat16")
    assert len(np.asarray(tensor.span)) == 32
    from rdmatensor.memory.describe import describe
    assert describe(np.zeros(3))[2] == (3,)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---- what users give ----


def test_arrays_are_described_without_a_copy() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view in (array, array[1:3], array[:, ::2], array.T, array[2], array[1, 1, ...], array[:0], array[::-1]):
        for _ in range(2):  # the second time takes the short way
            address, dtype, shape, strides, owner = describe(view)
            assert (address, dtype.name, shape) == (view.__array_interface__["data"][0], "float32", view.shape)
            assert strides == (None if view.flags.c_contiguous else view.strides)
            assert owner is view


def test_a_tensor_is_described_by_itself(region: rt.Region) -> None:
    tensor = region.empty((2, 3), "float8_e5m2")
    address, dtype, shape, strides, owner = describe(tensor)
    assert (address, dtype.name, shape, strides) == (tensor.address, "float8_e5m2", (2, 3), None)
    assert owner is tensor


@pytest.mark.parametrize("make", [bytes, bytearray, lambda n: memoryview(bytes(n)), lambda n: np.zeros(n, np.uint8)])
def test_buffers_are_described_as_bytes(make: Callable[[int], object]) -> None:
    _address, dtype, shape, strides, owner = describe(make(12))
    assert (dtype.name, shape, strides) == ("uint8", (12,), None)
    assert bytes(owner) == bytes(12)  # type: ignore[call-overload]


def test_spans_and_typed_buffers_are_described_too(region: rt.Region) -> None:
    buffer = region.allocate(64)
    address, dtype, shape, *_ = describe(buffer)
    assert (address, dtype.name, shape) == (buffer.address, "uint8", (64,))
    import array

    assert describe(array.array("d", [1.0, 2.0]))[1:3] == (describe(np.zeros(2))[1], (2,))


@pytest.mark.parametrize("given", [None, 1, 1.5, "text", [1, 2], object(), np.float32(1)])
def test_an_object_that_is_no_tensor_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match="is not a tensor"):
        describe(given)


@pytest.mark.parametrize("given", [np.zeros(3, ">f4"), np.zeros(3, object), np.array(["a"]), np.zeros(2, "M8[s]")])
def test_arrays_that_are_not_numbers_in_this_byte_order_are_refused(given: object) -> None:
    with pytest.raises(rt.InvalidArgument, match=r"element type"):
        describe(given)
