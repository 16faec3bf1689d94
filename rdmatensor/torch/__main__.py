"""Compiles all native code for the installed torch: `python -m rdmatensor.torch`.

For machines without a compiler that share the cache of one with a compiler, and to avoid the wait
at the first use.
"""

from __future__ import annotations

from rdmatensor.torch import allocator, backend
from rdmatensor.torch.graph import sites

backend.native()
allocator.compiled()
sites.marks()
