"""Memory goes when it is closed and nobody holds it, and not when Python's collector comes by."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import rdmatensor as rt

SIZE = 1 << 20
SLOTS = 16
BOUND = SLOTS * SIZE  # above what a device keeps for small edges and for tensors that are fetched, below the slots


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture
def device() -> Iterator[rt.Device]:
    with rt.Device("shm://") as device:
        yield device


def test_a_region_goes_with_its_last_reference(device: rt.Device) -> None:
    region = device.region(SIZE)
    tensor = region.empty((16,), "float32")
    array = tensor.numpy()
    region.span.view()[:4] = b"abcd"
    assert region.span.nbytes == SIZE
    gone = weakref.ref(region)
    region.close()
    del region, tensor
    assert gone() is not None  # the array keeps it
    del array
    assert gone() is None


def test_a_region_that_nobody_closed_goes_too(device: rt.Device) -> None:
    region = device.register(np.zeros(SIZE, np.uint8))
    gone = weakref.ref(region)
    del region
    assert gone() is None


def exchange(
    device: rt.Device, channel: rt.Channel, name: str, shape: tuple[int, ...] | None
) -> list[weakref.ref[Any]]:
    """One tensor over a new edge, and everything closed; returns the objects that should be gone then."""
    options = rt.EdgeOptions(slots=SLOTS, rank=1)
    receiver = device.recv_edge(name, shape=shape, dtype="uint8", options=options)
    sender = channel.send_edge(name, shape=shape, dtype="uint8", options=options, timeout=300)
    region = channel.device.region(SIZE, access=rt.Access.REMOTE_READ)
    array = region.empty((SIZE,), "uint8").numpy()
    array[:] = 7
    bound = sender.prepare(array)
    bound()
    with receiver.recv(timeout=300) as tensor:
        assert int(tensor.numpy()[-1]) == 7
    sender.drain(20)
    sender.close()
    receiver.close()
    region.close()
    return [weakref.ref(thing) for thing in (receiver, sender, region, bound)]


def settled(device: rt.Device) -> int:
    """The bytes that stay registered. Slots this large go once the peer has agreed to the close: a moment later."""
    limit = time.monotonic() + 300
    while device.stats.region_bytes >= BOUND:
        assert time.monotonic() < limit, f"{device.stats} does not come below {BOUND} bytes"
        os.sched_yield()
    return device.stats.region_bytes


@pytest.mark.parametrize("shape", [(SIZE,), None], ids=["static", "dynamic"])
def test_edges_take_their_memory_with_them(device: rt.Device, shape: tuple[int, ...] | None) -> None:
    """The device keeps what it registered for small edges, for the next ones; it does not grow."""
    with rt.Device("shm://") as other, device.listen("127.0.0.1:0") as listener:
        came: list[rt.Channel] = []
        accepting = threading.Thread(target=lambda: came.append(listener.accept(timeout=300)))
        accepting.start()
        channel = other.connect(listener.address, timeout=300)
        accepting.join()
        registered = []
        for number in range(4):
            gone = exchange(device, channel, f"edge {number}", shape)
            assert [thing() for thing in gone] == [None] * 4
            registered.append((settled(device), settled(other)))
        assert registered == registered[:1] * 4
