"""A sender whose receiver is slow to answer: what it does meanwhile is not done again and again."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
import pytest

import rdmatensor as rt

CONTEXT = multiprocessing.get_context("spawn")


def receive(pipe: Connection) -> None:
    """Receives one tensor after the word for it, and tells its sum."""
    with rt.Device("shm://", timeout=300) as device, device.listen() as listener:
        pipe.send(listener.address)
        channel = listener.accept(timeout=300)
        edge = device.recv_edge("rows")
        pipe.send("ready")
        with edge.recv(timeout=300) as tensor:
            pipe.send(float(tensor.numpy().sum()))
        pipe.recv()
        channel.close()


@pytest.fixture
def receiver() -> Iterator[tuple[int, Connection]]:
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=receive, args=(theirs,), daemon=True)
    process.start()
    assert process.pid is not None
    yield process.pid, ours
    process.kill()
    process.join()


def test_a_tensor_is_staged_once_however_long_its_receiver_takes_to_learn_where(
    receiver: tuple[int, Connection],
) -> None:
    number, pipe = receiver
    rows = np.ones((300, 1000), np.float32)
    with rt.Device("shm://", timeout=300) as device:
        channel = device.connect(pipe.recv(), timeout=300)
        edge = channel.send_edge("rows", timeout=300)
        assert pipe.recv() == "ready"
        os.kill(number, signal.SIGSTOP)
        try:
            with pytest.raises(rt.DeadlineExceeded):
                edge.send(rows, timeout=0.3)  # several slices
        finally:
            os.kill(number, signal.SIGCONT)
        assert edge.stats.copies == 0
        edge.send(rows, timeout=300)
        assert pipe.recv() == rows.sum()
        assert edge.stats.transfers == 1
        assert edge.stats.copies == 1
        pipe.send("done")
