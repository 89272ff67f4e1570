"""Validation of configuration fields, pairs of sizes, and the size of the feature map that follows from them.

A foreign `config.json` can contain any value: a thousand million layers would exhaust the machine, and an unknown
activation would cause a `KeyError` deep inside the network. The checks of this file report both before a network is
created.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from .memory_selection import make_strategy
from .object_competition import check_competition


# The smallest and the largest value of each field, by its name in any part. A field that sizes the network may be ten
# times as large as in any model of this family, which is far below a size that would exhaust a machine.
LIMITS: dict[str, tuple[float, float]] = {
    "attention_downsample_rate": (1, 64),
    "attention_dropout": (0, 1),
    "drop_path_rate": (0, 1),
    "dropout": (0, 1),
    "dynamic_multimask_stability_delta": (0, 10**4),
    "dynamic_multimask_stability_thresh": (0, 2),
    "feed_forward_hidden_size": (1, 2**17),
    "fpn_hidden_size": (1, 2**13),
    "fuser_intermediate_size": (1, 2**17),
    "fuser_kernel_size": (1, 63),
    "fuser_num_layers": (0, 256),
    "fuser_padding": (0, 31),
    "hidden_dropout": (0, 1),
    "hidden_size": (1, 2**13),
    "image_size": (1, 2**14),
    "initializer_range": (1e-12, 100),
    "iou_head_depth": (1, 64),
    "iou_head_hidden_dim": (1, 2**13),
    "layer_norm_eps": (0, 1),
    "mask_downsampler_kernel_size": (1, 63),
    "mask_downsampler_padding": (0, 31),
    "mask_downsampler_stride": (1, 64),
    "mask_downsampler_total_stride": (1, 64),
    "mask_input_channels": (4, 2**13),
    "max_cond_frame_num": (-1, 10**6),
    "max_object_pointers_in_encoder": (0, 2**12),
    "memory_size": (1, 2**13),
    "memory_temporal_stride_for_eval": (1, 10**6),
    "mlp_dim": (1, 2**17),
    "mlp_ratio": (0, 64),
    "num_attention_heads": (1, 256),
    "num_channels": (1, 256),
    "num_hidden_layers": (1, 256),
    "num_maskmem": (1, 2**10),
    "num_multimask_outputs": (1, 64),
    "num_point_embeddings": (4, 64),
    "output_channels": (1, 2**13),
    "patch_size": (1, 256),
    "pool_size": (1, 256),
    "position_temperature": (1, 10**9),
    "pretrained_image_size": (1, 2**14),
    "previous_mask_clamp": (0, 10**6),
    "rope_theta": (1, 10**9),
    "upscale_layer_norm_eps": (0, 1),
    "window_size": (0, 2**10),
}
OTHER_NUMBERS = (-(10**6), 10**6)
MOST_WEIGHTS = 4 * 10**9  # largest number of weights of one part
DTYPES = ("float32", "float16", "bfloat16", "float64")


def check_fields(config: PreTrainedConfig) -> None:
    """Check that each field of a configuration has the type of its default and a value that a network can have.

    Raises:
        ValueError: if a field is wrong; the message has the field, its value and the accepted values.
    """
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), field.default
        if field.name == "image_size":
            _check_image_size(config, value)
        elif field.name == "dtype":
            name = value if isinstance(value, str) else str(value).removeprefix("torch.")
            _check(value is None or name in DTYPES, config, "dtype", DTYPES)
        elif field.name == "memory_dtype":
            _check(isinstance(value, str) and value in DTYPES, config, field.name, DTYPES)
        elif field.name.endswith("_act"):
            _check_activation(config, field.name, value)
        elif field.name == "memory_selection_options":
            _check(value is None or isinstance(value, Mapping), config, field.name, "a mapping of names to numbers")
        elif field.name == "architectures":
            is_list = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
            _check(value is None or is_list, config, field.name, "a list of names")
        elif field.name == "global_attention_indexes":
            is_list = isinstance(value, list | tuple) and all(type(index) is int for index in value)
            _check(is_list, config, field.name, "a list of whole numbers")
        elif isinstance(default, bool):
            _check(isinstance(value, bool) or value is None, config, field.name, "true or false")
        elif isinstance(default, int | float):
            _check_number(config, field.name, value, whole=isinstance(default, int) and field.name != "scale")
        elif isinstance(default, str):
            _check(isinstance(value, str), config, field.name, "text")
    _check_weights(config)


def check_divides(config: PreTrainedConfig, divisor: str, number: str, why: str) -> None:
    """Check that one field of a configuration divides another.

    Raises:
        ValueError: if it does not; the message names both fields.
    """
    given, whole = getattr(config, divisor), getattr(config, number)
    if whole % given:
        raise ValueError(f"{_place(config, divisor)} ({given}) must divide {number} ({whole}): {why}.")


def check_parts_fit(config: Any) -> None:
    """Check that the parts of an `EfficientTamConfig` fit one another, and that its rules of tracking exist.

    Raises:
        ValueError: if they do not; the message names the fields that disagree.
    """
    make_strategy(config.memory_selection, config.memory_selection_options)
    check_competition(config.object_competition)
    vision, prompt = config.vision_config, config.prompt_encoder_config
    if (size_pair(vision.image_size), vision.patch_size) != (size_pair(prompt.image_size), prompt.patch_size):
        raise ValueError(
            f"vision_config and prompt_encoder_config disagree: image_size {vision.image_size} and "
            f"{prompt.image_size}, patch_size {vision.patch_size} and {prompt.patch_size}. Give `image_size` to "
            "EfficientTamConfig to set both."
        )
    widths = {
        "vision_config.fpn_hidden_size": vision.fpn_hidden_size,
        "prompt_encoder_config.hidden_size": prompt.hidden_size,
        "mask_decoder_config.hidden_size": config.mask_decoder_config.hidden_size,
        "memory_attention_config.hidden_size": config.memory_attention_config.hidden_size,
        "memory_encoder_config.hidden_size": config.memory_encoder_config.hidden_size,
    }
    if len(set(widths.values())) > 1:
        raise ValueError(f"These widths must be equal: {widths}.")
    attention, encoder = config.memory_attention_config, config.memory_encoder_config
    if attention.memory_size != encoder.output_channels:
        raise ValueError(
            f"memory_attention_config.memory_size ({attention.memory_size}) must equal "
            f"memory_encoder_config.output_channels ({encoder.output_channels})."
        )
    if encoder.mask_downsampler_total_stride != vision.patch_size:
        raise ValueError(
            f"memory_encoder_config.mask_downsampler_total_stride ({encoder.mask_downsampler_total_stride}) must "
            f"equal vision_config.patch_size ({vision.patch_size})."
        )
    if attention.cross_attention == "windowed" and any(s % attention.window_size for s in vision.feature_size):
        raise ValueError(
            f"memory_attention_config.window_size ({attention.window_size}) must divide the feature map "
            f"{vision.feature_size}."
        )


def _check_image_size(config: PreTrainedConfig, value: Any) -> None:
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else (value,)
    least, most = LIMITS["image_size"]
    is_whole = all(type(side) is int and least <= side <= most for side in sides)
    accepted = f"a number from {least} to {most}, or a pair of them (height, width)"
    _check(value is None or is_whole, config, "image_size", accepted)


def _check_activation(config: PreTrainedConfig, name: str, value: Any) -> None:
    from transformers.activations import ACT2FN

    known = [key for key in ACT2FN if not key.endswith("_10")]
    _check(isinstance(value, str) and value in ACT2FN, config, name, known)


def _check_number(config: PreTrainedConfig, name: str, value: Any, whole: bool) -> None:
    least, most = LIMITS.get(name, OTHER_NUMBERS)
    kinds = int if whole else int | float
    is_number = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    kind = "a whole number" if whole else "a number"
    _check(is_number and least <= value <= most, config, name, f"{kind} from {least} to {most}")


def _check_weights(config: PreTrainedConfig) -> None:
    layers, width = getattr(config, "num_hidden_layers", 0), getattr(config, "hidden_size", 0)
    mlp = getattr(config, "feed_forward_hidden_size", int(getattr(config, "mlp_ratio", 0) * width))
    weights = layers * (4 * width**2 + 2 * width * mlp)
    if weights > MOST_WEIGHTS:
        raise ValueError(
            f"{_place(config, 'num_hidden_layers')} ({layers}) of {_place(config, 'hidden_size')} ({width}) make about "
            f"{weights / 1e9:.0f} thousand million weights; accepted are at most {MOST_WEIGHTS / 1e9:.0f}. Reduce one "
            "of the two."
        )


def _check(holds: bool, config: PreTrainedConfig, name: str, accepted: str | list[str] | tuple[str, ...]) -> None:
    if not holds:
        text = accepted if isinstance(accepted, str) else "one of " + ", ".join(accepted)
        try:
            given = repr(getattr(config, name))
        except (RecursionError, ValueError):  # nested too deeply, or a whole number of more than 4300 digits
            given = f"a {type(getattr(config, name)).__name__}"
        given = given if len(given) <= 60 else f"{given[:57]}..."
        raise ValueError(f"{_place(config, name)} is {given}; accepted is {text}.")


def _place(config: PreTrainedConfig, name: str) -> str:
    return f"{config.base_config_key or 'config'}.{name}"


def size_pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """`(height, width)` of a size given as one number or as a pair."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


class FeatureMapSizes:
    """Mixin of configurations with an `image_size` and a `patch_size`, the stride of the feature map."""

    image_size: int | list[int] | tuple[int, int]
    patch_size: int

    def check(self) -> None:
        """Raise ValueError if a size is far too large, or does not give a whole number of patches."""
        assert isinstance(self, PreTrainedConfig)
        check_fields(self)
        for side in size_pair(self.image_size):
            if side <= 0 or side % self.patch_size:
                raise ValueError(
                    f"image_size {self.image_size} does not give a whole feature map: each side must be a positive "
                    f"multiple of patch_size ({self.patch_size})."
                )

    @property
    def feature_size(self) -> tuple[int, int]:
        """`(height, width)` of the feature map, in patches."""
        height, width = size_pair(self.image_size)
        return height // self.patch_size, width // self.patch_size

    @property
    def backbone_feature_sizes(self) -> list[list[int]]:
        """Feature map sizes from high to low resolution, as `Sam2VisionConfig` names them; here there is one."""
        return [list(self.feature_size)]

    @property
    def num_feature_levels(self) -> int:
        """Number of feature maps the neck returns: one, at stride `patch_size`."""
        return 1
