"""Images with instance masks, as videos of one frame: SA-1B and COCO.

    root/**/sa_1.jpg, sa_1.json                   SA-1B: run lengths, no categories
    root/<split>/000000000139.jpg                 COCO: polygons and run lengths
    root/annotations/instances_<split>.json

https://ai.meta.com/datasets/segment-anything, https://cocodataset.org
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...safe_names import contained_path, reason_of, shown
from ...structured_files import field
from ..benchmark_rules import BenchmarkRules
from ..frames import ImageFrames, reference
from ..masks import Segmentations
from ..records import VideoRecord
from ..schema import DatasetError
from .common import Layout, contents, existing_root, find_folder, read_annotations


RULES = dict.fromkeys(("sa1b", "coco"), BenchmarkRules(images=True))


class Sa1b(Layout):
    """SA-1B. Objects are numbered from 1 in the order of the file, because SA-1B's ids are not unique to an image.

    Args:
        root: a folder that contains the images directly or in subfolders.
        split: None, because SA-1B has no splits.
        max_area: masks that cover more than this fraction of the image are left out, because they are mostly
            backgrounds. SAM 2 trains with 0.9 (appendix D.2).
        min_stability: masks with a lower ``stability_score`` are left out.

    Raises:
        DatasetError: if there are no annotations, or a split is given.
    """

    def __init__(
        self, root: str | Path, split: str | None = None, *, max_area: float = 0.9, min_stability: float = 0.0
    ) -> None:
        if split is not None:
            raise DatasetError(f"SA-1B has no splits, got split='{split}'; leave it out.")
        self.root, self._max_area, self._min_stability = existing_root(root), max_area, min_stability
        self._json = {file.stem: file for file in sorted(self.root.rglob("sa_*.json"))}
        self.names = sorted(self._json)
        if not self.names:
            raise DatasetError(
                f"'{self.root}' is not laid out as SA-1B: there is no 'sa_*.json' in it or below. {contents(self.root)}"
            )

    def record(self, name: str) -> VideoRecord:
        image, file = self.files(name)
        content, where = read_annotations(file), f"'{file}' is not an annotation of SA-1B: its content"
        about = field(content, "image", dict, where, error=DatasetError)
        height, width = (
            field(about, side, float, f"{where}, image", error=DatasetError, least=1, most=10**7)
            for side in ("height", "width")
        )
        entries, wanted = field(content, "annotations", list, where, error=DatasetError), []
        for place, entry in enumerate(entries):
            here = f"{where}, annotation {place}"
            area = field(entry, "area", float, here, error=DatasetError)
            stability = field(entry, "stability_score", float, here, error=DatasetError, default=1.0)
            if 0 < area <= self._max_area * height * width and stability >= self._min_stability:
                wanted.append(field(entry, "segmentation", (dict, list), here, error=DatasetError))
        masks = Segmentations({0: dict(enumerate(wanted, start=1))}, str(file))
        return VideoRecord(
            name, ImageFrames([reference(image)]), masks, source="sa1b", licence="SA-1B research licence"
        )

    def files(self, name: str) -> list[Path]:
        return [self._json[name].with_suffix(".jpg"), self._json[name]]


class Coco(Layout):
    """COCO instance masks, or another dataset in this format. Images without objects are left out.

    Regions marked ``iscrowd`` are void: neither object nor background.

    Args:
        root: the folder with ``annotations`` and a folder of images that has the name of the split.
        split: the split, such as ``train2017``.
        annotations: the JSON file, if it is not ``root/annotations/instances_<split>.json``.
        images: the folder of images, if it is not ``root/<split>``.

    Raises:
        DatasetError: if a file or folder is missing, or the JSON file has another form.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        *,
        annotations: str | Path | None = None,
        images: str | Path | None = None,
    ) -> None:
        self.root, self.split = existing_root(root), split
        if split is None and not (annotations and images):
            folder = find_folder(self.root, "annotations", dataset="COCO (annotations/instances_<split>.json, <split>)")
            known = ", ".join(sorted(p.stem.removeprefix("instances_") for p in folder.glob("instances_*.json")))
            raise DatasetError(f"COCO needs a split; '{folder}' has instances of: {known or 'none'}.")
        self._file = Path(annotations or self.root / "annotations" / f"instances_{split}.json")
        self._images = (
            Path(images) if images else find_folder(self.root, str(split), dataset="COCO (annotations, <split>)")
        )
        content, where = read_annotations(self._file), f"'{self._file}' is not a file of COCO instances: its content"
        self._categories: dict[int, str] = {}
        for place, entry in enumerate(field(content, "categories", list, where, error=DatasetError, default=[])):
            here = f"{where}, category {place}"
            number = field(entry, "id", int, here, error=DatasetError)
            self._categories[number] = field(entry, "name", str, here, error=DatasetError)
        # Images must be in the dataset's folder or, if the folder of images was given separately, in that folder.
        limit = self.root if images is None else self._images
        self._file_names: dict[str, str] = {}
        name_of: dict[int | str, str] = {}
        for place, entry in enumerate(field(content, "images", list, where, error=DatasetError)):
            here = f"{where}, image {place}"
            file_name = field(entry, "file_name", str, here, error=DatasetError)
            try:
                contained_path(self._images, file_name, within=limit)
            except ValueError as error:
                raise DatasetError(f"{here}: {reason_of(error)}") from error
            name = str(Path(file_name).with_suffix(""))
            if name in self._file_names:
                raise DatasetError(
                    f"{here}: the name {shown(name)} occurs twice; names without their suffix are unique."
                )
            self._file_names[name] = file_name
            name_of[field(entry, "id", (int, str), here, error=DatasetError)] = name
        grouped: dict[str, list] = {}
        for place, entry in enumerate(field(content, "annotations", list, where, error=DatasetError)):
            here = f"{where}, annotation {place}"
            image_id = field(entry, "image_id", (int, str), here, error=DatasetError)
            if image_id not in name_of:
                raise DatasetError(f"{here}: there is no image with the id {shown(image_id)}.")
            category = field(entry, "category_id", (int, type(None)), here, error=DatasetError, default=None)
            crowd = field(entry, "iscrowd", (int, bool), here, error=DatasetError, default=0)
            segmentation = field(entry, "segmentation", (dict, list), here, error=DatasetError)
            grouped.setdefault(name_of[image_id], []).append((segmentation, category, crowd))
        # Annotations are kept as text: as Python lists, the polygons of train2017 would take several gigabytes of RAM
        # in every process that loads data.
        self._annotations = {name: json.dumps(kept).encode() for name, kept in grouped.items()}
        self.names = [n for n in self._file_names if not all(crowd for *_, crowd in grouped.get(n, []))]

    def record(self, name: str) -> VideoRecord:
        objects: dict[int, Any] = {}
        void: list[Any] = []
        categories: dict[int, str] = {}
        for segmentation, category, crowd in json.loads(self._annotations[name]):
            if crowd:
                void.append(segmentation)
            elif segmentation:
                objects[len(objects) + 1] = segmentation
                if category in self._categories:
                    categories[len(objects)] = self._categories[category]
        masks = Segmentations({0: objects}, f"{self._file}, image {name}", void={0: void}, categories=categories)
        return VideoRecord(
            name,
            ImageFrames([reference(self._images / self._file_names[name])]),
            masks,
            source="coco",
            split=self.split or "",
            licence="annotations CC BY 4.0, images under Flickr's terms",
        )

    def files(self, name: str) -> Iterable[Path]:
        return [self._images / self._file_names[name], self._file]
