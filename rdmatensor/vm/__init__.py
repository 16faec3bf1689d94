"""Soft-RoCE on any x86-64 Linux machine: a command runs in an emulated machine whose kernel has `rdma_rxe`.

What `rdmatensor vm` does, in the order in which it is done:

    options       what was asked for
    here          this kernel's own soft-RoCE, used directly where there is one
    packages      the system's tools that are needed, installed with apt-get
    kernel        a distribution kernel with rdma_rxe, and the modules of it that are needed
    initramfs     what boots: busybox, those modules, our scripts for the guest
    interpreter   what there is to know about the Python whose environment the guest gets
    image         the guest's read-only root: this system's basic packages and that environment
    machine       a qemu process and the sockets to it
    store         the directory where all of that lies, by the digest of what it was made from
    session       one command in one machine: its output, its end

The guest's half is in `guest/`. No part of it needs root, but for installing packages.
"""

from __future__ import annotations

from rdmatensor.vm.errors import VmError
from rdmatensor.vm.options import Options, Shape
from rdmatensor.vm.session import run
from rdmatensor.vm.store import Store

__all__ = ["Options", "Shape", "Store", "VmError", "run"]
