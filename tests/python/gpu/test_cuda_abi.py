"""Our declarations of CUDA's driver interface are CUDA's: both are compiled together where its header is found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ABI = ROOT / "csrc/gpu/cuda_abi.h"

# Our name and CUDA's. A name of ours that stands nowhere here fails the test below.
NUMBERS = {
    "CUDA_OK": "CUDA_SUCCESS",
    "CUDA_E_INVALID_VALUE": "CUDA_ERROR_INVALID_VALUE",
    "CUDA_E_OUT_OF_MEMORY": "CUDA_ERROR_OUT_OF_MEMORY",
    "CUDA_E_NOT_INITIALIZED": "CUDA_ERROR_NOT_INITIALIZED",
    "CUDA_E_NO_DEVICE": "CUDA_ERROR_NO_DEVICE",
    "CUDA_E_INVALID_DEVICE": "CUDA_ERROR_INVALID_DEVICE",
    "CUDA_E_INVALID_CONTEXT": "CUDA_ERROR_INVALID_CONTEXT",
    "CUDA_E_ECC": "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_E_OPERATING_SYSTEM": "CUDA_ERROR_OPERATING_SYSTEM",
    "CUDA_E_NOT_READY": "CUDA_ERROR_NOT_READY",
    "CUDA_E_ILLEGAL_ADDRESS": "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_E_CONTEXT_DESTROYED": "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_E_ALREADY_PINNED": "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
    "CUDA_E_NOT_PINNED": "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
    "CUDA_E_LAUNCH_FAILED": "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_E_NOT_SUPPORTED": "CUDA_ERROR_NOT_SUPPORTED",
    "CUDA_E_SYSTEM_NOT_READY": "CUDA_ERROR_SYSTEM_NOT_READY",
    "CUDA_E_DRIVER_MISMATCH": "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
    "CUDA_E_CAPTURE_UNSUPPORTED": "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
    "CUDA_E_UNKNOWN": "CUDA_ERROR_UNKNOWN",
    "CUDA_A_MAJOR": "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
    "CUDA_A_MINOR": "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
    "CUDA_A_ADDRESSES_APART": "CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED",
    "CUDA_A_SHARES_BY_DESCRIPTOR": "CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED",
    "CUDA_A_DIRECT_WHEN_MADE": "CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED",
    "CUDA_A_DIRECT": "CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED",
    "CUDA_A_FLUSH_OPTIONS": "CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS",
    "CUDA_A_WRITES_ORDERING": "CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING",
    "CUDA_A_WRITES_NUMBERS": "CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS",
    "CUDA_A_DMA_BUF": "CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED",
    "CUDA_P_MEMORY_TYPE": "CU_POINTER_ATTRIBUTE_MEMORY_TYPE",
    "CUDA_P_SYNC_MEMOPS": "CU_POINTER_ATTRIBUTE_SYNC_MEMOPS",
    "CUDA_P_IS_MANAGED": "CU_POINTER_ATTRIBUTE_IS_MANAGED",
    "CUDA_P_ORDINAL": "CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL",
    "CUDA_MEMORY_HOST": "CU_MEMORYTYPE_HOST",
    "CUDA_MEMORY_DEVICE": "CU_MEMORYTYPE_DEVICE",
    "CUDA_PINNED": "CU_MEM_ALLOCATION_TYPE_PINNED",
    "CUDA_LOCATION_DEVICE": "CU_MEM_LOCATION_TYPE_DEVICE",
    "CUDA_SHARE_DESCRIPTOR": "CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR",
    "CUDA_ACCESS_READ": "CU_MEM_ACCESS_FLAGS_PROT_READ",
    "CUDA_ACCESS_READWRITE": "CU_MEM_ACCESS_FLAGS_PROT_READWRITE",
    "CUDA_RANGE_DMA_BUF": "CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD",
    "CUDA_FLUSH_OPTION_HOST": "CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST",
    "CUDA_ORDERING_OWNER": "CU_GPU_DIRECT_RDMA_WRITES_ORDERING_OWNER",
    "CUDA_FLUSH_TARGET": "CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX",
    "CUDA_FLUSH_TO_OWNER": "CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER",
    "CUDA_STREAM_NON_BLOCKING": "CU_STREAM_NON_BLOCKING",
    "CUDA_EVENT_NO_TIMING": "CU_EVENT_DISABLE_TIMING",
    "CUDA_REGISTER_PORTABLE": "CU_MEMHOSTREGISTER_PORTABLE",
    "CUDA_CAPTURE_RELAXED": "CU_STREAM_CAPTURE_MODE_RELAXED",
    "CUDA_CONTEXT_SYNC_MEMOPS": "CU_CTX_SYNC_MEMOPS",
}
SIZES = {
    "cuda_result": "CUresult",
    "cuda_device": "CUdevice",
    "cuda_address": "CUdeviceptr",
    "cuda_handle": "CUmemGenericAllocationHandle",
    "cuda_context": "CUcontext",
    "cuda_stream": "CUstream",
    "cuda_event": "CUevent",
    "cuda_location": "CUmemLocation",
    "cuda_making": "CUmemAllocationProp",
    "cuda_access": "CUmemAccessDesc",
}
MEMBERS = {
    ("cuda_location", "type"): ("CUmemLocation", "type"),
    ("cuda_location", "id"): ("CUmemLocation", "id"),
    ("cuda_making", "type"): ("CUmemAllocationProp", "type"),
    ("cuda_making", "shares_by"): ("CUmemAllocationProp", "requestedHandleTypes"),
    ("cuda_making", "location"): ("CUmemAllocationProp", "location"),
    ("cuda_making", "of_windows"): ("CUmemAllocationProp", "win32HandleMetaData"),
    ("cuda_making", "flags.compression"): ("CUmemAllocationProp", "allocFlags.compressionType"),
    ("cuda_making", "flags.direct"): ("CUmemAllocationProp", "allocFlags.gpuDirectRDMACapable"),
    ("cuda_making", "flags.usage"): ("CUmemAllocationProp", "allocFlags.usage"),
    ("cuda_making", "flags.reserved"): ("CUmemAllocationProp", "allocFlags.reserved"),
    ("cuda_access", "location"): ("CUmemAccessDesc", "location"),
    ("cuda_access", "flags"): ("CUmemAccessDesc", "flags"),
}


def header() -> Path | None:
    """The folder of CUDA's own header, of a toolkit or of a package of Python."""
    toolkits = [path / "include" for path in sorted(Path("/usr/local").glob("cuda*"))]
    packages = [found for path in sys.path for found in Path(path).glob("nvidia/*/include")]
    return next((path for path in (*toolkits, Path("/usr/include"), *packages) if (path / "cuda.h").exists()), None)


def declared() -> str:
    return re.sub(r"/\*.*?\*/", "", ABI.read_text(encoding="utf-8"), flags=re.DOTALL)


def symbols() -> list[str]:
    return re.findall(r"^\s*X\(\w+,\s*(cu\w+),", declared(), re.MULTILINE)


def program() -> str:
    """C that compiles if and only if all is as CUDA has it."""
    lines = ["#include <stddef.h>", "#include <cuda.h>", '#include "gpu/cuda_abi.h"']
    lines += [f'_Static_assert((long){ours} == (long){theirs}, "{ours}");' for ours, theirs in NUMBERS.items()]
    lines += [f'_Static_assert(sizeof({ours}) == sizeof({theirs}), "{ours}");' for ours, theirs in SIZES.items()]
    for (ours, member), (theirs, named) in MEMBERS.items():
        lines.append(f'_Static_assert(offsetof({ours}, {member}) == offsetof({theirs}, {named}), "{member}");')
    for symbol in symbols():
        lines.append(f'_Static_assert(sizeof(&{symbol}) != 0, "{symbol}");')
    return "\n".join([*lines, *calls()])


def calls() -> list[str]:
    """For every call a function with our arguments that calls CUDA's: numbers, structures and pointers must not mix."""
    found = re.findall(r"^\s*X\((\w+),\s*(cu\w+),\s*\((.*?)\)\)\s*\\?$", declared().replace("\\\n", "\n"), re.M | re.S)
    assert [symbol for _, symbol, _ in found] == symbols()
    made = []
    for name, symbol, arguments in found:
        names = []
        for argument in re.split(r",\s*(?![^()]*\))", " ".join(arguments.split())):
            names.append(re.sub(r"\(\*(\w+)\)\(.*\)", r"\1", argument).split()[-1].lstrip("*"))
        made.append(f"static inline int call_{name}({arguments}) {{ return (int){symbol}({', '.join(names)}); }}")
    return made


def test_every_number_and_layout_is_compared() -> None:
    enums = re.findall(r"\benum\s*\{(.*?)\}", declared(), re.DOTALL)
    assert {name for body in enums for name in re.findall(r"\b(CUDA_\w+)\s*=", body)} == set(NUMBERS)
    assert set(re.findall(r"\b(cuda_\w+);\s*$", declared(), re.MULTILINE)) == set(SIZES)


def compiled(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The compiler's word on a program beside CUDA's header."""
    include = header()
    if include is None:
        pytest.skip("no cuda.h here: it comes with CUDA's toolkit, or with the package nvidia-cuda-runtime")
    source = folder / "compare.c"
    source.write_text(text, encoding="utf-8")
    command = ["gcc", "-std=gnu11", "-fsyntax-only", "-Wno-incompatible-pointer-types", f"-I{ROOT / 'csrc'}"]
    return subprocess.run(
        [*command, "-isystem", str(include), str(source)], capture_output=True, text=True, check=False
    )


def test_the_interface_is_cudas_own(tmp_path: Path) -> None:
    done = compiled(program(), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("CUDA_ERROR_UNKNOWN", "CUDA_ERROR_NOT_READY", "CUDA_E_UNKNOWN"),
        ("allocFlags.usage", "allocFlags.reserved", "flags.usage"),
        ("cuMemUnmap(address, size)", "cuMemUnmap(address)", "cuMemUnmap"),
    ],
)
def test_a_difference_is_found(tmp_path: Path, right: str, wrong: str, named: str) -> None:
    assert right in program()
    assert named in compiled(program().replace(right, wrong), tmp_path).stderr
