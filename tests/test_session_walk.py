"""The walk over a session, alike in torch and on exported graphs: what is run when, and what is refused.

Every test with a `tracker` runs twice: with the model and its processor, and with the tracker on its exported graphs.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reference import lively_model
from test_bad_input import BAD_PROMPTS, HEIGHT, WIDTH, state
from test_sam2_interface import sam2_config
from transformers import Sam2ImageProcessor, Sam2VideoModel, Sam2VideoProcessor, Sam2VideoVideoProcessor

from efficienttam_hf import EfficientTamVideoProcessor
from efficienttam_hf.tracking_rules import Direction


ABSENT = -1024.0
NUM_FRAMES = 8


@pytest.fixture(scope="module")
def model():
    return lively_model()


@pytest.fixture(scope="module", params=["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def tracker(request):
    """Model and processor, or the ONNX tracker, which is both."""
    if request.param == "torch":
        model = lively_model()
        return SimpleNamespace(model=model, processor=EfficientTamVideoProcessor.from_config(model.config))
    from efficienttam_hf.export.onnx_tracker import OnnxVideoTracker

    onnx = OnnxVideoTracker(request.getfixturevalue("exported"), num_threads=1)
    return SimpleNamespace(model=onnx, processor=onnx)


def make_frames(count: int = NUM_FRAMES) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(count)]


def start(tracker, **options):
    return tracker.processor.init_video_session(make_frames(), **options)


def click(tracker, session, frame_idx, obj_id, x=30, y=20, label=1, **options):
    tracker.processor.add_inputs_to_inference_session(
        session, frame_idx, obj_id, input_points=[[[[x, y]]]], input_labels=[[[label]]], **options
    )


def box(tracker, session, frame_idx, obj_id):
    tracker.processor.add_inputs_to_inference_session(session, frame_idx, obj_id, input_boxes=[[[40, 20, 70, 50]]])


def present(output) -> dict[int, bool]:
    """For each object whether it has a result."""
    masks = np.asarray(output.pred_masks)
    return {i: bool((masks[row] > ABSENT).any()) for row, i in enumerate(output.object_ids)}


# ------------------------------------------------------------------------------- a session changed while it is tracked


def test_an_object_added_on_the_coming_frame_joins_and_the_others_stay(tracker):
    session, found = start(tracker), {}
    click(tracker, session, 0, 1)
    for output in tracker.model.propagate_in_video_iterator(session):
        found[output.frame_idx] = present(output)
        if output.frame_idx == 2:
            box(tracker, session, 3, 2)
    assert found == {t: {1: True} if t < 3 else {1: True, 2: True} for t in range(NUM_FRAMES)}
    assert 3 in session.objects[2].memory.conditioning


def test_an_object_added_on_the_current_frame_is_run_there_and_tracked_from_the_next(tracker):
    session, found = start(tracker), {}
    click(tracker, session, 0, 1)
    for output in tracker.model.propagate_in_video_iterator(session):
        found[output.frame_idx] = present(output)
        if output.frame_idx == 2:
            box(tracker, session, 2, 2)
    assert found == {t: {1: True} if t < 3 else {1: True, 2: True} for t in range(NUM_FRAMES)}
    assert session.obj_with_new_inputs == []
    assert present(tracker.model.get_frame_output(session, 2)) == {1: True, 2: True}


def test_an_object_added_on_a_frame_behind_or_far_ahead_has_a_result_on_every_coming_frame(tracker):
    session, found = start(tracker), {}
    click(tracker, session, 0, 1)
    for output in tracker.model.propagate_in_video_iterator(session):
        found[output.frame_idx] = present(output)
        if output.frame_idx == 2:
            box(tracker, session, 1, 2)
            box(tracker, session, 6, 3)
    assert all(found[t] == {1: True, 2: True, 3: True} for t in range(3, NUM_FRAMES))
    assert session.obj_with_new_inputs == []


def test_the_same_holds_backward(tracker):
    session, found = start(tracker), {}
    click(tracker, session, 6, 1)
    for output in tracker.model.propagate_in_video_iterator(session, reverse=True):
        found[output.frame_idx] = present(output)
        if output.frame_idx == 4:
            box(tracker, session, 4, 2)
            box(tracker, session, 3, 3)
    assert list(found) == [6, 5, 4, 3, 2, 1, 0]
    assert all(found[t] == {1: True, 2: True, 3: True} for t in range(3, -1, -1))


@pytest.mark.parametrize("on", [2, 3], ids=["the current frame", "the coming frame"])
def test_a_correction_of_one_object_counts_and_leaves_the_others_tracked(tracker, on):
    results = []
    for corrected in (False, True):
        session, masks = start(tracker), {}
        click(tracker, session, 0, 1)
        box(tracker, session, 0, 2)
        for output in tracker.model.propagate_in_video_iterator(session):
            masks[output.frame_idx] = np.asarray(output.pred_masks)
            assert present(output) == {1: True, 2: True}
            if corrected and output.frame_idx == 2:
                mask = np.zeros((HEIGHT, WIDTH), bool)
                mask[40:, :20] = True
                tracker.processor.add_inputs_to_inference_session(session, on, 1, input_masks=mask)
        assert session.obj_with_new_inputs == []
        results.append(masks)
    plain, corrected = results
    for t in range(NUM_FRAMES):
        np.testing.assert_allclose(corrected[t][1], plain[t][1], atol=0.02 * max(1, np.abs(plain[t][1]).max()))
    assert np.abs(corrected[3][0] - plain[3][0]).max() > 1e-4
    if on == 3:  # the prompt stands on its frame
        assert corrected[3][0].max() == pytest.approx(10, abs=1e-4)


def test_a_correction_of_a_coming_frame_that_was_tracked_before_stands_there(tracker):
    session = start(tracker)
    click(tracker, session, 0, 1)
    list(tracker.model.propagate_in_video_iterator(session))
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[40:, :20] = True
    for output in tracker.model.propagate_in_video_iterator(session, start_frame_idx=1):
        if output.frame_idx == 2:
            tracker.processor.add_inputs_to_inference_session(session, 4, 1, input_masks=mask)
        if output.frame_idx == 4:
            assert np.asarray(output.pred_masks).max() == pytest.approx(10, abs=1e-4)
    assert 4 in session.objects[1].memory.tracked  # a correction, not a conditioning frame


def test_objects_can_be_removed_in_the_loop(tracker):
    session, rows = start(tracker), []
    click(tracker, session, 0, 1)
    box(tracker, session, 0, 2)
    for output in tracker.model.propagate_in_video_iterator(session):
        rows.append(len(output.pred_masks))
        if output.frame_idx in (2, 4):
            session.remove_object(session.obj_ids[0])
    assert rows == [2, 2, 2, 1, 1, 0, 0, 0]


# --------------------------------------------------------------------------------------------- one frame at a time


def test_a_frame_where_some_objects_are_prompted_has_them_all(tracker):
    session = start(tracker)
    click(tracker, session, 0, 1)
    tracker.model(session, frame_idx=0)
    box(tracker, session, 3, 2)
    assert present(tracker.model.segment_prompts(session, 3)) == {1: False, 2: True}
    box(tracker, session, 3, 2)
    assert present(tracker.model(session, frame_idx=3)) == {1: True, 2: True}


def test_clicks_on_a_frame_stay_changeable_while_the_others_are_tracked_to_it(tracker):
    session = start(tracker)
    click(tracker, session, 0, 1)
    tracker.model(session, frame_idx=0)
    for x in (40, 45):
        click(tracker, session, 3, 2, x)
        tracker.model(session, frame_idx=3)
    memory = session.objects[2].memory
    assert list(memory.pending_conditioning) == [3] and not memory.passed
    assert session.objects[1].memory.passed == {3: Direction.FORWARD}


def test_a_prompted_result_is_not_tracked_over_when_another_object_is_prompted_on_the_frame(tracker):
    session = start(tracker)
    click(tracker, session, 0, 1)
    click(tracker, session, 0, 2, 60, 40)
    list(tracker.model.propagate_in_video_iterator(session, max_frame_num_to_track=4))
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[40:, :20] = True
    tracker.processor.add_inputs_to_inference_session(session, 3, 1, input_masks=mask)
    before = np.asarray(tracker.model(session, frame_idx=3).pred_masks)[0]
    click(tracker, session, 3, 2, 50, 30)
    np.testing.assert_array_equal(np.asarray(tracker.model(session, frame_idx=3).pred_masks)[0], before)


def sam2_tracker():
    """Transformers' own model, small and with random weights."""
    torch.manual_seed(0)
    size = {"height": 128, "width": 128}
    model = Sam2VideoModel(sam2_config()).eval()
    (last,) = (m for m in model.mask_decoder.pred_obj_score_head.modules() if getattr(m, "out_features", 0) == 1)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, 10.0)
    processor = Sam2VideoProcessor(
        Sam2ImageProcessor(size=size, mask_size={"height": 32, "width": 32}), Sam2VideoVideoProcessor(size=size)
    )
    return SimpleNamespace(model=model, processor=processor)


def frame_by_frame(tracker) -> list[tuple[int, dict[int, bool]]]:
    """Code as people write it for Transformers: which objects come back, call by call."""
    session, found = tracker.processor.init_video_session(make_frames()), []

    def run(frame_idx, **options):
        output = tracker.model(inference_session=session, frame_idx=frame_idx, **options)
        found.append((output.frame_idx, present(output)))

    click(tracker, session, 0, 1)
    run(0)
    click(tracker, session, 0, 2, 60, 40)
    run(0)
    for t in (1, 2):
        run(t)
    click(tracker, session, 2, 1, 35, 25)  # a correction of one
    run(2)
    click(tracker, session, 3, 3, 50, 50)  # a new object on a frame that was not tracked
    run(3)
    run(4)
    for output in tracker.model.propagate_in_video_iterator(session, start_frame_idx=4):
        found.append((output.frame_idx, present(output)))
    return found


def test_the_objects_that_come_back_are_those_of_transformers(tracker):
    assert frame_by_frame(tracker) == frame_by_frame(sam2_tracker())


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def session(tracker):
    """Object 1 is prompted and tracked for a few frames."""
    session = tracker.processor.init_video_session(make_frames(6))
    click(tracker, session, 0, 1)
    list(tracker.model.propagate_in_video_iterator(session, max_frame_num_to_track=2))
    return session


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_bad_prompts_are_named_alike_and_change_nothing(tracker, session, case):
    arguments, message = BAD_PROMPTS[case]
    before = state(session)
    with pytest.raises(ValueError, match=message):
        tracker.processor.add_inputs_to_inference_session(session, 1, 2, **arguments)
    assert state(session) == before


@pytest.mark.parametrize("obj_id", [1.5, 1.0, "1", True, np.bool_(True), None, [], [1, 1], [2, "3"], [[2]]])
def test_ids_that_are_no_whole_numbers_are_refused(tracker, session, obj_id):
    before = state(session)
    with pytest.raises(ValueError, match="whole number|given once|does not match"):
        click(tracker, session, 1, obj_id)
    assert state(session) == before


@pytest.mark.parametrize("obj_id", [2, -7, np.int64(2), np.uint8(2), [2], (2,), np.array([2]), np.array(2)])
def test_ids_of_every_integer_type_are_taken(tracker, session, obj_id):
    click(tracker, session, 1, obj_id)
    (new,) = session.obj_ids[1:]
    assert type(new) is int
    assert type(tracker.model(session, frame_idx=1).object_ids[1]) is int


@pytest.mark.parametrize("obj_id", ["1", 1.0, True, 9])
@pytest.mark.parametrize("call", ["remove_object", "clear_prompts"])
def test_what_names_no_object_removes_none(session, obj_id, call):
    before = state(session)
    arguments = (obj_id,) if call == "remove_object" else (0, obj_id)
    with pytest.raises(ValueError, match="whole number|no object 9"):
        getattr(session, call)(*arguments)
    assert state(session) == before


@pytest.mark.parametrize("frame_idx", [-1, 6, 1000, 1.0, 1.5, "1", True, None, [1]])
def test_frame_numbers_that_are_none_are_refused(tracker, session, frame_idx):
    before = state(session)
    calls = {
        "prompt": lambda: click(tracker, session, frame_idx, 2),
        "clear": lambda: session.clear_prompts(frame_idx, 1),
        "run": lambda: tracker.model(session, frame_idx=frame_idx),
        "segment": lambda: tracker.model.segment_prompts(session, frame_idx),
        "track": lambda: tracker.model.track_frame(session, frame_idx),
    }
    if frame_idx is not None:
        calls["propagate"] = lambda: next(tracker.model.propagate_in_video_iterator(session, start_frame_idx=frame_idx))
    for call in calls.values():
        with pytest.raises(
            ValueError, match="out of range: the video has 6 frames, 0 to 5|whole number|Give frame_idx"
        ):
            call()
        assert state(session) == before


@pytest.mark.parametrize("number", [np.int64, np.uint8, np.int32])
def test_frame_numbers_of_every_integer_type_are_taken(tracker, session, number):
    click(tracker, session, number(3), 2)
    output = tracker.model(session, frame_idx=number(3))
    assert type(output.frame_idx) is int and output.frame_idx == 3
    outputs = tracker.model.propagate_in_video_iterator(session, number(3), number(1))
    assert [output.frame_idx for output in outputs] == [3, 4]
    assert {type(t) for obj in session.objects.values() for t in obj.memory.tracked} == {int}


@pytest.mark.parametrize("count", [-1, 1.5, "2", True])
def test_numbers_of_frames_that_are_none_are_refused(tracker, session, count):
    with pytest.raises(ValueError, match="must not be negative|whole number"):
        next(tracker.model.propagate_in_video_iterator(session, max_frame_num_to_track=count))


@pytest.mark.parametrize("keep_history", [-1, 1.5, "2", [3]])
def test_a_history_is_a_number_of_frames_or_a_truth_value(tracker, keep_history):
    with pytest.raises(ValueError, match="keep_history must be True, False or a number of frames"):
        start(tracker, keep_history=keep_history)


@pytest.mark.parametrize(
    ("keep_history", "history"), [(True, None), (None, None), (False, 0), (5, 5), (np.int64(5), 5)]
)
def test_a_history_is_kept_as_a_number_or_none(tracker, keep_history, history):
    assert start(tracker, keep_history=keep_history).history == history


# ------------------------------------------------------------------------------------------------------------ streams


def test_a_stream_without_objects_gives_empty_results_until_there_is_one(tracker):
    session = tracker.processor.init_video_session()
    frames = make_frames()
    for t in range(2):
        output = tracker.model(session, frame=frames[t])
        assert (output.frame_idx, output.object_ids, tuple(output.pred_masks.shape)) == (t, [], (0, 1, 32, 32))
        assert tuple(output.object_score_logits.shape) == (0, 1)
    click(tracker, session, 1, 4)
    output = tracker.model(session, frame=frames[2])
    assert present(output) == {4: True}
    session.remove_object(4)
    assert present(tracker.model(session, frame=frames[3])) == {}


def test_a_prompt_without_a_frame_means_the_streams_current_or_first_frame(tracker):
    session = tracker.processor.init_video_session()
    click(tracker, session, None, 1, original_size=(HEIGHT, WIDTH))
    assert session.objects[1].unrun == {0}
    for t, frame in enumerate(make_frames(3)):
        output = tracker.model(session, frame=frame)
        assert present(output) == {1: True} and output.frame_idx == t
    click(tracker, session, None, 2)
    assert session.objects[2].unrun == {2}
    assert present(tracker.model(session, frame_idx=2)) == {1: True, 2: True}


def test_a_video_without_objects_is_refused(tracker):
    session = start(tracker)
    for call in (
        lambda: tracker.model(session, frame_idx=0),
        lambda: next(tracker.model.propagate_in_video_iterator(session)),
    ):
        with pytest.raises(ValueError, match="please add inputs first"):
            call()


# ---------------------------------------------------------------------------------------------- features from elsewhere


def test_a_feature_provider_is_asked_for_frames_that_are_not_kept(tracker):
    class Provider:
        asked = []

        def features(self, session, frame_idx, encode):
            self.asked.append(frame_idx)
            return encode(session.get_frame(frame_idx))

    sessions = [start(tracker), start(tracker)]
    sessions[0].feature_provider = Provider()
    results = []
    for session in sessions:
        click(tracker, session, 0, 1)
        results.append([np.asarray(o.pred_masks) for o in tracker.model.propagate_in_video_iterator(session)])
    np.testing.assert_array_equal(*results)
    assert Provider.asked == list(range(NUM_FRAMES))
