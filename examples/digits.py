"""Trains a small network on handwritten digits with DistributedDataParallel on two ranks, three ways, and compares.

    python examples/digits.py                      one process, Gloo, rdmatensor; a table and digits.png
    python examples/digits.py --steps 20 --picture /tmp/short.png

The data are scikit-learn's digits, which come with it. Every way begins with the same weights and sees the same
batches. The one process works out the halves of a batch one after the other and adds what two ranks would add, so all
three do the same arithmetic, and their losses must agree to the last bit. Only the carrier of the gradients differs.

How communication is timed: a communication hook of DDP stamps when a rank hands over a bucket of gradients and when it
holds the sum. A bucket takes from when the last rank has handed it over until all hold it, so waiting for a late rank
is not in it; where a step's buckets overlap, the time is counted once.
"""

import argparse
import hashlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from sklearn.datasets import load_digits
from torch import Tensor, nn

import rdmatensor
import rdmatensor.torch

RANKS = 2
WAYS = ("one process", "gloo", "rdmatensor")
BATCH, WIDTH, RATE, HELD_OUT = 128, 1024, 0.1, 360
REGION = 128 << 20
"""Bytes for all tensors of the training."""
Span = tuple[float, float]


@dataclass
class Record:
    """The record of one process by step: losses (one for each half it worked on), seconds, times of its buckets."""

    losses: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    buckets: list[list[Span]] = field(default_factory=list)
    weights: str = ""
    accuracy: float = 0.0
    carried: dict[str, Any] = field(default_factory=dict)


# ---- training: what a script does, whatever the backend ----


def digits() -> tuple[Tensor, Tensor]:
    """1797 pictures of 8 by 8, and which digit each shows, shuffled; the last are held out."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(1))
    return torch.tensor(found.data / 16.0, dtype=torch.float32)[order], torch.tensor(found.target)[order]


def halves(step: int, rows: int) -> list[Tensor]:
    """The rows of each rank in this step."""
    chosen = torch.randint(rows, (BATCH,), generator=torch.Generator().manual_seed(step))
    return list(chosen.chunk(RANKS))


def average_stamped(record: Record, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """DDP's own arithmetic, halve and add, with a stamp before and after."""
    gradients = bucket.buffer().div_(RANKS)
    begin = time.perf_counter()

    def stamp(done: torch.futures.Future[list[Tensor]]) -> Tensor:
        record.buckets[-1].append((begin, time.perf_counter()))
        return done.value()[0]

    return dist.all_reduce(gradients, async_op=True).get_future().then(stamp)


def train(rank: int, way: str, steps: int, folder: str) -> None:
    """One process of a way; its record is left in the folder."""
    torch.set_num_threads(1)
    pictures, truth = digits()
    rows = len(truth) - HELD_OUT
    if way != "one process":
        dist.init_process_group(way, init_method=f"file://{folder}/store {way}", rank=rank, world_size=RANKS)
    if way == "rdmatensor":  # tensors are born where the other rank may read and write: gradients are not copied
        access = rdmatensor.Access.REMOTE_READ | rdmatensor.Access.REMOTE_WRITE
        rdmatensor.torch.allocate_in(rdmatensor.torch.device().region(REGION, access=access))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    lossof, record = nn.CrossEntropyLoss(), Record()
    weights = list(model.parameters())
    if way != "one process":
        model = nn.parallel.DistributedDataParallel(model)
        model.register_comm_hook(record, average_stamped)
    optimizer = torch.optim.SGD(weights, lr=RATE, momentum=0.9)
    for step in range(steps):
        parts = halves(step, rows)
        record.buckets.append([])
        begin = time.perf_counter()
        if way == "one process":
            losses = [lossof(model(pictures[part]), truth[part]) for part in parts]
            found = [torch.autograd.grad(loss, weights) for loss in losses]
            for weight, first, second in zip(weights, *found, strict=True):
                weight.grad = first / RANKS + second / RANKS
        else:
            losses = [lossof(model(pictures[parts[rank]]), truth[parts[rank]])]
            losses[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        record.losses.append([loss.item() for loss in losses])
        record.seconds.append(time.perf_counter() - begin)
        if rank == 0:
            show(way, step + 1, steps, record)
    with torch.no_grad():
        record.accuracy = (model(pictures[rows:]).argmax(1) == truth[rows:]).double().mean().item()
    record.weights = hashlib.sha256(b"".join(weight.detach().numpy().tobytes() for weight in weights)).hexdigest()
    if way == "rdmatensor":
        record.carried = {"provider": rdmatensor.torch.provider(), "backend": dist.get_backend()}
        record.carried |= {**rdmatensor.torch.stats(), "gradients": steps * sum(weight.nbytes for weight in weights)}
        rdmatensor.torch.allocate_in(None)
    torch.save(record, f"{folder}/{way} {rank}")
    if dist.is_initialized():
        dist.destroy_process_group()


def show(way: str, step: int, steps: int, record: Record) -> None:
    """How far it is: one line that changes on a terminal, else a line now and then."""
    live = sys.stdout.isatty()
    if step in (1, steps) or step % max(1, steps // (100 if live else 5)) == 0:
        done = "#" * (30 * step // steps)
        text = f"  {way:<12} step {step:>4} of {steps}   loss {record.losses[-1][0]:.4f}   [{done:.<30}]"
        print(f"\r{text}" if live else text, end="" if live and step < steps else "\n", flush=True)


# ---- what came of it ----


@dataclass(frozen=True)
class Outcome:
    """A way, of all its processes. Losses by step and half; milliseconds by step."""

    way: str
    losses: list[list[float]]
    weights: set[str]
    accuracy: float
    steps: list[float]
    communication: list[float]
    carried: dict[str, Any]


def outcome(way: str, records: list[Record]) -> Outcome:
    losses = [sum(step, []) for step in zip(*(record.losses for record in records), strict=True)]  # noqa: RUF017
    steps = [1e3 * max(step) for step in zip(*(record.seconds for record in records), strict=True)]
    communication = [1e3 * covered(step) for step in zip(*(record.buckets for record in records), strict=True)]
    weights = {record.weights for record in records}
    return Outcome(way, losses, weights, records[0].accuracy, steps, communication, records[0].carried)


def covered(ranks: tuple[list[Span], ...]) -> float:
    """Seconds in which at least one bucket of a step was on its way, all ranks having handed it over."""
    total, until = 0.0, 0.0
    for spans in zip(*ranks, strict=True):
        begin, end = max(span[0] for span in spans), max(span[1] for span in spans)
        total, until = total + max(0.0, end - max(begin, until)), max(end, until)
    return total


def median(values: list[float]) -> float:
    return torch.tensor(values).median().item()


def table(outcomes: list[Outcome]) -> str:
    """Medians. Beside each time, how many times shorter than Gloo's it is."""
    gloo, lines = outcomes[1], ["               step, ms  to Gloo  communication, ms  to Gloo       loss  accuracy"]
    for one in outcomes:
        step, carried = median(one.steps), median(one.communication)
        times = f"{step:>10.2f}{median(gloo.steps) / step:>8.1f}x"
        times += f"{carried:>19.2f}{median(gloo.communication) / carried:>8.1f}x" if carried else f"{'none':>19}{'':>9}"
        lines.append(f"{one.way:<13}{times}{sum(one.losses[-1]) / RANKS:>11.6f}{one.accuracy:>10.1%}")
    return "\n".join(lines)


def differences(outcomes: list[Outcome]) -> list[str]:
    """The differences between the outcomes that must not be."""
    first, wrong = outcomes[0], []
    for other in outcomes[1:]:
        unlike = [step for step, pair in enumerate(zip(first.losses, other.losses, strict=True)) if pair[0] != pair[1]]
        if unlike:
            wrong.append(f"{other.way}: the loss differs from {first.way}'s in {len(unlike)} steps, first {unlike[0]}")
        elif other.weights != first.weights:
            wrong.append(f"{other.way}: the weights are not those of {first.way}")
    used = outcomes[-1].carried
    if used["backend"] != "rdmatensor" or used["bytes_sent"] + used["bytes_received"] < used["gradients"]:
        wrong.append(f"rdmatensor did not carry the gradients: {used}")
    return wrong


def carried(used: dict[str, Any]) -> str:
    return (
        f"rdmatensor over {used['provider']}://, no fallback: {used['gradients']:,} bytes of gradients in"
        f" {used['collectives']:,} collective calls.\nRank 0 took {used['direct_bytes']:,} bytes straight out of the"
        f" other rank's tensors, and put {used['bytes_sent']:,}\ninto them; small calls, as DDP's agreement at its"
        f" start, were copied on the way: {used['staged_bytes']:,} bytes"
    )


def draw(outcomes: list[Outcome], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for one, width, line in zip(outcomes, (7, 4, 1.5), ("-", "-", "--"), strict=True):
        left.plot([sum(losses) / RANKS for losses in one.losses], line, linewidth=width, label=one.way)
    left.set(title=title, xlabel="step", ylabel="cross entropy", yscale="log")
    left.legend()
    places = range(len(WAYS))
    for offset, name, values in ((-0.2, "step", "steps"), (0.2, "communication", "communication")):
        heights = [median(getattr(one, values)) for one in outcomes]
        bars = right.bar([place + offset for place in places], heights, 0.38, label=name)
        right.bar_label(bars, [f"{height:.2f}" if height else "none" for height in heights])
    right.set(title="Time of a step, and of its communication (p50)", ylabel="ms")
    right.set_xticks(list(places), WAYS)
    right.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of each way (200)")
    parser.add_argument("--picture", type=Path, default=Path("digits.png"), help="where to draw (digits.png)")
    options = parser.parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    print(f"scikit-learn's digits, {RANKS} ranks, batches of {BATCH}, torch {torch.__version__}")
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            ranks = range(1 if way == "one process" else RANKS)
            torch.multiprocessing.spawn(train, (way, options.steps, folder), nprocs=len(ranks))
            outcomes.append(outcome(way, [torch.load(f"{folder}/{way} {one}", weights_only=False) for one in ranks]))
    print(f"\n{table(outcomes)}\np50 of {options.steps} steps; communication: all handed over until all hold it\n")
    print(carried(outcomes[-1].carried))
    wrong = differences(outcomes)
    draw(outcomes, "Loss" if wrong else "Loss: all three the same to the last bit", options.picture)
    print(f"picture: {options.picture}")
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"all three loss curves are the same to the last bit in all {options.steps} steps, and so are the weights")


if __name__ == "__main__":
    main()
