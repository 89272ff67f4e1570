#!/usr/bin/env python
"""Make a trained checkpoint the model that comes with the package: weights in half precision, no code files.

    python scripts/include_model.py runs/nano/last efficienttam-nano

The folder's model card (README.md) is kept as it is, and has no checksum among those that are written.
"""

import efficienttam_hf  # noqa: F401 -- before torch: it decides how the threads of torch wait


# isort: split

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from efficienttam_hf import EfficientTamConfig, EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.atomic_file import atomic_path
from efficienttam_hf.checksums import write_checksums
from efficienttam_hf.training.models import losses_of, save_losses, with_weights


LARGEST = 16 * 2**20  # bytes; a package that everybody downloads stays small
INCLUDED = Path(__file__).resolve().parents[1] / "src" / "efficienttam_hf" / "pretrained"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a folder that `from_pretrained` loads")
    parser.add_argument("name", help="by which it is found")
    parser.add_argument("--image-size", type=int, help="input size it is to run at; by default that it was trained at")
    args = parser.parse_args()

    model = EfficientTamVideoModel.from_pretrained(args.checkpoint, dtype=torch.float32)
    if args.image_size:
        config = EfficientTamConfig.from_dict(model.config.to_dict(), image_size=args.image_size)
        model = with_weights(config, model.state_dict())
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    size = sum(value.nbytes for value in weights.values())
    if size > LARGEST:
        parser.error(
            f"{args.checkpoint} is {size / 2**20:.1f} MiB in half precision; {LARGEST / 2**20:.0f} is the most"
        )
    if any(not value.isfinite().all() for value in weights.values()):
        parser.error(f"{args.checkpoint} has weights beyond the range of half precision")

    folder = INCLUDED / args.name
    # The configuration says float32: the file is half precision to be small, not to be computed in.
    with atomic_path(folder / "config.json") as temporary:
        temporary.write_text(model.config.to_json_string(), encoding="utf-8")
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)
    processor = EfficientTamVideoProcessor.from_config(model.config)
    with atomic_path(folder / "processor_config.json") as temporary:
        temporary.write_text(processor.to_json_string(), encoding="utf-8")
    save_losses(losses_of(str(args.checkpoint)), folder)
    write_checksums(folder, leave_out=["README.md"])
    print(f"{folder}: {size / 2**20:.1f} MiB, {sum(v.numel() for v in weights.values()):,} parameters and buffers")


if __name__ == "__main__":
    main()
