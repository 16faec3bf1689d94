"""Tensors of torch over edges: born in registered memory they are sent without a copy, and received as they were."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

pytest.importorskip("torch", reason="torch is not installed: `make torch` does it")

import torch

import rdmatensor as rt
from rdmatensor.memory.layout import DTYPES
from rdmatensor.torch import as_tensor


@pytest.fixture
def joined() -> Iterator[tuple[rt.Device, rt.Channel]]:
    """A receiving device, and a channel to it from another."""
    with rt.Device("shm://") as here, rt.Device("shm://") as there, here.listen() as listener:
        yield here, there.connect(listener.address)


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
@pytest.mark.parametrize("dtype", [dtype.name for dtype in DTYPES])
def test_every_type_of_torch_goes_over_both_kinds_of_edge(joined: tuple[rt.Device, rt.Channel], dtype: str) -> None:
    here, channel = joined
    kind = getattr(torch, dtype)
    made = torch.arange(24, dtype=torch.uint8).bitwise_and(1 if dtype == "bool" else 255)
    whole = made.to(kind).reshape(4, 6)
    if dtype != "bool":
        torch.manual_seed(3)
        whole = torch.randint(0, 256, (24 * whole.itemsize,), dtype=torch.uint8).view(kind).reshape(4, 6)
    for number, tensor in enumerate((whole, whole[1:3], whole.T, whole[:, ::2], whole[0, 0], whole[:0])):
        words = {"shape": tuple(tensor.shape), "dtype": kind}
        fixed = here.recv_edge(f"static {number}", **words)
        free = here.recv_edge(f"dynamic {number}")
        channel.send_edge(f"static {number}", **words).send(tensor)
        channel.send_edge(f"dynamic {number}").send(tensor)
        for edge in (fixed, free):
            with edge.recv() as received:
                seen = as_tensor(received)
                assert seen.dtype is kind
                assert tuple(seen.shape) == tuple(tensor.shape)
                assert raw(seen) == raw(tensor)


def test_results_of_operators_are_sent_from_where_they_were_born(joined: tuple[rt.Device, rt.Channel]) -> None:
    here, channel = joined
    region = channel.device.region(8 << 20, access=rt.Access.REMOTE_READ)
    received = here.recv_edge("activations", shape=(64, 64))
    free = here.recv_edge("gradients")
    edge, other = channel.send_edge("activations", shape=(64, 64)), channel.send_edge("gradients")
    left = torch.randn(64, 64)
    for _ in range(3):
        with region.allocating():
            weight = torch.randn(64, 64, requires_grad=True)
            product = left @ weight
            product.square().sum().backward()
        assert weight.grad is not None
        edge.send(product.detach())
        other.send(weight.grad)
        with received.recv() as tensor:
            assert torch.equal(as_tensor(tensor), product)
        with free.recv(borrow=True) as tensor:
            assert torch.equal(as_tensor(tensor), weight.grad)
    for end in (edge, other, received, free):
        assert (end.stats.transfers, end.stats.copies, end.stats.registrations) == (3, 0, 0)


def test_a_tensor_of_torch_can_be_filled(joined: tuple[rt.Device, rt.Channel]) -> None:
    here, channel = joined
    received = here.recv_edge("weights")
    edge = channel.send_edge("weights")
    out = torch.zeros(100, 100)
    sent = torch.randn(100, 100)
    edge.send(sent)
    assert received.recv(out=out) is out
    assert torch.equal(out, sent)


def test_tensors_that_are_no_bytes_of_ours_are_refused(joined: tuple[rt.Device, rt.Channel]) -> None:
    here, channel = joined
    received = here.recv_edge("any")
    edge = channel.send_edge("any")
    for wrong in (
        torch.zeros(3, device="meta"),
        torch.eye(3).to_sparse(),
        torch.zeros(2, dtype=torch.complex64).conj(),
    ):
        with pytest.raises(rt.InvalidArgument):
            edge.send(wrong)
    assert edge.stats.transfers == received.stats.transfers == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_of_torch_is_registered_and_sent_where_it_lies(
    joined: tuple[rt.Device, rt.Channel], dtype: torch.dtype
) -> None:
    here, channel = joined
    tensor = torch.randn(3000).to(dtype)
    edge = here.recv_edge("registered", shape=(3000,), dtype=dtype)
    sender = channel.send_edge("registered", shape=(3000,), dtype=dtype)
    region = channel.device.register(tensor)
    assert (region.address, region.nbytes) == (tensor.data_ptr(), tensor.nbytes)
    before = raw(tensor)
    sender.send(tensor)
    alive = weakref.ref(tensor)
    del tensor
    gc.collect()
    assert alive() is not None
    with edge.recv(10.0) as arrived:
        assert raw(as_tensor(arrived)) == before
    assert sender.stats.copies == 0
    region.close()
    for refused in (torch.ones(8, 8).T, torch.ones(0), torch.ones(4).to_sparse()):
        with pytest.raises(rt.InvalidArgument):
            channel.device.register(refused)


def test_operators_compute_into_a_loan(joined: tuple[rt.Device, rt.Channel]) -> None:
    here, channel = joined
    fixed, free = here.recv_edge("static", shape=(8, 8)), here.recv_edge("dynamic")
    edge, other = channel.send_edge("static", shape=(8, 8)), channel.send_edge("dynamic")
    left, right = torch.randn(8, 8), torch.randn(8, 8)
    for sender, loan in ((edge, edge.loan()), (other, other.loan((8, 8), torch.float32))):
        for _ in range(2):
            with loan as slot:
                torch.matmul(left, right, out=as_tensor(slot))
        assert (sender.stats.lent, sender.stats.lent_in_place, sender.stats.copies) == (2, 2, 0)
    for _ in range(2):
        for received in (fixed, free):
            with received.recv() as tensor:
                assert torch.equal(as_tensor(tensor), left @ right)
    with other.loan((4,), "bfloat16") as slot:
        as_tensor(slot).copy_(torch.arange(4))
    with free.recv() as tensor:
        assert torch.equal(as_tensor(tensor), torch.arange(4).bfloat16())
