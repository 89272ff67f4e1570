"""Objects that are found: by detectors of Transformers, by a scripted one with known answers, and by the model itself.

Where the logic is tested, the tracker does what the script says: `OracleWalk` replaces what the tiny random model makes
of a tracked frame by the true mask, or by none where the object is lost.
"""

import warnings

import numpy as np
import pytest
import torch
from reference import tiny_config, with_objects

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.data.pseudo_labels.teachers import Prompt, TeacherMask
from efficienttam_hf.discovery import (
    Detection,
    DetectionError,
    FinderOptions,
    NothingFoundError,
    ObjectFinder,
    seed_objects,
)
from efficienttam_hf.discovery.detections import MOST_KEPT, checked_texts, usable_detections
from efficienttam_hf.discovery.frame_view import Everything, FrameView
from efficienttam_hf.discovery.track_book import Candidate, MatchRules, TrackBook
from efficienttam_hf.session_walk import SessionWalk
from efficienttam_hf.video_backend import TorchBackend


SIDE = 64  # of the frames, in pixels


def square(left, top, side=16, size=(SIDE, SIDE)):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


# ---------------------------------------------------------------------------------------------- checking detections


def test_bad_detections_are_left_out_with_one_warning_that_counts_them():
    nan = float("nan")
    good = Detection((-5, 2, 20, 70), " a dog ", 0.4)
    bad = [
        Detection((nan, 0, 5, 5)),
        Detection((0, 0, 5, 5), score=float("inf")),
        Detection((9, 0, 3, 5)),
        Detection((70, 70, 90, 90)),
        Detection((0, 0, 5), score=1),
        Detection((0, 0, 5, 5), mask=np.zeros((SIDE, SIDE), bool)),
        Detection((0, 0, 5, 5), mask=np.ones((3, 3), bool)),
    ]
    with pytest.warns(UserWarning, match="left out: .*2 with a box or a score that is not finite") as caught:
        kept = usable_detections([*bad, good], (SIDE, SIDE))
    assert len(caught) == 1
    assert [(d.box, d.label, d.score) for d in kept] == [((0, 2, 20, 64), "a dog", 0.4)]


@pytest.mark.parametrize("returned", [None, 3, "boxes", [((0, 0, 1, 1), "a dog")]])
def test_a_detector_that_returns_something_else_is_refused(returned):
    with pytest.raises(DetectionError, match="returns a list of Detection; got"):
        usable_detections(returned, (SIDE, SIDE))


def test_huge_numbers_of_detections_are_bounded_and_the_best_stay():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (20_000, 2))
    found = [Detection((x, y, x + 6, y + 6), None, s) for (x, y), s in zip(corners, rng.random(20_000), strict=True)]
    kept = usable_detections(found, (SIDE, SIDE))
    assert 0 < len(kept) <= MOST_KEPT
    assert kept[0].score == max(d.score for d in found)


def test_the_same_box_with_two_labels_is_one_detection():
    found = [Detection((2, 2, 30, 30), "a dog", 0.6), Detection((2, 2, 30, 31), "an animal", 0.7)]
    assert [d.label for d in usable_detections(found, (SIDE, SIDE))] == ["an animal"]
    assert usable_detections(found, (SIDE, SIDE), least_score=0.9) == []


@pytest.mark.parametrize("texts", [[], "a dog", [""], ["a dog", "  "], [3], ["x" * 1000]])
def test_texts_that_say_nothing_are_refused(texts):
    with pytest.raises(DetectionError):
        checked_texts(texts)


def test_texts_lose_spaces_and_repetitions():
    assert checked_texts([" a dog", "a dog", "a red ball"]) == ["a dog", "a red ball"]


# -------------------------------------------------------------------------------------------------------- the rules


def candidate(mask, label="ball", appearance=(1.0, 0.0)):
    return Candidate(mask, label, np.array(appearance, np.float32))


def book_with(masks, label="ball", **rules):
    book = TrackBook(MatchRules(**rules))
    for object_id in masks:
        book.begin(object_id, label)
    book.observe(0, masks)
    return book


def test_a_detection_on_a_tracked_object_is_matched_and_another_is_born():
    masks = {1: square(0, 0), 2: square(30, 30)}
    book = book_with(masks)
    found = [candidate(square(2, 1)), candidate(square(45, 0)), candidate(square(30, 30))]
    decisions = book.decide(0, masks, found)
    assert (decisions.matches, decisions.births, decisions.returns) == ({1: 0, 2: 2}, [1], {})


def test_a_part_of_a_tracked_object_is_born_only_under_another_label():
    masks = {1: square(0, 0, 40)}
    book = book_with(masks, "car")
    part = square(4, 4, 10)
    assert book.decide(0, masks, [candidate(part, "car")]).births == []
    assert book.decide(0, masks, [candidate(part, None)]).births == []
    assert book.decide(0, masks, [candidate(part, "wheel")]).births == [0]
    assert book.decide(0, masks, [candidate(square(1, 1, 39), "truck")]).births == [], "the same thing, another name"


def test_boxes_that_overlap_do_not_make_objects_with_disjoint_masks_one():
    ring = square(0, 0, 40) & ~square(8, 8, 24)
    inner = square(12, 12, 16)
    book = book_with({1: ring})
    assert book.decide(0, {1: ring}, [candidate(ring), candidate(inner)]).births == [1]


def test_one_thing_found_twice_is_born_once_and_births_are_bounded():
    book = TrackBook(MatchRules(max_objects=2))
    found = [candidate(square(0, 0)), candidate(square(1, 0)), candidate(square(30, 0)), candidate(square(0, 40))]
    decisions = book.decide(0, {}, found)
    assert (decisions.births, decisions.unheeded) == ([0, 2], 1)


def test_a_lost_object_returns_by_its_place_for_a_while():
    empty = np.zeros((SIDE, SIDE), bool)
    book = book_with({1: square(10, 10)}, place_frames=20)
    book.observe(5, {1: empty})
    near, far = candidate(square(13, 10)), candidate(square(45, 45))
    assert book.decide(10, {1: empty}, [near]).returns == {1: 0}
    assert book.decide(10, {1: empty}, [far]).births == [0]
    assert book.decide(40, {1: empty}, [near]).births == [0], "after 40 frames the place says nothing"
    assert book.decide(10, {1: empty}, [candidate(square(13, 10), "cup")]).births == [0], "another label"
    assert book.lost_for(1, 12) == 12


def test_a_lost_object_returns_by_its_looks_and_the_most_alike_is_chosen():
    empty = np.zeros((SIDE, SIDE), bool)
    book = book_with({1: square(0, 0), 2: square(30, 30)})
    book.recall({1: np.array([1.0, 0.0]), 2: np.array([0.6, 0.8])})
    book.observe(200, {1: empty, 2: empty})
    found = [candidate(square(45, 0), appearance=(0.8, 0.6)), candidate(square(0, 45), appearance=(1.0, 0.0))]
    assert book.decide(200, {1: empty, 2: empty}, found).returns == {1: 1, 2: 0}
    never = book_with({1: square(0, 0)}, returns=False)
    never.recall({1: np.array([1.0, 0.0])})
    never.observe(5, {1: empty})
    assert never.decide(5, {1: empty}, [candidate(square(0, 0))]).births == [0]


# ------------------------------------------------------------------------------------------------- a scripted clip


class Thing:
    """A square that moves; `shown` are the frames on which it can be seen, `tracked` those on which it is followed."""

    def __init__(self, label, path, shown, tracked=None):
        self.label, self.path, self.shown = label, path, shown
        self.tracked = shown if tracked is None else tracked

    def mask(self, t):
        return square(*self.path(t)) if t in self.shown else np.zeros((SIDE, SIDE), bool)


NUM_FRAMES = 16
THINGS = [
    Thing("ball", lambda t: (2 + t, 4), range(NUM_FRAMES)),
    Thing("box", lambda t: (40, 2 + t), range(5, NUM_FRAMES)),  # enters later
    # It is hidden for some frames, and the tracker does not find it again by itself.
    Thing("ball", lambda t: (6, 40 + t // 8), [*range(6), *range(11, NUM_FRAMES)], range(6)),
]


def scripted_frames(things=THINGS):
    frames = np.full((NUM_FRAMES, SIDE, SIDE, 3), 90, np.uint8)
    for t in range(NUM_FRAMES):
        for number, thing in enumerate(things):
            frames[t][thing.mask(t)] = (200, 60 * number, 30 + 90 * number)
    return frames


class ScriptedDetector:
    """Detects the things of a script; it knows the frame by its pixels."""

    def __init__(self, frames, things=THINGS, score=0.8, with_masks=True):
        self.frames, self.things, self.score, self.with_masks = frames, things, score, with_masks
        self.looked_at = []

    def __call__(self, frame):
        (t,) = (t for t, own in enumerate(self.frames) if (own == frame).all())
        self.looked_at.append(t)
        masks = [(thing.label, thing.mask(t)) for thing in self.things]
        return [
            Detection(box_of(mask), label, self.score, mask if self.with_masks else None)
            for label, mask in masks
            if mask.any()
        ]


class OracleWalk(SessionWalk):
    """Tracks by the script: an object is the thing that it was prompted on, and is lost where the script says so."""

    def __init__(self, backend, things, corrections):
        super().__init__(backend)
        self.things, self.corrections = things, corrections

    def _track(self, session, objects, frame_idx, direction, run_mem_encoder):
        tracked = super()._track(session, objects, frame_idx, direction, run_mem_encoder)
        for obj in tracked:
            first = min(obj.memory.conditioning)
            prompted = (obj.memory.conditioning[first].pred_masks.reshape(32, 32) > 0).numpy()
            thing = max(self.things, key=lambda thing: (self.small(thing, first) & prompted).sum())
            # A prompt after it was lost is what it needs to be followed again.
            prompts = [*obj.memory.conditioning, *self.corrections.get(obj.object_id, ())]
            is_back = any(t in thing.shown and t not in thing.tracked for t in prompts)
            is_followed = frame_idx in thing.tracked or (is_back and frame_idx in thing.shown)
            mask = self.small(thing, frame_idx) if is_followed else np.zeros((32, 32), bool)
            self.backend.replace_mask(obj.memory.tracked[frame_idx], np.where(mask, 8.0, -8.0).astype(np.float32))
        return tracked

    def _run_prompts(self, session, objects, frame_idx):
        for obj in objects:
            if obj.memory.passed:
                self.corrections.setdefault(obj.object_id, []).append(frame_idx)
        super()._run_prompts(session, objects, frame_idx)

    @staticmethod
    def small(thing, t):
        return thing.mask(t)[::2, ::2]


class OracleModel(EfficientTamVideoModel):
    def begin(self, things=THINGS):
        self.__dict__ |= {"things": things, "corrections": {}}

    @property
    def walk(self):
        return OracleWalk(TorchBackend(self), self.things, self.corrections)


@pytest.fixture(scope="module")
def tiny():
    """A tiny model that is told what to track, and its processor."""
    torch.manual_seed(0)
    model = with_objects(OracleModel(tiny_config()).eval())
    return model, EfficientTamVideoProcessor.from_config(model.config)


@pytest.fixture
def oracle(tiny):
    tiny[0].begin()
    return tiny


def areas(output):
    seen = (output.pred_masks[:, 0] > 0).flatten(1).any(1).tolist()
    return {i for i, is_seen in zip(output.object_ids, seen, strict=True) if is_seen}


def test_objects_are_born_matched_lost_and_found_again_on_a_scripted_clip(oracle):
    model, processor = oracle
    frames = scripted_frames()
    detector = ScriptedDetector(frames)
    session = processor.init_video_session(frames, keep_history=False)
    finder = ObjectFinder(model, processor, detector, FinderOptions(every=4))
    assert [(one.object_id, one.label) for one in finder.seed(session, 0)] == [(1, "ball"), (2, "ball")]
    seen = {}
    for output in model.propagate_in_video_iterator(session):
        output = finder.update(session, output)
        seen[output.frame_idx] = areas(output)
    assert detector.looked_at == [0, 4, 8, 12]
    lost, found = {1}, {1, 2}
    assert [seen[t] for t in range(6)] == [found] * 6
    assert [seen[t] for t in (6, 7)] == [lost] * 2
    assert [seen[t] for t in (8, 9, 10, 11)] == [{1, 3}] * 4, "the box has entered, the second ball is hidden"
    assert [seen[t] for t in range(12, NUM_FRAMES)] == [{1, 2, 3}] * 4, "the second ball is back under its id"
    assert {i: one.label for i, one in finder.objects.items()} == {1: "ball", 2: "ball", 3: "box"}
    assert [[s.frame_idx for s in one.sightings] for one in finder.objects.values()] == [[0], [0, 12], [8]]
    # What is kept does not grow with what was found again: no prompt as large as a frame is left.
    assert list(session.objects[2].prompts) == [0]
    assert len(session.objects[2].memory.conditioning) == 1


def test_a_lost_object_gets_a_new_id_where_returns_are_not_wanted_and_births_are_bounded(oracle):
    model, processor = oracle
    frames = scripted_frames()
    for most, ids in ((20, [1, 2, 3, 4]), (3, [1, 2, 3])):
        model.begin()
        session = processor.init_video_session(frames, keep_history=False)
        rules = MatchRules(returns=False, max_objects=most)
        finder = ObjectFinder(model, processor, ScriptedDetector(frames), FinderOptions(every=4, rules=rules))
        finder.seed(session, 0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for output in model.propagate_in_video_iterator(session):
                finder.update(session, output)
        assert list(finder.objects) == ids
        assert any("--max-objects" in str(w.message) for w in caught) == (most == 3)


def test_a_stream_is_searched_from_its_first_frame_on_and_lost_objects_can_be_forgotten(oracle):
    model, processor = oracle
    frames = scripted_frames()
    detector = ScriptedDetector(frames)
    session = processor.init_video_session()
    finder = ObjectFinder(model, processor, detector, FinderOptions(every=4, forget_after=3))
    seen = {}
    for frame in frames:
        output = finder.update(session, model(session, frame=frame), frame)
        seen[output.frame_idx] = areas(output)
    assert detector.looked_at == [0, 4, 8, 12]
    assert (seen[0], seen[8], seen[15]) == ({1, 2}, {1, 3}, {1, 3, 4})
    assert session.obj_ids == [1, 3, 4], "the lost ball was forgotten, and is another when it is back"


def test_a_prompted_object_is_not_found_again(oracle):
    model, processor = oracle
    frames = scripted_frames()
    session = processor.init_video_session(frames)
    processor.add_inputs_to_inference_session(session, 0, 7, input_masks=THINGS[0].mask(0))
    found = seed_objects(session, 0, ScriptedDetector(frames), model=model, processor=processor)
    assert [one.object_id for one in found] == [1]
    assert session.obj_ids == [7, 1]


def test_boxes_prompt_objects_in_pixels_of_the_frame(oracle):
    model, processor = oracle
    frames = scripted_frames()
    session = processor.init_video_session(frames)
    detector = ScriptedDetector(frames, THINGS[:1], with_masks=False)
    (one,) = seed_objects(session, 0, detector, model=model, processor=processor)
    points = session.objects[one.object_id].prompts[0].points.reshape(4)
    assert points.tolist() == [2 * side for side in box_of(THINGS[0].mask(0))]  # the model's input has 128 pixels
    assert one.sightings[0].box == box_of(THINGS[0].mask(0)) and not one.sightings[0].has_mask


def test_nothing_found_says_what_was_looked_for_where_and_the_way_out(oracle):
    model, processor = oracle
    session = processor.init_video_session(scripted_frames())
    with pytest.raises(NothingFoundError) as error:
        seed_objects(session, 3, lambda frame: [], model=model, processor=processor)
    assert "frame 3" in str(error.value) and "--detect-threshold" in str(error.value)
    assert session.obj_ids == []


@pytest.mark.parametrize("source", ["a dog", 5, None])
def test_a_source_that_finds_nothing_is_refused(oracle, source):
    with pytest.raises(DetectionError, match="a list of texts"):
        ObjectFinder(*oracle, source)


def test_a_stream_needs_the_frame_itself(oracle):
    model, processor = oracle
    session = processor.init_video_session()
    output = model(session, frame=scripted_frames()[0])
    with pytest.raises(ValueError, match="give the frame itself"):
        ObjectFinder(model, processor, lambda frame: []).update(session, output)


# -------------------------------------------------------------------------------------------------------- everything


class ScriptedView:
    """Answers a click with the thing under it, and with what the model makes of it."""

    size = (SIDE, SIDE)

    def __init__(self, answers):
        self.answers, self.asked = answers, 0

    def segment(self, prompt):
        self.asked += 1
        x, y = np.asarray(prompt.points).reshape(2).astype(int)
        return [answer for answer in self.answers if answer.mask[y, x]]

    def full_mask(self, mask, size):
        return mask


def test_everything_takes_whole_objects_where_none_is_tracked_at_the_level_of_the_first_look():
    wholes, part, other = [square(5, 5, 20), square(36, 4, 14), square(6, 40, 14)], square(8, 8, 9), square(36, 36, 18)
    answers = [TeacherMask(mask, 0.6, 0.8) for mask in (*wholes, part)]
    view = ScriptedView([*answers, TeacherMask(other, 0.3, 0.5)])
    everything = Everything(most=10)
    nothing = np.zeros((SIDE, SIDE), bool)
    found = everything.propose(view, nothing, (SIDE, SIDE))
    assert sorted(d.box for d in found) == sorted(map(box_of, wholes)) and {d.label for d in found} == {None}
    assert everything.threshold == 0.55 and view.asked == 64, "each click is decoded once, whatever the level"
    known = np.logical_or.reduce(wholes)
    assert everything.propose(view, known, (SIDE, SIDE)) == [], "the other mask is not believed in enough"
    assert [d.box for d in Everything(10, threshold=0.3).propose(view, known, (SIDE, SIDE))] == [box_of(other)]


def test_everything_asks_the_model_itself(oracle):
    model, processor = oracle
    session = processor.init_video_session(scripted_frames())
    view = FrameView(model, session, 0)
    masks = view.box_masks([(0, 0, 20, 20)] * 20, (SIDE, SIDE))
    assert masks.shape == (20, 32, 32) and masks.any(axis=(1, 2)).all()
    answers = view.segment(Prompt(np.array([[4.0, 4.0]])))
    assert len(answers) == 3 and answers[0].mask.shape == (32, 32)
    assert abs(np.linalg.norm(view.appearance(square(0, 0, 8, (32, 32)))) - 1) < 1e-5
    assert not view.appearance(np.zeros((32, 32), bool)).any()
    finder = ObjectFinder(model, processor, "everything", FinderOptions(threshold=0.0, rules=MatchRules(max_objects=3)))
    try:
        found = finder.seed(session, 0)
    except NothingFoundError as error:  # what a random model believes in depends on the version of torch
        assert "everything" in str(error)
    else:
        assert 1 <= len(found) <= 3 and all(one.sightings[0].has_mask for one in found)
