"""The cost of waiting: an idle receiver's processor time, and latency with more waiters than cores, beside Gloo.

    python benchmarks/waiting.py [--json NAME] [--pairs 8] [--seconds 5] [--no-gloo]

A pair is two processes that send 64 bytes back and forth: ours by a WRITE of the payload and a WRITE of a sequence
word, for which the other end waits (`wait_word`, default policy); Gloo's by torch.distributed send and recv. All pairs
of a setting run at once. One way is half a round trip.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import measure
import numpy as np

PAYLOAD = 64
WORD = 128  # where the sequence word lies: a cache line of its own


def rdma_side(url: str, first: bool) -> Callable[[int], None]:
    """Connects the two ends through standard streams and gives the function that plays one round."""
    import rdmatensor as rt

    device = rt.Device(url)
    inbox = device.region(4096, access=rt.Access.REMOTE_WRITE)
    outbox = device.region(4096)
    device.publish("inbox", inbox)
    if first:
        listener = device.listen("127.0.0.1:0")
        print(listener.address, flush=True)
        channel = listener.accept(timeout=120)
    else:
        channel = device.connect(sys.stdin.readline().strip(), timeout=120)
    remote = channel.lookup("inbox", timeout=120)
    sequence = outbox.span.array((4096 // 8,), np.uint64)
    send = channel.prepare_many(
        [(remote[:PAYLOAD], outbox[:PAYLOAD]), (remote[WORD : WORD + 8], outbox[WORD : WORD + 8])]
    )
    flag = inbox[WORD : WORD + 8]

    def play(turn: int) -> None:
        if first:
            sequence[WORD // 8] = turn
            send()
            channel.wait_word(flag, turn, timeout=60)
        else:
            channel.wait_word(flag, turn, timeout=60)
            sequence[WORD // 8] = turn
            send()

    return play


def gloo_side(port: int, first: bool) -> Callable[[int], None]:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0 if first else 1, world_size=2)
    out, into = torch.zeros(PAYLOAD, dtype=torch.uint8), torch.zeros(PAYLOAD, dtype=torch.uint8)
    other = 1 if first else 0

    def play(_turn: int) -> None:
        if first:
            dist.send(out, other)
            dist.recv(into, other)
        else:
            dist.recv(into, other)
            dist.send(out, other)

    return play


def side(kind: str, where: str, first: bool) -> None:
    """One process of a pair: connects, says ready, plays until the first side has used its time."""
    play = rdma_side(where, first) if kind == "rdma" else gloo_side(int(where), first)
    print("ready", flush=True)
    seconds = float(sys.stdin.readline())
    if not first:
        turn = 1
        try:
            while True:
                play(turn)
                turn += 1
        except Exception:  # the first side ended, whatever it looks like from here
            os._exit(0)
    times = []
    end = time.perf_counter() + seconds
    turn = 1
    while (begin := time.perf_counter()) < end:
        play(turn)
        times.append((time.perf_counter() - begin) / 2)
        turn += 1
    half = np.array(times[len(times) // 10 :])
    quantiles = {f"p{q}": float(np.percentile(half, q)) for q in (50, 90, 99)}
    print(json.dumps({"count": len(half), **quantiles}), flush=True)
    os._exit(0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pairs_at_once(kind: str, url: str, count: int, seconds: float) -> dict[str, Any]:
    ends = []
    for _ in range(count):
        where = url if kind == "rdma" else str(free_port())
        first = measure.Peer(__file__, kind, where, "first")
        second = measure.Peer(__file__, kind, where, "second")
        if kind == "rdma":
            second.tell(first.hear())
        ends.append((first, second))
    for first, second in ends:
        first.hear(), second.hear()
    for first, second in ends:
        second.tell(str(seconds))
        first.tell(str(seconds))
    results = [json.loads(first.hear()) for first, _ in ends]
    for first, second in ends:
        first.close(), second.close()
    row: dict[str, Any] = {"mode": f"ping-pong, {kind}", "pairs": count, "bytes": PAYLOAD}
    for name in ("p50", "p90", "p99"):
        row[f"one_way_us_{name}"] = statistics.median(result[name] for result in results) * 1e6
    row["worst_pair_p99_us"] = max(result["p99"] for result in results) * 1e6
    row["round_trips"] = sum(result["count"] for result in results)
    return row


def idle(url: str, seconds: float) -> dict[str, Any]:
    """Processor time of a receiver that waits for a word that does not come."""
    first = measure.Peer(__file__, "rdma", url, "first")
    second = measure.Peer(__file__, "rdma", url, "second")
    second.tell(first.hear())
    first.hear(), second.hear()
    second.tell(str(seconds))  # the second side waits; the first has not been told to begin
    time.sleep(0.5)
    before = measure.cpu_seconds(second.pid)
    time.sleep(seconds)
    used = measure.cpu_seconds(second.pid) - before
    first.tell("0.1")
    first.hear()
    first.close(), second.close()
    return {"mode": "idle receiver", "seconds": seconds, "share_of_a_core": used / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--url", default="shm://")
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--no-gloo", action="store_true")
    arguments = parser.parse_args()
    if arguments.peer:
        side(arguments.peer[0], arguments.peer[1], arguments.peer[2] == "first")
        return
    rows = [idle(arguments.url, max(arguments.seconds, 5.0))]
    print(f"idle receiver: {100 * rows[0]['share_of_a_core']:.2f} % of a core", flush=True)
    for count in (1, arguments.pairs):
        for kind in ("rdma",) if arguments.no_gloo else ("rdma", "gloo"):
            row = pairs_at_once(kind, arguments.url, count, arguments.seconds)
            rows.append(row)
            print(
                f"{row['mode']}, {count} pairs: one way p50 {row['one_way_us_p50']:.1f} us,"
                f" p99 {row['one_way_us_p99']:.1f} us,"
                f" worst pair's p99 {row['worst_pair_p99_us']:.1f} us, {row['round_trips']} round trips",
                flush=True,
            )
    if arguments.json:
        print(f"written to {measure.write(arguments.json, rows)}")


if __name__ == "__main__":
    main()
