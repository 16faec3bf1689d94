"""Tensors of a region as tensors of torch: the same memory, every element type, bit for bit."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: `make torch` does it")

import torch

import rdmatensor as rt
from rdmatensor import _core
from rdmatensor.memory.describe import describe
from rdmatensor.memory.layout import DTYPES, DType, as_dtype
from rdmatensor.memory.tensor import Form
from rdmatensor.torch import as_tensor

VIEWS: dict[str, Callable[[rt.Tensor], torch.Tensor]] = {
    "as_tensor": as_tensor,
    "from_dlpack": torch.from_dlpack,
    "old dlpack": lambda tensor: torch.from_dlpack(tensor.__dlpack__()),
}


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a contiguous tensor, with no regard to what they mean."""
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


@pytest.mark.parametrize("view", list(VIEWS))
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (5, 7), (1, 2) * 8])
def test_torch_sees_the_memory_itself(region: rt.Region, view: str, dtype: DType, shape: tuple[int, ...]) -> None:
    tensor = region.empty(shape, getattr(torch, dtype.name))
    data = np.random.default_rng(2).integers(0, 2 if dtype.name == "bool" else 256, tensor.nbytes, np.uint8).tobytes()
    tensor.view()[:] = data
    seen = VIEWS[view](tensor)
    assert seen.dtype is getattr(torch, dtype.name)
    assert tuple(seen.shape) == shape
    assert raw(seen) == data
    if seen.numel():
        assert seen.data_ptr() == tensor.address
        seen.reshape(-1).view(torch.uint8).bitwise_xor_(1)  # written through, by whatever view
        assert bytes(tensor.view()) == bytes(byte ^ 1 for byte in data)


@pytest.mark.parametrize("view", list(VIEWS))
def test_memory_goes_back_with_the_last_tensor_of_torch(region: rt.Region, view: str) -> None:
    alive = _core.dlpack_alive()
    seen = VIEWS[view](region.empty((16, 16), "bfloat16" if view == "as_tensor" else "float32"))[2:, 3:]
    gc.collect()
    assert region.stats.allocations == 1
    del seen
    gc.collect()
    assert region.stats.allocations == 0
    assert _core.dlpack_alive() == alive


def test_memory_that_torch_sees_outlives_region_and_device() -> None:
    device = rt.Device("shm://")
    region = device.region(1 << 16)
    seen = as_tensor(region.empty((16, 16)))
    seen.fill_(3)
    region.close()
    device.close()
    del region, device
    gc.collect()
    assert float(seen.sum()) == 768.0


def test_a_read_only_tensor_can_be_looked_at(region: rt.Region) -> None:
    tensor = region.empty((4,))
    tensor.numpy()[:] = 5
    form = Form(tensor.address, as_dtype("float32"), (4,), region=region, readonly=True)
    assert as_tensor(rt.Tensor(form, tensor)).tolist() == [5.0] * 4
    with pytest.raises(BufferError, match="without DLPack 1"):
        rt.Tensor(form, tensor).__dlpack__()


def test_only_tensors_of_ours_are_taken() -> None:
    with pytest.raises(TypeError, match="not a ndarray"):
        as_tensor(np.zeros(3))  # type: ignore[arg-type]


# ---- torch's tensors as what is sent ----


def freed(tensor: torch.Tensor) -> torch.Tensor:
    """As FSDP leaves parameters that are not in use."""
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_tensors_of_torch_are_described_without_a_copy(dtype: DType) -> None:
    base = torch.zeros((4, 6), dtype=torch.uint8).to(getattr(torch, dtype.name))
    size = dtype.itemsize
    for tensor, strides in (
        (base, None),
        (base[1:3], None),
        (base[0, 0], None),
        (base[:, :0], None),
        (base.T, (size, 6 * size)),
        (base[:, ::2], (6 * size, 2 * size)),
        (base[:1].expand(3, 6), (0, size)),
        (torch.nn.Parameter(base, requires_grad=False), None),
    ):
        for _ in range(2):  # the second time takes the short way
            address, found, shape, steps, owner = describe(tensor)
            assert (address, found, shape) == (tensor.data_ptr(), dtype, tuple(tensor.shape))
            assert steps == strides
            assert owner is tensor


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:.*deprecated")
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: torch.zeros(3, device="meta"), "lies on meta"),
        (lambda: torch.eye(3).to_sparse(), "to_dense"),
        (lambda: torch.eye(3).to_sparse_csr(), "to_dense"),
        (lambda: torch.zeros(3, dtype=torch.complex64).conj(), "resolve_conj"),
        (lambda: torch.zeros(3, dtype=torch.complex64).conj().imag, "resolve_neg"),
        (lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), "element type"),
        (lambda: freed(torch.zeros(30)), "storage was freed"),
        (lambda: freed(torch.zeros(30)[10:]), "storage was freed"),
        (lambda: freed(torch.zeros(3, 10)[:, 2]), "storage was freed"),
    ],
    ids=["meta", "sparse", "csr", "conj", "neg", "quantised", "freed", "freed view", "freed column"],
)
def test_tensors_whose_bytes_are_not_their_values_are_refused(make: Callable[[], torch.Tensor], why: str) -> None:
    for _ in range(2):
        with pytest.raises(rt.InvalidArgument, match=why):
            describe(make())
