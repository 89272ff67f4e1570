"""The published variants and this package's small model, as the parameters that differ from the defaults.

A variant is an entry here; no code decides by its name. `EfficientTamConfig.from_preset` makes a configuration of one.
"""

from __future__ import annotations

from typing import Any


__all__ = ["PRESETS", "SMALL_PRESETS"]


def _preset(width: int, heads: int, image_size: int = 1024, cross_attention: str = "full") -> dict[str, dict[str, Any]]:
    return {
        "vision_config": {"hidden_size": width, "num_attention_heads": heads, "image_size": image_size},
        "prompt_encoder_config": {"image_size": image_size},
        "memory_attention_config": {"cross_attention": cross_attention},
    }


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "efficienttam_s": _preset(384, 6),
    "efficienttam_s_1": _preset(384, 6, cross_attention="pooled_logit_bias"),
    "efficienttam_s_2": _preset(384, 6, cross_attention="pooled_key_shift"),
    "efficienttam_s_512x512": _preset(384, 6, image_size=512),
    "efficienttam_ti": _preset(192, 3),
    "efficienttam_ti_1": _preset(192, 3, cross_attention="pooled_logit_bias"),
    "efficienttam_ti_2": _preset(192, 3, cross_attention="pooled_key_shift"),
    "efficienttam_ti_512x512": _preset(192, 3, image_size=512),
}

# Not published: small models of ours, for CPUs, trained with this package.
SMALL_PRESETS: dict[str, dict[str, Any]] = {
    "efficienttam_nano": {
        "image_size": 352,
        "vision_config": {
            "hidden_size": 192,
            "num_hidden_layers": 8,
            "num_attention_heads": 3,
            "global_attention_indexes": [0, 1, 2, 3, 4, 5, 6, 7],
            "pretrained_image_size": 256,
            "has_class_position": False,
            "fpn_hidden_size": 128,
        },
        "prompt_encoder_config": {"hidden_size": 128},
        "mask_decoder_config": {"hidden_size": 128, "mlp_dim": 512, "iou_head_hidden_dim": 128},
        "memory_attention_config": {
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "feed_forward_hidden_size": 512,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "cross_attention": "pooled_logit_bias",
        },
        "memory_encoder_config": {"hidden_size": 128, "fuser_intermediate_size": 512},
        # As many memories as the clips it is trained on have room for.
        "num_maskmem": 4,
        "max_object_pointers_in_encoder": 8,
    },
}
