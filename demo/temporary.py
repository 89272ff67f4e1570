"""The demo's temporary folder: everything of all visitors, removed at the end, and at the next start if there was none.

A process that is killed removes nothing. So a folder carries a marker file, on which its process holds a lock as long
as it lives. The next start removes the folders that carry the marker and whose lock is free, and touches nothing else:
not a folder of the same name without the marker, nor one that somebody else owns, nor one that a demo still uses.
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
except ImportError:  # Windows; there, folders of killed processes stay
    fcntl = None

PREFIX = "efficienttam-demo-"
MARKER = ".efficienttam-demo"
_CONTENT = "The files of an EfficientTAM demo. This folder is removed when the demo ends, or by the next one.\n"

_locks: list[IO[str]] = []  # held as long as the process lives


def make_folder() -> Path:
    """A new folder with a marker, after removing what killed processes left."""
    sweep(Path(tempfile.gettempdir()))
    root = Path(tempfile.mkdtemp(prefix=PREFIX))
    marker = (root / MARKER).open("x", encoding="utf-8")
    if fcntl is not None:
        fcntl.flock(marker, fcntl.LOCK_EX)
    marker.write(_CONTENT)  # after the lock: a marker that is not whole says nothing
    marker.flush()
    _locks.append(marker)
    return root


def sweep(parent: Path) -> list[Path]:
    """Remove the folders in `parent` that a demo made and no process uses any more; which they were."""
    removed = []
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        if fcntl is not None and _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _is_abandoned(folder: Path) -> bool:
    marker = folder / MARKER
    if folder.is_symlink() or not folder.is_dir() or marker.is_symlink() or not marker.is_file():
        return False
    try:
        if folder.stat().st_uid != os.getuid() or marker.read_text(encoding="utf-8") != _CONTENT:
            return False
        with marker.open(encoding="utf-8") as file:
            assert fcntl is not None, "without it, nobody asks"
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, UnicodeDecodeError):  # in use, or not to be read
        return False
    return True
