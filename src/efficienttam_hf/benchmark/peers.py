"""Models of Transformers for the same task, with random weights, since the speed does not depend on the weights.

Their configurations are those of the published checkpoints (`facebook/sam2.1-hiera-tiny`, `-base-plus`,
`yonigozlan/EdgeTAM-hf`), and are written here so that nothing is downloaded. With another input size, the values that
depend on it change. `edgetam-default` is `EdgeTamVideoConfig()` of Transformers: EdgeTAM's memory with SAM 2's tiny
Hiera as image encoder, which no published checkpoint has.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import transformers
from torch import nn


__all__ = ["PEERS", "check_peer", "make_peer"]

NATIVE_SIZE = 1024
PEERS = ("sam2-tiny", "sam2-base-plus", "edgetam", "edgetam-default")

_BASE_PLUS_BACKBONE = {
    "hidden_size": 112,
    "embed_dim_per_stage": [112, 224, 448, 896],
    "num_attention_heads_per_stage": [2, 4, 8, 16],
    "blocks_per_stage": [2, 3, 16, 3],
    "global_attention_blocks": [12, 16, 20],
    "window_positional_embedding_background_size": [14, 14],
}
_REPVIT = {
    "model_type": "timm_wrapper",
    "architecture": "repvit_m1",
    "num_classes": 1000,
    "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
}


def check_peer(name: str, image_size: int | None = None) -> None:
    """Check that a peer can be made on this machine.

    Args:
        name: the name of the peer.
        image_size: the side of its input in pixels; None is its own.

    Raises:
        ValueError: if there is no such peer, or it cannot be made for that size.
        ImportError: if a package that it needs is not installed.
    """
    if name not in PEERS:
        raise ValueError(f"There is no peer {name!r}; there are {', '.join(PEERS)}.")
    step = 256 if name.startswith("edgetam") else 32  # EdgeTAM divides its feature map into windows of 16x16
    if image_size is not None and image_size % step:
        raise ValueError(f"The image size of {name} must be a multiple of {step}, got {image_size}.")
    if not name.startswith("edgetam"):
        return
    if not hasattr(transformers, "EdgeTamVideoModel"):
        raise ImportError(
            f"Transformers {transformers.__version__} has no EdgeTamVideoModel: install a newer one, or leave the peer "
            f"{name} out."
        )
    if name == "edgetam" and importlib.util.find_spec("timm") is None:
        raise ImportError(
            "The image encoder of EdgeTAM comes from timm: pip install timm, or leave the peer edgetam out."
        )


def make_peer(name: str, image_size: int | None = None) -> tuple[nn.Module, Any]:
    """Make a peer with random weights.

    Args:
        name: the name of the peer.
        image_size: the side of its input in pixels; None is its own.

    Returns:
        The model and its processor.

    Raises:
        ValueError, ImportError: see `check_peer`.
    """
    check_peer(name, image_size)
    size = image_size or NATIVE_SIZE
    cells = size // 16
    vision: dict[str, Any] = {"backbone_feature_sizes": [[4 * cells] * 2, [2 * cells] * 2, [cells] * 2]}
    common: dict[str, Any] = {
        "vision_config": vision,
        "prompt_encoder_config": {"image_size": size},
        "image_size": size,
        "memory_attention_rope_feat_sizes": [cells, cells],
    }
    if name == "edgetam":
        vision |= {"model_type": "edgetam_vision_model", "backbone_config": _REPVIT}
        config = transformers.EdgeTamVideoConfig(
            **common,
            enable_temporal_pos_encoding_for_object_pointers=False,
            enable_occlusion_spatial_embedding=False,
        )
        model: transformers.PreTrainedModel = transformers.EdgeTamVideoModel(config)
    else:
        backbone: dict[str, Any] = {"model_type": "sam2_hiera_det_model", "image_size": [size, size]}
        if name == "sam2-base-plus":
            backbone |= _BASE_PLUS_BACKBONE
            vision["backbone_channel_list"] = [896, 448, 224, 112]
        vision |= {"model_type": "sam2_vision_model", "backbone_config": backbone}
        if name == "edgetam-default":
            model = transformers.EdgeTamVideoModel(transformers.EdgeTamVideoConfig(**common))
        else:
            model = transformers.Sam2VideoModel(transformers.Sam2VideoConfig(**common))
    sides = {"height": size, "width": size}
    processor = transformers.Sam2VideoProcessor(
        transformers.Sam2ImageProcessor(size=sides), transformers.Sam2VideoVideoProcessor(size=sides)
    )
    return model, processor
