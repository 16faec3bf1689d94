"""How the C core becomes the Python module `rdmatensor._native`.

The cdef is the text between the cffi marks of the headers themselves, so there is no second copy of the interface.
The list of sources is a glob over the layers: a new file or a new provider's directory needs no change here.
"""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI

MODULE = "rdmatensor._native"
ROOT = Path(__file__).resolve().parent.parent
HEADERS = (
    "csrc/base/status.h",
    "csrc/proto/dtype.h",
    "csrc/rdmatensor.h",
    "csrc/rdmatensor_team.h",
    "csrc/rdmatensor_gpu.h",
    "csrc/bench/bench.h",
)
SOURCES = (
    "csrc/base/*.c",
    "csrc/proto/*.c",
    "csrc/memory/*.c",
    "csrc/gpu/*.c",
    "csrc/stream/*.c",
    "csrc/device/*.c",
    "csrc/region/*.c",
    "csrc/channel/*.c",
    "csrc/rpc/*.c",
    "csrc/edge/*.c",
    "csrc/control/*.c",
    "csrc/assembly/*.c",
    "csrc/team/*.c",
    "csrc/provider/*.c",
    "csrc/provider/*/*.c",
    "csrc/bench/*.c",
)
PYTHON_SOURCES = ("csrc/python/*.c",)  # know Python, so they are compiled here and not into the archive
OPENING, CLOSING = "/* <cffi> */", "/* </cffi> */"

# Assertions stay in release builds (-UNDEBUG undoes Python's own flags): they guard memory that a peer writes.
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O3", "-fvisibility=hidden", "-UNDEBUG"]


def slice_header(text: str, name: str) -> str:
    """The text between the marks; each mark must stand there exactly once."""
    if text.count(OPENING) != 1 or text.count(CLOSING) != 1:
        raise ValueError(f"{name}: expected one {OPENING} and one {CLOSING}")
    return text.split(OPENING)[1].split(CLOSING)[0]


def declarations() -> str:
    """The cdef: the marked slices of the headers, in order."""
    return "\n".join(slice_header((ROOT / header).read_text(encoding="utf-8"), header) for header in HEADERS)


def sources(patterns: tuple[str, ...]) -> list[str]:
    """The C files that match, relative to the repository, layer by layer."""
    return [str(path.relative_to(ROOT)) for pattern in patterns for path in sorted(ROOT.glob(pattern))]


INCLUDES = ("rdmatensor.h", "rdmatensor_team.h", "rdmatensor_gpu.h", "proto/dtype.h", "bench/bench.h")

# Python calls PyInit__native of csrc/python/module.c, which calls cffi's and adds to the module.
RENAMED = "#define PyInit__native rt_cffi_module\n"

# The Makefile compiles the same files in parallel, and under sanitizers, and gives the archive; pip compiles them here.
archive = os.environ.get("RDMATENSOR_BUILD_ARCHIVE", "")

ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    MODULE,
    RENAMED + "".join(f'#include "{name}"\n' for name in INCLUDES),
    sources=sources(PYTHON_SOURCES if archive else (*SOURCES, *PYTHON_SOURCES)),
    extra_objects=[archive] if archive else [],
    include_dirs=["csrc"],
    depends=[str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("csrc/**/*.h"))],
    extra_compile_args=FLAGS,
    libraries=["pthread", "dl"],
    py_limited_api=True,
)

if __name__ == "__main__":
    print(" ".join(FLAGS))
