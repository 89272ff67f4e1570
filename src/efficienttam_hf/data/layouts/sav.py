"""SA-V, in its two layouts.

Training set: videos with 24 frames per second, and JSON files with run lengths for every fourth frame.

    root/**/sav_000001.mp4
    root/**/sav_000001_manual.json, sav_000001_auto.json

Validation and test sets: frames, and for each object a folder of binary images for every fourth frame.

    root/JPEGImages_24fps/<video>/00000.jpg
    root/Annotations_6fps/<video>/<object>/00000.png
    root/sav_val.txt

SA-V numbers objects from 0. Here, object ids are one higher, because 0 is the background in all other places.
https://ai.meta.com/datasets/segment-anything-video
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...structured_files import field
from ..benchmark_rules import BenchmarkRules
from ..frames import ImageFrames, VideoFrames, reference
from ..masks import ObjectImages, Segmentations
from ..records import VideoRecord
from ..schema import DatasetError
from .common import (
    Layout,
    by_frame,
    check_names,
    contents,
    existing_root,
    find_folder,
    folder_names,
    numbered_images,
    read_annotations,
    read_names,
)


STRIDE = 4  # frames between annotations: videos have 24 frames per second, annotations 6
LICENCE = "CC BY 4.0"
# Folders number objects from 0; here, ids begin with 1.
RULES = dict.fromkeys(("sav_train", "sav_val", "sav_test"), BenchmarkRules("sav", prediction_files="objects"))


class SavTrain(Layout):
    """The training set.

    Args:
        root: a folder that contains the videos directly or in subfolders.
        split: ``train`` or None.
        masklets: ``manual``, ``auto`` or ``both``. With ``both``, automatic masklets are numbered after the manual
            ones.

    Raises:
        DatasetError: if there are no annotations, or the split or `masklets` is unknown.
    """

    def __init__(self, root: str | Path, split: str | None = None, *, masklets: str = "manual") -> None:
        kinds = {"manual": ("manual",), "auto": ("auto",), "both": ("manual", "auto")}
        if masklets not in kinds:
            raise DatasetError(f"masklets='{masklets}' is not known; accepted are {', '.join(kinds)}.")
        if split not in (None, "train"):
            raise DatasetError(
                f"The kind sav_train has the split 'train' only, not '{split}'; there is a kind sav_{split}."
            )
        self.root = existing_root(root)
        self._json: dict[str, list[Path]] = {}
        for kind in kinds[masklets]:
            for file in sorted(self.root.rglob(f"*_{kind}.json")):
                self._json.setdefault(file.name.removesuffix(f"_{kind}.json"), []).append(file)
        self.names = sorted(self._json)
        if not self.names:
            raise DatasetError(
                f"'{self.root}' is not laid out as SA-V train: no '*_{kinds[masklets][0]}.json' is in it or below. "
                f"{contents(self.root)}"
            )

    def record(self, name: str) -> VideoRecord:
        video, *files = self.files(name)
        if not video.is_file():
            raise DatasetError(f"There is no video '{video}' for the annotations '{files[0].name}' beside it.")
        frames: dict[int, dict[int, Any]] = {}
        objects = 0
        for file in files:
            annotation, where = read_annotations(file), f"'{file}' is not an annotation of SA-V: its content"
            height, width, count = (
                int(field(annotation, f"video_{name}", float, where, error=DatasetError, least=1, most=10**7))
                for name in ("height", "width", "frame_count")
            )
            size = height, width
            rows = field(annotation, "masklet", list, where, error=DatasetError)
            for k in range(len(rows)):
                row = field(rows, k, list, where, error=DatasetError)
                frames.setdefault(k * STRIDE, {}).update({objects + i + 1: rle for i, rle in enumerate(row)})
            objects += max(map(len, rows), default=0)
            if (len(rows) - 1) * STRIDE >= count:
                raise DatasetError(
                    f"'{file}' annotates {len(rows)} frames, every {STRIDE}th, which a video of {count} does not have."
                )
        # SAM 2 drops frames on which an object has no entry, because it was not annotated there. An object with an
        # empty mask was annotated.
        judged = {k: row for k, row in frames.items() if len(row) == objects and None not in row.values()}
        return VideoRecord(
            name,
            VideoFrames(reference(video), count, size),
            Segmentations(judged, " and ".join(map(str, files))),
            source="sav_train",
            split="train",
            licence=LICENCE,
            fps=24.0,
        )

    def files(self, name: str) -> list[Path]:
        files = self._json[name]
        return [files[0].with_name(f"{name}.mp4"), *files]


class SavImages(Layout):
    """The validation set or the test set.

    Args:
        root: the folder with ``JPEGImages_24fps`` and ``Annotations_6fps``.
        split: ``val`` or ``test``, in accordance with `name`, or None.
        name: ``sav_val`` or ``sav_test``.

    Raises:
        DatasetError: if the folder does not have this layout, or the split is another one.
    """

    def __init__(self, root: str | Path, split: str | None = None, *, name: str) -> None:
        self._name = name
        if split not in (None, name.removeprefix("sav_")):
            raise DatasetError(f"The kind {name} has no split '{split}'; leave it out.")
        self.root = existing_root(root)
        dataset = f"SA-V {name.removeprefix('sav_')} (JPEGImages_24fps, Annotations_6fps)"
        self._frames = find_folder(self.root, "JPEGImages_24fps", dataset=dataset)
        self._masks = find_folder(self.root, "Annotations_6fps", dataset=dataset)
        self.names = folder_names(self._masks)
        if (listed := self.root / f"{name}.txt").is_file():
            self.names = read_names(listed)
            check_names(self.names, self._frames, listed)

    def record(self, name: str) -> VideoRecord:
        images = numbered_images(self._frames / name, "frames", gaps=False)
        masks: dict[int, dict[int, Path]] = {}
        for folder in self._object_folders(name):
            for frame, file in by_frame(numbered_images(folder, "masks", gaps=True), images).items():
                masks.setdefault(frame, {})[int(folder.name) + 1] = file
        return VideoRecord(
            name,
            ImageFrames([reference(p) for p in images.values()]),
            ObjectImages(masks),
            source=self._name,
            split=self._name.removeprefix("sav_"),
            licence=LICENCE,
            fps=24.0,
        )

    def _object_folders(self, name: str) -> list[Path]:
        """Return the folders of masks of a video, one for each object."""
        if not (self._masks / name).is_dir():
            raise DatasetError(f"There is no folder of masks '{self._masks / name}'.")
        folders = [self._masks / name / entry for entry in folder_names(self._masks / name)]
        for folder in folders:
            if not folder.name.isdecimal():
                raise DatasetError(f"'{folder}' is not a folder of an object, which has a number for a name, as 000.")
        if not folders:
            raise DatasetError(
                f"'{self._masks / name}' has no folder for an object, such as 000. {contents(self._masks / name)}"
            )
        return folders

    def files(self, name: str) -> Iterable[Path]:
        return [self._frames / name, *sorted((self._masks / name).glob("*/*"))]
