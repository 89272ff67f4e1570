"""What runs beside the model: results written and drawn while it computes the next frame."""

import threading

import numpy as np
import pytest
import torch
from reference import write_frames
from script_files import load_script

from efficienttam_hf.synthetic_clip import make_clip


@pytest.fixture(scope="module")
def frames():
    return make_clip(6, 160, 96).frames


# -------------------------------------------------------------------------------------------------------- in background


def background(**options):
    from efficienttam_hf.app.background import Background

    return Background(**options)


def test_calls_run_in_order_and_all_are_done_on_leaving():
    done, go = [], threading.Event()
    with background() as work:
        work.submit(go.wait)
        work.submit(done.append, 1)
        work.submit(done.append, 2)
        assert not done
        go.set()
    assert done == [1, 2]


def test_no_more_calls_wait_than_may():
    done, go = [], threading.Event()
    with background(waiting=1) as work:
        work.submit(go.wait)
        work.submit(done.append, 1)
        blocked = threading.Thread(target=work.submit, args=(done.append, 2))
        blocked.start()
        blocked.join(0.1)
        assert blocked.is_alive()
        go.set()
        blocked.join(10)
    assert done == [1, 2]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_ends_the_work_and_reaches_the_caller(error):
    def fail():
        raise error

    done = []
    with pytest.raises(type(error)) as raised, background() as work:
        work.submit(done.append, 1)
        work.submit(fail)
        for number in range(100):
            work.submit(done.append, number)
    assert raised.value is error
    assert done == [1]


def test_an_error_of_the_caller_leaves_what_was_submitted_done():
    done, go = [], threading.Event()
    with pytest.raises(ZeroDivisionError), background() as work:
        work.submit(go.wait)
        work.submit(done.append, 1)
        go.set()
        raise ZeroDivisionError
    assert done == [1]


# ------------------------------------------------------------------------------------------------------- encoding ahead


def tracked_masks(model, processor, frames, ahead, direction=None, first=0):
    """Logits by frame, and the torch threads of this thread after the first of them."""
    from efficienttam_hf.app.plan import plan_tracking, track_objects

    prompts = prompts_on(first)
    masks, threads = [], []
    for done in track_objects(model, processor, frames, prompts, plan_tracking(prompts, direction), ahead):
        masks.append((done.index, done.logits))
        threads.append(torch.get_num_threads())
    return masks, threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("direction", "first"), [("forward", 0), ("both", 3), ("backward", 5)])
def test_frames_encoded_ahead_give_the_same_masks(model, processor, frames, two_threads, direction, first):
    masks, threads = tracked_masks(model, processor, frames, True, direction, first)
    assert set(threads) == {1}
    assert torch.get_num_threads() == 2
    plain, threads = tracked_masks(model, processor, frames, False, direction, first)
    assert set(threads) == {2}
    assert [index for index, _ in masks] == [index for index, _ in plain]
    for (_, ahead), (_, logits) in zip(masks, plain, strict=True):
        np.testing.assert_allclose(ahead, logits, atol=1e-4)


def test_a_frame_that_cannot_be_read_ahead_raises_in_its_turn(model, processor, frames, two_threads):
    from efficienttam_hf.app.plan import plan_tracking, track_objects

    class Damaged(list):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("cannot read frame 3")
            return super().__getitem__(index)

    done, prompts = [], prompts_on(0)
    with pytest.raises(OSError, match="cannot read frame 3"):
        for each in track_objects(model, processor, Damaged(frames), prompts, plan_tracking(prompts), True):
            done.append(each.index)
    assert done == [0, 1, 2]
    assert torch.get_num_threads() == 2


def test_small_models_are_encoded_ahead_and_large_ones_are_not(model, two_threads, monkeypatch):
    from efficienttam_hf import EfficientTamVideoModel
    from efficienttam_hf.app.encoding_ahead import encoding_ahead_pays
    from efficienttam_hf.checkpoints import resolve_config

    with torch.device("meta"):
        large = EfficientTamVideoModel(resolve_config("efficienttam_ti_512x512"))
    monkeypatch.setattr(EfficientTamVideoModel, "device", torch.device("cpu"))
    assert encoding_ahead_pays(model, 1)
    assert not encoding_ahead_pays(model, 20)
    assert not encoding_ahead_pays(large, 1)
    torch.set_num_threads(1)
    assert not encoding_ahead_pays(model, 1)
    monkeypatch.setattr(EfficientTamVideoModel, "device", torch.device("cuda"))
    assert not encoding_ahead_pays(model, 1)


# ----------------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def video(frames, tmp_path_factory):
    pytest.importorskip("av", reason="video files are read and written with PyAV")
    pytest.importorskip("cv2", reason="overlays are drawn with OpenCV")
    pytest.importorskip("pycocotools", reason="run-length masks are written with pycocotools")

    path = tmp_path_factory.mktemp("video") / "video.mp4"
    write_frames(path, 12, frames, crf=1)
    return path


def prompts_on(frame):
    from efficienttam_hf.prompts import ObjectPrompts

    return {frame: {1: ObjectPrompts([(40.0, 60.0)], [1])}}


def track(video, model, processor, out, frame=0):
    """What `efficienttam track` leaves after a click on the frame of a number."""
    from efficienttam_hf.app.pipeline import Job
    from efficienttam_hf.app.results import TrackFolder
    from efficienttam_hf.video_io import open_video

    with open_video(video) as source:
        folder = TrackFolder(out, "video")
        folder.prepare(overwrite=False)
        assert Job(source, 0, (96, 160), prompts_on(frame), model, processor, folder).run(None, "tiny") == 0
    return folder


def test_a_video_tracked_in_its_order_is_decoded_once(video, model, processor, frames, tmp_path, monkeypatch):
    from efficienttam_hf._video_decoder import VideoFile

    read, decoded = VideoFile.read, []

    def noting(self, index, backward):
        decoded.append(index)
        return read(self, index, backward)

    monkeypatch.setattr(VideoFile, "read", noting)
    track(video, model, processor, tmp_path / "forward")
    assert sorted(decoded) == list(range(len(frames)))
    decoded.clear()
    track(video, model, processor, tmp_path / "both", frame=3)
    assert all(decoded.count(index) > 1 for index in range(len(frames)))


def test_the_overlay_drawn_while_tracking_is_that_drawn_afterwards(video, model, processor, tmp_path):
    from efficienttam_hf.video_io import open_video

    folder = track(video, model, processor, tmp_path / "out")
    drawn = folder.overlay.read_bytes()
    with open_video(video) as source:
        times = [(source.frame_time(i), source.frame_time(i + 1)) for i in range(len(source))]
        drawing = (source.__getitem__, (96, 160), source.fps, prompts_on(0), folder.frames)
        folder.write_overlay(*drawing, times=times.__getitem__, sound=source.sound)
    assert folder.overlay.read_bytes() == drawn


def test_the_pipeline_is_measured(video, tmp_path, capsys, model, processor):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    script = load_script("measure_pipeline")
    script.main([str(video), "--point", "40,60", "--model", str(tmp_path), "--frames", "4", "--rounds", "1"])
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    taken = {name.strip(): float(value) for name, value in rows}
    *stages, total, whole = taken.values()
    assert len(stages) == 7
    assert sum(stages) == pytest.approx(total, abs=0.5)
    assert whole > 0
