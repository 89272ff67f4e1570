"""The training loop, to be read from top to bottom: stages, steps, checkpoints.

    for each stage:  the model at the stage's input size, an optimizer, clips
        for each step:  micro-batches -> ClipTracker -> backward;  clip, step, average
            every so often:  log, overlay, evaluate, checkpoint

One process, several (DDP), or sharded (FSDP) is Accelerate's affair; nothing here asks which. Randomness is by counter:
what is drawn in a step follows from the seed and the step's number. With the same weights and optimizer state, a
resumed run therefore computes what a run that never stopped computes.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..configuration_efficienttam import EfficientTamConfig
from ..data.batch import ClipBatch
from ..data.seeding import derive_seed, generator_of
from ..evaluation.prompted import Prompt
from ..evaluation.runner import RunOptions, evaluate_video, summarize
from ..modeling_efficienttam_video import EfficientTamVideoModel
from ..processing_efficienttam import EfficientTamVideoProcessor
from ..structured_files import build, read_json
from .clip_tracker import ClipOutput, ClipTracker
from .config import ConfigError, StageOptions, TrainingConfig
from .models import enable_activation_checkpointing, load_model, load_model_config, save_losses, with_weights
from .monitoring import log_picture, overlay_sheet, progress_bar, save_picture, step_numbers, watch
from .optimization import RunningAverage, add_adapters, freeze, merged_weights, parameter_groups, rate_at
from .processes import fill_state, make_accelerator, sharded_like, start_logging, whole
from .run_folder import AVERAGE_FILE, PROGRESS_FILE, STATE_FOLDER, RunFolder
from .simulated_user import plan_prompts
from .sources import StepIndices, TrainingData, annotated_videos, batches
from .stopping import StopSignals


__all__ = ["Trainer", "TrainingError", "TrainingResult", "train"]


logger = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """A run cannot go on; its saved checkpoints stay."""


@dataclass
class Progress:
    """The progress of a run at a checkpoint, which `progress.json` stores; see `TrainingResult` for the scores."""

    stage: int
    stage_step: int
    score: float | None
    best_score: float | None


@dataclass
class TrainingResult:
    """The result of a run.

    Attributes:
        steps: total number of optimisation steps.
        stopped: whether it was stopped before its end, by Ctrl-C or SIGTERM.
        checkpoint: the folder of the newest checkpoint, which `from_pretrained` loads.
        score: J&F in percent from the last evaluation; `None` without an evaluation.
        best_score: the highest score so far.
        signal: the signal that stopped it, SIGINT or SIGTERM; 0 if none did.
    """

    steps: int
    stopped: bool
    checkpoint: Path
    score: float | None
    best_score: float | None
    signal: int = 0


def train(config: TrainingConfig, resume: bool = False) -> TrainingResult:
    """Run a training from its beginning, or from its newest checkpoint.

    Args:
        config: the configuration of the run.
        resume: whether to continue the run in `config.output`. A run that has not begun is started.

    Raises:
        ConfigError: if the configuration is found to be invalid before the first step.
        TrainingError: if a loss is not a number (the message names the sample), or there is no intact checkpoint to
            resume from.
        ValueError: if a source cannot make a clip.
        OSError: if a file cannot be read or written; checkpoints are written atomically.
    """
    return Trainer(config, resume).run()


class Trainer:
    """Runs a training; `train` creates it and calls `run`."""

    def __init__(self, config: TrainingConfig, resume: bool = False):
        self.config = config
        self.accelerator = make_accelerator(config)
        self.is_main = self.accelerator.is_main_process
        self.folder = RunFolder(config.output)
        self.stage_number = self.stage_step = 0
        self.score: float | None = None
        self.best_score: float | None = None
        self.tracker: torch.nn.Module | None = None
        self.average: RunningAverage | None = None
        self.resume_from = self._find_checkpoint(resume)

        model_config = load_model_config(config.model, config.model_overrides)
        self._check_parts(model_config)
        torch.manual_seed(derive_seed(config.seed))
        self.first_model = load_model(config.model, model_config)
        if self.is_main:
            self.folder.claim(self._checkpoint_bytes() * (config.keep_checkpoints + 2))
        self.data = TrainingData(config)
        self.videos = annotated_videos(config.evaluation, "evaluation") if config.evaluation.kind else []
        self._check_stages()
        if self.is_main:
            for step in self.damaged_steps:
                self.folder.set_aside(step)
            if not self.folder.has_best:
                self.best_score = None
            self.folder.save_config(config)
            self.folder.forget_after(self.global_step)
        self.accelerator.wait_for_everyone()

    # ------------------------------------------------------------------------------------------------------ the walk

    def run(self) -> TrainingResult:
        """Run all stages, or the remaining ones."""
        start_logging(self.accelerator, self.config, self.global_step)
        stopped = False
        with (
            StopSignals() as self.signals,
            progress_bar(self.config.total_steps, self.global_step, disable=not self.is_main) as self.progress,
        ):
            while self.stage_number < len(self.config.stages) and not stopped:
                stopped = self._run_stage(self.config.stages[self.stage_number])
                if not stopped:
                    self.stage_number, self.stage_step = self.stage_number + 1, 0
        self.accelerator.end_training()
        newest = self.folder.checkpoint(self.folder.steps()[-1])
        # A process that stops because of another one did not receive a signal itself.
        number = (self.signals.number or signal.SIGINT) if stopped else 0
        return TrainingResult(self.global_step, stopped, newest, self.score, self.best_score, number)

    def _run_stage(self, stage: StageOptions) -> bool:
        """Run one stage from `self.stage_step` on, and return whether the run was stopped."""
        self._begin(stage)
        config, accelerator = self.config, self.accelerator
        source = self.data.of_stage(self.stage_number, self._model().config.image_size)
        indices = StepIndices(stage, accelerator.process_index, accelerator.num_processes, self.stage_step)
        loader = batches(source, indices, config.workers, pin_memory=accelerator.device.type == "cuda")
        stopped = False
        while self.stage_step < stage.steps and not stopped:
            micro_batches = [next(loader) for _ in range(indices.micro_batches)]
            output, numbers = self.step(stage, micro_batches)
            self.stage_step += 1
            is_last = self.global_step == config.total_steps
            stopped = self._asked_to_stop() and not is_last

            self._log(stage, numbers)
            if _due(self.global_step, config.overlay_every) and self.is_main:
                sheet = overlay_sheet(micro_batches[-1], output)
                save_picture(sheet, self.folder.path / "overlays" / f"{self.global_step:08d}.png")
                log_picture(self.accelerator, "overlays", sheet, self.global_step)
            evaluates = (
                bool(self.videos) and not stopped and (is_last or _due(self.global_step, config.evaluation.every))
            )
            if evaluates:
                self._evaluate()
            ends = stopped or self.stage_step == stage.steps
            if ends or evaluates or _due(self.global_step, config.checkpoint_every):
                self._save(evaluates)
        return stopped

    def step(self, stage: StageOptions, micro_batches: list[ClipBatch]) -> tuple[ClipOutput, dict[str, float]]:
        """Run one optimisation step on this process's share of a batch.

        Returns:
            The last micro-batch's output, and the numbers of the whole batch for the log.
        """
        accelerator, config = self.accelerator, self.config
        key = (config.seed, self.stage_number, self.stage_step)
        torch.manual_seed(derive_seed(*key, accelerator.process_index))  # dropout
        plan = plan_prompts(stage.num_frames, config.user_of(self.stage_number), generator_of(*key))
        for group, highest in zip(self.optimizer.param_groups, self.highest_rates, strict=True):
            group["lr"] = highest * rate_at(self.stage_step, stage)

        # Every object has the same weight in all processes and micro-batches.
        count = torch.tensor(float(sum(len(batch.clip_index) for batch in micro_batches)), device=accelerator.device)
        num_objects = accelerator.reduce(count, "mean").item()

        tracker = self.tracker
        assert tracker is not None  # `_begin` has created it
        tracker.train()
        outputs = []
        for batch in micro_batches:
            # Processes exchange gradients once in a step, with the last micro-batch.
            is_last = batch is micro_batches[-1]
            with nullcontext() if is_last else accelerator.no_sync(tracker):
                outputs.append(tracker(batch.to(accelerator.device, non_blocking=True), plan, num_objects))
                accelerator.backward(outputs[-1].loss)

        limit = config.optimizer.max_grad_norm or math.inf
        norm = float(accelerator.clip_grad_norm_(tracker.parameters(), limit))
        numbers = {**step_numbers(outputs, num_objects, accelerator), "grad_norm": norm}
        self._check_finite(numbers, outputs, micro_batches)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self._model())
        return outputs[-1], {**numbers, "rate": self.optimizer.param_groups[0]["lr"]}

    # ------------------------------------------------------------------------------------------------ setting up

    def _find_checkpoint(self, resume: bool) -> Path | None:
        """Find the newest intact checkpoint to resume from, if there is one, and take over its progress."""
        self.damaged_steps: list[int] = []
        steps = self.folder.steps()
        if not steps:
            return None
        if not resume:
            raise ConfigError(
                f"{self.folder.path} already holds a run of {steps[-1]} steps. Resume it (`--resume`), or set `output` "
                "to another folder."
            )
        self.folder.check_same_config(self.config)
        checkpoint = self.folder.checkpoint(self._newest_intact(steps))
        file = checkpoint / STATE_FOLDER / PROGRESS_FILE
        progress = build(Progress, read_json(file, error=ConfigError), str(file), error=ConfigError)
        self.stage_number, self.stage_step = progress.stage, progress.stage_step
        self.score, self.best_score = progress.score, progress.best_score
        return checkpoint

    def _newest_intact(self, steps: list[int]) -> int:
        """The step of the newest checkpoint with undamaged files; all later checkpoints are damaged.

        Raises:
            TrainingError: if there is none; the message names every damaged file.
        """
        from accelerate.utils import broadcast_object_list

        damage = {}
        if self.is_main:
            for step in reversed(steps):
                damage[step] = self.folder.damage(step)
                if not damage[step]:
                    break
        (damage,) = broadcast_object_list([damage])  # the other processes do not read the files again
        self.damaged_steps = [step for step, problems in damage.items() if problems]
        problems = [problem for step in self.damaged_steps for problem in damage[step]]
        intact = [step for step in damage if not damage[step]]
        if not intact:
            raise TrainingError(
                "\n  ".join([f"Cannot resume {self.folder.path}: no checkpoint in it is intact.", *problems])
                + "\nBring back these files from a copy, or start a new run (another `output`)."
            )
        if problems and self.is_main:
            logger.warning(
                "%s Going on from the newest intact checkpoint, step %d; the damaged one%s kept as damaged-step-....",
                " ".join(problems),
                intact[0],
                " is" if len(self.damaged_steps) == 1 else "s are",
            )
        return intact[0]

    def _check_parts(self, model_config: EfficientTamConfig) -> None:
        """Check `freeze`, `lora` and the teacher before any weights or videos are read."""
        config = self.config
        with torch.device("meta"):
            outline = EfficientTamVideoModel(model_config)
            if config.lora.rank:
                add_adapters(outline, config.lora)
        freeze(outline, config.freeze)
        parameter_groups(outline, config.stages[0], config.optimizer)
        if config.distillation.teacher:
            from .distillation import check_teacher

            check_teacher(config.distillation.teacher)

    def _check_stages(self) -> None:
        """Check all stages before the first one begins."""
        for number, stage in enumerate(self.config.stages):
            StepIndices(stage, self.accelerator.process_index, self.accelerator.num_processes)
            try:
                size = self._config_of(stage).image_size
            except ValueError as error:
                raise ConfigError(f"`stages[{number}].image_size`: {error}") from error
            self.data.of_stage(number, size)[0]

    def _config_of(self, stage: StageOptions) -> EfficientTamConfig:
        """The model's configuration at a stage's input size."""
        config = self.first_model.config
        return EfficientTamConfig.from_dict(config.to_dict(), image_size=stage.image_size or config.image_size)

    def _begin(self, stage: StageOptions) -> None:
        """Create a stage's model, at its input size and with the current weights, and a new optimizer."""
        config = self.config
        torch.manual_seed(derive_seed(config.seed, self.stage_number))  # adapters, projections
        model = with_weights(self._config_of(stage), self.first_model.state_dict())
        self.processor = EfficientTamVideoProcessor.from_config(model.config)
        if config.lora.rank:
            add_adapters(model, config.lora)
        freeze(model, config.freeze)
        if config.gradient_checkpointing:
            enable_activation_checkpointing(model)
        distillation = None
        if config.distillation.teacher:
            from .distillation import FeatureDistillation

            distillation = FeatureDistillation(config.distillation, model.config)
        tracker = ClipTracker(
            model,
            config.user_of(self.stage_number),
            config.losses,
            self.processor.image_processor.image_mean,
            self.processor.image_processor.image_std,
            distillation,
            checkpoint_steps=config.gradient_checkpointing,
        )
        average = self._average_state()
        if self.tracker is not None:  # the weights of the previous stage
            tracker.load_state_dict(whole(self.accelerator.unwrap_model(self.tracker).state_dict()))
            self.accelerator.free_memory()
        groups = parameter_groups(tracker, stage, config.optimizer)
        self.highest_rates = [group["lr"] for group in groups]
        optimizer = torch.optim.AdamW(groups, betas=config.optimizer.betas, eps=config.optimizer.eps)
        self.tracker, self.optimizer = self.accelerator.prepare(tracker, optimizer)
        fill_state(self.optimizer)
        if config.ema_decay:
            self.average = RunningAverage(self._model(), config.ema_decay)
        if self.resume_from is not None:
            self.accelerator.load_state(str(self.resume_from / STATE_FOLDER))
            if self.average is not None:
                average = torch.load(self.resume_from / STATE_FOLDER / AVERAGE_FILE, weights_only=True)
            self.resume_from = None
        if average is not None and self.average is not None:
            average["shadow"] = sharded_like(average["shadow"], self.average.shadow)
            self.average.load_state_dict(average)

    def _model(self) -> EfficientTamVideoModel:
        return self.accelerator.unwrap_model(self.tracker).model

    # ------------------------------------------------------------------------------------------ what happens at times

    def _check_finite(
        self, numbers: dict[str, float], outputs: list[ClipOutput], micro_batches: list[ClipBatch]
    ) -> None:
        """Stop before a loss or a gradient that is not a number changes the weights. All processes stop together."""
        # In fp16 some gradients overflow; Accelerate's scaler skips such a step.
        is_sound = math.isfinite(numbers["grad_norm"]) or self.config.precision == "fp16"
        if is_sound and math.isfinite(numbers["loss"]):
            return
        from accelerate.utils import gather_object

        names = []
        for output, batch in zip(outputs, micro_batches, strict=True):
            is_bad = ~torch.isfinite(output.object_losses.total(self.config.losses))
            names += [batch.names[clip] for clip in batch.clip_index[is_bad.cpu()].unique().tolist()]
        names = gather_object(names) or gather_object([name for batch in micro_batches for name in batch.names])
        raise TrainingError(
            f"In step {self.global_step + 1} (stage {self.config.stages[self.stage_number].name!r}) the loss is "
            f"{numbers['loss']} and the norm of its gradient {numbers['grad_norm']}, with: {'; '.join(names)}. Look at "
            "that sample; if it is sound, lower the learning rate, or use bf16 in place of fp16. Checkpoints are as "
            "they were."
        )

    def _log(self, stage: StageOptions, numbers: dict[str, float]) -> None:
        self.progress.set_postfix_str(f"{stage.name} loss {numbers['loss']:.3f} iou {numbers['mask_iou']:.3f}", False)
        self.progress.update()
        is_last = self.global_step == self.config.total_steps
        due = _due(self.global_step, self.config.log_every) or (is_last and self.config.log_every > 0)
        if due and self.is_main:
            self.folder.log({"step": self.global_step, "stage": stage.name, **numbers})
            self.accelerator.log(numbers, step=self.global_step)

    def _evaluate(self) -> None:
        """Compute J&F on the evaluation videos, which the processes share."""
        from accelerate.utils import gather_object

        model = with_weights(self._model().config, self._learnt_weights()).to(self.accelerator.device).eval()
        share = self.videos[self.accelerator.process_index :: self.accelerator.num_processes]
        options = self.config.evaluation
        run = RunOptions(prompt=cast(Prompt, options.prompt), max_frames=options.max_frames)
        watched = watch(share, "scoring", disable=not self.is_main)
        scores = gather_object([evaluate_video(model, self.processor, video, run) for video in watched])
        self.score = 100 * summarize(scores, run.convention)["J&F"]
        if self.is_main:
            videos = {video.name: 100 * video.j_and_f for video in scores}
            self.folder.log({"step": self.global_step, "j_and_f": self.score, "videos": videos})
            self.accelerator.log({"j_and_f": self.score}, step=self.global_step)
            self.progress.write(f"step {self.global_step}: J&F {self.score:.1f}", file=sys.stderr)

    def _learnt_weights(self) -> dict[str, Tensor]:
        """The weights that are evaluated and saved: the running average if there is one, with adapters merged."""
        model = self._model()
        average = self._average_state() or {"shadow": {}}
        return merged_weights(model, {**whole(model.state_dict()), **average["shadow"]})

    def _average_state(self) -> dict[str, Any] | None:
        if self.average is None:
            return None
        state = self.average.state_dict()
        return {**state, "shadow": whole(state["shadow"])}

    def _save(self, is_scored: bool) -> None:
        """Write a checkpoint of this step: the model for `from_pretrained`, and the state for resuming."""
        score = self.score if is_scored else None
        is_best = score is not None and (self.best_score is None or score > self.best_score)
        if is_best:
            self.best_score = score
        unfinished = self.folder.unfinished(self.global_step)
        with self.folder.writing(unfinished):
            self.accelerator.save_state(str(unfinished / STATE_FOLDER))
            weights, average = self._learnt_weights(), self._average_state()
            if self.is_main:
                with_weights(self._model().config, weights).save_pretrained(unfinished)
                self.processor.save_pretrained(unfinished)
                save_losses(self.config.losses, unfinished)
                if average is not None:
                    torch.save(average, unfinished / STATE_FOLDER / AVERAGE_FILE)
                progress = asdict(Progress(self.stage_number, self.stage_step, self.score, self.best_score))
                (unfinished / STATE_FOLDER / PROGRESS_FILE).write_text(json.dumps(progress), encoding="utf-8")
            self.accelerator.wait_for_everyone()  # the others must have written their files
            if self.is_main:
                self.folder.finish(self.global_step, is_best, self.config.keep_checkpoints)
            self.accelerator.wait_for_everyone()

    # ------------------------------------------------------------------------------------------------- small things

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to stop. All processes then stop after the same step."""
        if self.signals.asked is not None:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    @property
    def global_step(self) -> int:
        """Number of optimisation steps so far, over all stages."""
        return sum(stage.steps for stage in self.config.stages[: self.stage_number]) + self.stage_step

    def _checkpoint_bytes(self) -> int:
        """Approximate size of a checkpoint: twice the weights, AdamW's two moments, the running average, in float32."""
        return 20 * sum(p.numel() for p in self.first_model.parameters())


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
