"""The folder of an evaluation: what is done stays done, whatever happens to the process that did it.

    settings.json            what decides the numbers; other settings are refused
    videos/<video>.json      the result of each finished video, written whole or not at all
    predictions/, pictures/  what was asked for; see `submission` and `runner`

A video counts as done if its file is there, was made with the same settings from the same data, and holds no error.
So a run that was killed goes on with the same command, and so does one in which some videos could not be read. Nothing
is removed or replaced in a folder that does not have the settings of an evaluation in it, nor files of other kinds.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from ..atomic_file import atomic_path
from ..safe_names import safe_path
from ..structured_files import read_json
from .results import VideoResult


__all__ = ["ResultFolder"]

logger = logging.getLogger(__name__)

MARKER = {"dataset", "weights"}  # settings that every evaluation has, by which its file is told from others
KINDS = {"videos": ".json", "predictions": ".png", "pictures": ".jpg"}  # the folders of results, and what is in them
REPORTS = ("report.md", "results.json", "scores.csv", "worst.jpg", "plots")


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
            ValueError: it holds results of others, and not `overwrite`, which removes those; or files that no
                evaluation wrote, which are never removed or replaced.
        """
        before = self._settings_before()
        if before is not None and before != self._settings and not overwrite:
            different = sorted(k for k in {*before, *self._settings} if before.get(k) != self._settings.get(k))
            changes = ", ".join(f"{k} {before.get(k)!r}, now {self._settings.get(k)!r}" for k in different)
            raise ValueError(
                f"'{self.path}' holds results made with other settings ({changes}). Choose another --output, or "
                "replace them with --overwrite."
            )
        self._refuse_others(is_ours=before is not None)
        if overwrite:
            self._remove_results()
        with atomic_path(self._settings_file) as temporary:
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
        with atomic_path(self._file(result.name)) as temporary:
            temporary.write_text(json.dumps(stored), encoding="utf-8")

    def _file(self, name: str) -> Path:
        path = self._videos / safe_path(name)
        return path.with_name(f"{path.name}.json")

    def _settings_before(self) -> dict[str, Any] | None:
        """The settings of the evaluation whose results are in the folder; `None` if it has none."""
        file = self._settings_file
        try:
            before = read_json(file, what="settings of an evaluation")
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"'{file}' is not a file of an evaluation ({error}); remove it.") from error
        if not isinstance(before, dict) or not MARKER <= before.keys():
            raise ValueError(f"'{file}' is not a file of an evaluation; choose another --output.")
        return before

    def _refuse_others(self, is_ours: bool) -> None:
        """Raise ValueError if the folder has files that no evaluation wrote where its own belong."""
        if not is_ours:
            others = [name for name in (*REPORTS, *KINDS) if (self.path / name).exists()]
            if others:
                raise ValueError(
                    f"'{self.path}' holds {', '.join(others)}, but not the settings of an evaluation, so it is not one "
                    "of its folders. Nothing was changed; choose another --output."
                )
        for folder, suffix in KINDS.items():
            if (self.path / folder).is_symlink():
                raise ValueError(f"'{self.path / folder}' is a link to elsewhere; choose another --output.")
            for file in (self.path / folder).rglob("*"):
                if file.is_symlink() or not (file.is_dir() or file.name.endswith((suffix, ".part"))):
                    raise ValueError(
                        f"'{file}' was not written by an evaluation. Nothing was changed; move it elsewhere, or choose "
                        "another --output."
                    )

    def _remove_results(self) -> None:
        """Remove what evaluations wrote, and the folders that this leaves empty."""
        for folder in KINDS:
            for entry in sorted((self.path / folder).rglob("*"), reverse=True):
                entry.rmdir() if entry.is_dir() else entry.unlink()
