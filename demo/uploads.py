"""Uploaded files, which belong to one visitor and are deleted with the visitor's other files.

Gradio names an upload by its content, so visitors who upload the same file share it. Each visitor has a hard link to
it, and when the last one is deleted, Gradio's copy is deleted too. A request names a file in Gradio's folder by its
path, so it may name another file: an example, or the copy of one that the page shows. Such files are registered with
`keep_for_all` and are never deleted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from settings import Settings


class UserError(Exception):
    """An error that the visitor can correct; the message is written for the visitor."""


_kept: set[Path] = set()  # absolute paths without symbolic links


def keep_for_all(files: Iterable[Path]) -> None:
    """Register files that are never deleted as uploads."""
    _kept.update(path.resolve() for path in files)


class Upload:
    """An uploaded file.

    Args:
        cached: the path of Gradio's copy.
        folder: the visitor's folder; it is created if necessary.
        settings: the settings of the demo, with the largest size.

    Attributes:
        path: the visitor's link to the file.

    Raises:
        UserError: if the file does not exist any more, or is larger than allowed.
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
        """Delete the file, unless another visitor uploaded it too, or it was registered with `keep_for_all`."""
        self._remove_own()
        if not _is_upload(self._cached):
            return
        with suppress(FileNotFoundError):
            if self._cached.stat().st_nlink == 1:
                self._cached.unlink()
        with suppress(OSError):  # Gradio's folder for this file, which is not removed while another file is in it
            self._cached.parent.rmdir()

    def _remove_own(self) -> None:
        """Delete the visitor's link, and its folder if it is empty."""
        self.path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.parent.rmdir()


def _link(source: Path, path: Path) -> None:
    """Make a hard link to a file, or a copy if the file system has no links.

    Raises:
        FileNotFoundError: if `source` is not a file.
    """
    if not source.is_file():
        raise FileNotFoundError(source)
    try:
        os.link(source, path)
    except FileNotFoundError:
        raise
    except OSError:  # the file system has no links
        shutil.copyfile(source, path)


def _is_upload(path: Path) -> bool:
    """Whether Gradio made this file for an upload: it is in a subfolder of Gradio's folder and is not registered."""
    folder = os.environ.get("GRADIO_TEMP_DIR")
    resolved = path.resolve()
    return resolved not in _kept and (folder is None or resolved.parent.parent == Path(folder).resolve())
