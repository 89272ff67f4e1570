"""Sessions: prompts in any order, many objects, corrections, streaming, and the bound on memory."""

import copy
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import ellipse, tiny_config, with_objects

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor


HEIGHT, WIDTH = 90, 120
ABSENT = -1024.0


@pytest.fixture(
    scope="module", params=["full", "pooled_logit_bias", pytest.param("pooled_key_shift", marks=pytest.mark.slow)]
)
def model(request):
    """A small model with fresh weights, in which objects are judged present."""
    torch.manual_seed(1)
    return with_objects(EfficientTamVideoModel(tiny_config(request.param)).eval(), 1.5)


@pytest.fixture(scope="module")
def processor(model):
    return EfficientTamVideoProcessor.from_config(model.config)


@pytest.fixture(scope="module")
def frames():
    """A textured square that moves over a textured ground."""
    rng = np.random.default_rng(0)
    ground, texture = rng.integers(0, 120, (HEIGHT, WIDTH, 3)), rng.integers(120, 255, (24, 24, 3))
    video = []
    for t in range(20):
        frame = ground.copy()
        frame[30 + t : 54 + t, 10 + 3 * t : 34 + 3 * t] = texture
        video.append(frame.astype(np.uint8))
    return video


@pytest.fixture
def session(processor, frames):
    return processor.init_video_session(video=frames)


def click(processor, session, frame, obj, x, y, label=1, **kwargs):
    processor.add_inputs_to_inference_session(
        session, frame, obj, input_points=[[[[x, y]]]], input_labels=[[[label]]], **kwargs
    )


def track(model, session, **kwargs):
    """Frame index -> output."""
    return {output.frame_idx: output for output in model.propagate_in_video_iterator(session, **kwargs)}


def assert_same(a, b, tolerance=1e-3):
    assert a.object_ids == b.object_ids
    scale = max(1.0, b.pred_masks.abs().max().item())
    torch.testing.assert_close(a.pred_masks, b.pred_masks, atol=tolerance * scale, rtol=0)
    torch.testing.assert_close(a.object_pointer, b.object_pointer, atol=tolerance, rtol=tolerance)


# -------------------------------------------------------------------------------------------------- many objects


def test_eight_objects_together_give_what_each_gives_alone(model, processor, frames):
    places = [(15 + 12 * i, 35 + 5 * i) for i in range(8)]

    def run(objects):
        session = processor.init_video_session(video=frames)
        for i in objects:
            if i % 3 == 2:
                mask = ellipse((HEIGHT, WIDTH), *places[i], 10, 8)
                processor.add_inputs_to_inference_session(session, 0, i, input_masks=mask)
            elif i % 3 == 1:
                x, y = places[i]
                processor.add_inputs_to_inference_session(session, 0, i, input_boxes=[[[x - 9, y - 9, x + 9, y + 9]]])
            else:
                click(processor, session, 0, i, *places[i])
        return track(model, session, max_frame_num_to_track=8)

    together = run(range(8))
    for i in range(8):
        alone = run([i])
        for t, output in alone.items():
            # The batch may round otherwise, and memories are rounded to bfloat16: alike, not equal to the bit.
            a, b = together[t].pred_masks[i], output.pred_masks[0]
            assert ((a > 0) == (b > 0)).float().mean() > 0.995
            assert (a - b).abs().max() < 0.02 * max(1.0, b.abs().max().item())


def test_segmenting_prompts_runs_only_the_objects_prompted_on_the_frame(model, processor, session, monkeypatch):
    click(processor, session, 0, 1, 20, 40)
    model(session, frame_idx=0)
    batches = []
    step = model.track_step
    monkeypatch.setattr(model, "track_step", lambda *a, **k: batches.append(step(*a, **k)) or batches[-1])
    click(processor, session, 5, 2, 80, 60)
    output = model.segment_prompts(session, 5)
    assert [len(batch.pred_masks) for batch in batches] == [1]
    assert output.object_ids == [1, 2]
    assert (output.pred_masks[0] == ABSENT).all() and (output.pred_masks[1] > ABSENT).any()


def test_several_prompts_added_before_anything_is_run_all_count(model, processor, frames):
    at_once, one_by_one = (processor.init_video_session(video=frames) for _ in range(2))
    for session in (at_once, one_by_one):
        for frame, obj, x, y in ((0, 1, 20, 40), (0, 2, 80, 60), (6, 1, 40, 50), (3, 3, 60, 20)):
            click(processor, session, frame, obj, x, y)
            if session is one_by_one:
                model(session, frame_idx=frame)
    assert at_once.obj_with_new_inputs == [1, 2, 3]
    a, b = track(model, at_once), track(model, one_by_one)
    assert at_once.obj_with_new_inputs == []
    assert list(a) == list(range(20))
    for t in a:
        assert_same(a[t], b[t])


def test_points_for_the_same_object_and_frame_join_or_replace(processor, session):
    click(processor, session, 0, 1, 20, 40)
    click(processor, session, 0, 1, 60, 40, label=0, clear_old_inputs=False)
    prompts = session.objects[1].prompts[0]
    assert prompts.labels.tolist() == [[1, 0]]
    torch.testing.assert_close(prompts.points[0, 1], torch.tensor([60 / WIDTH * 128, 40 / HEIGHT * 128]))
    click(processor, session, 0, 1, 60, 40)
    assert session.objects[1].prompts[0].labels.tolist() == [[1]]


def test_an_object_first_prompted_later_can_be_tracked_from_an_earlier_frame(model, processor, session):
    """The published float32 code crashes where an object has memories but no pointer."""
    click(processor, session, 0, 1, 20, 40)
    click(processor, session, 8, 2, 60, 60)
    outputs = track(model, session)
    assert all(torch.isfinite(output.pred_masks).all() for output in outputs.values())
    assert outputs[0].object_ids == [1, 2] and (outputs[0].pred_masks[1] > ABSENT).any()


def test_a_late_object_does_not_change_the_others(model, processor, frames):
    alone, joined = (processor.init_video_session(video=frames) for _ in range(2))
    results = []
    for session in (alone, joined):
        click(processor, session, 0, 1, 20, 40)
        track(model, session, max_frame_num_to_track=5)
        if session is joined:
            click(processor, session, 6, 2, 60, 60)
        results.append(track(model, session, start_frame_idx=6))
    for t, output in results[1].items():
        torch.testing.assert_close(output.pred_masks[:1], results[0][t].pred_masks, atol=0.05, rtol=0.01)


def test_image_features_are_computed_once_a_frame(model, processor, session, monkeypatch):
    encoded = []
    encode = model.get_image_features
    monkeypatch.setattr(model, "get_image_features", lambda pixels, **k: encoded.append(1) or encode(pixels, **k))
    for obj in range(4):
        click(processor, session, 0, obj, 20 + 10 * obj, 40)
        model(session, frame_idx=0)
    assert len(encoded) == 1
    track(model, session, max_frame_num_to_track=4)
    assert len(encoded) == 5


def test_whether_a_mask_came_from_prompts_is_decided_for_each_object(model):
    features = torch.randn(1, 64, 8, 8)
    masks = torch.randn(2, 1, 128, 128) * 3
    with torch.no_grad():
        mixed = model.encode_memory(features.expand(2, -1, -1, -1), masks, torch.tensor([True, False]))
        for i, prompted in enumerate((True, False)):
            alone = model.encode_memory(features, masks[i : i + 1], prompted)
            torch.testing.assert_close(mixed[i : i + 1], alone, atol=1e-4, rtol=1e-4)
        other = model.encode_memory(features, masks[:1], False)
    assert not torch.allclose(mixed[:1], other, atol=1e-3)


# --------------------------------------------------------------------------------------------------- corrections


def test_a_correction_gets_the_previous_mask_and_the_memories(model, processor, session, monkeypatch):
    click(processor, session, 0, 1, 20, 40)
    before = track(model, session, max_frame_num_to_track=8)[5]
    seen = {}
    step = model.track_step
    monkeypatch.setattr(
        model,
        "track_step",
        lambda features, bank, *args, **kwargs: (
            seen.update(bank=bank, **kwargs) or step(features, bank, *args, **kwargs)
        ),
    )
    click(processor, session, 5, 1, 30, 42, label=0)
    model(session, frame_idx=5)
    torch.testing.assert_close(seen["previous_masks"], before.pred_masks.clamp(-32, 32))
    assert seen["bank"].spatial.shape[1] == 5  # the conditioning frame and frames 1 to 4
    assert seen["mask_from_prompts"] is True


def test_a_correction_is_used_by_frames_after_it(model, processor, frames):
    plain, corrected = (processor.init_video_session(video=frames) for _ in range(2))
    results = []
    for session in (plain, corrected):
        click(processor, session, 0, 1, 20, 40)
        track(model, session, max_frame_num_to_track=6)
        if session is corrected:
            mask = ellipse((HEIGHT, WIDTH), 90, 70, 20, 12)
            processor.add_inputs_to_inference_session(session, 6, 1, input_masks=mask)
        results.append(track(model, session, start_frame_idx=7, max_frame_num_to_track=3))
    assert not torch.allclose(results[0][7].pred_masks, results[1][7].pred_masks, atol=1e-3)


@pytest.mark.parametrize("as_conditioning", [False, True])
def test_whether_a_corrected_frame_defines_the_object_is_configured(model, processor, session, as_conditioning):
    click(processor, session, 0, 1, 20, 40)
    track(model, session, max_frame_num_to_track=6)
    mask = ellipse((HEIGHT, WIDTH), 90, 70, 20, 12)
    processor.add_inputs_to_inference_session(session, 4, 1, input_masks=mask)
    model.config.add_all_frames_to_correct_as_cond = as_conditioning
    try:
        again = track(model, session, start_frame_idx=3, max_frame_num_to_track=3)
    finally:
        model.config.add_all_frames_to_correct_as_cond = False
    is_the_mask = torch.equal(again[4].pred_masks.unique(), torch.tensor([-10.0, 10.0])) or (
        again[4].pred_masks.min() == -10 and again[4].pred_masks.max() == 10
    )
    assert is_the_mask == as_conditioning


def test_clearing_prompts_lets_the_object_go_until_it_is_prompted_anew(model, processor, session):
    click(processor, session, 0, 1, 20, 40)
    click(processor, session, 0, 2, 80, 60)
    model(session, frame_idx=0)
    session.clear_prompts(0, 2)
    assert (model.get_frame_output(session, 0).pred_masks[1] == ABSENT).all()
    with pytest.raises(ValueError, match=r"Object 2 has no prompts.*remove_object\(2\)"):
        track(model, session)
    click(processor, session, 3, 2, 80, 60)
    assert len(track(model, session)) == 20


def test_removing_an_object_leaves_the_others_as_they_are(model, processor, session):
    for obj, x in ((1, 20), (7, 60), (3, 90)):
        click(processor, session, 0, obj, x, 40)
    before = track(model, session, max_frame_num_to_track=3)[3]
    session.remove_object(7)
    after = model.get_frame_output(session, 3)
    assert after.object_ids == [1, 3]
    assert torch.equal(after.pred_masks, before.pred_masks[[0, 2]])


def test_reset_begins_anew_with_the_video_kept(model, processor, session):
    click(processor, session, 0, 1, 20, 40)
    first = track(model, session, max_frame_num_to_track=2)
    session.reset_inference_session()
    assert session.obj_ids == [] and session.num_frames == 20
    click(processor, session, 0, 5, 20, 40)
    again = track(model, session, max_frame_num_to_track=2)
    torch.testing.assert_close(again[2].pred_masks, first[2].pred_masks)


# --------------------------------------------------------------------------------------------------- propagation


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, range(4, 20)),
        ({"start_frame_idx": 0}, range(20)),
        ({"max_frame_num_to_track": 3}, range(4, 8)),
        ({"max_frame_num_to_track": 0}, [4]),
        ({"reverse": True}, range(4, -1, -1)),
        ({"start_frame_idx": 10, "max_frame_num_to_track": 2, "reverse": True}, [10, 9, 8]),
        ({"start_frame_idx": 0, "reverse": True}, []),
    ],
)
def test_propagation_visits_the_frames_asked_for(model, processor, session, options, expected):
    click(processor, session, 4, 1, 20, 40)
    assert list(track(model, session, **options)) == list(expected)


def test_outputs_are_given_before_the_next_frame_is_run(model, processor, session):
    click(processor, session, 0, 1, 20, 40)
    iterator = model.propagate_in_video_iterator(session)
    next(iterator)
    next(iterator)
    assert sorted(session.objects[1].memory.tracked) == [1]


def test_a_video_that_ends_early_gives_the_frames_it_has(model, processor, frames):
    class Truncated:
        height, width = HEIGHT, WIDTH

        def __len__(self):
            return 20

        def __getitem__(self, i):
            if i >= 6:
                raise IndexError("6 of 20 frames could be decoded")
            return frames[i]

    session = processor.init_video_session(video=Truncated())
    click(processor, session, 0, 1, 20, 40)
    with pytest.warns(UserWarning, match="6 of 20"):
        assert list(track(model, session)) == [0, 1, 2, 3, 4, 5]


# ----------------------------------------------------------------------------------------------------- streaming


def stream(model, processor, frames, count, **session_options):
    session = processor.init_video_session(**session_options)
    outputs = []
    for t in range(count):
        frame = frames[t % len(frames)]
        if t == 0:
            click(processor, session, 0, 1, 20, 40, original_size=(HEIGHT, WIDTH))
        outputs.append(model(inference_session=session, frame=frame))
    return session, outputs


def test_a_stream_gives_what_the_video_gives(model, processor, frames, session):
    click(processor, session, 0, 1, 20, 40)
    expected = track(model, session)
    _, outputs = stream(model, processor, frames, 20)
    for t, output in enumerate(outputs):
        assert output.frame_idx == t
        assert_same(output, expected[t])


def test_processed_pixels_can_be_streamed_too(model, processor, frames):
    raw_session, raw = stream(model, processor, frames, 4)
    processed = [processor.process_frame(frame)[0] for frame in frames]
    _, outputs = stream(model, processor, processed, 4)
    for a, b in zip(raw, outputs, strict=True):
        assert torch.equal(a.pred_masks, b.pred_masks)


def test_the_current_frame_of_a_stream_can_be_corrected_and_objects_join(model, processor, frames):
    session, _ = stream(model, processor, frames, 5)
    click(processor, session, 4, 1, 60, 60, label=0)
    click(processor, session, 4, 2, 80, 60)
    output = model(session, frame_idx=4)
    assert output.object_ids == [1, 2] and (output.pred_masks[1] > ABSENT).any()
    assert 4 in session.objects[2].memory.pending_conditioning
    output = model(inference_session=session, frame=frames[5])
    assert output.frame_idx == 5 and (output.pred_masks[1] > ABSENT).any()


def test_a_prompt_of_a_stream_without_a_frame_is_for_the_current_or_the_first(model, processor, frames, session):
    streamed = processor.init_video_session()
    point = {"input_points": [[[[60, 60]]]], "input_labels": [[[1]]]}
    processor.add_inputs_to_inference_session(streamed, obj_ids=1, original_size=(HEIGHT, WIDTH), **point)
    assert list(streamed.objects[1].prompts) == [0]
    model(inference_session=streamed, frame=frames[0])
    assert model(inference_session=streamed, frame=frames[1]).frame_idx == 1
    processor.add_inputs_to_inference_session(streamed, obj_ids=2, **point)
    assert list(streamed.objects[2].prompts) == [1]
    with pytest.raises(ValueError, match="frame index .*None"):
        processor.add_inputs_to_inference_session(session, obj_ids=3, **point)
    with pytest.raises(
        ValueError, match="obj_ids must be a whole number or a list of at least one whole number, got None"
    ):
        processor.add_inputs_to_inference_session(streamed, **point)


def test_prompts_that_wait_on_a_streamed_frame_are_run_before_it_goes(model, processor, frames):
    session, _ = stream(model, processor, frames, 3)
    click(processor, session, 2, 9, 80, 60)
    output = model(inference_session=session, frame=frames[3])
    assert output.object_ids == [1, 9] and 2 in session.objects[9].memory.conditioning


def test_a_long_stream_is_bounded(model, processor, frames):
    session, _ = stream(model, processor, frames, 50, keep_history=False)
    memory = session.objects[1].memory
    # The fifteen frames behind (pointers) and those after the prompted one.
    assert len(memory.tracked) <= 2 * 15 + 1
    assert len(session._streamed) == 1


def test_history_does_not_change_the_tracking(model, processor, frames):
    last = 44
    _, expected = stream(model, processor, frames, last + 1)
    for keep_history in (False, 20, True):
        session, outputs = stream(model, processor, frames, last + 1, keep_history=keep_history)
        assert torch.equal(outputs[-1].pred_masks, expected[-1].pred_masks), keep_history
        kept = sorted(session.objects[1].memory.tracked)
        if keep_history is True:
            assert kept == list(range(1, last + 1))
        else:
            reach = max(int(keep_history), 15)
            assert kept == sorted({*range(1, reach + 1), *range(last - reach, last + 1)}), keep_history


def test_with_history_a_stream_can_be_returned_to(model, processor, frames):
    session, outputs = stream(model, processor, frames, 50, keep_history=True)
    old = model.get_frame_output(session, 2)
    assert torch.allclose(old.pred_masks, outputs[2].pred_masks, atol=0.02, rtol=1e-3)  # float16 once offloaded
    click(processor, session, 2, 1, 20, 40)
    assert torch.isfinite(model(session, frame_idx=2).pred_masks).all()


def test_without_history_a_stream_says_that_the_frame_is_gone(model, processor, frames):
    session, _ = stream(model, processor, frames, 5)
    with pytest.raises(ValueError, match="keep_history=True"):
        click(processor, session, 1, 1, 20, 40)


@pytest.mark.slow
def test_three_thousand_streamed_frames_take_no_more_memory_than_three_hundred(model, processor, frames):
    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    if not os.path.exists("/proc/self/statm"):
        pytest.skip("resident memory is read from /proc")
    session = processor.init_video_session()
    click(processor, session, 0, 1, 20, 40, original_size=(HEIGHT, WIDTH))
    early = 0.0
    for t in range(3000):
        model(inference_session=session, frame=frames[t % len(frames)])
        if t == 300:
            early = resident()
    assert resident() - early < 8  # MiB; the session itself is constant, the allocator is not quite


# --------------------------------------------------------------------------------------------- the tracking step


def test_the_tracking_step_has_no_hidden_state(model):
    features = torch.randn(1, 64, 8, 8)
    points, labels = torch.tensor([[[30.0, 40.0]]]), torch.ones(1, 1, dtype=torch.long)
    with torch.no_grad():
        first = model.track_step(features, input_points=points, input_labels=labels)
        model.track_step(torch.randn(1, 64, 8, 8), input_points=points + 9, input_labels=labels)
        again = model.track_step(features, input_points=points, input_labels=labels)
    for name in first:
        assert torch.equal(first[name], again[name]), name


def test_an_absent_object_has_no_mask_and_the_learned_pointer(model):
    features = torch.randn(1, 64, 8, 8)
    bias = model.mask_decoder.pred_obj_score_head.layers[-1].bias
    old = bias.item()
    with torch.no_grad():
        bias.fill_(-50.0)
        output = model.track_step(features, input_points=torch.tensor([[[9.0, 9.0]]]), input_labels=torch.ones(1, 1))
        bias.fill_(old)
    assert (output.pred_masks == ABSENT).all()
    assert torch.equal(output.object_pointer, model.no_object_pointer)


def test_bfloat16_and_float16_track_too(model, processor, frames):
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(model).to(dtype)
        session = processor.init_video_session(video=frames, dtype=dtype)
        click(processor, session, 0, 1, 20, 40)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            outputs = track(half, session, max_frame_num_to_track=3)
        assert all(torch.isfinite(output.pred_masks).all() for output in outputs.values())
