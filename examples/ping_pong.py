"""A tensor goes back and forth between two processes over static edges: written straight into its place at the other.

python examples/ping_pong.py                                   starts the second process itself
RDMATENSOR_SECRET=... python examples/ping_pong.py --serve     between two hosts: here first, ...
RDMATENSOR_SECRET=... python examples/ping_pong.py HOST:7471   ... then there
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import numpy as np

import rdmatensor as rt

SHAPE, ROUNDS = (256, 256), 500


def play(device: rt.Device, channel: rt.Channel, serves: bool) -> None:
    """One side. Each receives on an edge of its own, and sends on that of the other."""
    mine, other = ("there", "here") if serves else ("here", "there")
    receiver = device.recv_edge(mine, shape=SHAPE, dtype="float32")
    sender = channel.send_edge(other, shape=SHAPE, dtype="float32", timeout=30)
    with device.region(1 << 20) as region:
        tensor = region.empty(SHAPE, "float32")  # born in registered memory, so nothing is copied before it goes
        numbers = tensor.numpy()
        send = sender.prepare(tensor)
        times = []
        for number in range(ROUNDS):
            numbers[:] = number
            begin = time.perf_counter()
            if serves:
                with receiver.recv(timeout=30) as got:  # the slot itself; given back at the end of the block
                    numbers[:] = got.numpy() + 1
                send()
                continue
            send()
            with receiver.recv(timeout=30) as got:
                times.append(time.perf_counter() - begin)
                assert np.all(got.numpy() == number + 1)
        sender.drain(timeout=30)
    if not serves:
        stats = sender.stats
        print(f"{ROUNDS} tensors of {stats.bytes // stats.transfers:,} bytes there and back over {device.provider}://")
        print(
            f"round trip, median: {statistics.median(times) * 1e6:.1f} µs; copies beside the transfer: {stats.copies}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", nargs="?", help="HOST:PORT of the one that serves (none: start one here)")
    parser.add_argument("--serve", nargs="?", const="0.0.0.0:7471", metavar="HOST:PORT", help="wait for the other")
    options = parser.parse_args()
    with rt.Device("auto://") as device:
        if options.serve:
            with device.listen(options.serve) as listener:
                print(listener.address, flush=True)
                play(device, listener.accept(timeout=60), serves=True)
            return
        if options.peer:
            play(device, device.connect(options.peer, timeout=30), serves=False)
            return
        command = [sys.executable, __file__, "--serve", "127.0.0.1:0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                play(device, device.connect(server.stdout.readline().strip(), timeout=30), serves=False)
            finally:
                server.kill()


if __name__ == "__main__":
    main()
