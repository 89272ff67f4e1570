"""J and F against slow re-computations and the reference evaluators, and semi-supervised evaluation end to end."""

import json
import math
import weakref

import numpy as np
import pytest
import torch
from oracle import HEIGHT, WIDTH, Oracle, disk
from reference import REFERENCE, SHARED, tiny_config, with_objects

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.data.loading import load_records
from efficienttam_hf.evaluation.prompted import center_click, correcting_click, tight_box
from efficienttam_hf.evaluation.region_boundary import boundary_accuracy, region_similarity
from efficienttam_hf.evaluation.scores import DatasetScores, SequenceScorer, SequenceScores, statistics
from efficienttam_hf.evaluation.semi_supervised import track
from efficienttam_hf.mask_io import read_indexed_png
from efficienttam_hf.synthetic_clip import make_clip


DAVIS = SHARED / "data" / "DAVIS"
METRICS = REFERENCE / "metrics"


def by_label(labels):
    return {i: labels == i for i in range(1, int(labels.max()) + 1)}


# ------------------------------------------------------------------------------------------------------ one pair


def slow_boundary_accuracy(predicted, truth, radius):
    """F, pixel by pixel from its definition."""

    def outline(mask):
        height, width = mask.shape
        below = lambda y, x: mask[min(y, height - 1), min(x, width - 1)]  # noqa: E731
        return [
            (y, x)
            for y in range(height)
            for x in range(width)
            if {below(y, x + 1), below(y + 1, x), below(y + 1, x + 1)} != {mask[y, x]}
        ]

    def share_near(pixels, others):
        near = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in pixels]
        return sum(near) / len(near)

    ours, theirs = outline(predicted), outline(truth)
    if not ours or not theirs:
        return float(len(ours) == len(theirs))
    precision, recall = share_near(ours, theirs), share_near(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(12))
def test_f_is_that_of_its_definition(seed):
    """Blobs anywhere, so that many touch the image's edges or cover its corners."""
    rng = np.random.default_rng(seed)
    size = (24, 33)
    predicted, truth = (
        np.logical_or.reduce([disk(rng.uniform(0, 33), rng.uniform(0, 24), rng.uniform(2, 9), size) for _ in range(2)])
        for _ in range(2)
    )
    for tolerance in (0.008, 0.06):
        radius = math.ceil(tolerance * math.hypot(*size))
        assert boundary_accuracy(predicted, truth, tolerance) == slow_boundary_accuracy(predicted, truth, radius)


def test_j_is_intersection_over_union():
    predicted, truth = np.zeros((2, 4, 6), dtype=bool)
    predicted[:2, :4], truth[1:3, 1:5] = True, True
    assert region_similarity(predicted, truth) == 3 / 13
    assert region_similarity(truth.astype(np.uint8), truth) == 1


@pytest.mark.parametrize(
    "predicted, truth, j, f",
    [
        ("nothing", "nothing", 1, 1),
        ("nothing", "object", 0, 0),
        ("object", "nothing", 0, 0),
        ("object", "object", 1, 1),
        # A mask of the whole image has no outline, as an empty one has none.
        ("everything", "nothing", 0, 1),
    ],
)
def test_empty_and_full_masks(predicted, truth, j, f):
    masks = {"nothing": np.zeros((HEIGHT, WIDTH), bool), "everything": np.ones((HEIGHT, WIDTH), bool)}
    masks["object"] = disk(30, 20, 8)
    assert region_similarity(masks[predicted], masks[truth]) == j
    assert boundary_accuracy(masks[predicted], masks[truth]) == f


def test_masks_that_do_not_fit_are_refused():
    mask = disk(30, 20, 8)
    for measure in (region_similarity, boundary_accuracy):
        with pytest.raises(ValueError, match=r"\(48, 63\), the true one \(48, 64\)"):
            measure(mask[:, 1:], mask)
        with pytest.raises(ValueError, match="threshold logits at 0 first"):
            measure(mask.astype(np.float32), mask)


# ------------------------------------------------------------------------------------------------------ sequences


def test_statistics():
    values = [1.0, 0.8, 0.6, 0.4, 0.6, 0.5, 0.2, 0.1]
    found = statistics(values)
    assert found.mean == pytest.approx(0.525)
    assert found.recall == 4 / 8  # one half itself is not above
    assert found.decay == pytest.approx((1.0 + 0.8 + 0.6) / 3 - (0.5 + 0.2 + 0.1) / 3)
    assert statistics([0.9, 0.5, 0.1]).decay == pytest.approx((0.9 + 0.5) / 2 - 0.1)  # halves are rounded up
    with pytest.raises(ValueError, match="at least one frame"):
        statistics([])


def test_first_and_last_frame_of_an_object_do_not_count():
    truth = [disk(20 + t, 20, 8) for t in range(5)]
    scorer = SequenceScorer()
    for t, mask in enumerate(truth):
        wrong = t in (0, 4)
        scorer.add({7: mask}, {} if wrong else {7: mask})
    (scores,) = scorer.scores()
    assert scores.object_id == 7
    assert scores.j.tolist() == scores.f.tolist() == [1, 1, 1]


def test_objects_may_come_late_and_leave():
    first, second, nothing = disk(15, 20, 8), disk(45, 20, 8), np.zeros((HEIGHT, WIDTH), bool)
    scorer = SequenceScorer()
    scorer.add({1: first, 2: nothing}, {1: first, 2: second})  # a prediction of what is not there yet is not counted
    scorer.add({1: first, 2: second}, {})  # missing: 1; just prompted: 2
    scorer.add({2: second}, {1: first, 2: second})  # 1 has left, the tracker did not notice
    scorer.add({2: second}, {2: first})  # 1 is gone for both; 2 is in the wrong place
    scorer.add({3: first}, {})  # seen on the last frame only: nothing of it to count
    scores = {s.object_id: s.j.tolist() for s in scorer.scores()}
    assert scores == {1: [0, 0, 1], 2: [1, 0]}


def test_a_data_set_is_the_mean_over_its_objects():
    def sequence(name, *correct):
        scorer = SequenceScorer()
        for _ in range(3):
            scorer.add(
                {i: disk(20, 20, 8) for i in range(len(correct))},
                {i: disk(20, 20, 8) for i in range(len(correct)) if correct[i]},
            )
        return SequenceScores(name, scorer.scores(), num_frames=3, seconds=0.5)

    scores = DatasetScores([sequence("one", True), sequence("many", True, False, False)])
    assert (scores.j, scores.f, scores.j_and_f) == (0.5, 0.5, 0.5)
    assert scores.sequences[1].j_and_f == pytest.approx(1 / 3)
    assert scores.frames_per_second == 6
    assert "| many | 3 | 33.3 | 33.3 | 33.3 | 6.0 |\n| all | 4 | 50.0" in scores.to_markdown()
    stored = json.loads(json.dumps(scores.to_dict()))
    assert stored["sequences"]["many"]["objects"]["1"]["J_per_frame"] == [0]


@pytest.mark.skipif(not METRICS.is_dir(), reason=f"no numbers of reference evaluators in {METRICS}")
def test_scores_are_those_of_the_reference_evaluator():
    expected = json.loads((METRICS / "scores.json").read_text())["davis_2017_semisupervised"]
    sequences = []
    for folder in sorted((METRICS / "gt").iterdir()):
        scorer = SequenceScorer()
        for path in sorted(folder.glob("*.png")):
            predicted = read_indexed_png(METRICS / "pred" / folder.name / path.name)
            scorer.add(by_label(read_indexed_png(path)), by_label(predicted))
        sequences.append(SequenceScores(folder.name, scorer.scores(), 0, 0.0))
    found = DatasetScores(sequences).to_dict()
    for key, value in expected.pop("global").items():
        assert found[key] == pytest.approx(value, abs=1e-6), key
    assert len(expected) == sum(len(s.objects) for s in sequences) == 8
    for name, of_object in expected.items():
        sequence, object_id = name.rsplit("_", 1)
        ours = found["sequences"][sequence]["objects"][int(object_id)]
        for key, value in of_object.items():
            assert ours[key] == pytest.approx(value, abs=1e-6), (name, key)


@pytest.mark.slow
@pytest.mark.skipif(not DAVIS.is_dir(), reason=f"no DAVIS sequences in {DAVIS}")
def test_copying_the_first_mask_scores_as_published_on_davis():
    scores = []
    for record in load_records("davis2016", DAVIS, "val"):
        scorer, first = SequenceScorer(), record.masks(0)
        for index in record.annotated_frames:
            scorer.add(record.masks(index), first)
        scores.append(SequenceScores(record.video_id, scorer.scores(), 0, 0.0))
    assert len(scores) == 8
    assert 100 * DatasetScores(scores).j_and_f == pytest.approx(22.9, abs=0.05)


# -------------------------------------------------------------------------------------------------------- prompts


def test_a_click_is_at_the_centre_of_the_largest_region():
    assert center_click(disk(12, 20, 5) | disk(44, 20, 9)) == (44, 20)
    ring = disk(32, 24, 20) & ~disk(32, 24, 10)
    x, y = center_click(ring)
    assert ring[y, x]
    assert math.hypot(x - 32, y - 24) == pytest.approx(15, abs=1)
    # Cut off by the image, an object's boundary is where the image ends.
    corner = np.zeros((HEIGHT, WIDTH), bool)
    corner[:21, :21] = True
    assert center_click(corner) == (10, 10)


def test_a_correction_is_at_the_centre_of_the_largest_error():
    truth = disk(20, 24, 10)
    assert correcting_click(truth, np.zeros_like(truth)) == ((20, 24), True)
    assert correcting_click(truth, truth | disk(50, 10, 5)) == ((50, 10), False)
    # Missed is a disk of radius 7, too much one of 4: what is missed counts.
    assert correcting_click(truth | disk(48, 24, 7), truth | disk(48, 6, 4)) == ((48, 24), True)
    assert correcting_click(truth, truth) is None


@pytest.mark.parametrize(("prompt", "clicks"), [("1-click", 1), ("3-click", 3), ("5-click", 5)])
def test_clicks_correct_what_came_of_those_before(model, processor, prompt, clicks, monkeypatch):
    """Every click after the first is where the result of those before is wrong, and goes to the model with them."""
    from efficienttam_hf.evaluation import prompted

    clip = make_clip(num_frames=2, width=WIDTH, height=HEIGHT)
    corrections, given = [], []

    def remember(truth, predicted):
        corrections.append(correcting_click(truth, predicted))
        return corrections[-1]

    add_prompts = type(processor).add_inputs_to_inference_session

    def look(self, session, *args, **kwargs):
        add_prompts(self, session, *args, **kwargs)
        given.append(session.objects[1].prompts[0])

    monkeypatch.setattr(prompted, "correcting_click", remember)
    monkeypatch.setattr(type(processor), "add_inputs_to_inference_session", look)
    video = ((frame, {1: mask}) for frame, mask in zip(clip.frames, clip.masks, strict=True))
    assert len(list(track(model, processor, video, prompt))) == 2
    assert len(corrections) == clicks - 1
    assert [prompts.points.shape[1] for prompts in given] == list(range(1, clicks + 1))
    expected = [(center_click(clip.masks[0]), True), *corrections]
    np.testing.assert_allclose(
        given[-1].points[0].numpy() / 128 * (WIDTH, HEIGHT), [xy for xy, _ in expected], atol=1e-4
    )
    assert given[-1].labels[0].tolist() == [int(positive) for _, positive in expected]


def test_a_box_is_tight():
    assert tight_box(disk(30, 20, 8)) == (22, 12, 38, 28)
    pixel = np.zeros((HEIGHT, WIDTH), bool)
    pixel[47, 63] = True
    assert tight_box(pixel) == (63, 47, 64, 48)


# ------------------------------------------------------------------------------------------------------- tracking


@pytest.fixture(scope="module")
def model():
    """A small model with fresh weights, in which objects are judged present."""
    torch.manual_seed(0)
    return with_objects(EfficientTamVideoModel(tiny_config()).eval())


@pytest.fixture(scope="module")
def processor(model):
    return EfficientTamVideoProcessor.from_config(model.config)


@pytest.fixture
def two_objects():
    """Six frames: nothing, then object 1, which moves, and from frame 3 on object 2, which stays."""
    nothing = np.zeros((HEIGHT, WIDTH), bool)
    masks = [
        {1: disk(10 + 3 * t, 24, 7) if t else nothing, 2: disk(50, 24, 6) if t >= 3 else nothing} for t in range(6)
    ]
    frames = [np.full((HEIGHT, WIDTH, 3), 40 * t, np.uint8) for t in range(6)]
    return frames, masks


@pytest.mark.parametrize("prompt", ["mask", "1-click", "box"])
def test_an_object_is_prompted_once_where_it_first_appears(processor, two_objects, prompt):
    frames, masks = two_objects
    oracle = Oracle(masks)
    tracked = list(track(oracle, processor, zip(frames, masks, strict=True), prompt))
    assert [list(frame.predicted) for frame in tracked] == [[], [1], [1], [1, 2], [1, 2], [1, 2]]
    assert {object_id: list(prompts) for object_id, prompts in oracle.prompts.items()} == {1: [1], 2: [3]}
    given = oracle.prompts[2][3]
    if prompt == "mask":
        assert given.mask.mean().item() == pytest.approx(masks[3][2].mean(), rel=0.05)
    else:  # in pixels of the model's input
        pixels = given.points[0].numpy() / 128 * (WIDTH, HEIGHT)
        expected, labels = ([[50, 24]], [[1]]) if prompt == "1-click" else ([[44, 18], [56, 30]], [[2, 3]])
        np.testing.assert_allclose(pixels, expected, atol=1e-4)
        assert given.labels.tolist() == labels


def test_frames_are_let_go(model, processor):
    clip = make_clip(num_frames=12, width=WIDTH, height=HEIGHT)
    alive, most = [], 0

    def frames():
        nonlocal most
        for frame, mask in zip(clip.frames, clip.masks, strict=True):
            frame = frame.copy()
            alive.append(weakref.ref(frame))
            most = max(most, sum(ref() is not None for ref in alive))
            yield frame, {1: mask}

    for tracked in track(model, processor, frames()):
        del tracked
    assert most <= 3


def test_the_model_is_left_in_its_mode(processor, two_objects):
    frames, masks = two_objects
    oracle = Oracle(masks).train()
    assert not any(oracle.training for _ in track(oracle, processor, zip(frames, masks, strict=True)))
    assert oracle.training


def test_frames_without_annotation_are_tracked_too(processor, two_objects):
    frames, masks = two_objects
    video = [(frame, truth if t != 2 else None) for t, (frame, truth) in enumerate(zip(frames, masks, strict=True))]
    tracked = list(track(Oracle(masks), processor, video))
    assert [frame.truth is None for frame in tracked] == [t == 2 for t in range(6)]
    assert list(tracked[2].predicted) == [1]


def test_objects_compete_for_pixels_unless_they_may_overlap(processor, two_objects):
    frames, masks = two_objects
    both = [{i: disk(32, 24, 6 + 2 * i) for i in (1, 2)}] * 6
    for overlap in (False, True):
        *_, last = track(Oracle(both), processor, zip(frames, masks, strict=True), overlap=overlap)
        assert (last.predicted[1] & last.predicted[2]).any() == overlap


def test_what_cannot_be_tracked_is_refused(model, processor, two_objects):
    frames, masks = two_objects
    with pytest.raises(ValueError, match="mask, box, 1-click, 3-click, 5-click, got 'scribble'"):
        next(track(model, processor, zip(frames, masks, strict=True), prompt="scribble"))
    with pytest.raises(ValueError, match="mask for object 1 is 64x47 pixels, but the frame is 64x48"):
        next(track(model, processor, [(frames[1], {1: masks[1][1][1:]})]))
