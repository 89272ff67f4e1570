"""The paper's ablations (Tables 4 to 8) on any model: unchanged weights, with one change of the design at a time.

The paper trains a model for every row. Here no row is trained again: all rows use the same weights with different
configurations. A row therefore shows how a choice changes a model that was trained with another choice, and how it
changes the time. A model that was trained for a row scores higher in it. Reports say so.

    table 4   memory attention to every token, or pooled in one of the two published ways
    table 5   the size of the input
    table 6   object pointers in memory attention, or none
    table 7   pooling of spatial memories only, or of object pointers too
    table 8   pooling compared with attention in local windows

`variants_of` lists the rows, and `run_ablations` runs them with `runner.evaluate_videos`, which can resume and share
the videos among processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..atomic_file import atomic_path
from ..configuration_efficienttam import EfficientTamConfig, size_pair
from ..data.records import VideoRecord
from ..modeling_efficienttam_video import EfficientTamVideoModel
from ..output_folders import OutputFolder
from ..processing_efficienttam import EfficientTamVideoProcessor
from ..safe_names import markdown_code, markdown_command, markdown_text
from .paper_tables import title_of
from .results import EvaluationResult
from .runner import RunOptions, evaluate_videos
from .sharing import Processes


__all__ = ["ABLATIONS", "AblationRow", "Variant", "ablation_markdown", "run_ablations", "variants_of"]
__all__ += ["with_config", "write_ablations"]

# The ablations by name, with the paper's table and the choice that it varies.
ABLATIONS = {
    "cross-attention": (4, "how memories are attended to"),
    "resolution": (5, "the size of the input"),
    "object-pointers": (6, "object pointers in memory attention"),
    "pooling-scope": (7, "what is pooled"),
    "windowed": (8, "pooling against local windows"),
}
POOLED = "pooled_logit_bias"


@dataclass(frozen=True)
class Variant:
    """One row of an ablation.

    Attributes:
        ablation: the name of the ablation, a key of `ABLATIONS`.
        title: the title of the row.
        overrides: the fields of `EfficientTamConfig` that this row sets; a part has only the fields that are set.
    """

    ablation: str
    title: str
    overrides: dict[str, Any]

    def configure(self, config: EfficientTamConfig) -> EfficientTamConfig:
        """Return the configuration of a model with the changes of this row.

        Raises:
            ValueError: if the model cannot have this configuration.
        """
        fields = config.to_dict()
        for name, value in self.overrides.items():
            fields[name] = {**fields[name], **value} if isinstance(value, dict) else value
        return EfficientTamConfig(**fields)

    def is_as_configured(self, config: EfficientTamConfig) -> bool:
        """Whether a model with this configuration is this variant without any change."""
        for name, value in self.overrides.items():
            current = getattr(config, name)
            parts = value.items() if isinstance(value, dict) else [(None, value)]
            if any(wanted != (current if part is None else getattr(current, part)) for part, wanted in parts):
                return False
        return True


@dataclass
class AblationRow:
    """A variant and its scores.

    Attributes:
        variant: the variant.
        as_configured: whether this is the model without any change.
        result: the result of the evaluation.
    """

    variant: Variant
    as_configured: bool
    result: EvaluationResult


def variants_of(
    config: EfficientTamConfig, ablations: Sequence[str] = tuple(ABLATIONS), image_sizes: Sequence[int] | None = None
) -> list[Variant]:
    """List the rows of ablations for a model.

    Args:
        config: the configuration of the model.
        ablations: keys of `ABLATIONS`.
        image_sizes: input sizes of the resolution ablation, in pixels; by default the model's own size and half of it.

    Raises:
        ValueError: if an ablation is unknown.
    """
    if unknown := [name for name in ablations if name not in ABLATIONS]:
        raise ValueError(f"There is no ablation {', '.join(unknown)}; there are {', '.join(ABLATIONS)}.")
    return [variant for name in ablations for variant in _rows(name, config, image_sizes)]


def _rows(ablation: str, config: EfficientTamConfig, image_sizes: Sequence[int] | None) -> list[Variant]:
    attention = config.memory_attention_config
    # The choice of tokens to pool requires pooling; for a model without pooling, both rows turn it on.
    pooled = attention.cross_attention if attention.cross_attention.startswith("pooled") else POOLED
    squares = f"squares of {attention.pool_size}x{attention.pool_size}"

    def row(title: str, **overrides: Any) -> Variant:
        return Variant(ablation, title, overrides)

    def memory(title: str, **fields: Any) -> Variant:
        return row(title, memory_attention_config=fields)

    if ablation == "cross-attention":
        return [
            memory("every memory token", cross_attention="full"),
            memory(f"{squares}, logits raised (`_1`)", cross_attention="pooled_logit_bias"),
            memory(f"{squares}, keys shifted (`_2`)", cross_attention="pooled_key_shift"),
        ]
    if ablation == "resolution":
        sizes: Sequence[Any] = image_sizes or [config.image_size, _half(config)]
        return [row("{}x{}".format(*reversed(size_pair(size))), image_size=size) for size in sizes]
    if ablation == "object-pointers":
        return [row("with", use_object_pointers=True), row("without", use_object_pointers=False)]
    if ablation == "pooling-scope":
        return [
            memory("spatial memories", cross_attention=pooled, pooling_scope="spatial"),
            memory("all tokens", cross_attention=pooled, pooling_scope="all"),
        ]
    window = _window(config)
    return [
        memory(squares, cross_attention=pooled),
        memory(f"windows of {window}x{window}", cross_attention="windowed", window_size=window),
    ]


def _half(config: EfficientTamConfig) -> list[int]:
    """Half the input size, in whole pooling squares of patches."""
    step = config.vision_config.patch_size * config.memory_attention_config.pool_size
    return [max(step, side // 2 // step * step) for side in size_pair(config.image_size)]


def _window(config: EfficientTamConfig) -> int:
    """The side of windows: as configured, or the largest smaller side that divides the feature map."""
    sides = config.vision_config.feature_size
    largest = config.memory_attention_config.window_size
    return next(side for side in range(largest, 0, -1) if not any(length % side for length in sides))


def with_config(
    model: EfficientTamVideoModel, processor: EfficientTamVideoProcessor, config: EfficientTamConfig
) -> tuple[EfficientTamVideoModel, EfficientTamVideoProcessor]:
    """Create a model with another configuration that shares the weights of this one, and its processor."""
    implementation = getattr(model.config, "_attn_implementation", None)
    other = type(model)._from_config(deepcopy(config), attn_implementation=implementation, dtype=model.dtype)
    other.load_state_dict(model.state_dict(), assign=True)
    same_size = size_pair(config.image_size) == size_pair(model.config.image_size)
    return other.to(model.device).eval(), processor if same_size else type(processor).from_config(config)


def run_ablations(
    model: EfficientTamVideoModel,
    processor: EfficientTamVideoProcessor,
    records: Sequence[VideoRecord],
    options: RunOptions = RunOptions(),  # noqa: B008 -- it is immutable
    variants: Sequence[Variant] | None = None,
    processes: Processes | None = None,
) -> list[AblationRow]:
    """Evaluate variants of a model on the same videos.

    Args:
        model, processor: the model that is varied, and its processor; both stay unchanged.
        records, processes: see `evaluate_videos`.
        options: see `evaluate_videos`. With an `output`, each variant has a folder in it, and finished videos there are
            not evaluated again.
        variants: the rows; by default all of `variants_of`.

    Returns:
        A row for each variant, in their order. Variants with the same configuration are run once.

    Raises:
        ValueError: if the model cannot have the configuration of a variant; this is checked before anything is run.
    """
    variants = variants_of(model.config) if variants is None else variants
    configs = [variant.configure(model.config) for variant in variants]
    results: list[tuple[dict[str, Any], EvaluationResult]] = []
    rows = []
    for variant, config in zip(variants, configs, strict=True):
        described = config.to_dict()
        result = next((found for known, found in results if known == described), None)
        if result is None:
            output = None if options.output is None else Path(options.output) / f"variant-{len(results) + 1}"
            varied = with_config(model, processor, config)
            result = evaluate_videos(*varied, records, replace(options, output=output), processes)
            results.append((described, result))
        rows.append(AblationRow(variant, variant.is_as_configured(model.config), result))
    return rows


def ablation_markdown(rows: Sequence[AblationRow], command: str | None = None) -> str:
    """The tables of an ablation in Markdown, one for each table of the paper.

    Args:
        rows: the rows of `run_ablations`, at least one.
        command: the command line that repeats the ablation.
    """
    first = rows[0].result
    device = first.settings.get("device_name") or first.settings.get("device", "")
    name, data = Path(first.model).name or "a model", title_of(first.dataset, first.split)
    lines = [f"# Ablations of {markdown_text(name)} on {markdown_text(data)}", ""]
    lines += [
        f"{len(first.scored)} of {len(first.videos)} videos scored by the convention "
        f"{markdown_code(first.convention)}, prompt {markdown_code(first.prompt)}, {markdown_text(device)}. "
        "All rows have **the same weights; none was trained again** for its row, as the "
        "paper's were: a row tells what the change does to this model as it was trained, not what a model trained "
        "like that would reach. Rows were run one after another; frames/s are of tracking alone.",
        "",
        "The paper's own figures of these tables are not in this package.",
    ]
    for name in dict.fromkeys(row.variant.ablation for row in rows):
        number, what = ABLATIONS[name]
        group = [row for row in rows if row.variant.ablation == name]
        base = next((row.result.summary.get("J&F") for row in group if row.as_configured), None)
        lines += ["", f"## {what[0].upper()}{what[1:]} (the paper's Table {number})", ""]
        lines += ["| | J&F | change | J | F | frames/s | weights |", "| --- | ---: | ---: | ---: | ---: | ---: | --- |"]
        for row in group:
            lines.append(_line(row, base))
    if command:
        lines += ["", "## How to do it again", "", markdown_command(command)]
    return "\n".join(lines) + "\n"


def _line(row: AblationRow, base: float | None) -> str:
    summary = row.result.summary
    scores = [f"{100 * summary[name]:.1f}" if name in summary else "–" for name in ("J&F", "J", "F")]
    change = (
        "–"
        if base is None or row.as_configured or not summary
        else f"{round(100 * (summary['J&F'] - base), 1) + 0.0:+.1f}"
    )
    title = f"**{row.variant.title}** (the model as it is)" if row.as_configured else row.variant.title
    speed = f"{row.result.frames_per_second:.1f}"
    weights = "its own" if row.as_configured else "not retrained"
    return "| " + " | ".join([title, scores[0], change, *scores[1:], speed, weights]) + " |"


def write_ablations(rows: Sequence[AblationRow], folder: str | Path, command: str | None = None) -> Path:
    """Write the tables to `report.md`, and each row's result to `results-<number>.json`. Returns the report's path.

    Raises:
        FileExistsError: if a file of these names exists that this package did not write.
    """
    output = OutputFolder(folder)
    for number, row in enumerate(rows, start=1):
        row.result.write(output.add(f"results-{number}.json"))
    report = output.add("report.md")
    with atomic_path(report) as temporary:
        temporary.write_text(ablation_markdown(rows, command), encoding="utf-8")
    return report
