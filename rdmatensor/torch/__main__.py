"""Compiles all that fits the installed torch: `python -m rdmatensor.torch`. For machines that share the cache of one
with a compiler, and for those who would not wait at the first use.
"""

from __future__ import annotations

from rdmatensor.torch import allocator, backend

backend.native()
allocator.compiled()
