"""`OnnxBackend`: runs the exported graphs for `SessionWalk` (`session_walk.py`) with NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ..memory_selection import FrameObservation
from ..object_memory import MemorySelection
from ..prompts import FramePrompts
from ..tracking_rules import TrackingRules
from ..tracking_session import TrackingSession
from .arrays import pack, unpack
from .onnx_graphs import OnnxBank, OnnxGraphs, StepOutput


# The fields of a memory that are a row of a batch output.
ROWS = ("pred_masks", "object_score_logits", "iou_scores", "object_pointer")


@dataclass
class OnnxFrameMemory:
    """The memory of one object on one frame, as `memory.FrameMemory`, in arrays; `spatial` is the output of `pack`."""

    pred_masks: np.ndarray
    object_score_logits: np.ndarray
    iou_scores: np.ndarray
    object_pointer: np.ndarray
    spatial: np.ndarray | None = None

    def offloaded(self) -> OnnxFrameMemory:
        """Return a copy with masks in float16."""
        return replace(self, pred_masks=self.pred_masks.astype(np.float16))


@dataclass
class OnnxVideoSegmentationOutput:
    """The objects of a session on one frame, as `EfficientTamVideoSegmentationOutput`, in float32 arrays."""

    object_ids: list[int]
    pred_masks: np.ndarray
    object_score_logits: np.ndarray
    iou_scores: np.ndarray
    object_pointer: np.ndarray
    frame_idx: int


class OnnxInferenceSession(TrackingSession):
    """The state of tracking in one video or stream. `OnnxVideoTracker.init_video_session` makes it."""

    def get_frame(self, frame_idx: int) -> np.ndarray:
        """Return a frame's pixels, float32 (3, height, width); see `TrackingSession`."""
        return super().get_frame(frame_idx).astype(np.float32, copy=False)

    def _compact(self, pixels: np.ndarray) -> np.ndarray:
        """Store pixels in float16."""
        return pixels.astype(np.float16)


@dataclass
class _Conditioned:
    """Features (1 or B, C, H, W) for the mask decoder, and those of the frame itself, for the pointer of a mask."""

    features: np.ndarray
    unconditioned: np.ndarray


class OnnxBackend:
    """Runs exported graphs as a `session_walk.WalkBackend`, which describes the methods.

    Args:
        graphs: the loaded graphs.
    """

    def __init__(self, graphs: OnnxGraphs):
        self.graphs = graphs

    @property
    def rules(self) -> TrackingRules:
        """The rules of the exported model."""
        return self.graphs.rules

    def encode(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `features` and `image_embeddings`, (1, C, H, W) each; the latter are for segmenting without memory."""
        return self.graphs.encode_image(pixels)

    def condition(
        self, features: tuple[np.ndarray, np.ndarray], selections: Sequence[MemorySelection] | None
    ) -> _Conditioned:
        unconditioned, image_embeddings = features
        if selections is None:
            return _Conditioned(image_embeddings, unconditioned)
        dtype, width = self.graphs.rules.memory_dtype, len(self.graphs.rules.no_object_pointer)
        pointers = np.array([[e.object_pointer[0] for e in s.pointers] for s in selections], np.float32)
        spatial = np.stack([[unpack(entry.spatial, dtype) for entry, _ in s.spatial] for s in selections])
        if any(s.weights is not None for s in selections):
            weights = [s.weights or [1.0] * len(s.spatial) for s in selections]
            spatial = spatial * np.array(weights, np.float32)[..., None, None]
        bank = OnnxBank(
            spatial,
            np.array([[index for _, index in s.spatial] for s in selections], np.int64),
            pointers.reshape(len(selections), -1, width),
        )
        return _Conditioned(self.graphs.condition_on_memory(unconditioned, bank), unconditioned)

    def segment(
        self,
        conditioned: _Conditioned,
        prompts: Sequence[FramePrompts] | None,
        previous: Sequence[OnnxFrameMemory] | None,
        batch_size: int,
        multimask_output: bool,
    ) -> StepOutput:
        def batch(name: str) -> np.ndarray | None:
            if prompts is None or getattr(prompts[0], name) is None:
                return None
            return np.concatenate([getattr(p, name) for p in prompts])

        masks = batch("mask")
        if masks is not None:
            return self.graphs.use_mask(conditioned.unconditioned, masks)
        previous_masks = None
        if previous is not None:
            clamp = self.rules.previous_mask_clamp
            previous_masks = np.concatenate([entry.pred_masks for entry in previous]).clip(-clamp, clamp)
        points, labels = batch("points"), batch("labels")
        return self.graphs.segment(conditioned.features, points, labels, previous_masks, multimask_output)

    def observe(self, result: StepOutput, with_masks: bool) -> list[FrameObservation]:
        if result.proposals is None or result.proposal_iou_scores is None:  # a mask prompt has no proposals
            iou_scores, masks = result.iou_scores, result.pred_masks
        else:
            iou_scores, masks = result.proposal_iou_scores, result.proposals
        proposals = masks > 0
        areas = proposals.sum(axis=(2, 3))
        return [
            FrameObservation(
                float(result.object_score_logits[row, 0]),
                iou_scores[row],
                int(iou_scores[row].argmax()),
                areas[row],
                proposals[row] if with_masks else None,
            )
            for row in range(len(iou_scores))
        ]

    def take(self, result: StepOutput, rows: Sequence[int]) -> StepOutput:
        values = {f.name: getattr(result, f.name) for f in fields(result)}
        taken: dict[str, Any] = {n: None if value is None else value[list(rows)] for n, value in values.items()}
        return StepOutput(**taken)

    def choose(self, result: StepOutput, proposals: Sequence[int]) -> StepOutput:
        if result.proposal_pointers is None:
            raise ValueError(
                "This memory selection takes other proposals than the decoder's best, and the exported mask decoder "
                "has no object pointers for them: export the model again, or choose another memory selection."
            )
        assert result.proposals is not None and result.proposal_iou_scores is not None  # as it has their pointers
        rows, rules = np.arange(len(proposals)), self.graphs.rules
        appears = result.object_score_logits > 0
        masks = result.proposals[rows, proposals][:, None]
        return replace(
            result,
            pred_masks=np.where(appears[..., None, None], masks, np.float32(rules.no_object_score)),
            iou_scores=result.proposal_iou_scores[rows, proposals][:, None],
            object_pointer=result.proposal_pointers[rows, proposals],
        )

    def remember(
        self,
        features: tuple[np.ndarray, np.ndarray],
        result: StepOutput | OnnxFrameMemory,
        from_prompts: bool,
        masks: np.ndarray | None = None,
    ) -> np.ndarray:
        memories = self.graphs.encode_memory(features[0], result.pred_masks if masks is None else masks, from_prompts)
        return pack(memories, self.graphs.rules.memory_dtype)

    def mask_logits(self, entries: Sequence[OnnxFrameMemory]) -> np.ndarray:
        return np.concatenate([entry.pred_masks[:, 0].astype(np.float32) for entry in entries])

    def replace_mask(self, entry: OnnxFrameMemory, logits: np.ndarray) -> None:
        entry.pred_masks = logits[None, None].astype(entry.pred_masks.dtype)

    def remember_mask(self, features: tuple[np.ndarray, np.ndarray], entry: OnnxFrameMemory) -> np.ndarray:
        return self.remember(features, entry, False)[0]

    def without_overlap(self, entries: Sequence[OnnxFrameMemory]) -> list[np.ndarray]:
        raise NotImplementedError(
            "The exported memory encoder takes the masks of each object as they are: models with "
            "non_overlap_masks_for_mem_enc are not exported."
        )

    def entries(
        self, session: OnnxInferenceSession, result: StepOutput, memories: np.ndarray | None
    ) -> list[OnnxFrameMemory]:
        # Rows are copied, so that no batch stays in RAM because of one of its rows.
        return [
            OnnxFrameMemory(
                **{name: getattr(result, name)[row : row + 1].copy() for name in ROWS},
                spatial=None if memories is None else memories[row].copy(),
            )
            for row in range(len(result.pred_masks))
        ]

    def output(
        self, session: OnnxInferenceSession, frame_idx: int, entries: Sequence[OnnxFrameMemory | None]
    ) -> OnnxVideoSegmentationOutput:
        rules = self.graphs.rules
        absent = OnnxFrameMemory(
            pred_masks=np.full((1, 1, *rules.mask_size), rules.no_object_score, np.float32),
            object_score_logits=np.full((1, 1), rules.no_object_score, np.float32),
            iou_scores=np.zeros((1, 1), np.float32),
            object_pointer=np.zeros((1, len(rules.no_object_pointer)), np.float32),
        )

        def rows(name: str) -> np.ndarray:
            values = [getattr(entry or absent, name) for entry in entries]
            return np.concatenate(values or [getattr(absent, name)[:0]]).astype(np.float32)

        values = {name: rows(name) for name in ROWS}
        return OnnxVideoSegmentationOutput(object_ids=session.obj_ids, frame_idx=frame_idx, **values)
