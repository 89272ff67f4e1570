"""`efficienttam evaluate`: evaluate a model on published datasets, one command for each protocol of the paper.

This module handles input and output folders; `evaluation.runner` evaluates videos, `evaluation.image_protocol` images,
and `evaluation.ablations` ablations.
"""

from __future__ import annotations

import argparse
import datetime
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..app.stopping import exit_code
from ..evaluation.prompt_kinds import PROMPTS, Prompt
from .common import add_model_arguments, add_output_arguments
from .mask_arguments import add_mask_arguments, mask_options
from .memory_arguments import add_memory_arguments, memory_names, memory_options


if TYPE_CHECKING:
    import torch

    from ..data.loading import VideoRecords
    from ..evaluation.results import EvaluationResult
    from ..evaluation.runner import RunOptions
    from ..evaluation.sharing import Processes
    from ..modeling_efficienttam_video import EfficientTamVideoModel
    from ..processing_efficienttam import EfficientTamVideoProcessor

DEFAULT_OUTPUT = Path("efficienttam-evaluation")


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command: a parser for each protocol."""
    parser = commands.add_parser(
        "evaluate",
        help="evaluate a model on a dataset, by the paper's protocols",
        description="Evaluate a model on a dataset, by the protocols of the paper. Finished videos are kept: run the "
        "same "
        "command again to continue a stopped run. To use several processes, run: accelerate launch -m "
        "efficienttam_hf.cli evaluate ..., or: torchrun --nproc-per-node 4 -m efficienttam_hf.cli evaluate ...",
        epilog="example: efficienttam evaluate vos --data DAVIS --dataset davis2017 --split val",
    )
    protocols = parser.add_subparsers(metavar="PROTOCOL", required=True, parser_class=type(parser))
    _add_video_protocol(protocols, "vos", "semi-supervised video object segmentation (Table 1)", "mask", options)
    everything = list(PROMPTS)
    _add_video_protocol(protocols, "prompted-video", "prompts on the first frame (Table 2)", everything, options)
    _add_images(protocols, options)
    _add_ablations(protocols, options)


def _add_video_protocol(protocols: Any, name: str, what: str, prompt: str | list[str], options: dict[str, Any]) -> None:
    parser = protocols.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}: each object is prompted on the first frame on which it is "
        "annotated, and "
        "tracked from there. Videos with hidden annotations are tracked and written, but not evaluated.",
        **options,
    )
    output = _add_video_arguments(parser, prompt)
    add_memory_arguments(parser, several=True)
    output.add_argument("--save-masks", action="store_true", help="write predicted masks in the dataset's own layout")
    output.add_argument("--zip", action="store_true", help="also pack the predicted masks for the dataset's server")
    parser.set_defaults(run=run_videos, protocol=name)


def _add_ablations(protocols: Any, options: dict[str, Any]) -> None:
    parser = protocols.add_parser(
        "ablate",
        help="ablations: one change of the design at a time (Tables 4 to 8)",
        description="Evaluate a model unchanged and with one change of its design at a time, without training it "
        "again, "
        "and print the tables.",
        **options,
    )
    _add_video_arguments(parser, "mask")
    group = parser.add_argument_group("ablations")
    group.add_argument(
        "--ablations",
        metavar="NAME",
        nargs="+",
        help="any of cross-attention, resolution, object-pointers, pooling-scope, windowed (default: all)",
    )
    group.add_argument(
        "--image-sizes", metavar="PIXELS", type=int, nargs="+", help="input sizes of the resolution ablation"
    )
    parser.set_defaults(run=run_ablations, protocol="ablate", save_masks=False, zip=False)


def _add_video_arguments(parser: argparse.ArgumentParser, prompt: str | list[str]) -> argparse._ArgumentGroup:
    """Options of all that evaluates videos; the group of those of the output."""
    add_data_arguments(parser)
    add_model_arguments(parser)
    group = parser.add_argument_group("protocol")
    several: dict[str, Any] = {} if isinstance(prompt, str) else {"nargs": "+"}
    told = prompt if isinstance(prompt, str) else "all, one after the other"
    group.add_argument(
        "--prompt", choices=PROMPTS, default=prompt, help=f"the prompt of each object (default: {told})", **several
    )
    group.add_argument("--convention", metavar="NAME", help="the evaluation convention (default: the dataset's)")
    group.add_argument(
        "--unseen", metavar="FILE", type=Path, help="file with the names of LVOS' unseen videos, one per line"
    )
    group.add_argument("--max-frames", metavar="N", type=int, help="use only the first N frames of each video")
    output = parser.add_argument_group("output")
    add_output_arguments(output, f"{DEFAULT_OUTPUT}/<protocol, dataset, model>")
    return output


def _add_images(protocols: Any, options: dict[str, Any]) -> None:
    parser = protocols.add_parser(
        "images",
        help="points on the objects of images (Table 3)",
        description="Prompted image segmentation: each object gets a click and further correcting clicks, and its "
        "mask is "
        "evaluated after each. Any dataset can be used; the annotated frames of videos are used as images.",
        **options,
    )
    add_data_arguments(parser)
    add_model_arguments(parser)
    group = parser.add_argument_group("protocol")
    group.add_argument("--clicks", metavar="N", type=int, default=5, help="clicks per object, at most (default: 5)")
    group.add_argument("--frames-per-video", metavar="N", type=int, help="use N annotated frames of each video")
    add_output_arguments(parser.add_argument_group("output"), f"{DEFAULT_OUTPUT}/<protocol, dataset, model>")
    parser.set_defaults(run=run_images, protocol="images")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """`--data`, `--dataset`, `--split`, `--sequences`, `--limit` and what the values of masks mean."""
    group = parser.add_argument_group("data")
    group.add_argument("--data", metavar="ROOT", type=Path, help="folder of the dataset; not needed for stress")
    group.add_argument(
        "--dataset",
        metavar="KIND",
        help="davis2016, davis2017, mose, lvos, sav_val, sav_test, youtube_vos2019, folder, stress (synthetic, see "
        "docs/memory.md), ... (see docs/data.md); by default, DAVIS and folder are recognised",
    )
    group.add_argument("--split", help="split of the dataset (default: val of DAVIS, and otherwise all videos)")
    group.add_argument("--sequences", metavar="NAME", nargs="+", help="use only these videos")
    group.add_argument("--limit", metavar="N", type=int, help="use only the first N videos")
    add_mask_arguments(group)


def _load_data(args: argparse.Namespace) -> tuple[VideoRecords, str, str | None]:
    """The videos that `add_data_arguments` names, and what kind and split of dataset they are of."""
    from ..app.datasets import load_data

    return load_data(args.data, args.dataset, args.split, args.sequences, args.limit, mask_options(args))


def output_folder(args: argparse.Namespace, kind: str, split: str | None) -> Path:
    """`--output`, or a folder named after what is evaluated."""
    from ..output_folders import check_place
    from ..safe_names import safe_name

    if args.output is not None:
        check_place(args.output)
        return args.output
    return DEFAULT_OUTPUT / safe_name("-".join(filter(None, (args.protocol, kind, split, Path(args.model).name))))


def run_videos(args: argparse.Namespace) -> int:
    """Evaluate videos, write reports, and say what came out. Returns 1 if some could not be evaluated."""
    from ..evaluation.memory_comparison import write_comparison
    from ..evaluation.report import write_overview
    from ..evaluation.runner import evaluate_videos
    from ..output_folders import OutputFolder

    prompts = [args.prompt] if isinstance(args.prompt, str) else args.prompt
    runs = [(prompt, name, memory_options(args, name)) for prompt in prompts for name in memory_names(args)]
    names = [name for _, name, _ in runs]
    if len(prompts) > 1 and len(names) > len(prompts):
        raise ValueError("Several --memory are compared with one prompt: give one --prompt, such as --prompt box.")
    job = _prepare(args)
    if len(runs) > 1 and len(names) == len(prompts):
        OutputFolder(job.output).check("report.md", overwrite=True)  # now, rather than when all is computed
    results = []
    for prompt, name, memory in runs:
        folder = prompt if len(prompts) > 1 else name
        output = job.output / folder if len(runs) > 1 and folder else job.output
        options = replace(job.options, prompt=cast(Prompt, prompt), memory=memory, output=output)
        try:
            results.append(evaluate_videos(job.model, job.processor, job.records, options, job.processes))
        except KeyboardInterrupt as stop:
            return _stopped(job, stop)
        if job.processes.is_main:
            _report(results[-1], output, args)
            if args.zip:
                _pack(results[-1], output)
    if job.processes.is_main and len(results) > len(prompts):
        table = write_comparison(dict(zip(map(str, names), results, strict=True)), job.output, command=args.command)
        print(table.read_text(encoding="utf-8"))
        print(f"Comparison: {table}")
    elif job.processes.is_main and len(results) > 1:
        print(f"Overview: {write_overview(results, job.output, command=args.command, date=_today())}")
    return 1 if any(result.failures for result in results) else 0


def run_ablations(args: argparse.Namespace) -> int:
    """Evaluate variants of a model, and print their tables. Returns 1 if some videos could not be evaluated."""
    from ..evaluation import ablations
    from ..output_folders import OutputFolder

    job = _prepare(args)
    OutputFolder(job.output).check("report.md", overwrite=True)  # now, rather than when all is computed
    names = args.ablations or tuple(ablations.ABLATIONS)
    variants = ablations.variants_of(job.model.config, names, args.image_sizes)
    try:
        rows = ablations.run_ablations(job.model, job.processor, job.records, job.options, variants, job.processes)
    except KeyboardInterrupt as stop:
        return _stopped(job, stop)
    if job.processes.is_main:
        report = ablations.write_ablations(rows, job.output, args.command)
        print(report.read_text(encoding="utf-8"))
        print(f"Report: {report}")
    return 1 if any(row.result.failures for row in rows) else 0


@dataclass
class _Job:
    """What the options of a video protocol amount to."""

    records: VideoRecords
    options: RunOptions
    processes: Processes
    model: EfficientTamVideoModel
    processor: EfficientTamVideoProcessor

    @property
    def output(self) -> Path:
        """The folder of results; a command always has one."""
        assert self.options.output is not None
        return Path(self.options.output)


def _prepare(args: argparse.Namespace) -> _Job:
    """Find the data and load the model; what is wrong with the options is found before that takes time."""
    from ..app.loading import load_model
    from ..data.layouts import rules_of
    from ..evaluation.conventions import seen_and_unseen_videos
    from ..evaluation.runner import RunOptions, default_convention
    from ..evaluation.sharing import Processes
    from ..modeling_efficienttam_video import EfficientTamVideoModel

    records, kind, split = _load_data(args)
    if rules_of(kind).images:
        raise ValueError(f"{kind} has images, not videos: efficienttam evaluate images --dataset {kind} ...")
    processes = Processes()
    device, model_name = _device_and_model(args, processes)
    options = RunOptions(
        protocol=args.protocol,
        dataset=kind,
        split=split or "",
        model=model_name,
        convention=args.convention or default_convention(kind),
        groups=None if args.unseen is None else seen_and_unseen_videos(records.names, args.unseen),
        max_frames=args.max_frames,
        output=output_folder(args, kind, split),
        save_masks=args.save_masks or args.zip,
        pictures=True,
        overwrite=args.overwrite,
        progress=True,
    )
    return _Job(records, options, processes, *load_model(EfficientTamVideoModel, model_name, device, args.dtype))


def _device_and_model(args: argparse.Namespace, processes: Processes) -> tuple[torch.device, str]:
    """The device of this process, and the model's name; says which was taken where none was named."""
    from ..app.loading import choose_device, choose_model, quiet_transformers

    device = choose_device(args.device) if args.device != "auto" or processes.device is None else processes.device
    quiet_transformers()
    chosen = choose_model(args.model, device)
    if processes.is_main and args.model is None:
        print(f"Model: {chosen.description}; {device}, {args.dtype}.")
    args.model = chosen.name  # also where the name of the results' folder comes from
    return device, chosen.name


def _stopped(job: _Job, stop: KeyboardInterrupt) -> int:
    if job.processes.is_main:
        print(f"\nStopped. Finished videos are in '{job.output}'; run the same command again to continue.")
    return exit_code(stop)


def run_images(args: argparse.Namespace) -> int:
    """Evaluate images, and write a report. Returns 1 if some could not be evaluated."""
    from ..app.loading import load_model
    from ..evaluation.image_protocol import ImageOptions, evaluate_images
    from ..evaluation.sharing import Processes
    from ..modeling_efficienttam_video import EfficientTamVideoModel

    records, kind, split = _load_data(args)
    processes = Processes()
    device, model_name = _device_and_model(args, processes)
    options = ImageOptions(
        dataset=kind,
        split=split or "",
        model=model_name,
        clicks=args.clicks,
        frames_per_video=args.frames_per_video,
        output=output_folder(args, kind, split),
        overwrite=args.overwrite,
        progress=True,
    )
    model, processor = load_model(EfficientTamVideoModel, model_name, device, args.dtype)
    try:
        result = evaluate_images(model, processor, records, options, processes)
    except KeyboardInterrupt as stop:
        if processes.is_main:
            print(f"\nStopped. Finished images are in '{options.output}'; run the same command again to continue.")
        return exit_code(stop)
    if processes.is_main:
        assert options.output is not None  # a command always has one
        _report(result, Path(options.output), args)
    return 1 if result.failures else 0


def _report(result: EvaluationResult, folder: Path, args: argparse.Namespace) -> None:
    """Write the report, and say what came out."""
    from ..evaluation.report import write_report

    report = write_report(result, folder, command=args.command, date=_today())
    print(describe(result))
    for failed in result.failures:
        print(f"  left out: {failed.name}: {failed.error}")
    if result.failures:
        print("Run the same command again to retry them.")
    print(f"Report: {report}")


def _pack(result: EvaluationResult, folder: Path) -> None:
    """The predictions as a zip for the dataset's server, if all of them are there."""
    from ..evaluation.submission import write_zip
    from ..output_folders import OutputFolder

    if result.failures:
        print("No zip was made, because the server needs all videos of the dataset.")
        return
    path = OutputFolder(folder).add(f"{'-'.join(filter(None, (result.dataset, result.split)))}.zip")
    write_zip(path, folder / "predictions", [video.name for video in result.videos], result.dataset)
    print(f"For the server: {path}")


def describe(result: EvaluationResult) -> str:
    """A line: what was evaluated, and the numbers in percent."""
    what = " ".join(filter(None, (result.dataset, result.split, result.prompt)))
    unit = "images" if result.protocol == "images" else "videos"
    share = f"{len(result.scored)} of " if result.failures else ""
    speed = f"{share}{len(result.videos)} {unit}, {result.frames_per_second:.1f} frames/s"
    if not result.scored:
        why = "" if result.failures else ": no masks are given beyond those of the prompts"
        return f"{what}: nothing could be scored{why} ({speed})"
    shown: list[str] = [name for name in ("G", "J&F", "J", "F") if name in result.summary] or list(result.summary)
    return f"{what}: {', '.join(f'{name} {100 * result.summary[name]:.1f}' for name in shown)} ({speed})"


def _today() -> str:
    return datetime.date.today().isoformat()
