"""`efficienttam pseudo-label`: let a promptable model draw masks for images and videos without annotations."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "pseudo-label",
        help="let a larger model draw masks for images and videos, to fine-tune on them",
        description="Label a folder of images and videos with a promptable model. A grid of points finds objects, "
        "which "
        "are then followed through each video. Masks are kept if the model is certain of them and if the forward and "
        "backward directions agree. The result is a folder for `efficienttam finetune`, with contact sheets to check. "
        "Run the command again to continue a stopped run.",
        epilog="example: efficienttam pseudo-label my_videos --teacher facebook/sam2.1-hiera-large --output labels",
        **options,
    )
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="folder of images and videos; with --remove, the folder of labels"
    )
    parser.add_argument(
        "--teacher",
        metavar="NAME",
        nargs="+",
        help="a folder, a Hub id or a name of a model for mask generation (SAM, SAM 2, EfficientTAM, ...), or two ONNX "
        "files with SAM's interface, encoder and decoder; the default is that of --model in the other commands, but a "
        "larger model draws better labels",
    )
    parser.add_argument(
        "--proposer",
        metavar="FILE",
        help="an ONNX file of a saliency network (U2-Net's interface) that proposes whole objects",
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help="a JSON file with clicks or boxes of the objects to label, by the name of the image or video: "
        '{"dog.mp4": [{"id": 1, "prompts": [{"frame": 0, "box": [10, 20, 110, 220]}]}]}; in other files, objects are '
        "found as usual",
    )
    parser.add_argument(
        "--output",
        "--out",
        metavar="FOLDER",
        type=Path,
        default=Path("labels"),
        help="folder for the labels (default: labels)",
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (default): a GPU if there is one"
    )
    parser.add_argument("--threads", metavar="N", type=int, help="number of CPU threads (default: the teacher's)")
    clips = parser.add_argument_group("videos")
    clips.add_argument("--fps", type=float, default=6.0, help="labelled frames per second (default: 6)")
    clips.add_argument(
        "--max-frames", metavar="N", type=int, default=48, help="labelled frames per video, at most (default: 48)"
    )
    clips.add_argument(
        "--seed-every",
        metavar="N",
        type=int,
        default=16,
        help="search for objects again after N labelled frames; 0: only on the first frame (default: 16)",
    )
    clips.add_argument(
        "--max-objects", metavar="N", type=int, default=4, help="objects per video, at most (default: 4)"
    )
    clips.add_argument(
        "--min-agreement",
        metavar="IOU",
        type=float,
        default=0.75,
        help="lowest IoU of the two directions (default: 0.75)",
    )
    masks = parser.add_argument_group("masks")
    masks.add_argument("--grid", metavar="N", type=int, default=8, help="points along the longer side (default: 8)")
    masks.add_argument(
        "--min-score", metavar="P", type=float, default=0.85, help="lowest predicted IoU (default: 0.85)"
    )
    masks.add_argument(
        "--min-stability", metavar="P", type=float, default=0.85, help="lowest stability (default: 0.85)"
    )
    masks.add_argument(
        "--max-side", metavar="PIXELS", type=int, default=960, help="longer side of the written frames (default: 960)"
    )
    parser.add_argument(
        "--remove",
        metavar="VIDEO[:ID]",
        nargs="+",
        help="remove these videos or objects from the labels in FOLDER, after you checked its sheets/; nothing is "
        "labelled",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..app.loading import choose_device, choose_model, quiet_transformers
    from ..data.pseudo_labels.labelling import LabellingOptions, find_media, label_folder, load_teacher, read_prompts
    from ..data.pseudo_labels.proposals import ProposalOptions
    from ..data.pseudo_labels.saliency import SaliencyProposer
    from ..data.pseudo_labels.tracks import TrackOptions
    from ..data.pseudo_labels.writing import remove_objects

    if args.remove:
        remove_objects(args.folder, args.remove)
        print(f"Removed {', '.join(args.remove)}.")
        return 0
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads must be at least 1, got {args.threads}.")
    options = LabellingOptions(
        fps=args.fps,
        max_frames=args.max_frames,
        max_side=args.max_side,
        seed_every=args.seed_every,
        proposals=ProposalOptions(grid=args.grid, min_iou=args.min_score, min_stability=args.min_stability),
        tracks=TrackOptions(max_objects=args.max_objects, min_agreement=args.min_agreement),
    )
    total = len(find_media(args.folder))
    prompts = read_prompts(args.prompts, args.folder) if args.prompts else None
    quiet_transformers()
    device = choose_device(args.device)
    names = args.teacher
    if names is None:
        chosen = choose_model(None, device)
        print(f"Teacher: {chosen.description}", flush=True)
        names = [chosen.name]
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)  # of a teacher in torch; ONNX files have their own
    teacher = load_teacher(names, str(device), args.threads)
    objects = problems = 0
    proposer = SaliencyProposer(args.proposer, args.threads) if args.proposer else None
    results = label_folder(args.folder, args.output, teacher, options, proposer, prompts)
    for number, result in enumerate(results, start=1):
        objects += result.objects
        problems += result.problem is not None
        known = " (labelled before)" if result.is_known else ""
        found = result.problem or f"{result.objects} object{'' if result.objects == 1 else 's'}{known}"
        print(f"[{number}/{total}] {result.file.name}: {found}", flush=True)
    print(f"{objects} objects in '{args.output}'. Check {args.output / 'sheets'}, then run")
    print(f"  efficienttam pseudo-label {args.output} --remove VIDEO:ID ...   to remove wrong labels")
    print(f"  efficienttam finetune {args.output} --output runs/mine")
    return 1 if problems and not objects else 0
