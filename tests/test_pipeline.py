"""What runs beside the model: frames made ready ahead of it, results written and drawn behind it."""

import copy
import gc
import importlib.util
import threading
from pathlib import Path

import pytest
import torch
from reference import tiny_config

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.synthetic_clip import make_clip
from efficienttam_hf.tracking_session import ReadAhead


READER = "efficienttam-read-ahead"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EfficientTamVideoModel(tiny_config()).eval()


@pytest.fixture(scope="module")
def processor(model):
    return EfficientTamVideoProcessor.from_config(model.config)


@pytest.fixture(scope="module")
def frames():
    return make_clip(6, 160, 96).frames


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith(READER)]


# -------------------------------------------------------------------------------------------------------- reading ahead


class Frames(list):
    """Frames that note which were read."""

    def __init__(self, frames):
        super().__init__(frames)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def test_the_next_frame_is_ready_in_either_direction_and_no_other():
    frames = Frames("abcdefgh")
    read = ReadAhead(frames.__getitem__)

    def asked(index):
        """The frame, and what was read on its account."""
        frames.read.clear()
        frame = read(index)
        for ahead in read._ahead.values():
            ahead.exception()
        return frame, frames.read[:]

    assert asked(2) == ("c", [2])  # no direction yet
    assert asked(3) == ("d", [3, 4])
    assert asked(4) == ("e", [5])
    assert asked(7) == ("h", [7])  # a jump: the frame that was ready is let go
    assert asked(6) == ("g", [6, 5])
    assert asked(5) == ("f", [4])
    assert asked(1) == ("b", [1])
    assert asked(0) == ("a", [0])  # nothing before it


def test_what_is_wrong_with_a_frame_shows_at_its_turn():
    def broken(index):
        if index == 2:
            raise OSError("frame 2 is damaged")
        return index

    read = ReadAhead(broken)
    assert [read(0), read(1)] == [0, 1]
    with pytest.raises(OSError, match="frame 2 is damaged"):
        read(2)
    assert [read(3), read(4)] == [3, 4]


@pytest.mark.parametrize("reverse", [False, True])
def test_tracking_is_the_same_with_and_without(reverse, model, processor, frames):
    masks = []
    for read_ahead in (False, True):
        session = processor.init_video_session(frames, read_ahead=read_ahead)
        for index in (0, 4):
            processor.add_inputs_to_inference_session(
                session, index, 1, input_points=[[[[40, 60]]]], input_labels=[[[1]]]
            )
        start = 5 if reverse else 0
        masks.append([o.pred_masks for o in model.propagate_in_video_iterator(session, start, reverse=reverse)])
    assert readers()
    assert all(torch.equal(*pair) for pair in zip(*masks, strict=True))


def test_the_thread_ends_with_the_session_and_a_copy_has_its_own(processor, frames):
    session = processor.init_video_session(list(frames))
    pixels = [session.get_frame(index) for index in range(3)]
    other = copy.deepcopy(session)
    del session
    gc.collect()
    assert all(torch.equal(other.get_frame(index), pixels[index]) for index in range(3))
    ours = readers()
    del other
    gc.collect()
    for thread in ours:
        thread.join(10)
    assert not readers()


def test_frames_of_a_users_own_object_are_read_in_the_users_thread(processor, frames):
    class Own:
        height, width = frames[0].shape[:2]

        def __len__(self):
            return len(frames)

        def __getitem__(self, index):
            assert threading.current_thread() is threading.main_thread()
            return frames[index]

    session = processor.init_video_session(Own())
    assert [session.get_frame(index).shape[0] for index in range(len(frames))] == [3] * len(frames)


# -------------------------------------------------------------------------------------------------------- in background


def background(**options):
    from efficienttam_hf.cli.background import Background

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


# ----------------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def video(frames, tmp_path_factory):
    pytest.importorskip("av", reason="video files are read and written with PyAV")
    pytest.importorskip("cv2", reason="overlays are drawn with OpenCV")
    pytest.importorskip("pycocotools", reason="run-length masks are written with pycocotools")
    from efficienttam_hf.video_writer import VideoWriter

    path = tmp_path_factory.mktemp("video") / "video.mp4"
    with VideoWriter(path, 12, 160, 96, crf=1) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def prompts_on(frame):
    from efficienttam_hf.cli.prompts import ObjectPrompts

    return {frame: {1: ObjectPrompts([(40.0, 60.0)], [1])}}


def track(video, model, processor, out, frame=0):
    """What `efficienttam track` leaves after a click on the frame of a number."""
    from efficienttam_hf.cli.outputs import TrackFolder
    from efficienttam_hf.cli.track import Job
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
        folder.write_overlay(source.__getitem__, (96, 160), source.fps, prompts_on(0), folder.frames)
    assert folder.overlay.read_bytes() == drawn


def test_the_pipeline_is_measured(video, tmp_path, capsys, model, processor):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    path = Path(__file__).resolve().parents[1] / "scripts" / "measure_pipeline.py"
    spec = importlib.util.spec_from_file_location("measure_pipeline", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main([str(video), "--point", "40,60", "--model", str(tmp_path), "--frames", "4", "--rounds", "1"])
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    taken = {name.strip(): float(value) for name, value in rows}
    *stages, total, whole = taken.values()
    assert len(stages) == 7
    assert sum(stages) == pytest.approx(total, abs=0.5)
    assert whole > 0
