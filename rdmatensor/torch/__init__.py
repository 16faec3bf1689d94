"""The part for torch: the torch.distributed backend, torch tensors over a region's memory, CPU
allocations from a region.

    import rdmatensor.torch
    torch.distributed.init_process_group("rdmatensor")

Importing this package registers the backend; where rdmatensor is installed, torch registers it by
itself. `as_tensor(tensor)` shows an rdmatensor.Tensor as a tensor of torch. `with
region.allocating():` and `allocate_in(region)` let ordinary operators make their results in
registered memory; `device()` is the device on which to make a region for the backend. torch tensors
on the CPU can be sent as they are. `bind_edge(edge)` gives an edge a name in graphs, for
`torch.ops.rdmatensor` (OPERATORS.md). `import rdmatensor` does not import this package.
"""

from rdmatensor.torch.allocator import Allocation, allocate_in, allocating
from rdmatensor.torch.backend import device, monitored_barrier, provider, register, stats
from rdmatensor.torch.operators import bind_edge, unbind_edge
from rdmatensor.torch.tensors import as_tensor

__all__ = [
    "Allocation",
    "allocate_in",
    "allocating",
    "as_tensor",
    "bind_edge",
    "device",
    "monitored_barrier",
    "provider",
    "register",
    "stats",
    "unbind_edge",
]

register()
