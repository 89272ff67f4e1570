"""`TorchBackend`: runs the torch model for `SessionWalk` (`session_walk.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .memory import FrameMemory, MemoryBank
from .memory_selection import FrameObservation
from .object_memory import MemorySelection
from .prompts import FramePrompts
from .tracking_rules import TrackingRules
from .video_outputs import EfficientTamTrackingOutput, EfficientTamVideoSegmentationOutput
from .video_session import EfficientTamVideoInferenceSession


if TYPE_CHECKING:
    from .modeling_efficienttam_video import EfficientTamVideoModel


class _Conditioned(NamedTuple):
    """A frame's features, and the features after memory attention for each object of a batch."""

    features: Tensor
    bank: MemoryBank | None = None
    conditioned: Tensor | None = None


class TorchBackend:
    """The torch model as a `session_walk.WalkBackend`, which describes the methods."""

    def __init__(self, model: EfficientTamVideoModel):
        self.model = model

    @property
    def rules(self) -> TrackingRules:
        return TrackingRules.from_config(self.model.config)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        return self.model.encode_frame(pixels)

    @torch.no_grad()
    def condition(self, features: Tensor, selections: Sequence[MemorySelection] | None) -> _Conditioned:
        if selections is None:
            return _Conditioned(features)
        banks = [MemoryBank.from_selection(s, features.device, features.dtype) for s in selections]
        bank = MemoryBank.concatenate(banks)
        return _Conditioned(features, bank, self.model.condition_on_memory(features, bank))

    @torch.no_grad()
    def segment(
        self,
        conditioned: _Conditioned,
        prompts: Sequence[FramePrompts] | None,
        previous: Sequence[FrameMemory] | None,
        batch_size: int,
        multimask_output: bool,
    ) -> EfficientTamTrackingOutput:
        features, bank, conditioned_features = conditioned

        def batch(name: str) -> Tensor | None:
            if prompts is None or getattr(prompts[0], name) is None:
                return None
            return torch.cat([torch.as_tensor(getattr(p, name)) for p in prompts]).to(features.device)

        previous_masks = None
        if previous is not None:
            clamp = self.rules.previous_mask_clamp
            previous_masks = torch.cat([e.pred_masks.to(features.device, features.dtype) for e in previous])
            previous_masks = previous_masks.clamp(-clamp, clamp)
        return self.model.track_step(
            features,
            bank,
            batch("points"),
            batch("labels"),
            input_masks=batch("mask"),
            previous_masks=previous_masks,
            multimask_output=multimask_output,
            mask_from_prompts=prompts is not None,
            encode_memory=False,  # `remember` does it after all objects of the frame are segmented
            conditioned_features=conditioned_features,
        )

    def observe(self, result: EfficientTamTrackingOutput, with_masks: bool) -> list[FrameObservation]:
        is_choice = result.multimask_iou_scores is not None
        iou_scores = (result.multimask_iou_scores if is_choice else result.iou_scores).float().cpu().numpy()
        masks = result.multimask_logits if is_choice else result.pred_masks
        proposals = (masks > 0).cpu().numpy() if with_masks else [None] * len(iou_scores)
        scores = result.object_score_logits[:, 0].tolist()
        areas = (masks > 0).flatten(2).sum(dim=2).cpu().numpy()
        return [
            FrameObservation(scores[row], iou_scores[row], int(iou_scores[row].argmax()), areas[row], proposals[row])
            for row in range(len(scores))
        ]

    @torch.no_grad()
    def choose(self, result: EfficientTamTrackingOutput, proposals: Sequence[int]) -> EfficientTamTrackingOutput:
        return self.model.choose_proposals(result, torch.tensor(proposals, device=result.pred_masks.device))

    def take(self, result: EfficientTamTrackingOutput, rows: Sequence[int]) -> EfficientTamTrackingOutput:
        return EfficientTamTrackingOutput(**{name: value[list(rows)] for name, value in result.items()})

    @torch.no_grad()
    def remember(
        self, features: Tensor, result: EfficientTamTrackingOutput, from_prompts: bool, masks: Tensor | None = None
    ) -> Tensor:
        return self._remember_masks(features, result.high_res_masks if masks is None else masks, from_prompts)

    def _remember_masks(self, features: Tensor, masks: Tensor, from_prompts: bool) -> Tensor:
        memory = self.model.encode_memory(features, masks, from_prompts)
        return memory.to(getattr(torch, self.model.config.memory_dtype))

    def mask_logits(self, entries: Sequence[FrameMemory]) -> np.ndarray:
        return torch.cat([entry.pred_masks[:, 0].float().cpu() for entry in entries]).numpy()

    def replace_mask(self, entry: FrameMemory, logits: np.ndarray) -> None:
        entry.pred_masks = torch.from_numpy(logits)[None, None].to(entry.pred_masks)

    @torch.no_grad()
    def remember_mask(self, features: Tensor, entry: FrameMemory) -> Tensor:
        masks = self.model._upsample(entry.pred_masks.to(self.model.device))
        return self._remember_masks(features, masks, from_prompts=False).to(entry.pred_masks.device)

    @torch.no_grad()
    def without_overlap(self, entries: Sequence[FrameMemory]) -> list[Tensor]:
        masks = torch.cat([e.pred_masks.to(self.model.device) for e in entries])
        return list(keep_highest(self.model._upsample(masks)).split(1))

    def entries(
        self,
        session: EfficientTamVideoInferenceSession,
        result: EfficientTamTrackingOutput,
        memories: Tensor | None,
    ) -> list[FrameMemory]:
        # The rows are copied, because a view of one row would keep the tensor of the whole batch in memory.
        device = session.inference_state_device
        rows = [slice(row, row + 1) for row in range(len(result.pred_masks))]
        return [
            FrameMemory(
                pred_masks=result.pred_masks[row].to(device, copy=True),
                object_score_logits=result.object_score_logits[row].clone(),
                iou_scores=result.iou_scores[row].clone(),
                object_pointer=result.object_pointer[row].clone(),
                spatial=None if memories is None else memories[row].to(device, copy=True),
            )
            for row in rows
        ]

    def output(
        self, session: EfficientTamVideoInferenceSession, frame_idx: int, entries: Sequence[FrameMemory | None]
    ) -> EfficientTamVideoSegmentationOutput:
        model, device = self.model, self.model.device
        pointer, score = model.no_object_pointer, float(model.config.no_object_score)
        absent = FrameMemory(
            pred_masks=torch.full((1, 1, *model.prompt_encoder.mask_input_size), score, device=device),
            object_score_logits=torch.full((1, 1), score, device=device),
            iou_scores=torch.zeros(1, 1, device=device),
            object_pointer=torch.zeros_like(pointer),
        )

        def rows(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
            values = [getattr(entry or absent, name).to(device, dtype) for entry in entries]
            return torch.cat(values) if values else getattr(absent, name)[:0].to(dtype)

        return EfficientTamVideoSegmentationOutput(
            object_ids=session.obj_ids,
            pred_masks=rows("pred_masks"),
            object_score_logits=rows("object_score_logits"),
            iou_scores=rows("iou_scores"),
            object_pointer=rows("object_pointer", pointer.dtype),
            frame_idx=frame_idx,
        )


def keep_highest(masks: Tensor) -> Tensor:
    """Clamp (B, 1, height, width) logits of objects on a frame to at most -10 where another object's are higher."""
    highest = masks.argmax(dim=0, keepdim=True)
    rows = torch.arange(len(masks), device=masks.device).view(-1, 1, 1, 1)
    return torch.where(highest == rows, masks, masks.clamp(max=-10.0))
