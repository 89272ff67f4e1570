"""The folder of an evaluation: finished videos are kept if the process is stopped.

    settings.json            the settings that decide the scores; other settings are refused
    videos/<video>.json      the result of each finished video, written atomically
    predictions/, pictures/  optional files; see `submission` and `runner`

A video is finished if its file exists, was made with the same settings from the same data, and has no error. The same
command therefore resumes a run that was killed, or in which some videos could not be read. Each file is listed (see
`output_folders`), and no other file is removed or replaced.
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


__all__ = ["ResultFolder", "check_settings", "write_settings"]

logger = logging.getLogger(__name__)

KINDS = ("videos", "predictions", "pictures")  # the folders of results
REPORTS = ("report.md", "results.json", "scores.csv", "worst.jpg", "plots")


class ResultFolder:
    """The folder in which an evaluation stores its results.

    Args:
        path: the folder, which is created when it is needed.
        settings: the settings that decide the scores, JSON values by name.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self._settings = path, settings
        self._output, self._settings_file = OutputFolder(path), path / "settings.json"
        text = json.dumps(settings, sort_keys=True)
        self._fingerprint = hashlib.sha256(text.encode()).hexdigest()[:32]

    def prepare(self, overwrite: bool) -> None:
        """Prepare the folder for results of these settings.

        Raises:
            FileExistsError: if files that this package did not write are in the place of results; nothing is changed.
            ValueError: if it has results of other settings and `overwrite`, which removes them, is false.
        """
        self._output = OutputFolder(self.path)  # reads the list again, which other processes may have changed
        self._output.check(self._settings_file.name, *REPORTS, *KINDS, overwrite=True)
        check_settings(self._settings_file, self._settings, overwrite)
        if overwrite:
            self._output.claim(*KINDS, overwrite=True)
        write_settings(self._output, self._settings)

    def done(self, name: str, stamp: str, masks: bool, picture: bool) -> VideoResult | None:
        """The stored result of a video, or `None` if the video must be evaluated.

        Args:
            name: the name of the video.
            stamp: a text that changes when the video's files change.
            masks, picture: whether predicted masks and a picture are needed too.
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
        if result.name != name:  # another video's name can give the same file name
            return None
        lacking = (masks and not has_masks) or (picture and result.picture is None)
        return None if lacking or result.error is not None else result

    def keep(self, result: VideoResult, stamp: str, masks: bool) -> None:
        """Write the result of a video, after all its other files."""
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


def check_settings(path: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Check that the results in a folder were made with the same settings.

    Args:
        path: the path of the folder's `settings.json`, which need not exist.
        settings: the settings that decide the results, JSON values by name.
        overwrite: whether results of other settings may be replaced.

    Raises:
        ValueError: if the folder has results of other settings and `overwrite` is false, or the file is damaged.
    """
    try:
        before = read_json(path, what="settings of a run")
    except FileNotFoundError:
        return
    if not isinstance(before, dict):
        raise ValueError(f"'{path}' holds no settings of a run; remove it.")
    if before != settings and not overwrite:
        different = sorted(k for k in {*before, *settings} if before.get(k) != settings.get(k))
        changes = ", ".join(f"{k} {before.get(k)!r}, now {settings.get(k)!r}" for k in different)
        raise ValueError(
            f"'{path.parent}' holds results made with other settings ({changes}). Choose another --output, or "
            "replace them with --overwrite."
        )


def write_settings(output: OutputFolder, settings: dict[str, Any]) -> None:
    """Write `settings.json`, completely or not at all."""
    with atomic_path(output.add("settings.json")) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
