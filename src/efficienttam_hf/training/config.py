"""The configuration of a training run, read from a YAML or JSON file and the command line.

`TrainingConfig` consists of nested dataclasses with plain values. `load_config` reads a file and then `key.path=value`
overrides. Before anything starts, it raises an error for any name that it does not know.
"""

from __future__ import annotations

import copy
import dataclasses
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..evaluation.prompted import Prompt
from ..safe_names import reason_of, shown
from ..structured_files import parse_yaml, read_yaml
from .losses import LossOptions
from .ranges import check_range
from .simulated_user import UserOptions


__all__ = [
    "ConfigError",
    "DistillationOptions",
    "EvaluationOptions",
    "LoraOptions",
    "OptimizerOptions",
    "SourceOptions",
    "StageOptions",
    "TrainingConfig",
    "build_options",
    "load_config",
    "read_values",
]


PRECISIONS = ("no", "bf16", "fp16", "auto")


class ConfigError(ValueError):
    """A run's configuration is invalid; the message names the field and the accepted values."""


@dataclass
class StageOptions:
    """One stage of the curriculum. A run goes through its stages in order; each has its own size, clips and schedule.

    Attributes:
        name: the name of the stage in logs.
        steps: number of optimisation steps.
        image_size: input size in pixels, a multiple of the patch size; `None` for the model's own. The final model has
            the size of the last stage.
        num_frames: number of frames of a clip; 1 trains on images.
        batch_size: number of clips in a step, over all processes and accumulated micro-batches.
        micro_batch_size: number of clips that run at once on one process; `None` for all of its share. Their gradients
            are accumulated to those of the batch.
        max_objects: largest number of objects of a clip.
        learning_rate: highest learning rate; for the blocks of the image encoder it is scaled, see `OptimizerOptions`.
        vision_learning_rate: the image encoder's highest learning rate, if it is another.
        warmup_steps: number of steps in which the rate rises from 0.
        final_rate: the fraction of the highest rate at which the cosine ends.
        user: fields of `UserOptions` that differ in this stage, as a mapping.
    """

    name: str = "clips"
    steps: int = 1000
    image_size: int | None = None
    num_frames: int = 8
    batch_size: int = 4
    micro_batch_size: int | None = None
    max_objects: int = 3
    learning_rate: float = 5e-5
    vision_learning_rate: float | None = None
    warmup_steps: int = 50
    final_rate: float = 0.1
    user: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range(self, "steps", "image_size", "num_frames", "batch_size", "micro_batch_size", "max_objects", least=1)
        check_range(self, "learning_rate", "vision_learning_rate", "warmup_steps", "final_rate")


@dataclass
class SourceOptions:
    """A source of clips. A run has one or several sources, mixed by weight.

    Attributes:
        kind: `"synthetic"`, or a kind of dataset that `data.loading` knows (`"davis2017"`, `"folder"`, ...).
        root: the dataset's folder; for synthetic videos, the folder of ingredients (without one, all is drawn).
        split: the split of the dataset, if it has splits.
        sequences: names of the videos to use; `None` for all.
        weight: the frequency with which this source is chosen, relative to the others.
        options: further arguments of the source: `SyntheticOptions` for synthetic videos; for others, arguments of the
            dataset loader and of `RecordClips` (under `"sampling"`).
    """

    kind: str = "synthetic"
    root: str | None = None
    split: str | None = None
    sequences: list[str] | None = None
    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(
                f"`weight` must be above 0, got {shown(self.weight)}. To use none of its clips, leave the source out."
            )


@dataclass
class OptimizerOptions:
    """The options of AdamW, with which SAM 2 is trained.

    Attributes:
        betas, eps, weight_decay: parameters of AdamW. Biases, norms and embeddings do not decay.
        vision_layer_decay: the learning rate of each block of the image encoder, relative to the block after it.
        max_grad_norm: gradients are clipped to this norm; 0 for no clipping.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.1
    vision_layer_decay: float = 1.0
    max_grad_norm: float = 0.1

    def __post_init__(self) -> None:
        check_range(self, "eps", "weight_decay", "vision_layer_decay", "max_grad_norm")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"`betas` must be at least 0 and below 1, got {shown(self.betas)}.")


@dataclass
class LoraOptions:
    """Low-rank adapters that are trained in place of the full weights (`peft`).

    Attributes:
        rank: the rank of the adapters; 0 for none.
        alpha: the scale of the adapters is `alpha / rank`.
        dropout: dropout on the input of the adapters.
        target_modules: ends of the names of linear layers, as in `peft.LoraConfig`.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: ["qkv", "proj", "q_proj", "k_proj", "v_proj", "o_proj"])

    def __post_init__(self) -> None:
        check_range(self, "rank", "dropout")


@dataclass
class DistillationOptions:
    """The options of a loss that brings image features closer to those of a larger model.

    Attributes:
        teacher: folder or Hub id of a Transformers model with an image encoder (`Sam2Model`, `EfficientTamModel`, ...),
            or of a backbone (`Dinov2Model`, ...).
        weight: the weight of the feature loss, which is one minus the cosine between features.
        frames: number of frames of each clip that the teacher sees, at equal distances; `None`: all.
    """

    teacher: str | None = None
    weight: float = 1.0
    frames: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "frames", least=1)


@dataclass
class EvaluationOptions:
    """The options of evaluations during training, which track annotated videos and compute J&F.

    Attributes:
        kind, root, split, sequences: the videos, as in `SourceOptions`; without a `kind`, there is no evaluation.
        options: options of the dataset loader.
        prompt: `"mask"`, `"box"`, `"1-click"`, `"3-click"` or `"5-click"`.
        every: number of steps between evaluations. The end of the run is always evaluated; with 0, only the end.
        max_frames: largest number of frames of each video, at least 3, because the first and the last do not count.
    """

    kind: str | None = None
    root: str | None = None
    split: str | None = None
    sequences: list[str] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    prompt: str = "mask"
    every: int = 1000
    max_frames: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "every")
        check_range(self, "max_frames", least=3)
        if self.prompt not in typing.get_args(Prompt):
            raise ValueError(f"`prompt` must be one of {', '.join(typing.get_args(Prompt))}, got {shown(self.prompt)}.")


@dataclass
class TrainingConfig:
    """The configuration of a whole run.

    Attributes:
        output: the run's folder.
        model: `preset:NAME` for a model with random weights; or the checkpoint to start from: a folder, a Hub id, or a
            name that `efficienttam models` lists.
        model_overrides: fields of the preset's configuration with other values.
        data: the sources of clips.
        splice_probability: the share of clips in which frames after the first are replaced by frames of another video,
            so that the model learns absence; see `data.splicing`. The clips of both must show different objects.
        stages: the curriculum.
        user, losses, optimizer, lora, distillation, evaluation: options; see their classes.
        freeze: parts that are not trained: `vision_encoder`, `prompt_encoder`, `mask_decoder`, `memory_attention`,
            `memory_encoder`, or the name of any module or parameter.
        seed: seed of weights, data and all other random numbers.
        precision: `"no"` (float32), `"bf16"` or `"fp16"` (autocast), or `"auto"`: bf16 if the machine computes fast in
            it, otherwise float32.
        ema_decay: decay of the running average of the weights that is evaluated and saved; 0 for none.
        gradient_checkpointing: whether activations are recomputed in the backward pass.
        workers: number of processes that prepare data, for each training process; 0 for none.
        log_every, overlay_every, checkpoint_every: number of steps between log lines, sample pictures and checkpoints;
            0 for never. The last step of a run is always logged, and always has a checkpoint.
        keep_checkpoints: number of newest checkpoints that are kept, in addition to the best one.
        trackers: experiment trackers for numbers and sample pictures, in addition to `metrics.jsonl` and `overlays/`:
            `tensorboard`, `wandb`, and others that Accelerate knows.
    """

    output: str = "runs/efficienttam"
    model: str = "preset:efficienttam_ti_512x512"
    model_overrides: dict[str, Any] = field(default_factory=dict)
    data: list[SourceOptions] = field(default_factory=lambda: [SourceOptions()])
    splice_probability: float = 0.0
    stages: list[StageOptions] = field(default_factory=lambda: [StageOptions()])
    user: UserOptions = field(default_factory=UserOptions)
    losses: LossOptions = field(default_factory=LossOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    lora: LoraOptions = field(default_factory=LoraOptions)
    distillation: DistillationOptions = field(default_factory=DistillationOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    freeze: list[str] = field(default_factory=list)
    seed: int = 0
    precision: str = "no"
    ema_decay: float = 0.0
    gradient_checkpointing: bool = False
    workers: int = 0
    log_every: int = 10
    overlay_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        for name in ("stages", "data"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` is empty: a training run needs at least one entry in it.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {shown(self.precision)}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be at least 0 and below 1, got {shown(self.ema_decay)}.")
        if not 0 <= self.splice_probability <= 1:
            raise ValueError(f"`splice_probability` must be from 0 to 1, got {shown(self.splice_probability)}.")
        check_range(self, "seed", "workers", "log_every", "overlay_every", "checkpoint_every")
        check_range(self, "keep_checkpoints", least=1)
        for number in range(len(self.stages)):
            self.user_of(number)

    @property
    def total_steps(self) -> int:
        """Number of optimisation steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def user_of(self, number: int) -> UserOptions:
        """The options of the simulated user in a stage, by the stage's number from 0."""
        options = {**dataclasses.asdict(self.user), **self.stages[number].user}
        return build_options(UserOptions, options, f"stages[{number}].user")

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values, which `load_config` reads."""
        return dataclasses.asdict(self)


def load_config(
    source: str | Path | dict[str, Any], overrides: Iterable[str] = (), *, where: str | Path | None = None
) -> TrainingConfig:
    """Load a run's configuration.

    Args:
        source: a YAML or JSON file, or its content as plain values. Missing fields have their defaults.
        overrides: `key.path=value`, which replace values of the source. Values are YAML; items of lists have numbers.
        where: the file of plain values, for messages; by default `source`, if that is a file.

    Raises:
        ConfigError: if the file cannot be read, a field is unknown, or a value has the wrong type. The message names
            the file, and the overrides if there are any.
    """
    if where is None and not isinstance(source, dict):
        where = source
    overrides = list(overrides)
    values = copy.deepcopy(source) if isinstance(source, dict) else read_values(source)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"An override must be written as key.path=value, got {shown(override)}.")
        _assign(values, key, parse_yaml(text, override, error=ConfigError))
    try:
        return build_options(TrainingConfig, values, "")
    except ConfigError as error:
        if where is None:
            raise
        raise ConfigError(f"{where}{' with ' + ' '.join(overrides) if overrides else ''}: {error}") from error


def read_values(path: str | Path) -> dict[str, Any]:
    """Read a YAML or JSON file as values for `load_config`.

    Raises:
        ConfigError: if the file does not exist or has other content.
    """
    try:
        values = read_yaml(path, error=ConfigError, what="configuration") or {}  # JSON is YAML: one parser reads both
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(values, dict):
        raise ConfigError(f"The configuration '{path}' must be a mapping of fields, got {type(values).__name__}.")
    return values


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.0.c` in nested mappings and lists. By default, there is one stage and one source."""
    *parents, last = key.split(".")
    if parents and parents[0] in ("stages", "data"):
        values.setdefault(parents[0], [{}])
    target: Any = values
    for part in parents:
        target = target[_item(target, part, key)] if isinstance(target, list) else target.setdefault(part, {})
        if not isinstance(target, dict | list):
            raise ConfigError(f"Cannot set {key!r}: {part!r} is a single value, which has no fields.")
    if isinstance(target, list):
        target[_item(target, last, key)] = value
    else:
        target[last] = value


def _item(items: list, part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ConfigError(f"Cannot set {key!r}: {part!r} is not the number of one of the {len(items)} items, from 0.")
    return int(part)


def build_options(kind: type, values: Any, where: str) -> Any:
    """Create a dataclass from a mapping, and check names and types at all levels.

    Raises:
        ConfigError: if a field is unknown, or a value has the wrong type or range; the message has its name, after
            `where`.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"`{where}` must be a mapping of fields, got {shown(values)}.")
    known = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in known:
            raise ConfigError(
                f"There is no field {shown(f'{where}.{name}' if where else name)}. "
                f"{'`' + where + '` has' if where else 'The fields are'} {', '.join(known)}."
            )
    try:
        return kind(**{n: _convert(hints[n], v, f"{where}.{n}" if where else n) for n, v in values.items()})
    except ConfigError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"`{where}`: {reason_of(error)}" if where else reason_of(error)) from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Convert a value to the declared type of a field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build_options(hint, value, where)
    if origin is list:
        if not isinstance(value, list):
            raise ConfigError(f"`{where}` must be a list, got {shown(value)}.")
        return [_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(arguments):
            raise ConfigError(f"`{where}` must be a list of {len(arguments)} values, got {shown(value)}.")
        return tuple(_convert(a, v, where) for a, v in zip(arguments, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"`{where}` must be a mapping, got {shown(value)}.")
        return dict(value)
    if hint is float and isinstance(value, str):
        try:  # YAML reads 1e-4 as text
            return float(value)
        except ValueError:
            pass
    if hint is str and isinstance(value, bool):  # YAML reads `no` as a bool
        value = "yes" if value else "no"
    accepted = (int, float) if hint is float else (hint,)
    if hint is Any or (isinstance(value, accepted) and (hint is bool or not isinstance(value, bool))):
        try:
            return float(value) if hint is float else value
        except OverflowError as error:
            raise ConfigError(f"`{where}` is too large for a floating-point number.") from error
    raise ConfigError(f"`{where}` must be {hint.__name__}, got {shown(value)}.")
