"""A soak of tensor edges: a process sends tensors of random shape, type, size and kind, another compares every byte.

    python tests/soak_edges.py [--tensors 1000000] [--seed N] [--url shm://] [--there URL]

Both derive every tensor from the seed, its edge and its sequence (edge_soak/plan.py). Edges of every kind are in use at
once, and are made anew for every epoch. At the end of an epoch both must have counted the same for every edge, and no
tensor may be left; at the end of all, neither process may have grown. A fault is printed with a line that repeats
it, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import subprocess
import sys
import time
from statistics import median

from edge_soak.plan import GROUPS
from edge_soak.receive import Mismatch, Receiver
from edge_soak.send import Sender, resident

import rdmatensor as rt

MIB = 1 << 20
POOL_SIZE = 8 * MIB
EPOCH = 500_000  # tensors
WARM = 0.2  # of the epochs may grow
GROWTH_MAX = 24 * MIB  # from one half of the others to the other: every epoch has other edges, and slots for them
EPOCHS_MIN = 12  # for growth to mean something


class Soak:
    """The receiving side, and the process of the sending one."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.done, self.began, self.said = 0, time.monotonic(), time.monotonic()
        self.memory: list[tuple[int, int]] = []  # after each epoch: here, there
        self.number = arguments.first_epoch
        self.receiver = Receiver(arguments.url, arguments.seed, arguments.largest, POOL_SIZE, 1.5 * arguments.timeout)
        words = ["--sender", self.receiver.listener.address, "--url", arguments.there or arguments.url]
        for name in ("seed", "tensors", "largest", "first_epoch", "epoch_size", "timeout"):
            words += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
        words += ["--damage", arguments.damage] if arguments.damage else []
        self.child = subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)

    def run(self) -> None:
        self.receiver.join()
        self.began = time.monotonic()
        for number, count in epochs(self.arguments):
            self.number = number
            received = self.receiver.epoch(self.number, count, self.progress)
            told = self.hear()
            if told["sent"] != received:
                raise Mismatch(
                    f"in epoch {self.number} were sent {told['sent']} and received {received} (tensors, bytes)"
                )
            self.memory.append((resident(), told["resident"]))
        self.report(time.monotonic() - self.began)

    def hear(self) -> dict[str, object]:
        """The sender's report at the end of an epoch."""
        assert self.child.stdout is not None
        if not select.select([self.child.stdout], [], [], 60)[0]:
            raise Mismatch("the sender does not say what it has sent")
        line = self.child.stdout.readline()
        if not line:
            raise Mismatch(f"the sender ended with {self.child.wait(10)}")
        told: dict[str, object] = json.loads(line)
        return told

    def progress(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.said >= 5:
            self.said = now
            whole, seconds = self.arguments.tensors, now - self.began
            memory = (
                "resident {:.0f} MiB here, {:.0f} MiB there".format(*(size / MIB for size in self.memory[-1]))
                if self.memory
                else "epoch 0"
            )
            print(
                f"  {self.done:,} of {whole:,} ({self.done / whole:.0%}), {self.done / seconds:,.0f}/s, {memory}",
                flush=True,
            )

    def report(self, seconds: float) -> None:
        kinds = self.receiver.seen
        print("kinds of tensors and edges: " + ", ".join(f"{kind} {kinds[kind]:,}" for kind in sorted(kinds)))
        for side, sizes in zip(("receiver", "sender"), zip(*self.memory, strict=True), strict=True):
            warm = sizes[int(len(sizes) * WARM) :]
            first, second = median(warm[: (len(warm) + 1) // 2]), median(warm[len(warm) // 2 :])
            growth = (second - first) / MIB
            print(f"resident memory of the {side} after each epoch, from {len(sizes) - len(warm)} on: median "
                  f"{first / MIB:.1f} MiB in the first half, {second / MIB:.1f} MiB in the second ({growth:+.1f}), "
                  f"at most {max(warm) / MIB:.1f} MiB, at the end {sizes[-1] / MIB:.1f} MiB")  # fmt: skip
            if len(sizes) >= EPOCHS_MIN and growth * MIB > GROWTH_MAX:
                raise Mismatch(f"the {side} grew by {growth:.1f} MiB after warm-up")
        where, rate = self.receiver.device.provider, self.done / seconds
        print(f"{self.done:,} tensors over {where} in {seconds:.1f} s, {rate:,.0f}/s, {len(self.memory)} epochs: "
              "nothing lost, every byte right, both counted the same")  # fmt: skip

    def close(self) -> None:
        self.child.kill()
        self.child.wait(10)
        assert self.child.stdout is not None
        self.child.stdout.close()
        self.receiver.device.close()


def epochs(arguments: argparse.Namespace) -> list[tuple[int, int]]:
    """Numbers of epochs, and how many tensors each has."""
    left, number, found = arguments.tensors, arguments.first_epoch, []
    while left > 0:
        found.append((number, min(left, arguments.epoch_size)))
        left -= arguments.epoch_size
        number += 1
    return found


def send(arguments: argparse.Namespace) -> None:
    sender = Sender(arguments.url, arguments.seed, arguments.largest, POOL_SIZE, arguments.timeout, arguments.damage)
    sender.join(arguments.sender)
    try:
        for number, count in epochs(arguments):
            sent = sender.epoch(number, count)
            print(json.dumps({"epoch": number, "sent": sent, "resident": resident()}), flush=True)
    except rt.RdmaError:
        print("the sender's view: " + sender.dump(), file=sys.stderr, flush=True)
        raise
    sender.device.close()


def receive(arguments: argparse.Namespace) -> int:
    """The exit status."""
    print(f"seed {arguments.seed}, {arguments.tensors:,} tensors, groups of edges {', '.join(GROUPS)}", flush=True)
    soak = Soak(arguments)
    try:
        soak.run()
    except (Mismatch, rt.RdmaError, AssertionError) as error:
        print(f"FAILED in epoch {soak.number}, seed {arguments.seed}: {type(error).__name__}: {error}")
        print(f"to repeat it: python tests/soak_edges.py --seed {arguments.seed} --first-epoch {soak.number} "
              f"--tensors {arguments.epoch_size} --epoch-size {arguments.epoch_size} --largest {arguments.largest} "
              f"--url '{arguments.url}' --there '{arguments.there}'", flush=True)  # fmt: skip
        print(f"the receiver's view: {soak.receiver.dump()}", flush=True)
        return 1
    finally:
        soak.close()
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--url", default="shm://", help="the receiver's device")
    parser.add_argument("--there", default="", help="the sender's device; the same URL unless given")
    parser.add_argument("--largest", type=int, default=2 * MIB, help="bytes of a tensor")
    parser.add_argument("--epoch-size", type=int, default=EPOCH, help="tensors for which the edges stay the same")
    parser.add_argument("--first-epoch", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=60, help="seconds that a sender waits; a receiver half more")
    parser.add_argument("--damage", choices=("byte", "skip"), help="do something wrong once, which must be found")
    parser.add_argument("--sender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sender:
        send(arguments)
    else:
        sys.exit(receive(arguments))


if __name__ == "__main__":
    main()
