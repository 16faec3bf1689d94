"""The training step as one graph: captured, cut by placement, planned, and run over edges (GRAPH.md).

import rdmatensor.torch.graph as rg

plan = rg.plan(model, loss_fn, optimizer, batch, placement=rg.ParameterServer(servers=2))
print(plan.explain())
with plan.open() as run:  # under torchrun: the role follows from the rank
    if run.serves:
        run.serve()
    else:
        for batch in loader:
            loss = run.step(batch)
"""

from rdmatensor.torch.graph.capture import Captured, capture
from rdmatensor.torch.graph.cut import Edge
from rdmatensor.torch.graph.place import AllReduce, ByFunction, ParameterServer, Placed, Placement
from rdmatensor.torch.graph.plan import Plan, explain, plan
from rdmatensor.torch.graph.run import Run, RunStats
from rdmatensor.torch.graph.stages import Stages

__all__ = [
    "AllReduce",
    "ByFunction",
    "Captured",
    "Edge",
    "ParameterServer",
    "Placed",
    "Placement",
    "Plan",
    "Run",
    "RunStats",
    "Stages",
    "capture",
    "explain",
    "plan",
]
