"""The forward pass of training: tracks a batch of clips with a simulated user and computes the losses.

Tracking itself is `EfficientTamVideoModel.track_step`, and which memories a frame looks at is `ObjectMemory.select`:
the very code that tracks a video. What is new here is only who prompts, and that every prediction meets its true mask.
All objects of a batch run in step with each other (their prompts fall on the same frames), so one `ObjectMemory` whose
entries have O rows stands for all of them.

Two things differ from SAM 2's published training. It shows a tracked frame also the pointers of conditioning frames
ahead, which it does not when it tracks; here both are the same. And it feeds masks that are corrected back as they are;
here their logits are clamped, as they are in a session. A frame whose mask was given is not judged in either: there is
nothing that its losses could teach.

`ClipTracker` is a module of its own so that DDP and FSDP can wrap it: its `forward` is where gradients begin.

Shapes: T frames, B clips, O objects in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..data.batch import ClipBatch
from ..memory import FrameMemory, MemoryBank
from ..modeling_efficienttam_video import EfficientTamTrackingOutput, EfficientTamVideoModel
from ..object_memory import ObjectMemory
from ..tracking_rules import Direction, TrackingRules
from .losses import LossOptions, ObjectLosses, mask_iou, tracking_losses
from .simulated_user import PromptPlan, SimulatedUser, UserOptions


__all__ = ["ClipOutput", "ClipTracker"]


@dataclass
class ClipOutput:
    """What a batch of clips came to.

    Attributes:
        loss: scalar, to be differentiated: the sum over objects of their weighted losses, over `num_objects`.
        object_losses: the terms of each object, summed over its frames and corrections, detached.
        iou: (T, O) of the mask that was kept of each frame, detached; NaN where the mask was given.
        pred_masks: bool (T, O, h, w), those masks at the decoder's resolution.
        feature_loss: scalar, detached: the distillation term as it stands in `loss`; `None` without a teacher.
    """

    loss: Tensor
    object_losses: ObjectLosses
    iou: Tensor
    pred_masks: Tensor
    feature_loss: Tensor | None = None


class ClipTracker(nn.Module):
    """A model, the simulated user, the losses.

    Args:
        model: what is trained.
        user: how the user behaves.
        losses: weights and conventions of the losses.
        image_mean, image_std: of the model's image processor; three numbers for pixels from 0 to 1.
        distillation: adds a loss on the image features, or `None`.
        checkpoint_steps: whether tracking steps and losses are recomputed in the backward pass, which saves their
            activations.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self,
        model: EfficientTamVideoModel,
        user: UserOptions,
        losses: LossOptions,
        image_mean: list[float],
        image_std: list[float],
        distillation: nn.Module | None = None,
        checkpoint_steps: bool = False,
    ):
        super().__init__()
        self.model = model
        self.distillation = distillation
        self.user_options = user
        self.loss_options = losses
        self.checkpoint_steps = checkpoint_steps
        self.register_buffer("image_mean", torch.tensor(image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(image_std).view(1, 3, 1, 1), persistent=False)

    def forward(self, batch: ClipBatch, plan: PromptPlan, num_objects: float) -> ClipOutput:
        """Track the clips and judge every prediction.

        Args:
            batch: on the model's device.
            plan: what the user does in all of them.
            num_objects: what the sum over objects is divided by. Objects of the whole optimisation step over the
                number of processes, so that the average over processes is that of one process with all the objects.
        """
        num_frames, num_clips = batch.frames.shape[:2]
        pixels = (batch.frames.flatten(0, 1).float() / 255 - self.image_mean) / self.image_std
        features = self.model.get_image_features(pixels, return_dict=True).fpn_hidden_states[-1]
        feature_loss = None
        if self.distillation is not None:
            feature_loss = self.distillation(pixels, features)
        features = features.unflatten(0, (num_frames, num_clips))

        total: ObjectLosses | None = None
        iou = torch.full(batch.masks.shape[:2], torch.nan, device=pixels.device)
        shown: dict[int, Tensor] = {}
        # Of the several predictions of a corrected frame all count, and the last is kept.
        for frame, output in self._walk(features, batch, plan):
            shown[frame] = output.pred_masks.squeeze(1) > 0
            if plan.conditioning.get(frame) == "mask":
                continue
            masks, void = batch.masks[frame], _void(batch, frame)
            losses = self._run(
                tracking_losses,
                output.multimask_logits,
                output.multimask_iou_scores,
                output.object_score_logits,
                masks,
                void,
                self.loss_options,
            )
            total = losses if total is None else total + losses
            judged = torch.ones_like(masks) if void is None else ~void
            iou[frame] = mask_iou(output.high_res_masks.squeeze(1) > 0, masks, judged)
        assert total is not None  # every plan has a frame that is judged
        loss = total.total(self.loss_options).sum() / num_objects
        if feature_loss is not None:
            # An average already; it counts once a step as the others do.
            loss = loss + feature_loss * len(batch.clip_index) / num_objects
        return ClipOutput(
            loss=loss,
            object_losses=ObjectLosses(*(value.detach() for value in vars(total).values())),
            iou=iou,
            pred_masks=torch.stack([shown[frame] for frame in range(num_frames)]),
            feature_loss=None if feature_loss is None else feature_loss.detach(),
        )

    # ------------------------------------------------------------------------------------------------ the clip's walk

    def _walk(
        self, features: Tensor, batch: ClipBatch, plan: PromptPlan
    ) -> Iterator[tuple[int, EfficientTamTrackingOutput]]:
        """Every result, with its frame. Of a frame that is corrected there are several; the last is remembered."""
        user = SimulatedUser(self.user_options, batch.seeds.tolist())
        memory = ObjectMemory()
        tracked = [frame for frame in range(len(features)) if frame not in plan.conditioning]
        order = [*plan.conditioning, *tracked]
        for frame in order:
            is_last = frame == order[-1]
            frame_features = features[frame, batch.clip_index]
            kind = plan.conditioning.get(frame)
            if kind == "mask":
                masks = batch.masks[frame].unsqueeze(1).float()
                output = self._run(
                    self.model.track_step,
                    frame_features,
                    input_masks=masks,
                    mask_from_prompts=True,
                    encode_memory=not is_last,
                )
                yield frame, output
            else:
                for output in self._prompt_and_correct(frame_features, batch, plan, user, memory, frame, is_last):
                    yield frame, output
            conditions = kind is not None or (frame in plan.corrected and self.user_options.corrected_is_conditioning)
            entries = memory.conditioning if conditions else memory.tracked
            entries[frame] = FrameMemory(
                output.pred_masks, output.object_score_logits, output.iou_scores, output.object_pointer, output.memory
            )

    def _prompt_and_correct(
        self,
        features: Tensor,
        batch: ClipBatch,
        plan: PromptPlan,
        user: SimulatedUser,
        memory: ObjectMemory,
        frame: int,
        is_last: bool,
    ) -> Iterator[EfficientTamTrackingOutput]:
        """A frame's first prediction, from a prompt or from memory, and those after each correction of it."""
        masks, void, config = batch.masks[frame], _void(batch, frame), self.model.config
        bank, conditioned, points, labels = None, None, None, None
        kind = plan.conditioning.get(frame)
        if kind == "point":
            points, labels = user.first_click(masks, frame)
        elif kind == "box":
            points, labels = user.box(masks, frame)
        else:
            bank = self._bank(memory, frame, features)
            conditioned = self._run(self.model.condition_on_memory, features, bank)

        clicks = self.user_options.correction_clicks if frame in plan.corrected else 0
        previous = None
        for click in range(clicks + 1):
            remember = click == clicks and not is_last
            output = self._run(
                self.model.track_step,
                features,
                bank,
                points,
                labels,
                previous_masks=previous,
                mask_from_prompts=points is not None,
                encode_memory=remember,
                conditioned_features=conditioned,
            )
            yield output
            if click < clicks:
                predicted = output.high_res_masks.squeeze(1) > 0
                if void is not None:  # nobody calls a pixel wrong that nobody judged
                    predicted = torch.where(void, masks, predicted)
                new_points, new_labels = user.correction(masks, predicted, frame, click)
                points = new_points if points is None else torch.cat([points, new_points], dim=1)
                labels = new_labels if labels is None else torch.cat([labels, new_labels], dim=1)
                previous = output.pred_masks.clamp(-config.previous_mask_clamp, config.previous_mask_clamp)

    def _bank(self, memory: ObjectMemory, frame: int, features: Tensor) -> MemoryBank:
        rules = TrackingRules.from_config(self.model.config).for_training()
        selection = memory.select(frame, Direction.FORWARD, rules)
        return MemoryBank.from_selection(selection, features.device, features.dtype)

    def _run(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """Call a part of the model, or the losses; `checkpoint_steps` says whether its activations are kept."""
        if self.checkpoint_steps and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False, **kwargs)
        return function(*args, **kwargs)


def _void(batch: ClipBatch, frame: int) -> Tensor | None:
    """bool (O, height, width): the pixels of a frame that nobody judged, for each object."""
    return None if batch.void is None else batch.void[frame, batch.clip_index]
