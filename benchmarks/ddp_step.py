"""A step of DistributedDataParallel that is bound by communication: VGG-16 on one picture of 32 by 32, two ranks.

    python benchmarks/ddp_step.py [--json NAME] [--rounds 8]

All 138 million gradients (553 MB) go to the other rank and back in every step, while the picture is small. The same
model is trained over Gloo, over rdmatensor with its tensors in ordinary memory, over rdmatensor with its tensors in a
region, and without communication (`no_sync`, in a region too), step by step in turn, in the same two processes. A time
is rank 0's, from a barrier until its optimizer may step. Part of what a region saves are page faults: ordinary memory
of this size is given back and taken anew in every step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

import measure
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

import rdmatensor as rt
import rdmatensor.torch

LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: pooling
WAYS = ("gloo", "rdmatensor", "rdmatensor-region", "no communication")
REGION = 3 << 30


def vgg16() -> nn.Module:
    """Configuration D of Simonyan and Zisserman, *Very Deep Convolutional Networks* (2015): 138,357,544 parameters."""
    parts: list[nn.Module] = []
    channels = 3
    for width in LAYERS:
        parts += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
        channels = width or channels
    parts += [nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(512 * 49, 4096), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000))


class Training:
    """A model over one group."""

    def __init__(self, group: Any) -> None:
        torch.manual_seed(1)
        self.net = nn.parallel.DistributedDataParallel(vgg16(), process_group=group, gradient_as_bucket_view=True)
        self.picture, self.label = torch.randn(1, 3, 32, 32), torch.tensor([7])

    def step(self, communicates: bool = True) -> float:
        dist.barrier()
        begin = time.perf_counter()
        if communicates:
            nn.functional.cross_entropy(self.net(self.picture), self.label).backward()
        else:
            with self.net.no_sync():
                nn.functional.cross_entropy(self.net(self.picture), self.label).backward()
        seconds = time.perf_counter() - begin
        self.net.zero_grad(set_to_none=False)
        return seconds

    def gradient_sum(self) -> float:
        return sum(float(one.grad.double().sum()) for one in self.net.parameters() if one.grad is not None)


def run(rank: int, folder: str, rounds: int) -> None:
    torch.set_num_threads(1)
    os.environ["DDP_DISABLE_COMM_MEM"] = "1"  # buckets are ordinary tensors, as the gradients are
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    ours = dist.new_group(backend="rdmatensor")
    trainings = {"gloo": Training(None), "rdmatensor": Training(ours)}
    device = ours._get_backend(torch.device("cpu")) and rdmatensor.torch.device()
    region = device.region(REGION, access=rt.Access.REMOTE_READ | rt.Access.REMOTE_WRITE)
    placed = rdmatensor.torch.allocating(region, when_full="raise")
    with placed:
        trainings["rdmatensor-region"] = Training(ours)
    seen: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 2):  # DDP orders its buckets anew after the first step
        for way in WAYS:
            placed_too = way in ("rdmatensor-region", WAYS[-1])
            if placed_too:
                rdmatensor.torch.allocate_in(region, when_full="raise")
            seconds = trainings["rdmatensor-region" if placed_too else way].step(way != WAYS[-1])
            rdmatensor.torch.allocate_in(None)
            if number >= 2:
                seen[way].append(seconds)
    if rank == 0:
        torch.save(seen, f"{folder}/seen")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    options = parser.parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(run, (folder, options.rounds), nprocs=2)
        seen = torch.load(f"{folder}/seen")
    medians = {way: statistics.median(seen[way]) for way in WAYS}
    results: list[dict[str, Any]] = [
        {"mode": way, "step_ms": median * 1e3, "steps_per_s": 1 / median, "to_gloo": medians["gloo"] / median,
         "rounds_ms": [seconds * 1e3 for seconds in seen[way]]}
        for way, median in medians.items()
    ]  # fmt: skip
    rows = [("way", "step, ms", "steps a second", "times Gloo's")]
    for row in results:
        rows.append((row["mode"], f"{row['step_ms']:.0f}", f"{row['steps_per_s']:.2f}", f"{row['to_gloo']:.2f}"))
    print(measure.table(rows))
    if options.json:
        print(f"written to {measure.write(options.json, results)}")


if __name__ == "__main__":
    main()
