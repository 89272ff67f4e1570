"""J&F of video object segmentation, for the `evaluate` library. See the README beside this file.

A row is a frame of a video. What `evaluate` keeps of it are the J and F of its objects, a few dozen bytes each: they
are all that the score is made of, while which of them count is known only when the whole video has been seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import evaluate
import numpy as np

from efficienttam_hf.evaluation.conventions import Groups, convention_named
from efficienttam_hf.evaluation.region_boundary import Agreement
from efficienttam_hf.evaluation.scores import (
    DatasetScores,
    SequenceScorer,
    SequenceScores,
    frame_agreements,
    numbers_in,
    object_masks,
    summary,
)
from efficienttam_hf.metrics import as_mask


_DESCRIPTION = """
Region similarity J and boundary accuracy F of objects tracked through videos, with mean, recall and decay, of each
object, of each sequence and of all; exactly as the evaluators of DAVIS, vos-benchmark, SA-V and LVOS have them. The
configuration is the scoring convention: "davis2017" unless another is named.
"""

_INPUTS = """
Args:
    predictions, references: of each frame either object numbers, integers (height, width), 0 in the background and, in
        references, 255 where it is void; or a mask for each object id, bool (height, width) or a COCO run-length
        encoding, which may overlap.
    sequence: of each frame, the name of its video.
    frame: of each frame, its number in the video. Every frame that is annotated is added, in whatever order.
    groups: for `compute`, for each sequence the group of its objects ("seen", "unseen"), or of each object id.
Returns:
    J&F, J, J_recall, J_decay, F, F_recall, F_decay, from 0 to 1; G and J and F of each group if there are any;
    "sequences": for each the same, and in its "objects" for each object.
"""

_CITATION = """
@inproceedings{Perazzi_2016_CVPR,
  author = {F. Perazzi and J. Pont-Tuset and B. McWilliams and L. {Van Gool} and M. Gross and A. Sorkine-Hornung},
  title = {A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation},
  booktitle = {CVPR},
  year = {2016},
}
"""


class VideoObjectSegmentation(evaluate.Metric):
    """See the description of the module."""

    def _info(self) -> evaluate.MetricInfo:
        self.convention = convention_named("davis2017" if self.config_name == "default" else self.config_name)
        measured = {"object_id": "int64", "j": "float64", "f": "float64", "in_truth": "bool", "in_prediction": "bool"}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            reference_urls=["https://davischallenge.org", self.convention.source],
            # What is kept: of a prediction how well it agrees, object by object; of a reference how many it shows.
            features=datasets.Features(
                sequence=datasets.Value("string"),
                frame=datasets.Value("int64"),
                predictions=[{name: datasets.Value(kind) for name, kind in measured.items()}],
                references=datasets.Value("int64"),
            ),
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Measure a frame and keep the measurements."""
        # `evaluate.combine` says `predictions` and `references` here too.
        prediction, reference = kwargs.pop("predictions", prediction), kwargs.pop("references", reference)
        measured, shown = self._measured(prediction, reference)
        super().add(prediction=measured, reference=shown, **kwargs)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Measure frames and keep the measurements."""
        pairs = [self._measured(*pair) for pair in zip(predictions, references, strict=True)]
        super().add_batch(predictions=[each for each, _ in pairs], references=[each for _, each in pairs], **kwargs)

    def _measured(self, prediction: Any, reference: Any) -> tuple[list[dict[str, Any]], int]:
        """What is kept of a frame; see `_info`."""
        truth, void = self._truth(reference)
        values = frame_agreements(truth, _objects(prediction), void, self.convention)
        shown = sum(value.in_truth for value in values.values())
        return [{"object_id": i, **vars(value)} for i, value in values.items()], shown

    def _truth(self, reference: Any) -> tuple[dict[int, np.ndarray], np.ndarray | None]:
        if isinstance(reference, Mapping):
            return _objects(reference), None
        return object_masks(np.asarray(reference), self.convention)

    def _compute(
        self, predictions: Any, references: Any, sequence: Any, frame: Any, groups: Groups | None = None
    ) -> dict[str, Any]:
        of_sequences: dict[str, dict[int, dict[int, Agreement]]] = {}
        for name, number, objects in zip(sequence, frame, predictions, strict=True):
            values = {each.pop("object_id"): Agreement(**each) for each in map(dict, objects)}
            # Processes that share a dataset evenly may do a frame twice; twice with other results is a mistake.
            if of_sequences.setdefault(name, {}).setdefault(number, values) != values:
                raise ValueError(f"Frame {number} of sequence {name!r} was added twice, with different masks.")
        scores = DatasetScores([], self.convention)
        for name, frames in sorted(of_sequences.items()):
            scorer = SequenceScorer(self.convention)
            for number in sorted(frames):
                scorer.add_agreements(frames[number])
            objects = scorer.scores(groups[name] if groups is not None else None)
            scores.sequences.append(SequenceScores(name, objects, len(frames), 0.0))
        parts = {
            each.name: {**each.summary(), "objects": {of.object_id: summary([of]) for of in each.objects}}
            for each in scores.sequences
        }
        return {**scores.summary(), "sequences": parts}


def _objects(frame: Any) -> dict[int, np.ndarray]:
    """A mask for each object of a frame."""
    if isinstance(frame, Mapping):
        return {int(i): as_mask(mask) for i, mask in frame.items()}
    labels = np.asarray(frame)
    return {number: labels == number for number in numbers_in(labels)}
