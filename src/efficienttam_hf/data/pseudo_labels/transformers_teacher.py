"""Teachers from Transformers: any mask generation model (SAM, SAM 2, EdgeTAM, ...), and any EfficientTAM.

They share `get_image_embeddings`, a processor that scales prompts, and a `forward` from embeddings and prompts to
low-resolution logits. They differ in how a picture fills the square input: SAM pads it, while SAM 2 and its successors
resize it without regard to proportions. The output of the processor shows which of the two it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..schema import DatasetError
from .teachers import (
    MASK_PROMPT_LOGIT,
    Prompt,
    Teacher,
    TeacherMask,
    View,
    low_resolution_mask_prompt,
    stability_of,
)


__all__ = ["TransformersTeacher"]


class TransformersTeacher(Teacher):
    """A model of `AutoModelForMaskGeneration` with its processor.

    Args:
        source: a folder, an id on the Hub, or a name that `efficienttam models` lists.
        device: the device to run on.

    Raises:
        DatasetError: if the model cannot be loaded or prompted.
    """

    def __init__(self, source: str, device: str = "cpu") -> None:
        from transformers import AutoModelForMaskGeneration, AutoProcessor

        from ... import _public  # noqa: F401 -- registers EfficientTAM
        from ...remote_code import named_checkpoint

        self.name = str(source)
        try:
            checkpoint = named_checkpoint(source)
            self.model = AutoModelForMaskGeneration.from_pretrained(checkpoint).to(device).eval()
            self.processor = AutoProcessor.from_pretrained(checkpoint)
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"The teacher '{source}' is neither a pair of ONNX files nor a model for mask generation that "
                f"Transformers can load: {str(error).splitlines()[0]}"
            ) from error

    def look_at(self, image: np.ndarray) -> View:
        import torch

        inputs = self.processor(images=image, return_tensors="pt")
        with torch.no_grad():
            pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
            embeddings = self.model.get_image_embeddings(pixels)
        side = pixels.shape[-1]
        filled = inputs.get("reshaped_input_sizes")  # SAM's processor pads at the right and at the bottom
        shares = (1.0, 1.0) if filled is None else tuple((np.asarray(filled)[0] / side).tolist())
        return _TransformersView(self, embeddings, inputs, image.shape[:2], shares)


class _TransformersView(View):
    """A picture that a `TransformersTeacher` has encoded."""

    def __init__(
        self,
        teacher: TransformersTeacher,
        embeddings: Any,
        inputs: Any,
        size: tuple[int, int],
        shares: tuple[float, float],
    ) -> None:
        self.teacher, self.embeddings, self.size = teacher, embeddings, size
        self.input_size, self.shares = tuple(inputs["pixel_values"].shape[-2:]), shares

    def segment(self, prompt: Prompt) -> list[TeacherMask]:
        import cv2
        import torch

        model = self.teacher.model
        # The scale from pixels of the picture to pixels of the input, of which the picture fills the fraction `shares`.
        scale = np.array([self.shares[k] * self.input_size[k] / self.size[k] for k in (1, 0)])
        points = torch.tensor(np.asarray(prompt.points).reshape(1, 1, -1, 2) * scale, dtype=torch.float32)
        given: dict[str, Any] = {
            "input_points": points,
            "input_labels": torch.ones(points.shape[:3], dtype=torch.int64),
        }
        if prompt.box is not None:
            box = np.asarray(prompt.box).reshape(1, 1, 2, 2) * scale
            given["input_boxes"] = torch.tensor(box.reshape(1, 1, 4), dtype=torch.float32)
        if prompt.mask is not None:
            given["input_masks"] = torch.from_numpy(self._mask_prompt(prompt.mask))
        with torch.no_grad():
            output = model(
                image_embeddings=self.embeddings,
                multimask_output=prompt.box is None and prompt.mask is None,
                **{name: value.to(model.device) for name, value in given.items()},
            )
        scores = output.iou_scores[0, 0].float().cpu().numpy()
        logits = output.pred_masks[0, 0].float().cpu().numpy()
        results = []
        for score, values in zip(scores, logits, strict=True):
            shown = [max(1, round(side * share)) for side, share in zip(values.shape, self.shares, strict=True)]
            values = np.ascontiguousarray(values[: shown[0], : shown[1]])
            full = cv2.resize(values, self.size[::-1], interpolation=cv2.INTER_LINEAR)
            results.append(TeacherMask(full > 0, float(np.clip(score, 0, 1)), stability_of(values)))
        return results

    def _mask_prompt(self, mask: np.ndarray) -> np.ndarray:
        """Return float32 (1, 1, size, size) logits of a mask, at the picture's place in the input."""
        import cv2

        size = self.input_size[0] // 4
        if self.shares != (1.0, 1.0):
            return low_resolution_mask_prompt(mask, size)
        covered = cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        return (MASK_PROMPT_LOGIT * (2 * covered - 1))[None, None]
