"""The forward pass of training: tracks a batch of clips with a simulated user and computes the losses.

`EfficientTamVideoModel.track_step` tracks and `ObjectMemory.select` selects memories, as when a video is tracked. This
file only adds the simulated user and the losses. All objects of a batch are prompted on the same frames and processed
together, so that one `ObjectMemory`, whose entries have O rows, serves all of them.

Two things differ from SAM 2's published training. There, a tracked frame also attends to the pointers of conditioning
frames that are ahead, but not when a video is tracked; here training and tracking are the same. There, the decoder
receives the unchanged logits of a mask that is corrected; here they are clamped, as in a session. In both, a frame
whose mask was given has no losses, because the model cannot learn from it.

`ClipTracker` is a separate module so that DDP and FSDP can wrap it; gradients are computed through its `forward`.

Letters of shapes: T frames, B clips, O objects of all clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


if TYPE_CHECKING:
    from .distillation import FeatureDistillation


__all__ = ["ClipOutput", "ClipTracker"]


@dataclass
class ClipOutput:
    """The losses and masks of a batch of clips.

    Attributes:
        loss: a scalar with gradients: the sum of the objects' weighted losses, divided by `num_objects`.
        object_losses: the terms of each object, summed over its frames and corrections, detached.
        iou: (T, O) IoU of the final mask on each frame, detached; NaN if the mask was given.
        pred_masks: bool (T, O, h, w), the final masks at the decoder's resolution.
        feature_loss: a scalar, detached: the distillation term of `loss`; `None` without a teacher.
    """

    loss: Tensor
    object_losses: ObjectLosses
    iou: Tensor
    pred_masks: Tensor
    feature_loss: Tensor | None = None


class ClipTracker(nn.Module):
    """Tracks clips with a model and a simulated user, and computes the losses.

    Args:
        model: the model that is trained.
        user: the options of the simulated user.
        losses: weights and conventions of the losses.
        image_mean, image_std: mean and standard deviation of the model's image processor, three numbers each, for
            pixels from 0 to 1.
        distillation: a loss on the image features, or `None`.
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
        distillation: FeatureDistillation | None = None,
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
        """Track the clips and compute the losses of every prediction.

        Args:
            batch: the clips, on the model's device.
            plan: the prompts of all clips.
            num_objects: the number by which the sum over objects is divided: the objects of the whole optimisation step
                divided by the number of processes, so that the mean over processes equals that of a single process.
        """
        num_frames, num_clips = batch.frames.shape[:2]
        pixels = (batch.frames.flatten(0, 1).float() / 255 - self.image_mean) / self.image_std
        features = self.model.get_image_features(pixels, return_dict=True).fpn_hidden_states[-1]
        feature_loss = None
        features = features.unflatten(0, (num_frames, num_clips))
        if self.distillation is not None:
            frames = self.distillation.chosen_frames(num_frames)
            taught = pixels.unflatten(0, (num_frames, num_clips))[frames]
            feature_loss = self.distillation(taught.flatten(0, 1), features[frames].flatten(0, 1))

        total: ObjectLosses | None = None
        iou = torch.full(batch.masks.shape[:2], torch.nan, device=pixels.device)
        shown: dict[int, Tensor] = {}
        # All predictions of a corrected frame have losses; the last one is kept.
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
        assert total is not None  # every plan has a frame with losses
        loss = total.total(self.loss_options).sum() / num_objects
        if feature_loss is not None:
            # The distillation loss is an average already and is added once for each step.
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
        """Yield every result with its frame. A corrected frame has several results; the last one is remembered."""
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
        """Yield a frame's first prediction, from a prompt or from memory, and the prediction after each correction."""
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
                if void is not None:  # pixels that are not annotated are never wrong
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
        """Call a part of the model, or the losses; with `checkpoint_steps`, its activations are not kept."""
        if self.checkpoint_steps and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False, **kwargs)
        return function(*args, **kwargs)


def _void(batch: ClipBatch, frame: int) -> Tensor | None:
    """The pixels of a frame that are not annotated, for each object: bool (O, height, width)."""
    return None if batch.void is None else batch.void[frame, batch.clip_index]
