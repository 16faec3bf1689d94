"""How near the verbs provider comes to perftest on the same RDMA device, in one run: ours through Python, theirs in C.

    python benchmarks/perftest.py [--device rxe0] [--json NAME] [--quick]

Two processes of this host on one device; without one: `rdmatensor vm run -- python benchmarks/perftest.py`.
Bandwidth: many WRITEs (READs) of one size on one QP with the same depth, against ib_write_bw (ib_read_bw). Latency:
4 KiB and a word written back and forth, each end polling its memory, against ib_write_lat; a READ waited for against
ib_read_lat. Ours and theirs take turns; medians of the rounds. On an emulated machine only the ratios mean anything.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import measure
import numpy as np

import rdmatensor as rt

KIB, MIB = 1024, 1024 * 1024
SIZES = [8, 4 * KIB, 64 * KIB, MIB, 8 * MIB, 64 * MIB]
THEIR_LARGEST = 8 * MIB  # soft-RoCE's largest message, which perftest does not cut
REGION = 64 * MIB + 4 * KIB
WORD = 64 * MIB  # where the sequence word lies, behind the payload
DEPTH = 128
LATENCY_SIZE = 4 * KIB


def side(url: str) -> None:
    """The passive end: a target, and the echo of the latency test."""
    with rt.Device(url, wait="spin") as device:
        inbox = device.region(REGION, access=rt.Access.REMOTE_WRITE | rt.Access.REMOTE_READ)
        outbox = device.region(REGION)
        device.publish("inbox", inbox)
        listener = device.listen("127.0.0.1:0")
        print(listener.address, flush=True)
        channel = listener.accept(timeout=120)
        remote = channel.lookup("inbox", timeout=120)
        for line in sys.stdin:
            count, first = map(int, line.split())
            echo(channel, remote, inbox, outbox, count, first)


def echo(channel: rt.Channel, remote: rt.Remote, inbox: rt.Region, outbox: rt.Region, count: int, first: int) -> None:
    send = sender(channel, remote, outbox)
    word = outbox[WORD : WORD + 8].array(1, np.uint64)
    seen = inbox[WORD : WORD + 8]
    print("ready", flush=True)
    for turn in range(first, first + count):
        channel.wait_word(seen, turn, timeout=60)
        word[0] = turn
        send().wait(60)


def sender(channel: rt.Channel, remote: rt.Remote, outbox: rt.Region) -> Callable[[], rt.Transfer]:
    """Payload and word in one call, begun and not waited for."""
    payload = (remote[:LATENCY_SIZE], outbox[:LATENCY_SIZE])
    return channel.prepare_many([payload, (remote[WORD : WORD + 8], outbox[WORD : WORD + 8])]).start


class Ours:
    def __init__(self, url: str) -> None:
        self.device = rt.Device(url, wait="spin")
        self.peer = measure.Peer(__file__, url)
        self.channel = self.device.connect(self.peer.hear(), timeout=120)
        self.inbox = self.device.region(REGION, access=rt.Access.REMOTE_WRITE | rt.Access.REMOTE_READ)
        self.outbox = self.device.region(REGION)
        self.device.publish("inbox", self.inbox)
        self.remote = self.channel.lookup("inbox", timeout=120)
        self.turn = 1

    def bandwidth(self, verb: str, size: int, count: int) -> float:
        """Bytes a second of `count` copies."""
        there, here = self.remote[:size], self.outbox[:size]
        copies = self.channel.prepare_many([(there, here) if verb == "write" else (here, there)] * count)
        begin = time.perf_counter()
        copies()
        return count * size / (time.perf_counter() - begin)

    def write_latency(self, count: int) -> float:
        """Seconds one way: half a round trip."""
        send = sender(self.channel, self.remote, self.outbox)
        word = self.outbox[WORD : WORD + 8].array(1, np.uint64)
        seen = self.inbox[WORD : WORD + 8]
        self.peer.tell(f"{count} {self.turn}")
        self.peer.hear()
        times = []
        for turn in range(self.turn, self.turn + count):
            begin = time.perf_counter()
            word[0] = turn
            transfer = send()
            self.channel.wait_word(seen, turn, timeout=60)
            times.append((time.perf_counter() - begin) / 2)
            transfer.wait(60)
        self.turn += count
        return statistics.median(times)

    def read_latency(self, count: int) -> float:
        """Seconds until a READ is here."""
        read = self.channel.prepare(self.outbox[:LATENCY_SIZE], self.remote[:LATENCY_SIZE])
        times = []
        for _ in range(count):
            begin = time.perf_counter()
            read()
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    def close(self) -> None:
        self.channel.close()
        self.peer.close()
        self.device.close()


def theirs(tool: str, device: str, port: int, *arguments: str) -> list[float]:
    """The numbers of perftest's last line."""
    command = [tool, "-d", device, "-p", str(port), "-F", *arguments]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):  # the server needs a moment to listen
            done = subprocess.run([*command, "127.0.0.1"], capture_output=True, text=True, timeout=120, check=False)
            if done.returncode == 0:
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    finally:
        server.wait(30)
    lines = [line for line in done.stdout.splitlines() if re.match(r"\s*\d+\s+\d+\s", line)]
    return [float(word) for word in lines[-1].split()]


def bandwidth_row(ours: Ours, device: str, verb: str, size: int, rounds: int, port: int) -> dict[str, Any]:
    count = max(2, min(2000, 16 * MIB // size))
    their_size = min(size, THEIR_LARGEST)
    their_count = max(5, min(2000, 16 * MIB // their_size))
    mine, others = [], []
    ours.bandwidth(verb, size, count)
    for turn in range(rounds):
        mine.append(ours.bandwidth(verb, size, count))
        numbers = theirs(
            f"ib_{verb}_bw", device, port + turn, "-s", str(their_size), "-n", str(their_count),
            *(("-t", str(DEPTH)) if verb == "write" else ()),
        )  # fmt: skip
        others.append(numbers[3] * MIB)  # "BW average", MiB/s
    return {
        "mode": f"{verb} bandwidth", "bytes": size, "ours_mb_s": statistics.median(mine) / 1e6,
        "perftest_bytes": their_size, "perftest_mb_s": statistics.median(others) / 1e6,
        "ratio": statistics.median(mine) / statistics.median(others),
    }  # fmt: skip


def latency_row(ours: Ours, device: str, verb: str, rounds: int, port: int) -> dict[str, Any]:
    measured = ours.write_latency if verb == "write" else ours.read_latency
    mine, others = [], []
    measured(20)
    for turn in range(rounds):
        mine.append(measured(200))
        numbers = theirs(f"ib_{verb}_lat", device, port + turn, "-s", str(LATENCY_SIZE), "-n", "200")
        others.append(numbers[4] * 1e-6)  # "t_typical", us
    return {
        "mode": f"{verb} latency", "bytes": LATENCY_SIZE, "ours_us": statistics.median(mine) * 1e6,
        "perftest_us": statistics.median(others) * 1e6, "ratio": statistics.median(mine) / statistics.median(others),
    }  # fmt: skip


def show(rows: list[dict[str, Any]]) -> str:
    lines = [("mode", "bytes", "ours", "perftest", "ours / perftest")]
    for row in rows:
        unit = "MB/s" if "ours_mb_s" in row else "us"
        key = "mb_s" if unit == "MB/s" else "us"
        note = f" ({row['perftest_bytes']} B)" if row.get("perftest_bytes", row["bytes"]) != row["bytes"] else ""
        lines.append(
            (row["mode"], str(row["bytes"]), f"{row[f'ours_{key}']:.1f} {unit}",
             f"{row[f'perftest_{key}']:.1f} {unit}{note}", f"{row['ratio']:.2f}")
        )  # fmt: skip
    return measure.table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--device", default="rxe0")
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=18515)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds")
    arguments = parser.parse_args()
    if arguments.peer:
        side(arguments.peer)
        return
    rounds = 2 if arguments.quick else arguments.rounds
    ours = Ours(f"verbs://{arguments.device}")
    rows = []
    for verb in ("write", "read"):
        rows.append(latency_row(ours, arguments.device, verb, rounds, arguments.port))
        print(show(rows[-1:]), flush=True)
        for size in (64 * KIB, MIB) if arguments.quick else SIZES:
            rows.append(bandwidth_row(ours, arguments.device, verb, size, rounds, arguments.port))
            print(show(rows[-1:]).splitlines()[-1], flush=True)
    ours.close()
    print(show(rows))
    if arguments.json:
        print(f"written to {measure.write(arguments.json, rows)}")


if __name__ == "__main__":
    main()
