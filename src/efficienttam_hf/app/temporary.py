"""The temporary folder of a server, such as the demo: it holds everything of all visitors and is removed at the end.

A process that is killed removes nothing. So a folder carries a marker file, on which its process holds a lock as long
as it lives. The next start of the same kind of server removes the folders that carry its marker and whose lock is free.
It touches nothing else: not a folder of the same name without the marker, nor one that somebody else owns, nor one that
is still in use.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import IO


fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # on Windows, which has no `fcntl`, folders of killed processes are not removed
    fcntl = None

_locks: list[IO[str]] = []  # the locks are held while the process runs


def make_folder(kind: str) -> Path:
    """Create a folder with a marker, after removing those that killed processes left.

    Args:
        kind: the kind of server, such as `"demo"`; the folder is named `efficienttam-<kind>-...`.
    """
    sweep(Path(tempfile.gettempdir()), kind)
    root = Path(tempfile.mkdtemp(prefix=f"efficienttam-{kind}-"))
    marker = (root / _marker(kind)).open("x", encoding="utf-8")
    if fcntl is not None:
        fcntl.flock(marker, fcntl.LOCK_EX)
    marker.write(_content(kind))  # after the lock is held, because folders with an incomplete marker are not removed
    marker.flush()
    _locks.append(marker)
    return root


def sweep(parent: Path, kind: str) -> list[Path]:
    """Remove the folders in `parent` that a server of a kind made and no process uses any more; return their paths."""
    removed = []
    for folder in sorted(parent.glob(f"efficienttam-{kind}-*")):
        if fcntl is not None and _is_abandoned(folder, kind):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _marker(kind: str) -> str:
    return f".efficienttam-{kind}"


def _content(kind: str) -> str:
    return f"The files of an EfficientTAM {kind}. This folder is removed when the {kind} ends, or by the next one.\n"


def _is_abandoned(folder: Path, kind: str) -> bool:
    """Whether such a server of this user made a folder, and no process holds its lock."""
    marker = folder / _marker(kind)
    if folder.is_symlink() or not folder.is_dir() or marker.is_symlink() or not marker.is_file():
        return False
    try:
        if folder.stat().st_uid != os.getuid() or marker.read_text(encoding="utf-8") != _content(kind):
            return False
        with marker.open(encoding="utf-8") as file:
            assert fcntl is not None, "without it, nobody asks"
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, UnicodeDecodeError):  # the lock is held, or the marker cannot be read
        return False
    return True
