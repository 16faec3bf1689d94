"""A soak: one of two processes is killed with -9 at a random moment, many times; the other one must notice and go on.

    python tests/soak.py [--rounds 200] [--seed N]

The survivor keeps one device for all rounds. Each round a fresh victim process works with it (connecting, registering,
copying, closing, in either role) and is killed in the phase, and after the delay, that the seed chose. The survivor's
pending call must end within the bound with an error that fits. At the end nothing may be left: descriptors, shared
memory names, sockets, processes, channels.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import select
import subprocess
import sys
import time
from pathlib import Path

import rdmatensor as rt

BOUND = 1.0
PHASES = ("connecting", "registering", "copying", "closing")
SIZE = 4 << 20


# ---- the victim ----


def say(phase: str) -> None:
    print(phase, flush=True)


def victim(role: str, address: str) -> None:
    """Goes through all phases for ever, until it is killed."""
    device = rt.Device("shm://")
    while True:
        if role == "connects":
            say("connecting")
            channel = device.connect(address, timeout=10)
        else:
            listener = device.listen("127.0.0.1:0")
            print(f"address {listener.address}", flush=True)
            say("connecting")
            channel = listener.accept(timeout=10)
        say("registering")
        region = device.region(SIZE, access=rt.Access.REMOTE_READ | rt.Access.REMOTE_WRITE)
        device.publish("victim", region)
        remote = channel.lookup("survivor", timeout=10)
        say("copying")
        for _ in range(40):
            channel.memcpy(remote[:], region[:])
            channel.memcpy(region[:], remote[:])
        device.unpublish("victim")
        say("closing")
        channel.close()
        region.close()
        if role == "listens":
            listener.close()
        say("closed")
        sys.stdin.readline()  # the survivor says when to begin again


# ---- the survivor ----


class Round:
    """One victim, killed in one phase."""

    def __init__(self, device: rt.Device, listener: rt.Listener, rng: random.Random) -> None:
        self.device, self.listener = device, listener
        self.role = rng.choice(("connects", "listens"))
        self.phase = rng.choice(PHASES)
        self.delay = rng.choice((0.0, rng.uniform(0, 0.002), rng.uniform(0, 0.03)))
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--victim", self.role, listener.address],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        self.killed_at = 0.0
        self.heard = b""

    def hear(self, timeout: float) -> list[str]:
        """Lines that the victim has said by now, waiting for the first at most `timeout`."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        if ready:
            self.heard += os.read(self.process.stdout.fileno(), 65536)
        *lines, self.heard = self.heard.split(b"\n")
        return [line.decode() for line in lines]

    def kill(self) -> None:
        end = time.monotonic() + self.delay
        while time.monotonic() < end:
            pass
        self.process.kill()
        self.killed_at = time.monotonic()

    def until_phase(self) -> str:
        """Listens until the chosen phase begins, then kills. Returns the victim's address, if it has said one."""
        address = ""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for line in self.hear(1.0):
                if line.startswith("address "):
                    address = line.split()[1]
                if line == self.phase:
                    self.kill()
                    return address
            if self.phase != "connecting" and (address or self.role == "connects"):
                return address
        raise AssertionError(f"the victim never reached {self.phase}")

    def play(self) -> tuple[str, float]:
        """Works with the victim until it is killed. Returns what the survivor was told, and how long after the kill."""
        channel = None
        address = self.until_phase()
        try:
            channel = self.join(address)
            if channel is None:
                return "no channel", time.monotonic() - self.killed_at
            self.work(channel)
        except rt.RdmaError as error:
            if not self.killed_at:
                self.finish_killing(error)
            return type(error).__name__, max(0.0, time.monotonic() - self.killed_at)
        finally:
            if channel is not None:
                channel.close()
            if not self.killed_at:
                self.kill()
            self.process.wait(10)
            for stream in (self.process.stdin, self.process.stdout):
                assert stream is not None
                stream.close()
        raise AssertionError("the survivor was never told")

    def join(self, address: str) -> rt.Channel | None:
        if self.role == "listens":
            return self.device.connect(address, timeout=5) if address else None
        try:
            return self.listener.accept(timeout=0.5 if self.killed_at else 10)
        except rt.DeadlineExceeded:
            if not self.killed_at:
                raise
            return None  # it died before it was anyone

    def work(self, channel: rt.Channel) -> None:
        """Copies to and from the victim, listening for the phase in which it is to be killed."""
        remote = None
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for line in self.hear(0.0):
                if line == self.phase and not self.killed_at:
                    self.kill()
            if remote is None:
                try:
                    remote = channel.lookup("victim", timeout=0.02)
                except (rt.DeadlineExceeded, rt.NameNotFound):
                    continue
            channel.memcpy(remote[:65536], self.device_region[:65536])
            channel.memcpy(self.device_region[:65536], remote[:65536])

    def finish_killing(self, error: rt.RdmaError) -> None:
        """The victim closed in good order before its kill came: that is only right in the closing phase."""
        if not isinstance(error, rt.PeerClosed):
            raise error
        if self.phase != "closing":
            raise AssertionError(f"told of a close in phase {self.phase}: {error}")
        self.kill()

    device_region: rt.Region


def left_over() -> dict[str, object]:
    """Objects that could be left behind on the host."""
    names = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "rdmatensor" in line]
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {"shm names": sorted(os.listdir("/dev/shm")), "sockets": len(names), "children": children,
            "descriptors": len(os.listdir("/proc/self/fd"))}  # fmt: skip


def settle(device: rt.Device) -> None:
    """Channels of dead peers are taken down behind the scenes; wait until they are."""
    deadline = time.monotonic() + 5
    while device.stats.channels and time.monotonic() < deadline:
        device.progress()
    assert device.stats.channels == 0, device.dump()


def survive(rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    print(f"seed {seed}, {rounds} rounds, bound {BOUND} s", flush=True)
    told: collections.Counter[str] = collections.Counter()
    worst = 0.0
    with rt.Device("shm://", timeout=10) as device, device.listen("127.0.0.1:0") as listener:
        region = device.region(SIZE, access=rt.Access.REMOTE_READ | rt.Access.REMOTE_WRITE)
        device.publish("survivor", region)
        Round.device_region = region
        before: dict[str, object] = {}
        for number in range(rounds):
            current = Round(device, listener, rng)
            what, after = current.play()
            told[f"{current.phase}: {what}"] += 1
            limit = BOUND if what != "no channel" else BOUND + 0.5
            told_late = f"round {number}: told {what} {after:.2f} s after the kill ({current.phase}, {current.role})"
            assert after <= limit, told_late
            worst = max(worst, after if what != "no channel" else 0.0)
            settle(device)
            if number == 2:
                before = left_over()
            if number % 20 == 19:
                print(f"  {number + 1} rounds, worst {1000 * worst:.0f} ms", flush=True)
        after_all = left_over()
        assert rounds < 4 or after_all == before, f"left behind: {after_all}, before: {before}"
    for line, count in sorted(told.items()):
        print(f"  {count:4d}  {line}")
    print(f"the survivor was told at most {1000 * worst:.0f} ms after a kill; nothing is left behind")
    print(f"{rounds} passed, 0 failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victim", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    if arguments.victim:
        victim(*arguments.victim)
    survive(arguments.rounds, arguments.seed)


if __name__ == "__main__":
    main()
