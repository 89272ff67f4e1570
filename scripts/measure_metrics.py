"""How many frames a second J&F takes, from PNGs on disk to the score of a dataset, in one process.

Without a checkout of other evaluators it measures this package alone. With them, all are run in turn, round after
round, so that a busy machine slows all of them alike; the table has medians, and how they differ in the score:

    python scripts/measure_metrics.py --davis2017-evaluation PATH --vos-benchmark PATH

The data are made on the spot, 854x480 pixels, unless a folder in DAVIS's layout and one of predictions are given.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from efficienttam_hf.evaluation.prediction_folders import find_sequences, score_prediction_folder
from efficienttam_hf.mask_io import write_indexed_png


HEIGHT, WIDTH = 480, 854


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--davis2017-evaluation", type=Path, help="a checkout of davisvideochallenge/davis2017-evaluation"
    )
    parser.add_argument("--vos-benchmark", type=Path, help="a checkout of hkchengrex/vos-benchmark")
    parser.add_argument("--davis", type=Path, help="a folder in DAVIS's layout, with ImageSets/2017/val.txt")
    parser.add_argument("--predictions", type=Path, help="predictions for it, <sequence>/<frame>.png")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if (args.davis is None) != (args.predictions is None):
        parser.error("--davis and --predictions belong together.")

    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        davis, predictions = args.davis, args.predictions
        if davis is None:
            davis, predictions = Path(scratch) / "DAVIS", Path(scratch) / "predictions"
            make_data(davis, predictions)
        print(report(evaluators(args, davis, predictions), count_frames(davis), args.rounds))


def evaluators(args: argparse.Namespace, davis: Path, predictions: Path) -> dict[str, Callable[[], float]]:
    """For each evaluator that is there a function that returns J&F, from 0 to 1."""
    annotations = davis / "Annotations" / "480p"
    names = (davis / "ImageSets" / "2017" / "val.txt").read_text().split()
    found = {"efficienttam-hf": lambda: score_prediction_folder(predictions, annotations, "davis2017", names).j_and_f}
    if args.davis2017_evaluation is not None:
        sys.path.insert(0, str(args.davis2017_evaluation))
        from davis2017.evaluation import DAVISEvaluation

        def davis_evaluation() -> float:
            with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
                found = DAVISEvaluation(str(davis), "semi-supervised", "val").evaluate(str(predictions))
            return float(np.mean(found["J"]["M"]) + np.mean(found["F"]["M"])) / 2

        found["davis2017-evaluation"] = davis_evaluation
    if args.vos_benchmark is not None:
        sys.path.insert(0, str(args.vos_benchmark))
        from vos_benchmark.benchmark import VideoEvaluator

        def vos_benchmark() -> float:
            evaluate = VideoEvaluator(str(annotations), str(predictions))
            return np.mean([list(of.values()) for name in names for of in zip_objects(*evaluate(name)[1:])]) / 100

        found["vos-benchmark"] = vos_benchmark
    return found


def zip_objects(j: dict[int, float], f: dict[int, float]) -> list[dict[str, float]]:
    return [{"j": j[number], "f": f[number]} for number in j]


def count_frames(davis: Path) -> int:
    names = (davis / "ImageSets" / "2017" / "val.txt").read_text().split()
    folders = find_sequences(davis / "Annotations" / "480p")
    return sum(len(list(folders[name].glob("*.png"))) for name in names)


def report(evaluators: dict[str, Callable[[], float]], frames: int, rounds: int) -> str:
    """A table: medians over rounds in which each evaluator has its turn, after one round that does not count."""
    scores = {name: evaluate() for name, evaluate in evaluators.items()}
    seconds: dict[str, list[float]] = {name: [] for name in evaluators}
    for _ in range(rounds):
        for name, evaluate in evaluators.items():
            start = time.perf_counter()
            evaluate()
            seconds[name].append(time.perf_counter() - start)
    ours = seconds["efficienttam-hf"]
    lines = [f"{frames} frames, {rounds} rounds", "", "| evaluator | frames/s | ours is faster by | J&F |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for name, times in seconds.items():
        ratio = statistics.median(theirs / mine for theirs, mine in zip(times, ours, strict=True))
        lines.append(f"| {name} | {frames / statistics.median(times):.1f} | {ratio:.1f}x | {scores[name]:.8f} |")
    return "\n".join(lines)


def make_data(davis: Path, predictions: Path, sequences: int = 2, frames: int = 20, objects: int = 3) -> None:
    """Ellipses that wander, and predictions that miss them by a few pixels."""
    rng = np.random.default_rng(0)
    names = [f"sequence{number}" for number in range(sequences)]
    (davis / "ImageSets" / "2017").mkdir(parents=True)
    (davis / "ImageSets" / "2017" / "val.txt").write_text("\n".join(names))
    for name in names:
        (davis / "JPEGImages" / "480p" / name).mkdir(parents=True)
        centres = rng.uniform((100, 100), (WIDTH - 100, HEIGHT - 100), (objects, 2))
        axes = rng.uniform(25, 110, (objects, 2))
        for frame in range(frames):
            centres += rng.normal(0, 6, centres.shape)
            for root, error in ((davis / "Annotations" / "480p", 0), (predictions, 5)):
                labels = np.zeros((HEIGHT, WIDTH), np.uint8)
                for number in range(objects):
                    centre = (centres[number] + rng.normal(0, 1, 2) * error).astype(int).tolist()
                    cv2.ellipse(labels, centre, axes[number].astype(int).tolist(), 10 * frame, 0, 360, number + 1, -1)
                write_indexed_png(root / name / f"{frame:05d}.png", labels)
            # davis2017-evaluation looks for frames, but only at their names.
            (davis / "JPEGImages" / "480p" / name / f"{frame:05d}.jpg").touch()


if __name__ == "__main__":
    main()
