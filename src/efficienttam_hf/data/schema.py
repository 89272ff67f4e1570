"""The common schema of all datasets: a row is a video with frames as encoded files and masks as run lengths.

Pixels stay encoded in a row, so a table of a thousand videos is small, can be sharded and shuffled like any other
table, and can be uploaded to the Hub. :class:`efficienttam_hf.data.records.VideoRecord` decodes the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Features


__all__ = ["DatasetError", "video_features"]


class DatasetError(ValueError):
    """A dataset has a problem; the message names the file, the problem and the expected content."""


def video_features() -> Features:
    """Return the columns of a table of videos. Images are videos of one frame.

    - ``video_id``: str, unique within its dataset.
    - ``source``: str, the dataset, such as ``"davis2017"``.
    - ``split``: str, the dataset's name of the split; empty if it has none.
    - ``licence``: str, the licence of the dataset, in a few words; empty if unknown.
    - ``fps``: float, frames per second; None if unknown.
    - ``height``, ``width``, ``num_frames``: int, in pixels and frames.
    - ``frames``: list of ``{"path": str, "bytes": bytes}``, the encoded image of every frame in order; ``bytes`` is
      None until the table is saved or pushed. The list is empty if there is a video file.
    - ``video``: ``{"path": str, "bytes": bytes}``, a video file; None if there are images.
    - ``objects``: list of ``{"object_id": int, "category": str}``, every object of the video. Ids are at least 1;
      ``category`` is None if the dataset has none.
    - ``annotations``: list with an entry for each annotated frame, in order:

      - ``frame_index``: int, counted from 0 in the video;
      - ``object_ids``: list of int, the objects that are visible in it. Any other object of the video is absent;
      - ``masks``: list of COCO run lengths ``{"size": [height, width], "counts": str}``, one for each of
        ``object_ids``; they may overlap;
      - ``void``: run lengths of the pixels without annotation, which no loss or score counts; None if there are none.
    - ``complete``: bool, whether objects that are not listed on an annotated frame are absent from it. False for
      validation sets that annotate each object only on the frame where it appears first.

    Raises:
                ImportError: if the ``datasets`` library is not installed.
    """
    datasets = import_datasets()
    integer, text = datasets.Value("int32"), datasets.Value("string")
    run_lengths = {"size": [integer], "counts": text}
    return datasets.Features(
        {
            "video_id": text,
            "source": text,
            "split": text,
            "licence": text,
            "fps": datasets.Value("float64"),
            "height": integer,
            "width": integer,
            "num_frames": integer,
            "frames": [datasets.Image(decode=False)],
            "video": datasets.Video(decode=False),
            "objects": [{"object_id": integer, "category": text}],
            "annotations": [
                {"frame_index": integer, "object_ids": [integer], "masks": [run_lengths], "void": run_lengths}
            ],
            "complete": datasets.Value("bool"),
        }
    )


def import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "Tables of videos need the datasets library: pip install efficienttam-hf[train]. "
            "load_records reads the same datasets without it."
        ) from error
    return datasets
