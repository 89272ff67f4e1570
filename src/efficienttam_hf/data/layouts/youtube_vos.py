"""YouTube-VOS 2018 and 2019, MOSE and LVOS, which share a layout.

    root/<split>/JPEGImages/<video>/00000.jpg     every fifth frame of YouTube-VOS, so 00000, 00005, ...
    root/<split>/Annotations/<video>/00000.png    palette images of object ids
    root/<split>/meta.json                        names and, in YouTube-VOS, categories; <split>_meta.json in LVOS

Objects may appear after the first frame. Splits that are not for training have a mask only on the first frame of each
object, except LVOS, which has all masks of its validation set. https://youtube-vos.org, https://mose.video,
https://lingyihongfd.github.io/lvos.github.io
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...safe_names import shown
from ...structured_files import field
from ..benchmark_rules import BenchmarkRules
from ..records import VideoRecord
from ..schema import DatasetError
from .common import (
    Layout,
    check_names,
    existing_root,
    find_folder,
    folder_names,
    label_video,
    mask_coding,
    read_annotations,
)


ALL_FRAMES = "_all_frames"  # the end of the name of a YouTube-VOS split with 30 frames per second
SPLITS = ("train", "val", "valid", "test")


@dataclass(frozen=True)
class _About:
    """The facts of a dataset that its records and messages contain."""

    title: str
    licence: str
    fps: float | None
    complete_splits: tuple[str, ...] = ("train",)


ABOUT = {
    "youtube_vos2018": _About("YouTube-VOS 2018", "non-commercial research, see youtube-vos.org", 6.0),
    "youtube_vos2019": _About("YouTube-VOS 2019", "non-commercial research, see youtube-vos.org", 6.0),
    "mose": _About("MOSE", "CC BY-NC-SA 4.0", None),
    "lvos": _About("LVOS", "annotations CC BY 4.0, videos for non-commercial research", 6.0, ("train", "val", "valid")),
}
_YOUTUBE_VOS = BenchmarkRules(
    "youtube_vos", zip_folder="Annotations", judged_every=5, judged_every_in=ALL_FRAMES
)  # there are 30 frames per second, and every fifth is annotated
RULES = {
    "youtube_vos2018": _YOUTUBE_VOS,
    "youtube_vos2019": _YOUTUBE_VOS,
    "mose": BenchmarkRules("mose"),
    "lvos": BenchmarkRules("lvos", zip_folder="Annotations"),
}


class YouTubeVos(Layout):
    """One of the datasets of ``ABOUT``.

    Args:
        root: the folder with a folder for each split; or, without a split, the folder with ``JPEGImages`` and
            ``Annotations``.
        split: the name of the split's folder: ``train``, ``valid`` (``val`` in LVOS), ``test``, or a name such as
            ``train_all_frames``, whose masks may be in the folder of the split with fewer frames.
        source: a key of ``ABOUT``.
        binary, threshold, colors: the meaning of mask values that are not object ids; see
            :class:`efficienttam_hf.mask_values.MaskCoding`.

    Raises:
        DatasetError: if the folder does not have this layout, or the split does not exist.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        *,
        source: str,
        binary: bool = False,
        threshold: int | None = None,
        colors: Mapping[Any, int] | str | None = None,
    ) -> None:
        self._coding = mask_coding(binary, threshold, colors)
        self.root, self.split, self._source, self._about = existing_root(root), split, source, ABOUT[source]
        title = f"{self._about.title} (<split>/JPEGImages, <split>/Annotations)"
        splits = [name for name in folder_names(self.root) if (self.root / name / "JPEGImages").is_dir()]
        if splits and split not in splits:
            given = "No split was given" if split is None else f"{self._about.title} has no split '{split}' here"
            raise DatasetError(f"{given}; '{self.root}' holds: {', '.join(splits)}.")
        base = f"{split}/" if split else ""
        self._frames = find_folder(self.root, f"{base}JPEGImages", dataset=title)
        # The download with all frames has no masks of its own; they are those of every fifth frame.
        sparse = [f"{split.removesuffix(ALL_FRAMES)}/Annotations"] if split and split.endswith(ALL_FRAMES) else []
        self._masks = find_folder(self.root, f"{base}Annotations", *sparse, dataset=title)
        self.names = folder_names(self._frames)
        self._objects: dict[str, dict[str, Any]] = {}
        for folder in dict.fromkeys((self._masks.parent, self._frames.parent)):
            for meta in (folder / "meta.json", folder / f"{split}_meta.json"):
                if meta.is_file():
                    self._read_meta(meta)

    def _read_meta(self, file: Path) -> None:
        """Read the names and objects of the videos from a `meta.json`."""
        where = f"'{file}' has no table of videos: it"
        videos = field(read_annotations(file), "videos", dict, where, error=DatasetError)
        for name in videos:
            video = field(videos, name, dict, where, error=DatasetError)
            described = f"{where}, {shown(name)}"
            self._objects[name] = field(video, "objects", dict, described, error=DatasetError, default={})
        self.names = sorted(self._objects)
        check_names(self.names, self._frames, file)

    def record(self, name: str) -> VideoRecord:
        objects = self._objects.get(name, {})
        categories = {}
        for number in objects:
            where = f"The object {shown(number)} of {shown(name)} in meta.json"
            about = field(objects, number, dict, where, error=DatasetError)
            if not number.isdecimal() or len(number) > 9:
                raise DatasetError(f"{where} has no number for a name.")
            if "category" in about:
                categories[int(number)] = field(about, "category", str, where, error=DatasetError)
        # Without a split, the root may be the folder of a split.
        split = (self.split or self.root.name).removesuffix(ALL_FRAMES)
        every_frame = (self.split or "").endswith(ALL_FRAMES)
        return VideoRecord(
            name,
            *label_video(
                self._frames / name, self._masks / name, gaps=True, coding=self._coding, categories=categories
            ),
            source=self._source,
            split=self.split or "",
            licence=self._about.licence,
            fps=30.0 if every_frame and self._about.fps else self._about.fps,
            complete=split in self._about.complete_splits or (self.split is None and split not in SPLITS),
        )

    def files(self, name: str) -> Iterable[Path]:
        return [self._frames / name, *sorted((self._masks / name).glob("*"))]
