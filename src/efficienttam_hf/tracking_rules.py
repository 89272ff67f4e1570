"""The rules of tracking: which memories a frame attends to, how far back, and which proposal becomes its mask.

`TrackingRules` is the only place where these rules are written. A session, training, the exported graphs' tracker and
the manifest of an export read the same object; `TrackingRules.from_config` takes it from a model's configuration. The
file uses neither torch nor NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any


# The names of the strategies in `memory_selection.py`; a test or a parser can read them without importing that module.
MEMORY_SELECTIONS = ("recent", "skip_absent", "quality", "motion", "distractor_aware", "hypotheses")


class Direction(IntEnum):
    """The direction in which frames are tracked.

    Compare with `==`, not `is`: code that comes with a checkpoint can be loaded twice, for model and processor, and
    there are then two classes with this name.
    """

    FORWARD = 1
    BACKWARD = -1

    @property
    def step(self) -> int:
        """1 or -1: the next frame's index minus this one's."""
        return self.value

    @staticmethod
    def of(reverse: bool | Direction) -> Direction:
        """Convert Transformers' `reverse` to a direction: `True` is backward. A direction is returned as it is."""
        if isinstance(reverse, IntEnum):
            return Direction(reverse)
        return Direction.BACKWARD if reverse else Direction.FORWARD

    def is_ahead(self, frame_idx: int, current: int) -> bool:
        """Whether `frame_idx` comes after `current` in this direction."""
        return (frame_idx - current) * self.step > 0


def history_of(keep_history: bool | int | None) -> int | None:
    """Convert `keep_history` to a number of frames, or to `None` for all of them.

    Args:
        keep_history: a number of frames, `None` or `True` for all of them, `False` for none.

    Raises:
        ValueError: for anything else.
    """
    if keep_history is None or keep_history is True:
        return None
    if keep_history is False:
        return 0
    try:
        history = keep_history.__index__()
    except AttributeError:
        history = -1
    if history < 0:
        raise ValueError(f"keep_history must be True, False or a number of frames, got {keep_history!r}.")
    return history


@dataclass(frozen=True)
class TrackingRules:
    """The rules that decide how a frame is tracked. `EfficientTamConfig` has the same fields and defaults.

    Attributes:
        num_maskmem: a frame attends to the spatial memories of the conditioning frames and of the last
            `num_maskmem - 1` tracked frames.
        max_cond_frame_num: largest number of conditioning frames that a frame attends to, the closest in time; -1 for
            all.
        max_object_pointers_in_encoder: largest number of object pointers that a frame attends to.
        memory_temporal_stride_for_eval: distance in frames between the memories that a frame attends to; see
            `memory_frames`.
        multimask_output_in_sam, multimask_output_for_tracking, multimask_min_pt_num, multimask_max_pt_num: see
            `use_multimask`.
        add_all_frames_to_correct_as_cond: whether a tracked frame that is corrected becomes a conditioning frame.
        clear_non_cond_mem_around_input: whether memories of tracked frames around a prompted frame are dropped; see
            `ObjectMemory.clear_around`.
        non_overlap_masks_for_mem_enc: whether only the object with the highest logit keeps a pixel before the memory
            encoder reads the masks.
        memory_selection: name of the strategy that chooses the memories a frame attends to; see `memory_selection.py`.
        memory_selection_options: options of that strategy that differ from its defaults, by name.
        object_competition: how overlapping masks of several objects are resolved; see `object_competition.py`.
        previous_mask_clamp: bound on the absolute logits of a previous mask that the decoder receives with a
            correction.
    """

    num_maskmem: int = 7
    max_cond_frame_num: int = -1
    max_object_pointers_in_encoder: int = 16
    memory_temporal_stride_for_eval: int = 1
    multimask_output_in_sam: bool = True
    multimask_output_for_tracking: bool = True
    multimask_min_pt_num: int = 0
    multimask_max_pt_num: int = 1
    add_all_frames_to_correct_as_cond: bool = False
    clear_non_cond_mem_around_input: bool = False
    non_overlap_masks_for_mem_enc: bool = False
    memory_selection: str = "recent"
    memory_selection_options: Mapping[str, Any] | None = None
    object_competition: str = "none"
    previous_mask_clamp: float = 32.0

    @staticmethod
    def from_config(config: Any) -> TrackingRules:
        """The rules of an `EfficientTamConfig`, or of anything else that has these fields."""
        return TrackingRules(**{name: getattr(config, name) for name in RULE_NAMES})

    def for_training(self) -> TrackingRules:
        """The rules of a training step: the published memory selection, with a stride of 1."""
        return replace(
            self, memory_temporal_stride_for_eval=1, memory_selection="recent", memory_selection_options=None
        )

    @property
    def reach(self) -> int:
        """How many frames back tracking attends; entries that are farther away can be dropped."""
        spatial = (self.num_maskmem - 2) * self.memory_temporal_stride_for_eval + 1
        return max(spatial, self.num_maskmem - 1, self.max_object_pointers_in_encoder - 1)

    def memory_frames(self, frame_idx: int, direction: Direction) -> list[tuple[int, int]]:
        """The frames behind `frame_idx` whose spatial memories it attends to, as (frame, temporal index).

        The farthest comes first. The temporal index is the row of the temporal encoding: `k - 1` for the k-th last.
        With a stride r above 1, the frames are the one just behind and the nearest multiples of r behind that one.
        """
        r, position = self.memory_temporal_stride_for_eval, frame_idx * direction.step
        frames = []
        for k in range(self.num_maskmem - 1, 0, -1):
            behind = position - 1 if k == 1 else ((position - 2) // r - (k - 2)) * r
            frames.append((behind * direction.step, k - 1))
        return frames

    def pointer_frames(self, frame_idx: int, direction: Direction) -> list[int]:
        """The frames behind `frame_idx` whose object pointers it attends to, the nearest first."""
        return [frame_idx - k * direction.step for k in range(1, self.max_object_pointers_in_encoder)]

    def use_multimask(self, num_points: int, is_initial: bool) -> bool:
        """Whether a frame's mask is chosen among several proposals; otherwise it is the decoder's single mask.

        Args:
            num_points: number of points that prompt the frame (a box counts as two); 0 on a tracked frame.
            is_initial: whether the frame is segmented from its prompts alone, without memories.
        """
        return (
            self.multimask_output_in_sam
            and (is_initial or self.multimask_output_for_tracking)
            and self.multimask_min_pt_num <= num_points <= self.multimask_max_pt_num
        )


# This is computed at import, because torch.compile does not trace `dataclasses.fields`.
RULE_NAMES = tuple(field.name for field in fields(TrackingRules))
