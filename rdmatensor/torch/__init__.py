"""What needs torch: its tensors over memory of a region, and its CPU allocations served from one.

`as_tensor(tensor)` sees an rdmatensor.Tensor as a tensor of torch. `with region.allocating():` and
`allocate_in(region)` let ordinary operators make their results in registered memory. torch tensors on the CPU can be
sent as they are. Not imported by `import rdmatensor`.
"""

from rdmatensor.torch.allocator import Allocation, allocate_in, allocating
from rdmatensor.torch.tensors import as_tensor

__all__ = ["Allocation", "allocate_in", "allocating", "as_tensor"]
