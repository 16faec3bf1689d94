"""A soak of tensor edges whose peer dies: one of two processes is killed with -9 while edges of every kind are in use.

    python tests/soak_deaths.py [--rounds 100] [--seed N]

The survivor keeps its devices for all rounds, sends in some and receives in others. The peer is killed at a random
moment after the first block of tensors. The survivor must be told that its peer is lost within the bound; a receiver
then takes what has arrived from every edge, where each tensor is whole and the one that is due, before it is told there
too. The second half of the rounds has the edges of the first half once more. At its end nothing may be left that was
not there before it: descriptors, sockets, processes, channels, tensors, memory that devices keep for edges to come.
"""

from __future__ import annotations

import argparse
import collections
import gc
import os
import random
import subprocess
import sys
import threading
import time

from edge_soak.receive import Mismatch, Receiver
from edge_soak.send import Sender, resident
from soak import BOUND, left_over, settle

import rdmatensor as rt

MIB = 1 << 20
POOL_SIZE = 8 * MIB
LARGEST = 1 * MIB
ENDLESS = 1 << 40  # tensors
TIMEOUT = 60.0
MEMORY_MORE = 4  # descriptors of memory in all: what depends on when the peer dies, and no number for each peer


def victim(role: str, address: str, seed: int, number: int) -> None:
    """Sends or receives until it is killed."""
    if role == "sends":
        sender = Sender("shm://", seed, LARGEST, POOL_SIZE, TIMEOUT)
        sender.join(address)
        sender.epoch(number, ENDLESS)
    else:
        receiver = Receiver("shm://", seed, LARGEST, POOL_SIZE, TIMEOUT)
        print(receiver.listener.address, flush=True)
        receiver.join()
        receiver.epoch(number, ENDLESS, lambda _: None)


class Round:
    """One victim, killed at one moment."""

    def __init__(self, role: str, address: str, seed: int, number: int, rng: random.Random) -> None:
        self.delay = rng.choice((0.0, rng.uniform(0, 0.01), rng.uniform(0, 0.3)))
        self.killed_at = 0.0
        self.killer: threading.Thread | None = None
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--victim", role, address, str(number), "--seed", str(seed)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Round:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.killer is not None:
            self.killer.join()
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def progress(self, *_count: int) -> None:
        """The first block is over: the peer has not long to live."""
        if self.killer is None:
            self.killer = threading.Thread(target=self.kill)
            self.killer.start()

    def kill(self) -> None:
        threading.Event().wait(self.delay)
        self.process.kill()
        self.killed_at = time.monotonic()

    def told(self, error: rt.RdmaError) -> float:
        """Seconds from the kill to the word of it."""
        if self.killer is None or not isinstance(error, rt.PeerLost) or isinstance(error, rt.PeerClosed):
            raise Mismatch(f"told {type(error).__name__} and not that the peer is lost: {error}") from error
        now = time.monotonic()
        self.killer.join()
        return max(0.0, now - self.killed_at)


class Survivor:
    """Both sides of a soak in one process, for one peer after the other."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self.receiver = Receiver("shm://", seed, LARGEST, POOL_SIZE, TIMEOUT)
        self.sender = Sender("shm://", seed, LARGEST, POOL_SIZE, TIMEOUT)
        self.rest = 0

    def receive(self, number: int) -> float:
        receiver = self.receiver
        with Round("sends", receiver.listener.address, self.seed, number, self.rng) as current:
            receiver.join()
            try:
                receiver.epoch(number, ENDLESS, current.progress)
            except rt.RdmaError as error:
                after = current.told(error)
            self.rest += receiver.take_rest()
            receiver.leave()
        settle(receiver.device)
        return after

    def send(self, number: int) -> float:
        sender = self.sender
        with Round("receives", "-", self.seed, number, self.rng) as current:
            assert current.process.stdout is not None
            sender.join(current.process.stdout.readline().strip())
            try:
                sender.epoch(number, ENDLESS, current.progress)
            except rt.RdmaError as error:
                after = current.told(error)
            for edge in sender.edges:
                self.all_lost(edge)
            sender.leave()
        settle(sender.device)
        held = sender.tensors.stats.allocations
        if held:
            raise Mismatch(f"{held} tensors are held after their edges were closed")
        return after

    def all_lost(self, edge: rt.SendEdge) -> None:
        try:
            edge.flush()
        except rt.PeerLost:
            return
        if edge.flow == "credit" and edge.failure is None:
            raise Mismatch(f"{edge!r} has not heard that its peer is lost")

    def left(self) -> tuple[dict[str, object], int]:
        """Counts of objects that a peer could leave behind, and of memory's descriptors, which devices keep."""
        gc.collect()
        names = os.listdir("/proc/self/fd")
        targets = [os.readlink(f"/proc/self/fd/{name}") for name in names if os.path.lexists(f"/proc/self/fd/{name}")]
        memory = sum(target.startswith("/memfd:") for target in targets)
        held = self.receiver.payloads.stats.allocations + self.sender.tensors.stats.allocations
        devices = self.receiver.device.stats, self.sender.device.stats
        found = {"children": left_over()["children"], "descriptors": len(targets) - memory, "tensors": held,
                 "channels": sum(stats.channels for stats in devices),
                 "quarantined": sum(stats.quarantined_bytes for stats in devices)}  # fmt: skip
        return found, memory

    def play(self, rounds: int) -> None:
        told: collections.Counter[str] = collections.Counter()
        worst, before, warm, half = 0.0, self.left(), 0, (rounds + 1) // 2
        roles = [self.rng.choice(("receive", "send")) for _ in range(half)]
        for number in range(rounds):
            role, epoch = roles[number % half], number % half
            try:
                after = self.receive(epoch) if role == "receive" else self.send(epoch)
            except (Mismatch, rt.RdmaError, AssertionError) as error:
                print(f"FAILED in round {number} ({role}), seed {self.seed}: {type(error).__name__}: {error}")
                print(f"to repeat it: python tests/soak_deaths.py --seed {self.seed} --rounds {rounds}", flush=True)
                raise SystemExit(1) from error
            told[role] += 1
            worst = max(worst, after)
            if after > BOUND:
                raise SystemExit(
                    f"FAILED: round {number} ({role}), seed {self.seed}: told {after:.2f} s after the kill"
                )
            if number == half - 1:
                before, warm = self.left(), resident()
            if number % 10 == 9:
                print(f"  {number + 1} rounds, worst {1000 * worst:.0f} ms, {self.rest} tensors after the death, "
                      f"resident {resident() / MIB:.0f} MiB", flush=True)  # fmt: skip
        found, memory = self.left()
        if found != before[0] or memory > before[1] + MEMORY_MORE:
            raise SystemExit(f"FAILED: seed {self.seed}: left behind: {found}, {memory} of memory; before: {before}")
        print(f"{rounds} peers killed ({told['receive']} senders, {told['send']} receivers): told at most "
              f"{1000 * worst:.0f} ms after, {self.rest} tensors taken after the death and whole, nothing left behind, "
              f"resident {warm / MIB:.0f} MiB after {half} rounds and {resident() / MIB:.0f} MiB now, "
              f"{before[1]} and {memory} descriptors of memory")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victim", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    if arguments.victim:
        role, address, number = arguments.victim
        victim(role, address, arguments.seed, int(number))
    print(f"seed {arguments.seed}, {arguments.rounds} rounds, bound {BOUND} s", flush=True)
    Survivor(arguments.seed).play(arguments.rounds)


if __name__ == "__main__":
    main()
