"""Weights that anyone can rebuild bit for bit, and the small vocabulary the reference fixtures use.

A fixture holds what the published EfficientTAM implementation computed with these weights; nothing here
comes from a trained checkpoint.  The tensors are keyed by the names of the published checkpoints
(`layout/<variant>.json` lists every name and shape), so the same file that converts a real checkpoint
must convert these.

Only NumPy is needed.  `numpy.random.RandomState` is used because its stream is frozen across versions.
"""

import json
import zlib
from pathlib import Path

import numpy as np


HERE = Path(__file__).resolve().parent
IMAGE_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
IMAGE_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


def draw(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """One tensor of the recipe, float32, from its checkpoint name, its shape and the fixture's seed."""
    z = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode())).standard_normal(shape)
    leaf = name.rsplit(".", 1)[-1]
    if name == "sam_mask_decoder.pred_obj_score_head.layers.2.bias":
        value = 1.0 + 0 * z  # most objects are predicted present, some absent
    elif name == "sam_mask_decoder.pred_obj_score_head.layers.2.weight":
        value = 2.0 * z / np.sqrt(shape[1])
    elif name == "sam_mask_decoder.iou_prediction_head.layers.2.weight":
        value = 4.0 * z / np.sqrt(shape[1])  # spread, so that the best of three masks is never a near-tie
    elif leaf == "positional_encoding_gaussian_matrix":
        value = z
    elif leaf == "gamma":
        value = 0.5 + 0.1 * z
    elif leaf == "bias":
        value = 0.1 * z
    elif leaf == "weight" and len(shape) == 1:  # normalisation layers
        value = 1.0 + 0.1 * z
    elif "output_hypernetworks_mlps" in name and leaf == "weight":
        value = 2.0 * z / np.sqrt(shape[1])
    elif leaf == "weight" and len(shape) == 2 and ("embed" in name or "token" in name) and "attn" not in name:
        value = 0.5 * z  # learned tokens
    elif leaf == "weight":
        value = 1.4 * z / np.sqrt(np.prod(shape[1:]))
    else:  # free parameters: positional and temporal encodings, no-memory and no-object embeddings
        value = 0.3 * z
    return value.astype(np.float32)


def layout(variant: str) -> dict[str, list[int]]:
    """Names and shapes of a published checkpoint, e.g. `layout("efficienttam_s_1")`."""
    return json.loads((HERE / "layout" / f"{variant}.json").read_text())


def state_dict(variant: str, seed: int) -> dict[str, np.ndarray]:
    """A whole checkpoint in the published naming: `{"model": state_dict}` is what a published .pt file holds."""
    return {name: draw(name, tuple(shape), seed) for name, shape in layout(variant).items()}


def pixel_values(frame, image_size: int) -> np.ndarray:
    """One PIL image as the published video loader feeds it: (3, image_size, image_size), float32."""
    resized = np.asarray(frame.convert("RGB").resize((image_size, image_size)))  # PIL's default, bicubic
    return ((resized.astype(np.float32) / 255.0 - IMAGE_MEAN) / IMAGE_STD).transpose(2, 0, 1)
