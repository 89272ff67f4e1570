"""`efficienttam benchmark`: measure speed and memory of several models in one run."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..app.defaults import PRESET_PREFIX, default_on


REPORT_NAMES = ("benchmark.json", "benchmark.md", "benchmark.png")


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "benchmark",
        help="measure speed and memory, together with other models",
        description="Measure frames per second, milliseconds per stage, operations and peak memory of models while "
        "they track, together with Transformers' SAM 2 and EdgeTAM and the published implementation. All models track "
        "the same frames in turns, so that a busy machine slows all of them equally. Ratios are relative to the first "
        "model.",
        epilog="example: efficienttam benchmark --model preset:efficienttam_s_2 --peers sam2-base-plus --objects 1 8",
        **options,
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        nargs="+",
        help="folders, ids on the Hub, names that `efficienttam models` lists (they are downloaded), or presets with "
        f"random weights, such as {PRESET_PREFIX}efficienttam_s_1; the default is that of the other commands",
    )
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help=f"use every --model as a preset with random weights, as with the prefix {PRESET_PREFIX}; speed does not "
        "depend on the weights, and nothing is downloaded",
    )
    parser.add_argument(
        "--peers",
        metavar="NAME",
        nargs="*",
        help="models to compare with, with random weights: sam2-tiny, sam2-base-plus, edgetam, edgetam-default; "
        "without "
        "a name, all of them",
    )
    parser.add_argument(
        "--reference", metavar="PATH", type=Path, help="a checkout of the published implementation to compare with"
    )
    parser.add_argument(
        "--reference-dtype",
        choices=("float32", "bfloat16"),
        help="data type of the published implementation (default: --dtype)",
    )
    group = parser.add_argument_group("video")
    group.add_argument(
        "--objects",
        metavar="N",
        type=int,
        nargs="+",
        default=[1],
        help="numbers of objects to track at once (default: 1)",
    )
    group.add_argument("--frames", metavar="N", type=int, default=10, help="timed frames per model (default: 10)")
    group.add_argument(
        "--warmup",
        metavar="N",
        type=int,
        help="frames before the timed ones (default: 8, when the memory bank is full; 20 with --compile)",
    )
    group.add_argument(
        "--video-size",
        metavar="WIDTHxHEIGHT",
        type=_size,
        default=(1280, 720),
        help="size of the video (default: 1280x720)",
    )
    group.add_argument(
        "--image-size", metavar="PIXELS", type=int, help="side of every model's input (default: the model's)"
    )
    group = parser.add_argument_group("computation")
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, or auto (default): a GPU if there is one")
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="data type of the weights and activations (default: float32)",
    )
    group.add_argument(
        "--threads", metavar="N", type=int, help="number of CPU threads of every model (default: torch's)"
    )
    group.add_argument(
        "--compile", action="store_true", help="compile the stages with torch.compile, which needs a C++ compiler"
    )
    group.add_argument("--no-memory", action="store_true", help="do not measure peak memory, which needs a second pass")
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="only show which kernels are used on this machine's CPU and the times that led to this choice",
    )
    parser.add_argument(
        "--output",
        "--out",
        metavar="DIR",
        type=Path,
        help="folder for benchmark.json, benchmark.md and benchmark.png; those of an earlier run are replaced",
    )
    parser.set_defaults(run=run)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"a size is WIDTHxHEIGHT, such as 1280x720; got {text!r}")
    return int(width), int(height)


def run(args: argparse.Namespace) -> int:
    """Measure and print. All options are checked before anything is measured."""
    if args.kernels:
        from ..benchmark.kernels import describe_kernels

        print(describe_kernels(args.threads))
        return 0
    from ..output_folders import OutputFolder

    if args.output is not None:
        OutputFolder(args.output).check(*REPORT_NAMES, overwrite=True)

    from tqdm import tqdm

    from ..app.loading import choose_device, choose_model, quiet_transformers
    from ..benchmark.peers import PEERS
    from ..benchmark.report import check_plotting, to_markdown, write_report
    from ..benchmark.runner import BenchmarkOptions
    from ..benchmark.runner import run as run_benchmark

    quiet_transformers()
    if args.output is not None:
        check_plotting()
    device = choose_device(args.device)
    models = args.model
    if models is None and args.random_weights:
        models = [default_on(device.type)]
    elif models is None:
        chosen = choose_model(None, device)
        print(f"Model: {chosen.description}", flush=True)
        models = [chosen.name]
    options = BenchmarkOptions(
        models=[f"{PRESET_PREFIX}{name}" for name in models] if args.random_weights else models,
        peers=() if args.peers is None else args.peers or PEERS,
        reference=args.reference,
        reference_dtype=args.reference_dtype,
        objects=args.objects,
        frames=args.frames,
        warmup=args.warmup,
        image_size=args.image_size,
        video_size=args.video_size,
        device=str(device),
        dtype=args.dtype,
        threads=args.threads,
        compiled=args.compile,
        memory=not args.no_memory,
    )
    from ..app.compiling import compiler_errors, keep_compiled_code

    if args.compile:
        keep_compiled_code()
    errors = compiler_errors() if args.compile else nullcontext()
    with tqdm(bar_format="{desc} ({elapsed})", leave=False) as status, errors:
        report = run_benchmark(options, lambda message: status.set_description_str(message))
    print(to_markdown(report))
    if args.output is not None:
        print("\n" + "\n".join(f"  {path}" for path in write_report(report, args.output)))
    return 0
