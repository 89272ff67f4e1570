"""`efficienttam pseudo-label`: masks and tracks for pictures that nobody annotated, drawn by a promptable model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "pseudo-label",
        help="draw masks for photographs and tracks for clips with a larger model, to fine-tune on",
        description="Label a folder of photographs and clips with a promptable model: objects are found on a grid of "
        "clicks and followed through clips, and what is kept is what the model believes in and what forward and "
        "backward agree on. The result is a folder that `efficienttam finetune` reads, with sheets to look at. A run "
        "that is stopped goes on when it is started again.",
        epilog="example: efficienttam pseudo-label my_videos --teacher facebook/sam2.1-hiera-large --output labels",
        **options,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="photographs, clips, or labels to --remove from")
    parser.add_argument(
        "--teacher",
        metavar="NAME",
        nargs="+",
        help="a folder, a Hub id or a name of a model for mask generation (SAM, SAM 2, EfficientTAM, ...), or two ONNX "
        "files of SAM's interface, encoder and decoder; by default the model that --model of the other commands has by "
        "default; a larger one draws better labels",
    )
    parser.add_argument(
        "--proposer",
        metavar="FILE",
        help="an ONNX file of a saliency network (U2-Net's interface) that says where whole objects are",
    )
    parser.add_argument(
        "--output", "--out", metavar="FOLDER", type=Path, default=Path("labels"), help="default: labels"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto (default): the best there is")
    parser.add_argument("--threads", metavar="N", type=int, help="on a CPU; default: as many as the teacher takes")
    clips = parser.add_argument_group("clips")
    clips.add_argument("--fps", type=float, default=6.0, help="labelled frames a second (default: 6)")
    clips.add_argument("--max-frames", metavar="N", type=int, default=48, help="of a clip (default: 48)")
    clips.add_argument(
        "--seed-every",
        metavar="N",
        type=int,
        default=16,
        help="labelled frames after which objects are looked for again; 0 for the first frame only (default: 16)",
    )
    clips.add_argument("--max-objects", metavar="N", type=int, default=4, help="of a clip (default: 4)")
    clips.add_argument(
        "--min-agreement", metavar="IOU", type=float, default=0.75, help="of forward and backward (default: 0.75)"
    )
    masks = parser.add_argument_group("masks")
    masks.add_argument("--grid", metavar="N", type=int, default=8, help="clicks along the longer side (default: 8)")
    masks.add_argument("--min-score", metavar="P", type=float, default=0.85, help="least predicted IoU (default: 0.85)")
    masks.add_argument("--min-stability", metavar="P", type=float, default=0.85, help="least stability (default: 0.85)")
    masks.add_argument("--max-side", metavar="PIXELS", type=int, default=960, help="of what is written (default: 960)")
    parser.add_argument(
        "--remove",
        metavar="VIDEO[:ID]",
        nargs="+",
        help="take these out of the labels in FOLDER, after a look at its sheets/, and label nothing",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..app.loading import choose_device, choose_model, quiet_transformers
    from ..data.pseudo_labels.labelling import LabellingOptions, find_media, label_folder, load_teacher
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
    for number, result in enumerate(label_folder(args.folder, args.output, teacher, options, proposer), start=1):
        objects += result.objects
        problems += result.problem is not None
        known = " (labelled before)" if result.is_known else ""
        found = result.problem or f"{result.objects} object{'' if result.objects == 1 else 's'}{known}"
        print(f"[{number}/{total}] {result.file.name}: {found}", flush=True)
    print(f"{objects} objects in '{args.output}'. Look at {args.output / 'sheets'}, then")
    print(f"  efficienttam pseudo-label {args.output} --remove VIDEO:ID ...   what does not look right")
    print(f"  efficienttam finetune {args.output} --output runs/mine")
    return 1 if problems and not objects else 0
