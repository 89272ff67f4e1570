"""DAVIS 2016 and 2017, which share one folder.

    root/JPEGImages/480p/<video>/00000.jpg
    root/Annotations/480p/<video>/00000.png
    root/ImageSets/2016|2017/<split>.txt          names of videos, one per line
    root/ImageSets/480p/<split>.txt               in the archive of 2016: paths of frames and masks, one pair per line

Masks of 2016 have the values 0 and 255, for one object. Masks of 2017 are palette images of object ids, in which 255 is
void. If the 2016 benchmark is run on masks of 2017, all objects are joined to one, as in the authors' code.
https://davischallenge.org
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
    read_names,
)


FIRST_MASKS_ONLY = ("test-dev", "test-challenge")
RULES = {
    "davis2016": BenchmarkRules(
        "davis2016", default_split="val", annotates_every_frame=True, prediction_files="binary"
    ),
    "davis2017": BenchmarkRules("davis2017", default_split="val", annotates_every_frame=True),
}


class Davis(Layout):
    """DAVIS of one year.

    Args:
        root: the folder with ``JPEGImages``, ``Annotations`` and ``ImageSets``.
        split: the name of a file in ``ImageSets``: ``train``, ``val`` or, in 2017, ``test-dev``. None selects all
            videos.
        year: 2016 or 2017.
        resolution: ``480p``, or the name of the folder of another size, such as ``Full-Resolution``.
        binary, threshold, colors: the meaning of mask values that are not object ids; see
            :class:`efficienttam_hf.mask_values.MaskCoding`. Masks of 2016 are always binary.

    Raises:
        DatasetError: if the folder does not have this layout, or the split does not exist.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        *,
        year: int,
        resolution: str = "480p",
        binary: bool = False,
        threshold: int | None = None,
        colors: Mapping[Any, int] | str | None = None,
    ) -> None:
        self.root, self.split, self.year = existing_root(root), split, year
        is_binary = binary or (year == 2016 and threshold is None and colors is None)
        self._coding = mask_coding(is_binary, threshold, colors)
        dataset = f"DAVIS {year} (JPEGImages/{resolution}, Annotations/{resolution}, ImageSets/{year})"
        self._frames = find_folder(self.root, f"JPEGImages/{resolution}", dataset=dataset)
        self._masks = find_folder(self.root, f"Annotations/{resolution}", dataset=dataset)
        if split is None:
            self.names = folder_names(self._frames)
            return
        choices = [f"ImageSets/{year}", *(["ImageSets/480p"] if year == 2016 else [])]
        lists = find_folder(self.root, *choices, dataset=dataset)
        if not (lists / f"{split}.txt").is_file():
            known = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "none"
            raise DatasetError(f"DAVIS {year} has no split '{split}' in '{lists}'; there are: {known}.")
        lines = read_names(lists / f"{split}.txt")
        self.names = list(dict.fromkeys(Path(line.split()[0]).parent.name or line for line in lines))
        check_names(self.names, self._frames, lists / f"{split}.txt")

    def record(self, name: str) -> VideoRecord:
        return VideoRecord(
            name,
            *label_video(self._frames / name, self._masks / name, coding=self._coding),
            source=f"davis{self.year}",
            split=self.split or "",
            licence="CC BY 4.0",
            fps=24.0,
            complete=self.split not in FIRST_MASKS_ONLY,
        )

    def files(self, name: str) -> Iterable[Path]:
        return [self._frames / name, *sorted((self._masks / name).glob("*"))]
