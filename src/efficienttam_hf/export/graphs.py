"""The four graphs that an export traces: their inputs, outputs and variable axes.

Each graph is a thin module around methods of `EfficientTamVideoModel` that its tracking step calls too, so there is no
second implementation. Only this file of the export uses internals of the model. Inputs and outputs are float32 in
every precision, so that a host needs no changes; a half-precision network converts its inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..configuration_efficienttam import EfficientTamConfig, size_pair
from ..memory import MemoryBank
from ..modeling_efficienttam_video import EfficientTamVideoModel


@dataclass(frozen=True)
class Counts:
    """The sizes of the variable axes in example inputs."""

    objects: int = 2
    memories: int = 3
    pointers: int = 5
    points: int = 3


class ExportedGraph(nn.Module):
    """A part of the network. Subclasses name their inputs and outputs, in order, with the axes of each.

    Attributes:
        name: the name of the graph and its file.
        inputs, outputs: the shapes by name. An axis is a number, or the name of a field of `Counts`.
        chosen_outputs: the outputs that depend on the choice among proposals. They are not checked, because either of
            two almost equal proposals may be chosen.
        needs_several_memories: whether the computation for a single memory differs and is traced separately.
    """

    name: str
    inputs: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]
    chosen_outputs: tuple[str, ...] = ()
    needs_several_memories = False

    def __init__(self, model: EfficientTamVideoModel):
        super().__init__()
        self.model = model

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the network's weights."""
        return self.model.no_memory_embedding.dtype

    def examples(self, counts: Counts, generator: torch.Generator) -> dict[str, Tensor]:
        """Return inputs with the sizes of `counts` and realistic values."""
        return {name: self.example(name, self.shape(axes, counts), generator) for name, axes in self.inputs.items()}

    @staticmethod
    def shape(axes: tuple[int | str, ...], counts: Counts) -> tuple[int, ...]:
        """Return the shape of an input or output."""
        return tuple(getattr(counts, axis) if isinstance(axis, str) else axis for axis in axes)

    def example(self, name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return one input. It is normally distributed, because features, memories and pixels are normalised."""
        return torch.randn(shape, generator=generator)


class ImageEncoder(ExportedGraph):
    """Computes features from pixels, and the mask decoder's features for a frame without memory."""

    name = "image_encoder"

    def __init__(self, model: EfficientTamVideoModel):
        super().__init__(model)
        height, width = size_pair(model.config.image_size)
        features = _features_shape(model.config)
        self.inputs = {"pixel_values": (1, model.config.vision_config.num_channels, height, width)}
        self.outputs = {"features": (1, *features), "image_embeddings": (1, *features)}
        # The position embeddings are a constant of the graph; otherwise a runtime would resize them for every image.
        self.register_buffer("positions", model.vision_encoder.resized_position_embeddings(), persistent=False)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        options = {} if self.positions is None else {"position_embeddings": self.positions}
        output = self.model.get_image_features(pixel_values.to(self.dtype), return_dict=True, **options)
        features = output.fpn_hidden_states[-1]
        return features.float(), self.model.add_no_memory(features).float()


class MemoryAttention(ExportedGraph):
    """Conditions a frame's features on the memories of each object."""

    name = "memory_attention"

    def __init__(self, model: EfficientTamVideoModel):
        super().__init__(model)
        config = model.config
        channels, height, width = features = _features_shape(config)
        self.inputs = {
            "features": (1, *features),
            "memory": ("objects", "memories", height * width, config.memory_attention_config.memory_size),
            "temporal_index": ("objects", "memories"),
            "object_pointers": ("objects", "pointers", channels),
        }
        self.outputs = {"conditioned_features": ("objects", *features)}
        # A single memory is not pooled.
        self.needs_several_memories = config.memory_attention_config.cross_attention.startswith("pooled")

    def example(self, name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if name == "temporal_index":
            return torch.randint(self.model.config.num_maskmem, shape, generator=generator)
        return super().example(name, shape, generator)

    def forward(self, features: Tensor, memory: Tensor, temporal_index: Tensor, object_pointers: Tensor) -> Tensor:
        features, memory, object_pointers = (x.to(self.dtype) for x in (features, memory, object_pointers))
        bank = MemoryBank(memory, temporal_index, object_pointers)
        return self.model.condition_on_memory(features.expand(memory.shape[0], -1, -1, -1), bank).float()


class MaskDecoder(ExportedGraph):
    """Computes a mask, its scores, the object pointer and all proposals from features and prompts."""

    name = "mask_decoder"
    chosen_outputs = ("pred_masks", "iou_scores", "object_pointer", "proposal_pointers")

    def __init__(self, model: EfficientTamVideoModel):
        super().__init__(model)
        config = model.config
        mask_size = config.prompt_encoder_config.mask_input_size
        features = _features_shape(config)
        proposals = config.mask_decoder_config.num_multimask_outputs
        self.inputs = {
            "features": ("objects", *features),
            "input_points": ("objects", "points", 2),
            "input_labels": ("objects", "points"),
            "previous_masks": ("objects", 1, *mask_size),
            "has_previous_mask": ("objects",),
            "multimask_output": (1,),
        }
        self.outputs = {
            "pred_masks": ("objects", 1, *mask_size),
            "iou_scores": ("objects", 1),
            "object_score_logits": ("objects", 1),
            "object_pointer": ("objects", features[0]),
            "proposals": ("objects", proposals, *mask_size),
            "proposal_iou_scores": ("objects", proposals),
            "proposal_pointers": ("objects", proposals, features[0]),
        }

    def example(self, name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if name == "input_points":
            height, width = size_pair(self.model.config.image_size)
            return torch.rand(shape, generator=generator) * torch.tensor([width, height])
        if name == "input_labels":
            return torch.randint(-1, 4, shape, generator=generator)
        if name == "has_previous_mask":
            return torch.arange(shape[0]) % 2 == 1  # true for some objects only
        if name == "multimask_output":
            return torch.ones(shape, dtype=torch.bool)
        return super().example(name, shape, generator)

    def forward(
        self,
        features: Tensor,
        input_points: Tensor,
        input_labels: Tensor,
        previous_masks: Tensor,
        has_previous_mask: Tensor,
        multimask_output: Tensor,
    ) -> tuple[Tensor, ...]:
        features = features.to(self.dtype)
        # Both calls differ only in the last, cheap steps; the exported graph computes the common part once.
        several, single = (
            self.model._segment(features, input_points, input_labels, previous_masks, multimask, has_previous_mask)
            for multimask in (True, False)
        )
        return tuple(
            torch.where(multimask_output.view(-1, *[1] * (a.ndim - 1)), a, b).float()
            for a, b in (
                (several.pred_masks, single.pred_masks),
                (several.iou_scores, single.iou_scores),
                (several.object_score_logits, single.object_score_logits),
                (several.object_pointer, single.object_pointer),
                (several.multimask_logits, single.multimask_logits),
                (several.multimask_iou_scores, single.multimask_iou_scores),
                (self.model.proposal_pointers(several), self.model.proposal_pointers(single)),
            )
        )


class MemoryEncoder(ExportedGraph):
    """Computes a spatial memory from a frame's features and an object's mask."""

    name = "memory_encoder"

    def __init__(self, model: EfficientTamVideoModel):
        super().__init__(model)
        config = model.config
        channels, height, width = features = _features_shape(config)
        self.inputs = {
            "features": (1, *features),
            "pred_masks": ("objects", 1, *config.prompt_encoder_config.mask_input_size),
            "mask_from_prompts": ("objects",),
        }
        self.outputs = {"memory": ("objects", height * width, config.memory_attention_config.memory_size)}

    def example(self, name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if name == "mask_from_prompts":
            return torch.arange(shape[0]) % 2 == 1
        return super().example(name, shape, generator)

    def forward(self, features: Tensor, pred_masks: Tensor, mask_from_prompts: Tensor) -> Tensor:
        features = features.to(self.dtype).expand(pred_masks.shape[0], -1, -1, -1)
        return self.model.encode_memory(features, self.model._upsample(pred_masks), mask_from_prompts).float()


GRAPHS = (ImageEncoder, MemoryAttention, MaskDecoder, MemoryEncoder)


def traces(graph: ExportedGraph) -> Iterator[tuple[Counts, dict[str, dict[int, Any]]]]:
    """Yield the sizes of the example inputs for tracing, and the variable axes of each input.

    There is one trace, or two if the computation for a single memory differs: first for several, then for one.
    """
    several = Counts()
    names = {axis for axes in graph.inputs.values() for axis in axes if isinstance(axis, str)}
    variable: dict[str, Any] = {name: torch.export.Dim(name, min=1) for name in names}
    if graph.needs_several_memories:
        for counts in (several, replace(several, memories=1)):
            variable["memories"] = torch.export.Dim("memories", min=2) if counts.memories > 1 else None
            yield counts, _dynamic_axes(graph, variable)
    else:
        yield several, _dynamic_axes(graph, variable)


def _dynamic_axes(graph: ExportedGraph, variable: dict[str, Any]) -> dict[str, dict[int, Any]]:
    return {
        name: {i: variable[axis] for i, axis in enumerate(axes) if isinstance(axis, str) and variable[axis] is not None}
        for name, axes in graph.inputs.items()
    }


def host_constants(model: EfficientTamVideoModel) -> dict[str, Any]:
    """Return the learned numbers that a host needs in addition to the graphs.

    `mask_downsample` converts a mask prompt (0 and 1, at the input size) to logits at a quarter of that size: a
    weighted sum over squares of 4 x 4, and a bias. `no_object_pointer` is the pointer of an object whose mask prompt is
    empty.
    """
    convolution = model.mask_downsample
    assert convolution.bias is not None
    return {
        "mask_downsample_weight": convolution.weight[0, 0].float().tolist(),
        "mask_downsample_bias": convolution.bias.item(),
        "no_object_pointer": model.no_object_pointer[0].float().tolist(),
    }


def _features_shape(config: EfficientTamConfig) -> tuple[int, int, int]:
    return (config.vision_config.fpn_hidden_size, *config.vision_config.feature_size)
