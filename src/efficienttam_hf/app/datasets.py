"""Loads a dataset from a folder; recognises the kind and the split if they are not given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..data.loading import VideoRecords


def load_data(
    root: Path | None,
    kind: str | None = None,
    split: str | None = None,
    sequences: Sequence[str] | None = None,
    limit: int | None = None,
    options: dict[str, Any] | None = None,
) -> tuple[VideoRecords, str, str | None]:
    """Load the videos of a dataset's folder; return them with the kind and split of the dataset.

    Args:
        root: the dataset's folder; `None` for a kind that is drawn and has no folder.
        kind: the kind of dataset; by default, the folder's layout decides.
        split: the split; by default val for DAVIS, and all videos for others.
        sequences: names of the videos to load; by default all.
        limit: largest number of videos; the first ones are taken.
        options: options of the kind, such as the meaning of the values of masks; see `data.loading.load_records`.

    Raises:
        DatasetError: if there are no videos, or the folder has another layout.
        ValueError: if the limit is below 1, or a folder is needed and not given.
    """
    from ..data.layouts import RULES, rules_of
    from ..data.loading import kind_of, load_records
    from ..data.schema import DatasetError

    if root is None:
        if kind is None or not rules_of(kind).is_drawn:
            drawn = ", ".join(name for name, rules in RULES.items() if rules.is_drawn)
            raise ValueError(
                f"The dataset's folder is missing: give --data ROOT. Only --dataset {drawn} needs no folder."
            )
        root = Path()
    kind = kind or kind_of(root)
    # Explicitly listed videos are never skipped, wherever they are listed.
    default = rules_of(kind).default_split
    if split is None and sequences is None and default is not None:
        listed = root / "ImageSets" / kind.removeprefix("davis") / f"{default}.txt"
        split = default if listed.is_file() else None
    records = load_records(kind, root, split, videos=sequences, **(options or {}))
    if limit is not None:
        if limit < 1:
            raise ValueError(f"--limit must be at least 1, got {limit}.")
        records = records[:limit]
    if not len(records):
        raise DatasetError(f"There are no videos in '{root}': give a folder with at least one, or another split.")
    return records, kind, split
