"""The formats by name, and finding out which format a file of annotations has.

Modules of formats are imported when they are used, so that a command line can list the names without them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .annotations import AddFile, AnnotatedMedia


__all__ = ["FORMATS", "Format", "check_formats", "read_annotations", "write_annotations"]

MAX_JSON = 2**30  # bytes of a JSON file, which is parsed as a whole


@dataclass(frozen=True)
class Format:
    """A format that is written.

    Attributes:
        module, writer: the function that writes it, in this folder.
        media: "video", "image" or "both".
        text: what is written, in a few words.
    """

    module: str
    writer: str
    media: str
    text: str


FORMATS: Mapping[str, Format] = {
    "coco": Format("coco", "write_coco", "both", "COCO instances; the frames of a video are images with track ids"),
    "youtube-vis": Format("youtube_vis", "write_youtube_vis", "video", "YouTube-VIS: a list of masks for each object"),
    "mots": Format("mots", "write_mots", "video", "MOTS: PNGs of 16 bits, and run lengths as text"),
    "mot": Format("mot", "write_mot", "video", "MOTChallenge: boxes as text"),
    "cvat": Format("cvat", "write_cvat_masks", "video", "CVAT for video XML 1.1 with masks"),
    "cvat-boxes": Format("cvat", "write_cvat_boxes", "video", "the same with the boxes of each object as a track"),
    "cvat-polygons": Format("cvat", "write_cvat_polygons", "video", "the same with outlines as a track"),
    "label-studio": Format("label_studio", "write_label_studio", "both", "Label Studio: brushes, or boxes on a video"),
    "labelme": Format("labelme", "write_labelme", "both", "labelme: polygons, a file for each frame"),
    "numpy": Format("numpy_archive", "write_numpy", "both", "a NumPy archive of masks, boxes, scores and labels"),
}


def check_formats(names: list[str], is_video: bool) -> None:
    """Check that formats exist and can be written for a video, or for an image.

    Raises:
        ValueError: if one does not exist or is of the other kind.
    """
    for name in names:
        if name not in FORMATS:
            raise ValueError(f"There is no format {name!r}; the formats are {', '.join(FORMATS)}.")
        if FORMATS[name].media not in ("both", "video" if is_video else "image"):
            possible = [n for n, f in FORMATS.items() if f.media in ("both", "video" if is_video else "image")]
            kind = "a video" if is_video else "an image"
            raise ValueError(f"The format {name} is not for {kind}; those are {', '.join(possible)}.")


def write_annotations(name: str, media: AnnotatedMedia, add: AddFile) -> None:
    """Write annotations in a format.

    Args:
        name: the name of the format.
        media: the annotations.
        add: a function from a relative name to the path to write; it may list the file and makes its folder.

    Raises:
        ValueError: if the format does not exist, or cannot hold these annotations.
    """
    check_formats([name], media.is_video)
    form = FORMATS[name]
    getattr(import_module(f".{form.module}", __package__), form.writer)(media, add)


def read_annotations(path: Path, video: str, size: tuple[int, int]) -> AnnotatedMedia:
    """Read a file or folder of annotations in any of the formats, which is found out from its content.

    Args:
        path: a JSON, XML, text or NumPy file; or a folder with one of these, with files of labelme, or with
            annotation images.
        video: the name of the video that is meant, for files of several videos.
        size: (height, width) of its frames, for files that do not say it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the format is unknown or the content is invalid.
    """
    from .annotations import AnnotationError

    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder of annotations '{path}'.")
    if path.is_dir():
        return _read_folder(path, video, size)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _read_json(path, video, size)
    if suffix == ".xml":
        from .cvat import read_cvat

        return read_cvat(path, size)
    if suffix == ".npz" or zipfile.is_zipfile(path):
        from .numpy_archive import read_numpy

        return read_numpy(path)
    if suffix == ".txt":
        from .mot import read_lines, read_mot
        from .mots import read_mots_text

        _, first = next(read_lines(path), ("", ""))
        return read_mot(path) if "," in first else read_mots_text(path)
    raise AnnotationError(
        f"'{path}' is not a file of annotations that can be read: .json, .xml, .txt, .npz or a folder is accepted."
    )


def _read_folder(path: Path, video: str, size: tuple[int, int]) -> AnnotatedMedia:
    """The content of a folder that results or a format were written to."""
    from .annotations import AnnotationError
    from .labelme import read_labelme
    from .mots import read_png_folder
    from .result_files import NAME, read_results

    if (path / NAME).is_file():
        return read_results(path)
    known = ("annotations.json", "instances.json", "tasks.json", "annotations.xml", "masks.npz", "gt/gt.txt")
    files = [path / name for name in known if (path / name).is_file()] or sorted(path.glob("*.txt"))
    if len(files) == 1:
        return read_annotations(files[0], video, size)
    for folder in (path, path / video, path / "instances" / video):
        if next(folder.glob("*.png"), None) is not None:
            return read_png_folder(folder)
        if next(folder.glob("*.json"), None) is not None:
            return read_labelme(folder)
    raise AnnotationError(
        f"'{path}' has no annotations that can be read: results, a file of one of the formats, the files of labelme or "
        "annotation images are accepted."
    )


def _read_json(path: Path, video: str, size: tuple[int, int]) -> AnnotatedMedia:
    from ..structured_files import read_json
    from .annotations import AnnotationError
    from .result_files import FRAMES, media_of_results, read_results

    with path.open("rb") as file:
        is_own = any(file.readline(2**16).startswith(FRAMES) for _ in range(20))
    if is_own:
        return read_results(path)
    where = f"The file '{path}'"
    content: Any = read_json(path, error=AnnotationError, what="file of annotations", max_bytes=MAX_JSON)
    if isinstance(content, dict) and "shapes" in content:
        from .labelme import read_labelme

        return read_labelme(path)
    if isinstance(content, list) or (isinstance(content, dict) and "data" in content):
        from .label_studio import read_label_studio

        return read_label_studio(content, where, video, size)
    if isinstance(content, dict) and "annotations" in content:
        annotations = content["annotations"]
        first = annotations[0] if isinstance(annotations, list) and annotations else None
        if isinstance(first, dict) and "segmentations" in first:
            from .youtube_vis import read_youtube_vis

            return read_youtube_vis(content, where, video)
        from .coco import read_coco

        return read_coco(content, where, video)
    return media_of_results(content, where)
