"""The outputs of the video model: of one tracking step, and of one frame of a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput


__all__ = ["EfficientTamTrackingOutput", "EfficientTamVideoSegmentationOutput"]


# Transformers requires a default for every field of an output. These fields have a value in every output.
_SET_LATER: Any = None


@dataclass
class EfficientTamTrackingOutput(ModelOutput):
    r"""
    The output of one tracking step for B objects.

    pred_masks (`Tensor` of shape `(B, 1, h, w)`): mask logits at a quarter of the model's input size.
    high_res_masks (`Tensor` of shape `(B, 1, height, width)`): the same at the model's input size, float32.
    iou_scores (`Tensor` of shape `(B, 1)`): predicted IoU of that mask.
    object_score_logits (`Tensor` of shape `(B, 1)`): object scores; above 0 if the object is judged present.
    object_pointer (`Tensor` of shape `(B, C)`): object pointers, to which later frames attend.
    multimask_logits (`Tensor` of shape `(B, K, h, w)`): mask logits of all proposals, before the masks of objects that
        are judged absent are blanked. The training loss uses these.
    multimask_iou_scores (`Tensor` of shape `(B, K)`): predicted IoU of the proposals.
    multimask_tokens (`Tensor` of shape `(B, K, C)`): the decoder's output tokens of the proposals, from which object
        pointers are computed; (B, 1, C) if the mask was not chosen among several. See `choose_proposals`.
    memory (`Tensor` of shape `(B, N, c)`, *optional*): the frame's spatial memory, with `encode_memory`.
    """

    pred_masks: Tensor = _SET_LATER
    high_res_masks: Tensor = _SET_LATER
    iou_scores: Tensor = _SET_LATER
    object_score_logits: Tensor = _SET_LATER
    object_pointer: Tensor = _SET_LATER
    multimask_logits: Tensor = _SET_LATER
    multimask_iou_scores: Tensor = _SET_LATER
    multimask_tokens: Tensor | None = None
    memory: Tensor | None = None


@dataclass
class EfficientTamVideoSegmentationOutput(ModelOutput):
    r"""
    The objects of a session on one frame.

    object_ids (`list[int]`): the objects, in the order of the tensors' rows.
    pred_masks (`Tensor` of shape `(num_objects, 1, h, w)`): mask logits at a quarter of the model's input size;
        `config.no_object_score` where an object is absent or has no result on this frame.
    object_score_logits (`Tensor` of shape `(num_objects, 1)`): object scores; above 0 if the object is judged present.
    iou_scores (`Tensor` of shape `(num_objects, 1)`): predicted IoU of each mask.
    object_pointer (`Tensor` of shape `(num_objects, C)`): zeros where an object has no result on this frame.
    frame_idx (`int`): the frame.
    """

    object_ids: list[int] = _SET_LATER
    pred_masks: Tensor = _SET_LATER
    object_score_logits: Tensor = _SET_LATER
    iou_scores: Tensor = _SET_LATER
    object_pointer: Tensor = _SET_LATER
    frame_idx: int = _SET_LATER
