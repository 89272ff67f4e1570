"""The temporary folder of the demo, with all files of all visitors.

It is removed at the end, or at the next start if the process was killed. For this, a folder has a marker file, on which
its process holds a lock while it runs. The next start removes the folders that have the marker and whose lock is free.
It does not touch a folder without the marker, one that somebody else owns, or one that a demo still uses.
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

PREFIX = "efficienttam-demo-"
MARKER = ".efficienttam-demo"
_CONTENT = "The files of an EfficientTAM demo. This folder is removed when the demo ends, or by the next one.\n"

_locks: list[IO[str]] = []  # the locks are held while the process runs


def make_folder() -> Path:
    """Make a new folder with a marker, and remove the folders of killed processes.

    Returns:
        The path of the folder.
    """
    sweep(Path(tempfile.gettempdir()))
    root = Path(tempfile.mkdtemp(prefix=PREFIX))
    marker = (root / MARKER).open("x", encoding="utf-8")
    if fcntl is not None:
        fcntl.flock(marker, fcntl.LOCK_EX)
    marker.write(_CONTENT)  # after the lock is held, because folders with an incomplete marker are not removed
    marker.flush()
    _locks.append(marker)
    return root


def sweep(parent: Path) -> list[Path]:
    """Remove the folders in `parent` that a demo made and no process uses any more.

    Returns:
        The paths of the removed folders.
    """
    removed = []
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        if fcntl is not None and _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _is_abandoned(folder: Path) -> bool:
    """Whether a demo of this user made a folder, and no process holds its lock."""
    marker = folder / MARKER
    if folder.is_symlink() or not folder.is_dir() or marker.is_symlink() or not marker.is_file():
        return False
    try:
        if folder.stat().st_uid != os.getuid() or marker.read_text(encoding="utf-8") != _CONTENT:
            return False
        with marker.open(encoding="utf-8") as file:
            assert fcntl is not None, "without it, nobody asks"
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (OSError, UnicodeDecodeError):  # the lock is held, or the marker cannot be read
        return False
    return True
