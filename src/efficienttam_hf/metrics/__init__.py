"""J&F and mIoU as modules of the `evaluate` library: a folder each, with the card that the Hub shows.

    metric = evaluate.load(metric_path("video_object_segmentation"), "davis2017")

Both measure masks as they are added and give `evaluate` only the measurements to keep, so that neither its cache nor
the memory of `compute` holds a mask. What is measured, and what counts, is in `efficienttam_hf.evaluation`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..mask_io import decode_rle


__all__ = ["as_mask", "metric_path"]


def metric_path(name: str) -> str:
    """Where a metric lies, as `evaluate.load` takes it.

    Args:
        name: `"video_object_segmentation"` or `"prompted_segmentation"`.

    Raises:
        ValueError: there is no metric of that name.
    """
    folder = Path(__file__).parent
    names = sorted(path.parent.name for path in folder.glob("*/*.py"))
    if name not in names:
        raise ValueError(f"There is no metric {name!r}; there are {', '.join(names)}.")
    return str(folder / name)


def as_mask(mask: Any) -> np.ndarray:
    """An array (height, width), of what metrics take for a mask: that, or a COCO run-length encoding.

    Raises:
        ValueError: an encoding that is damaged.
        ImportError: an encoding, and pycocotools is not installed.
    """
    return decode_rle(mask) if isinstance(mask, dict) else np.asarray(mask)
