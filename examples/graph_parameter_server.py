"""A training by a plan: workers compute gradients, servers hold the parameters, and every tensor that crosses is known
before the first step.

    python examples/graph_parameter_server.py                              says what would cross, in one process
    torchrun --nproc-per-node 3 examples/graph_parameter_server.py         two workers and a server
"""

from __future__ import annotations

import os

import torch
from torch import nn

import rdmatensor.torch.graph as rg

torch.set_num_threads(1)
torch.manual_seed(0)  # all processes begin with the same model
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
example = (torch.randn(32, 64), torch.randn(32, 1))
plan = rg.plan(model, nn.functional.mse_loss, optimizer, example, placement=rg.ParameterServer(servers=1))

if "RANK" not in os.environ:
    print(plan.explain())
else:
    with plan.open() as run:
        if run.serves:
            print(f"{run.process} served {run.serve()} steps")
        else:
            torch.manual_seed(1 + int(os.environ["RANK"]))  # each worker has data of its own
            for step in range(40):
                inputs = torch.randn(32, 64)
                loss = run.step((inputs, inputs.sum(1, keepdim=True)))
                if step in (0, 39):
                    print(f"{run.process} step {step}: loss {loss.item():.3f}", flush=True)
