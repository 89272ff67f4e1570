"""Score a model on DAVIS, or a folder laid out like it: objects are shown on their first frame and tracked from there.

    python scripts/evaluate.py --model FOLDER --data DAVIS                        the mask of the first frame is given
    python scripts/evaluate.py --model FOLDER --data DAVIS --prompt click         one click on the first frame
    python scripts/evaluate.py --model FOLDER --data DAVIS --sequences dog libby --output results

Prints J&F, J and F in percent, and frames per second of tracking alone. With `--output`, `scores.json` there holds the
scores of every frame, and `<sequence>.jpg` shows tracked masks above annotated ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from efficienttam_hf import EfficientTamVideoModel
from efficienttam_hf.atomic_file import atomic_path
from efficienttam_hf.cli.common import add_model_arguments, choose_device, load_model
from efficienttam_hf.evaluation.davis_folder import evaluate_davis_folder


def main(argv: list[str] | None = None) -> int:
    """Evaluate, print a table, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--data", metavar="ROOT", required=True, help="the folder with JPEGImages and Annotations")
    parser.add_argument("--prompt", choices=("mask", "click", "box"), default="mask", help="default: mask")
    parser.add_argument("--sequences", metavar="NAME", nargs="+", help="default: the validation list, or all")
    parser.add_argument("--output", metavar="DIR", type=Path, help="where scores and pictures go")
    args = parser.parse_args(argv)
    if args.model is None:
        parser.error("give the model to evaluate: --model FOLDER")

    try:
        model, processor = load_model(EfficientTamVideoModel, args.model, choose_device(args.device), args.dtype)
        scores = evaluate_davis_folder(
            model, processor, args.data, args.sequences, args.prompt, progress=True, out=args.output
        )
    except (OSError, ValueError, ImportError) as error:
        parser.error(str(error))
    print(scores.to_markdown())
    if args.output is not None:
        settings = {"model": args.model, "data": args.data, "prompt": args.prompt}
        with atomic_path(args.output / "scores.json") as temporary:
            temporary.write_text(json.dumps({**settings, **scores.to_dict()}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
