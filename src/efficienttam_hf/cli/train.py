"""`efficienttam train`: start a training run from a configuration, or resume one."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "train",
        help="train a model, from scratch or from a checkpoint",
        description="Train EfficientTAM. To use several processes, run: accelerate launch -m efficienttam_hf.cli "
        "train ..., "
        "or on a CPU: torchrun --nproc-per-node 2 -m efficienttam_hf.cli train ...",
        epilog="All fields are documented in efficienttam_hf/training/config.py and docs/training.md.",
        **options,
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="configuration of the run, as YAML or JSON")
    parser.add_argument(
        "--model", metavar="NAME", help="preset:NAME to train from scratch, or a checkpoint to start from"
    )
    parser.add_argument("--output", "--out", metavar="FOLDER", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in that folder")
    parser.add_argument("--seed", metavar="N", type=int, help="seed of all random choices")
    parser.add_argument(
        "overrides",
        metavar="KEY=VALUE",
        nargs="*",
        help="set any field, as in stages.0.steps=2000 or losses.dice_weight=2",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return report_once(lambda: _train(args))


def report_once(run: Callable[[], int]) -> int:
    """Run a training command. Only the first process prints an error that all processes find.

    Returns:
        The command's exit code: 2 for a configuration that cannot be used, 1 for a training that cannot go on.
    """
    from ..training.config import ConfigError
    from ..training.loop import TrainingError
    from ..training.processes import is_first_process

    quiet_libraries()
    try:
        return run()
    except (ConfigError, TrainingError) as error:
        if is_first_process():
            print(f"efficienttam: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


def _train(args: argparse.Namespace) -> int:
    from ..training.config import ConfigError, load_config, read_values
    from ..training.loop import train
    from ..training.processes import is_first_process

    values = {} if args.config is None else read_values(args.config)
    given = {name: getattr(args, name) for name in ("model", "output", "seed") if getattr(args, name) is not None}
    if not (values or given or args.overrides):
        raise ConfigError("There is no configuration. Give --config FILE, or at least --model and --output.")
    result = train(load_config({**values, **given}, args.overrides, where=args.config), resume=args.resume)
    if not is_first_process():
        return 128 + result.signal if result.stopped else 0
    score = "" if result.score is None else f", J&F {result.score:.1f} (best {result.best_score:.1f})"
    if result.stopped:
        print(f"Stopped after step {result.steps}{score}. {result.checkpoint} is saved; --resume continues from it.")
        return 128 + result.signal
    print(f"Done: {result.steps} steps{score}. The model is in {result.checkpoint.parents[1] / 'last'}.")
    return 0


def quiet_libraries() -> None:
    """Silence messages and progress bars of other libraries."""
    from ..app.loading import quiet_transformers

    logging.basicConfig(level=logging.WARNING, format="efficienttam: %(message)s")
    logging.getLogger("efficienttam_hf").setLevel(logging.INFO)
    quiet_transformers()
