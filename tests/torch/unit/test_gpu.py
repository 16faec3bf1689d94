"""Tensors of a GPU are refused with the remedy; memory of regions serves its copies as pinned memory does."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

pytest.importorskip("torch", reason="torch is not installed: `make torch` does it")

import torch

import rdmatensor as rt
import rdmatensor.torch

if not torch.cuda.is_available():
    pytest.skip("there is no GPU here, or this torch was built without CUDA", allow_module_level=True)

COUNT = 1 << 20


@pytest.fixture
def edge() -> Iterator[tuple[rt.SendEdge, rt.RecvEdge, rt.Region]]:
    with rt.Device("shm://") as here, rt.Device("shm://") as there, there.listen() as listener:
        channel = here.connect(listener.address)
        receiver = there.recv_edge("numbers", dtype="float32", shape=(COUNT,), options=rt.EdgeOptions(slots=2))
        sender = channel.send_edge("numbers", dtype="float32", shape=(COUNT,))
        yield sender, receiver, here.region(COUNT * 4 + 4096)


def pinned(address: int, nbytes: int) -> Iterator[None]:
    runtime = torch.cuda.cudart()
    assert int(runtime.cudaHostRegister(address, nbytes, 0)) == 0
    yield
    assert int(runtime.cudaHostUnregister(address)) == 0


def test_a_tensor_of_the_gpu_is_refused_with_the_remedy(edge: tuple[rt.SendEdge, rt.RecvEdge, rt.Region]) -> None:
    sender, receiver, region = edge
    there = torch.ones(COUNT, device="cuda")
    calls = (
        lambda: sender.send(there),
        lambda: sender.prepare(there),
        lambda: sender.send_async(there),
        lambda: rt.send_many([(sender, there)]),
        lambda: region.device.register(there),
    )
    for call in calls:
        with pytest.raises((rt.InvalidArgument, TypeError), match="cuda:0"):
            call()
    sender.send(there.cpu())
    with pytest.raises((rt.InvalidArgument, TypeError), match="cuda:0"):
        receiver.recv(5.0, out=torch.empty(COUNT, device="cuda"))
    with receiver.recv(5.0) as tensor:
        assert torch.equal(rdmatensor.torch.as_tensor(tensor).cuda(), there)
    assert sender.stats.transfers == 1


def test_a_gpu_copies_straight_into_and_out_of_regions(edge: tuple[rt.SendEdge, rt.RecvEdge, rt.Region]) -> None:
    sender, receiver, region = edge
    outgoing = region.empty((COUNT,), "float32")
    source = rdmatensor.torch.as_tensor(outgoing)
    first = torch.randn(COUNT, device="cuda")
    for _ in pinned(region.address, region.nbytes):
        source.copy_(first, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        sender.send(outgoing)
        with receiver.recv(5.0) as arrived:
            back = rdmatensor.torch.as_tensor(arrived).to("cuda", non_blocking=True)
            torch.cuda.current_stream().synchronize()
        assert torch.equal(back, first)
    assert sender.stats.copies == receiver.stats.copies == 0


def test_pinned_memory_of_torch_is_registered_and_sent_where_it_lies(
    edge: tuple[rt.SendEdge, rt.RecvEdge, rt.Region],
) -> None:
    sender, receiver, _ = edge
    host = torch.empty(COUNT, pin_memory=True)
    with sender.channel.device.register(host):
        first = torch.randn(COUNT, device="cuda")
        host.copy_(first)
        sender.send(host)
        with receiver.recv(5.0) as arrived:
            assert bytes(arrived.view()) == ctypes.string_at(host.data_ptr(), host.nbytes)
    assert sender.stats.copies == 0


def test_a_process_group_refuses_tensors_of_the_gpu(tmp_path: object) -> None:
    import torch.distributed as dist

    dist.init_process_group("rdmatensor", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(Exception, match=r"(?i)cuda|no backend"):
            dist.all_reduce(torch.ones(4, device="cuda"))
        tensor = torch.ones(4)
        dist.all_reduce(tensor)
        assert torch.equal(tensor, torch.ones(4))
    finally:
        dist.destroy_process_group()
