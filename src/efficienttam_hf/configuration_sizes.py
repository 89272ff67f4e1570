"""Sizes in configurations: pairs of them, the feature map's that follow, and what is refused before a network is made.

A `config.json` from elsewhere may say anything; a thousand million layers are named as an error here, where they would
otherwise exhaust the machine.
"""

from __future__ import annotations

from transformers import PreTrainedConfig


# The least and the largest of what sizes the network, by the name of the field, wherever it stands. Ten times what any
# model of this family has, and far from what exhausts a machine before its first error.
SIZE_LIMITS: dict[str, tuple[int, int]] = {
    "attention_downsample_rate": (1, 64),
    "feed_forward_hidden_size": (1, 2**17),
    "fpn_hidden_size": (1, 2**13),
    "fuser_intermediate_size": (1, 2**17),
    "fuser_kernel_size": (1, 63),
    "fuser_num_layers": (0, 256),
    "hidden_size": (1, 2**13),
    "image_size": (1, 2**14),
    "iou_head_depth": (1, 64),
    "iou_head_hidden_dim": (1, 2**13),
    "mask_downsampler_kernel_size": (1, 63),
    "mask_downsampler_total_stride": (1, 64),
    "mask_input_channels": (4, 2**13),
    "max_object_pointers_in_encoder": (0, 2**12),
    "memory_size": (1, 2**13),
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
    "pretrained_image_size": (1, 2**14),
    "window_size": (0, 2**10),
}
MOST_WEIGHTS = 4 * 10**9  # of one part


def check_sizes(config: PreTrainedConfig) -> None:
    """See that the sizes in a configuration are such that a network can be made of them.

    Raises:
        ValueError: naming the field, its value and what is accepted.
    """
    part = config.base_config_key or "config"
    for name, (least, most) in SIZE_LIMITS.items():
        given = getattr(config, name, least)
        for value in given if isinstance(given, list | tuple) else (given,):
            if value is not None and not (isinstance(value, int | float) and least <= value <= most):
                raise ValueError(f"{part}.{name} is {given!r}; accepted is a number from {least} to {most}.")
    layers, width = getattr(config, "num_hidden_layers", 0), getattr(config, "hidden_size", 0)
    mlp = getattr(config, "feed_forward_hidden_size", int(getattr(config, "mlp_ratio", 0) * width))
    weights = layers * (4 * width**2 + 2 * width * mlp)
    if weights > MOST_WEIGHTS:
        raise ValueError(
            f"{part}.num_hidden_layers ({layers}) of {part}.hidden_size ({width}) make about {weights / 1e9:.0f} "
            f"thousand million weights; accepted are at most {MOST_WEIGHTS / 1e9:.0f}. Reduce one of the two."
        )


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
        """Raise ValueError for sizes that are absurd, or that give no whole feature map."""
        assert isinstance(self, PreTrainedConfig)
        check_sizes(self)
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
