"""A byte pattern that differs from place to place and from seed to seed: the data that a check
sends.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bytes_of", "differences", "fill"]

BLOCK = 1 << 20
ODD = np.uint64(0x9E3779B97F4A7C15)
SHIFT = np.uint64(29)


def bytes_of(first: int, size: int, seed: int) -> NDArray[np.uint8]:
    """`size` bytes of the pattern from byte `first`, a multiple of 8."""
    words = np.arange(first // 8, (first + size + 7) // 8, dtype=np.uint64)
    words += np.uint64(seed * 0xD1B54A32D192ED03 % (1 << 64))
    words *= ODD
    words ^= words >> SHIFT
    return words.view(np.uint8)[:size]


def fill(array: NDArray[np.uint8], seed: int) -> None:
    """Writes the pattern of a seed over the whole array."""
    for at in range(0, len(array), BLOCK):
        part = array[at : at + BLOCK]
        part[:] = bytes_of(at, len(part), seed)


def differences(array: NDArray[np.uint8], seed: int) -> int:
    """The number of bytes of the array that differ from the pattern."""
    wrong = 0
    for at in range(0, len(array), BLOCK):
        part = array[at : at + BLOCK]
        wrong += int(np.count_nonzero(part != bytes_of(at, len(part), seed)))
    return wrong
