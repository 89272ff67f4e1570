"""`efficienttam train`: a training run from a configuration, or on from where it stopped."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction, **options) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "train",
        help="train a model, from scratch or from a checkpoint",
        description="Train EfficientTAM. With several processes: accelerate launch -m efficienttam_hf.cli train ...",
        epilog="All fields are documented in efficienttam_hf/training/config.py and docs/training.md.",
        **options,
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="the run, as YAML or JSON")
    parser.add_argument("--model", metavar="NAME", help="a preset to train from scratch, or a checkpoint to start from")
    parser.add_argument("--output", metavar="FOLDER", help="the run's folder")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in that folder")
    parser.add_argument("--seed", metavar="N", type=int, help="of everything drawn at random")
    parser.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", help="any field, as in stages.0.steps=2000 or losses.dice_weight=2"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..training.config import ConfigError, load_config
    from ..training.loop import TrainingError, train

    logging.basicConfig(level=logging.WARNING)
    flags = {name: getattr(args, name) for name in ("model", "output", "seed") if getattr(args, name) is not None}
    overrides = [f"{name}={value}" for name, value in flags.items()] + args.overrides
    if args.config is None and not overrides:
        raise ConfigError("Which run? Give --config FILE, or at least --model and --output.")
    try:
        result = train(load_config(args.config, overrides), resume=args.resume)
    except TrainingError as error:
        raise SystemExit(f"efficienttam: error: {error}") from error
    score = "" if result.score is None else f", J&F {result.score:.1f} (best {result.best_score:.1f})"
    if result.stopped:
        print(f"Stopped after step {result.steps}{score}. {result.checkpoint} is saved; --resume goes on from it.")
        return 130
    print(f"Done: {result.steps} steps{score}. The model is in {Path(result.checkpoint).parents[1] / 'last'}.")
    return 0
