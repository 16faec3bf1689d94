"""The rooms of csrc: who may use whom, by include and by call; no circle of files; nothing included, declared or
kept that nobody uses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import house
import pytest
from test_tidy import ROOMS, ROOT, code_only, layer_of, tree


def own_room(unit: str) -> str:
    return layer_of(unit) if unit.startswith("csrc/") else ""


def test_calls_keep_to_the_rooms_below_too() -> None:
    found = [
        f"{unit} uses {target}"
        for unit, targets in house.read_c(ROOT).arrows.items()
        for target in sorted(targets)
        if own_room(unit) in ROOMS and own_room(target) in ROOMS
        if own_room(unit) != own_room(target) and own_room(target) not in ROOMS[own_room(unit)]
    ]
    assert not found, "\n".join(found)


def test_no_files_stand_in_a_circle() -> None:
    found = [" ".join(circle) for circle in house.circles(house.read_c(ROOT).arrows)]
    assert not found, "\n".join(found)


def test_no_arrow_goes_up() -> None:
    """A room's order is that of its files' arrows: without a circle, all of them go down."""
    assert house.up_between(house.read_c(ROOT), house.LEVELS) == []


def declared(path: str) -> list[str]:
    """Functions that a header declares."""
    code = code_only((ROOT / path).read_text())
    return re.findall(r"^(?!static|typedef|#)[a-z][^;{}()=]*?\b(rt_\w+|quick_\w+)\s*\(", code, re.MULTILINE)


def functions_in(code: str) -> list[str]:
    """Functions that a header declares or defines."""
    return re.findall(r"^(?!typedef|#)\w[^;{}()=#]*?\b(\w+)\s*\(", code, re.MULTILINE)


INTERFACES = (
    "csrc/rdmatensor.h",
    "csrc/rdmatensor_team.h",
    "csrc/rdmatensor_gpu.h",
    "csrc/bench/bench.h",
)
ENTRY = "csrc/python/module.c"  # Python finds its function by the module's name


def test_every_function_that_a_header_declares_is_used_elsewhere() -> None:
    """Else it is static, or dead."""
    files = tree("csrc/**/*.[ch]", "tests/**/*.[ch]", "benchmarks/**/*.[ch]")
    words = {path: set(re.findall(r"\w+", code_only((ROOT / path).read_text()))) for path in files}
    defined = {
        name: path
        for path in files
        for name, static, _, _ in house.c_functions(code_only((ROOT / path).read_text()))
        if not static
    }
    found = []
    for header in (
        path for path in files if path.startswith("csrc/") and path.endswith(".h") and path not in INTERFACES
    ):
        for name in declared(header):
            if name not in defined:
                found.append(f"{header}: {name} is nowhere")
                continue
            elsewhere = any(name in words[path] for path in files if path not in (header, defined[name]))
            in_macros = len(re.findall(rf"\b{name}\b", code_only((ROOT / header).read_text()))) > 1
            if not elsewhere and not in_macros:
                found.append(f"{header}: {name} is used in {defined[name]} alone")
    assert not found, "\n".join(found)


# ---- headers: each include is needed, each declaration and each file is used ----


@dataclass(frozen=True)
class Declared:
    """Names that a header declares: all of them; those of structs, which a forward declaration can stand for; and the
    members of those."""

    names: frozenset[str]
    structs: frozenset[str]
    members: frozenset[str]


def declared_in(text: str) -> Declared:
    code = code_only(text)
    structs = set(re.findall(r"^typedef struct (\w+) \1;", code, re.MULTILINE))
    structs |= set(re.findall(r"^struct (\w+) \{", code, re.MULTILINE))
    structs |= {
        tag for tag, name in re.findall(r"^typedef struct (\w+) \{.*?^\} (\w+);", code, re.M | re.S) if tag == name
    }
    names = set(re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", code, re.MULTILINE))
    names |= set(re.findall(r"\b(?:struct|union|enum)\s+(\w+)\s*\{", code))
    names |= set(re.findall(r"^\}\s*(\w+);", code, re.MULTILINE))
    names |= set(re.findall(r"^typedef\s[^;{]*?\b(\w+)\s*(?:\([^()]*\))?;", code, re.MULTILINE))
    names |= set(re.findall(r"^(?!typedef|#)\w[^;{}()=#]*?\b(\w+)\s*\(", code, re.MULTILINE))
    names |= set(re.findall(r"^extern[^;=]*?\b(\w+)\s*(?:\[[^\]]*\])?;", code, re.MULTILINE))
    for body in re.findall(r"\benum\s*\w*\s*\{(.*?)\}", code, re.DOTALL):
        names |= set(re.findall(r"(?:^|,)\s*([A-Za-z_]\w*)", body))
    members: set[str] = set()
    for body in re.findall(r"^(?:typedef )?struct \w+ \{(.*?)^\}", code, re.MULTILINE | re.DOTALL):
        members |= set(re.findall(r"(\w+)(?:\[[^\]]*\])*\s*[,;]", body))
    names = (names | structs) - {"__attribute__", "_Static_assert"}
    return Declared(frozenset(names), frozenset(structs), frozenset(members))


@cache
def headers() -> dict[str, Declared]:
    """The declarations of each header of csrc, by the path that an include names."""
    return {
        path.removeprefix("csrc/"): declared_in((ROOT / path).read_text(encoding="utf-8"))
        for path in tree("csrc/**/*.h")
    }


def included(text: str) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE)


def pointer_only(code: str, name: str) -> bool:
    """Whether a header names a type as that of pointers alone, and outside of functions, which may look behind them."""
    functions = re.findall(r"^static inline [^;{]*\n\{\n.*?^\}", code, re.MULTILINE | re.DOTALL)
    if re.search(rf"\b{name}\b", "\n".join(functions)):
        return False
    rest = re.sub(rf"^typedef struct {name} {name};", "", code, flags=re.MULTILINE)
    return not re.search(rf"\b{name}\b(?!\s*(?:const\s*)?\*)", rest)


def is_foreign(path: str, header: str) -> bool:
    return layer_of(header) not in ("base", "interface", layer_of(path))


def needless_includes(path: str, text: str, known: Mapping[str, Declared]) -> list[str]:
    """Includes of which nothing is used; in a header also those of another room's objects for which forward
    declarations are enough. Base and the interface are everybody's vocabulary."""
    code = code_only(text)
    words = set(re.findall(r"\w+", re.sub(r"^\s*#\s*include.*$", "", code, flags=re.MULTILINE)))
    members = set(re.findall(r"(?:->|\.)\s*(\w+)", code))
    wrong = []
    for header in included(text):
        if header not in known or f"csrc/{header.removesuffix('.h')}.c" == path:
            continue
        used = known[header].names & words
        looks_in = bool(known[header].members & members)
        if not used and not looks_in:
            wrong.append(f"uses nothing of {header}")
        elif (
            path.endswith(".h")
            and not looks_in
            and used <= known[header].structs
            and is_foreign(path, f"csrc/{header}")
            and all(pointer_only(code, name) for name in used)
        ):
            wrong.append(f"needs forward declarations of {', '.join(sorted(used))} rather than {header}")
    return wrong


def test_no_file_includes_a_header_needlessly() -> None:
    known = headers()
    found = [
        f"{path}: {text}"
        for path in tree("csrc/**/*.[ch]")
        for text in needless_includes(path, (ROOT / path).read_text(encoding="utf-8"), known)
    ]
    assert not found, "\n".join(found)


NEEDLESS: list[tuple[str, str]] = [
    ("csrc/edge/a.h", '#include "proto/sha256.h"\nint rt_edge_a(void);\n'),
    ("csrc/edge/a.c", '#include "region/region.h"\nstatic int a(rt_edge *edge)\n{\n    return edge->name[0];\n}\n'),
    ("csrc/edge/a.h", '#include "region/region.h"\nint rt_edge_a(rt_region *region, const rt_region *other);\n'),
    ("csrc/edge/a.h", '#include "region/region.h"\ntypedef struct rt_a {\n    rt_region *region;\n} rt_a;\n'),
]
NEEDED: list[tuple[str, str]] = [
    ("csrc/edge/a.h", '#include "base/list.h"\nint rt_edge_a(rt_list *list);\n'),
    ("csrc/edge/a.h", '#include "edge/edge.h"\nint rt_edge_a(rt_edge *edge);\n'),
    ("csrc/edge/a.h", '#include "region/pool.h"\ntypedef struct rt_a {\n    rt_pool_block block;\n} rt_a;\n'),
    (
        "csrc/edge/a.h",
        '#include "region/region.h"\nstatic inline int a(const rt_region *region)\n{\n    return region->size;\n}\n',
    ),
    ("csrc/edge/a.c", '#include "region/region.h"\nvoid rt_a(void)\n{\n    rt_region_reference(NULL);\n}\n'),
]


@pytest.mark.parametrize(("path", "text"), NEEDLESS)
def test_a_needless_include_is_found(path: str, text: str) -> None:
    assert needless_includes(path, text, headers())


@pytest.mark.parametrize(("path", "text"), NEEDED)
def test_an_include_that_is_needed_is_let_through(path: str, text: str) -> None:
    assert needless_includes(path, text, headers()) == []


def unused_declarations(path: str, text: str, elsewhere: Mapping[str, int]) -> list[str]:
    """Names that a header declares and nobody uses, functions apart; `elsewhere` counts the words of all other files.
    The tag of an enum may stand alone: it names the set."""
    code = code_only(text)
    here = Counter(re.findall(r"\w+", code))
    tags = set(re.findall(r"\benum\s+(\w+)\s*\{", code))
    forward = set(re.findall(r"^typedef struct (\w+) \1;", code, re.MULTILINE))
    wrong = []
    for name in sorted(declared_in(text).names - tags - set(functions_in(code))):
        said = 2 * (name in forward) + len(re.findall(rf"\bstruct {name} \{{|^\}} {name};", code, re.MULTILINE))
        if name not in elsewhere and here[name] <= max(said, 1):
            wrong.append(f"nobody uses {name}")
        elif name in forward and here[name] <= 2:
            wrong.append(f"declares {name}, and does not use it")
    return wrong


def test_every_declaration_is_used() -> None:
    files = tree("csrc/**/*.[ch]", "tests/**/*.[ch]", "benchmarks/**/*.[ch]")
    words = {path: Counter(re.findall(r"\w+", code_only((ROOT / path).read_text(encoding="utf-8")))) for path in files}
    total = Counter[str]()
    for count in words.values():
        total += count
    found = [
        f"{path}: {text}"
        for path in files
        if path.startswith("csrc/") and path.endswith(".h") and path not in INTERFACES
        for text in unused_declarations(path, (ROOT / path).read_text(encoding="utf-8"), total - words[path])
    ]
    assert not found, "\n".join(found)


UNUSED = (
    "#define RT_A 1\n",
    "enum { RT_A = 1 };\n",
    "typedef struct rt_a rt_a;\n",
    "typedef struct rt_a {\n    int one;\n} rt_a;\n",
    "extern const int rt_a;\n",
)


@pytest.mark.parametrize("text", UNUSED)
def test_an_unused_declaration_is_found(text: str) -> None:
    assert unused_declarations("csrc/edge/a.h", text, {})


def test_a_used_declaration_is_let_through() -> None:
    assert unused_declarations("csrc/edge/a.h", "enum rt_set { RT_A };\n#define RT_B RT_A\n", {"RT_B": 1}) == []


def dead_files(texts: Mapping[str, str]) -> list[str]:
    """Headers that nobody includes, and C files of which nobody uses a function or a table."""
    named = {header for text in texts.values() for header in included(text)}
    words = {path: set(re.findall(r"\w+", code_only(text))) for path, text in texts.items()}
    dead = []
    for path, text in texts.items():
        code = code_only(text)
        if path.endswith(".h"):
            if path.removeprefix("csrc/") not in named:
                dead.append(path)
            continue
        given = {name for name, static, _, _ in house.c_functions(code) if not static}
        given |= set(re.findall(r"^(?!static|extern)\w[^;{}()=]*?\b(\w+)(?:\[[^\]]*\])?\s*=", code, re.MULTILINE))
        own = {path, path.removesuffix("c") + "h"} - set(INTERFACES)
        if not any(given & words[other] for other in texts if other not in own):
            dead.append(path)
    return dead


def test_no_file_is_dead() -> None:
    paths = tree("csrc/**/*.[ch]", "tests/**/*.[ch]", "benchmarks/**/*.[ch]")
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in paths}
    dead = [path for path in dead_files(texts) if path.startswith("csrc/")]
    assert set(dead) <= {*INTERFACES, ENTRY}, "\n".join(dead)


def test_a_dead_file_is_found() -> None:
    texts = {
        "csrc/edge/a.h": "int rt_a(void);\n",
        "csrc/edge/a.c": '#include "edge/a.h"\nint rt_a(void)\n{\n}\n',
        "csrc/edge/b.h": "int rt_b(void);\n",
        "csrc/edge/c.c": "static int c(void)\n{\n}\n",
    }
    assert dead_files(texts) == ["csrc/edge/a.c", "csrc/edge/b.h", "csrc/edge/c.c"]
