"""Detectors from Transformers: models that find what a text says, and models that find a fixed set of classes.

Both run through Transformers' pipelines, `zero-shot-object-detection` and `object-detection`; `load_detector` reads
from the model's configuration which of the two it is for. The model is a folder or an id on the Hub. A model that the
Hub cannot be asked for is taken from the Hugging Face cache.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..hub_files import file_answers, is_offline
from ..safe_names import reason_of, shown
from .detections import Detection, DetectionError, checked_texts


if TYPE_CHECKING:
    import torch


__all__ = ["DEFAULT_TEXT_DETECTOR", "ClassDetector", "TextDetector", "load_detector"]

DEFAULT_TEXT_DETECTOR = "IDEA-Research/grounding-dino-tiny"
TEXT_THRESHOLD, CLASS_THRESHOLD = 0.3, 0.5  # near the box threshold of Grounding DINO's authors; that of the pipeline
# Model types that were trained on lower-case phrases that end in a full stop, as their model cards say.
PHRASE_MODELS = ("grounding-dino", "mm-grounding-dino")
MOST_NAMED = 10  # classes in a message


class _PipelineDetector(ABC):
    """A detector that runs a pipeline of Transformers on each frame.

    Args:
        pipeline: the pipeline.
        name: the name of the model, for messages.
        threshold: the least score of a detection.
    """

    def __init__(self, pipeline: Any, name: str, threshold: float) -> None:
        self.pipeline, self.name, self.threshold = pipeline, name, threshold

    @property
    @abstractmethod
    def looks_for(self) -> str:
        """What is looked for, for messages."""

    @abstractmethod
    def _run(self, image: Any) -> list[Mapping[str, Any]]:
        """The output of the pipeline for a PIL image."""

    @abstractmethod
    def _label(self, label: str) -> str | None:
        """The label of a detection with this label of the pipeline; `None` if it was not looked for."""

    def __call__(self, frame: np.ndarray) -> list[Detection]:
        """Find objects on a frame, uint8 (height, width, 3) RGB.

        Raises:
            DetectionError: if the model fails on the frame.
        """
        from PIL import Image

        try:
            found = self._run(Image.fromarray(frame))
        except (ValueError, TypeError, RuntimeError, LookupError) as error:
            raise DetectionError(
                f"The detector {shown(self.name)} failed on a frame of {frame.shape[1]}x{frame.shape[0]} pixels: "
                f"{reason_of(error)}"
            ) from error
        detections = []
        for entry in found:
            label = self._label(entry["label"])
            if label is not None:
                box = entry["box"]
                sides = (float(box["xmin"]), float(box["ymin"]), float(box["xmax"]), float(box["ymax"]))
                detections.append(Detection(sides, label, float(entry["score"])))
        return detections


class TextDetector(_PipelineDetector):
    """Finds what texts say, with a model such as Grounding DINO or OWL-ViT.

    Args:
        pipeline: a pipeline `zero-shot-object-detection`.
        name: the name of the model, for messages.
        texts: what to look for; each is the label of its detections.
        threshold: the least score of a detection.
    """

    def __init__(self, pipeline: Any, name: str, texts: Sequence[str], threshold: float = TEXT_THRESHOLD) -> None:
        super().__init__(pipeline, name, threshold)
        self.texts = checked_texts(texts)
        as_phrase = pipeline.model.config.model_type in PHRASE_MODELS
        self._texts_by_query = {f"{text.lower().rstrip('.')}." if as_phrase else text: text for text in self.texts}

    @property
    def looks_for(self) -> str:
        return f"{_listed(self.texts)} with a score of at least {self.threshold:g}"

    def _run(self, image: Any) -> list[Mapping[str, Any]]:
        return self.pipeline(image, candidate_labels=list(self._texts_by_query), threshold=self.threshold)

    def _label(self, label: str) -> str | None:
        return self._texts_by_query.get(label)


class ClassDetector(_PipelineDetector):
    """Finds the classes that a model was trained on, such as the 80 of COCO.

    Args:
        pipeline: a pipeline `object-detection`.
        name: the name of the model, for messages.
        texts: the names of the classes to look for; by default all of them.
        threshold: the least score of a detection.

    Raises:
        DetectionError: if the model does not know a class.
    """

    def __init__(
        self, pipeline: Any, name: str, texts: Sequence[str] | None = None, threshold: float = CLASS_THRESHOLD
    ) -> None:
        super().__init__(pipeline, name, threshold)
        classes = {str(label).lower(): str(label) for label in pipeline.model.config.id2label.values()}
        self.texts = None if texts is None else checked_texts(texts)
        self._wanted = None if self.texts is None else {text.lower(): text for text in self.texts}
        unknown = [text for text in self.texts or () if text.lower() not in classes]
        if unknown:
            close = difflib.get_close_matches(unknown[0].lower(), classes, n=3)
            some = [classes[label] for label in close] or sorted(classes.values())[:MOST_NAMED]
            raise DetectionError(
                f"The detector {shown(name)} knows {len(classes)} classes, and {shown(unknown[0])} is none of them; "
                f"{'did you mean' if close else 'some are'} {', '.join(some)}? A detector that takes any text, such as "
                f"{DEFAULT_TEXT_DETECTOR}, finds other things."
            )

    @property
    def looks_for(self) -> str:
        what = "any of its classes" if self.texts is None else _listed(self.texts)
        return f"{what} with a score of at least {self.threshold:g}"

    def _run(self, image: Any) -> list[Mapping[str, Any]]:
        return self.pipeline(image, threshold=self.threshold)

    def _label(self, label: str) -> str | None:
        return label if self._wanted is None else self._wanted.get(label.lower())


def load_detector(
    name: str | None = None,
    texts: Sequence[str] | None = None,
    threshold: float | None = None,
    device: str | torch.device = "cpu",
) -> TextDetector | ClassDetector:
    """Load a detector of Transformers.

    Args:
        name: a folder or an id on the Hub; by default Grounding DINO tiny.
        texts: what to look for. A model for any text needs them; of a model with classes they choose classes.
        threshold: the least score of a detection; by default 0.3 for texts and 0.5 for classes.
        device: the device on which the model runs.

    Raises:
        DetectionError: if there is no such model here or on the Hub, it is none for detection, or the texts do not fit.
        ImportError: if the model needs a package that is not installed.
    """
    from transformers import AutoConfig, pipeline
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
        MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES,
    )

    if name is None and texts is None:
        raise DetectionError("Say what to look for: texts, or the name of a detector.")
    if texts is not None:
        texts = checked_texts(texts)
    if threshold is not None and not 0 <= threshold <= 1:
        raise DetectionError(f"The least score of a detection is from 0 to 1, got {threshold}.")
    name = name or DEFAULT_TEXT_DETECTOR
    location = _locate(name)
    try:
        model_type = AutoConfig.from_pretrained(location).model_type
        takes_texts = model_type in MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES
        if not takes_texts and model_type not in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
            raise DetectionError(
                f"The model {shown(name)} is of type {shown(model_type)}, which detects no objects; a detector is a "
                "model for zero-shot-object-detection or object-detection, such as Grounding DINO, OWL-ViT or DETR."
            )
        if takes_texts and texts is None:
            raise DetectionError(f"The detector {shown(name)} finds what a text says, but no text was given.")
        task = "zero-shot-object-detection" if takes_texts else "object-detection"
        make: Any = pipeline  # its types tell the tasks apart
        made = make(task, model=location, device=device)
    except DetectionError:
        raise
    except ImportError as error:
        raise ImportError(f"The detector {shown(name)} cannot be loaded: {reason_of(error)}") from error
    except Exception as error:  # a damaged file fails in any of several libraries
        raise DetectionError(f"The detector {shown(name)} cannot be loaded: {reason_of(error)}") from error
    if takes_texts:
        assert texts is not None  # was checked above
        return TextDetector(made, name, texts, TEXT_THRESHOLD if threshold is None else threshold)
    return ClassDetector(made, name, texts, CLASS_THRESHOLD if threshold is None else threshold)


def _locate(name: str) -> str:
    """The folder of a detector, or its id on the Hub if that can be asked.

    Raises:
        DetectionError: if it is neither here nor can be fetched.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise DetectionError(f"The folder {shown(name)} holds no detector: there is no config.json in it.")
        return str(path)
    way_out = "give a folder with a detector, or fetch it once with a connection"
    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError as error:
        raise DetectionError(
            f"There is no folder {shown(name)}, and it is no id on the Hub, such as {DEFAULT_TEXT_DETECTOR}."
        ) from error
    problem = "HF_HUB_OFFLINE is set" if is_offline() else file_answers(name, "config.json")
    if problem is None:
        return name
    if isinstance(cached, str):
        return str(Path(cached).parent)
    raise DetectionError(
        f"The detector {shown(name)} is not here and cannot be fetched: {problem.rstrip('.')}; {way_out}: "
        f"hf download {name}"
    )


def _listed(texts: Sequence[str]) -> str:
    some = ", ".join(shown(text) for text in texts[:MOST_NAMED])
    return some if len(texts) <= MOST_NAMED else f"{some} and {len(texts) - MOST_NAMED} more"
