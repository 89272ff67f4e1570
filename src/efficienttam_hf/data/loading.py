"""Loads datasets by name: as records for training, or as tables of `datasets` for everything else.

    records = load_records("davis2017", "DAVIS", "train")           # a sequence of VideoRecord, nothing read yet
    table = load_video_dataset("davis2017", "DAVIS", "train")       # a datasets.Dataset, ready to push to the Hub
    stream = load_video_dataset("sav_train", "sav", streaming=True) # a datasets.IterableDataset

A table holds masks as run lengths, so making one reads every mask once; `datasets` keeps the result in its cache until
a file of the dataset changes. Records and streams read what is asked for, when it is asked for.
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

MAX_SHARDS = 1024  # of a stream; enough for any number of processes, few enough to shuffle and list


class VideoRecords(Sequence[VideoRecord]):
    """The videos of a dataset, in order; each is looked up when it is asked for.

    Attributes:
        names: of the videos.
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
        """A text that changes when a video or a mask does."""
        seen = hashlib.sha256()
        for path in dict.fromkeys(path for name in self.names for path in (name, *self._layout.files(name))):
            state = path.stat() if isinstance(path, Path) and path.exists() else None
            seen.update(f"{path}|{state and (state.st_size, state.st_mtime_ns)}\n".encode())
        return seen.hexdigest()[:32]


def kind_of(root: str | Path) -> str:
    """Which kind of dataset a folder is, by the folders in it: DAVIS in its own layout, or any frames and masks."""
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
    """The videos of a dataset as its authors publish it.

    Args:
        kind: a key of ``LAYOUTS``: ``davis2016``, ``davis2017``, ``youtube_vos2018``, ``youtube_vos2019``, ``mose``,
            ``lvos``, ``sav_train``, ``sav_val``, ``sav_test``, ``sa1b``, ``coco`` or ``folder``.
        root: the dataset's folder; `docs/data.md` has the tree that each kind expects.
        split: as the dataset calls it.
        videos: only these, in this order.
        exclude: all but these.
        options: of the kind, see its class in ``layouts``.

    Returns:
        A sequence that lists files and decodes nothing. It can be sliced, pickled and sent to other processes.

    Raises:
        DatasetError: a kind, an option or a video that is not known, or a folder that is not laid out like this.
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
    """A dataset as a table with the columns of :func:`.schema.video_features`.

    Args:
        kind, root, split, options: as for :func:`load_records`, ``videos`` and ``exclude`` included.
        streaming: give an ``IterableDataset``, which reads each video as it comes.
        num_proc: processes that make a table which is not streamed.
        cache_dir: where it is kept; `datasets`' own cache if None.

    Returns:
        ``datasets.Dataset``, or ``datasets.IterableDataset`` with a shard for each video (of large datasets, each few).

    Raises:
        DatasetError: as :func:`load_records`, or a mask that cannot be read.
        ImportError: the ``datasets`` library is not installed.
    """
    datasets = import_datasets()
    records = load_records(kind, root, split, **options)
    shards = min(len(records), MAX_SHARDS)
    bounds = [len(records) * k // shards for k in range(shards + 1)]
    # A list among the arguments of a generator is what `datasets` divides among processes.
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
            # Files may change under the same names, and of that the arguments know nothing.
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
    """The videos of a table, from the Hub say, as records.

    Raises:
        DatasetError: the table lacks columns of :func:`.schema.video_features`.
    """
    if missing := sorted(set(video_features()) - set(table.column_names)):
        raise DatasetError(f"This table is not one of videos: it lacks the columns {', '.join(missing)}.")
    return _TableRecords(table)
