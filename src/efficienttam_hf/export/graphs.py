"""The four graphs that an export traces: their inputs, outputs and variable axes.

Each piece is a thin module around methods of `EfficientTamVideoModel` that its tracking step calls too, so there is no
second implementation. This is the one file of the export that knows the model's insides. Inputs and outputs are
float32 in every precision, so that a host is the same for all; a half-precision network converts at its borders.
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
    """How many of each there are in example inputs: the axes that may vary."""

    objects: int = 2
    memories: int = 3
    pointers: int = 5
    points: int = 3


class ExportedGraph(nn.Module):
    """A piece of the network. Subclasses name their inputs and outputs, in order, with the axes of each.

    Attributes:
        name: of the graph and its file.
        inputs, outputs: shape by name. An axis is a number, or the name of a field of `Counts`.
        chosen_outputs: those that follow from the choice among proposals, which a check leaves out: where two are about
            equally good, either may be chosen.
        needs_several_memories: whether another computation holds for a single memory, to be traced by itself.
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
        """Of the network's weights."""
        return self.model.no_memory_embedding.dtype

    def examples(self, counts: Counts, generator: torch.Generator) -> dict[str, Tensor]:
        """Inputs with so many objects and so on, of about the values that occur."""
        return {name: self.example(name, self.shape(axes, counts), generator) for name, axes in self.inputs.items()}

    @staticmethod
    def shape(axes: tuple[int | str, ...], counts: Counts) -> tuple[int, ...]:
        """The numbers of an input's or output's axes."""
        return tuple(getattr(counts, axis) if isinstance(axis, str) else axis for axis in axes)

    def example(self, name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """One input. Features, memories and pixels are normalised, so that a normal distribution stands for them."""
        return torch.randn(shape, generator=generator)


class ImageEncoder(ExportedGraph):
    """Pixels to features, and to the features as the mask decoder wants them where there is no memory."""

    name = "image_encoder"

    def __init__(self, model: EfficientTamVideoModel):
        super().__init__(model)
        height, width = size_pair(model.config.image_size)
        features = _features_shape(model.config)
        self.inputs = {"pixel_values": (1, model.config.vision_config.num_channels, height, width)}
        self.outputs = {"features": (1, *features), "image_embeddings": (1, *features)}
        # A constant of the graph: a runtime would resize them for every image.
        self.register_buffer("positions", model.vision_encoder.resized_position_embeddings(), persistent=False)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        options = {} if self.positions is None else {"position_embeddings": self.positions}
        output = self.model.get_image_features(pixel_values.to(self.dtype), return_dict=True, **options)
        features = output.fpn_hidden_states[-1]
        return features.float(), self.model.add_no_memory(features).float()


class MemoryAttention(ExportedGraph):
    """A frame's features, conditioned on what each object remembers."""

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
    """Features and prompts to a mask, its scores and the object's pointer, and to all proposals."""

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
            return torch.arange(shape[0]) % 2 == 1  # of some objects, not of others
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
        # Both differ in the last, cheap steps only; what is common is made one in the exported graph.
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
    """A frame's features and an object's mask to the frame's memory."""

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
    """What a graph is to be traced with: counts of the example inputs, and the axes that may vary for each input.

    There is one trace, or two where a single memory is treated otherwise: first for several, then for one.
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
    """Learned numbers that a host needs beside the graphs.

    `mask_downsample` brings a mask prompt (0 and 1, at the input size) to logits at a quarter of it: a weighted sum
    over squares of 4 x 4, and a bias. `no_object_pointer` is the pointer of an object that its mask prompt does not
    show.
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
