"""Masks of many videos as a table, in Parquet files that `datasets.load_dataset` reads: one row an object and frame.

    video     string          the name of the video
    frame     int32           the number of the frame in the whole video
    obj_id    int32           the id of the object
    label     string or null  what a detector calls the object
    rle       {size: [height, width], counts: string}: the mask as COCO's compressed run lengths
    box       4 float32       x, y, width, height of the mask in pixels; zeros if it is empty
    score     float32         the probability that the object is in the frame

The rows come from `masks.json` of each video. `formats.result_files` reads it frame by frame, so that RAM use does not
grow with the length of a video.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..atomic_file import atomic_path
from ..formats.result_files import read_results


__all__ = ["check_pyarrow", "write_shard"]

ROWS_AT_A_TIME = 4096


def check_pyarrow() -> None:
    """Raise `ImportError` if tables cannot be written here."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ImportError("Tables of masks need PyArrow: pip install efficienttam-hf[batch].") from error


def write_shard(path: Path, videos: Iterable[tuple[str, Path]]) -> int:
    """Write the masks of some videos to a Parquet file, completely or not at all.

    Args:
        path: the path of the file.
        videos: the name of each video and the path of its `masks.json`.

    Returns:
        The number of rows.

    Raises:
        ValueError: if a `masks.json` is damaged; the message names it.
        ImportError: if PyArrow is not installed.
    """
    check_pyarrow()
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [
            ("video", pa.string()),
            ("frame", pa.int32()),
            ("obj_id", pa.int32()),
            ("label", pa.string()),
            ("rle", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])),
            ("box", pa.list_(pa.float32())),
            ("score", pa.float32()),
        ]
    )
    count = 0
    rows = (row for name, masks in videos for row in _rows(name, masks))
    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while some := list(islice(rows, ROWS_AT_A_TIME)):
            writer.write_table(pa.Table.from_pylist(some, schema))
            count += len(some)
    return count


def _rows(video: str, masks: Path) -> Iterator[dict[str, Any]]:
    """The rows of a video, by frame and object."""
    try:
        results = read_results(masks)
        for frame in results.frames():
            for one in frame.objects:
                yield {
                    "video": video,
                    "frame": frame.index,
                    "obj_id": one.object_id,
                    "label": results.labels.get(one.object_id),
                    "rle": one.mask,
                    "box": one.box,
                    "score": one.score,
                }
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The masks in '{masks}' cannot be read ({error}): remove that folder, and run the same command again."
        ) from error
