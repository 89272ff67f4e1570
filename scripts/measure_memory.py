"""Scores memory strategies with several parameters on the stress set or a dataset; each frame is encoded only once.

    python scripts/measure_memory.py --seeds 0 1 2 3 4
    python scripts/measure_memory.py --seeds 100 101 --search
    python scripts/measure_memory.py --data DAVIS --dataset davis2016 --candidate quality:quality_threshold=0.6

Scores and the table are those of `efficienttam evaluate vos --memory all`, which runs the image encoder again for each
strategy. Parameters are searched on seeds that no table of docs/memory.md has (100 and up). Results are appended to a
file, and a run that was stopped continues from there.
"""

from __future__ import annotations

import efficienttam_hf  # noqa: F401 -- before torch, because it sets the wait policy of its threads


# isort: split

import argparse
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from efficienttam_hf import EfficientTamConfig, EfficientTamVideoModel
from efficienttam_hf.app.datasets import load_data
from efficienttam_hf.app.loading import choose_device, load_model, quiet_transformers
from efficienttam_hf.data.layouts.stress import KINDS, Stress
from efficienttam_hf.evaluation.memory_comparison import comparison_markdown
from efficienttam_hf.evaluation.results import VideoResult
from efficienttam_hf.evaluation.runner import RunOptions, evaluate_video, result_of, surroundings
from efficienttam_hf.memory_selection import make_strategy, option_value
from efficienttam_hf.tracking_rules import MEMORY_SELECTIONS


# Parameters that a search tries, one at a time; the others keep the values of their papers.
GRID = {
    "quality": [{"quality_threshold": x} for x in (0.3, 0.5, 0.6, 0.65, 0.7, 0.8)],
    "motion": [{"motion_iou_threshold": x} for x in (0.6, 0.7)] + [{"motion_weight": x} for x in (0.0, 0.1, 0.5)],
    "distractor_aware": [{"promotion_iou": x} for x in (0.6, 0.7)] + [{"ram_stride": x} for x in (1, 3)],
    "hypotheses": [{"path_iou_threshold": x} for x in (0.5, 0.6, 0.7)] + [{"path_weights": (1.0, 1.0)}],
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficienttam-nano")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="seeds of the stress set, with a video of each kind for each"
    )
    parser.add_argument("--data", type=Path, help="folder of a dataset that is used instead of the stress set")
    parser.add_argument("--dataset", help="kind of the dataset in --data")
    parser.add_argument("--search", action="store_true", help="also measure the parameters of GRID")
    parser.add_argument(
        "--candidate",
        dest="candidates",
        metavar="NAME[:KEY=VALUE[:...]]",
        action="append",
        help="a strategy, with parameters that replace its defaults; by default every strategy is measured",
    )
    parser.add_argument("--max-frames", type=int, help="number of frames of each video that are used")
    parser.add_argument(
        "--output", type=Path, default=Path("memory-results.jsonl"), help="file of results (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if (args.seeds is None) == (args.data is None):
        parser.error("give --seeds of the stress set, or --data and --dataset")

    quiet_transformers()
    model, processor = load_model(MeasuredModel, args.model, choose_device("cpu"), "float32")
    candidates = [candidate(text) for text in args.candidates or MEMORY_SELECTIONS]
    if args.search:
        candidates += [(name, options) for name, tried in GRID.items() for options in tried]
    done, results = read(args.output), defaultdict(list)
    for record in records_of(args):
        model.forget_frames()
        for name, options in candidates:
            key = (record.video_id, title(name, options))
            if key not in done:
                done[key] = measure(model, processor, record, name, options, args.max_frames)
                with args.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"candidate": key[1], "result": done[key].to_dict()}) + "\n")
            results[key[1]].append(done[key])
    print(compare(model, args.dataset or "stress", results))


def candidate(text: str) -> tuple[str, dict[str, Any]]:
    """Read the name and parameters of a strategy from `NAME:KEY=VALUE:...`."""
    name, *pairs = text.split(":")
    options = {key: option_value(key, value) for key, value in (pair.split("=", 1) for pair in pairs)}
    make_strategy(name, options)  # checks them
    return name, options


def title(name: str, options: dict[str, Any]) -> str:
    """Return the name of a candidate in the table."""
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def read(path: Path) -> dict[tuple[str, str], VideoResult]:
    """Read the results of an earlier run, by video and candidate."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {(row["result"]["name"], row["candidate"]): VideoResult.from_dict(row["result"]) for row in rows}


def records_of(args: argparse.Namespace) -> Iterator[Any]:
    """Yield the videos one after another."""
    if args.data is not None:
        yield from load_data(args.data, args.dataset)[0]
        return
    stress = Stress()
    for seed in args.seeds:
        for kind in KINDS:
            yield stress.record(f"{kind}-{seed}")


class MeasuredModel(EfficientTamVideoModel):
    """A model that encodes each frame once for all candidates, and measures the processor time of the rest.

    Attributes:
        seconds: the processor time that this thread spent on tracking, without the image encoder.
    """

    def __init__(self, config: EfficientTamConfig) -> None:
        super().__init__(config)
        self.seconds = 0.0
        self._encoded: dict[bytes, torch.Tensor] = {}

    def forget_frames(self) -> None:
        """Drop the features of all frames, before another video."""
        self._encoded.clear()

    def encode_frame(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the features of a frame, which are computed for the first candidate."""
        begin = time.thread_time()
        key = hashlib.blake2b(pixels.cpu().numpy().tobytes()).digest()
        if key not in self._encoded:
            self._encoded[key] = super().encode_frame(pixels)
        self.seconds -= time.thread_time() - begin
        return self._encoded[key]

    def track_frame(self, *args: Any, **options: Any) -> Any:
        """Track a frame as the model does, and add the time that this takes."""
        begin = time.thread_time()
        try:
            return super().track_frame(*args, **options)
        finally:
            self.seconds += time.thread_time() - begin


def measure(
    model: MeasuredModel, processor: Any, record: Any, name: str, options: dict[str, Any], max_frames: int | None
) -> VideoResult:
    """Evaluate a candidate on a video. The result's time is that of tracking without the image encoder."""
    model.seconds = 0.0
    memory = {"memory_selection": name, "memory_options": options}
    result = evaluate_video(model, processor, record, RunOptions(memory=memory, max_frames=max_frames))
    result.seconds = model.seconds
    return result


def compare(model: MeasuredModel, dataset: str, results: dict[str, list[VideoResult]]) -> str:
    """Return the table of all candidates in Markdown, as `efficienttam evaluate vos --memory all` writes it."""
    options = RunOptions(dataset=dataset, model=model.name_or_path)
    found = {name: result_of(videos, options, surroundings(model)) for name, videos in results.items()}
    return comparison_markdown(found, timing="Seconds per frame are processor time without the image encoder.")


if __name__ == "__main__":
    main()
