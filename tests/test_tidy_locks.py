"""Locks of C that the order of locks does not know: it asserts nothing about them (csrc/base/lock_order.h)."""

from __future__ import annotations

import re

import pytest
from test_tidy import ROOT, c_files, code_only

ORDER = "csrc/base/lock_order.h"
UNRANKED = r"\bpthread_mutex_(init|destroy)\b|\bPTHREAD_MUTEX_INITIALIZER\b|\bpthread_(cond|rwlock|spin)_\w+"


def code_of(path: str) -> str:
    return code_only((ROOT / path).read_text(encoding="utf-8"))


def includes_of(path: str, seen: set[str]) -> set[str]:
    """All headers of ours that a file has, those that its headers include among them."""
    for header in re.findall(r'#include "(.+?)"', (ROOT / path).read_text(encoding="utf-8")):
        if f"csrc/{header}" not in seen:
            seen.add(f"csrc/{header}")
            includes_of(f"csrc/{header}", seen)
    return seen


def test_every_mutex_is_made_with_a_rank() -> None:
    assert [path for path in c_files() if path != ORDER and re.search(UNRANKED, code_of(path))] == []


@pytest.mark.parametrize(
    "text",
    [
        "    pthread_mutex_init(&team->lock, NULL);",
        "static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;",
        "    pthread_cond_wait(&changed, &lock);",
    ],
)
def test_a_lock_without_a_rank_is_found(text: str) -> None:
    assert re.search(UNRANKED, text)


def test_every_turn_has_a_rank() -> None:
    everything = "".join(code_of(path) for path in c_files())
    turns = set(re.findall(r"\brt_turn (\w+);", everything))
    assert turns
    assert turns - set(re.findall(r"\brt_turn_rank\(&\w+->(\w+), RT_RANK_\w+\)", everything)) == set()


def test_every_call_for_a_mutex_is_checked() -> None:
    users = [path for path in c_files() if re.search(r"\bpthread_mutex_\w*lock\(", code_of(path))]
    assert users
    assert [path for path in users if ORDER not in includes_of(path, {path})] == []
