"""The demo without a browser: what visitors do and what becomes of their files. In a browser: test_demo_browser.py."""

from __future__ import annotations

import json
import re
import runpy
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from reference import tiny_config

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.cli import main
from efficienttam_hf.mask_io import decode_rle, read_indexed_png
from efficienttam_hf.synthetic_clip import make_clip
from efficienttam_hf.video_io import open_video
from efficienttam_hf.video_writer import VideoWriter


gradio = pytest.importorskip("gradio", reason="the demo is a Gradio app")
DEMO = Path(__file__).resolve().parents[1] / "demo"
sys.path.insert(0, str(DEMO))

import engine  # noqa: E402
from api import parse_prompts  # noqa: E402
from clicks import BOX, NEGATIVE, POSITIVE  # noqa: E402
from image_work import ImageWork  # noqa: E402
from live_work import LiveWork  # noqa: E402
from settings import Settings  # noqa: E402
from uploads import Upload, UserError  # noqa: E402
from video_clip import clip_of_file  # noqa: E402
from video_tab import VideoTab  # noqa: E402
from video_work import VideoWork  # noqa: E402
from visitors import Visitors  # noqa: E402


WIDTH, HEIGHT, NUM_FRAMES = 160, 96, 8
ON_OBJECT = (40.0, 58.0)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings with a tiny random model, which is loaded."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(5)  # one that sees its objects to the end
    EfficientTamVideoModel(tiny_config()).save_pretrained(folder)
    EfficientTamVideoProcessor.from_config(tiny_config()).save_pretrained(folder)
    settings = Settings(model=str(folder), device="cpu", max_frames=NUM_FRAMES, max_objects=3, grid=2)
    engine.load(settings)
    return settings


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "a clip.mp4"
    with VideoWriter(path, 12, WIDTH, HEIGHT) as writer:
        for frame in make_clip(NUM_FRAMES + 2, WIDTH, HEIGHT).frames:
            writer.write(frame)
    return path


@pytest.fixture
def upload(video, tmp_path):
    """A file as Gradio hands it over: each call another visitor's upload."""

    def give(name="upload.mp4", content=None):
        path = tmp_path / "gradio" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(video.read_bytes() if content is None else content)
        return path

    return give


@pytest.fixture
def work(settings, upload, tmp_path):
    work = VideoWork(tmp_path / "visitor", settings)
    work.load(upload(), max_side=WIDTH, stride=1)
    yield work
    work.close()


def run(steps):
    return [frame for frame, _, _ in steps]


def masks(work):
    """What the results say: by frame number and object id, bool (height, width)."""
    content = json.loads(work.write_results().masks_json.read_text())
    return {(f["frame"], o["id"]): decode_rle(o["segmentation"]) for f in content["frames"] for o in f["objects"]}


# -------------------------------------------------------------------------------------------------------------- uploads


def test_a_file_that_is_no_video_is_refused_and_deleted(settings, upload, work):
    broken = upload("notes.mp4", b"these are my notes, not a video\n" * 50)
    with pytest.raises(UserError, match="cannot be read as a video") as refusal:
        work.load(broken, WIDTH, 1)
    assert str(broken.parent) not in str(refusal.value), "where files lie is nobody's business"
    assert not broken.exists()
    assert work.clip is not None, "what was there before stays"


def test_large_files_and_frames_are_refused(video, upload, tmp_path):
    with pytest.raises(UserError, match="up to 1 MB are accepted"):
        Upload(upload(content=bytes(2 * 2**20)), tmp_path / "own", Settings(max_upload_mb=1))
    with pytest.raises(UserError, match="160x96 pixels are 0 megapixels"):
        clip_of_file(video, Settings(max_pixels=100 * 100), WIDTH, 1)


def test_only_the_first_frames_are_used_or_every_nth(video, settings):
    clip = clip_of_file(video, settings, 80, 1)
    assert (clip.count, clip.in_video, clip.size, clip.original) == (8, 10, (48, 80), (96, 160))
    clip = clip_of_file(video, settings, 80, 4)
    assert (clip.count, clip.fps) == (3, 3.0)
    with open_video(video) as source, clip.open() as frames:
        assert len(frames) == 3
        assert np.abs(frames[2].mean((0, 1)) - source[8].mean((0, 1))).max() < 1
        with pytest.raises(IndexError):
            frames[3]


def test_visitors_who_upload_the_same_file_do_not_take_it_from_each_other(settings, upload, tmp_path):
    cached = upload()
    first, second = (Upload(cached, tmp_path / name, settings) for name in ("first", "second"))
    first.delete()
    assert second.path.is_file()
    assert cached.is_file()
    second.delete()
    assert not cached.exists()


# ----------------------------------------------------------------------------------------------------- a visitor's work


def test_a_click_gives_a_mask_and_undo_takes_it_back(work):
    before = work.picture(0)
    work.click(0, POSITIVE, ON_OBJECT)
    one = masks(work)[0, 1]
    work.click(0, NEGATIVE, (120.0, 20.0))
    two = masks(work)[0, 1]
    assert one.any()
    assert (one != two).any()
    assert work.undo() == 0
    assert (masks(work)[0, 1] == one).all()
    assert work.undo() == 0
    assert (work.picture(0) == before).all()
    assert work.undo() is None
    assert work.write_results() is None


def test_two_clicks_make_a_box(work):
    work.click(2, BOX, (60.0, 80.0))
    assert work.prompts == {}
    work.click(2, BOX, (20.0, 40.0))
    assert work.prompts[2][1].box == (20.0, 40.0, 60.0, 80.0)
    work.click(2, BOX, (1.0, 1.0))
    work.undo()  # of the corner only
    assert work.prompts[2][1].box == (20.0, 40.0, 60.0, 80.0)


def test_clicks_that_say_nothing_are_answered(work):
    with pytest.raises(UserError, match="Click on the object first"):
        work.click(0, NEGATIVE, ON_OBJECT)
    with pytest.raises(UserError, match="Click on an object first"):
        run(work.track("forward"))
    with pytest.raises(UserError, match="Correct an object on this frame first"):
        work.click(0, POSITIVE, ON_OBJECT)
        run(work.track("forward", start=3))


def test_results_are_those_of_the_command_line(work, video, settings, tmp_path):
    work.click(2, POSITIVE, ON_OBJECT)
    assert run(work.track("both")) == [2, 3, 4, 5, 6, 7, 2, 1, 0]
    results = work.write_results()
    out = tmp_path / "out"
    point = ["--frame", "2", "--point", "40,58"]
    assert main(["track", str(video), "--model", settings.model, *point, "--end", "8", "--out", str(out)]) == 0
    own, command = (json.loads(path.read_text()) for path in (results.masks_json, out / "masks.json"))
    assert own["frames"] == command["frames"]
    assert own["objects"] == command["objects"]
    assert own["complete"] is True
    with zipfile.ZipFile(results.masks_zip) as archive:
        assert archive.namelist() == [f"Annotations/upload/{t:05d}.png" for t in range(8)]
        archive.extractall(tmp_path / "masks")
    for t in range(8):
        png = read_indexed_png(tmp_path / "masks" / "Annotations" / "upload" / f"{t:05d}.png")
        assert ((png == 1) == decode_rle(own["frames"][t]["objects"][0]["segmentation"])).all()
    with open_video(results.overlay) as overlay:
        assert len(list(overlay)) == 8


def test_results_are_in_numbers_and_pixels_of_the_video(settings, upload, tmp_path):
    work = VideoWork(tmp_path / "visitor", settings)
    work.load(upload(), max_side=80, stride=4)
    work.click(1, POSITIVE, (20.0, 29.0))
    run(work.track("forward"))
    content = json.loads(work.write_results().masks_json.read_text())
    assert content["objects"] == [{"id": 1, "prompts": [{"frame": 4, "points": [[40, 58]], "labels": [1]}]}]
    assert [f["frame"] for f in content["frames"]] == [4, 8]
    assert content["video"] == {"name": "upload", "width": 80, "height": 48, "fps": 3.0}


def test_cancel_keeps_what_is_done(work):
    work.click(0, POSITIVE, ON_OBJECT)
    seen = []
    for frame, done, total in work.track("forward"):
        seen.append(frame)
        assert (done, total) == (frame + 1, NUM_FRAMES)
        if frame == 2:
            with pytest.raises(UserError, match="Tracking is under way"):
                work.click(0, POSITIVE, ON_OBJECT)
            work.cancel()
    assert seen == [0, 1, 2]
    assert sorted(masks(work)) == [(0, 1), (1, 1), (2, 1)]
    assert json.loads(work.write_results().masks_json.read_text())["complete"] is False
    work.click(2, POSITIVE, ON_OBJECT)  # and the visitor may go on
    assert run(work.track("forward", start=2)) == [2, 3, 4, 5, 6, 7]


def test_tracking_is_cancelled_while_it_waits_for_its_turn(work):
    work.click(0, POSITIVE, ON_OBJECT)
    work.cancel()  # nothing is under way: this one does not count
    work.prepare_tracking("forward")
    work.cancel()
    assert run(work.track("forward")) == []
    assert work.cancelled
    assert list(masks(work)) == [(0, 1)]
    work.prepare_tracking("forward")
    assert len(run(work.track("forward"))) == NUM_FRAMES


def test_a_correction_changes_its_object_from_its_frame_on(work):
    work.click(0, POSITIVE, ON_OBJECT)
    work.next_object()
    work.click(0, POSITIVE, (120.0, 20.0))
    run(work.track("forward"))
    before = masks(work)
    work.current = 1
    work.click(4, NEGATIVE, (100.0, 80.0))  # allowed: there is a tracked mask to correct
    assert work.prompts[4][1].mask is not None
    corrected = masks(work)[4, 1]
    run(work.track("forward", start=4))
    after = masks(work)
    assert before.keys() == after.keys()
    assert (after[4, 1] == corrected).all(), "tracking begins from what the visitor saw"
    for t, i in before:
        if i == 2 or t < 4:
            assert (before[t, i] == after[t, i]).all(), (t, i)
    assert any((before[t, 1] != after[t, 1]).any() for t in range(4, 8))


def test_an_object_is_removed_with_all_that_is_its_own(work):
    work.click(0, POSITIVE, ON_OBJECT)
    run(work.track("forward"))
    alone = masks(work)
    work.next_object()
    assert work.current == 2
    work.click(0, POSITIVE, (120.0, 20.0))
    run(work.track("forward"))
    assert (0, 2) in masks(work)
    work.remove_object()
    assert work.current == 1
    assert work.objects == [1]
    left = masks(work)
    assert left.keys() == alone.keys()
    assert all((left[key] == alone[key]).all() for key in left)
    work.next_object()
    work.current = 1
    work.remove_object()
    assert work.write_results() is None


def test_there_are_only_so_many_objects(work):
    for i in range(3):
        work.click(0, POSITIVE, (20.0 + 40 * i, 50.0))
        if i < 2:
            work.next_object()
    with pytest.raises(UserError, match="Up to 3 objects"):
        work.next_object()


# ------------------------------------------------------------------------------------------------------------- visitors


def test_visitors_have_folders_of_their_own_that_go_when_they_leave(settings, upload, tmp_path):
    visitors = Visitors(tmp_path / "visitors", settings)
    one, other = visitors.of("one"), visitors.of("other")
    assert visitors.of("one") is one
    cached = upload()
    one.video.load(cached, WIDTH, 1)
    one.video.click(0, POSITIVE, ON_OBJECT)
    assert other.video.clip is None
    assert not any(other.folder.rglob("*.png"))
    assert any(one.folder.rglob("*.png"))
    visitors.leave("one")
    assert not one.folder.exists()
    assert not cached.exists()
    assert other.folder.exists()
    assert one.video.clip is None


def test_leaving_stops_tracking(settings, upload, tmp_path):
    visitors = Visitors(tmp_path / "visitors", settings)
    visitor = visitors.of("one")
    visitor.video.load(upload(), WIDTH, 1)
    visitor.video.click(0, POSITIVE, ON_OBJECT)
    seen = []
    for frame in run_until(visitor.video.track("forward"), 1, lambda: visitors.leave("one")):
        seen.append(frame)
    assert seen == [0, 1]
    assert not visitor.folder.exists()


def run_until(steps, last, then):
    for frame, _, _ in steps:
        yield frame
        if frame == last:
            then()


def test_the_silent_are_let_go(settings, tmp_path):
    visitors = Visitors(tmp_path / "visitors", settings)
    one, other = visitors.of("one"), visitors.of("other")
    one.last_seen -= 60 * settings.idle_minutes + 1
    visitors.sweep()
    assert len(visitors) == 1
    assert not one.folder.exists()
    assert other.folder.exists()


# ----------------------------------------------------------------------------------------------------- image, live, API


def test_an_image_has_three_proposals_to_choose_from(settings, upload, tmp_path):
    work = ImageWork(tmp_path / "image", settings)
    path = upload("photo.png")
    Image.fromarray(make_clip(1, WIDTH, HEIGHT).frames[0]).save(path)
    work.load(path)
    assert not path.exists(), "an image is decoded and let go"
    work.click(POSITIVE, ON_OBJECT)
    scores = [p["score"] for p in work.proposals]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    work.choose(2)
    _, png, masks_json = work.write_results()
    (entry,) = json.loads(masks_json.read_text())["objects"]
    assert entry["score"] == pytest.approx(scores[2], abs=1e-3)
    assert (decode_rle(entry["segmentation"]) == work.proposals[2]["mask"]).all()
    assert ((read_indexed_png(png) == 1) == work.proposals[2]["mask"]).all()
    work.undo()
    assert work.proposals == []
    assert work.write_results() == []
    with pytest.raises(UserError, match="cannot be read as an image"):
        work.load(upload("text.png", b"no image"))


def test_objects_before_the_camera_begin_at_a_click(settings):
    clip, work = make_clip(4, WIDTH, HEIGHT), LiveWork(settings)
    assert (work.frame(clip.frames[0]) == clip.frames[0]).all()
    work.click(clip.click)
    assert (work.frame(clip.frames[1]) != clip.frames[1]).any()
    work.click((120.0, 20.0))
    work.frame(clip.frames[2])
    assert work.objects == [1, 2]
    work.frame(np.ascontiguousarray(clip.frames[3].transpose(1, 0, 2)))  # the phone was turned
    assert work.objects == []


def test_the_api_says_what_is_wrong_with_prompts(settings, video):
    clip = clip_of_file(video, settings, WIDTH, 1)
    good = [{"id": 3, "prompts": [{"frame": 1, "points": [[4, 5], [6, 7]], "labels": [1, 0]}]}]
    given = parse_prompts(good, clip, settings)[1][3]
    assert (given.points, given.labels) == ([(4, 5), (6, 7)], [1, 0])
    one = {"frame": 0, "box": [1, 2, 30, 40]}
    for bad, message in (
        ("point", "must have the form"),
        ([{"id": 1}], "must have the form"),
        ([{"id": 0, "prompts": [one]}], "Object ids are 1 to 255"),
        ([{"id": 1, "prompts": [{**one, "frame": 8}]}], "one of the frames 0 to 7"),
        ([{"id": 1, "prompts": [{"frame": 0}]}], "neither a point nor a box"),
        ([{"id": 1, "prompts": [{"frame": 0, "points": [[500, 5]]}]}], "500"),
        *(
            ([{"id": 1, "prompts": [{"frame": 0, "points": [[5, 5]], "labels": [label]}]}], f"Label {label}.*accepted")
            for label in (2, 3, -1)
        ),
        ([{"id": i, "prompts": [one]} for i in range(1, 5)], "Up to 3 objects"),
    ):
        with pytest.raises(UserError, match=message):
            parse_prompts(bad, clip, settings)


# ------------------------------------------------------------------------------------------------------------- the page


def test_callbacks_of_two_visitors(settings, upload, tmp_path):
    visitors = Visitors(tmp_path / "visitors", settings)
    with gradio.Blocks():
        tab = VideoTab(visitors, settings, [], [])
    one, other = (SimpleNamespace(session_hash=name) for name in ("one", "other"))
    refused = tab.on_upload(str(upload("text.mp4", b"no video")), WIDTH, 1, one)
    assert refused[1] is None, "the upload is empty again, ready for another"
    loaded = tab.on_upload(str(upload()), WIDTH, 1, one)
    plain = loaded[5]
    assert plain.shape == (HEIGHT, WIDTH, 3)
    assert "8 frames" in loaded[7]
    click = SimpleNamespace(index=ON_OBJECT)
    picture, *_ = tab.on_click(click, 0, POSITIVE, "1", 0.5, one)
    assert (picture != plain).any()
    with pytest.raises(gradio.Error, match="Choose a video first"):
        tab.on_click(click, 0, POSITIVE, "1", 0.5, other)
    with pytest.raises(gradio.Error, match="Choose a video first"):
        tab.on_begin(False, 0, "forward", other)
    _, *buttons = tab.on_begin(False, 0, "forward", one)
    assert [button["interactive"] for button in buttons] == [False, False, True], "there is something to cancel"
    *_, last = tab.on_track(False, 0, "forward", 0.5, one)
    assert [button["interactive"] for button in tab.on_end(one)] == [True, True, False]
    assert all(Path(path).is_relative_to(visitors.of("one").folder) for path in last[4:8])
    assert set(last[8].columns) == {"frame", "object", "score"}
    assert len(last[8]) == NUM_FRAMES


def test_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("EFFICIENTTAM_MODEL", "someone/a-model")
    monkeypatch.setenv("EFFICIENTTAM_STRIDES", "2,8")
    assert (Settings.from_environment().model, Settings.from_environment().strides) == ("someone/a-model", (2, 8))
    monkeypatch.setenv("EFFICIENTTAM_MAX_FRAMES", "many")
    with pytest.raises(ValueError, match="EFFICIENTTAM_MAX_FRAMES is a whole number above 0, got 'many'"):
        Settings.from_environment()


def test_on_zero_gpu_all_that_runs_the_model_asks_for_the_gpu(monkeypatch):
    seconds = {}

    def gpu(duration):
        def decorate(function):
            seconds[function.__name__] = duration
            return function

        return decorate

    fake = ModuleType("spaces"), ModuleType("spaces.config")
    fake[0].GPU, fake[1].Config = gpu, SimpleNamespace(zero_gpu=True)
    for module in fake:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    on_zero_gpu = runpy.run_path(str(DEMO / "engine.py"))
    assert on_zero_gpu["ON_ZERO_GPU"] is True
    assert seconds == {"track": 120, "segment_frame": 15, "propose_masks": 15, "segment_everything": 60}
    monkeypatch.setitem(sys.modules, "spaces", None)  # as where it is not installed
    assert runpy.run_path(str(DEMO / "engine.py"))["ON_ZERO_GPU"] is False


def test_the_space_says_what_it_is_and_what_it_needs():
    front = (DEMO / "README.md").read_text().split("---\n")[1]
    said = dict(re.findall(r"^(\w+): *(.+)$", front, re.MULTILINE))
    assert (said["sdk"], said["app_file"], said["license"]) == ("gradio", "app.py", "apache-2.0")
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (DEMO / "requirements.txt").read_text(), re.MULTILINE))
    assert pins["gradio"] == said["sdk_version"]
    assert pins.keys() >= {"torch", "torchvision", "transformers", "av", "opencv-python-headless", "pycocotools"}
    assert len(said["short_description"]) <= 60, "the Hub accepts no more"
