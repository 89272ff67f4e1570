"""Atomic file writes: an interruption never leaves an incomplete file under the final name.

That holds for a power failure too: the content reaches the disk before the name does, and then the name does.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


__all__ = ["atomic_path", "sync_to_disk", "unfinished_stem"]


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path beside ``path``, moved there if the block ends well.

    Missing parent folders are created. If the block raises, the temporary file is removed and a file that was at
    ``path`` before stays as it was. Once the block has ended, file and name are on the disk.
    """
    temporary = temporary_beside(Path(path))
    try:
        yield temporary
        sync_to_disk(temporary)
        os.replace(temporary, path)
        sync_to_disk(Path(path).parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, have reached the disk (``fsync``).

    Raises:
        OSError: the disk is full or failed. A folder that cannot be synchronised (on Windows, on some network file
            systems) is left to the system.
    """
    is_folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY if is_folder or os.name != "nt" else os.O_RDWR)
    except PermissionError:
        if is_folder or os.name == "nt":
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        # File systems without this operation (some that are mounted from elsewhere) say so by these numbers.
        if not is_folder and error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def unfinished_stem(name: str) -> str | None:
    """The stem of the file of which a process that was killed left a temporary one of this name; `None` for others."""
    found = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.part", name)
    return found[1] if found else None


def temporary_beside(path: Path) -> Path:
    """A hidden name, not yet taken, in the folder of ``path``, which is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder, hence same file system: only there is a move atomic. mkstemp would make a file that only its owner
    # may read.
    return path.parent / f".{path.stem}.{secrets.token_hex(4)}.part"
