"""The demo without a browser: what visitors do and what becomes of their files. In a browser: test_demo_browser.py."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from reference import tiny_config, write_frames

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.app import temporary
from efficienttam_hf.app.rates import Rate
from efficienttam_hf.cli import main
from efficienttam_hf.mask_io import decode_rle, read_indexed_png
from efficienttam_hf.synthetic_clip import make_clip
from efficienttam_hf.video_io import open_video


gradio = pytest.importorskip("gradio", reason="the demo is a Gradio app")
av = pytest.importorskip("av", reason="the demo reads videos")
DEMO = Path(__file__).resolve().parents[1] / "demo"
sys.path.insert(0, str(DEMO))

import engine  # noqa: E402
import uploads  # noqa: E402
from api import TrackEndpoint, parse_prompts  # noqa: E402
from clicks import BOX, NEGATIVE, POSITIVE  # noqa: E402
from fair_queue import LimitRate, _refusal, share_queue  # noqa: E402
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
    write_frames(path, 12, make_clip(NUM_FRAMES + 2, WIDTH, HEIGHT).frames)
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


def test_what_is_there_for_all_is_not_deleted(settings, tmp_path, monkeypatch):
    """Neither by naming an example's path as one's upload, nor by uploading the same file."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(uploads, "_kept", set())
    example, shown, theirs = (
        tmp_path / "examples" / "dog.jpg",
        tmp_path / "0a1b" / "dog.jpg",
        tmp_path / "2c3d" / "my.jpg",
    )
    for path in (example, shown, theirs):
        path.parent.mkdir()
        path.write_bytes(b"a picture")
    uploads.keep_for_all([example, shown])
    deeper = tmp_path / "visitors" / "somebody" / "image" / "masks.png"
    deeper.parent.mkdir(parents=True)
    deeper.write_bytes(b"a mask")
    for path in (example, shown, theirs, deeper):
        Upload(path, tmp_path / "visitors" / "me", settings).delete()
    assert [path.exists() for path in (example, shown, theirs, deeper)] == [True, True, False, True]


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
    with pytest.raises(UserError, match="no click to undo"):
        work.undo()
    assert work.write_results() is None


def test_two_clicks_make_a_box(work):
    work.click(2, BOX, (60.0, 80.0))
    assert work.prompts == {}
    work.click(2, BOX, (20.0, 40.0))
    assert work.prompts[2][1].box == (20.0, 40.0, 60.0, 80.0)
    work.click(2, BOX, (1.0, 1.0))
    work.undo()  # of the corner only
    assert work.prompts[2][1].box == (20.0, 40.0, 60.0, 80.0)


def test_tracking_ends_a_box_that_was_begun(work):
    work.click(0, POSITIVE, ON_OBJECT)
    work.click(0, BOX, (10.0, 20.0))
    work.prepare_tracking("forward")
    assert work.corner is None


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
    assert own["prompt_size"] == command["prompt_size"]
    assert own["complete"] is True
    with zipfile.ZipFile(results.masks_zip) as archive:
        assert archive.namelist() == [*(f"Annotations/upload/{t:05d}.png" for t in range(8)), "masks.json"]
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
    assert content["prompt_size"] == {"width": 160, "height": 96}, "of which the prompts are in pixels"
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
    with pytest.raises(UserError, match="at most 3 objects"):
        work.next_object()


def test_markers_sound_and_the_size_of_the_video_are_kept_as_wanted(settings, tmp_path):
    path = tmp_path / "with sound.mp4"
    write_video_with_sound(path)
    work = VideoWork(tmp_path / "visitor", replace(settings, max_result_side=1000))
    assert work.load(path, 0, 2).size == (HEIGHT, WIDTH)
    work.click(0, POSITIVE, ON_OBJECT)
    run(work.track("forward"))
    plain, marked = (list(open_video(work.write_results(markers).overlay)) for markers in (False, True))
    drawn = [abs(a.astype(int) - b).max() for a, b in zip(plain, marked, strict=True)]
    assert drawn[0] > 60
    assert max(drawn[1:]) < 45, "the click is on the first frame"
    results = work.write_results()
    assert results.overlay.name == "with_sound_overlay.mp4"
    with av.open(str(results.overlay)) as file, av.open(str(path)) as original:
        assert [stream.type for stream in file.streams] == ["video", "audio"]
        assert float(file.duration) == pytest.approx(float(original.duration), rel=0.2)


def write_video_with_sound(path):
    """8 frames at 8 a second, with a tone."""
    with av.open(str(path), "w") as file:
        video, sound = file.add_stream("libx264", rate=8), file.add_stream("aac", rate=16000)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound.layout = "mono"
        for image in make_clip(NUM_FRAMES, WIDTH, HEIGHT).frames:
            file.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        tone = np.sin(np.arange(16000) * 440 * 2 * np.pi / 16000).astype(np.float32)
        samples = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        samples.sample_rate = 16000
        file.mux(sound.encode(samples))
        for stream in (video, sound):
            file.mux(stream.encode(None))


def test_a_truncated_video_is_said_to_be_one(settings, video, tab, upload):
    content = video.read_bytes()
    answer = tab.on_upload(str(upload("cut.mp4", content[: len(content) * 2 // 3])), WIDTH, 1, ONE)
    assert "The file is damaged: " in answer[7]


def test_clicks_and_corrections_are_limited(settings, upload, tmp_path):
    work = VideoWork(tmp_path / "visitor", replace(settings, max_points=2, max_prompts=2))
    work.load(upload(), WIDTH, 1)
    for _ in range(2):
        work.click(0, POSITIVE, ON_OBJECT)
    with pytest.raises(UserError, match="at most 2 clicks"):
        work.click(0, POSITIVE, ON_OBJECT)
    work.click(1, POSITIVE, ON_OBJECT)
    with pytest.raises(UserError, match="at most 2 prompts"):
        work.click(2, POSITIVE, ON_OBJECT)


# ------------------------------------------------------------------------------------------------------------- visitors


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted as Linux lists them")
def test_no_descriptor_is_left_of_those_who_leave(settings, upload, tmp_path):
    visitors = Visitors(tmp_path / "visitors", settings)
    api = endpoint(visitors, settings)
    kept, counts = [], []  # as long as something refers to them
    for i in range(3):
        request = SimpleNamespace(session_hash=str(i))
        kept.append(visitors.of(str(i)))
        kept[-1].video.load(upload(), WIDTH, 1)
        kept[-1].video.click(0, POSITIVE, ON_OBJECT)
        api.track(str(upload("call.mp4")), CALL, "forward", request)
        visitors.leave(str(i))
        counts.append(descriptors())
    assert counts[0] == counts[1] == counts[2]


CALL = [{"id": 1, "prompts": [{"frame": 0, "points": [list(ON_OBJECT)], "labels": [1]}]}]


def endpoint(visitors, settings):
    with gradio.Blocks():
        return TrackEndpoint(visitors, settings)


def test_leaving_during_a_call_leaves_no_file(settings, upload, tmp_path, monkeypatch):
    visitors = Visitors(tmp_path / "visitors", settings)
    api, original, tracked = endpoint(visitors, settings), engine.track, []

    def track(*arguments):
        for found in original(*arguments):
            tracked.append(found.index)
            if found.index == 2:
                visitors.leave("one")
            yield found

    monkeypatch.setattr(engine, "track", track)
    cached = upload()
    with pytest.raises(gradio.Error, match="stopped"):
        api.track(str(cached), CALL, "forward", ONE)
    assert tracked == [0, 1, 2], "nothing is computed for those who left"
    assert [path for path in (tmp_path / "visitors").rglob("*") if path.is_file()] == []
    assert not cached.exists()


def test_files_of_a_call_are_named_after_the_video_and_only_those_of_the_last_calls_are_kept(
    settings, upload, tmp_path
):
    visitors = Visitors(tmp_path / "visitors", settings)
    few = replace(settings, results_per_visitor=2)
    visitors = Visitors(tmp_path / "few", few)
    api = endpoint(visitors, few)
    calls = [api.track(str(upload("cups.mp4")), CALL, "forward", ONE) for _ in range(3)]
    assert [Path(path).name for path in calls[0]] == ["cups_masks.json", "cups_masks.zip", "cups_overlay.mp4"]
    assert [Path(paths[0]).exists() for paths in calls] == [False, True, True]


def test_visitors_who_do_nothing_make_room(settings, upload, tmp_path):
    visitors = Visitors(tmp_path / "visitors", replace(settings, max_visitors=2))
    busy = visitors.of("busy")
    busy.video.load(upload(), WIDTH, 1)
    visitors.of("idle")
    visitors.of("third").video.load(upload(), WIDTH, 1)
    assert len(visitors) == 2
    assert visitors.of("busy") is busy
    with pytest.raises(UserError, match="too many visitors"):
        visitors.of("fourth")


def test_folders_of_killed_processes_are_removed_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(temporary.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path))
    script = (
        f"import tempfile, time; tempfile.tempdir = {str(tmp_path)!r}\n"
        "from efficienttam_hf.app.temporary import make_folder\n"
        "root = make_folder('demo'); (root / 'upload').write_text('x'); print(root, flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        killed = Path(process.stdout.readline().strip())
        not_ours = tmp_path / "efficienttam-demo-thesis"
        not_ours.mkdir()
        (not_ours / "thesis.txt").write_text("years of work")
        assert temporary.sweep(tmp_path, "demo") == [], "it is in use"
        process.kill()
    living = temporary.make_folder("demo")
    assert not killed.exists()
    assert living.is_dir()
    assert (not_ours / "thesis.txt").is_file()


def test_one_visitor_or_address_cannot_fill_the_queue():
    settings = Settings(requests_per_visitor=2, requests_per_address=3, queue_size=100)

    def event(session, host, alive=True):
        return SimpleNamespace(
            session_hash=session, alive=alive, request=SimpleNamespace(client=SimpleNamespace(host=host))
        )

    waiting = [event("a", "1"), event("a", "1"), event("b", "1", alive=False), event("b", "2")]
    assert "2 of your requests are waiting" in _refusal(waiting, "a", "3", settings)
    assert _refusal(waiting, "b", "1", settings) == ""
    assert "from your network" in _refusal([*waiting, event("c", "1")], "d", "1", settings)
    assert _refusal([*waiting, event("c", "1")], "d", "2", settings) == ""


def test_many_requests_of_one_leave_room_for_others():
    """65 requests filled the queue for everybody."""
    release = threading.Event()
    with gradio.Blocks() as demo:
        gradio.Button().click(lambda: release.wait(60), None, None, api_name="wait", concurrency_limit=1)
    share_queue(demo, Settings(requests_per_visitor=4, requests_per_address=8))
    demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:

        def join(session):
            body = json.dumps({"data": [], "fn_index": 0, "session_hash": session}).encode()
            url = f"{demo.local_url}gradio_api/queue/join"
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request) as answer:
                    return answer.status
            except urllib.error.HTTPError as error:
                return error.code

        assert [join("one") for _ in range(65)].count(200) == 4
        assert join("two") == 200
    finally:
        release.set()
        demo.close()


def test_a_minute_has_so_many_requests_for_each():
    now = [0.0]
    rate = Rate(60, lambda: now[0])
    assert [rate.wait("one") for _ in range(60)] == [0] * 60
    assert rate.wait("one") == pytest.approx(1) and rate.wait("other") == 0 and rate.wait(None) == 0
    now[0] = 0.5
    assert rate.wait("one") == pytest.approx(0.5)
    now[0] = 2.0
    assert [rate.wait("one") for _ in range(2)] == [0, 0] and rate.wait("one") > 0
    now[0] = 200.0
    assert rate.wait("third") == 0 and len(rate) == 1, "who was silent for a minute is forgotten"


def test_requests_without_end_are_told_when_to_come_again():
    from starlette.middleware import Middleware

    limited = Settings(requests_per_minute=3, address_requests_per_minute=5)
    with gradio.Blocks() as demo:
        gradio.Button().click(lambda: None, None, None, api_name="go")
        gradio.Button().click(lambda: None, None, None, api_name="now", queue=False)
    share_queue(demo, limited)
    middleware = [Middleware(LimitRate, settings=limited)]
    demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", app_kwargs={"middleware": middleware})

    def post(path, **body):
        body = json.dumps({"data": [], **body}).encode()
        request = urllib.request.Request(
            f"{demo.local_url}gradio_api/{path}", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, ""
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["detail"]

    try:
        answers = [post("queue/join", fn_index=0, session_hash="one") for _ in range(4)]
        assert [status for status, _ in answers] == [200, 200, 200, 503]
        assert re.fullmatch(r"More than 3 requests a minute came from you\. Try again in \d+ s\.", answers[-1][1])
        assert post("run/now", session_hash="two")[0] == 200
        status, said = post("run/now", session_hash="three")
        assert status == 429 and said.startswith("More than 5 requests a minute came from your network.")
        with urllib.request.urlopen(f"{demo.local_url}config") as answer:  # what only reads goes on
            assert answer.status == 200
    finally:
        demo.close()


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
    overlay, png, masks_json = work.write_results()
    assert [path.name for path in (overlay, png, masks_json)] == [
        f"photo_{name}" for name in ("overlay.png", "masks.png", "masks.json")
    ]
    (entry,) = json.loads(masks_json.read_text())["objects"]
    assert entry["score"] == pytest.approx(scores[2], abs=1e-3)
    assert (decode_rle(entry["segmentation"]) == work.proposals[2]["mask"]).all()
    assert ((read_indexed_png(png) == 1) == work.proposals[2]["mask"]).all()
    assert work.undo() == "click"
    assert work.proposals == []
    assert work.write_results() == []
    with pytest.raises(UserError, match="nothing to undo"):
        work.undo()
    with pytest.raises(UserError, match="cannot be read as an image"):
        work.load(upload("text.png", b"no image"))


def test_everything_is_taken_back_and_its_objects_are_removed(settings, upload, tmp_path, monkeypatch):
    boxes = [np.zeros((HEIGHT, WIDTH), bool) for _ in range(3)]
    for i, mask in enumerate(boxes):
        mask[10:40, 10 + 40 * i : 40 + 40 * i] = True
    found = [{"id": i, "score": 0.9, "mask": mask} for i, mask in enumerate(boxes, start=1)]
    monkeypatch.setattr(engine, "segment_everything", lambda *_: found)
    work = ImageWork(tmp_path / "image", settings)
    path = upload("photo.png")
    Image.fromarray(make_clip(1, WIDTH, HEIGHT).frames[0]).save(path)
    work.load(path)
    work.click(POSITIVE, ON_OBJECT)
    before = work.picture()
    assert work.everything(0.3) == 3
    assert work.objects == [1, 2, 3]
    work.choose_object(2)
    assert work.remove_object() == 2
    left = {o["id"]: decode_rle(o["segmentation"]) for o in json.loads(work.write_results()[2].read_text())["objects"]}
    assert left.keys() == {1, 3}
    assert (left[3] == boxes[2]).all()
    assert [work.undo(), work.objects] == ["removal", [1, 2, 3]]
    assert work.undo() == "everything"
    assert (work.picture() == before).all(), "what was clicked before is there again"
    work.next_object()
    with pytest.raises(UserError, match="Object 2 has no mask"):
        work.remove_object()


def test_prompts_of_an_image_are_in_pixels_of_the_file(settings, upload, tmp_path):
    work = ImageWork(tmp_path / "image", settings)
    path = upload("photo.png")
    Image.fromarray(make_clip(1, WIDTH, HEIGHT).frames[0]).save(path)
    work.load(path, 80)
    work.click(POSITIVE, (20.0, 29.0))
    content = json.loads(work.write_results()[2].read_text())
    assert content["image"] == {"name": "photo.png", "width": 80, "height": 48}
    assert content["prompt_size"] == {"width": 160, "height": 96}
    assert content["objects"][0]["prompts"]["points"] == [[40, 58]]


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
    many = {"frame": 0, "points": [[5, 5]] * 51}
    with pytest.raises(UserError, match="At most 50 points for an object on a frame are accepted, got 51"):
        parse_prompts([{"id": 1, "prompts": [many]}], clip, settings)
    with pytest.raises(UserError, match="At most 200 prompts in all are accepted, got 201"):
        parse_prompts([{"id": 1, "prompts": [one] * 201}], clip, settings)
    for bad, message in (
        ("point", "must have the form"),
        ([{"id": 1}], "must have the form"),
        ([{"id": 0, "prompts": [one]}], "Object ids are whole numbers from 1 to 255, got 0"),
        ([{"id": 1, "prompts": [{**one, "frame": 8}]}], "one of the frames 0 to 7"),
        ([{"id": 1, "prompts": [{"frame": 0}]}], "neither a point nor a box"),
        ([{"id": 1, "prompts": [{"frame": 0, "points": [[500, 5]]}]}], "500"),
        *(
            (
                [{"id": 1, "prompts": [{"frame": 0, "points": [[5, 5]], "labels": [label]}]}],
                f"Label {label}.*Accepted are",
            )
            for label in (2, 3, -1)
        ),
        ([{"id": i, "prompts": [one]} for i in range(1, 5)], "At most 3 objects"),
    ):
        with pytest.raises(UserError, match=message):
            parse_prompts(bad, clip, settings)


# ------------------------------------------------------------------------------------------------------------- the page


def said_of(answer, tab):
    """The status line of a callback's answer that changes only some components."""
    return re.sub(r"<[^>]*>", "", answer[tab.status])


@pytest.fixture
def tab(settings, tmp_path):
    with gradio.Blocks():
        return VideoTab(Visitors(tmp_path / "visitors", settings), settings, [], [])


ONE, OTHER = (SimpleNamespace(session_hash=name) for name in ("one", "other"))
CLICK = SimpleNamespace(index=ON_OBJECT)


def test_callbacks_of_two_visitors(tab, upload):
    loaded = tab.on_upload(str(upload()), WIDTH, 1, ONE)
    plain = loaded[5]["value"]
    assert plain.shape == (HEIGHT, WIDTH, 3)
    assert "8 frames" in loaded[7]
    picture, *_ = tab.on_click(CLICK, 0, POSITIVE, "1", 0.5, None, ONE)
    assert (picture != plain).any()
    assert "Choose a video first" in said_of(tab.on_click(CLICK, 0, POSITIVE, "1", 0.5, None, OTHER), tab)
    _, *controls = tab.on_begin(False, 0, "forward", ONE)
    on = [control["interactive"] for control in controls[:-1]]
    assert on == [False, False, True, *[False] * 5], "there is something to cancel, and nothing else to do"
    assert "busy" in controls[-1]["elem_classes"], "nor does the picture take clicks"
    *_, last = tab.on_track(0.5, False, ONE)
    status, *controls = tab.on_end(ONE)
    assert status == last[tab.status], "of a late click on Cancel, nothing stays"
    assert [control["interactive"] for control in controls[:-1]] == [True, True, False, *[True] * 5]
    files = [Path(last[file]) for file in (tab.overlay_file, tab.masks_file, tab.json_file, tab.player)]
    assert all(path.is_relative_to(tab.visitors.of("one").folder) for path in files)
    assert [path.name for path in files[:3]] == ["upload_overlay.mp4", "upload_masks.zip", "upload_masks.json"]
    assert set(last[tab.plot].columns) == {"frame", "object", "score"}
    assert len(last[tab.plot]) == NUM_FRAMES


def test_every_refusal_is_in_the_status_line(tab, upload, monkeypatch):
    refused = tab.on_upload(str(upload("text.mp4", b"no video")), WIDTH, 1, ONE)
    assert "cannot be read as a video" in said_of(refused, tab)
    assert refused[tab.upload] is None, "the upload is empty again, ready for another"
    for answer in (
        tab.on_begin(False, 0, "forward", ONE),
        tab.on_undo(0, 0.5, ONE),
        tab.on_remove(0, 0.5, ONE),
        tab.on_click(CLICK, 0, POSITIVE, "1", 0.5, None, ONE),
    ):
        assert "Choose a video first" in said_of(answer, tab)
    tab.on_upload(str(upload()), WIDTH, 1, ONE)
    assert "Click on an object first" in said_of(tab.on_begin(False, 0, "forward", ONE), tab)
    assert list(tab.on_track(0.5, False, ONE)) == [{tab.status: gradio.skip()}], "what was refused does not run"
    assert "no click to undo" in said_of(tab.on_undo(0, 0.5, ONE), tab)
    assert "Object 1 has no prompt" in said_of(tab.on_remove(0, 0.5, ONE), tab)
    tab.on_click(CLICK, 0, POSITIVE, "1", 0.5, None, ONE)
    assert "Correct an object on this frame first" in said_of(tab.on_begin(True, 3, "forward", ONE), tab)
    monkeypatch.setattr(VideoWork, "picture", lambda *_: 1 / 0)
    answer = tab.on_frame(0, 0.5, ONE)
    assert "Something went wrong on the server" in said_of(answer, tab), "what nobody has thought of is said, too"


def test_another_tool_or_object_ends_a_box_that_was_begun(tab, upload):
    tab.on_upload(str(upload()), WIDTH, 1, ONE)
    work = tab.visitors.of("one").video
    for end in (
        lambda: tab.on_kind(0, 0.5, ONE),
        lambda: tab.on_object("1", 0, 0.5, ONE),
        lambda: tab.on_next(0, 0.5, ONE),
    ):
        answer = tab.on_click(CLICK, 0, BOX, "1", 0.5, None, ONE)
        assert "opposite corner" in answer[2]
        answer = end()
        assert work.corner is None
        assert "corner" not in said_of(answer, tab)
        assert (answer[tab.canvas] == work.picture(0)).all()


def test_a_place_counts_whatever_the_size_of_the_picture_on_the_screen(tab, upload):
    tab.on_upload(str(upload()), WIDTH, 1, ONE)
    tab.on_click(SimpleNamespace(index=(0, 0)), 0, POSITIVE, "1", 0.5, [0.25, 0.5], ONE)
    assert tab.visitors.of("one").video.prompts[0][1].points == [(40.0, 48.0)]
    tab.on_click(SimpleNamespace(index=(0, 0)), 0, BOX, "1", 0.5, [0.5, 0.5], ONE)
    tab.on_click(SimpleNamespace(index=(0, 0)), 0, BOX, "1", 0.5, [1.4, 1.0], ONE)
    assert tab.visitors.of("one").video.prompts[0][1].box == (80.0, 48.0, 160.0, 96.0), "beyond the edge is the edge"


def test_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("EFFICIENTTAM_MODEL", "someone/a-model")
    monkeypatch.setenv("EFFICIENTTAM_STRIDES", "2,8")
    assert (Settings.from_environment().model, Settings.from_environment().strides) == ("someone/a-model", (2, 8))
    monkeypatch.setenv("EFFICIENTTAM_MAX_FRAMES", "many")
    with pytest.raises(ValueError, match="EFFICIENTTAM_MAX_FRAMES must be a whole number above 0, got 'many'"):
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
    quick = {"segment_frame": 15, "propose_masks": 15}
    assert seconds == {**quick, "track": 120, "find_objects": 60, "segment_everything": 60}
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
