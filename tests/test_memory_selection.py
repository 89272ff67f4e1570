"""Memory strategies: each rule against a slow, obvious re-computation of its source, and all of them in sessions."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from reference import tiny_fields

from efficienttam_hf import EfficientTamConfig, EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.memory_selection import FrameFacts, FrameObservation, make_strategy, option_value, strategies
from efficienttam_hf.memory_selection_distractors import DistractorAware, largest_component
from efficienttam_hf.memory_selection_motion import BoxFilter, MotionAware, box_iou, mask_box
from efficienttam_hf.object_memory import ObjectMemory
from efficienttam_hf.tracking_rules import MEMORY_SELECTIONS, Direction, TrackingRules


RULES = TrackingRules()
NAMES = ("recent", "skip_absent", "quality", "motion", "distractor_aware", "hypotheses")
FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD


@dataclass
class Entry:
    """A memory whose content is its frame's number."""

    spatial: int
    object_pointer: int


def remembered(
    name: str, facts: dict[int, FrameFacts], conditioning=(0,), **options
) -> tuple[ObjectMemory, TrackingRules]:
    """An object that was prompted on some frames and tracked on those that there are facts of."""
    rules = replace(RULES, memory_selection=name, memory_selection_options=options or None)
    memory = ObjectMemory(strategy=make_strategy(name, options))
    memory.conditioning = {t: Entry(t, t) for t in conditioning}
    memory.tracked = {t: Entry(t, t) for t in facts if t not in conditioning}
    memory.strategy.facts = dict(facts)
    return memory, rules


def selected(memory: ObjectMemory, frame_idx: int, rules: TrackingRules, direction=FORWARD):
    """Spatial memories as (frame, temporal index), and pointers' frames."""
    selection = memory.select(frame_idx, direction, rules)
    return [(e.spatial, index) for e, index in selection.spatial], [e.object_pointer for e in selection.pointers]


def random_facts(seed: int, count: int) -> dict[int, FrameFacts]:
    """Frames 1 to count - 1, some of them without the object, some with a bad mask."""
    rng = np.random.default_rng(seed)
    facts = {}
    for t in range(1, count):
        score = float(rng.normal(1, 2))
        area = 0 if score <= 0 or rng.random() < 0.1 else int(rng.integers(50, 100))
        motion = None if rng.random() < 0.3 else float(max(0, rng.normal(0.3, 0.4)))
        facts[t] = FrameFacts(score, float(rng.random()), area, motion)
    return facts


# -------------------------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize("seed", range(4))
def test_skip_absent_uses_the_last_frames_that_show_the_object(seed):
    facts = random_facts(seed, 60)
    memory, rules = remembered("skip_absent", facts)
    for t in (3, 12, 40, 60):
        visible = [i for i in range(t - 1, 0, -1) if facts[i].score > 0 and facts[i].area > 0]
        spatial = [(0, 6)] + [(i, rank) for rank, i in enumerate(visible[:6])][::-1]
        assert selected(memory, t, rules) == (spatial, [0, *visible[:15]])


def test_skip_absent_is_the_published_rule_while_the_object_is_seen():
    facts = {t: FrameFacts(3.0, 0.9, 50) for t in range(1, 30)}
    for t in (1, 5, 20, 30):
        assert selected(*remembered_at("skip_absent", facts, t)) == selected(*remembered_at("recent", facts, t))


def remembered_at(name, facts, t):
    memory, rules = remembered(name, facts)
    return memory, t, rules


def quality_frames(facts: dict[int, FrameFacts], t: int, threshold: float) -> list[int]:
    """SAM 3's `frame_filter`, forward, with a stride of 1: oldest first."""
    valid: list[int] = []
    for i in range(t - 1, 0, -1):
        if i not in facts:
            continue
        presence = 1 / (1 + math.exp(-facts[i].score)) * 2 - 1 if facts[i].score > 0 else 0.0
        if presence * facts[i].iou > threshold:
            valid.insert(0, i)
        if len(valid) >= 16 - 1:
            break
    if t - 1 not in valid:
        valid.append(t - 1)
    return valid


@pytest.mark.parametrize("threshold", [0.01, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_quality_keeps_the_last_frames_above_the_threshold(seed, threshold):
    facts = random_facts(seed, 80)
    memory, rules = remembered("quality", facts, quality_threshold=threshold)
    for t in (2, 9, 30, 80):
        valid = quality_frames(facts, t, threshold)
        spatial = [(0, 6)] + [(valid[-k], k - 1) for k in range(min(6, len(valid)), 0, -1)]
        assert selected(memory, t, rules) == (spatial, [0, *valid[::-1][:15]])


def test_quality_uses_the_nearest_four_conditioning_frames():
    memory, rules = remembered("quality", {t: FrameFacts(3.0, 0.9, 50) for t in range(50)}, (0, 5, 10, 20, 30))
    spatial, _ = selected(memory, 32, rules)
    assert sorted(t for t, index in spatial if index == 6) == [5, 10, 20, 30]


@pytest.mark.parametrize("seed", range(4))
def test_motion_keeps_the_last_frames_that_were_good_and_moved_as_expected(seed):
    facts = random_facts(seed, 80)
    memory, rules = remembered("motion", facts)
    for t in (3, 20, 50, 80):
        valid: list[int] = []
        for i in range(t - 1, 0, -1):
            f = facts[i]
            if f.iou > 0.5 and f.score > 0 and (f.motion is None or f.motion > 0):
                valid.insert(0, i)
            if len(valid) >= 15:
                break
        if t - 1 not in valid:
            valid.append(t - 1)
        spatial = [(0, 6)] + [(valid[-k], k - 1) for k in range(min(6, len(valid)), 0, -1)]
        assert selected(memory, t, rules) == (spatial, [0, *(i for i in range(t - 1, max(t - 16, 0), -1))])


def dam4sam_frames(facts, promoted, t, r=5):
    """DAM4SAM's `_prepare_memory_conditioned_features`, forward, prompted on frame 0: (DRM, RAM the newest first)."""
    cond = {0, *promoted}
    non_cond = {i for i in facts if i not in cond}
    before = max((i for i in cond if i < t - 1), default=None)
    drm = [] if before is None else [before]
    if 0 not in drm:
        drm.append(0)
    rest = sorted((i for i in cond if i not in drm and i != t - 1), key=lambda i: abs(i - t))
    drm += rest[: 4 - len(drm)]
    ram, prev = [], None
    for i in range(7 - len(drm)):
        if i == 0:
            prev, step = t - 1, 1
            out = prev if prev in cond or prev in non_cond else None
        elif prev >= 0:
            prev, step = ((prev - 1) // r) * r, r
            out = prev if prev in non_cond else None
        else:
            break
        empty = out is None or (out in facts and facts[out].area < 1) or prev in drm
        while empty:
            prev -= step
            if prev <= 0:
                out = None
                break
            if prev in non_cond and facts[prev].area >= 1 and prev not in drm:
                out = prev
                break
        if out is not None:
            ram.append(out)
    return drm, ram


@pytest.mark.parametrize("promoted", [(), (4,), (4, 11), (4, 11, 20, 29, 41), (39, 45, 59)])
@pytest.mark.parametrize("seed", range(3))
def test_distractor_aware_memory_has_two_parts(seed, promoted):
    facts = random_facts(seed, 80)
    memory, rules = remembered("distractor_aware", facts)
    for t in (1, 2, 6, 13, 30, 46, 60, 80):
        memory.tracked = {i: Entry(i, i) for i in facts if i < t}
        memory.strategy.promoted = {i for i in promoted if i < t}
        known = {i: f for i, f in facts.items() if i < t}
        drm, ram = dam4sam_frames(known, memory.strategy.promoted, t)
        spatial, pointers = selected(memory, t, rules)
        assert spatial == [(i, 6) for i in drm] + [(i, rank) for rank, i in enumerate(ram)][::-1]
        visible = [i for i in range(t - 1, max(t - 16, 0), -1) if known[i].area >= 1 and i not in drm]
        assert pointers == [*drm, *visible]


@pytest.mark.parametrize("threshold", [0.1, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_hypotheses_keep_certain_frames_weighted_by_their_scores(seed, threshold):
    facts = random_facts(seed, 60)
    memory, rules = remembered("hypotheses", facts, path_iou_threshold=threshold)
    for t in (1, 2, 9, 30, 60):
        valid = [i for i in range(t - 1, 0, -1) if facts[i].iou > threshold and facts[i].score > 0]
        spatial = [(i, rank) for rank, i in enumerate(valid[:6])][::-1]
        assert selected(memory, t, rules) == ([(0, 6), *spatial], [0, *valid[:15]])
        weights = memory.select(t, FORWARD, rules).weights
        assert weights[0] == 1.0  # the prompted frame
        by_score = sorted(range(len(spatial)), key=lambda place: facts[spatial[place][0]].score)
        for order, place in enumerate(by_score):
            expected = 1.0 if len(spatial) == 1 else 0.95 + 0.1 * order / (len(spatial) - 1)
            assert weights[1 + place] == pytest.approx(expected)


# ------------------------------------------------------------------------------------------ what strategies learn


def observation(proposals, iou_scores, score=3.0, chosen=None) -> FrameObservation:
    proposals, iou_scores = np.stack(proposals), np.array(iou_scores)
    chosen = int(iou_scores.argmax()) if chosen is None else chosen
    return FrameObservation(score, iou_scores, chosen, proposals.sum(axis=(1, 2)), proposals)


def rectangle(x0, y0, x1, y1, size=64) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_a_frame_with_a_distractor_is_promoted_under_all_conditions():
    mask, far = rectangle(10, 10, 20, 20), rectangle(40, 40, 50, 50)

    def promoted(t=20, iou=0.9, second=far | mask, areas=(100,) * 5, last=None, score=3.0):
        strategy = DistractorAware()
        strategy._direction, strategy._areas, strategy._last_promotion = FORWARD, list(areas), last
        strategy.observe(t, observation([mask, second, mask], [iou, 0.3, 0.2], score), FORWARD)
        return strategy.promoted == {t}

    assert promoted()
    assert not promoted(iou=0.8)  # not sure enough
    assert not promoted(second=mask)  # nothing else is reached for
    assert not promoted(second=rectangle(10, 10, 20, 21))  # only a little more: the boxes' IoU is 0.9
    assert not promoted(areas=(84,) * 11 + (100,) * 0 + (60,) * 10)  # larger than usual
    assert not promoted(areas=(130,) * 11)  # smaller than usual
    assert not promoted(areas=())  # nothing to compare with
    assert promoted(areas=(0,) * 30 + (100,) * 3)  # empty masks do not count
    assert not promoted(last=15) and promoted(last=14)  # five frames apart at least
    assert not promoted(score=-1.0)


def test_a_prompt_takes_a_promotion_back_and_a_turn_forgets_areas():
    strategy = DistractorAware()
    strategy.promoted, strategy._areas, strategy._direction = {5}, [100, 100], FORWARD
    strategy.observe(5, observation([rectangle(1, 1, 9, 9)] * 3, [0.9, 0.1, 0.1]), None)
    assert strategy.promoted == set()
    strategy.observe(4, observation([rectangle(1, 1, 9, 9)] * 3, [0.9, 0.1, 0.1]), BACKWARD)
    assert strategy._areas == [64]


@pytest.mark.parametrize("seed", range(5))
def test_largest_component_is_that_of_opencv(seed):
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(seed)
    mask = rng.random((40, 50)) < (0.2, 0.35, 0.45, 0.6, 0.02)[seed]
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    ours = largest_component(mask)
    assert ours.sum() == areas.max()
    assert len(np.unique(labels[ours])) == 1
    assert not largest_component(np.zeros((4, 4), bool)).any()


def test_box_filter_is_the_textbook_kalman_filter():
    rng = np.random.default_rng(0)
    box = np.array([10.0, 20.0, 30.0, 60.0])
    ours = BoxFilter(box)
    measure = lambda b: np.array([(b[0] + b[2]) / 2, (b[1] + b[3]) / 2, (b[2] - b[0]) / (b[3] - b[1]), b[3] - b[1]])  # noqa: E731
    mean = np.r_[measure(box), np.zeros(4)]
    h = mean[3]
    P = np.diag(np.array([h / 10, h / 10, 1e-2, h / 10, h / 16, h / 16, 1e-5, h / 16]) ** 2)
    F, H = np.eye(8), np.eye(4, 8)
    F[:4, 4:] = np.eye(4)
    for _ in range(6):
        h = mean[3]
        Q = np.diag(np.array([h / 20, h / 20, 1e-2, h / 20, h / 160, h / 160, 1e-5, h / 160]) ** 2)
        mean, P = F @ mean, F @ P @ F.T + Q
        ours.predict()
        np.testing.assert_allclose(ours.mean, mean)
        box = box + rng.normal(0, 2, 4)
        h = mean[3]
        S = H @ P @ H.T + np.diag(np.array([h / 20, h / 20, 1e-1, h / 20]) ** 2)
        K = P @ H.T @ np.linalg.inv(S)
        mean, P = mean + K @ (measure(box) - H @ mean), P - K @ S @ K.T
        ours.update(box)
        np.testing.assert_allclose(ours.mean, mean)
        np.testing.assert_allclose(ours.covariance, P, atol=1e-9)


def test_boxes_of_masks():
    assert mask_box(rectangle(3, 4, 10, 20)).tolist() == [3, 4, 9, 19]
    assert mask_box(np.zeros((4, 4), bool)) is None
    assert box_iou(np.array([0.0, 0, 10, 10]), np.array([5.0, 0, 15, 10])) == pytest.approx(1 / 3)
    assert box_iou(np.array([0.0, 0, 10, 10]), None) == 0


def test_motion_chooses_the_proposal_where_the_object_should_be():
    strategy = MotionAware()
    for t in range(1, 17):  # moves two pixels a frame
        seen = observation([rectangle(2 * t, 10, 2 * t + 10, 20)] * 3, [0.9, 0.2, 0.1])
        assert strategy.choose_proposal(seen, FORWARD) == 0
        strategy.observe(t, seen, FORWARD)
    # A look-alike where the object was long ago has the better predicted IoU.
    there, wrong = rectangle(34, 10, 44, 20), rectangle(2, 40, 12, 50)
    seen = observation([wrong, there, wrong], [0.8, 0.7, 0.1])
    assert strategy.choose_proposal(seen, FORWARD) == 1
    strategy.observe(17, seen.with_choice(1), FORWARD)
    assert strategy.facts[17].motion > 0.5 and strategy.facts[16].motion is not None
    # A user's prompt starts it anew: motion no longer counts.
    strategy.observe(18, observation([wrong], [1.0]), None)
    assert strategy.choose_proposal(observation([wrong, there, wrong], [0.8, 0.7, 0.1]), FORWARD) == 0


def grow(tree: list[tuple[tuple, float]], frame: list[tuple[float, list[float]]], count: int, certainty: float) -> list:
    """SAM2Long's constrained tree, obviously: paths are tuples of what was chosen, with the sums of their scores."""
    every = []
    for place, (path, total) in enumerate(tree):
        _, iou_scores = frame[place]
        for proposal, iou in enumerate(iou_scores):
            every.append(((*path, (place, proposal)), total + math.log(iou + 1e-5), round(iou, 2)))
    every = sorted(every, key=lambda branch: branch[1], reverse=True)
    if all(abs(score) < certainty for score, _ in frame):
        once = []
        for branch in every:
            if branch[2] not in [other[2] for other in once]:
                once.append(branch)
        every = once
    return [(path, total) for path, total, _ in every[:count]]


@pytest.mark.parametrize("seed", range(6))
def test_hypotheses_are_the_best_paths_of_a_tree(seed):
    rng = np.random.default_rng(seed)
    memory, rules = remembered("hypotheses", {}, num_paths=3)
    strategy, tree = memory.strategy, [((), 0.0)]
    for t in range(1, 40):
        selections = memory.select_paths(t, FORWARD, rules)
        assert len(selections) == len(tree)
        # Few values, so that some are equal; on some frames nobody is certain, on some everybody.
        frame = [(float(rng.normal(0, 2)), rng.integers(1, 40, 3) / 40) for _ in tree]
        for selection, (path, _), (place, _) in zip(selections, tree, enumerate(tree), strict=True):
            # What a path looks at is what it has remembered itself: the entry of a frame is named after its branch.
            own = [(s, *branch) for s, branch in enumerate(path, 1)]
            known = strategy.paths[place].facts
            assert all(entry.spatial in own for entry, index in selection.spatial if index != 6)
            valid = [name for name in reversed(own) if known[name[0]].iou > 0.1 and known[name[0]].score > 0]
            assert [entry.spatial for entry, index in selection.spatial if index != 6][::-1] == valid[:6]
        seen = [FrameObservation(score, iou, int(iou.argmax()), np.array([9, 8, 7])) for score, iou in frame]
        kept = strategy.keep(t, seen, FORWARD)
        strategy.store(memory, t, [Entry((t, *branch), 0) for branch in kept])
        strategy.observe(t, seen[kept[0][0]].with_choice(kept[0][1]), FORWARD)
        tree = grow(tree, [(score, iou.tolist()) for score, iou in frame], 3, 2.0)
        assert kept == [path[-1] for path, _ in tree]
        assert [p.score for p in strategy.paths] == pytest.approx([total - tree[0][1] for _, total in tree])
        assert [e.spatial for e in memory.tracked.values()] == [(s, *b) for s, b in enumerate(tree[0][0], 1)]


def test_a_prompt_and_a_turn_leave_the_best_of_several_paths():
    memory, rules = remembered("hypotheses", {})
    strategy = memory.strategy
    seen = FrameObservation(5.0, np.array([0.5, 0.9, 0.7]), 1, np.array([9, 8, 7]))
    memory.select_paths(1, FORWARD, rules)
    assert strategy.keep(1, [seen], FORWARD) == [(0, 1), (0, 2), (0, 0)]
    best, *others = [Entry(name, 0) for name in "abc"]
    strategy.store(memory, 1, [best, *others])
    assert len(memory.select_paths(2, FORWARD, rules)) == 3
    assert len(memory.select_paths(0, BACKWARD, rules)) == 1
    assert len(memory.select_paths(2, FORWARD, rules)) == 1 and memory.tracked == {1: best}
    strategy.keep(2, [seen], FORWARD)
    strategy.store(memory, 2, [best, *others])
    strategy.observe(2, seen, None)
    assert len(memory.select_paths(3, FORWARD, rules)) == 1


def test_a_strategy_with_other_numbers_is_another_one():
    memory, rules = remembered("quality", {1: FrameFacts(3.0, 0.4, 9), 2: FrameFacts(3.0, 0.9, 9)})
    before = memory.strategy
    assert selected(memory, 3, rules)[0] == [(0, 6), (1, 1), (2, 0)] and memory.strategy is before
    # Numbers of other strategies, and the default ones, change nothing.
    memory.follow(replace(rules, memory_selection_options={"ram_stride": 3, "quality_threshold": 0.01}))
    assert memory.strategy is before
    memory.follow(replace(rules, memory_selection_options={"quality_threshold": 0.5}))
    assert memory.strategy.quality_threshold == 0.5 and memory.strategy.facts == {}
    memory.follow(replace(rules, memory_selection="recent"))
    assert memory.strategy.name == "recent"


def test_a_session_takes_other_numbers_between_frames(lively, processor):
    session = begin(processor, moving_frames(6), BOXES, memory_selection="quality")
    for output in lively.propagate_in_video_iterator(session):
        if output.frame_idx == 2:
            session.change_rules(memory_options={"quality_threshold": 0.9})
    assert session.objects[1].memory.strategy.quality_threshold == 0.9


def test_names_and_options_are_checked():
    assert tuple(strategies()) == NAMES == MEMORY_SELECTIONS
    with pytest.raises(ValueError, match="no memory selection 'best'; choose one of recent, "):
        make_strategy("best")
    with pytest.raises(ValueError, match="option qualty_threshold"):
        make_strategy("quality", {"qualty_threshold": 1})
    with pytest.raises(ValueError, match="num_paths is at least 1, got 0"):
        make_strategy("hypotheses", {"num_paths": 0})
    # A configuration may hold the thresholds of several strategies.
    assert make_strategy("quality", {"quality_threshold": 0.5, "ram_stride": 3}).quality_threshold == 0.5


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("quality_threshold", "0.5", 0.5), ("ram_stride", "3", 3), ("promotion_area", "0.5,2", (0.5, 2.0))],
)
def test_options_come_from_text(name, text, value):
    assert option_value(name, text) == value
    with pytest.raises(ValueError, match=f"The option {name} is .*; got 'x'"):
        option_value(name, "x")


def test_unknown_options_in_text_are_refused():
    with pytest.raises(ValueError, match="No memory selection has an option speed"):
        option_value("speed", "1")


# ------------------------------------------------------------------------------------------------------ in sessions

BOXES = {1: [20, 20, 60, 60], 2: [70, 30, 110, 90], 3: [10, 70, 50, 110]}


def moving_frames(count: int, seed: int = 0, size: int = 128) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 255, (size, size, 3), np.uint8)
    return [np.roll(frame, 3 * t, axis=1) for t in range(count)]


def begin(processor, frames, boxes, **options):
    session = processor.init_video_session(frames, **options)
    for obj_id, box in boxes.items():
        processor.add_inputs_to_inference_session(session, 0, obj_id, input_boxes=[[box]])
    return session


@pytest.fixture(scope="module")
def lively(model):
    """The tiny model with object scores about zero, so that objects come and go."""
    return enlivened(copy.deepcopy(model))


def enlivened(model):
    torch.manual_seed(1)
    for head in (model.mask_decoder.pred_obj_score_head, model.mask_decoder.iou_prediction_head):
        torch.nn.init.normal_(head.layers[-1].weight, std=0.5)
    return model


def track(model, session) -> list:
    return list(model.propagate_in_video_iterator(session))


def test_recent_is_the_default_bit_for_bit(lively, processor):
    frames = moving_frames(10)
    default = track(lively, begin(processor, frames, BOXES))
    named = track(lively, begin(processor, frames, BOXES, memory_selection="recent"))
    for a, b in zip(default, named, strict=True):
        assert torch.equal(a.pred_masks, b.pred_masks) and torch.equal(a.object_pointer, b.object_pointer)


EIGHT = {i: [5 + 12 * i, 10 + 9 * i, 35 + 11 * i, 45 + 9 * i] for i in range(8)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("boxes", "count"), [(BOXES, 12), (EIGHT, 6)], ids=["few", "eight"])
def test_objects_together_are_what_each_is_alone(lively, processor, boxes, count, name):
    frames = moving_frames(count)
    together = track(lively, begin(processor, frames, boxes, memory_selection=name))
    for row, (obj_id, box) in enumerate(boxes.items()):
        alone = track(lively, begin(processor, frames, {obj_id: box}, memory_selection=name))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a.pred_masks[row], b.pred_masks[0], rtol=1e-3, atol=1e-3)


def test_paths_of_several_objects_are_one_batch(lively, processor, monkeypatch):
    from efficienttam_hf.video_backend import TorchBackend

    sizes = []
    segment = TorchBackend.segment
    monkeypatch.setattr(TorchBackend, "segment", lambda *args: sizes.append(args[4]) or segment(*args))
    session = begin(processor, moving_frames(4), BOXES, memory_selection="hypotheses", memory_options=EVERY_FRAME)
    track(lively, session)
    assert sizes == [3, 3, 9, 9]  # three objects; from the first tracked frame on each has three paths


# So that no path leaves a frame out, and all look at equally many.
EVERY_FRAME = {"path_iou_threshold": -1.0, "path_certainty": 0.0}


def test_hypotheses_say_what_they_do_not_do(lively, processor, monkeypatch):
    monkeypatch.setattr(lively.config, "non_overlap_masks_for_mem_enc", True)
    with pytest.raises(ValueError, match="hypotheses .*: choose another memory selection"):
        track(lively, begin(processor, moving_frames(3), BOXES, memory_selection="hypotheses"))


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_strategy_changes_what_is_remembered(lively, processor, name):
    frames = moving_frames(30)
    options = {"quality_threshold": 0.5} if name == "quality" else None
    session = begin(processor, frames, BOXES, memory_selection=name, memory_options=options)
    track(lively, session)
    strategy = session.objects[1].memory.strategy
    assert strategy.name == name
    assert 0 < len(strategy.facts) <= 30


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_bounded_and_an_unbounded_session_selects_the_same(lively, processor, name):
    frames = moving_frames(40)
    bounded = begin(processor, frames, BOXES, memory_selection=name, keep_history=False)
    everything = begin(processor, frames, BOXES, memory_selection=name, keep_history=True)
    pairs = zip(
        lively.propagate_in_video_iterator(bounded), lively.propagate_in_video_iterator(everything), strict=True
    )
    for a, b in pairs:
        torch.testing.assert_close(a.pred_masks, b.pred_masks, rtol=1e-3, atol=1e-3)
        for obj in bounded.objects.values():
            reach = RULES.reach
            paths = obj.memory.strategy.tracked(obj.memory)
            known = {t for tracked in paths for t in tracked} | {*obj.memory.conditioning}
            most = 2 * reach + len(paths) * (RULES.num_maskmem + RULES.max_object_pointers_in_encoder)
            assert all(len(tracked) <= most for tracked in paths)
            assert set(obj.memory.strategy.facts) <= known


@pytest.mark.parametrize("name", NAMES)
def test_backward_corrections_late_objects_and_removal(lively, processor, name):
    frames = moving_frames(16)
    session = processor.init_video_session(frames, memory_selection=name)
    processor.add_inputs_to_inference_session(session, 10, 1, input_boxes=[[BOXES[1]]])
    for output in lively.propagate_in_video_iterator(session, start_frame_idx=10):
        assert output.object_ids == [1]
    for output in lively.propagate_in_video_iterator(session, start_frame_idx=10, reverse=True):
        assert torch.isfinite(output.pred_masks).all()
    processor.add_inputs_to_inference_session(
        session, 5, 1, input_points=[[[[40, 40]]]], input_labels=[[[1]]]
    )  # a correction
    processor.add_inputs_to_inference_session(session, 7, 2, input_boxes=[[BOXES[2]]])  # a late object
    rows = {o.frame_idx: o for o in lively.propagate_in_video_iterator(session, start_frame_idx=5)}
    assert sorted(rows) == list(range(5, 16)) and rows[9].object_ids == [1, 2]
    session.remove_object(1)
    assert [o.object_ids for o in lively.propagate_in_video_iterator(session, start_frame_idx=7)] == [[2]] * 9


def test_a_stream_takes_a_strategy_and_a_stride(lively, processor):
    session = processor.init_video_session(memory_selection="skip_absent", memory_stride=3)
    for t, frame in enumerate(moving_frames(12)):
        if t == 0:
            processor.add_inputs_to_inference_session(
                session, 0, 1, input_boxes=[[BOXES[1]]], original_size=frame.shape[:2]
            )
        lively(session, frame=frame)
    rules = session.rules_of(TrackingRules.from_config(lively.config))
    assert (rules.memory_selection, rules.memory_temporal_stride_for_eval) == ("skip_absent", 3)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        processor.init_video_session(memory_stride=0)
    with pytest.raises(ValueError, match="no memory selection"):
        processor.init_video_session(memory_selection="newest")


def test_a_configuration_can_say_the_strategy(model, processor, tmp_path):
    config = type(model.config).from_dict(
        {
            **model.config.to_dict(),
            "memory_selection": "quality",
            "memory_selection_options": {"quality_threshold": 0.4},
        }
    )
    config.save_pretrained(tmp_path)
    rules = TrackingRules.from_config(type(config).from_pretrained(tmp_path))
    assert rules.memory_selection == "quality" and rules.memory_selection_options == {"quality_threshold": 0.4}
    with pytest.raises(ValueError, match="no memory selection"):
        type(config)(memory_selection="best")


def test_proposals_of_a_step_can_be_chosen(model):
    features = torch.randn(1, 64, 8, 8)
    with torch.no_grad():
        output = model.track_step(
            features, input_points=torch.tensor([[[40.0, 40.0]]]), input_labels=torch.tensor([[1]])
        )
        for k in range(3):
            other = model.choose_proposals(output, torch.tensor([k]))
            present = bool(output.object_score_logits > 0)
            if present:
                assert torch.equal(other.pred_masks[0, 0], output.multimask_logits[0, k])
            assert other.iou_scores.item() == output.multimask_iou_scores[0, k].item()
        best = model.choose_proposals(output, output.multimask_iou_scores.argmax(dim=1))
    assert torch.equal(best.object_pointer, output.object_pointer)


@pytest.fixture(scope="module")
def least():
    """The smallest model and its processor: what is looked at is how much is kept, and that often."""
    fields = tiny_fields() | {"image_size": 32}
    fields["vision_config"] |= {"num_hidden_layers": 1, "global_attention_indexes": [0]}
    for part in ("memory_attention_config", "mask_decoder_config"):
        fields[part] |= {"num_hidden_layers": 1}
    torch.manual_seed(0)
    model = enlivened(EfficientTamVideoModel(EfficientTamConfig(**fields)).eval())
    return model, EfficientTamVideoProcessor.from_config(model.config)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_memory_is_flat_over_three_thousand_streamed_frames(least, name):
    model, processor = least
    session = processor.init_video_session(memory_selection=name, keep_history=False)
    frames = moving_frames(50, size=32)
    entries, facts = [], []
    for t in range(3000):
        if t == 0:
            processor.add_inputs_to_inference_session(
                session, 0, 1, input_boxes=[[[5, 5, 15, 15]]], original_size=frames[0].shape[:2]
            )
        model(session, frame=frames[t % 50])
        memory = session.objects[1].memory
        paths = memory.strategy.tracked(memory)
        entries.append(sum(len(tracked) for tracked in paths) + len(memory.conditioning))
        facts.append(len(memory.strategy.facts) + len(getattr(memory.strategy, "promoted", ())))
        assert len(memory.passed) <= entries[-1] + 1
    bound = RULES.num_maskmem + RULES.max_object_pointers_in_encoder
    assert len(paths) == (3 if name == "hypotheses" else 1)
    assert max(entries) <= len(paths) * (2 * (RULES.reach + 1) + len(paths) * bound)
    # What is kept in the last thousand frames is no more than in the first.
    assert max(entries[2000:]) <= max(entries[:1000]) and max(facts[2000:]) <= max(facts[:1000]) + bound
