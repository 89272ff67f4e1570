"""Fine-tuning on your own videos, with an evaluation on held-out videos before and after.

Fine-tuning is a training run whose `TrainingConfig` has defaults for few videos. The run's `config.json` lists all
values, and each can be changed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..data.loading import kind_of
from ..evaluation.prompted import Prompt
from ..evaluation.runner import RunOptions, evaluate_video
from ..processing_efficienttam import EfficientTamVideoProcessor
from ..structured_files import parse_json
from .config import ConfigError, EvaluationOptions, OptimizerOptions, SourceOptions, StageOptions, TrainingConfig
from .loop import Trainer, TrainingResult
from .models import losses_of
from .monitoring import watch
from .simulated_user import UserOptions
from .sources import dataset_videos


__all__ = ["FinetuningResult", "finetune", "finetuning_config", "kind_of", "split_videos"]


HELD_OUT_SHARE = 0.2


@dataclass
class FinetuningResult:
    """The result of fine-tuning.

    Attributes:
        training: the result of the training run.
        before, after: J&F in percent of each held-out video, with the initial and the fine-tuned model.
    """

    training: TrainingResult
    before: dict[str, float]
    after: dict[str, float]


def split_videos(names: Sequence[str], held_out: Iterable[str] | int | None) -> tuple[list[str], list[str]]:
    """Split the names of videos into training videos and held-out videos.

    Args:
        names: the names of all videos.
        held_out: names of held-out videos, or their number (spread over the list); by default a fifth, at least one.

    Raises:
        ConfigError: if a name is unknown, or no training video would remain.
    """
    if held_out is None:
        held_out = max(1, round(HELD_OUT_SHARE * len(names))) if len(names) > 1 else 0
    if isinstance(held_out, int):
        places = {(2 * i + 1) * len(names) // (2 * held_out) for i in range(held_out)} if held_out else set()
        held_out = [name for i, name in enumerate(names) if i in places]
    held_out = list(held_out)
    missing = [name for name in held_out if name not in names]
    if missing:
        raise ConfigError(f"There is no video {', '.join(missing)} to hold back; there are {', '.join(names)}.")
    training = [name for name in names if name not in held_out]
    if not training:
        raise ConfigError(f"All {len(names)} videos are held back: none is left to train on.")
    return training, held_out


def finetuning_config(
    root: str | Path,
    model: str,
    output: str | Path,
    *,
    kind: str | None = None,
    split: str | None = None,
    held_out: Iterable[str] | int | None = None,
    steps: int = 120,
    num_frames: int = 4,
    batch_size: int = 4,
    learning_rate: float = 3e-5,
    prompt: Prompt = "mask",
    mask_options: dict[str, Any] | None = None,
) -> TrainingConfig:
    """The configuration of a run on a few videos.

    The image encoder has half the learning rate, and its first blocks less; weights are averaged, and clips are
    augmented. The losses are those with which the model was trained. Clips are corrected less often than in the
    published recipe, where most of a step is about clicks, because a few videos mainly teach how their objects are
    tracked. Held-out videos are scored at the end only: with so few videos, choosing a checkpoint by its score would be
    training on them.

    Args:
        root: the dataset's folder.
        model: a checkpoint.
        output: the run's folder.
        kind: the kind of dataset, see `docs/data.md`; by default `kind_of(root)`.
        split: the split of the dataset, if it has splits.
        held_out: see `split_videos`.
        steps, num_frames, batch_size, learning_rate: options of the single stage.
        prompt: the prompt of held-out videos.
        mask_options: the meaning of the values of masks, as options of the dataset: `binary`, `threshold` or `colors`.

    Raises:
        ConfigError: if there is no such dataset, or no video to train on.
    """
    kind = kind or kind_of(root)
    reading = dict(mask_options or {})
    everything = SourceOptions(kind=kind, root=str(root), split=split, options=reading)
    training, held_back = split_videos(dataset_videos(everything).names, held_out)
    evaluation = EvaluationOptions(every=0, prompt=prompt)
    if held_back:
        evaluation = EvaluationOptions(kind, str(root), split, held_back, reading, every=0, prompt=prompt)
    stage = StageOptions(
        name="finetune",
        steps=steps,
        num_frames=num_frames,
        batch_size=batch_size,
        learning_rate=learning_rate,
        vision_learning_rate=learning_rate / 2,
        warmup_steps=max(1, steps // 20),
        final_rate=0.05,
    )
    return TrainingConfig(
        output=str(output),
        model=model,
        data=[
            SourceOptions(
                kind=kind,
                root=str(root),
                split=split,
                sequences=training,
                # These are milder than the published ones, which are for many more videos.
                options={**reading, "sampling": {"augmentation": {"rotation": 8.0, "shear": 5.0}}},
            )
        ],
        stages=[stage],
        user=UserOptions(
            point_probability=0.25, max_conditioning_frames=1, max_corrected_frames=1, correction_clicks=2
        ),
        losses=losses_of(model),
        optimizer=OptimizerOptions(vision_layer_decay=0.9, max_grad_norm=1.0, weight_decay=0.05),
        evaluation=evaluation,
        ema_decay=0.99,
        checkpoint_every=100,
        overlay_every=100,
    )


def finetune(config: TrainingConfig, resume: bool = False) -> FinetuningResult:
    """Score the held-out videos, train, and score them again.

    Raises:
        ConfigError: if the configuration is found to be invalid before the first step.
        TrainingError: if a loss is not a number.
    """
    trainer = Trainer(config, resume)  # checks the configuration before anything is scored
    before = _scores_before(trainer)
    result = trainer.run()
    after = _last_scores(Path(config.output)) if before and not result.stopped else {}
    return FinetuningResult(result, before, after)


def _scores_before(trainer: Trainer) -> dict[str, float]:
    """J&F in percent with the initial weights of a run, in the main process; the others wait for it in training."""
    if not trainer.is_main:
        return {}
    options, model = trainer.config.evaluation, copy.deepcopy(trainer.first_model).eval()
    model.to(trainer.accelerator.device)
    processor = EfficientTamVideoProcessor.from_config(model.config)
    run = RunOptions(prompt=cast(Prompt, options.prompt), max_frames=options.max_frames)
    watched = watch(trainer.videos, "scoring before", disable=False)
    return {video.video_id: 100 * evaluate_video(model, processor, video, run).j_and_f for video in watched}


def _last_scores(run: Path) -> dict[str, float]:
    """J&F in percent from a run's last evaluation."""
    path = run / "metrics.jsonl"
    lines = [parse_json(line, f"A line of '{path}'") for line in path.read_text(encoding="utf-8").splitlines()]
    return next((line["videos"] for line in reversed(lines) if "videos" in line), {})
