"""How near the verbs provider comes to perftest on the same RDMA device, in one run: ours through Python, theirs in C.

    python benchmarks/perftest.py [--device rxe0] [--rows latency,bandwidth] [--json NAME] [--rounds N]

Two processes of this host on one device; without one: `rdmatensor vm run -- python benchmarks/perftest.py`. Both sides
do the same: one QP, the same depth, the same sizes and counts, one message for each copy. Both wait in the same way:
they spin, or, in rows "with events", sleep until the device says that something completed, which perftest does for READ
only. --wait makes ours wait in another way than to spin.

Bandwidth: copies of one size, posted as far as the depth allows, until the last has completed; ib_write_bw, ib_read_bw.
Latency, WRITE: half of a round trip. Each end waits until the last word of its 4 KiB has changed, then writes its own
4 KiB back and waits for the completion, as ib_write_lat does. That the last word of a message comes last is nothing the
verbs promise; programs that may not assume it write the word in a message of its own, as in the row "write + word".
Latency, READ: until the bytes of a READ are here; ib_read_lat.

READ, theirs pause: the same with `--latency_gap`, which is in their time as what Python does between two READs is in
ours. Soft-RoCE takes far longer when it was not posted to for 2 us, since its worker falls asleep.

Ours and theirs take turns, round by round; medians of the rounds. On an emulated machine only the ratios mean anything.
Waking an idle processor costs there as much as a transfer, and whether it goes idle between two of them hangs on a few
us; with --awake none ever does, for ours and theirs alike.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import measure

import rdmatensor as rt

KIB, MIB = 1024, 1024 * 1024
SIZES = [8, 4 * KIB, 64 * KIB, MIB, 8 * MIB, 64 * MIB]
REGION = 64 * MIB + 4 * KIB
BEHIND = 64 * MIB  # where the word of its own lies
DEPTH = 128
LATENCY_SIZE = 4 * KIB
TURNS = 500  # of a latency test
GAPS_US = (1, 2, 5)  # the last is about what calls through Python cost where the processor is emulated
BYTES = 32 * MIB  # of a bandwidth test, at least COUNT_MIN and at most COUNT_MAX messages
COUNT_MIN, COUNT_MAX = 5, 2000
PATIENCE = 120


class Echo:
    """The state of one end of the latency test: a prepared copy of its payload, with the number of the turn in it, and
    the word in which the other end's number comes.
    """

    def __init__(self, channel: rt.Channel, inbox: rt.Region, outbox: rt.Region, own_word: bool) -> None:
        at = BEHIND if own_word else LATENCY_SIZE - 8
        remote = channel.lookup("inbox", timeout=PATIENCE)
        pairs = [(remote[:LATENCY_SIZE], outbox[:LATENCY_SIZE])]
        if own_word:
            pairs.append((remote[at : at + 8], outbox[at : at + 8]))
        self.send = channel.prepare_many(pairs)
        self.number = outbox[at : at + 8].view().cast("Q")
        self.seen = inbox[at : at + 8]
        self.hear = channel.wait_word

    def answer(self, first: int, count: int) -> None:
        number, send, hear, seen = self.number, self.send, self.hear, self.seen
        for turn in range(first, first + count):
            hear(seen, turn)
            number[0] = turn
            send()

    def ask(self, first: int, count: int) -> list[float]:
        """Seconds of each half round trip."""
        number, send, hear, seen, now = self.number, self.send, self.hear, self.seen, time.perf_counter
        times = [now()]
        for turn in range(first, first + count):
            number[0] = turn
            send()
            hear(seen, turn)
            times.append(now())
        return [(end - begin) / 2 for begin, end in pairwise(times)]


def side(url: str) -> None:
    """The passive end: a target, and the echo of the latency test."""
    with rt.Device(url) as device:
        inbox = device.region(REGION, access=rt.Access.REMOTE_WRITE | rt.Access.REMOTE_READ)
        outbox = device.region(REGION)
        device.publish("inbox", inbox)
        listener = device.listen("127.0.0.1:0")
        print(listener.address, flush=True)
        channel = listener.accept(timeout=PATIENCE)
        echoes = {own_word: Echo(channel, inbox, outbox, own_word) for own_word in (False, True)}
        for line in sys.stdin:
            own_word, first, count = map(int, line.split())
            echo = echoes[bool(own_word)]
            print("ready", flush=True)
            echo.answer(first, count)


class Ours:
    def __init__(self, device: str, wait: str) -> None:
        url = f"verbs://{device}?qps_per_peer=1&work_depth={DEPTH}&wait={wait}"
        self.device = rt.Device(url)
        self.peer = measure.Peer(__file__, url)
        self.channel = self.device.connect(self.peer.hear(), timeout=PATIENCE)
        self.inbox = self.device.region(REGION, access=rt.Access.REMOTE_WRITE | rt.Access.REMOTE_READ)
        self.outbox = self.device.region(REGION)
        self.device.publish("inbox", self.inbox)
        self.remote = self.channel.lookup("inbox", timeout=PATIENCE)
        self.turn = 1
        assert self.device.limits.message_size_max >= max(SIZES), "one message for each copy"

    def bandwidth(self, verb: str, size: int, count: int) -> float:
        """Bytes a second of `count` copies."""
        there, here = self.remote[:size], self.outbox[:size]
        copies = self.channel.prepare_many([(there, here) if verb == "write" else (here, there)] * count)
        begin = time.perf_counter()
        copies()
        return count * size / (time.perf_counter() - begin)

    def write_latency(self, own_word: bool, count: int) -> float:
        """Seconds one way: half a round trip."""
        echo = Echo(self.channel, self.inbox, self.outbox, own_word)
        self.peer.tell(f"{int(own_word)} {self.turn} {count}")
        self.peer.hear()
        times = echo.ask(self.turn, count)
        self.turn += count
        return statistics.median(times)

    def read_latency(self, count: int) -> float:
        """Seconds until a READ is here."""
        read = self.channel.prepare(self.outbox[:LATENCY_SIZE], self.remote[:LATENCY_SIZE])
        now, times = time.perf_counter, [time.perf_counter()]
        for _ in range(count):
            read()
            times.append(now())
        return statistics.median(end - begin for begin, end in pairwise(times))

    def close(self) -> None:
        self.channel.close()
        self.peer.close()
        self.device.close()


class Theirs:
    """Runs perftest: each time on a port of its own, since a port is not free at once after use."""

    def __init__(self, device: str, port: int) -> None:
        self.device, self.port = device, port
        self.more: tuple[str, ...] = ()

    def with_events(self) -> Theirs:
        other = Theirs(self.device, self.port + 1000)
        other.more = ("--events",)
        return other

    def run(self, tool: str, *arguments: str) -> list[float]:
        """The numbers of its last line."""
        self.port += 1
        command = [tool, "-d", self.device, "-p", str(self.port), "-F", *arguments, *self.more]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):  # the server needs a moment to listen
                done = subprocess.run([*command, "127.0.0.1"], capture_output=True, text=True, timeout=PATIENCE)
                if done.returncode == 0:
                    break
                time.sleep(0.1)
            else:
                raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
        finally:
            server.wait(30)
        lines = [line for line in done.stdout.splitlines() if re.match(r"\s*\d+\s+\d+\s", line)]
        return [float(word) for word in lines[-1].split()]

    def bandwidth(self, verb: str, size: int, count: int) -> float:
        depth = (
            ("-t", str(DEPTH)) if verb == "write" else ()
        )  # READs under way: as many as the device allows, on both sides
        return self.run(f"ib_{verb}_bw", "-s", str(size), "-n", str(count), *depth)[3] * MIB  # "BW average", MiB/s

    def latency(self, verb: str, count: int, *more: str) -> float:
        return self.run(f"ib_{verb}_lat", "-s", str(LATENCY_SIZE), "-n", str(count), *more)[4] * 1e-6  # "t_typical", us


def row(
    mode: str, size: int, unit: str, ours: Callable[[], float], theirs: Callable[[], float], rounds: int
) -> dict[str, Any]:
    """A row of the table; the first round warms up and does not count."""
    mine, others = [], []
    for _ in range(rounds + 1):
        mine.append(ours())
        others.append(theirs())
    scale = 1e-6 if unit == "MB/s" else 1e6
    here, there = statistics.median(mine[1:]), statistics.median(others[1:])
    return {
        "mode": mode, "bytes": size, "unit": unit,
        "ours": here * scale, "perftest": there * scale, "ratio": here / there,
        "ours_all": [value * scale for value in mine[1:]], "perftest_all": [value * scale for value in others[1:]],
    }  # fmt: skip


def latencies(ours: Ours, theirs: Theirs, rounds: int) -> Iterator[dict[str, Any]]:
    write = partial(theirs.latency, "write", TURNS)
    yield row("write latency", LATENCY_SIZE, "us", lambda: ours.write_latency(False, TURNS), write, rounds)
    yield row("write + word", LATENCY_SIZE, "us", lambda: ours.write_latency(True, TURNS), write, rounds)
    read = partial(theirs.latency, "read", TURNS)
    yield row("read latency", LATENCY_SIZE, "us", lambda: ours.read_latency(TURNS), read, rounds)
    for gap in GAPS_US:
        paused = partial(theirs.latency, "read", TURNS, f"--latency_gap={gap}")
        name = f"read latency, theirs pause {gap} us"
        yield row(name, LATENCY_SIZE, "us", lambda: ours.read_latency(TURNS), paused, rounds)


def bandwidths(
    verb: str, how: str, ours: Ours, theirs: Theirs, sizes: list[int], rounds: int
) -> Iterator[dict[str, Any]]:
    for size in sizes:
        given = (verb, size, max(COUNT_MIN, min(COUNT_MAX, BYTES // size)))
        mine, others = partial(ours.bandwidth, *given), partial(theirs.bandwidth, *given)
        yield row(f"{verb} bandwidth{how}", size, "MB/s", mine, others, rounds)


def rows(
    wanted: list[str], device: str, wait: str, port: int, sizes: list[int], rounds: int
) -> Iterator[dict[str, Any]]:
    theirs, ours = Theirs(device, port), Ours(device, wait)
    if "latency" in wanted:
        yield from latencies(ours, theirs, rounds)
    if "bandwidth" in wanted:
        yield from bandwidths("write", "", ours, theirs, sizes, rounds)
        yield from bandwidths("read", "", ours, theirs, sizes, rounds)
    ours.close()
    if "events" in wanted:
        ours = Ours(device, "block")
        yield from bandwidths("read", ", with events", ours, theirs.with_events(), sizes, rounds)
        ours.close()


def keep_awake() -> list[subprocess.Popen[bytes]]:
    """A process for each processor that runs when nothing else wants it."""
    script = "import os, sys; os.sched_setaffinity(0, [int(sys.argv[1])]); os.sched_setscheduler(0, os.SCHED_IDLE, "
    script += "os.sched_param(0))\nwhile True: pass"
    return [subprocess.Popen([sys.executable, "-c", script, str(each)]) for each in sorted(os.sched_getaffinity(0))]


def show(found: list[dict[str, Any]]) -> str:
    lines = [("mode", "bytes", "ours", "perftest", "ours / perftest")]
    for each in found:
        values = [f"{each[name]:.1f} {each['unit']}" for name in ("ours", "perftest")]
        lines.append((each["mode"], str(each["bytes"]), *values, f"{each['ratio']:.2f}"))
    return measure.table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--device", default="rxe0")
    parser.add_argument("--rows", default="latency,bandwidth,events", help="of which kinds (all)")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="of the bandwidth rows, in bytes")
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json, with HOST_LOAD as the load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wait", default="spin", help="how our ends wait, but in rows with events (spin)")
    parser.add_argument("--awake", action="store_true", help="keep idle processors awake: see above")
    parser.add_argument("--port", type=int, default=18515)
    arguments = parser.parse_args()
    if arguments.peer:
        side(arguments.peer)
        return
    awake = keep_awake() if arguments.awake else []
    found = []
    sizes = [int(size) for size in arguments.sizes.split(",")]
    wanted = arguments.rows.split(",")
    for each in rows(wanted, arguments.device, arguments.wait, arguments.port, sizes, arguments.rounds):
        found.append({**each, "awake": arguments.awake})
        print(show([each]).splitlines()[1], flush=True)
        if arguments.json:  # row by row: a run that is cut short loses what it did not come to
            measure.write(arguments.json, found, "verbs", arguments.device, os.environ.get("HOST_LOAD"))
    for process in awake:
        process.kill()
    print(show(found))


if __name__ == "__main__":
    main()
