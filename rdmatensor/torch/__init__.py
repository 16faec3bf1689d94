"""What needs torch: the torch.distributed backend, tensors over memory of a region, CPU allocations from a region.

    import rdmatensor.torch
    torch.distributed.init_process_group("rdmatensor")

Importing it registers the backend; where the package is installed torch does so itself. `as_tensor(tensor)` sees an
rdmatensor.Tensor as a tensor of torch. `with region.allocating():` and `allocate_in(region)` let ordinary operators
make their results in registered memory; `device()` is what a region for the backend is made on. torch tensors on the
CPU can be sent as they are. `bind_edge(edge)` gives an edge a name in graphs, for `torch.ops.rdmatensor`
(OPERATORS.md). Not imported by `import rdmatensor`.
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
