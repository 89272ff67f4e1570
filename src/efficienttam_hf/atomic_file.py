"""Files written whole or not at all, whatever is in them: an interruption never leaves half a result under its name."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


__all__ = ["atomic_path"]


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path beside ``path``, moved there if the block ends well.

    Missing parent folders are created. If the block raises, the temporary file is removed and a file that was at
    ``path`` before stays as it was.
    """
    temporary = temporary_beside(Path(path))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """A hidden name, not yet taken, in the folder of ``path``, which is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder, hence same file system: only there is a move atomic. mkstemp would make a file that only its owner
    # may read.
    return path.parent / f".{path.stem}.{secrets.token_hex(4)}.part"
