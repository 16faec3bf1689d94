"""The layers of rdmatensor/ stay true: no module imports one that imports it, a room imports only those below it, and
private members stay inside their room.

Every import statement counts, wherever it stands: inside a function or under TYPE_CHECKING too.
The one door up (memory/frameworks.py) loads rdmatensor.torch by its name, with no import statement.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
Graph = Mapping[str, set[str]]

LOW = {"errors", "limits", "stats", "settings", "locks", "_core", "fork", "backoff"}
ARROWS: Mapping[str, set[str]] = {
    "errors": set(),
    "limits": set(),
    "stats": set(),
    "settings": {"errors"},
    "locks": {"settings"},
    "_core": {"errors", "limits", "stats", "settings", "locks"},
    "fork": {"_core", "errors"},
    "backoff": set(),
    "owners": {"_core", "errors", "limits"},
    "memory": LOW | {"owners"},
    "copies": LOW | {"owners", "memory"},
    "edges": LOW | {"owners", "memory", "copies"},
    "aio": {"_core", "errors", "owners", "backoff"},
    "channel": LOW | {"owners", "memory", "copies", "edges"},
    "connecting": {"_core", "errors", "owners", "backoff"},
    "listener": LOW | {"owners", "channel"},
    "providers": {"_core", "errors", "limits"},
    "device": LOW | {"memory", "copies", "edges", "aio", "channel", "connecting", "listener"},
    "signals": {"device", "errors", "fork"},
    "team": LOW | {"memory", "copies", "channel", "device", "listener"},
    "testing": {"_core", "channel", "device", "errors", "listener", "providers"},
}
"""Which rooms a room may import: packages, and modules that stand alone. Those that are not here (cli, bench, torch,
vm) are above, and nothing here may import them."""


@functools.cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


@functools.cache
def modules() -> dict[str, str]:
    """The text of every module of rdmatensor, by its dotted name."""
    found = {}
    for path in sorted((ROOT / "rdmatensor").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imported(name: str, text: str, known: Mapping[str, str]) -> set[str]:
    """The modules that a module imports, itself left out."""
    found = set()
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in known else node.module)
    return {module for module in found if module in known and module != name}


def graph_of(texts: Mapping[str, str]) -> dict[str, set[str]]:
    return {name: imported(name, text, texts) for name, text in texts.items()}


def reached(graph: Graph, start: str) -> set[str]:
    """The modules that a module reaches by imports, directly or through others."""
    found: set[str] = set()
    left = [start]
    while left:
        new = graph[left.pop()] - found
        found |= new
        left += new
    return found


def circles(graph: Graph) -> list[str]:
    """The modules that reach themselves."""
    return sorted(name for name in graph if name in reached(graph, name))


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def wrong_arrows(graph: Graph) -> list[str]:
    return [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in sorted(others)
        if room_of(name) in ARROWS and room_of(other) != room_of(name)
        if room_of(other) not in ARROWS[room_of(name)]
    ]


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def defined(tree: ast.AST) -> Iterator[str]:
    """The private members that the classes of a module have."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        for inside in ast.walk(node):
            if isinstance(inside, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield inside.name
            elif isinstance(inside, ast.Attribute) and isinstance(inside.value, ast.Name):
                if inside.value.id in ("self", "cls"):
                    yield inside.attr
            elif isinstance(inside, ast.AnnAssign) and isinstance(inside.target, ast.Name):
                yield inside.target.id


def shared() -> set[str]:
    """Private members that are no room's own: the C core reads them by their names, and what owners.py asks for."""
    found: set[str] = set()
    for path in (ROOT / "csrc/python").glob("*.c"):
        found |= set(re.findall(r'"(_[a-z]\w*)"', path.read_text(encoding="utf-8")))
    return found | set(defined(ast.parse((ROOT / "rdmatensor/owners.py").read_text(encoding="utf-8"))))


def reaches(texts: Mapping[str, str], of_all: set[str]) -> list[str]:
    """Where a module takes a private member of a class of another room."""
    owners: dict[str, set[str]] = {}
    for name, text in texts.items():
        for member in filter(private, defined(parsed(text))):
            owners.setdefault(member, set()).add(room_of(name))
    wrong = []
    for name, text in texts.items():
        for node in ast.walk(parsed(text)):
            if not isinstance(node, ast.Attribute) or not private(node.attr) or node.attr in of_all:
                continue
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                continue
            if node.attr in owners and room_of(name) not in owners[node.attr]:
                wrong.append(f"{name}, line {node.lineno}: {ast.unparse(node)}")
    return wrong


def test_no_module_imports_one_that_imports_it() -> None:
    assert circles(graph_of(modules())) == []


def test_rooms_import_only_those_below_them() -> None:
    assert wrong_arrows(graph_of(modules())) == []


def test_the_allowed_arrows_have_no_circle_themselves() -> None:
    assert circles(ARROWS) == []


def test_private_members_stay_in_their_room() -> None:
    found = reaches(modules(), shared())
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "first",
    [
        "from rdmatensor.channel import Channel",
        "def f():\n    from rdmatensor import channel",
        "if TYPE_CHECKING:\n    from rdmatensor.channel import Channel",
    ],
)
def test_a_circle_is_found_wherever_its_imports_stand(first: str) -> None:
    texts = {"rdmatensor.device": first, "rdmatensor.channel": "import rdmatensor.device", "rdmatensor.errors": ""}
    assert circles(graph_of(texts)) == ["rdmatensor.channel", "rdmatensor.device"]


def test_an_arrow_that_points_up_is_found() -> None:
    texts = {"rdmatensor.memory.span": "from rdmatensor import device", "rdmatensor.device": ""}
    assert wrong_arrows(graph_of(texts)) == ["rdmatensor.memory.span imports rdmatensor.device"]


def test_a_private_member_of_another_room_is_found() -> None:
    texts = {
        "rdmatensor.device": "class Device:\n    def f(self):\n        self._regions = 1",
        "rdmatensor.edges.base": "def f(device):\n    return device._regions",
    }
    assert reaches(texts, set()) == ["rdmatensor.edges.base, line 2: device._regions"]
    assert reaches(texts, {"_regions"}) == []
