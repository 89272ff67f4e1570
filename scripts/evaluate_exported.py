"""J&F of exported graphs beside that of the model they were made of: what a precision costs on annotated videos.

    efficienttam export efficienttam-nano nano-onnx
    efficienttam export efficienttam-nano nano-int8 --dtype int8
    python scripts/evaluate_exported.py nano-onnx nano-int8 --model efficienttam-nano --data DAVIS --limit 3

Videos are tracked and scored as by `efficienttam evaluate vos`, by the same loop, with `OnnxVideoTracker` in the place
of the model. Everything runs on the CPU.
"""

from __future__ import annotations

import efficienttam_hf  # noqa: F401 -- before torch: it decides how the threads of torch wait


# isort: split

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from efficienttam_hf import EfficientTamVideoModel
from efficienttam_hf.app.datasets import load_data
from efficienttam_hf.app.loading import load_model
from efficienttam_hf.evaluation.prompted import PROMPTS
from efficienttam_hf.evaluation.runner import RunOptions, default_convention, evaluate_video, summarize
from efficienttam_hf.export.onnx_tracker import OnnxVideoTracker


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate the model and each export, and print a table. Returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", metavar="FOLDER", nargs="+", help="folders that `efficienttam export` made")
    parser.add_argument("--model", metavar="NAME", help="also score this model itself, in torch")
    parser.add_argument("--prompt", choices=PROMPTS, default="mask", help="what objects are shown with; default: mask")
    parser.add_argument("--max-frames", metavar="N", type=int, help="only the first N frames of each video")
    parser.add_argument("--data", metavar="ROOT", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--dataset", metavar="KIND", help="see docs/data.md; by default what the layout says")
    parser.add_argument("--split", help="of the dataset; by default val of DAVIS, and all elsewhere")
    parser.add_argument("--sequences", metavar="NAME", nargs="+", help="only these videos")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N videos")
    args = parser.parse_args(argv)

    records, kind, _ = load_data(args.data, args.dataset, args.split, args.sequences, args.limit)
    options = RunOptions(prompt=args.prompt, convention=default_convention(kind), max_frames=args.max_frames)
    contenders = {Path(folder).name: [OnnxVideoTracker(folder)] * 2 for folder in args.exported}
    if args.model:
        pair = load_model(EfficientTamVideoModel, args.model, torch.device("cpu"), "float32")
        contenders = {f"{args.model} in torch": pair, **contenders}

    print("| | J&F | J | F | frames/s |\n| --- | --- | --- | --- | --- |")
    for name, (model, processor) in contenders.items():
        videos = [evaluate_video(model, processor, record, options) for record in records]
        scores = summarize(videos, options.convention)
        numbers = " | ".join(f"{100 * scores[measure]:.2f}" for measure in ("J&F", "J", "F"))
        speed = sum(video.tracked_frames for video in videos) / sum(video.seconds for video in videos)
        print(f"| {name} | {numbers} | {speed:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
