"""Counts what the layout of the code is like: `make house` prints the figures.

A unit is a module of Python or a file of C: an object's header stands below the files that need to know the object, and
its functions may stand above them. An arrow goes from a unit to each one that it includes, imports or calls a function
of; a call from a header's inline function into the file of the header's name is no arrow. A room is a folder. An arrow
goes up when it leads to a room of C that does not stand below (`LEVELS`), or when it is one of the few that must go for
there to be no circle. A circle is a set of units that all reach each other.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Rooms of C, lowest first; those of one line do not know each other. `csrc` is the folder of the interface's headers.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("csrc", "base"),
    ("proto", "provider", "memory", "gpu"),
    ("provider/verbs", "provider/shm", "provider/sim", "stream"),
    ("device",),
    ("region",),
    ("channel",),
    ("rpc",),
    ("edge", "control", "team"),
    ("assembly",),
    ("bench", "python"),
)
WAITS_C = re.compile(
    r"(?<![\w.>])(nanosleep|clock_nanosleep|usleep|sched_yield|poll|ppoll|epoll_wait|rt_futex_sleep|pthread_cond_(?:timed)?wait)\s*\("
)
WAITS_PYTHON = re.compile(r"\b(?:time\.sleep|asyncio\.sleep|select\.select|select\.poll)\(")

Arrows = dict[str, set[str]]


@dataclass
class House:
    """The units of one language and what was counted of them."""

    rooms: dict[str, str] = field(default_factory=dict)  # of each unit
    files: int = 0
    arrows: Arrows = field(default_factory=lambda: defaultdict(set))
    longest_file: tuple[int, str] = (0, "")
    longest_function: tuple[int, str] = (0, "")
    waits: list[str] = field(default_factory=list)


# ---- reading C ----


def code_only(text: str) -> str:
    """C code with comments and the content of strings blanked, and its lines kept."""

    def blank(match: re.Match[str]) -> str:
        found = match.group(0)
        return '""' if found.startswith('"') else re.sub(r"[^\n]", " ", found)

    return re.sub(r'"(?:\\.|[^"\\\n])*"|/\*.*?\*/|//[^\n]*', blank, text, flags=re.DOTALL)


def c_functions(code: str) -> Iterator[tuple[str, bool, int, int]]:
    """Name, whether it is static, first line and last line of each function; braces stand alone in column 0."""
    lines = code.splitlines()
    opened = None
    for number, line in enumerate(lines):
        if line == "{":
            opened = number
        elif line == "}" and opened is not None:
            start = opened
            while start > 0 and lines[start - 1].strip() and not re.search(r"[;}]\s*$|^\s*#", lines[start - 1]):
                start -= 1
            head = " ".join(lines[start:opened])
            found = re.search(r"(\w+)\s*\(", re.sub(r"__attribute__\s*\(\([^)]*\)\)", "", head))
            if found:
                yield found.group(1), head.lstrip().startswith("static"), opened, number
            opened = None


def c_room(path: str) -> str:
    """The folder below csrc."""
    folder = path.removeprefix("csrc/").rpartition("/")[0]
    return folder or "csrc"


def of_bodies(code: str) -> str:
    """The lines inside functions: a header's declarations are no calls."""
    lines = code.splitlines()
    return "\n".join("\n".join(lines[first:last]) for _, _, first, last in c_functions(code))


def read_c(root: Path) -> House:
    """The units of csrc."""
    house = House()
    texts = {
        str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in sorted(root.glob("csrc/**/*.[ch]"))
    }
    house.files = len(texts)
    defined: dict[str, str] = {}
    codes = {path: code_only(text) for path, text in texts.items()}
    for path, code in codes.items():
        house.rooms[path] = c_room(path)
        house.longest_file = max(house.longest_file, (texts[path].count("\n"), path))
        for name, static, first, last in c_functions(code):
            house.longest_function = max(house.longest_function, (last - first - 1, f"{path} {name}"))
            if not static:
                defined[name] = path
        house.waits += [f"{path} {match.group(1)}" for match in WAITS_C.finditer(code)]
    for path, code in codes.items():
        includes = re.findall(r'^\s*#\s*include\s+"([^"]+)"', texts[path], re.MULTILINE)
        house.arrows[path] |= {f"csrc/{name}" for name in includes if f"csrc/{name}" in texts}
        used = set(re.findall(r"\w+", code if path.endswith(".c") else of_bodies(code)))
        house.arrows[path] |= {defined[name] for name in used & defined.keys() if defined[name][:-2] != path[:-2]}
        house.arrows[path].discard(path)
    return house


# ---- reading Python ----


def modules_named(node: ast.AST, package: list[str]) -> list[str]:
    """The names in an import: modules, and names that may be modules."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        return [f"{module}.{name.name}" for name in node.names]
    return []


def target_of(name: str, units: Mapping[str, str]) -> str | None:
    """The unit that a dotted name leads to: itself, or the module that it is a name of."""
    for candidate in (name, name.rpartition(".")[0]):
        if candidate in units:
            return candidate
    return None


def python_room(module: str) -> str:
    """The package below rdmatensor."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 else "rdmatensor"


def read_python(root: Path) -> House:
    """The modules of rdmatensor; a package that names its modules' things is one with them, so no unit of its own."""
    house = House()
    paths = {path: path.relative_to(root).with_suffix("").parts for path in sorted(root.glob("rdmatensor/**/*.py"))}
    house.files = len(paths)
    units = {".".join(parts): ".".join(parts) for parts in paths.values() if parts[-1] != "__init__"}
    house.rooms = {unit: python_room(unit) for unit in units}
    for path, parts in paths.items():
        text = path.read_text(encoding="utf-8")
        name = "/".join(parts) + ".py"
        house.longest_file = max(house.longest_file, (text.count("\n"), name))
        house.waits += [f"{name} {match.group(0)[:-1]}" for match in WAITS_PYTHON.finditer(text)]
        parsed = ast.parse(text)
        for node in ast.walk(parsed):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                house.longest_function = max(house.longest_function, (length, f"{name} {node.name}"))
        if parts[-1] == "__init__":
            continue
        unit = ".".join(parts)
        named = [found for node in ast.walk(parsed) for found in modules_named(node, list(parts[:-1]))]
        house.arrows[unit] = {found for found in (target_of(entry, units) for entry in named) if found} - {unit}
    return house


# ---- counting ----


def circles(arrows: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Sets of more than one unit that all reach each other, the largest first (Tarjan, without recursion)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []
    for root in arrows:
        if root in index:
            continue
        index[root] = low[root] = len(index)
        stack.append(root)
        work = [(root, iter(sorted(arrows.get(root, ()))))]
        while work:
            unit, rest = work[-1]
            target = next(rest, None)
            if target is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[unit])
                if low[unit] == index[unit]:
                    at = stack.index(unit)
                    members = stack[at:]
                    del stack[at:]
                    if len(members) > 1:
                        found.append(sorted(members))
                    low |= dict.fromkeys(members, sys.maxsize)
            elif target not in index:
                index[target] = low[target] = len(index)
                stack.append(target)
                work.append((target, iter(sorted(arrows.get(target, ())))))
            else:
                low[unit] = min(low[unit], index[target] if target in stack else low[unit])
    return sorted(found, key=lambda members: (-len(members), members))


def against_any_order(arrows: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    """Arrows that go against an order which few do (Eades, Lin, Smyth): none where there is no circle."""
    after = {unit: set(targets) for unit, targets in arrows.items()}
    for targets in list(after.values()):
        for target in targets:
            after.setdefault(target, set())
    left = set(after)
    top: list[str] = []
    bottom: list[str] = []
    while left:
        into: dict[str, int] = defaultdict(int)
        for unit in left:
            for target in after[unit] & left:
                into[target] += 1
        sinks = sorted(unit for unit in left if not after[unit] & left)
        sources = sorted(unit for unit in left if into[unit] == 0)
        if sinks:
            bottom += sinks
            left -= set(sinks)
        elif sources:
            top += sources
            left -= set(sources)
        else:
            score = {unit: len(after[unit] & left) - into[unit] for unit in left}
            best = max(sorted(left), key=score.__getitem__)
            top.append(best)
            left.discard(best)
    order = {unit: place for place, unit in enumerate(top + bottom[::-1])}
    return [(unit, target) for unit in order for target in sorted(after[unit]) if order[target] < order[unit]]


def inside(house: House, room: str) -> Arrows:
    """Arrows between units of one room."""
    return {
        unit: {target for target in house.arrows[unit] if house.rooms.get(target) == room}
        for unit, at in house.rooms.items()
        if at == room
    }


def between(house: House) -> Arrows:
    """Arrows between rooms."""
    found: Arrows = {room: set() for room in house.rooms.values()}
    for unit, targets in house.arrows.items():
        found[house.rooms[unit]] |= {house.rooms[target] for target in targets} - {house.rooms[unit]}
    return found


def up_between(house: House, levels: tuple[tuple[str, ...], ...]) -> list[tuple[str, str]]:
    """Arrows of units to rooms that are not below theirs; without levels, those between rooms that close a circle."""
    if not levels:
        against = against_any_order(house.arrows)
        return [(unit, target) for unit, target in against if house.rooms[unit] != house.rooms[target]]
    level = {room: height for height, rooms in enumerate(levels) for room in rooms}
    return [
        (unit, target)
        for unit, targets in sorted(house.arrows.items())
        for target in sorted(targets)
        if house.rooms[unit] != house.rooms[target]
        and level.get(house.rooms[target], 0) >= level.get(house.rooms[unit], 0)
        and {house.rooms[unit], house.rooms[target]} != {"csrc", "base"}
    ]


# ---- saying ----


def public_names(root: Path) -> str:
    """The number of names that `dir` shows of the package, when it is built."""
    script = "import rdmatensor; print(sum(not name.startswith('_') for name in dir(rdmatensor)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=root)
    return done.stdout.strip() or "not built"


def lines(title: str, house: House, levels: tuple[tuple[str, ...], ...]) -> Iterator[str]:
    """The figures of one language."""
    rooms = sorted(set(house.rooms.values()))
    found = circles(house.arrows)
    up = up_between(house, levels)
    within = {room: against_any_order(inside(house, room)) for room in rooms}
    yield f"{title}: {len(rooms)} rooms, {house.files} files"
    yield f"  arrows of files          {sum(map(len, house.arrows.values()))}"
    yield f"  arrows between rooms     {sum(map(len, between(house).values()))}, of files going up: {len(up)}"
    arrows_inside = sum(len(targets) for room in rooms for targets in inside(house, room).values())
    yield f"  arrows inside rooms      {arrows_inside}, up: {sum(map(len, within.values()))}"
    yield f"  circles                  {len(found)}: {', '.join(map(str, map(len, found))) or 'none'} files"
    for room in rooms:
        arrows = inside(house, room)
        own = [str(len(circle)) for circle in circles(arrows)]
        yield (
            f"    {room:<16} {len(arrows):3} files, {sum(map(len, arrows.values())):3} arrows inside, "
            f"up {len(within[room])}" + (f", circles of {', '.join(own)}" if own else "")
        )
    yield f"  longest file             {house.longest_file[0]} lines: {house.longest_file[1]}"
    yield f"  longest function         {house.longest_function[0]} lines: {house.longest_function[1]}"
    yield f"  places that wait         {len(house.waits)}"


def report(root: Path) -> Iterator[str]:
    """All figures."""
    yield from lines("C", read_c(root), LEVELS)
    interface = code_only((root / "csrc/rdmatensor.h").read_text(encoding="utf-8"))
    functions = set(re.findall(r"^[^#].*?[ *](rt_[a-z0-9_]+)[(]", interface, re.MULTILINE))
    yield f"  public functions         {len(functions)} in rdmatensor.h"
    yield from lines("Python", read_python(root), ())
    yield f"  public names             {public_names(root)}"
    top = [path for path in root.glob("rdmatensor/*.py") if path.name != "__init__.py"]
    yield f"  modules at the top       {len(top)}"


def details(root: Path) -> Iterator[str]:
    """The details behind the figures: circles, arrows up, places that wait."""
    for title, house, levels in (("C", read_c(root), LEVELS), ("Python", read_python(root), ())):
        yield from (f"{title} circle: {' '.join(circle)}" for circle in circles(house.arrows))
        yield from (f"{title} up: {unit} -> {target}" for unit, target in up_between(house, levels))
        for room in sorted(set(house.rooms.values())):
            yield from (f"{title} up in {room}: {a} -> {b}" for a, b in against_any_order(inside(house, room)))
        yield from (f"{title} waits: {place}" for place in house.waits)


def main() -> None:
    """Prints the figures of this tree, or of another one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--details", action="store_true", help="also circles, arrows up and places that wait")
    options = parser.parse_args()
    print("\n".join(report(options.root)))
    if options.details:
        print("\n".join(details(options.root)))


if __name__ == "__main__":
    main()
