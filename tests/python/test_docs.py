"""The examples in docstrings run, and what documents say of the code is so."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import rdmatensor

ROOT = Path(__file__).resolve().parents[2]
APART = ("rdmatensor.torch", "rdmatensor.vm", "rdmatensor.bench", "rdmatensor.cli")
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(rdmatensor.__path__, "rdmatensor.")
    if "._" not in name and not name.startswith(APART)
]


@pytest.mark.parametrize("name", ["rdmatensor", *MODULES])
def test_the_examples_of_a_module_run(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), verbose=False)
    assert failed == 0


def test_the_package_has_an_example() -> None:
    assert ">>>" in (rdmatensor.__doc__ or "")


def test_every_public_name_is_there_and_documented() -> None:
    for name in rdmatensor.__all__:
        assert getattr(rdmatensor, name).__doc__, name


def test_the_functions_of_the_tour_are_in_the_files_that_it_names() -> None:
    text = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    named = re.findall(r"((?:`[\w.]+`,? ?(?:and )?)+)\s*in\s*\[[\w/.]+\]\(\.\./([\w/.]+)\)", text)
    assert len(named) > 20
    for names, path in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            function = name.rpartition(".")[2]
            assert re.search(rf"^(?:[\w ].*\b| +def ){function}\(", source, re.MULTILINE), f"{name} is not in {path}"


def columns(code: str) -> tuple[str, str]:
    """The two programs of an example that stand side by side."""
    lines = code.splitlines()
    at = lines[0].rindex("#")
    return "\n".join(line[:at].rstrip() for line in lines), "\n".join(line[at:] for line in lines)


def test_the_example_of_the_tour_calls_what_there_is() -> None:
    text = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    owners = {"device": rdmatensor.Device, "channel": rdmatensor.Channel}
    called = set()
    for program in columns(code):
        for node in ast.walk(ast.parse(program)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner, name = ast.unparse(node.func.value), node.func.attr
            if owner in owners:
                words = {word.arg: word.value for word in node.keywords if word.arg is not None}
                known = inspect.signature(getattr(owners[owner], name))
                known.bind(owner, *node.args, **words)
                called.add(name)
    assert called == {"recv_edge", "listen", "connect", "send_edge"}


def public_signatures() -> dict[str, inspect.Signature]:
    found = {}
    for name in rdmatensor.__all__:
        owner = getattr(rdmatensor, name)
        members = vars(owner).items() if inspect.isclass(owner) else [("", owner)]
        for member, value in members:
            if callable(value) and not member.startswith("_"):
                with contextlib.suppress(TypeError, ValueError):  # not of Python, and without a text signature
                    found[f"{name}.{member}".rstrip(".")] = inspect.signature(value)
    return found


def test_signatures_show_users_nothing_that_only_c_gives() -> None:
    found = public_signatures()
    assert "taken" not in {word for signature in found.values() for word in signature.parameters}
    assert list(found["Channel.send_edge"].parameters) == ["self", "name", "shape", "dtype", "options", "timeout"]
    assert list(found["Listener.accept"].parameters) == ["self", "timeout"]
