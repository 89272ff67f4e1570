"""The videos of `efficienttam track --batch`, read from a file of jobs, a folder of videos or a `datasets` table.

A file of jobs has one JSON object a line:

    {"video": "cups.mp4", "objects": [{"id": 1, "prompts": [{"frame": 0, "box": [500, 200, 640, 420]}]}]}

`objects` is written as in `masks.json` (see `results.py`). Further fields, all optional: `name`, the name of the
results (by default that of the file, without its suffix), and `start` and `end`, the range of frames as in `track`.
A path is relative to the folder of the file. A table has the same fields as columns; a video may then also be one of
`datasets.Video`, and `objects` may be JSON text.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..frame_names import IMAGE_SUFFIXES
from ..prompts import Prompts, prompts_as_json, prompts_from_json
from ..safe_names import safe_name
from ..structured_files import field as field_of
from ..structured_files import parse_json


__all__ = ["VideoJob", "read_jobs"]

TABLES = {".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}
SAVED = ("dataset_info.json", "state.json")  # what `Dataset.save_to_disk` writes
VIDEOS: tuple[str, ...] = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".m2ts", ".wmv")
VIDEOS += (".flv", ".ogv", ".dv", ".mxf", ".3gp", ".mjpeg", ".mjpg", ".gif", ".apng")


@dataclass(frozen=True)
class VideoJob:
    """A video of a batch.

    Attributes:
        name: the name of its results, as a file name.
        video: the path of a file or of a folder of frames; of a table's row without a path, only a description.
        prompts: the prompts by frame number; empty if the options of the command say what is tracked.
        start, end: the range of frames, as in `open_video`.
        row: the table and the number of the row that contains the video's bytes, if it has no path.
        identity: says which bytes these are, where there is no file whose size and time do.
    """

    name: str
    video: str
    prompts: Prompts = field(default_factory=dict)
    start: int | None = None
    end: int | None = None
    row: tuple[Any, int] | None = None
    identity: str = ""

    @property
    def size(self) -> int:
        """The bytes of the video's files, by which work is shared out; 1 if that is not known."""
        try:
            return max(1, sum(size for _, size, _ in _files_of(self.video)))
        except OSError:
            return 1

    def stamp(self, settings: Mapping[str, Any]) -> str:
        """A text that changes when the video's files, its prompts or the settings change."""
        try:
            files = [] if self.row is not None else list(_files_of(self.video))
        except OSError:
            files = []
        own = [self.video, self.identity, files, prompts_as_json(self.prompts), self.start, self.end]
        return hashlib.sha256(json.dumps([own, dict(settings)], sort_keys=True).encode()).hexdigest()[:32]

    @contextmanager
    def path(self) -> Iterator[Path]:
        """The path of the video, while the `with` block lasts; bytes of a table are in a temporary file meanwhile.

        Raises:
            ValueError: if the row of the table has no video.
        """
        if self.row is None:
            yield Path(self.video)
            return
        table, number = self.row
        content = table[number]["video"]["bytes"]
        if not content:
            raise ValueError(f"{self.video} has neither a path to a video nor its bytes.")
        with tempfile.TemporaryDirectory(prefix="efficienttam-") as folder:
            path = Path(folder) / self.name
            path.write_bytes(content)
            yield path


def read_jobs(source: str | os.PathLike) -> list[VideoJob]:
    """Read the videos of a batch. No video is opened.

    Args:
        source: a file of jobs (`.jsonl`); a folder with video files and folders of frames; a table of `datasets`: a
            Parquet, CSV or Arrow file, or a folder written by `save_to_disk`.

    Returns:
        The jobs in the order of the file or table; of a folder, by name.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if a line or row has another form, two jobs have one name, or there is no video.
        ImportError: if the source is a table and `datasets` is not installed.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"There is no file of jobs, folder of videos or table '{source}'.")
    if path.is_dir():
        is_table = all((path / name).is_file() for name in SAVED)
        jobs = _jobs_of_table(path) if is_table else _jobs_of_folder(path)
    elif path.suffix.lower() in TABLES:
        jobs = _jobs_of_table(path)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        jobs = _jobs_of_lines(path)
    else:
        raise ValueError(
            f"--batch takes a file of jobs (.jsonl), a folder of videos or a table ({', '.join(TABLES)}), got "
            f"'{source}'. To track this video only, give it as VIDEO, without --batch."
        )
    if not jobs:
        raise ValueError(f"There is no video in '{source}'.")
    names: dict[str, VideoJob] = {}
    for job in jobs:
        other = names.setdefault(job.name.casefold(), job)
        if other is not job:
            raise ValueError(
                f"'{other.video}' and '{job.video}' would both write the results {job.name!r}: give one of them "
                'another "name".'
            )
    return jobs


def _jobs_of_lines(path: Path) -> list[VideoJob]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The jobs in '{path}' cannot be read: {error}") from error
    return [
        _job(parse_json(line, where), where, path.parent)
        for number, line in enumerate(lines, 1)
        if line.strip() and (where := f"Line {number} of '{path}'")
    ]


def _jobs_of_folder(path: Path) -> list[VideoJob]:
    def is_video(entry: Path) -> bool:
        if entry.name.startswith("."):
            return False
        if entry.is_dir():
            return any(file.suffix.lower() in IMAGE_SUFFIXES for file in entry.iterdir())
        return entry.suffix.lower() in VIDEOS

    found = sorted(filter(is_video, path.iterdir()))
    return [VideoJob(safe_name(entry.name if entry.is_dir() else entry.stem), str(entry)) for entry in found]


def _jobs_of_table(path: Path) -> list[VideoJob]:
    try:
        from datasets import Dataset, Video, load_from_disk
    except ImportError as error:
        raise ImportError("Tables need the package datasets: pip install efficienttam-hf[batch].") from error
    try:
        if path.is_dir():
            table: Any = load_from_disk(str(path))
        elif TABLES[path.suffix.lower()] == "arrow":
            table = Dataset.from_file(str(path))
        else:
            table = getattr(Dataset, f"from_{TABLES[path.suffix.lower()]}")(str(path))
    except Exception as error:  # noqa: BLE001 -- the library raises many kinds for a damaged file
        raise ValueError(f"The table '{path}' cannot be read: {error}") from error
    columns = table.column_names
    if "video" not in columns:
        raise ValueError(f"The table '{path}' has no column 'video'; it has {', '.join(map(str, columns))}.")
    if isinstance(table.features["video"], Video):
        table = table.cast_column("video", Video(decode=False))
    light = table.remove_columns([name for name in columns if name not in ("name", "objects", "start", "end")])
    jobs = []
    for number in range(len(table)):
        where = f"Row {number} of '{path}'"
        row = dict(light[number]) if light.column_names else {}
        video = table[number]["video"]
        on_disk = video.get("path") if isinstance(video, Mapping) else video
        row = {name: value for name, value in row.items() if value is not None}
        if isinstance(row.get("objects"), str):
            row["objects"] = parse_json(row["objects"], f'"objects" of {where[0].lower()}{where[1:]}')
        has_bytes = isinstance(video, Mapping) and video.get("bytes")
        if has_bytes:
            row.setdefault("name", Path(on_disk).stem if on_disk else f"{number:05d}")
            job = _job({**row, "video": where}, where, path.parent)
            identity = hashlib.sha256(video["bytes"]).hexdigest()
            jobs.append(VideoJob(job.name, where, job.prompts, job.start, job.end, (table, number), identity))
        else:
            jobs.append(_job({**row, "video": on_disk}, where, path.parent))
    return jobs


def _job(given: Any, where: str, folder: Path) -> VideoJob:
    """Return the job that a line or row describes, with its path relative to `folder`."""
    video = field_of(given, "video", str, where)
    known = ("video", "name", "objects", "start", "end")
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        raise ValueError(f"{where} has the unknown field {unknown[0]!r}; known are {', '.join(known)}.")
    name = field_of(given, "name", str, where, default=Path(video).stem)
    try:
        prompts = prompts_from_json(field_of(given, "objects", list, where, default=[]))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    start, end = (field_of(given, bound, int, where, default=None, least=0) for bound in ("start", "end"))
    return VideoJob(safe_name(name), str(folder / video), prompts, start, end)


def _files_of(video: str) -> Iterator[tuple[str, int, int]]:
    """The name, size and time of each file of a video."""
    path = Path(video)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        status = file.stat()
        yield file.name, status.st_size, status.st_mtime_ns
