"""Checks whether another user could have written a directory from which code is loaded or run."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["make_private", "why_distrust", "why_distrust_file"]

_LINKS_MAX = 40  # the kernel's limit


def make_private(directory: Path) -> None:
    """Creates a directory and its missing parents for this user alone. Raises OSError."""
    for missing in reversed([path for path in (directory, *directory.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    if not directory.is_dir():
        raise NotADirectoryError(20, "Not a directory", str(directory))


def why_distrust(directory: Path) -> str:
    """The reason why another user could have written to a directory, now or earlier; empty where
    none could.

    Every directory and symbolic link on the path must belong to this user or to the system, and
    others must not be able to write to it. In a directory with the sticky bit (/tmp) others may
    write, since they cannot replace entries that are not theirs; for the directory itself that is
    not enough.
    """
    place, links = directory.absolute(), 0
    while True:
        for path in (*reversed(place.parents), place):
            found = path.lstat()
            if found.st_uid not in _trusted():
                return f"{path} belongs to user {found.st_uid}"
            if stat.S_ISLNK(found.st_mode):
                links += 1
                if links > _LINKS_MAX:
                    return f"{path} is a link that leads nowhere"
                rest = place.relative_to(path)
                place = Path(os.path.normpath(path.parent / os.readlink(path))) / rest
                break
            if found.st_mode & 0o022 and (path == place or not found.st_mode & stat.S_ISVTX):
                return f"others can write to {path}"
        else:
            return ""


def why_distrust_file(file: Path) -> str:
    """The same for a file in a trusted directory: it must be an ordinary file that others cannot
    write to.
    """
    opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(opened)
    finally:
        os.close(opened)
    if not stat.S_ISREG(found.st_mode):
        return f"{file} is not an ordinary file"
    if found.st_uid not in _trusted():
        return f"{file} belongs to user {found.st_uid}"
    return f"others can write to {file}" if found.st_mode & 0o022 else ""


def _trusted() -> tuple[int, ...]:
    """This user, root, and the owner of the root directory, who in a user namespace is not always
    user 0.
    """
    return os.geteuid(), 0, os.stat("/").st_uid
