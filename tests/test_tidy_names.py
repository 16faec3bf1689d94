"""Static functions are named noun first, and each name stands in one file: a stack trace says where one is."""

from __future__ import annotations

import re
from collections import defaultdict

import house
from test_tidy import ROOT, c_files, code_only

# Verbs that are no nouns of this project. One that is a noun too (a copy, a send, an answer) is not listed.
VERBS = re.compile(
    r"(abandon|add|admit|allocate|append|apply|arm|attach|await|begin|build|can|carve|choose|"
    r"clear|close|collect|complete|compress|connect|create|decode|derive|destroy|detach|"
    r"discard|disconnect|drop|encode|enter|evict|examine|execute|fail|feed|fill|find|finish|"
    r"follow|forget|free|furnish|gain|get|give|grow|hand|has|hear|hold|init|is|keep|lay|"
    r"lead|learn|leave|lend|let|load|lose|make|meet|narrow|open|orphan|parse|place|post|"
    r"prepare|publish|pull|pump|push|put|read|reap|reclaim|refuse|register|release|remove|"
    r"repost|reserve|resolve|retire|say|search|serve|set|settle|share|sleep|speak|spin|split|"
    r"start|stop|take|tell|translate|unpin|unpublish|unreserve|wake|widen|withdraw)(_|$)"
)


def statics() -> dict[str, set[str]]:
    """The files of each name; csrc/python names its functions for the classes of Python."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in c_files():
        if path.startswith("csrc/python/") or path.endswith(".h"):
            continue
        for name, static, _, _ in house.c_functions(code_only((ROOT / path).read_text(encoding="utf-8"))):
            if static:
                found[name].add(path)
    return found


def test_no_two_files_have_static_functions_of_one_name() -> None:
    assert {name: paths for name, paths in statics().items() if len(paths) > 1} == {}


def test_no_static_function_opens_with_a_verb() -> None:
    assert len(statics()) > 500
    assert [f"{name}: {paths}" for name, paths in statics().items() if VERBS.match(name)] == []
