"""Several streams at once: each gets what it gets alone, and the end of one is not the end of the others."""

import threading

import numpy as np
import pytest
import torch

from efficienttam_hf.multi_stream import MultiStreamTracker
from efficienttam_hf.synthetic_clip import make_clip


BOX = [[[20, 10, 60, 50]]]


def clip(length, width=96, height=64):
    return list(make_clip(length, width, height).frames)


@pytest.fixture
def opened(processor):
    def opened(size=(64, 96), frame_idx=0, **options):
        session = processor.init_video_session(**options)
        processor.add_inputs_to_inference_session(session, frame_idx, 1, input_boxes=BOX, original_size=size)
        return session

    return opened


def alone(model, session, frames):
    return [model(session, frame=frame) for frame in frames]


def together(tracker):
    found = {}
    for result in tracker:
        found.setdefault(result.name, []).append(result.output)
    return found


def assert_same(ours, expected):
    """Equal up to the rounding of a batched encoder: logits of a magnitude of ten, to 1e-3, and the same masks."""
    assert [output.frame_idx for output in ours] == [output.frame_idx for output in expected]
    for own, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(own.pred_masks, other.pred_masks, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(own.object_score_logits, other.object_score_logits, atol=1e-3, rtol=1e-4)


def test_each_stream_gets_what_it_gets_alone(model, opened, monkeypatch):
    sources = {"a": clip(5), "b": clip(3, 80, 80)[::-1], "c": clip(4)}
    sizes = {name: frames[0].shape[:2] for name, frames in sources.items()}
    expected = {name: alone(model, opened(sizes[name]), frames) for name, frames in sources.items()}

    batches, plain = [], model.get_image_features

    def counted(pixels, **options):
        batches.append(len(pixels))
        return plain(pixels, **options)

    monkeypatch.setattr(model, "get_image_features", counted)
    tracker = MultiStreamTracker(model, max_batch_size=2)
    started = threading.Event()
    for name, frames in sources.items():
        tracker.add(name, opened(sizes[name]), after(started, frames))
    started.set()
    found = together(tracker)
    assert sum(batches) == 12, "each frame is encoded once"
    assert max(batches) == 2
    assert tracker.names == [] and not tracker.failed
    for name in sources:
        assert_same(found[name], expected[name])


def after(event, frames):
    event.wait()
    yield from frames


def test_a_batch_of_one_is_exact(model, opened):
    frames = clip(3)
    expected = alone(model, opened(), frames)
    tracker = MultiStreamTracker(model)
    tracker.add("one", opened(), frames)
    for own, other in zip(together(tracker)["one"], expected, strict=True):
        assert torch.equal(own.pred_masks, other.pred_masks)


@pytest.mark.filterwarnings("ignore:Stream 'b' has ended")
def test_a_stream_that_fails_does_not_end_the_others(model, opened):
    def unplugged():
        yield clip(1)[0]
        raise OSError("the camera is gone")

    def changing():
        yield clip(1)[0]
        yield np.zeros((30, 30, 3), np.uint8)

    for frames, message in ((unplugged(), "the camera is gone"), (changing(), "frames are 96x64")):
        with MultiStreamTracker(model) as tracker:
            tracker.add("a", opened(), clip(3))
            tracker.add("b", opened(), frames)
            found = together(tracker)
        assert [len(found[name]) for name in "ab"] == [3, 1]
        assert message in str(tracker.failed["b"])


def test_a_slow_stream_does_not_hold_up_the_others(model, opened):
    done = threading.Event()
    with MultiStreamTracker(model) as tracker:
        tracker.add("slow", opened(), after(done, clip(1)))
        tracker.add("fast", opened(), clip(3))
        order = []
        for result in tracker:
            order.append(result.name)
            if len(order) == 3:
                done.set()
    assert order == ["fast"] * 3 + ["slow"]


def test_a_live_stream_skips_frames_that_are_late(model, opened):
    read = threading.Event()

    def camera():
        yield from clip(20)
        read.set()

    with MultiStreamTracker(model) as tracker:
        tracker.add("camera", opened(), camera(), live=True)
        assert read.wait(10)
        (result,) = tracker
    assert np.array_equal(result.frame, clip(20)[-1])
    assert result.output.frame_idx == 0


def test_prompts_and_streams_can_be_added_and_removed_in_between(model, processor, opened):
    session = processor.init_video_session()
    with MultiStreamTracker(model) as tracker:
        tracker.add("a", session, clip(4))
        rows = []
        for result in tracker:
            if result.name == "b":
                tracker.remove("b")
                continue
            rows.append(len(result.output.object_ids))
            if len(rows) == 2:
                processor.add_inputs_to_inference_session(session, 1, 7, input_boxes=BOX)
                tracker.add("b", opened(), clip(4))
    assert rows == [0, 0, 1, 1]
    assert session.feature_provider is None


def test_what_cannot_be_added_is_said(model, processor, opened):
    session = opened()
    with MultiStreamTracker(model) as tracker:
        tracker.add("a", session, [])
        with pytest.raises(ValueError, match="There is a stream 'a' already"):
            tracker.add("a", opened(), [])
        with pytest.raises(ValueError, match="each stream needs its own"):
            tracker.add("b", session, [])
        with pytest.raises(ValueError, match="The session has a video"):
            tracker.add("b", processor.init_video_session(clip(2)), [])
        with pytest.raises(ValueError, match="There is no stream 'b'"):
            tracker.remove("b")
    with pytest.raises(ValueError, match="max_batch_size must be at least 1"):
        MultiStreamTracker(model, 0)
