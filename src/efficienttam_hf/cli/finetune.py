"""`efficienttam finetune`: fine-tune a model on annotated videos and evaluate it before and after."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..evaluation.prompt_kinds import PROMPTS
from ..safe_names import one_line
from .common import MODEL_HELP
from .mask_arguments import add_mask_arguments, mask_options
from .train import report_once


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "finetune",
        help="fine-tune a model on a folder of frames and masks",
        description="Fine-tune a model on annotated videos, and evaluate it on held-out videos before and after. The "
        "folder contains frames/<video>/00000.jpg and masks/<video>/00000.png (indexed PNGs, or 0 and 255), or is a "
        "published dataset in its own layout.",
        epilog="example: efficienttam finetune my_videos --output runs/mine --steps 500",
        **options,
    )
    parser.add_argument("data", metavar="FOLDER", type=Path, help="the annotated videos")
    parser.add_argument(
        "--output", "--out", metavar="FOLDER", type=Path, default=Path("runs/finetuned"), help="folder of the run"
    )
    parser.add_argument("--model", metavar="NAME", help=f"initial model: {MODEL_HELP}")
    parser.add_argument(
        "--kind", help="kind of dataset, such as davis2017 or sav_train; by default, DAVIS and folder are recognised"
    )
    parser.add_argument("--split", help="split of the dataset, if it has splits")
    add_mask_arguments(parser)
    parser.add_argument(
        "--hold-out",
        metavar="VIDEO",
        nargs="+",
        help="videos to evaluate and not to train on (default: a fifth of them)",
    )
    parser.add_argument("--steps", metavar="N", type=int, default=120, help="optimisation steps (default: 120)")
    parser.add_argument("--num-frames", metavar="N", type=int, default=4, help="frames per training clip (default: 4)")
    parser.add_argument("--batch-size", metavar="N", type=int, default=4, help="clips per step (default: 4)")
    parser.add_argument(
        "--learning-rate", metavar="RATE", type=float, default=3e-5, help="highest learning rate (default: 3e-5)"
    )
    parser.add_argument(
        "--prompt", choices=PROMPTS, default="mask", help="prompt of each object in the evaluation (default: mask)"
    )
    parser.add_argument("--resume", action="store_true", help="continue a run that was stopped")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        default=[],
        help="set any field of the run's configuration, as in precision=bf16",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return report_once(lambda: _finetune(args))


def _finetune(args: argparse.Namespace) -> int:
    from ..atomic_file import atomic_path
    from ..training.config import load_config
    from ..training.finetuning import finetune, finetuning_config
    from ..training.processes import is_first_process

    config = finetuning_config(
        args.data,
        _first_model(args),
        args.output,
        kind=args.kind,
        split=args.split,
        held_out=args.hold_out,
        steps=args.steps,
        num_frames=args.num_frames,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        prompt=args.prompt,
        mask_options=mask_options(args),
    )
    config = load_config(config.to_dict(), args.set)
    is_main = is_first_process()
    training, held_out = config.data[0].sequences or [], config.evaluation.sequences or []
    if is_main:
        print(
            f"Training on {len(training)} videos, evaluating on {len(held_out)}: "
            f"{', '.join(map(one_line, held_out)) or 'too few videos'}."
        )
    result = finetune(config, args.resume)
    if result.training.stopped:
        print(f"Stopped after step {result.training.steps}; --resume continues from there.")
        return 128 + result.training.signal
    if not is_main:
        return 0
    if result.before:
        print(_table(result.before, result.after))
        scores = {"before": result.before, "after": result.after}
        with atomic_path(args.output / "scores.json") as temporary:
            temporary.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    print(f"The model is in {args.output / 'last'}: efficienttam track VIDEO --model {args.output / 'last'} ...")
    return 0


def _first_model(args: argparse.Namespace) -> str:
    """The model that the run begins with; of a run that goes on, the one that it began with."""
    from ..app.loading import choose_device, choose_model
    from ..training.config import read_values
    from ..training.processes import is_first_process

    earlier = args.output / "config.json"
    if args.model is None and args.resume and earlier.is_file():
        return read_values(earlier)["model"]
    chosen = choose_model(args.model, choose_device("auto"))
    if is_first_process() and args.model is None:
        print(f"Model: {chosen.description}.")
    return chosen.name


def _table(before: dict[str, float], after: dict[str, float]) -> str:
    """J&F in percent of each video, and their mean."""
    rows = [(name, before[name], after[name]) for name in before]
    rows.append(("mean", sum(before.values()) / len(before), sum(after.values()) / len(after)))
    lines = [f"{'J&F':<24} before  after"]
    lines += [f"{one_line(name):<24} {old:6.1f} {new:6.1f}" for name, old, new in rows]
    return "\n".join(lines)
