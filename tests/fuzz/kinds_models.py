"""Checkpoints, configurations and manifests of exported graphs."""

from __future__ import annotations

import json
from pathlib import Path

from harness import Kind, mutate_bytes, mutate_json


def tiny_model():
    import torch

    from efficienttam_hf import EfficientTamConfig, EfficientTamVideoModel

    torch.manual_seed(0)
    config = EfficientTamConfig(
        image_size=128,
        vision_config={
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "window_size": 3,
            "global_attention_indexes": [1],
            "fpn_hidden_size": 64,
        },
        prompt_encoder_config={"hidden_size": 64},
        mask_decoder_config={"hidden_size": 64},
        memory_attention_config={
            "hidden_size": 64,
            "memory_size": 16,
            "num_hidden_layers": 1,
            "feed_forward_hidden_size": 64,
        },
        memory_encoder_config={"hidden_size": 64, "output_channels": 16, "fuser_intermediate_size": 64},
    )
    return EfficientTamVideoModel(config).eval()


def folders(folder: Path) -> list[Path]:
    tiny_model().save_pretrained(folder / "model")
    return [folder / "model"]


def configurations(folder: Path) -> list[Path]:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(tiny_model().config.to_diff_dict()))
    return [folder / "model"]


def load_folder(path: Path) -> None:
    from efficienttam_hf import EfficientTamVideoModel
    from efficienttam_hf.app.loading import load_weights

    load_weights(EfficientTamVideoModel, str(path))


def build(path: Path) -> None:
    from efficienttam_hf import EfficientTamVideoModel
    from efficienttam_hf.app.loading import load_config

    EfficientTamVideoModel(load_config(str(path)))


def published(folder: Path) -> list[Path]:
    """A file as published: `{"model": tensors}`, with and without the checksums of a zip file."""
    import torch

    from efficienttam_hf.checkpoints import published_layout

    layout = published_layout(tiny_model().config)
    tensors = {name: torch.zeros(shape) for name, (_, shape) in layout.items()}
    torch.save({"model": tensors}, folder / "a.pt")
    torch.save({"model": tensors}, folder / "old.pt", _use_new_zipfile_serialization=False)
    return sorted(folder.iterdir())


def convert(path: Path) -> None:
    from efficienttam_hf.checkpoints import from_published, read_published

    from_published(read_published(path), tiny_model().config, str(path))


def manifests(folder: Path) -> list[Path]:
    """An exported folder as its reader sees it: the manifest, and files of which it holds the checksums."""
    from efficienttam_hf.export.exporting import manifest_of
    from efficienttam_hf.export.manifest import sha256

    root = folder / "exported"
    root.mkdir()
    manifest = manifest_of(tiny_model(), "tiny", "float32")
    for entry in manifest.graphs.values():
        path = root / entry["file"]
        path.write_bytes(b"a graph")
        entry["sha256"], entry["bytes"] = sha256(path), path.stat().st_size
    manifest.write(root)
    return [root]


def read_manifest(path: Path) -> None:
    from efficienttam_hf.export.manifest import Manifest

    manifest = Manifest.read(path)
    for name in list(manifest.graphs):
        manifest.graph_file(path, name)


def trainings(folder: Path) -> list[Path]:
    content = {
        "output": "run",
        "model": "efficienttam-nano",
        "seed": 3,
        "optimizer": {"weight_decay": 0.1, "betas": [0.9, 0.95]},
    }
    (folder / "training.json").write_text(json.dumps(content))
    return [folder / "training.json"]


def read_training(path: Path) -> None:
    from efficienttam_hf.training.config import load_config

    load_config(path)


KINDS = [
    Kind("checkpoint", folders, load_folder, mutate_bytes, suffixes=(".safetensors",)),
    Kind("configuration", configurations, build, mutate_json, suffixes=(".json",)),
    Kind("published", published, convert, mutate_bytes),
    Kind("manifest", manifests, read_manifest, mutate_json, suffixes=(".json",)),
    Kind("training", trainings, read_training, mutate_json),
]
