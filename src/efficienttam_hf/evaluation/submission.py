"""Writes predicted masks in the layout of each dataset, and the zip that its server accepts.

    predictions/<video>/<frame>.png             palette PNGs of object ids: DAVIS 2017, MOSE, LVOS, YouTube-VOS, folders
    predictions/<video>/<frame>.png             0 and 255: DAVIS 2016
    predictions/<video>/<object>/<frame>.png    SA-V, whose objects may overlap, numbered from 000 as in its own folders

Frames have the names of the dataset. Only frames that the evaluator reads are written: annotated frames, or, if the
truth is hidden, all frames (every fifth frame of YouTube-VOS). The servers of YouTube-VOS and LVOS expect a folder
`Annotations` in the zip, those of MOSE and DAVIS the videos themselves. The layout of each dataset states these rules
(`data.benchmark_rules`). Layouts and zips are as in the published code of SAM 2 (tools/vos_inference.py) and Cutie
(cutie/inference/utils/results_utils.py).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ..atomic_file import atomic_path
from ..data.frames import ImageFrames
from ..data.layouts import rules_of
from ..data.layouts.common import number_in
from ..data.records import VideoRecord
from ..mask_io import write_indexed_png
from ..output_folders import OutputFolder
from ..safe_names import safe_name, safe_path
from .semi_supervised import TrackedFrame, has_hidden_truth


__all__ = ["PredictionWriter", "write_zip"]


class PredictionWriter:
    """Writes the masks of one video, frame by frame.

    Args:
        output: the folder of results; predictions are written to `predictions` in it.
        record: the video.
    """

    def __init__(self, output: OutputFolder, record: VideoRecord) -> None:
        self._output, self._folder = output, f"predictions/{safe_path(record.video_id).as_posix()}"
        self._rules = rules_of(record.source)
        self._names = _frame_names(record)
        stride = self._rules.judged_stride(record.split)
        if not has_hidden_truth(record):
            self._written = set(record.annotated_frames)
        elif stride > 1:
            self._written = {i for i, name in enumerate(self._names) if number_in(Path(name), i) % stride == 0}
        else:
            self._written = set(range(record.num_frames))

    def write(self, tracked: TrackedFrame) -> None:
        """Write a frame's masks, if the evaluator reads this frame.

        Raises:
            ValueError: if an object id is over 255, which a palette PNG cannot store.
            FileExistsError: if a file of that name exists that this package did not write.
        """
        if tracked.index not in self._written:
            return
        name = f"{self._names[tracked.index]}.png"
        if self._rules.prediction_files == "objects":
            for object_id, mask in tracked.predicted.items():
                number = object_id - 1 + self._rules.first_object_folder
                write_indexed_png(self._output.add(f"{self._folder}/{number:03d}/{name}"), mask)
            return
        path = self._output.add(f"{self._folder}/{name}")
        labels = np.zeros(tracked.frame.shape[:2], np.int64)
        for object_id, mask in tracked.predicted.items():
            labels[mask] = object_id
        if self._rules.prediction_files == "binary":
            with atomic_path(path) as temporary:
                Image.fromarray((labels > 0).astype(np.uint8) * 255).save(temporary, format="PNG")
        else:
            write_indexed_png(path, labels)


def _frame_names(record: VideoRecord) -> list[str]:
    """The names of the frames' files without suffix; for a video file, the numbers of its frames."""
    if isinstance(record.frames, ImageFrames):
        names = [safe_name(Path(file["path"] or "").stem) for file in record.frames.references]
        if len(set(names)) == len(names):  # those of a table may be missing or all alike
            return names
    return [f"{index:05d}" for index in range(record.num_frames)]


def write_zip(path: Path, predictions: Path, videos: Iterable[str], dataset: str) -> None:
    """Pack the predictions of some videos in the form that a dataset's server requires.

    Args:
        path: the path of the zip, which is written atomically.
        predictions: the folder that a :class:`PredictionWriter` wrote to.
        videos: the names of the videos.
        dataset: the kind of dataset.

    Raises:
        FileNotFoundError: if a video has no predictions.
    """
    base = Path(rules_of(dataset).zip_folder)
    # PNGs are compressed already.
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for video in videos:
            files = sorted((predictions / safe_path(video)).rglob("*.png"))
            if not files:
                raise FileNotFoundError(f"There are no predictions of '{video}' in '{predictions}' to be packed.")
            for file in files:
                archive.write(file, base / file.relative_to(predictions))
