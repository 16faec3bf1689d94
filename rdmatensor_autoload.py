"""The module behind torch's entry point `torch.backends`: makes the backend "rdmatensor" known at
the end of `import torch`.

It lies outside the package, so that importing torch does not import rdmatensor; that happens when a
group with this backend is made.
"""

from __future__ import annotations

from typing import Any


def _create(options: Any, backend_options: Any) -> Any:
    from rdmatensor.torch import backend

    return backend.create(options, backend_options)


def register() -> None:
    """Registers the backend with torch.distributed, if this torch has it. Twice is fine."""
    import torch.distributed as dist

    if dist.is_available() and "RDMATENSOR" not in dist.Backend._plugins:
        dist.Backend.register_backend("rdmatensor", _create, extended_api=True, devices=["cpu"])
