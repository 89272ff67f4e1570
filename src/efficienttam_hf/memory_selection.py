"""Memory selection: the strategies that choose which memories a frame attends to.

By the published rule, a frame attends to the conditioning frames and the last six others. Among these can be frames on
which the object was hidden, or on which the mask had moved to something else. The other strategies try to leave such
frames out; they need no other weights. Each strategy is one class with its options as fields, and
`TrackingRules.memory_selection` names it. Every object has its own instance, which keeps facts about past frames;
objects still run as one batch. This file uses no tensor library: the torch model and the exported graphs share it.

| name | class | source |
| --- | --- | --- |
| `recent` | `Recent` | SAM 2, EfficientTAM |
| `skip_absent` | `SkipAbsent` | the rule for absent frames of DAM4SAM, arXiv 2411.17576, by itself |
| `quality` | `Quality` | the tracker of SAM 3 |
| `motion` | `memory_selection_motion.MotionAware` | SAMURAI, arXiv 2411.11922 |
| `distractor_aware` | `memory_selection_distractors.DistractorAware` | DAM4SAM, arXiv 2411.17576 |
| `hypotheses` | `memory_selection_hypotheses.Hypotheses` | SAM2Long, arXiv 2410.16268 |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .tracking_rules import Direction, TrackingRules


MOST = 10**9  # largest absolute value of an option

if TYPE_CHECKING:
    from .object_memory import MemoryEntry, ObjectMemory


@dataclass
class FrameObservation:
    """The result of the mask decoder for one object on one frame, as far as a strategy needs it.

    Attributes:
        score: object score logit; above 0 the object is judged present.
        iou_scores: (K,) float, predicted IoU of the proposals.
        chosen: index of the proposal that becomes the mask; by default the one with the highest predicted IoU.
        areas: (K,) int, areas of the proposals' masks in pixels at the decoder's resolution.
        proposals: (K, h, w) bool, the proposals' masks; `None` unless the strategy has `needs_masks`.
    """

    score: float
    iou_scores: np.ndarray
    chosen: int
    areas: np.ndarray
    proposals: np.ndarray | None = None

    @property
    def iou(self) -> float:
        """Predicted IoU of the chosen mask."""
        return float(self.iou_scores[self.chosen])

    @property
    def area(self) -> int:
        """Area of the chosen mask in pixels; 0 if the object is judged absent."""
        return int(self.areas[self.chosen]) if self.score > 0 else 0

    @property
    def masks(self) -> np.ndarray:
        """(K, h, w) bool, the proposals' masks; for strategies with `needs_masks`."""
        assert self.proposals is not None
        return self.proposals

    @property
    def facts(self) -> FrameFacts:
        """The facts that a strategy keeps of this observation."""
        return FrameFacts(self.score, self.iou, self.area)

    def with_choice(self, proposal: int) -> FrameObservation:
        """A copy with another proposal as the mask."""
        return replace(self, chosen=proposal)

    def with_mask(self, mask: np.ndarray) -> FrameObservation:
        """A copy with another mask (h, w) in place of the chosen one; if it is empty, the object is absent."""
        areas, proposals = self.areas.copy(), self.proposals
        areas[self.chosen] = mask.sum()
        if proposals is not None:
            proposals = proposals.copy()
            proposals[self.chosen] = mask
        score = self.score if mask.any() else min(self.score, 0.0)
        return replace(self, score=score, areas=areas, proposals=proposals)


@dataclass(frozen=True)
class FrameFacts:
    """The facts about one frame that a strategy keeps.

    Attributes:
        score, iou, area: the values of the chosen mask, as in `FrameObservation`.
        motion: IoU of the mask's box with the box that the motion predicted; `None` if there was no prediction.
    """

    score: float
    iou: float
    area: int
    motion: float | None = None

    @property
    def is_visible(self) -> bool:
        """Whether the object is judged present and its mask is not empty."""
        return self.score > 0 and self.area > 0


@dataclass(frozen=True)
class FrameChoice:
    """The frames that one frame attends to.

    Attributes:
        conditioning: frames whose spatial memory and object pointer are used without an order in time.
        spatial: other frames whose spatial memory is used, as (frame, temporal index), the farthest first.
        pointers: other frames whose object pointer is used, the nearest first.
        weights: factors by which spatial memories are multiplied, by frame; a frame that is missing has the factor 1.
            With `None`, no memory is multiplied.
    """

    conditioning: list[int]
    spatial: list[tuple[int, int]]
    pointers: list[int]
    weights: Mapping[int, float] | None = None

    @property
    def frames(self) -> set[int]:
        """All chosen frames."""
        return {*self.conditioning, *(t for t, _ in self.spatial), *self.pointers}


def closest_conditioning_frames(frame_idx: int, frames: Iterable[int], limit: int) -> list[int]:
    """Up to `limit` conditioning frames (-1: all): the nearest before, the nearest after, then the closest others."""
    frames = list(frames)
    if limit == -1 or len(frames) <= limit:
        return frames
    before = [t for t in frames if t < frame_idx]
    after = [t for t in frames if t >= frame_idx]
    chosen = ([max(before)] if before else []) + ([min(after)] if after else [])
    others = sorted((t for t in frames if t not in chosen), key=lambda t: abs(t - frame_idx))
    return (chosen + others)[:limit]


def by_rank(frames: list[int], count: int) -> list[tuple[int, int]]:
    """The first `count` of `frames`, which begin with the nearest, as (frame, rank) pairs with the farthest first.

    The rank serves as the temporal index.
    """
    return [(t, rank) for rank, t in enumerate(frames[:count])][::-1]


@dataclass
class Recent:
    """The published rule: the conditioning frames and the last `num_maskmem - 1` others, whatever they show."""

    name: ClassVar[str] = "recent"
    observes: ClassVar[bool] = False  # whether the strategy uses observations
    needs_masks: ClassVar[bool] = False  # whether its observations need the masks of all proposals
    facts: dict[int, FrameFacts] = field(default_factory=dict, init=False, repr=False)

    def choose(self, memory: ObjectMemory, frame_idx: int, direction: Direction, rules: TrackingRules) -> FrameChoice:
        """Choose the frames that `frame_idx` attends to when it is tracked in a direction."""
        return FrameChoice(
            closest_conditioning_frames(frame_idx, memory.conditioning, rules.max_cond_frame_num),
            rules.memory_frames(frame_idx, direction),
            rules.pointer_frames(frame_idx, direction),
        )

    def choose_proposal(self, observation: FrameObservation, direction: Direction) -> int:
        """Choose the proposal that becomes the mask of a tracked frame."""
        return observation.chosen

    def observe(self, frame_idx: int, observation: FrameObservation, direction: Direction | None) -> None:
        """Store the facts about a frame's result. If remembered masks compete for pixels, this is called afterwards.

        Args:
            frame_idx: the frame.
            observation: the result as it is remembered.
            direction: the direction in which the frame was tracked; `None` if its mask comes from prompts.
        """
        self.facts[frame_idx] = observation.facts

    # A strategy may follow several paths, each with its own tracked frames. Only `Hypotheses` follows more than one.

    def choices(
        self, memory: ObjectMemory, frame_idx: int, direction: Direction, rules: TrackingRules
    ) -> list[tuple[FrameChoice, dict[int, MemoryEntry]]]:
        """For each path, the frames that `frame_idx` attends to and the path's tracked entries; the best path first."""
        return [(self.choose(memory, frame_idx, direction, rules), memory.tracked)]

    def keep(self, frame_idx: int, seen: list[FrameObservation], direction: Direction) -> list[tuple[int, int]]:
        """Choose the results of a tracked frame that are kept, as (path, proposal); the first is the frame's mask.

        Args:
            frame_idx: the frame.
            seen: the observations of the paths, in the order of `choices`.
            direction: the direction of tracking.
        """
        return [(0, self.choose_proposal(seen[0], direction))]

    def store(self, memory: ObjectMemory, frame_idx: int, entries: list[MemoryEntry]) -> None:
        """Store the entries of a tracked frame, which come in the order of `keep`, in their paths."""
        memory.tracked[frame_idx] = entries[0]

    def tracked(self, memory: ObjectMemory) -> list[dict[int, MemoryEntry]]:
        """The tracked entries of each path, the best path first."""
        return [memory.tracked]

    def follows(self, name: str, options: Mapping[str, Any] | None) -> bool:
        """Whether this strategy has the given name and options."""
        options = options or {}
        numbers = [f for f in fields(self) if f.init]
        return self.name == name and all(getattr(self, f.name) == options.get(f.name, f.default) for f in numbers)

    def forget(self, kept: Iterable[int]) -> None:
        """Drop the facts about all frames except those in `kept`."""
        kept = set(kept)
        for frame_idx in [t for t in self.facts if t not in kept]:
            del self.facts[frame_idx]

    def _behind(
        self, memory: ObjectMemory, frame_idx: int, direction: Direction, excluded: Iterable[int], stride: int = 1
    ) -> list[int]:
        """The frames behind `frame_idx` that have an entry, the nearest first.

        Args:
            memory: the object's memory.
            frame_idx: the frame that is tracked.
            direction: the direction of tracking.
            excluded: frames to leave out, such as the chosen conditioning frames.
            stride: only the frame just behind and every `stride`-th frame from there are returned.
        """
        nearest = frame_idx - direction.step
        frames = {*memory.tracked, *memory.conditioning}.difference(excluded)
        behind = [t for t in frames if direction.is_ahead(frame_idx, t) and (nearest - t) % stride == 0]
        return sorted(behind, key=lambda t: abs(frame_idx - t))


@dataclass
class SkipAbsent(Recent):
    """The published rule, applied only to frames on which the object is visible: it is present and has a mask.

    As long as the object is visible, this is the published rule. While it is hidden, the last frames that showed it
    remain in use.
    """

    name: ClassVar[str] = "skip_absent"
    observes: ClassVar[bool] = True

    def choose(self, memory: ObjectMemory, frame_idx: int, direction: Direction, rules: TrackingRules) -> FrameChoice:
        conditioning = closest_conditioning_frames(frame_idx, memory.conditioning, rules.max_cond_frame_num)
        behind = self._behind(memory, frame_idx, direction, conditioning)
        visible = [t for t in behind if self._is_visible(t)]
        stride = rules.memory_temporal_stride_for_eval
        strided = [t for t in visible if (frame_idx - direction.step - t) % stride == 0]
        return FrameChoice(
            conditioning,
            by_rank(strided, rules.num_maskmem - 1),
            visible[: rules.max_object_pointers_in_encoder - 1],
        )

    def _is_visible(self, frame_idx: int) -> bool:
        facts = self.facts.get(frame_idx)
        return facts is None or facts.is_visible


@dataclass
class Quality(Recent):
    """SAM 3's rule: only frames with a high enough object score and predicted IoU are used.

    The quality of a frame is (2 sigmoid(s) - 1) * IoU if the object score logit s is above 0, and 0 otherwise. The
    nearest `max_object_pointers_in_encoder - 1` frames above the threshold are used, and always the frame just behind.
    All of them give object pointers, and the nearest `num_maskmem - 1` of them give spatial memories. The nearest four
    conditioning frames are used.

    Source: `frame_filter` and `cal_mem_score` in SAM 3's `sam3_tracker_base.py`. There the oldest of these frames
    gives no pointer; here it does.

    Args:
        quality_threshold: a frame is used if its quality is above this number. SAM 3 has 0.01, which only leaves out
            frames without the object; a model whose score stays high while its mask is wrong needs more.
        max_conditioning_frames: largest number of conditioning frames, if the model's configuration has no limit.
    """

    name: ClassVar[str] = "quality"
    observes: ClassVar[bool] = True
    quality_threshold: float = 0.01
    max_conditioning_frames: int = 4

    def quality(self, facts: FrameFacts) -> float:
        """The quality of a frame, from 0 to 1."""
        presence = 2 / (1 + math.exp(-facts.score)) - 1 if facts.score > 0 else 0.0
        return presence * facts.iou

    def choose(self, memory: ObjectMemory, frame_idx: int, direction: Direction, rules: TrackingRules) -> FrameChoice:
        limit = rules.max_cond_frame_num if rules.max_cond_frame_num > 0 else self.max_conditioning_frames
        conditioning = closest_conditioning_frames(frame_idx, memory.conditioning, limit)
        stride, count = rules.memory_temporal_stride_for_eval, rules.max_object_pointers_in_encoder - 1
        good = [
            t
            for t in self._behind(memory, frame_idx, direction, memory.conditioning, stride)
            if t in self.facts and self.quality(self.facts[t]) > self.quality_threshold
        ][:count]
        frames = with_nearest(good, frame_idx - direction.step)
        return FrameChoice(conditioning, by_rank(frames, rules.num_maskmem - 1), frames[:count])


def with_nearest(frames: list[int], nearest: int) -> list[int]:
    """Add the frame `nearest` at the beginning of `frames`, which are sorted by distance, if it is missing."""
    return frames if nearest in frames else [nearest, *frames]


def _check_option(name: str, value: Any, default: Any) -> None:
    parts = value if isinstance(default, tuple) and isinstance(value, list | tuple) else (value,)
    count = len(default) if isinstance(default, tuple) else 1
    kinds: Any = int if isinstance(default, int) else int | float
    if len(parts) != count or not all(
        isinstance(part, kinds) and not isinstance(part, bool) and abs(part) <= MOST for part in parts
    ):
        expected = "a whole number" if kinds is int else "a number" if count == 1 else f"{count} numbers"
        raise ValueError(
            f"config.memory_selection_options.{name} is a {type(value).__name__}; accepted is {expected} such as "
            f"{default}, of at most {MOST}."
        )


MemoryStrategy = Recent  # every strategy is a subclass


def strategies() -> dict[str, type[MemoryStrategy]]:
    """The strategies by name."""
    from .memory_selection_distractors import DistractorAware
    from .memory_selection_hypotheses import Hypotheses
    from .memory_selection_motion import MotionAware

    return {cls.name: cls for cls in (Recent, SkipAbsent, Quality, MotionAware, DistractorAware, Hypotheses)}


def strategy_numbers() -> dict[str, Any]:
    """The defaults of the options of all strategies, by name."""
    return {f.name: f.default for cls in strategies().values() for f in fields(cls) if f.init}


def option_value(name: str, text: str) -> Any:
    """Convert the text of an option to a value of its default's type; a pair is two numbers with a comma.

    Raises:
        ValueError: if no strategy has the option, or the text is not such a value.
    """
    numbers = strategy_numbers()
    if name not in numbers:
        raise ValueError(f"No memory selection has an option {name}; the options are {', '.join(sorted(numbers))}.")
    default = numbers[name]
    try:
        if isinstance(default, tuple):
            values = tuple(float(part) for part in text.split(","))
            if len(values) != len(default):
                raise ValueError
            return values
        return type(default)(text)
    except ValueError:
        kinds = {int: "a whole number", float: "a number", tuple: "two numbers with a comma"}
        raise ValueError(f"The option {name} is {kinds[type(default)]}, such as {default}; got {text!r}.") from None


def make_strategy(name: str, options: Mapping[str, Any] | None = None) -> MemoryStrategy:
    """Create the strategy of one object.

    Args:
        name: one of `strategies()`.
        options: options of the strategy that differ from its defaults. Options of other strategies are ignored, so
            that a configuration can hold the options of all strategies.

    Raises:
        ValueError: if the name is unknown, no strategy has an option, or an option has the wrong type.
    """
    known = strategies()
    if name not in known:
        raise ValueError(f"There is no memory selection {name!r}; choose one of {', '.join(known)}.")
    numbers = strategy_numbers()
    unknown = sorted(set(options or {}) - numbers.keys())
    if unknown:
        raise ValueError(
            f"No memory selection has an option {', '.join(unknown)}; the options are {', '.join(sorted(numbers))}."
        )
    for key, value in (options or {}).items():
        _check_option(key, value, numbers[key])
    own = {f.name for f in fields(known[name]) if f.init}
    return known[name](**{key: value for key, value in (options or {}).items() if key in own})
