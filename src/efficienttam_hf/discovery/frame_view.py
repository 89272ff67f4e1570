"""What the model itself says about a frame of a session, from the image features that tracking uses as well.

`FrameView` decodes prompts on a frame without changing the session: the mask of each detected box, by which detections
are compared with tracked objects, and everything that the model sees on a grid of clicks. Masks stay at the resolution
of the mask decoder, a quarter of the model's input, so that hundreds of them take a few megabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.pseudo_labels.proposals import ObjectMask, ProposalOptions, propose_objects
from ..data.pseudo_labels.teachers import Prompt, TeacherMask, View, stability_of
from ..prompts import MASK_STRIDE, ObjectPrompts, covered_cells
from .detections import Detection


if TYPE_CHECKING:
    from ..modeling_efficienttam_video import EfficientTamVideoModel
    from ..video_session import EfficientTamVideoInferenceSession


__all__ = ["EVERYTHING", "Everything", "FrameView"]

EVERYTHING = "everything"
LEVELS = (0.85, 0.7, 0.55, 0.4, 0.25)  # of predicted IoU and stability
ENOUGH = 3  # objects
BOXES_AT_A_TIME = 16  # the mask decoder copies the features of the frame for each


class FrameView(View):
    """A frame of a session as the model sees it.

    Args:
        model: the model of the session.
        session: the session; its features of the frame are used, and computed if it does not have them.
        frame_idx: the frame.

    Attributes:
        size: (h, w) of the masks, in whose pixels prompts are.
    """

    def __init__(
        self, model: EfficientTamVideoModel, session: EfficientTamVideoInferenceSession, frame_idx: int
    ) -> None:
        import torch

        self._model = model
        with torch.no_grad():
            self._features = session.features(frame_idx, model.encode_frame)
            self._embeddings = model.add_no_memory(self._features)
        height, width = model.config.prompt_encoder_config.mask_input_size
        self.size: tuple[int, int] = (height, width)

    def segment(self, prompt: Prompt) -> list[TeacherMask]:
        """The model's masks for points, three of them, or for a box; see `View`."""
        import torch

        points = torch.as_tensor(np.asarray(prompt.points, np.float32).reshape(1, 1, -1, 2) * MASK_STRIDE)
        labels = torch.ones(points.shape[:3], dtype=torch.int64)
        boxes = None if prompt.box is None else torch.tensor(prompt.box).float().view(1, 1, 4) * MASK_STRIDE
        logits, scores = self._decode(points, labels, boxes, multimask_output=prompt.box is None)
        return [
            TeacherMask(own > 0, float(np.clip(score, 0, 1)), stability_of(own))
            for own, score in zip(logits[0], scores[0], strict=True)
        ]

    def box_masks(self, boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
        """The model's mask for each box; the box itself where the model finds no mask.

        Args:
            boxes: left, top, right and bottom in pixels of the original frame.
            size: (height, width) of the original frame.

        Returns:
            bool (boxes, h, w).
        """
        import torch

        scale = np.array([self.size[1] / size[1], self.size[0] / size[0]] * 2)
        scaled = np.asarray(boxes, np.float64).reshape(-1, 4) * scale
        masks = np.zeros((len(scaled), *self.size), dtype=bool)
        for begin in range(0, len(scaled), BOXES_AT_A_TIME):
            chunk = torch.as_tensor(scaled[begin : begin + BOXES_AT_A_TIME] * MASK_STRIDE).float()[None]
            masks[begin : begin + BOXES_AT_A_TIME] = (
                self._decode(None, None, chunk, multimask_output=False)[0][:, 0] > 0
            )
        for mask, (left, top, right, bottom) in zip(masks, scaled, strict=True):
            if not mask.any():
                rows = slice(int(top), max(int(top) + 1, round(bottom)))
                mask[rows, int(left) : max(int(left) + 1, round(right))] = True
        return masks

    def small_mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask of the original frame, bool (height, width), at the size of this view; never empty."""
        small = ObjectPrompts(mask=mask).scaled(mask.shape, self.size).mask
        return covered_cells(mask, self.size) if small is None else small

    def full_mask(self, mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A mask of this view at (height, width) of the original frame, bool, with smooth edges."""
        import cv2

        full = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
        if full.any():
            return full
        covered = ObjectPrompts(mask=mask).scaled(mask.shape, size).mask
        return full if covered is None else covered

    def appearance(self, mask: np.ndarray) -> np.ndarray:
        """The mean of the frame's features over a mask (h, w), less the frame's mean, at length 1: (C,) float32.

        The vector is zero if the mask is empty.
        """
        features = self._features[0].float()
        height, width = features.shape[-2:]
        weights = mask.reshape(height, mask.shape[0] // height, width, -1).mean(axis=(1, 3)).astype(np.float32)
        if not weights.any():
            return np.zeros(len(features), np.float32)
        flat = features.flatten(1).cpu().numpy()
        own = flat @ (weights.ravel() / weights.sum()) - flat.mean(axis=1)
        return own / max(float(np.linalg.norm(own)), 1e-12)

    def _decode(self, points: Any, labels: Any, boxes: Any, multimask_output: bool) -> tuple[np.ndarray, np.ndarray]:
        """Mask logits (prompts, masks, h, w) and predicted IoUs (prompts, masks) of prompts in pixels of the input."""
        import torch

        points, labels, boxes = (
            None if given is None else given.to(self._model.device) for given in (points, labels, boxes)
        )
        with torch.no_grad():
            logits, scores, _, _ = self._model.decode_masks(
                self._embeddings, points, labels, boxes, multimask_output=multimask_output
            )
        return logits[0].float().cpu().numpy(), scores[0].float().cpu().numpy()


class Everything:
    """Proposes all objects of a frame, where no tracked object is, as the model itself sees them.

    These are the whole objects of SAM's mask generation: masks of a sensible area that the model believes in (predicted
    IoU), that are stable, and no duplicates; see `data.pseudo_labels.proposals`. Models differ much in how far they
    believe in their masks. Without `threshold`, the first look takes the highest of `LEVELS` at which the model sees
    `ENOUGH` objects, or else the one at which it sees the most. Later looks take the same, because an empty place must
    not be searched until something is seen in it.

    Args:
        most: the largest number of proposals.
        threshold: the least predicted IoU and stability.
    """

    def __init__(self, most: int, threshold: float | None = None):
        self.most = most
        self.threshold = threshold

    @property
    def looks_for(self) -> str:
        """What is looked for, for messages."""
        least = LEVELS[-1] if self.threshold is None else self.threshold
        return f"everything with a predicted IoU and a stability of at least {least:g}"

    def propose(self, view: FrameView, known: np.ndarray, size: tuple[int, int]) -> list[Detection]:
        """The objects of a frame, the best first.

        Args:
            view: the frame.
            known: bool (h, w), where objects are tracked.
            size: (height, width) of the original frame.
        """
        answers = _Remembered(view)
        proposals: list[ObjectMask] = []
        level = self.threshold
        for least in LEVELS if self.threshold is None else (self.threshold,):
            options = ProposalOptions(min_iou=least, min_stability=least, max_objects=self.most)
            found = [p for p in propose_objects(answers, view.size, options, known=known) if p.part_of is None]
            if len(found) > len(proposals):
                proposals, level = found, least
            if len(proposals) >= ENOUGH:
                break
        self.threshold = level
        detections = []
        for proposal in proposals:
            mask = view.full_mask(proposal.mask, size)
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
            detections.append(Detection(box, None, proposal.score, mask))
        return sorted(detections, key=lambda detection: -detection.score)


class _Remembered(View):
    """A view that decodes each prompt once, however often it is asked."""

    def __init__(self, view: View):
        self._view = view
        self._answers: dict[bytes, list[TeacherMask]] = {}

    def segment(self, prompt: Prompt) -> list[TeacherMask]:
        key = np.asarray(prompt.points, np.float64).tobytes()  # all prompts are clicks of one grid
        if key not in self._answers:
            self._answers[key] = self._view.segment(prompt)
        return self._answers[key]
