"""A training run under torchrun in which a rank is killed once. Argument: a folder for what was learned.

Every rank continues from the newest checkpoint; the first time, rank 1 is killed in step 3. All ranks say how it ended.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

STEPS = 6


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("rdmatensor")  # found by `import torch`: rdmatensor is not imported here
    rank = dist.get_rank()
    torch.manual_seed(1)
    net = DistributedDataParallel(nn.Linear(8, 4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    saved = folder / "state.pt"
    first = 0
    if saved.exists():
        state = torch.load(saved)
        net.load_state_dict(state["net"])
        first = state["step"]
    for step in range(first, STEPS):
        if step == 3 and rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        optimizer.zero_grad()
        net(torch.full((2, 8), float(rank + step))).sum().backward()
        optimizer.step()
        if rank == 0:
            torch.save({"net": net.state_dict(), "step": step + 1}, folder / "new.pt")
            os.replace(folder / "new.pt", saved)
        dist.barrier()
    print(f"rank {rank} finished after restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
