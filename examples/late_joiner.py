"""A process that comes late takes the weights by one-sided READ, while who has them does nothing for it.

    python examples/late_joiner.py

The first process publishes its weights under a name and goes on with something else; it is not asked and does not
answer. The late one looks the name up and reads 64 MiB straight out of the other's memory into its own tensors.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

import rdmatensor as rt

LAYERS = {"embedding": (4096, 2048), "inner": (2048, 2048), "head": (2048, 2048)}  # 64 MiB of float32
NBYTES = sum(4 * rows * columns for rows, columns in LAYERS.values())

Weights = dict[str, NDArray[np.float32]]


def weights_in(region: rt.Region) -> Weights:
    """The layers, one behind the other, the same in both processes."""
    found: Weights = {}
    at = 0
    for name, (rows, columns) in LAYERS.items():
        found[name] = region[at : at + 4 * rows * columns].array((rows, columns), np.float32)
        at += 4 * rows * columns
    return found


def check_sum(weights: Weights) -> int:
    return sum(int(array.view(np.uint32).sum(dtype=np.uint64)) for array in weights.values())


def train(pipe: Connection) -> None:
    """Has the weights, and lets others read them."""
    with rt.Device("auto://") as device, device.listen("127.0.0.1:0") as listener:
        region = device.region(NBYTES, access=rt.Access.REMOTE_READ)
        weights = weights_in(region)
        for number, array in enumerate(weights.values()):
            array[:] = np.random.default_rng(number).standard_normal(array.shape, dtype=np.float32)
        device.publish("weights", region)
        pipe.send((listener.address, check_sum(weights)))
        pipe.recv()  # busy with other things until the end; nothing here serves the one that reads


def join_late(address: str, expected: int) -> None:
    with rt.Device("auto://") as device:
        channel = device.connect(address, timeout=30)
        remote = channel.lookup("weights", timeout=30)
        region = device.region(NBYTES)
        begin = time.perf_counter()
        channel.memcpy(region, remote, timeout=60)
        seconds = time.perf_counter() - begin
        assert check_sum(weights_in(region)) == expected, "the weights are not the same"
        print(
            f"{NBYTES:,} bytes of weights read over {device.provider}:// in {seconds * 1e3:.1f} ms, and all are right"
        )


def main() -> None:
    here, there = multiprocessing.Pipe()
    first = multiprocessing.get_context("spawn").Process(target=train, args=(there,))
    first.start()
    address, expected = here.recv()
    join_late(address, expected)
    here.send("done")
    first.join(30)
    raise SystemExit(first.exitcode)


if __name__ == "__main__":
    main()
