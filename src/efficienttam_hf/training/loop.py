"""The training loop, to be read from top to bottom: stages, steps, checkpoints.

    for each stage:  a model at the stage's input size, an optimizer, a loader
        for each step:  micro-batches -> ClipTracker -> backward;  clip, step, average
            every so often:  log, overlay, evaluate, checkpoint

One process, several (DDP), or sharded (FSDP) is Accelerate's affair; nothing here asks which. Randomness is by counter:
what is drawn in a step follows from the seed and the step's number. With the same weights and optimizer state, a
resumed run therefore computes what a run that never stopped computes.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AutoConfig

from ..configuration_efficienttam import PRESETS, SMALL_PRESETS, EfficientTamConfig
from ..data.batch import ClipBatch
from ..data.seeding import derive_seed, generator_of
from ..modeling_efficienttam_video import EfficientTamVideoModel
from ..processing_efficienttam import EfficientTamVideoProcessor
from .clip_tracker import ClipOutput, ClipTracker
from .config import ConfigError, StageOptions, TrainingConfig
from .monitoring import draw_overlays, evaluate_videos
from .optimization import RunningAverage, add_adapters, freeze, merged_weights, parameter_groups, rate_at
from .run_folder import PROGRESS_FILE, STATE_FOLDER, RunFolder
from .simulated_user import plan_prompts
from .sources import StepIndices, annotated_videos, batches, stage_source


logger = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """A run cannot go on; what it had saved stays."""


@dataclass
class TrainingResult:
    """How a run ended.

    Attributes:
        steps: optimisation steps done in all.
        stopped: whether it was stopped before its end, by Ctrl-C or SIGTERM.
        checkpoint: the newest checkpoint's folder, in `from_pretrained` form.
        score: J&F in percent of the last evaluation, `None` without one.
        best_score: the highest so far.
    """

    steps: int
    stopped: bool
    checkpoint: Path
    score: float | None
    best_score: float | None


def train(config: TrainingConfig, resume: bool = False) -> TrainingResult:
    """Run a training from its beginning, or on from its newest checkpoint.

    Args:
        config: the run.
        resume: whether to continue what is in `config.output`. A run that has not begun is begun.

    Raises:
        ConfigError: what can be known to be wrong before the first step.
        TrainingError: a loss that is not a number; the message names the sample.
    """
    return Trainer(config, resume).run()


class Trainer:
    """A run. `train` makes one and runs it."""

    def __init__(self, config: TrainingConfig, resume: bool = False):
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        self.config = config
        # Which prompts a batch has decides which weights it uses.
        ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(
            mixed_precision=config.precision,
            log_with=list(config.trackers) or None,
            project_dir=config.output,
            kwargs_handlers=[ddp],
        )
        self.is_main = self.accelerator.is_main_process
        self.folder = RunFolder(config.output)
        self.stage_number = 0
        self.stage_step = 0
        self.score: float | None = None
        self.best_score: float | None = None
        self.resumed_from = self._find_checkpoint(resume)

        torch.manual_seed(derive_seed(config.seed))
        self.base_model = load_model(config)
        self.processor = EfficientTamVideoProcessor.from_config(self.base_model.config)
        self.videos = annotated_videos(config.evaluation) if config.evaluation.kind else []
        self._check_all_stages()
        if self.is_main:
            self.folder.check_writable(self._checkpoint_bytes() * (config.keep_checkpoints + 2))
            self.folder.remove_unfinished()
            self.folder.save_config(config)
        self.accelerator.wait_for_everyone()

    # ------------------------------------------------------------------------------------------------------ the walk

    def run(self) -> TrainingResult:
        """All stages, or what is left of them."""
        self.accelerator.init_trackers("tensorboard" if "tensorboard" in self.config.trackers else "run")
        self._progress = tqdm(total=self.config.total_steps, initial=self.global_step, disable=not self.is_main)
        stopped = False
        with self._stop_signals(), self._progress:
            while self.stage_number < len(self.config.stages) and not stopped:
                stopped = self._run_stage(self.config.stages[self.stage_number])
                if not stopped:
                    self.stage_number, self.stage_step = self.stage_number + 1, 0
        self.accelerator.end_training()
        newest = self.folder.checkpoint(self.folder.steps()[-1])
        return TrainingResult(self.global_step, stopped, newest, self.score, self.best_score)

    def _run_stage(self, stage: StageOptions) -> bool:
        """One stage, from `self.stage_step` on. Returns whether the run was stopped."""
        self._set_up(stage)
        if self.resumed_from is not None:
            self._restore(self.resumed_from)
            self.resumed_from = None
        source = stage_source(self.config, self.stage_number, self.base_model.config.image_size)
        indices = StepIndices(
            stage, self.accelerator.process_index, self.accelerator.num_processes, start=self.stage_step
        )
        loader = batches(source, indices, self.config.workers, self.accelerator.device.type == "cuda")
        iterator = iter(loader)
        stop = False
        while self.stage_step < stage.steps and not stop:
            micro_batches = [next(iterator) for _ in range(indices.micro_batches)]
            output, numbers = self.step(stage, micro_batches)
            self.stage_step += 1
            self._progress.update()
            is_end = self.stage_step == stage.steps
            stop = self._asked_to_stop()
            self._log(stage, numbers)
            if _due(self.global_step, self.config.overlay_every) and self.is_main:
                draw_overlays(self.folder.path / "overlays" / f"{self.global_step:08d}.png", micro_batches[-1], output)
            is_last = is_end and self.stage_number == len(self.config.stages) - 1
            scored = self.videos and (is_last or _due(self.global_step, self.config.evaluation.every)) and not stop
            if scored:
                self._evaluate()
            if stop or is_end or scored or _due(self.global_step, self.config.checkpoint_every):
                self._save(scored)
        self._carry_over()
        return stop

    def step(self, stage: StageOptions, micro_batches: list[ClipBatch]) -> tuple[ClipOutput, dict[str, float]]:
        """One optimisation step on this process's share of a batch.

        Returns:
            The last micro-batch's output, and numbers for the log (of this process).
        """
        accelerator, config = self.accelerator, self.config
        key = (config.seed, self.stage_number, self.stage_step)
        torch.manual_seed(derive_seed(*key, accelerator.process_index))  # dropout
        self.tracker.train()
        for group, highest in zip(self.optimizer.param_groups, self.highest_rates, strict=True):
            group["lr"] = highest * rate_at(self.stage_step, stage)

        # Every object counts alike, on whatever process and in whatever micro-batch it is.
        count = torch.tensor(float(sum(len(b.clip_index) for b in micro_batches)), device=accelerator.device)
        num_objects = accelerator.reduce(count, "sum").item() / accelerator.num_processes

        user = config.user_of(stage)
        total = 0.0
        for i, batch in enumerate(micro_batches):
            plan = plan_prompts(stage.num_frames, user, generator_of(*key, i))
            batch = batch.to(accelerator.device, non_blocking=True)
            is_last = i == len(micro_batches) - 1
            with _synchronised(accelerator, self.tracker, is_last):
                output = self.tracker(batch, plan, num_objects)
                self._check_finite(output, batch)
                accelerator.backward(output.loss)
            total += output.loss.item()

        norm = torch.tensor(0.0)
        if config.optimizer.max_grad_norm > 0:
            norm = accelerator.clip_grad_norm_(self.tracker.parameters(), config.optimizer.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self._model())
        numbers = {
            "loss": total,
            "grad_norm": float(norm),
            **_terms(output),
            "rate": self.optimizer.param_groups[0]["lr"],
        }
        return output, numbers

    # ------------------------------------------------------------------------------------------------ setting up

    def _find_checkpoint(self, resume: bool) -> Path | None:
        """The checkpoint to go on from, with `stage_number` and `stage_step` set to its."""
        steps = self.folder.steps()
        if not steps:
            return None
        if not resume:
            raise ConfigError(
                f"{self.folder.path} already holds a run of {steps[-1]} steps. Resume it (`--resume`), or set `output` "
                "to another folder."
            )
        self.folder.check_same_config(self.config)
        checkpoint = self.folder.checkpoint(steps[-1])
        progress = json.loads((checkpoint / STATE_FOLDER / PROGRESS_FILE).read_text(encoding="utf-8"))
        self.stage_number, self.stage_step = progress["stage"], progress["stage_step"]
        self.score, self.best_score = progress["score"], progress["best_score"]
        self.accelerator.wait_for_everyone()
        if self.is_main:
            self.folder.forget_after(steps[-1])
        if self.stage_step == self.config.stages[self.stage_number].steps:
            # At the end of a stage the weights are all that the next one takes over.
            logger.info("The checkpoint is at the end of stage %d.", self.stage_number)
        return checkpoint

    def _check_all_stages(self) -> None:
        """Find out what is wrong with any stage before the first begins."""
        for number, stage in enumerate(self.config.stages):
            StepIndices(stage, 0, self.accelerator.num_processes, 0)
            size = stage.image_size or self.base_model.config.image_size
            try:
                resized_config(self.base_model.config, size)
            except ValueError as error:
                raise ConfigError(f"`stages[{number}].image_size`: {error}") from error
            stage_source(self.config, number, size)[0]

    def _set_up(self, stage: StageOptions) -> None:
        """The model at the stage's input size, what learns of it, and its optimizer."""
        config = self.config
        if stage.image_size is not None:
            self.base_model = with_image_size(self.base_model, stage.image_size)
            self.processor = EfficientTamVideoProcessor.from_config(self.base_model.config)
        model = self.base_model
        if config.lora.rank and not _has_adapters(model):
            add_adapters(model, config.lora)
        freeze(model, config.freeze)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        distillation = None
        if config.distillation.teacher:
            from .distillation import FeatureDistillation

            distillation = FeatureDistillation(config.distillation, model.config)
        image_processor = self.processor.image_processor
        tracker = ClipTracker(
            model,
            config.user_of(stage),
            config.losses,
            image_processor.image_mean,
            image_processor.image_std,
            distillation,
            checkpoint_steps=config.gradient_checkpointing,
        )
        options = config.optimizer
        groups = parameter_groups(tracker, stage, options)
        optimizer = torch.optim.AdamW(groups, betas=options.betas, eps=options.eps)
        self.highest_rates = [group["lr"] for group in groups]
        self.tracker, self.optimizer = self.accelerator.prepare(tracker, optimizer)
        average = RunningAverage(self._model(), config.ema_decay) if config.ema_decay else None
        carried = getattr(self, "average", None)
        if average is not None and carried is not None:
            average.load_state_dict(carried.state_dict())
        self.average = average

    def _carry_over(self) -> None:
        """Let go of a stage's optimizer and wrappers, and keep its weights."""
        weights = self.accelerator.get_state_dict(self.tracker)
        prefix = "model."
        weights = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
        self.base_model = self.accelerator.unwrap_model(self.tracker).model
        self.accelerator.free_memory()
        if weights:
            self.base_model.load_state_dict(weights)

    def _model(self) -> EfficientTamVideoModel:
        return self.accelerator.unwrap_model(self.tracker).model

    # ------------------------------------------------------------------------------------------ what happens at times

    def _check_finite(self, output: ClipOutput, batch: ClipBatch) -> None:
        if torch.isfinite(output.loss):
            return
        bad = ~torch.isfinite(output.object_losses.total(self.config.losses))
        names = sorted({batch.names[i] for i in batch.clip_index[bad].tolist()}) or batch.names
        raise TrainingError(
            f"The loss of step {self.global_step + 1} (stage {self.config.stages[self.stage_number].name!r}, step "
            f"{self.stage_step + 1}) is {output.loss.item()} for: {'; '.join(names)}. Look at that sample; if it is "
            "sound, lower the learning rate, or use bf16 in place of fp16."
        )

    def _log(self, stage: StageOptions, numbers: dict[str, float]) -> None:
        self._progress.set_postfix_str(
            f"{stage.name} loss {numbers['loss']:.3f} iou {numbers.get('mask_iou', 0):.3f}", False
        )
        if not _due(self.global_step, self.config.log_every) or not self.is_main:
            return
        self.folder.log({"step": self.global_step, "stage": stage.name, **numbers})
        self.accelerator.log(numbers, step=self.global_step)

    def _evaluate(self) -> None:
        """J&F on the evaluation videos, shared out over the processes."""
        weights = self.full_weights()
        model = EfficientTamVideoModel(self._model().config)
        model.load_state_dict(weights)
        model.to(self.accelerator.device).eval()
        share = self.videos[self.accelerator.process_index :: self.accelerator.num_processes]
        options = self.config.evaluation
        scores = evaluate_videos(model, self.processor, share, options.prompt, options.max_frames)
        from accelerate.utils import gather_object

        scores = {name: score for part in gather_object([scores]) for name, score in part.items()}
        self.score = 100 * sum(scores.values()) / len(scores)
        if self.is_main:
            self.folder.log({"step": self.global_step, "j_and_f": self.score, "videos": scores})
            self.accelerator.log({"j_and_f": self.score}, step=self.global_step)
            self._progress.write(f"step {self.global_step}: J&F {self.score:.1f}")

    def full_weights(self) -> dict[str, Tensor]:
        """The weights that are evaluated and saved (the running average, where there is one), whole, on the CPU."""
        weights = self.accelerator.get_state_dict(self.tracker)
        weights = {n.removeprefix("model."): w for n, w in weights.items() if n.startswith("model.")}
        if self.average is not None:
            for name, value in self.average.shadow.items():
                value = value.full_tensor() if hasattr(value, "full_tensor") else value
                weights[name] = value.to(weights[name].dtype)
        return {n: w.cpu() for n, w in merged_weights(self._model(), weights).items()}

    def _save(self, scored: bool) -> None:
        """A checkpoint of this step: the model in `from_pretrained` form, and what resuming needs."""
        is_best = bool(scored and (self.best_score is None or self.score > self.best_score))
        if is_best:
            self.best_score = self.score
        unfinished = self.folder.unfinished(self.global_step)
        with self.folder.writing("a checkpoint"):
            if self.is_main:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(unfinished / STATE_FOLDER))
            weights = self.full_weights()
            if self.is_main:
                if self.average is not None:
                    torch.save(self.average.state_dict(), unfinished / STATE_FOLDER / "average.pt")
                model = EfficientTamVideoModel(self._model().config)
                model.load_state_dict(weights)
                model.save_pretrained(unfinished)
                self.processor.save_pretrained(unfinished)
                progress = {
                    "stage": self.stage_number,
                    "stage_step": self.stage_step,
                    "step": self.global_step,
                    "score": self.score,
                    "best_score": self.best_score,
                }
                (unfinished / STATE_FOLDER / PROGRESS_FILE).write_text(json.dumps(progress), encoding="utf-8")
            self.accelerator.wait_for_everyone()
            if self.is_main:
                self.folder.finish(self.global_step, is_best, self.config.keep_checkpoints)

    def _restore(self, checkpoint: Path) -> None:
        """Weights, optimizer and average as they were when the checkpoint was written."""
        state = checkpoint / STATE_FOLDER
        self.accelerator.load_state(str(state))
        if self.average is not None:
            self.average.load_state_dict(torch.load(state / "average.pt", map_location=self.accelerator.device))

    # ----------------------------------------------------------------------------------------------------- stopping

    @contextmanager
    def _stop_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM let the step end and save; a second Ctrl-C ends at once."""
        self._stop = False

        def ask(number: int, frame: Any) -> None:
            if self._stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to stop: all of them stop after the same step."""
        if self._stop:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    @property
    def global_step(self) -> int:
        """Optimisation steps done, over all stages."""
        return sum(stage.steps for stage in self.config.stages[: self.stage_number]) + self.stage_step

    def _checkpoint_bytes(self) -> int:
        """Roughly: the weights twice, AdamW's two moments, the running average, all float32."""
        return 20 * sum(p.numel() for p in self.base_model.parameters())


# ---------------------------------------------------------------------------------------------------------- models


def load_model(config: TrainingConfig) -> EfficientTamVideoModel:
    """A preset's model with fresh weights, or a checkpoint's.

    Raises:
        ConfigError: neither a preset nor a checkpoint, or overrides that do not fit.
    """
    try:
        if config.model in (*PRESETS, *SMALL_PRESETS):
            return EfficientTamVideoModel(EfficientTamConfig.from_preset(config.model, **config.model_overrides))
        if config.model_overrides:
            raise ConfigError(f"`model_overrides` are for presets; {config.model} has its own configuration.")
        model_config = AutoConfig.from_pretrained(config.model)
        return EfficientTamVideoModel.from_pretrained(config.model, config=model_config, dtype=torch.float32)
    except ConfigError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"`model` {config.model!r} is neither a preset ({', '.join([*SMALL_PRESETS, *PRESETS])}) nor a checkpoint "
            f"that loads: {error}"
        ) from error


def resized_config(config: EfficientTamConfig, image_size: int | tuple[int, int]) -> EfficientTamConfig:
    """A model's configuration at another input size.

    Raises:
        ValueError: the size does not fit the model.
    """
    return EfficientTamConfig.from_dict({**config.to_dict(), "image_size": image_size})


def with_image_size(model: EfficientTamVideoModel, image_size: int | tuple[int, int]) -> EfficientTamVideoModel:
    """The model with the same weights at another input size: none of its weights depends on the size."""
    if model.config.image_size == image_size:
        return model
    resized = EfficientTamVideoModel(resized_config(model.config, image_size))
    resized.load_state_dict(merged_weights(model, model.state_dict()))
    return resized


# -------------------------------------------------------------------------------------------------------- small things


def _has_adapters(model: torch.nn.Module) -> bool:
    return any(".lora_" in name for name, _ in model.named_parameters())


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


@contextmanager
def _synchronised(accelerator: Any, tracker: torch.nn.Module, is_last: bool) -> Iterator[None]:
    """Gradients are averaged over processes once a step, with the last micro-batch."""
    if is_last:
        yield
    else:
        with accelerator.no_sync(tracker):
            yield


def _terms(output: ClipOutput) -> dict[str, float]:
    """The terms of the loss per object, and the mean IoU of the frames that were predicted."""
    numbers = {name: value.mean().item() for name, value in vars(output.object_losses).items()}
    predicted = output.iou[~output.iou.isnan()]
    if len(predicted):
        numbers["mask_iou"] = predicted.mean().item()
    if output.feature_loss is not None:
        numbers["feature_loss"] = output.feature_loss.item()
    return numbers


__all__ = ["Trainer", "TrainingError", "TrainingResult", "load_model", "resized_config", "train", "with_image_size"]
