"""Uploaded files as a visitor's own, deleted with everything else of theirs.

Gradio keeps an upload under a name made from its content, so visitors who upload the same file share it. Each holds a
hard link to it, and whoever lets go of the last one deletes Gradio's copy. A request names files in Gradio's folder by
their path, so what it names may be something else: an example, or the copy of one that the page shows. Those are said
to `keep_for_all` and are never deleted, whoever names them or uploads the same.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from settings import Settings


class UserError(Exception):
    """Something the visitor can put right; the message is for them."""


_kept: set[Path] = set()  # absolute, without symbolic links


def keep_for_all(files: Iterable[Path]) -> None:
    """Never delete these files as somebody's upload."""
    _kept.update(path.resolve() for path in files)


class Upload:
    """An uploaded file.

    Args:
        cached: where Gradio put it.
        folder: the visitor's own, made if missing.

    Attributes:
        path: the visitor's link to it.

    Raises:
        UserError: if it is gone, or larger than allowed.
    """

    def __init__(self, cached: Path, folder: Path, settings: Settings):
        self._cached = cached
        self.path = folder / cached.name
        folder.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        try:
            _link(cached.resolve(), self.path)
        except OSError as error:
            self._remove_own()
            raise UserError("The file did not arrive. Please upload it again.") from error
        megabytes = self.path.stat().st_size / 2**20
        if megabytes > settings.max_upload_mb:
            self.delete()
            raise UserError(f"This file has {megabytes:.0f} MB; up to {settings.max_upload_mb} MB are accepted.")

    def delete(self) -> None:
        """Delete the file, unless another visitor has it too, or it is there for all."""
        self._remove_own()
        if not _is_upload(self._cached):
            return
        with suppress(FileNotFoundError):
            if self._cached.stat().st_nlink == 1:
                self._cached.unlink()
        with suppress(OSError):  # of Gradio's, for this file alone; it stays while there is something in it
            self._cached.parent.rmdir()

    def _remove_own(self) -> None:
        self.path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.parent.rmdir()


def _link(source: Path, path: Path) -> None:
    if not source.is_file():
        raise FileNotFoundError(source)
    try:
        os.link(source, path)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(source, path)


def _is_upload(path: Path) -> bool:
    """Whether Gradio made this file of an upload: it lies in a folder of its own inside Gradio's, and is not kept."""
    folder = os.environ.get("GRADIO_TEMP_DIR")
    resolved = path.resolve()
    return resolved not in _kept and (folder is None or resolved.parent.parent == Path(folder).resolve())
