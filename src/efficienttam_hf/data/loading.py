"""Loads datasets by kind: as records for training, or as tables of `datasets` for other uses.

    records = load_records("davis2017", "DAVIS", "train")           # a sequence of VideoRecord, nothing read yet
    table = load_video_dataset("davis2017", "DAVIS", "train")       # a datasets.Dataset, ready to push to the Hub
    stream = load_video_dataset("sav_train", "sav", streaming=True) # a datasets.IterableDataset

A table holds masks as run lengths, so every mask is read once to make it; `datasets` keeps the table in its cache until
a file of the dataset changes. Records and streams read only the requested data, at the time of the request.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from .layouts import LAYOUTS, Layout
from .records import VideoRecord
from .schema import DatasetError, import_datasets, video_features


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


__all__ = ["VideoRecords", "kind_of", "load_records", "load_video_dataset", "records_of"]

MAX_SHARDS = 1024  # of a stream: enough for any number of processes, few enough to shuffle and list


class VideoRecords(Sequence[VideoRecord]):
    """The videos of a dataset, in order. The files of a video are listed when it is requested.

    Attributes:
        names: the names of the videos.
    """

    def __init__(self, layout: Layout, names: list[str]) -> None:
        self.names = names
        self._layout = layout

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> VideoRecord: ...
    @overload
    def __getitem__(self, index: slice) -> VideoRecords: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return VideoRecords(self._layout, self.names[index])
        return self._layout.record(self.names[index])

    def stamp(self) -> str:
        """Return a text that changes when a video or a mask changes."""
        seen = hashlib.sha256()
        for path in dict.fromkeys(path for name in self.names for path in (name, *self._layout.files(name))):
            state = path.stat() if isinstance(path, Path) and path.exists() else None
            seen.update(f"{path}|{state and (state.st_size, state.st_mtime_ns)}\n".encode())
        return seen.hexdigest()[:32]


def kind_of(root: str | Path) -> str:
    """Return the kind of a dataset by its subfolders: DAVIS in its own layout, or any folder of frames and masks."""
    root = Path(root)
    if (root / "JPEGImages" / "480p").is_dir():
        only_2016 = (root / "ImageSets" / "2016").is_dir() and not (root / "ImageSets" / "2017").is_dir()
        return "davis2016" if only_2016 else "davis2017"
    return "folder"


def load_records(
    kind: str,
    root: str | Path,
    split: str | None = None,
    *,
    videos: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    **options: Any,
) -> VideoRecords:
    """Return the videos of a dataset in the layout in which its authors publish it.

    Args:
        kind: a key of ``LAYOUTS``: ``davis2016``, ``davis2017``, ``youtube_vos2018``, ``youtube_vos2019``, ``mose``,
            ``lvos``, ``sav_train``, ``sav_val``, ``sav_test``, ``sa1b``, ``coco`` or ``folder``.
        root: the dataset's folder; `docs/data.md` shows the folder tree of each kind.
        split: the dataset's name of the split.
        videos: the names of the videos to return, in this order.
        exclude: the names of videos to leave out.
        options: options of the kind; see its class in ``layouts``.

    Returns:
        A sequence that lists files and decodes nothing. It can be sliced, pickled and sent to other processes.

    Raises:
        DatasetError: if a kind, an option or a video is unknown, or the folder does not have this layout.
    """
    if kind not in LAYOUTS:
        raise DatasetError(f"There is no kind of dataset '{kind}'; there are {', '.join(LAYOUTS)}.")
    accepted = [
        name
        for name, parameter in inspect.signature(LAYOUTS[kind]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in getattr(LAYOUTS[kind], "keywords", {})
    ]
    if unknown := sorted(set(options) - set(accepted)):
        raise DatasetError(
            f"The kind '{kind}' has no option {', '.join(unknown)}; it has {', '.join(accepted) or 'none'}."
        )
    layout = LAYOUTS[kind](root, split, **options)
    exclude = set(exclude)
    names = layout.names if videos is None else list(videos)
    known = set(layout.names)
    if missing := [name for name in (*names, *exclude) if name not in known]:
        raise DatasetError(
            f"{kind} in '{root}' has no video {', '.join(missing[:5])}; "
            f"it has {', '.join(layout.names[:8])}{' and others' * (len(known) > 8)}."
        )
    return VideoRecords(layout, [name for name in names if name not in exclude])


def load_video_dataset(
    kind: str,
    root: str | Path,
    split: str | None = None,
    *,
    streaming: bool = False,
    num_proc: int | None = None,
    cache_dir: str | Path | None = None,
    **options: Any,
) -> Dataset | IterableDataset:
    """Load a dataset as a table with the columns of :func:`.schema.video_features`.

    Args:
        kind, root, split, options: see :func:`load_records`; ``videos`` and ``exclude`` are options too.
        streaming: return an ``IterableDataset``, which reads each video when it is iterated over.
        num_proc: the number of processes that make the table; without effect on a stream.
        cache_dir: the folder of the cache; the default cache of `datasets` if None.

    Returns:
        ``datasets.Dataset``, or ``datasets.IterableDataset`` with a shard for each video (or each few videos).

    Raises:
        DatasetError: see :func:`load_records`; also if a mask cannot be read.
                ImportError: if the ``datasets`` library is not installed.
    """
    datasets = import_datasets()
    records = load_records(kind, root, split, **options)
    shards = min(len(records), MAX_SHARDS)
    bounds = [len(records) * k // shards for k in range(shards + 1)]
    # `datasets` divides a list among the arguments of a generator among its processes.
    arguments = {"records": records, "indices": [range(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]}
    if streaming:
        return datasets.IterableDataset.from_generator(_rows, features=video_features(), gen_kwargs=arguments)
    try:
        return datasets.Dataset.from_generator(
            _rows,
            features=video_features(),
            gen_kwargs=arguments,
            num_proc=num_proc,
            cache_dir=None if cache_dir is None else str(cache_dir),
            # The cache depends on the arguments. Files may change under the same names, so their stamp is included.
            fingerprint=hashlib.sha256(f"{kind}|{split}|{options}|{records.stamp()}".encode()).hexdigest()[:32],
        )
    except datasets.exceptions.DatasetGenerationError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, DatasetError):
            cause = cause.__cause__
        raise cause or error from None


def _rows(records: VideoRecords, indices: list[range]) -> Iterator[dict[str, Any]]:
    for shard in indices:
        for index in shard:
            yield records[index].to_row()


class _TableRecords(Sequence[VideoRecord]):
    def __init__(self, table: Dataset) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _TableRecords(self._table.select(range(len(self))[index]))
        return VideoRecord.from_row(self._table[index])


def records_of(table: Dataset) -> Sequence[VideoRecord]:
    """Return the videos of a table, for example one from the Hub, as records.

    Raises:
        DatasetError: if the table lacks columns of :func:`.schema.video_features`.
    """
    if missing := sorted(set(video_features()) - set(table.column_names)):
        raise DatasetError(f"This table is not one of videos: it lacks the columns {', '.join(missing)}.")
    return _TableRecords(table)
