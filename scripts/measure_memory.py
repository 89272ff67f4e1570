"""What memory strategies and their numbers score, on the stress set or a dataset: the image encoder runs once a frame.

    python scripts/measure_memory.py --seeds 0 1 2 3 4
    python scripts/measure_memory.py --seeds 100 101 --search
    python scripts/measure_memory.py --data DAVIS --dataset davis2016 --candidate quality:quality_threshold=0.6

Scores are those of `efficienttam evaluate vos`; what is saved is the encoder, which all candidates share. Numbers are
searched on seeds that no table of docs/memory.md has (100 and up). Results go to a file as they come, and a run that
was stopped goes on from there.
"""

from __future__ import annotations

import efficienttam_hf  # noqa: F401 -- before torch: it decides how the threads of torch wait


# isort: split

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from efficienttam_hf import EfficientTamVideoModel
from efficienttam_hf.app.datasets import load_data
from efficienttam_hf.app.loading import choose_device, load_model, quiet_transformers
from efficienttam_hf.data.layouts.stress import KINDS, Stress
from efficienttam_hf.evaluation.runner import RunOptions, evaluate_video
from efficienttam_hf.memory_selection import make_strategy, option_value
from efficienttam_hf.tracking_rules import MEMORY_SELECTIONS


# Numbers that a search tries, one at a time from the sources' own.
GRID = {
    "quality": [{"quality_threshold": x} for x in (0.3, 0.5, 0.6, 0.65, 0.7, 0.8)],
    "motion": [{"motion_iou_threshold": x} for x in (0.6, 0.7)] + [{"motion_weight": x} for x in (0.0, 0.1, 0.5)],
    "distractor_aware": [{"promotion_iou": x} for x in (0.6, 0.7)] + [{"ram_stride": x} for x in (1, 3)],
    "hypotheses": [{"path_iou_threshold": x} for x in (0.5, 0.6, 0.7)] + [{"path_weights": (1.0, 1.0)}],
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficienttam-nano")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the stress set; a video of each kind for each")
    parser.add_argument("--data", type=Path, help="a dataset's folder, in place of the stress set")
    parser.add_argument("--dataset", help="its kind")
    parser.add_argument("--search", action="store_true", help="also the numbers of GRID")
    parser.add_argument(
        "--candidate",
        dest="candidates",
        metavar="NAME[:KEY=VALUE[:...]]",
        action="append",
        help="a strategy, with numbers that are not to be its defaults; by default every strategy",
    )
    parser.add_argument("--max-frames", type=int, help="only the first of each video")
    parser.add_argument("--output", type=Path, default=Path("memory-results.jsonl"), help="default: %(default)s")
    args = parser.parse_args(argv)
    if (args.seeds is None) == (args.data is None):
        parser.error("give --seeds of the stress set, or --data and --dataset")

    quiet_transformers()
    model, processor = load_model(EfficientTamVideoModel, args.model, choose_device("cpu"), "float32")
    candidates = [candidate(text) for text in args.candidates or MEMORY_SELECTIONS]
    if args.search:
        candidates += [(name, options) for name, tried in GRID.items() for options in tried]
    done = {(row["video"], row["candidate"]): row for row in read(args.output)}
    rows = []
    for record in records_of(args):
        clock = share_features(model)
        for name, options in candidates:
            key = (record.video_id, title(name, options))
            if key not in done:
                done[key] = measure(model, processor, record, name, options, args.max_frames, clock)
                with args.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done[key]) + "\n")
            rows.append(done[key])
    print(table(rows))


def candidate(text: str) -> tuple[str, dict[str, Any]]:
    """A strategy's name and numbers from `NAME:KEY=VALUE:...`."""
    name, *pairs = text.split(":")
    options = {key: option_value(key, value) for key, value in (pair.split("=", 1) for pair in pairs)}
    make_strategy(name, options)  # checks them
    return name, options


def title(name: str, options: dict[str, Any]) -> str:
    """How a candidate is called in the table."""
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def read(path: Path) -> list[dict[str, Any]]:
    """What an earlier run has left."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def records_of(args: argparse.Namespace) -> Iterator[Any]:
    """The videos, one after the other."""
    if args.data is not None:
        yield from load_data(args.data, args.dataset)[0]
        return
    stress = Stress()
    for seed in args.seeds:
        for kind in KINDS:
            yield stress.record(f"{kind}-{seed}")


class Clock:
    """Seconds of this thread's processor time that tracking took, the image encoder apart."""

    seconds = 0.0


def share_features(model: EfficientTamVideoModel) -> Clock:
    """Let a model keep the features of the frames that come, until this is called again; and a clock of the rest."""
    features: dict[bytes, torch.Tensor] = {}
    clock, cls = Clock(), type(model)

    def encode_frame(pixels: torch.Tensor) -> torch.Tensor:
        begin = time.thread_time()
        key = hashlib.blake2b(pixels.cpu().numpy().tobytes()).digest()
        if key not in features:
            features[key] = cls.encode_frame(model, pixels)
        clock.seconds -= time.thread_time() - begin
        return features[key]

    def track_frame(*args: Any, **options: Any) -> Any:
        begin = time.thread_time()
        try:
            return cls.track_frame(model, *args, **options)
        finally:
            clock.seconds += time.thread_time() - begin

    model.encode_frame, model.track_frame = encode_frame, track_frame  # type: ignore[method-assign]
    return clock


def measure(
    model: EfficientTamVideoModel,
    processor: Any,
    record: Any,
    name: str,
    options: dict[str, Any],
    max_frames: int | None,
    clock: Clock,
) -> dict[str, Any]:
    """A row of results: J&F of each object in percent, and milliseconds a frame."""
    memory = {"memory_selection": name, "memory_options": options}
    clock.seconds = 0.0
    result = evaluate_video(model, processor, record, RunOptions(memory=memory, max_frames=max_frames))
    return {
        "video": record.video_id,
        "candidate": title(name, options),
        "scores": [round(100 * o.j_and_f, 3) for o in result.objects],
        "categories": [o.category for o in result.objects],
        "milliseconds": 1000 * clock.seconds / max(result.tracked_frames, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Rows in Markdown: mean J&F of objects, by category where there are some; milliseconds a frame, the median."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["categories"] if kind is not None))
    lines = ["| memory | J&F | " + "".join(f"{kind} | " for kind in kinds) + "ms/frame |"]
    lines.append("| --- |" + " ---: |" * (2 + len(kinds)))
    for name in dict.fromkeys(row["candidate"] for row in rows):
        own = [row for row in rows if row["candidate"] == name]
        pairs = [pair for row in own for pair in zip(row["categories"], row["scores"], strict=True)]
        means = [statistics.fmean(score for _, score in pairs)]
        means += [statistics.fmean(score for kind, score in pairs if kind == wanted) for wanted in kinds]
        time_taken = statistics.median(row["milliseconds"] for row in own)
        lines.append(f"| `{name}` | " + "".join(f"{mean:.1f} | " for mean in means) + f"{time_taken:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
