"""rdmatensor for PyTorch: importing it registers the torch.distributed backend "rdmatensor".

    import rdmatensor.torch
    torch.distributed.init_process_group("rdmatensor")

With the package installed torch finds the backend without the import (entry point `torch.backends`).
"""

from rdmatensor.torch.backend import monitored_barrier, register, stats

__all__ = ["monitored_barrier", "register", "stats"]

register()
