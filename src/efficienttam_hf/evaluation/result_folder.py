"""The folder of an evaluation: what is done stays done, whatever happens to the process that did it.

    settings.json            what decides the numbers; other settings are refused
    videos/<video>.json      the result of each finished video, written whole or not at all
    predictions/, pictures/  what was asked for; see `submission` and `runner`

A video counts as done if its file is there, was made with the same settings from the same data, and holds no error.
So a run that was killed goes on with the same command, and so does one in which some videos could not be read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from ..atomic_file import atomic_path
from .results import VideoResult


__all__ = ["ResultFolder"]


class ResultFolder:
    """Where an evaluation keeps its results.

    Args:
        path: the folder; made when needed.
        settings: what decides the numbers, JSON's values by name.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self._settings = path, settings
        self.predictions, self.pictures = path / "predictions", path / "pictures"
        self._videos, self._settings_file = path / "videos", path / "settings.json"
        text = json.dumps(settings, sort_keys=True)
        self._fingerprint = hashlib.sha256(text.encode()).hexdigest()[:32]

    def prepare(self, overwrite: bool) -> None:
        """Claim the folder for these settings.

        Raises:
            ValueError: it holds results of others, and not `overwrite`, which removes those.
        """
        before = self._read(self._settings_file)
        if before is not None and before != self._settings and not overwrite:
            different = sorted(k for k in {*before, *self._settings} if before.get(k) != self._settings.get(k))
            changes = ", ".join(f"{k} {before.get(k)!r}, now {self._settings.get(k)!r}" for k in different)
            raise ValueError(
                f"'{self.path}' holds results made with other settings ({changes}). Choose another --output, or "
                "replace them with --overwrite."
            )
        if overwrite:
            for folder in (self._videos, self.predictions, self.pictures):
                shutil.rmtree(folder, ignore_errors=True)
        with atomic_path(self._settings_file) as temporary:
            temporary.write_text(json.dumps(self._settings, indent=1) + "\n", encoding="utf-8")

    def done(self, name: str, stamp: str, masks: bool, picture: bool) -> VideoResult | None:
        """The result of a video that need not be done again.

        Args:
            name: of the video.
            stamp: changes when its files do.
            masks, picture: whether it must have left these.
        """
        stored = self._read(self._file(name))
        if stored is None or (stored["fingerprint"], stored["stamp"]) != (self._fingerprint, stamp):
            return None
        result = VideoResult.from_dict(stored["result"])
        lacking = (masks and not stored["masks"]) or (picture and result.picture is None)
        return None if lacking or result.error is not None else result

    def keep(self, result: VideoResult, stamp: str, masks: bool) -> None:
        """Write the result of a video, the last thing that is done for it."""
        stored = {
            "fingerprint": self._fingerprint,
            "stamp": stamp,
            "masks": masks,
            "result": result.to_dict(),
        }
        with atomic_path(self._file(result.name)) as temporary:
            temporary.write_text(json.dumps(stored), encoding="utf-8")

    def _file(self, name: str) -> Path:
        return self._videos / f"{name}.json"

    @staticmethod
    def _read(file: Path) -> dict[str, Any] | None:
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"'{file}' is not a file of an evaluation ({error}); remove it.") from error
