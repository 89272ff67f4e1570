"""Options of `track` for objects that are found instead of prompted."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from ..app.defaults import MAX_OBJECT_ID


if TYPE_CHECKING:
    from ..discovery import Detector, FinderOptions
    from ..prompts import Prompts


NEEDS_A_SOURCE = ("detect_frame", "detect_every", "detect_threshold", "max_objects", "no_return")


def add_detect_arguments(parser: argparse.ArgumentParser) -> None:
    """`--text`, `--detect`, `--everything`, and how objects are found."""
    group = parser.add_argument_group(
        "objects that are found",
        "Instead of prompts, or beside prompts on the frame on which objects are looked for.",
    )
    group.add_argument(
        "--text",
        metavar="TEXT",
        nargs="+",
        help="find and track what these texts say, such as --text 'a dog' 'a red ball'",
    )
    group.add_argument(
        "--detect",
        metavar="MODEL",
        help="the detector, a folder or an id on the Hub: a model of Transformers for zero-shot-object-detection, "
        "which needs --text, or for object-detection, of which --text chooses classes (default with --text: "
        "IDEA-Research/grounding-dino-tiny)",
    )
    group.add_argument(
        "--everything", action="store_true", help="find and track all objects that the model sees, without names"
    )
    group.add_argument(
        "--detect-frame",
        metavar="F",
        type=int,
        help="number of the frame on which objects are looked for first (default: the first frame; with --direction "
        "backward, the last)",
    )
    group.add_argument(
        "--detect-every",
        metavar="N",
        type=int,
        help="look for new and lost objects again on every Nth frame after that; 0: never (default: 30)",
    )
    group.add_argument(
        "--detect-threshold",
        metavar="P",
        type=float,
        help="lowest score of a detection, 0 to 1 (default: 0.3 for texts, 0.5 for classes); with --everything, the "
        "lowest predicted IoU and stability of a mask (default: the highest of 0.85, 0.7, 0.55, 0.4 and 0.25 at which "
        "the model sees three objects)",
    )
    group.add_argument(
        "--max-objects",
        metavar="N",
        type=int,
        help=f"the largest number of objects, 1 to {MAX_OBJECT_ID}, with prompted ones (default: 20)",
    )
    group.add_argument(
        "--no-return",
        action="store_true",
        help="give a lost object that is found again a new id, as for things on a belt that look alike",
    )


def finds_objects(args: argparse.Namespace) -> bool:
    """Whether the options ask for objects to be found.

    Raises:
        ValueError: for options that do not go together, or whose values are none.
    """
    finds = args.everything or args.detect is not None or args.text is not None
    if not finds:
        given = [name for name in NEEDS_A_SOURCE if getattr(args, name) not in (None, False)]
        if given:
            raise ValueError(
                f"{_option(given[0])} says how objects are found, but nothing asks for that: give --text, --detect or "
                "--everything too."
            )
        return False
    if args.everything and (args.detect is not None or args.text is not None):
        other = "--text" if args.text is not None else "--detect"
        raise ValueError(f"--everything needs no detector: leave out {other}, or --everything.")
    if args.text is not None:
        from ..discovery.detections import checked_texts

        checked_texts(args.text)
        files = [text for text in args.text if os.path.isfile(text)] if args.video is None else []
        if files:
            raise ValueError(f"--text took the file '{files[0]}' as a text: put VIDEO before --text.")
    if args.detect_threshold is not None and not 0 <= args.detect_threshold <= 1:
        raise ValueError(f"--detect-threshold is from 0 to 1, got {args.detect_threshold}.")
    if args.detect_every is not None and args.detect_every < 0:
        raise ValueError(f"--detect-every is a number of frames, 0 for never; got {args.detect_every}.")
    if args.max_objects is not None and not 1 <= args.max_objects <= MAX_OBJECT_ID:
        raise ValueError(f"--max-objects is from 1 to {MAX_OBJECT_ID}, got {args.max_objects}.")
    return True


def finding_frame(args: argparse.Namespace, frames: range, prompts: Prompts) -> int:
    """The frame on which objects are looked for first.

    Raises:
        ValueError: if it is not one of the frames, or a prompt is on another frame: whether that object is detected
            could not be known.
    """
    frame = args.detect_frame
    if frame is None:
        frame = frames[-1] if args.direction == "backward" else frames[0]
    if frame not in frames:
        raise ValueError(f"--detect-frame {frame} is not one of the frames {frames[0]} to {frames[-1]}.")
    others = [(on, object_id) for on, on_frame in prompts.items() if on != frame for object_id in on_frame]
    if others:
        on, object_id = min(others)
        raise ValueError(
            f"Object {object_id} is prompted on frame {on}, and objects are looked for on frame {frame}, where it "
            f"could be found a second time. Give prompts on frame {frame} (--frame {frame}), or look on the other "
            f"frame (--detect-frame {on})."
        )
    return frame


def finder_options(args: argparse.Namespace) -> FinderOptions:
    """The options of the finder that the arguments ask for."""
    from ..discovery import FinderOptions
    from ..discovery.track_book import MatchRules

    rules: dict[str, Any] = {"returns": not args.no_return}
    if args.max_objects is not None:
        rules["max_objects"] = args.max_objects
    options: dict[str, Any] = {"threshold": args.detect_threshold, "rules": MatchRules(**rules)}
    if args.detect_every is not None:
        options["every"] = args.detect_every
    return FinderOptions(**options)


def detector_of(args: argparse.Namespace, device: Any) -> Detector | str:
    """The detector that the arguments name, or `"everything"`.

    Raises:
        DetectionError, ImportError: if it cannot be loaded; see `load_detector`.
    """
    from ..discovery.frame_view import EVERYTHING
    from ..discovery.transformers_detectors import load_detector

    if args.everything:
        return EVERYTHING
    return load_detector(args.detect, args.text, args.detect_threshold, device)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
