"""The GPUs that this process sees, and the ways that lead to their memory."""

from __future__ import annotations

from dataclasses import dataclass

from rdmatensor import _core

__all__ = ["GpuInfo", "gpus"]


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """A GPU, and what its driver says about memory on it."""

    device: str
    """The name as torch has it: "cuda:0"."""
    name: str
    pci: str
    """The address on the PCI bus, as `nvidia-smi` and `lspci -D` have it."""
    nbytes: int
    """Bytes of memory."""
    driver: str
    """The CUDA version of the driver: "13.0"."""
    compute_capability: tuple[int, int]
    shares: bool
    """Memory can be made that other processes map by a descriptor."""
    dma_buf: bool
    """Memory can be given to a NIC as a dma-buf."""
    peer_direct: bool
    """A NIC can reach memory by its address where nvidia_peermem is loaded."""
    visibility: str
    """How bytes that a NIC wrote become visible to the GPU: "ordered", by themselves; "flush", by a call of the driver;
    "read", by a READ of the same NIC."""
    why_not: str
    """The reason why memory cannot be shared, or else why a NIC gets no dma-buf, and what to do; "" when both work."""


def gpus() -> list[GpuInfo]:
    """All GPUs that this process sees, by number, as `CUDA_VISIBLE_DEVICES` lets it; makes no context on any of them.

    Raises `ProviderUnavailable` where there is no driver or no GPU: `why` has the reason and the remedy. A child of a
    process that has used a GPU gets `ForkedProcessError`.
    """
    return [
        GpuInfo(
            device=f"cuda:{index}",
            name=name,
            pci=pci,
            nbytes=nbytes,
            driver=f"{driver // 1000}.{driver % 1000 // 10}",
            compute_capability=capability,
            shares=shares,
            dma_buf=dma_buf,
            peer_direct=direct,
            visibility=("ordered", "flush", "read")[flush],
            why_not=why_not,
        )
        for index, (name, pci, why_not, nbytes, driver, capability, flush, (shares, dma_buf, direct)) in enumerate(
            _core.gpu_list()
        )
    ]
