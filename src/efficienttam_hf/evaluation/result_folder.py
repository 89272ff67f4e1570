"""The folder of an evaluation: finished videos are kept if the process is stopped.

    settings.json            what decides the numbers; other settings are refused
    videos/<video>.json      the result of each finished video, written whole or not at all
    predictions/, pictures/  what was asked for; see `submission` and `runner`

A video counts as done if its file is there, was made with the same settings from the same data, and holds no error.
So a run that was killed goes on with the same command, and so does one in which some videos could not be read. Each
file is listed as `output_folders` says, and no other file is removed or replaced.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from ..atomic_file import atomic_path
from ..output_folders import OutputFolder
from ..safe_names import safe_path
from ..structured_files import read_json
from .results import VideoResult


__all__ = ["ResultFolder"]

logger = logging.getLogger(__name__)

KINDS = ("videos", "predictions", "pictures")  # the folders of results
REPORTS = ("report.md", "results.json", "scores.csv", "worst.jpg", "plots")


class ResultFolder:
    """Where an evaluation keeps its results.

    Args:
        path: the folder; made when needed.
        settings: what decides the numbers, JSON's values by name.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self._settings = path, settings
        self._output, self._settings_file = OutputFolder(path), path / "settings.json"
        text = json.dumps(settings, sort_keys=True)
        self._fingerprint = hashlib.sha256(text.encode()).hexdigest()[:32]

    def prepare(self, overwrite: bool) -> None:
        """Claim the folder for these settings.

        Raises:
            FileExistsError: there are files that this package did not write where the results go; nothing was changed.
            ValueError: it holds results of other settings, and not `overwrite`, which removes those.
        """
        self._output = OutputFolder(self.path)  # what others have listed since
        self._output.check(self._settings_file.name, *REPORTS, *KINDS, overwrite=True)
        before = self._settings_before()
        if before is not None and before != self._settings and not overwrite:
            different = sorted(k for k in {*before, *self._settings} if before.get(k) != self._settings.get(k))
            changes = ", ".join(f"{k} {before.get(k)!r}, now {self._settings.get(k)!r}" for k in different)
            raise ValueError(
                f"'{self.path}' holds results made with other settings ({changes}). Choose another --output, or "
                "replace them with --overwrite."
            )
        if overwrite:
            self._output.claim(*KINDS, overwrite=True)
        with atomic_path(self._output.add(self._settings_file.name)) as temporary:
            temporary.write_text(json.dumps(self._settings, indent=1) + "\n", encoding="utf-8")

    def done(self, name: str, stamp: str, masks: bool, picture: bool) -> VideoResult | None:
        """The result of a video that need not be done again.

        Args:
            name: of the video.
            stamp: changes when its files do.
            masks, picture: whether it must have left these.
        """
        try:
            stored = read_json(self._file(name), what="result")
            if (stored["fingerprint"], stored["stamp"]) != (self._fingerprint, stamp):
                return None
            result, has_masks = VideoResult.from_dict(stored["result"]), stored["masks"]
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, LookupError) as error:
            logger.warning("'%s' cannot be used, so that its video is done again: %s", self._file(name), error)
            return None
        if result.name != name:  # of another name that is written alike
            return None
        lacking = (masks and not has_masks) or (picture and result.picture is None)
        return None if lacking or result.error is not None else result

    def keep(self, result: VideoResult, stamp: str, masks: bool) -> None:
        """Write the result of a video, the last thing that is done for it."""
        stored = {
            "fingerprint": self._fingerprint,
            "stamp": stamp,
            "masks": masks,
            "result": result.to_dict(),
        }
        with atomic_path(self._output.add(self._name(result.name))) as temporary:
            temporary.write_text(json.dumps(stored), encoding="utf-8")

    def _name(self, video: str) -> str:
        return f"videos/{safe_path(video).as_posix()}.json"

    def _file(self, video: str) -> Path:
        return self.path / self._name(video)

    def _settings_before(self) -> dict[str, Any] | None:
        """The settings of the evaluation whose results are in the folder; `None` if it has none."""
        try:
            before = read_json(self._settings_file, what="settings of an evaluation")
        except FileNotFoundError:
            return None
        if not isinstance(before, dict):
            raise ValueError(f"'{self._settings_file}' holds no settings of an evaluation; remove it.")
        return before
