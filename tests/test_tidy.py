"""The layout stays true: who may include or import whom, what hot files may not hold, how long things may be.

Every rule is a function from a path and its text to complaints, so each is also shown to catch a sample that breaks it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

Rule = Callable[[str, str], list[str]]

# ---- reading the tree ----


def tree(*patterns: str) -> list[str]:
    """Paths relative to the repository, sorted."""
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern) if path.is_file())


def c_files() -> list[str]:
    return tree("csrc/**/*.c", "csrc/**/*.h")


def c_test_files() -> list[str]:
    return tree("tests/c/**/*.c", "tests/c/**/*.h")


def python_files() -> list[str]:
    return tree("rdmatensor/**/*.py", "tests/**/*.py", "benchmarks/**/*.py", "examples/**/*.py", "csrc/*.py", "*.py")


def complaints(rule: Rule, paths: Iterable[str]) -> list[str]:
    return [f"{path}: {text}" for path in paths for text in rule(path, (ROOT / path).read_text(encoding="utf-8"))]


def without_comments(text: str) -> str:
    """C code with comments blanked and line numbers kept; string literals stay."""
    pattern = r'"(?:\\.|[^"\\\n])*"|/\*.*?\*/|//[^\n]*'

    def blank(match: re.Match[str]) -> str:
        found = match.group(0)
        return found if found.startswith('"') else re.sub(r"[^\n]", " ", found)

    return re.sub(pattern, blank, text, flags=re.DOTALL)


def code_only(text: str) -> str:
    """C code without comments and without the content of string literals."""
    return re.sub(r'"(?:\\.|[^"\\\n])*"', '""', without_comments(text))


def find(pattern: str, text: str, why: str) -> list[str]:
    return [
        f"line {number}: {match.group(0).strip()}: {why}"
        for number, line in enumerate(text.splitlines(), 1)
        for match in re.finditer(pattern, line)
    ]


# ---- C: who may include whom ----

PURE_HEADERS = {
    "assert.h",
    "errno.h",
    "inttypes.h",
    "limits.h",
    "stdarg.h",
    "stdbool.h",
    "stddef.h",
    "stdint.h",
    "stdio.h",
    "string.h",
}
PURE_BASE = {"base/status.h", "base/bytes.h", "base/list.h"}


FOUNDATIONS = ("base/", "proto/", "provider/provider.h", "rdmatensor.h")
# Rooms, and the rooms below that their files may include headers of, besides their own and the foundations. edge and
# control do not know each other; a team knows no messages of the RPC.
ROOMS: dict[str, tuple[str, ...]] = {
    "memory": (),
    "gpu": (),
    "stream": (),
    "device": (),
    "region": ("device", "memory"),
    "channel": ("device", "memory", "region"),
    "rpc": ("device", "memory", "region", "channel"),
    "edge": ("device", "memory", "region", "channel", "rpc"),
    "control": ("stream", "device", "region", "channel", "rpc"),
    "assembly": ("stream", "device", "memory", "gpu", "region", "channel", "rpc", "edge", "control"),
    "team": ("device", "region", "channel"),
}


def layer_of(path: str) -> str:
    """base, proto, a room, seam (provider.h, registry.c, absent.c), interface, or provider/NAME."""
    parts = path.removeprefix("csrc/").split("/")
    if parts[0] == "provider":
        return "seam" if len(parts) == 2 else f"provider/{parts[1]}"
    return "interface" if len(parts) == 1 else parts[0]


def may_include(layer: str, header: str) -> bool:
    """Whether a file of the layer may include one of our own headers."""
    arrows = {
        "base": ("base/",),
        "proto": ("proto/", *PURE_BASE),
        "memory": ("memory/", "base/", "rdmatensor.h"),
        "gpu": ("gpu/", "base/"),
        "seam": ("provider/provider.h", "base/"),
        "interface": ("base/status.h", "rdmatensor.h"),
        "bench": ("bench/", "rdmatensor.h", "base/"),
        "python": ("python/", "rdmatensor.h", "rdmatensor_team.h"),
    }
    if layer.startswith("provider/"):
        return header.startswith((f"{layer}/", "provider/provider.h", "base/"))
    if layer in arrows:
        return header.startswith(arrows[layer])
    if (layer, header) in (("team", "rdmatensor_team.h"), ("assembly", "rdmatensor_gpu.h")):
        return True
    return header.startswith((*FOUNDATIONS, f"{layer}/", *(f"{room}/" for room in ROOMS[layer])))


def c_layering(path: str, text: str) -> list[str]:
    layer = layer_of(path)
    wrong = []
    for opening, header in re.findall(r'^\s*#\s*include\s+(["<])([^">]+)[">]', without_comments(text), re.MULTILINE):
        if opening == '"' and not may_include(layer, header):
            wrong.append(f"{layer} may not include {header}")
        if opening == "<" and layer == "proto" and header not in PURE_HEADERS:
            wrong.append(f"proto is pure and may not include <{header}>")
        if opening == "<" and header.startswith(("infiniband/", "rdma/")) and layer != "provider/verbs":
            wrong.append(f"only provider/verbs may include <{header}>")
        if header == "Python.h" and layer != "python":
            wrong.append("only csrc/python may include <Python.h>")
        if "cuda" in header and (opening == "<" or layer != "gpu"):
            wrong.append(f"nothing here may include {header}")
    return wrong


IMPURE = (
    r"\b(malloc|calloc|realloc|free|v?f?printf|f?puts|fopen|fwrite|fread|open|close|socket|read|write|send|recv|pthread_\w+|"
    r"clock_gettime|rt_clock_now_ns|getrandom|rt_random)\s*\("
)


def proto_is_pure(path: str, text: str) -> list[str]:
    return find(IMPURE, code_only(text), "proto has no I/O, threads, clock or allocation")


def core_decides_by_limits(path: str, text: str) -> list[str]:
    return find(
        r'"(verbs|shm|sim)"', without_comments(text), "core decides by the limits, never by the provider's name"
    )


def one_place_for_memory_order(path: str, text: str) -> list[str]:
    return find(r"\b__(atomic|sync)_\w+", code_only(text), "memory order is spelled in base/order.h only")


def no_gpu_calls(path: str, text: str) -> list[str]:
    return find(r"\bcu(da)?[A-Z]\w+\s*\(", code_only(text), "no file knows the GPU's interface")


# ---- C: what may not stand where ----

SLOW_CALLS = (
    r"\b(malloc|calloc|realloc|aligned_alloc|posix_memalign|free|mmap|munmap|\w*printf|puts|perror|syslog|"
    r"pthread_(?:mutex|cond|rwlock|spin)_\w+|usleep|nanosleep|sleep|open|close|ioctl|sendmsg|recvmsg)\s*\("
)
UNSAFE_CALLS = r"\b(strcpy|strcat|sprintf|vsprintf|gets|alloca|system|exit|strtok|tmpnam)\s*\("


def hot_file_is_hot(path: str, text: str) -> list[str]:
    return find(SLOW_CALLS, code_only(text), "hot files hold no allocation, lock, system call or log")


def no_unsafe_calls(path: str, text: str) -> list[str]:
    return find(UNSAFE_CALLS, code_only(text), "has no bound, or ends the user's process")


def opens_with_what_it_is(path: str, text: str) -> list[str]:
    name = path.rsplit("/", 1)[-1]
    return [] if text.startswith(f"/* {name}: ") else [f"does not open with '/* {name}: what it is'"]


def c_function_lengths(path: str, text: str) -> list[str]:
    """Functions have their braces on lines of their own in column 0."""
    wrong = []
    opened = None
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if line == "{":
            opened = number
        elif line == "}" and opened is not None:
            if number - opened - 1 > FUNCTION_LINES_MAX:
                wrong.append(f"line {opened}: {lines[opened - 2]} has {number - opened - 1} lines")
            opened = None
    return wrong


def file_length(path: str, text: str) -> list[str]:
    count = text.count("\n")
    return [f"has {count} lines, more than {FILE_LINES_MAX}"] if count > FILE_LINES_MAX else []


def limits_are_derived(path: str, text: str) -> list[str]:
    """Every entry has a comment: behind it, or above its group without a blank line between."""
    wrong = []
    explained = False
    inside_comment = False
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        entry = re.match(r"(RT_\w+)\s*=", stripped)
        if entry and not explained and "/*" not in stripped:
            wrong.append(f"line {number}: {entry.group(1)} has no derivation")
        if stripped.startswith("/*") and not stripped.startswith("/* ----"):
            inside_comment = True
        if inside_comment:
            explained = True
            inside_comment = "*/" not in stripped
        elif not stripped:
            explained = False
    return wrong


def limit_names(text: str) -> list[str]:
    return re.findall(r"^\s*(RT_\w+)\s*=", text, re.MULTILINE)


# ---- Python: who may import whom ----


def imports(path: str, text: str) -> list[str]:
    """Absolute names of all that a module imports, names from `from` included."""
    package = path.removesuffix(".py").removesuffix("/__init__").split("/")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [module, *(f"{module}.{name.name}" for name in node.names)]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func)
            if called in ("importlib.import_module", "import_module", "__import__"):
                found.append(str(node.args[0].value))
    return found


def belongs(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


TORCH = ("rdmatensor/torch/", "rdmatensor/bench/modes/", "rdmatensor/bench/collectives/")
DOOR_UP = "rdmatensor/memory/frameworks.py"  # loads rdmatensor.torch when it is first asked for
SEAM_MODULES = {Path(path).stem for path in tree("rdmatensor/_core/*.py")}


def python_layering(path: str, text: str) -> list[str]:
    wrong = []
    edge = path.startswith(("rdmatensor/cli/", "rdmatensor/torch/", "rdmatensor/bench/", "rdmatensor/__main__.py"))
    native = path == "rdmatensor/bench/native.py"  # csrc/bench, which is no part of the library's interface
    for name in imports(path, text):
        seam = path.startswith("rdmatensor/_core/")
        if belongs(name, "rdmatensor._native") and not seam and not native:
            wrong.append(f"only _core may import {name}")
        if name.startswith("rdmatensor._core.") and name.split(".")[2] in SEAM_MODULES and not seam:
            wrong.append(f"{name} is inside the seam: use what _core itself names")
        if belongs(name, "cffi") and path.startswith("rdmatensor/"):
            wrong.append("cffi objects never leave _core, which has them from _native")
        if belongs(name, "torch") and path.startswith("rdmatensor/") and not path.startswith(TORCH):
            wrong.append("torch is imported in rdmatensor/torch only, and where it is measured as a peer")
        if edge and belongs(name, "rdmatensor._core") and not native:
            wrong.append("cli, bench and torch use the public classes, not _core")
        if (
            not edge
            and path.startswith("rdmatensor/")
            and not (path == DOOR_UP and belongs(name, "rdmatensor.torch"))
            and any(belongs(name, above) for above in ("rdmatensor.cli", "rdmatensor.bench", "rdmatensor.torch"))
        ):
            wrong.append(f"{name} stands above this file")
    return sorted(set(wrong))


def python_says_what_it_is(path: str, text: str) -> list[str]:
    return [] if not text.strip() or ast.get_docstring(ast.parse(text)) else ["has no docstring"]


# ---- tests do not sleep ----

SLEEPS = (
    r"\btime\.sleep\(|\bfrom time import .*\bsleep\b|\basyncio\.sleep\((?!0\))|(?<![\w.])(?:u|nano|clock_nano)?sleep\("
)


def no_sleeping(path: str, text: str) -> list[str]:
    return find(SLEEPS, code_only(text) if path.endswith((".c", ".h")) else text, "wait on a condition instead")


def conditions_are_entered_by_their_lock(path: str, text: str) -> list[str]:
    """A Condition is written in Python: Ctrl-C between its taking the lock and the block would keep the lock taken."""
    names = "|".join(re.findall(r"(\w+) = threading\.Condition\(", text))
    return find(rf"\bwith (?:\w+\.)*(?:{names}):", text, "enter the lock itself, in one step of C") if names else []


def no_imports_from_conftest(path: str, text: str) -> list[str]:
    why = "every folder has a conftest, and one run imports one of them: make a module of a name of its own"
    return find(r"^\s*(from|import) conftest\b", text, why)


UNFINISHED = r"\b(T[O]DO|F[I]XME|X[X]X|H[A]CK)\b"


def nothing_is_unfinished(path: str, text: str) -> list[str]:
    return find(UNFINISHED, text, "finish it or leave it out")


# ---- the rules hold ----

HELD: list[tuple[Rule, Callable[[], list[str]]]] = [
    (c_layering, c_files),
    (proto_is_pure, lambda: tree("csrc/proto/*.[ch]")),
    (core_decides_by_limits, lambda: [path for path in c_files() if layer_of(path) in ROOMS]),
    (one_place_for_memory_order, lambda: [path for path in c_files() if path != "csrc/base/order.h"]),
    (no_gpu_calls, c_files),
    (hot_file_is_hot, lambda: tree("csrc/**/post.c", "csrc/**/poll.c")),
    (no_unsafe_calls, lambda: c_files()),
    (opens_with_what_it_is, lambda: c_files() + c_test_files()),
    (c_function_lengths, lambda: c_files() + c_test_files()),
    (
        file_length,
        lambda: (
            c_files()
            + c_test_files()
            + python_files()
            + tree("rdmatensor/torch/**/*.h", "rdmatensor/torch/**/*.cpp")
            + ["Makefile"]
        ),
    ),
    (limits_are_derived, lambda: ["csrc/proto/limits.h"]),
    (python_layering, python_files),
    (python_says_what_it_is, python_files),
    (
        no_sleeping,
        lambda: [path for path in tree("tests/**/*.py") if path != "tests/test_tidy.py"] + c_test_files(),
    ),
    (no_imports_from_conftest, lambda: tree("tests/**/*.py")),
    (conditions_are_entered_by_their_lock, lambda: tree("rdmatensor/**/*.py")),
    (nothing_is_unfinished, lambda: c_files() + c_test_files() + python_files() + ["Makefile"]),
]


@pytest.mark.parametrize(("rule", "paths"), HELD, ids=[rule.__name__ for rule, _ in HELD])
def test_the_tree_holds(rule: Rule, paths: Callable[[], list[str]]) -> None:
    assert paths(), "the rule looks at no file"
    found = complaints(rule, paths())
    assert not found, "\n".join(found)


def test_every_limit_is_used() -> None:
    everything = "".join(code_only((ROOT / path).read_text()) for path in c_files() if not path.endswith("limits.h"))
    limits = (ROOT / "csrc/proto/limits.h").read_text()
    inside = code_only(limits)
    unused = [
        name
        for name in limit_names(limits)
        if not re.search(rf"\b{name}\b", everything) and len(re.findall(rf"\b{name}\b", inside)) < 2
    ]
    assert unused == []


def test_the_extension_is_built_from_every_c_file() -> None:
    build = (ROOT / "csrc/ffi_build.py").read_text()
    listed = {path for pattern in re.findall(r'"(csrc/[^"]*\*\.c)"', build) for path in tree(pattern)}
    assert listed == set(tree("csrc/**/*.c"))


# ---- and each of them can fail ----

SAMPLES: list[tuple[Rule, str, str]] = [
    (c_layering, "csrc/base/list.h", '#include "device/device.h"'),
    (c_layering, "csrc/proto/frame.c", '#include "device/device.h"'),
    (c_layering, "csrc/proto/frame.c", '#include "base/futex.h"'),
    (c_layering, "csrc/proto/frame.c", "#include <pthread.h>"),
    (c_layering, "csrc/proto/frame.c", "#  include <stdlib.h>"),
    (c_layering, "csrc/memory/pages.c", '#include "device/device.h"'),
    (c_layering, "csrc/device/device.c", '#include "region/region.h"'),
    (c_layering, "csrc/region/blocks.c", '#include "channel/channel.h"'),
    (c_layering, "csrc/channel/link.c", '#include "provider/shm/shm.h"'),
    (c_layering, "csrc/channel/link.c", '#include "team/team.h"'),
    (c_layering, "csrc/channel/link.c", '#include "rpc/carrier.h"'),
    (c_layering, "csrc/edge/edge.c", '#include "control/listener.h"'),
    (c_layering, "csrc/control/listener.c", '#include "edge/edge.h"'),
    (c_layering, "csrc/team/lane.c", '#include "rpc/carrier.h"'),
    (c_layering, "csrc/channel/link.c", "#include <infiniband/verbs.h>"),
    (c_layering, "csrc/provider/shm/post.c", '#include "proto/limits.h"'),
    (c_layering, "csrc/provider/shm/post.c", '#include "provider/sim/sim.h"'),
    (c_layering, "csrc/provider/shm/post.c", "#include <infiniband/verbs.h>"),
    (c_layering, "csrc/provider/registry.c", '#include "provider/shm/shm.h"'),
    (c_layering, "csrc/provider/verbs/open.c", "#include <cuda.h>"),
    (c_layering, "csrc/gpu/driver.h", "#include <cuda.h>"),
    (c_layering, "csrc/provider/shm/post.c", '#include "gpu/cuda_abi.h"'),
    (c_layering, "csrc/gpu/work.c", '#include "memory/pages.h"'),
    (c_layering, "csrc/rdmatensor.h", '#include "device/device.h"'),
    (c_layering, "csrc/region/region.c", "#include <Python.h>"),
    (c_layering, "csrc/python/dlpack.c", '#include "device/device.h"'),
    (proto_is_pure, "csrc/proto/frame.c", "    uint8_t *copy = malloc(size);"),
    (proto_is_pure, "csrc/proto/frame.c", "    int64_t now = rt_clock_now_ns();"),
    (core_decides_by_limits, "csrc/channel/link.c", '    if (strcmp(name, "shm") == 0)'),
    (one_place_for_memory_order, "csrc/channel/op.c", "    __atomic_store_n(&x, 1, __ATOMIC_RELEASE);"),
    (no_gpu_calls, "csrc/memory/pages.c", "    cuMemAlloc(&pointer, size);"),
    (hot_file_is_hot, "csrc/channel/post.c", "    void *p = malloc(8);"),
    (hot_file_is_hot, "csrc/channel/poll.c", "    pthread_mutex_lock(&device->lock);"),
    (hot_file_is_hot, "csrc/provider/shm/post.c", '    fprintf(stderr, "posted");'),
    (no_unsafe_calls, "csrc/rpc/carrier.c", "    strcpy(name, text);"),
    (opens_with_what_it_is, "csrc/rpc/carrier.c", '#include "rpc/carrier.h"'),
    (opens_with_what_it_is, "csrc/rpc/carrier.c", "/* carriage.c: another name */"),
    (c_function_lengths, "csrc/rpc/carrier.c", "int f(void)\n{\n" + "    g();\n" * (FUNCTION_LINES_MAX + 1) + "}\n"),
    (file_length, "csrc/rpc/carrier.c", "\n" * (FILE_LINES_MAX + 1)),
    (limits_are_derived, "csrc/proto/limits.h", "enum {\n    /* ---- a section ---- */\n    RT_MANY_MAX = 3,\n};\n"),
    (limits_are_derived, "csrc/proto/limits.h", "    /* why */\n    RT_ONE_MAX = 3,\n\n    RT_TWO_MAX = 4,\n"),
    (python_layering, "rdmatensor/device.py", "from rdmatensor import _native"),
    (python_layering, "rdmatensor/device.py", "from rdmatensor.bench import run"),
    (python_layering, "rdmatensor/bench/run.py", "from rdmatensor import _core"),
    (python_layering, "rdmatensor/bench/run.py", "import torch"),
    (c_layering, "csrc/channel/link.c", '#include "bench/bench.h"'),
    (python_layering, "rdmatensor/device.py", "from . import _native"),
    (python_layering, "rdmatensor/device.py", "from ._native import ffi"),
    (python_layering, "rdmatensor/device.py", "import importlib\nimportlib.import_module('rdmatensor._native')"),
    (python_layering, "rdmatensor/_core.py", "from rdmatensor import _native"),
    (python_layering, "rdmatensor/device.py", "from rdmatensor._core.base import check"),
    (python_layering, "rdmatensor/device.py", "from rdmatensor._core import base"),
    (python_layering, "tests/python/test_device.py", "import rdmatensor._native"),
    (python_layering, "rdmatensor/device.py", "def f():\n    import torch"),
    (python_layering, "rdmatensor/device.py", "from torch.distributed import ProcessGroup"),
    (python_layering, "rdmatensor/device.py", "import cffi"),
    (python_layering, "rdmatensor/device.py", "from .cli import main"),
    (python_layering, "rdmatensor/memory/region.py", "from rdmatensor.torch import allocator"),
    (python_layering, "rdmatensor/memory/frameworks.py", "import torch"),
    (python_layering, "rdmatensor/cli/devices.py", "from .._core import providers"),
    (python_says_what_it_is, "rdmatensor/device.py", "import os"),
    (no_sleeping, "tests/python/test_x.py", "    time.sl" + "eep(0.1)"),
    (no_sleeping, "tests/python/test_x.py", "    await asyncio.sl" + "eep(1)"),
    (no_sleeping, "tests/c/test_x.c", "    usl" + "eep(1000);"),
    (no_imports_from_conftest, "tests/python/test_x.py", "from conftest import FAKE"),
    (conditions_are_entered_by_their_lock, "rdmatensor/x.py", "changed = threading.Condition(lock)\nwith changed:"),
    (nothing_is_unfinished, "csrc/rpc/carrier.c", "/* TO" + "DO: later */"),
]


@pytest.mark.parametrize(("rule", "path", "text"), SAMPLES)
def test_a_rule_catches_what_breaks_it(rule: Rule, path: str, text: str) -> None:
    assert rule(path, text)


FINE: list[tuple[Rule, str, str]] = [
    (
        c_layering,
        "csrc/channel/link.c",
        '#include "channel/link.h"\n#include "provider/provider.h"\n#include <pthread.h>\n',
    ),
    (c_layering, "csrc/provider/verbs/open.c", '#include <infiniband/verbs.h>\n#include "provider/verbs/verbs.h"\n'),
    (c_layering, "csrc/proto/frame.c", '#include "proto/limits.h"\n#include "base/bytes.h"\n#include <string.h>\n'),
    (hot_file_is_hot, "csrc/channel/post.c", '/* no malloc() here */ const char *text = "free(x)";'),
    (
        limits_are_derived,
        "csrc/proto/limits.h",
        "    /* why */\n    RT_A_MAX = 3,\n    RT_B_MAX = 3,\n\n    RT_C = 1, /* so */\n",
    ),
    (python_layering, "rdmatensor/_core/base.py", "from rdmatensor._native import ffi, lib"),
    (python_layering, "rdmatensor/_core/devices.py", "from rdmatensor._core.base import check"),
    (python_layering, "rdmatensor/device.py", "from rdmatensor._core import RegionHandle, region_allocate"),
    (python_layering, "rdmatensor/memory/frameworks.py", "def f():\n    import_module('rdmatensor.torch.allocator')"),
    (python_layering, "rdmatensor/torch/backend.py", "import torch\nfrom rdmatensor import Device"),
    (python_layering, "rdmatensor/cli/__init__.py", "from . import devices\nfrom rdmatensor.cli import devices"),
    (no_sleeping, "tests/python/test_x.py", "    await asyncio.sleep(0)"),
    (no_imports_from_conftest, "tests/python/test_x.py", "from kinds import FAKE"),
    (conditions_are_entered_by_their_lock, "rdmatensor/x.py", "changed = threading.Condition(lock)\nwith lock:"),
]


@pytest.mark.parametrize(("rule", "path", "text"), FINE)
def test_a_rule_lets_good_code_pass(rule: Rule, path: str, text: str) -> None:
    assert rule(path, text) == []
