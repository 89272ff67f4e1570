"""Loads exported graphs and calls them by name, with the steps of tracking that consist of them. Values are arrays.

`OnnxGraphs` corresponds to `EfficientTamVideoModel` without its session: `segment` and `use_mask` are the two cases of
its tracking step. It needs NumPy and a runtime (`runtimes.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .arrays import resize
from .manifest import Manifest
from .runtimes import load_graph


GRAPH_NAMES = ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder")


@dataclass
class StepOutput:
    """The output of a step for B objects, in float32.

    Attributes:
        pred_masks: (B, 1, h, w), mask logits at a quarter of the input size.
        iou_scores: (B, 1), predicted IoU.
        object_score_logits: (B, 1), object scores.
        object_pointer: (B, C), object pointers.
        proposals, proposal_iou_scores, proposal_pointers: (B, K, h, w), (B, K) and (B, K, C), the mask decoder's
            proposals, of which one was chosen. Older exported folders have no pointers of proposals.
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
    """A batch of memories, as `memory.MemoryBank`.

    Attributes:
        spatial: float32 (B, M, N, c), spatial memories.
        temporal_index: int64 (B, M), their temporal encodings.
        object_pointers: float32 (B, K, C), object pointers.
    """

    spatial: np.ndarray
    temporal_index: np.ndarray
    object_pointers: np.ndarray


class OnnxGraphs:
    """The graphs of an exported folder.

    Args:
        folder: a folder that `efficienttam export` made.
        names: the names of the graphs to load.
        providers: the providers of ONNX Runtime; the default is the CPU's.
        num_threads: the number of threads of each operator; None is the runtime's default.
        runtime: `"onnxruntime"` or `"openvino"`.

    Raises:
        FileNotFoundError: if a file is missing.
        ExportError: if the manifest is damaged, or a graph is not the one that the manifest describes.
        ValueError: if there is no such runtime.
        ImportError: if the runtime is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        names: tuple[str, ...] = GRAPH_NAMES,
        providers: list[str] | None = None,
        num_threads: int | None = None,
        runtime: str = "onnxruntime",
    ):
        self.manifest = Manifest.read(folder)
        self.rules = self.manifest.rules
        files = {name: self.manifest.graph_file(folder, name) for name in names}
        self._graphs = {name: load_graph(runtime, path, providers, num_threads) for name, path in files.items()}

    def run(self, graph: str, **inputs: np.ndarray) -> list[np.ndarray]:
        """Run a graph and return its outputs in the manifest's order."""
        return self._graphs[graph](inputs)

    def encode_image(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map pixels, float32 (3, height, width), to `features` and `image_embeddings`, (1, C, H, W) each."""
        features, embeddings = self.run("image_encoder", pixel_values=pixels[None])
        return features, embeddings

    def condition_on_memory(self, features: np.ndarray, bank: OnnxBank) -> np.ndarray:
        """Run memory attention on features (1, C, H, W) and return (B, C, H, W)."""
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
        """Run the mask decoder.

        Args:
            features: (1 or B, C, H, W).
            points: (B, K, 2), (x, y) in pixels of the model's input; None for no points.
            labels: (B, K), the labels of the points.
            previous_masks: (B, 1, h, w), mask logits to refine; None for no masks.
            multimask_output: whether the best of three proposals is chosen instead of a single mask.

        Returns:
            The output for B objects.
        """
        given = [x.shape[0] for x in (features, points, previous_masks) if x is not None]
        batch = max(given)
        if points is None or labels is None:  # a single padding point stands for no points
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
        """Use mask prompts as the result. The mask decoder only computes their object pointers.

        Args:
            features: (1 or B, C, H, W).
            masks: float32 (B, 1, height, width) of 0 and 1, at the size of the model's input.

        Returns:
            The output for B objects, without proposals.
        """
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
        """Compute the spatial memories of a frame.

        Args:
            features: (1, C, H, W).
            pred_masks: (B, 1, h, w), mask logits.
            from_prompts: whether the masks are results of prompts.

        Returns:
            (B, N, c).
        """
        flags = np.full(len(pred_masks), from_prompts)
        (memory,) = self.run("memory_encoder", features=features, pred_masks=pred_masks, mask_from_prompts=flags)
        return memory
