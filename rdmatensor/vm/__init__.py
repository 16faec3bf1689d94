"""Soft-RoCE on any x86-64 Linux machine: a command runs in an emulated machine whose kernel has `rdma_rxe`.

The modules behind `rdmatensor vm`, in the order of their use:

        options       the options of a run
        here          this kernel's own soft-RoCE, used directly where it exists
        packages      the system's tools that are needed, installed with apt-get
        kernel        a distribution kernel with rdma_rxe, and those of its modules that are needed
        initramfs     the boot archive: busybox, those modules, our scripts for the guest
        interpreter   facts about the Python whose environment the guest gets
        image         the guest's read-only root: this system's basic packages and that environment
        machine       a qemu process and the sockets to it
        store         the directory of all these parts, each under the digest of its inputs
        session       one command in one machine: its output, its end

The guest's half is in `guest/`. No part of it needs root, except installing packages.
"""

from __future__ import annotations

from rdmatensor.vm.errors import VmError
from rdmatensor.vm.options import Options, Shape
from rdmatensor.vm.session import run
from rdmatensor.vm.store import Store

__all__ = ["Options", "Shape", "Store", "VmError", "run"]
