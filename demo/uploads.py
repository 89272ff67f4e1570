"""Uploaded files as a visitor's own, deleted with everything else of theirs.

Gradio keeps an upload under a name made from its content, so visitors who upload the same file share it. Each holds a
hard link to it, and whoever lets go of the last one deletes Gradio's copy.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from settings import Settings


class UserError(Exception):
    """Something the visitor can put right; the message is for them."""


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
            os.link(cached, self.path)
        except FileNotFoundError as error:
            raise UserError("The file did not arrive. Please upload it again.") from error
        megabytes = self.path.stat().st_size / 2**20
        if megabytes > settings.max_upload_mb:
            self.delete()
            raise UserError(f"This file has {megabytes:.0f} MB; up to {settings.max_upload_mb} MB are accepted.")

    def delete(self) -> None:
        """Delete the file, unless another visitor has it too."""
        self.path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            if self._cached.stat().st_nlink == 1:
                self._cached.unlink()
        with suppress(OSError):  # of Gradio's, for this file alone; it stays while there is something in it
            self._cached.parent.rmdir()
