"""The promptable models that draw pseudo-labels, behind one small interface.

SAM and related models encode a picture once, which takes most of the time, and then answer each prompt quickly. So a
`Teacher` returns a `View` of a picture, which keeps the encoding, and the view draws the masks for prompts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import DatasetError


__all__ = ["OnnxTeacher", "Prompt", "Teacher", "TeacherMask", "View", "open_onnx", "stability_of"]

STABILITY_OFFSET = 1.0  # in logits, as in SAM's automatic mask generation
MASK_PROMPT_LOGIT = 8.0  # the logit inside a mask that is given as a prompt; outside, it is negative


@dataclass(frozen=True)
class TeacherMask:
    """A mask that a teacher draws for a prompt.

    Attributes:
        mask: bool (height, width), at the size of the picture.
        iou: the predicted IoU, from 0 to 1.
        stability: the IoU of the mask at a lower and at a higher threshold, from 0 to 1 (SAM's "stability score").
    """

    mask: np.ndarray
    iou: float
    stability: float


@dataclass(frozen=True)
class Prompt:
    """A prompt for a teacher, in pixels of the picture.

    Attributes:
        points: float (n, 2), (x, y) of positive points.
        box: left, top, right and bottom; or None.
        mask: bool (height, width), an earlier mask of the object; or None. Teachers without mask prompts ignore it.
    """

    points: np.ndarray
    box: tuple[float, float, float, float] | None = None
    mask: np.ndarray | None = None


class View(ABC):
    """A picture that a teacher has encoded."""

    @abstractmethod
    def segment(self, prompt: Prompt) -> list[TeacherMask]:
        """Return the masks for a prompt: one, or several alternatives (part, whole, group)."""


class Teacher(ABC):
    """A promptable segmentation model.

    Attributes:
        name: the name of the model in the description of the labels.
    """

    name: str

    @abstractmethod
    def look_at(self, image: np.ndarray) -> View:
        """Encode a picture, uint8 (height, width, 3) RGB."""


def stability_of(logits: np.ndarray) -> float:
    """Return the IoU of the masks above `STABILITY_OFFSET` and above its negative, in logits; 0 if both are empty."""
    smaller, larger = (logits > STABILITY_OFFSET).sum(), (logits > -STABILITY_OFFSET).sum()
    return float(smaller / larger) if larger else 0.0


def low_resolution_mask_prompt(mask: np.ndarray, size: int) -> np.ndarray:
    """Convert a mask to the logits that SAM's prompt encoder takes. Its longer side is `size`; the rest is padding.

    Args:
        mask: bool (height, width).
        size: the side of the square in pixels.

    Returns:
        float32 (1, 1, size, size).
    """
    import cv2

    scale = size / max(mask.shape)
    width, height = (max(1, round(side * scale)) for side in mask.shape[::-1])
    covered = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    logits = np.full((1, 1, size, size), -MASK_PROMPT_LOGIT, dtype=np.float32)
    logits[0, 0, :height, :width] = MASK_PROMPT_LOGIT * (2 * covered - 1)
    return logits


class OnnxTeacher(Teacher):
    """SAM as a pair of ONNX files, as its authors' exporter and those of related models write them.

    The encoder maps a square picture, normalised and padded at the right and at the bottom, to an embedding. The
    decoder maps `image_embeddings`, `point_coords`, `point_labels`, `mask_input`, `has_mask_input` and `orig_im_size`
    to `iou_predictions` and `low_res_masks`.

    Args:
        encoder, decoder: the two files.
        threads: the number of threads of ONNX Runtime; None is its default.

    Raises:
        DatasetError: if a file does not exist or has another interface.
        ImportError: if ONNX Runtime is not installed.
    """

    MEAN = np.array([123.675, 116.28, 103.53], dtype=np.float32)
    STD = np.array([58.395, 57.12, 57.375], dtype=np.float32)
    DECODER_INPUTS = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input")

    def __init__(self, encoder: str | Path, decoder: str | Path, threads: int | None = None) -> None:
        self.name = f"{Path(encoder).name} and {Path(decoder).name}"
        self._encoder, self._decoder = (open_onnx(file, threads) for file in (encoder, decoder))
        inputs = {entry.name: entry for entry in self._decoder.get_inputs()}
        outputs = {entry.name for entry in self._decoder.get_outputs()}
        missing = [name for name in self.DECODER_INPUTS if name not in inputs]
        missing += [name for name in ("iou_predictions", "low_res_masks") if name not in outputs]
        if missing:
            raise DatasetError(
                f"The decoder '{decoder}' does not have SAM's interface: it lacks {', '.join(missing)}. "
                "Give the encoder first, then the decoder."
            )
        self._takes_size = "orig_im_size" in inputs
        self.mask_size = int(inputs["mask_input"].shape[-1])
        picture = self._encoder.get_inputs()[0]
        if len(picture.shape) != 4 or not isinstance(picture.shape[-1], int) or picture.shape[1] != 3:
            raise DatasetError(
                f"The encoder '{encoder}' takes an input of shape {picture.shape}; (batch, 3, size, size) with a fixed "
                "size is accepted."
            )
        self._picture_name, self.image_size = picture.name, int(picture.shape[-1])

    def look_at(self, image: np.ndarray) -> View:
        import cv2

        size = self.image_size
        scale = size / max(image.shape[:2])
        width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        picture = np.zeros((1, 3, size, size), dtype=np.float32)
        picture[0, :, :height, :width] = ((resized.astype(np.float32) - self.MEAN) / self.STD).transpose(2, 0, 1)
        embedding = self._encoder.run(None, {self._picture_name: picture})[0]
        return _OnnxView(self, embedding, image.shape[:2])

    def decode(self, embedding: np.ndarray, points: np.ndarray, labels: np.ndarray, mask: np.ndarray | None) -> Any:
        """Run the decoder for one prompt.

        Args:
            embedding: the output of the encoder.
            points: (n, 2), (x, y) in pixels of the input.
            labels: (n,), SAM's labels of points.
            mask: float32 (1, 1, size, size), logits of a mask prompt; or None.

        Returns:
            (n, k) predicted IoU and (n, k, size, size) logits.
        """
        feed = {
            "image_embeddings": embedding,
            "point_coords": points[None].astype(np.float32),
            "point_labels": labels[None].astype(np.float32),
            "mask_input": np.zeros((1, 1, self.mask_size, self.mask_size), np.float32) if mask is None else mask,
            "has_mask_input": np.array([mask is not None], dtype=np.float32),
        }
        if self._takes_size:  # the size of the output `masks`, which is not requested
            feed["orig_im_size"] = np.array([8, 8], dtype=np.float32)
        return self._decoder.run(["iou_predictions", "low_res_masks"], feed)


class _OnnxView(View):
    """A picture that an `OnnxTeacher` has encoded."""

    def __init__(self, teacher: OnnxTeacher, embedding: np.ndarray, size: tuple[int, int]) -> None:
        self.teacher, self.embedding, self.size = teacher, embedding, size

    def segment(self, prompt: Prompt) -> list[TeacherMask]:
        import cv2

        points = [*np.asarray(prompt.points, dtype=np.float32).reshape(-1, 2)]
        labels = [1.0] * len(points)
        if prompt.box is not None:
            points += [np.array(prompt.box[:2]), np.array(prompt.box[2:])]
            labels += [2.0, 3.0]
        else:  # SAM's exported decoder expects a padding point if there is no box
            points.append(np.zeros(2))
            labels.append(-1.0)
        scale = self.teacher.image_size / max(self.size)
        mask = None if prompt.mask is None else low_resolution_mask_prompt(prompt.mask, self.teacher.mask_size)
        iou, logits = self.teacher.decode(self.embedding, np.stack(points) * scale, np.array(labels), mask)
        shown = [max(1, round(side * logits.shape[-1] / max(self.size))) for side in self.size]
        results = []
        for score, values in zip(iou[0], logits[0], strict=True):
            values = np.ascontiguousarray(values[: shown[0], : shown[1]])
            full = cv2.resize(values, self.size[::-1], interpolation=cv2.INTER_LINEAR)
            results.append(TeacherMask(full > 0, float(np.clip(score, 0, 1)), stability_of(values)))
        return results


def open_onnx(file: str | Path, threads: int | None) -> Any:
    """Open an ONNX file with ONNX Runtime on the CPU.

    Args:
        file: the ONNX file.
        threads: the number of threads; None is ONNX Runtime's default.

    Raises:
        DatasetError: if the file does not exist, or ONNX Runtime cannot run it.
        ImportError: if ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("ONNX files need ONNX Runtime: pip install 'efficienttam-hf[export]'") from error
    if not Path(file).is_file():
        raise DatasetError(f"There is no ONNX file '{file}'.")
    options = onnxruntime.SessionOptions()
    if threads:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's error classes share no public base class
        raise DatasetError(f"'{file}' is not an ONNX model that can be run: {str(error).splitlines()[0]}") from error
