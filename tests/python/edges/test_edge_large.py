"""A tensor larger than 32 bits can count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rdmatensor as rt

SIZE = (1 << 32) + 4099  # no multiple of anything
MARKS = (0, 1, 4095, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, SIZE - 1)
NEEDED_KIB = 7 << 20


def available_kib() -> int:
    """Memory that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1])
    return 0


@pytest.mark.slow
def test_a_tensor_of_more_than_4_gib_arrives_whole() -> None:
    if available_kib() < NEEDED_KIB:
        pytest.skip(f"needs {NEEDED_KIB >> 20} GiB of memory, {available_kib() >> 20} are free")
    with rt.Device("shm://") as receiver, rt.Device("shm://") as sender:
        listener = receiver.listen("127.0.0.1:0")
        channel = sender.connect(listener.address)
        incoming = receiver.recv_edge("large", shape=(SIZE,), dtype="uint8", options=rt.EdgeOptions(slots=1))
        outgoing = channel.send_edge("large", shape=(SIZE,), dtype="uint8")
        source = np.zeros(SIZE, np.uint8)  # pages that were never written take no memory
        for number, mark in enumerate(MARKS, 1):
            source[mark] = number
        outgoing.send(source, timeout=300)
        with incoming.recv(timeout=300) as tensor:
            found = tensor.numpy()
            assert [int(found[mark]) for mark in MARKS] == list(range(1, len(MARKS) + 1))
            assert np.count_nonzero(found) == len(MARKS)
            del found
