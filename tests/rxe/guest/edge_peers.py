"""The other party's side of tensor edges: functions that run there."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import Any

from peers import digest, filled

import rdmatensor as rt
from rdmatensor.testing import Party

SIZE = 256 << 10
WORDS: dict[str, dict[str, Any]] = {
    "static": {"shape": (SIZE,), "dtype": "uint8"},
    "striped": {"shape": (SIZE,), "dtype": "uint8", "options": rt.EdgeOptions(stripes=2, verify="crc32c")},
    "dynamic": {},
}


def content(name: str, number: int) -> bytes:
    """The bytes of a tensor of an edge: a few that repeat."""
    return filled(SIZE, 8 * list(WORDS).index(name) + number % 8)


def make_edges(party: Party) -> None:
    for name, words in WORDS.items():
        options = replace(words.get("options", rt.EdgeOptions()), slots=3)
        party.kept[f"edge {name}"] = party.device.recv_edge(name, **{**words, "options": options})


def open_edges(party: Party) -> None:
    """The sending ends, and tensors in a region."""
    region = party.kept["tensors"] = party.device.region(24 * (SIZE + 64), access=rt.Access.REMOTE_READ)
    for name, words in WORDS.items():
        party.kept[f"edge {name}"] = party.kept["channel"].send_edge(name, **words)
        for number in range(8):
            tensor = party.kept[f"{name} {number}"] = region.empty((SIZE,), "uint8")
            tensor.view()[:] = content(name, number)


def send_until_error(party: Party) -> tuple[str, float]:
    """Sends in turn over every edge; returns the error that ended it, and seconds that the last send took."""
    for turn in range(1 << 60):
        for name in WORDS:
            began = time.monotonic()
            try:
                party.kept[f"edge {name}"].send(party.kept[f"{name} {turn % 8}"], 30.0)
            except rt.RdmaError as error:
                return type(error).__name__, time.monotonic() - began
    raise AssertionError


def receive_until_error(party: Party) -> tuple[str, float, int]:
    """Takes in turn from every edge and looks at every byte; returns the error that ended it, seconds that the last
    took, and how many tensors came.
    """
    wanted = {name: [digest(content(name, number)) for number in range(8)] for name in WORDS}
    for turn in range(1 << 60):
        for index, name in enumerate(WORDS):
            began = time.monotonic()
            try:
                with party.kept[f"edge {name}"].recv(30.0) as tensor:
                    assert digest(tensor.view()) == wanted[name][turn % 8], f"{name}, tensor {turn}"
            except rt.RdmaError as error:
                return type(error).__name__, time.monotonic() - began, turn * len(WORDS) + index
    raise AssertionError


def take_rest(party: Party, counts: dict[str, int]) -> dict[str, str]:
    """Takes what is left on every edge after the loss, whole; returns how each ended. `counts` were taken before."""
    ended = {}
    for name in WORDS:
        number = counts[name]
        with contextlib.suppress(rt.PeerLost):
            while True:
                with party.kept[f"edge {name}"].recv(5.0) as tensor:
                    assert digest(tensor.view()) == digest(content(name, number)), f"{name}, tensor {number}"
                number += 1
        ended[name] = type(party.kept[f"edge {name}"].failure).__name__
    return ended


def close_edges(party: Party) -> None:
    for name in WORDS:
        party.kept.pop(f"edge {name}").close()
    for key in [key for key in party.kept if key.split()[0] in WORDS]:
        del party.kept[key]
