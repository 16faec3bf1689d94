"""A parameter server and its workers over static edges: gradients go into the server's slots, weights into theirs.

    python examples/parameter_server.py --workers 3

Each end of an edge that receives has a name on its device: every worker has "weights", the server one "gradients N" for
each. All tensors have known shapes, so every transfer is one WRITE into its place.
"""

from __future__ import annotations

import argparse
import multiprocessing
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

import rdmatensor as rt

FEATURES, ROWS, STEPS, RATE = 64, 64, 100, 0.3
TRUTH = np.random.default_rng(0).standard_normal(FEATURES).astype(np.float32)

Floats = NDArray[np.float32]


def work(number: int, address: str) -> None:
    """A worker: takes weights, computes the gradient of its own data, sends it."""
    data = np.random.default_rng(100 + number).standard_normal((ROWS, FEATURES)).astype(np.float32)
    with rt.Device("auto://") as device:
        weights = device.recv_edge("weights", shape=(FEATURES,), dtype="float32")
        channel = device.connect(address, timeout=30)
        gradients = channel.send_edge(f"gradients {number}", shape=(FEATURES,), dtype="float32", timeout=30)
        with device.region(1 << 16) as region:
            tensor = region.empty((FEATURES,), "float32")
            gradient = tensor.numpy()
            for _ in range(STEPS):
                with weights.recv(timeout=30) as now:
                    np.matmul(data.T, data @ (now.numpy() - TRUTH), out=gradient)
                    gradient /= ROWS
                gradients.send(tensor)
            gradients.drain(timeout=30)  # written: the server takes it, also when this one is gone


def serve(workers: int, pipe: Connection) -> None:
    """The server: sends weights to all, adds up what comes back."""
    with rt.Device("auto://") as device, device.listen("127.0.0.1:0") as listener:
        names = [f"gradients {number}" for number in range(workers)]
        gradients = [device.recv_edge(name, shape=(FEATURES,), dtype="float32") for name in names]
        pipe.send(listener.address)
        channels = [listener.accept(timeout=30) for _ in range(workers)]
        with device.region(1 << 16) as region:
            tensor = region.empty((FEATURES,), "float32")
            weights = tensor.numpy()
            weights[:] = 0.0
            edges = [
                channel.send_edge("weights", shape=(FEATURES,), dtype="float32", timeout=30) for channel in channels
            ]
            first = error(weights)
            for _ in range(STEPS):
                rt.send_many([(edge, tensor) for edge in edges], timeout=30)
                for edge in edges:
                    edge.drain(timeout=30)
                for received in rt.recv_many(gradients, timeout=30):
                    with received:
                        weights -= RATE / workers * received.numpy()
            copies = sum(edge.stats.copies for edge in edges)
        print(f"{workers} workers, {STEPS} steps over {device.provider}://, copies beside the transfers: {copies}")
        print(f"error of the weights: {first:.3f} at first, {error(weights):.3f} at last")


def error(weights: Floats) -> float:
    return float(np.linalg.norm(weights - TRUTH))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=serve, args=(options.workers, there))]
    processes[0].start()
    address = here.recv()
    processes += [context.Process(target=work, args=(number, address)) for number in range(options.workers)]
    for process in processes[1:]:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process failed")


if __name__ == "__main__":
    main()
