"""The store by which the members of a team find each other: names and values that all members see.

`Store` is the part of torch's stores that making a team uses, so those serve too. `FolderStore` keeps
a file for each name in a folder: on one host, or on hosts that share the folder.
"""

from __future__ import annotations

import fcntl
import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rdmatensor.errors import AccessDenied

__all__ = ["FolderStore", "Store", "private_folder"]


class Store(Protocol):
    """Names and values. A value that was set stays; `add` counts under a name."""

    def set(self, key: str, value: str, /) -> object: ...

    def get(self, key: str, /) -> bytes: ...

    def add(self, key: str, amount: int, /) -> int: ...

    def check(self, keys: list[str], /) -> bool: ...

    def multi_set(self, keys: list[str], values: list[str], /) -> object: ...

    def multi_get(self, keys: list[str], /) -> Sequence[bytes]: ...


class FolderStore:
    """Values as files of a folder. `prefix` comes before each name, so that several teams share a
    folder. Any number of threads and processes may use it at once.
    """

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self.folder = folder
        self._prefix = prefix

    def _path(self, key: str) -> Path:
        return self.folder / urllib.parse.quote(f"{self._prefix}{key}", safe="")

    def set(self, key: str, value: str) -> None:
        path = self._path(key)
        new = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        new.write_bytes(value.encode())
        new.replace(path)  # readers see the old value or the new one, never a part

    def get(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def add(self, key: str, amount: int) -> int:
        """Adds to the number under the name, which begins as 0; gives the sum."""
        with self._path(key).open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the kernel lets it go when the file is closed
            file.seek(0)
            total = int(file.read() or b"0") + amount
            file.truncate(0)
            file.write(str(total).encode())
            return total

    def check(self, keys: list[str]) -> bool:
        return all(self._path(key).exists() for key in keys)

    def multi_set(self, keys: list[str], values: list[str]) -> None:
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.get(key) for key in keys]


def private_folder(path: Path) -> Path:
    """The folder, made if it is missing, which only this user can write to: what lies in it holds
    secrets. AccessDenied where it is another user's, or open to others.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077 or path.is_symlink():
        why = (
            "it belongs to another user, or others may use it, and the team's secret would lie in it: remove it, or "
            "name another folder in RDMATENSOR_TEAM_FOLDER"
        )
        raise AccessDenied("use a folder", str(path), why)
    return path
