"""The pictures of docs/memory.md: a video of the stress set, as it is and as memory strategies track it.

    python scripts/draw_memory_cases.py reentry-0 recent distractor_aware --output docs/images/memory_won.jpg

A row each: the true masks, then those of each strategy. Videos are drawn from seeds, so the pictures can be made again;
`scripts/measure_memory.py` says in which of them strategies differ.
"""

from __future__ import annotations

import efficienttam_hf  # noqa: F401 -- before torch: it decides how the threads of torch wait


# isort: split

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from efficienttam_hf import EfficientTamVideoModel
from efficienttam_hf.app.loading import choose_device, load_model, quiet_transformers
from efficienttam_hf.data.synthetic.stress import stress_video
from efficienttam_hf.evaluation.semi_supervised import AnnotatedFrame, track
from efficienttam_hf.visualization import contact_sheet, overlay_masks


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", help="kind and seed, such as reentry-0")
    parser.add_argument("strategies", nargs="+", help="names of memory strategies")
    parser.add_argument("--model", default="efficienttam-nano")
    parser.add_argument("--frames", type=int, nargs="+", help="which frames to show; by default six, evenly apart")
    parser.add_argument("--width", type=int, default=256, help="of a cell, in pixels")
    parser.add_argument("--output", type=Path, required=True, help="a .jpg or .png file")
    args = parser.parse_args(argv)

    quiet_transformers()
    model, processor = load_model(EfficientTamVideoModel, args.model, choose_device("cpu"), "float32")
    kind, seed = args.video.rsplit("-", 1)
    video = stress_video(kind, int(seed))
    ids = [int(i) for i in np.unique(video.labels) if i]
    truth = [{i: labels == i for i in ids} for labels in video.labels]
    given = [AnnotatedFrame(frame, masks) for frame, masks in zip(video.frames, truth, strict=True)]
    rows = {"truth": truth}
    for name in args.strategies:
        tracked = track(model, processor, given, memory={"memory_selection": name})
        rows[name] = [frame.predicted for frame in tracked]
    shown = args.frames or np.linspace(0, len(given) - 1, 6).round().astype(int).tolist()
    cells = [overlay_masks(video.frames[t], masks[t]) for masks in rows.values() for t in shown]
    captions = [f"{name}, frame {t}" if t == shown[0] else f"{t}" for name in rows for t in shown]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(cells, len(shown), captions=captions, cell_width=args.width)
    Image.fromarray(sheet).save(args.output, quality=80)


if __name__ == "__main__":
    main()
