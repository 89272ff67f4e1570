"""mIoU of prompted image segmentation, for the `evaluate` library. See the README beside this file.

A row is one prompted object. What `evaluate` keeps of it is its intersection over union, not its masks.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from efficienttam_hf.evaluation.region_boundary import region_similarity
from efficienttam_hf.metrics import as_mask


_DESCRIPTION = """
The mean over objects of the intersection over union of the mask that was segmented for a prompt and the true one.
"""

_INPUTS = """
Args:
    predictions, references: of each object a mask, bool (height, width) or a COCO run-length encoding.
Returns:
    mIoU: from 0 to 1, the mean over objects, NaN without any. Two empty masks agree: 1.
    num_masks: how many objects.
"""

_CITATION = """
@article{kirillov2023segany,
  title = {Segment Anything},
  author = {Kirillov, Alexander and Mintun, Eric and Ravi, Nikhila and Mao, Hanzi and Rolland, Chloe and Gustafson,
    Laura and Xiao, Tete and Whitehead, Spencer and Berg, Alexander C. and Lo, Wan-Yen and Doll{\\'a}r, Piotr and
    Girshick, Ross},
  journal = {arXiv:2304.02643},
  year = {2023},
}
"""


class PromptedSegmentation(evaluate.Metric):
    """See the description of the module."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            reference_urls=["https://arxiv.org/abs/2304.02643"],
            # What is kept: of a prediction how well it agrees, of a reference how many pixels it has.
            features=datasets.Features(predictions=datasets.Value("float64"), references=datasets.Value("int64")),
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Measure an object and keep the measurement."""
        # `evaluate.combine` says `predictions` and `references` here too.
        prediction, reference = kwargs.pop("predictions", prediction), kwargs.pop("references", reference)
        overlap, area = _measured(prediction, reference)
        super().add(prediction=overlap, reference=area, **kwargs)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Measure objects and keep the measurements."""
        pairs = [_measured(*pair) for pair in zip(predictions, references, strict=True)]
        super().add_batch(predictions=[each for each, _ in pairs], references=[each for _, each in pairs], **kwargs)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"mIoU": float(np.mean(predictions)) if predictions else float("nan"), "num_masks": len(predictions)}


def _measured(prediction: Any, reference: Any) -> tuple[float, int]:
    """Intersection over union, and the pixels of the reference."""
    truth = as_mask(reference)
    return region_similarity(as_mask(prediction), truth), int(np.count_nonzero(truth))
