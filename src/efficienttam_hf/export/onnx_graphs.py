"""Exported graphs, loaded and called by name, and the steps of tracking that are made of them: arrays in, arrays out.

`OnnxGraphs` is for NumPy what `EfficientTamVideoModel` is without its session: `segment` and `use_mask` are the two
ways of its tracking step. It needs onnxruntime and NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .arrays import resize
from .manifest import Manifest


GRAPH_NAMES = ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder")


@dataclass
class StepOutput:
    """What a step gives for B objects, float32.

    Attributes:
        pred_masks: (B, 1, h, w) logits at a quarter of the input size.
        iou_scores, object_score_logits: (B, 1).
        object_pointer: (B, C).
        proposals, proposal_iou_scores, proposal_pointers: (B, K, h, w), (B, K) and (B, K, C), what the mask was chosen
            from, by the mask decoder; older exported folders have no pointers.
    """

    pred_masks: np.ndarray
    iou_scores: np.ndarray
    object_score_logits: np.ndarray
    object_pointer: np.ndarray
    proposals: np.ndarray | None = None
    proposal_iou_scores: np.ndarray | None = None
    proposal_pointers: np.ndarray | None = None


@dataclass
class OnnxBank:
    """As `memory.MemoryBank`: spatial (B, M, N, c), temporal_index (B, M) int64, object_pointers (B, K, C)."""

    spatial: np.ndarray
    temporal_index: np.ndarray
    object_pointers: np.ndarray


class OnnxGraphs:
    """The graphs of an exported folder.

    Args:
        folder: that `efficienttam export` made.
        names: the graphs to load.
        providers: of ONNX Runtime; by default the CPU's.
        num_threads: for each operator; by default as many as ONNX Runtime takes.

    Raises:
        FileNotFoundError, ExportError: if the folder is not complete, or a graph is not the manifest's.
        ImportError: without onnxruntime.
    """

    def __init__(
        self,
        folder: str | Path,
        names: tuple[str, ...] = GRAPH_NAMES,
        providers: list[str] | None = None,
        num_threads: int | None = None,
    ):
        self.manifest = Manifest.read(folder)
        self.rules = self.manifest.rules
        files = {name: self.manifest.graph_file(folder, name) for name in names}
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("Running exported graphs needs ONNX Runtime: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or 0
        self._sessions = {
            name: onnxruntime.InferenceSession(path, options, providers=providers or ["CPUExecutionProvider"])
            for name, path in files.items()
        }

    def run(self, graph: str, **inputs: np.ndarray) -> list[np.ndarray]:
        """A graph's outputs, in the manifest's order."""
        return self._sessions[graph].run(None, inputs)

    def encode_image(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(3, height, width) pixels to `features` and `image_embeddings`, (1, C, H, W) each."""
        features, embeddings = self.run("image_encoder", pixel_values=pixels[None])
        return features, embeddings

    def condition_on_memory(self, features: np.ndarray, bank: OnnxBank) -> np.ndarray:
        """(1, C, H, W) features after memory attention: (B, C, H, W)."""
        (conditioned,) = self.run(
            "memory_attention",
            features=features,
            memory=bank.spatial,
            temporal_index=bank.temporal_index,
            object_pointers=bank.object_pointers,
        )
        return conditioned

    def segment(
        self,
        features: np.ndarray,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        previous_masks: np.ndarray | None = None,
        multimask_output: bool = True,
    ) -> StepOutput:
        """The mask decoder on (1 or B, C, H, W) features; (B, K, 2) points and (B, K) labels, in model pixels."""
        given = [x.shape[0] for x in (features, points, previous_masks) if x is not None]
        batch = max(given)
        if points is None or labels is None:  # one that is none
            points, labels = np.zeros((batch, 1, 2)), np.full((batch, 1), -1)
        has_previous_mask = np.full(batch, previous_masks is not None)
        if previous_masks is None:
            previous_masks = np.zeros((batch, 1, *self.rules.mask_size), np.float32)
        outputs = self.run(
            "mask_decoder",
            features=np.ascontiguousarray(np.broadcast_to(features, (batch, *features.shape[1:]))),
            input_points=points.astype(np.float32),
            input_labels=labels.astype(np.int64),
            previous_masks=previous_masks.astype(np.float32),
            has_previous_mask=has_previous_mask,
            multimask_output=np.array([multimask_output]),
        )
        return StepOutput(*outputs)

    def use_mask(self, features: np.ndarray, masks: np.ndarray) -> StepOutput:
        """(B, 1, height, width) mask prompts of 0 and 1 as the result; the decoder gives their pointers only."""
        rules = self.rules
        batch, side = len(masks), 4
        squares = masks.reshape(batch, 1, *(n for s in rules.mask_size for n in (s, side)))
        weight = np.array(rules.mask_downsample_weight, np.float32)
        logits = np.einsum("bcyixj,ij->bcyx", squares, weight) + np.float32(rules.mask_downsample_bias)
        decoded = self.segment(features, previous_masks=logits, multimask_output=False)
        appears = masks.reshape(batch, -1).any(axis=1, keepdims=True)
        return StepOutput(
            pred_masks=resize(
                masks * rules.mask_prompt_scale + rules.mask_prompt_bias, rules.mask_size, antialias=True
            ),
            iou_scores=np.ones((batch, 1), np.float32),
            object_score_logits=np.asarray(appears * rules.mask_prompt_scale + rules.mask_prompt_bias, np.float32),
            object_pointer=np.where(appears, decoded.object_pointer, np.array(rules.no_object_pointer, np.float32)),
        )

    def encode_memory(self, features: np.ndarray, pred_masks: np.ndarray, from_prompts: bool) -> np.ndarray:
        """The spatial memory of a frame, (B, N, c), of (1, C, H, W) features and (B, 1, h, w) logits."""
        flags = np.full(len(pred_masks), from_prompts)
        (memory,) = self.run("memory_encoder", features=features, pred_masks=pred_masks, mask_from_prompts=flags)
        return memory
