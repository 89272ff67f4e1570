"""The video tab of the demo without a browser: objects that are found, the timeline, going on from results, links."""

from __future__ import annotations

import json
import re
import zipfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_demo import HEIGHT, NUM_FRAMES, ON_OBJECT, WIDTH, masks, run, settings, upload, video, work  # noqa: F401 -- fixtures


# isort: split

import engine
import given_results
from clicks import BOX, NEGATIVE, POSITIVE
from continue_panel import prompts_as_text, use_link
from export_panel import ALL, SELECTED, ExportPanel
from exports import ANNOTATIONS, make_effect, preview, write_effect, write_format
from given_prompts import parse_link
from given_results import take_results
from settings import Settings
from text_detector import SharedDetector, split_texts
from timeline import MOST_PARTS, Row, lost_moments, timeline_html, timeline_rows
from uploads import UserError
from video_tab import VideoTab
from video_work import VideoWork
from visitors import Visitors

from efficienttam_hf.discovery import Detection
from efficienttam_hf.formats.registry import read_annotations
from efficienttam_hf.prompts import ObjectPrompts
from efficienttam_hf.video_io import open_video


def detection(left, top, right, bottom, label, score):
    """A detection with its mask, so that a random model has nothing to say."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return Detection((left, top, right, bottom), label, score, mask)


gradio = pytest.importorskip("gradio", reason="the demo is a Gradio app")
av = pytest.importorskip("av", reason="the demo reads videos")


class Script:
    """Finds what the test says, whatever the texts are."""

    def __init__(self, *detections):
        self.detections = list(detections)

    def for_texts(self, texts):
        self.texts = texts

        def look(frame):
            assert frame.shape == (HEIGHT, WIDTH, 3)
            return self.detections

        look.looks_for = " and ".join(texts)
        return look


@pytest.fixture
def script(monkeypatch):
    """A detector that sees two objects."""
    script = Script(detection(20, 40, 60, 80, "a ball", 0.9), detection(90, 5, 150, 40, "a <b>kite</b>", 0.6))
    monkeypatch.setattr(engine, "detector", script)
    return script


def results(work):  # noqa: F811
    return json.loads(work.write_results().masks_json.read_text())


# ------------------------------------------------------------------------------------------------------ found objects


def test_what_a_text_finds_is_labelled_tracked_and_in_the_files(work, script):  # noqa: F811
    assert work.find(2, ["a ball", "a kite"]) == [1, 2]
    assert script.texts == ["a ball", "a kite"]
    assert work.found.labels == {1: "a ball", 2: "a <b>kite</b>"}
    assert work.prompts[2][1].mask.any()
    assert run(work.track("forward")) == [2, 3, 4, 5, 6, 7]
    objects = results(work)["objects"]
    assert [(one["id"], one["label"], one["detection_score"]) for one in objects] == [
        (1, "a ball", 0.9),
        (2, "a <b>kite</b>", 0.6),
    ]
    assert objects[0]["prompts"] == [{"frame": 2, "mask": True}]
    assert objects[0]["detections"] == [{"frame": 2, "score": 0.9, "box": [20, 40, 60, 80]}]


def test_a_search_is_undone_as_one_step(work, script):  # noqa: F811
    work.click(0, POSITIVE, ON_OBJECT)
    before = work.picture(0)
    script.detections = [detection(90, 5, 150, 40, "a kite", 0.6), detection(5, 2, 30, 20, "a ball", 0.5)]
    added = work.find(0, ["a kite", "a ball"])
    assert added == [2, 3]
    assert work.undo() == 0
    assert work.objects == [1]
    assert work.found.labels == {}
    assert (work.picture(0) == before).all()
    assert work.undo() == 0
    assert work.prompts == {}


def test_there_are_no_more_found_objects_than_clicked_ones(work, script):  # noqa: F811
    work.click(5, POSITIVE, (120.0, 70.0))
    script.detections = [detection(i * 38, 2, i * 38 + 30, 40, "a tile", 0.9 - i / 10) for i in range(4)]
    with pytest.warns(UserWarning, match="More objects were found"):
        assert work.find(0, ["a tile"]) == [2, 3], "of three in all"
    with pytest.raises(UserError, match="at most 3 objects"):
        work.find(1, ["a tile"])
    work.current = 2
    work.remove_object()
    assert work.found.labels == {3: "a tile"}


def test_an_empty_search_says_what_was_looked_for(work, script):  # noqa: F811
    script.detections = []
    with pytest.raises(UserError, match=r"No new object .*looked for a dog\). Try another frame") as refusal:
        work.find(0, ["a dog"])
    assert "--" not in str(refusal.value), "options of the command line are of no use to a visitor"
    assert work.prompts == {}


def test_everything_needs_no_detector(work, monkeypatch):  # noqa: F811
    monkeypatch.setattr(engine, "detector", None)
    try:
        found = work.find(0, None)
    except UserError as refusal:  # a random model may see nothing that is stable
        assert "No new object was found" in str(refusal)
        return
    assert 1 <= len(found) <= 3
    assert work.found.labels == {}
    assert all(work.prompts[0][i].mask is not None for i in found)


def test_a_search_that_cannot_be_made_is_refused_in_words(work, monkeypatch, tmp_path, caplog):  # noqa: F811
    missing = SharedDetector(Settings(text_detector=str(tmp_path / "nothing here")), "cpu")
    for detector, message in (
        (missing, "is not available on this server at the moment"),
        (SharedDetector(Settings(text_detector="off"), "cpu"), "does not look for texts"),
    ):
        monkeypatch.setattr(engine, "detector", detector)
        with pytest.raises(UserError, match=message) as refusal:
            work.find(0, ["a dog"])
        assert str(tmp_path) not in str(refusal.value) and len(str(refusal.value).splitlines()) == 1
        assert len(str(refusal.value)) < 500
    assert "nothing here" in caplog.text, "who runs the server is told why"
    assert work.prompts == {}


def test_texts_are_separated_by_commas_and_limited():
    assert split_texts(" a dog, a red ball ,, a dog") == ["a dog", "a red ball"]
    for given, message in (
        (" , ", "Write what to look for"),
        (",".join(map(str, range(11))), "Up to 10 things"),
        ("x" * 501, "501 characters"),
        ("x" * 300, "at most 200 characters"),
    ):
        with pytest.raises(UserError, match=message):
            split_texts(given)


# ------------------------------------------------------------------------------------------------------------- timeline


def test_the_timeline_says_where_an_object_is_seen_lost_and_prompted():
    seen = [(t, {1: t not in (3, 4), 2: True} if t > 0 else {1: True}) for t in range(7)]
    rows = timeline_rows(seen, {0: {1: ObjectPrompts([(1.0, 1.0)], [1])}, 5: {1: ObjectPrompts(), 3: ObjectPrompts()}})
    assert rows == {
        1: Row([("seen", 0, 2), ("lost", 3, 4), ("seen", 5, 6)], [0, 5]),
        2: Row([("seen", 1, 6)]),
        3: Row([], [5]),
    }
    assert lost_moments(rows) == [(3, 1)]
    page = timeline_html(rows, 8, {2: "<script>"})
    assert "<script>" not in page
    names = re.findall('aria-label="([^"]*)"', page)
    assert "Object 1 is lost from frame 3 to 4" in names
    assert "Object 3 is prompted on frame 5" in names
    assert "Object 2 · &lt;script&gt; is seen from frame 1 to 6" in names
    assert timeline_html({}, 8, {}) == ""


def test_an_object_that_flickers_has_a_timeline_that_can_be_walked_through():
    rows = timeline_rows([(t, {1: t % 3 > 0}) for t in range(300)], {})
    assert len(rows[1].parts) == 200
    page = timeline_html(rows, 300, {})
    assert page.count("<button") == MOST_PARTS
    spans = [(int(a), int(b)) for a, b in re.findall(r'data-frame="(\d+)" data-last="(\d+)"', page)]
    assert spans[0][0] == 0
    assert spans[-1][1] == 299
    assert all(after[0] == before[1] + 1 for before, after in pairwise(spans)), "every frame is on it"


def test_the_timeline_is_that_of_the_masks(work):  # noqa: F811
    work.click(2, POSITIVE, ON_OBJECT)
    run(work.track("forward"))
    (row,) = work.timeline().values()
    assert row.prompted == [2]
    assert (row.parts[0][1], row.parts[-1][2]) == (2, NUM_FRAMES - 1)
    kinds = {t: kind for kind, first, last in row.parts for t in range(first, last + 1)}
    assert {t: "seen" if mask.any() else "lost" for (t, _), mask in masks(work).items()} == kinds


# -------------------------------------------------------------------------------------------------- effects and formats


@pytest.fixture
def small(settings, upload, tmp_path):  # noqa: F811
    """Work on frames of half the size of the video, of which two are tracked."""
    work = VideoWork(tmp_path / "small", settings)  # noqa: F811
    work.load(upload(), WIDTH // 2, 4)
    work.click(0, POSITIVE, (20.0, 29.0))
    run(work.track("forward"))
    yield work
    work.close()


def test_a_mask_video_is_as_large_as_the_video_and_black_and_white(small):
    *steps, (_, _, path) = write_effect(small, make_effect("mask", None, 0, 0), "auto")
    assert [(done, total) for done, total, _ in steps] == [(1, 3), (2, 3), (3, 3)]
    assert path.name == "upload_mask.mp4"
    with open_video(path) as source:
        frames = list(source)
        assert (source.height, source.width) == (HEIGHT, WIDTH)
    for number, frame in zip(small.tracked_frames, frames, strict=True):
        (mask,) = small.masks_on(number).values()
        large = mask.repeat(2, 0).repeat(2, 1)
        assert (frame.min(-1) > 200)[large].mean() > 0.9 or not mask.any()
        assert ((frame.max(-1) > 55) & ~large).mean() < 0.1


def test_a_cut_out_has_an_alpha_channel_and_replaces_the_file_before(small):
    *_, (_, _, first) = write_effect(small, make_effect("outline", (1,), 0, 0), "auto")
    *_, (_, _, path) = write_effect(small, make_effect("cutout", None, 1, 0.5), "mov")
    assert not first.exists(), "a visitor has one such file at a time"
    with av.open(str(path)) as file:
        assert "a" in file.streams.video[0].codec_context.pix_fmt
        frame = next(file.decode(video=0)).to_ndarray(format="rgba")
    assert frame.shape == (HEIGHT, WIDTH, 4)
    (mask,) = small.masks_on(0).values()
    assert (frame[..., 3] > 127).mean() == pytest.approx(mask.mean(), abs=0.05)


def test_the_preview_shows_the_effect_on_the_frame(small):
    image, masks = small.frame_with_masks(1)  # noqa: F811
    shown = preview(small, 1, make_effect("cutout", None, 0, 0))
    (mask,) = masks.values()
    assert (shown[mask] == image[mask]).all()
    assert np.isin(shown[~mask], (204, 255)).all(), "a pattern stands for transparency"


def test_annotations_are_read_by_their_formats(small, tmp_path):
    for name in ANNOTATIONS:
        path = write_format(small, name)
        assert path.name == f"upload_{name}.zip"
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist()
            archive.extractall(tmp_path / name)
    read = read_annotations(tmp_path / "coco" / "annotations.json", "upload", (HEIGHT // 2, WIDTH // 2))
    masks = {frame.index: frame.objects[0].pixels() for frame in read.frames() if frame.objects}  # noqa: F811
    for number in small.tracked_frames:
        (mask,) = small.masks_on(number).values()
        assert (masks[number] == mask).all() if mask.any() else number not in masks


def test_the_panel_shows_one_file_at_a_time(small, settings):  # noqa: F811
    with gradio.Blocks():
        panel = ExportPanel(settings, lambda request: small)
    *_, made = panel.on_make("mask", ALL, 0, "1", 0, "auto", None)
    converted = panel.on_convert("coco", None)
    for answer, shown, hidden in (
        (made, panel.effect_file, panel.format_file),
        (converted, panel.format_file, panel.effect_file),
    ):
        assert set(answer) <= set(panel.file_outputs), "Gradio refuses others"
        assert (answer[shown]["visible"], answer[hidden]["visible"]) == (True, False)
    assert Path(converted[panel.format_file]["value"]).is_file()
    assert set(panel.on_preview(0, "cutout", SELECTED, 1, "1", None)) <= set(panel.preview_outputs)
    assert "Choose the objects" in panel.on_preview(0, "cutout", "?", 1, "1", None)[panel.status]


def test_what_cannot_be_exported_is_refused_in_words(small, work):  # noqa: F811
    for refused, message in (
        (lambda: make_effect("rm -rf", None, 0, 0), "no such effect"),
        (lambda: make_effect("mask", None, float("nan"), 0), "feather"),
        (lambda: list(write_effect(small, make_effect("mask", None, 0, 0), "mov")), "not written as mov"),
        (lambda: list(write_effect(small, make_effect("mask", None, 0, 0), "../x")), "no such kind of file"),
        (lambda: list(write_effect(work, make_effect("mask", None, 0, 0), "auto")), "Track an object first"),
        (lambda: write_format(small, "../coco"), "no such format"),
        (lambda: write_format(work, "coco"), "Track an object first"),
    ):
        with pytest.raises(UserError, match=message):
            refused()


# -------------------------------------------------------------------------------------------- going on from results


@pytest.fixture(scope="module")
def earlier(settings, video, tmp_path_factory):  # noqa: F811
    """Files of earlier work with a click, a found object and a correction, and the masks in them."""
    folder = tmp_path_factory.mktemp("earlier")
    path = folder / "upload.mp4"
    path.write_bytes(video.read_bytes())
    work = VideoWork(folder / "visitor", settings)  # noqa: F811
    work.load(path, WIDTH, 1)
    work.click(0, POSITIVE, ON_OBJECT)
    patch = pytest.MonkeyPatch()
    patch.setattr(engine, "detector", Script(detection(90, 5, 150, 40, "a kite", 0.6)))
    work.find(2, ["a kite"])
    patch.undo()
    run(work.track("forward"))
    work.current = 1
    work.click(4, NEGATIVE, (100.0, 80.0))
    run(work.track("forward", start=4))
    results = work.write_results()
    return results.masks_json.read_bytes(), results.masks_zip.read_bytes(), masks(work)


@pytest.mark.parametrize("kind", ["json", "zip"])
def test_work_goes_on_from_its_own_results(work, earlier, tmp_path, kind):  # noqa: F811
    given = tmp_path / f"results.{kind}"
    given.write_bytes(earlier[kind == "zip"])
    work.click(0, POSITIVE, (5.0, 5.0))  # in place of which the results come
    assert take_results(work, given) == (2, NUM_FRAMES)
    again = masks(work)
    assert again.keys() == earlier[2].keys()
    assert all((again[key] == earlier[2][key]).all() for key in again)
    assert work.found.labels == {2: "a kite"}
    before, after = json.loads(earlier[0]), results(work)
    assert after["objects"] == before["objects"]
    assert (after["events"], after["complete"]) == (before["events"], before["complete"])
    work.click(5, POSITIVE, ON_OBJECT)
    assert run(work.track("forward", start=5)) == [5, 6, 7]


def test_results_of_another_size_and_rate_fit_the_clip(settings, upload, earlier, tmp_path):  # noqa: F811
    work = VideoWork(tmp_path / "small", settings)  # noqa: F811
    work.load(upload(), WIDTH // 2, 4)
    given = tmp_path / "results.json"
    given.write_bytes(earlier[0])
    assert take_results(work, given) == (2, 2)
    assert work.prompts[0][1].points == [(20.0, 29.0)]
    assert masks(work)[4, 1].shape == (HEIGHT // 2, WIDTH // 2)


def test_bad_results_are_refused_and_nothing_is_lost(work, earlier, tmp_path, monkeypatch):  # noqa: F811
    work.click(0, POSITIVE, ON_OBJECT)
    before = work.picture(0)
    content = json.loads(earlier[0])

    def changed(**fields):
        return json.dumps({**content, **fields}).encode()

    def zipped(method=zipfile.ZIP_DEFLATED, **members):
        path = tmp_path / "made.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, text in members.items():
                archive.writestr(name.replace("__", "/"), text)
        return path.read_bytes()

    objects, frames = content["objects"], content["frames"]
    bad_mask = {**frames[0]["objects"][0], "segmentation": {"size": [HEIGHT, WIDTH], "counts": "~~~"}}
    huge = {**frames[0]["objects"][0], "segmentation": {"size": [10**9, 10**9], "counts": "0"}}
    nowhere = [{**objects[0], "prompts": [{"frame": 0, "points": [[float("nan"), 1]]}]}]
    many = [{**frames[0]["objects"][0], "id": i} for i in range(1, 9)]
    monkeypatch.setattr(given_results, "MOST_MEGABYTES", 1)
    for bad, message in (
        (b"no json", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[1]", "cannot be read"),
        (b"{}", "not of this video"),
        (changed(prompt_size={"width": 1, "height": 1}), "not of this video, which has 160x96"),
        (changed(prompt_size=[]), "not of this video"),
        (changed(video={**content["video"], "width": WIDTH // 2}), "not of this video"),
        (changed(video={**content["video"], "width": 100 * WIDTH, "height": 100 * HEIGHT}), "have more than"),
        (changed(video=None, image=content["video"]), "not of this video"),
        (changed(frames=[{**frames[0], "objects": [bad_mask]}]), "cannot be read"),
        (changed(frames=[{**frames[0], "objects": [huge]}]), "cannot be read"),
        (changed(frames=[{**frames[0], "frame": "0"}]), "cannot be read"),
        (changed(objects=[{"id": 1}]), "cannot be read"),
        (changed(objects=[{**objects[0], "prompts": [{"frame": True}]}]), "cannot be read"),
        (changed(objects=nowhere), "finite"),
        (changed(frames=[{**frames[0], "objects": many}]), "At most 3 objects"),
        (changed(frames=[{**frames[0], "objects": [many[0], many[0]]}]), "has object 1 twice"),
        (changed(frames=[frames[1], frames[0]]), "frames must ascend"),
        (changed(frames=[{**frames[0], "frame": 10**30}]), "cannot be read"),
        (changed(frames=[{**frames[0], "frame": 9_000_000}]), "no masks on the frames"),
        (changed(frames=[]), "no masks on the frames"),
        (changed(objects=[{"id": i, "prompts": objects[0]["prompts"]} for i in range(1, 9)]), "At most 3 objects"),
        (zipped(a=b"1"), "must contain one masks.json, but this one has 0"),
        (zipped(**{"a__masks.json": b"{}", "masks.json": b"{}"}), "this one has 2"),
        (zipped(**{"..__..__masks.json": b"{}"}), "not of this video"),
        (zipped(**{"masks.json": bytes(2 * 2**20)}), "has more than 1 MB"),
        (bytes(2 * 2**20), "has more than 1 MB"),
        (zipped(zipfile.ZIP_LZMA, **{"masks.json": earlier[0]}), "of an unusual kind"),
        (zipped(**{"masks.json": earlier[0]})[:-40], "cannot be read"),
    ):
        path = tmp_path / "given"
        path.write_bytes(bad)
        with pytest.raises(UserError, match=message) as refusal:
            take_results(work, path)
        assert str(tmp_path) not in str(refusal.value) and len(str(refusal.value).splitlines()) == 1
        assert len(str(refusal.value)) < 500
        assert not path.exists()
    assert (work.picture(0) == before).all()
    assert len(list(work.folder.glob("results-*"))) == 1 and not list(work.folder.glob("given-*"))
    assert len(run(work.track("forward"))) == NUM_FRAMES, "the work goes on"


def test_the_page_shows_results_that_were_given(settings, upload, earlier, tmp_path):  # noqa: F811
    visitor = SimpleNamespace(session_hash="one")
    with gradio.Blocks():
        tab = VideoTab(Visitors(tmp_path / "visitors", settings), settings, [], [])
    panel, given = tab.continuing, tmp_path / "masks.json"
    given.write_bytes(earlier[0])
    assert "Choose the video" in panel.on_given(str(given), 0.5, False, visitor)[tab.status]
    tab.on_upload(str(upload()), WIDTH, 1, visitor)
    given.write_bytes(earlier[0])
    answer = panel.on_given(str(given), 0.5, False, visitor)
    assert f"The results are loaded: 2 objects on {NUM_FRAMES} frames." in answer[tab.status]
    assert set(answer) <= set(panel.outputs), "Gradio refuses others"
    assert answer[tab.results]["visible"] and Path(answer[tab.overlay_file]).is_file()
    work = tab.work(visitor)  # noqa: F811
    work.prepare_tracking("forward")
    steps = work.track("forward")
    next(steps)
    given.write_bytes(earlier[0])
    with pytest.warns(UserWarning, match="Tracking is under way"):
        assert "Tracking is under way" in panel.on_given(str(given), 0.5, False, visitor)[tab.status]
    assert len(list(steps)) == NUM_FRAMES - 1


# ---------------------------------------------------------------------------------------------------- links with clicks


def test_a_link_carries_clicks_and_boxes_to_another_visitor(work, settings, upload, tmp_path):  # noqa: F811
    work.click(2, POSITIVE, ON_OBJECT)
    work.next_object()
    work.click(4, BOX, (60.0, 80.0))
    work.click(4, BOX, (20.0, 40.0))
    text = prompts_as_text(work)
    other = VideoWork(tmp_path / "other", settings)
    other.from_link = parse_link(text, settings)
    other.load(upload(), WIDTH // 2, 2)
    assert "Press Track" in use_link(other)
    assert use_link(other) == "", "it is used once"
    assert other.prompts[1][1].points == [(20.0, 29.0)]
    assert other.prompts[2][2].box == (10.0, 20.0, 30.0, 40.0)
    assert len(run(other.track("forward"))) == 4


def test_hostile_links_are_refused(work, settings):  # noqa: F811
    point = {"frame": 0, "points": [[5, 5]]}
    for bad, message in (
        ("{", "not JSON"),
        ("[" * 7000, "nested too deeply"),
        ("x" * 8001, "more than 8000 characters"),
        ('{"id": 1}', "must have the form"),
        ('[{"id": 1, "prompts": [{"frame": 1e999}]}]', "must have the form"),
        ('[{"id": 1, "prompts": [{"frame": 0, "points": "<script>"}]}]', "must have the form"),
        (json.dumps([{"id": i, "prompts": [point]} for i in range(4)]), "At most 3 objects"),
        (json.dumps([{"id": 1, "prompts": [{"frame": 0, "points": [[5, 5]] * 51}]}]), "At most 50 points"),
    ):
        with pytest.raises(UserError, match=message):
            parse_link(bad, settings)
    for misfit, message in (
        ([{"id": 1, "prompts": [{"frame": 0, "points": [[500, 5]]}]}], "do not fit this video"),
        ([{"id": 999, "prompts": [point]}], "do not fit this video"),
        ([{"id": 1, "prompts": [{"frame": 10**30, "points": [[5, 5]]}]}], "not used of this video"),
        ([{"id": 1, "prompts": [{"frame": -1, "points": [[5, 5]]}]}], "not used of this video"),
    ):
        work.from_link = parse_link(json.dumps(misfit), settings)
        assert message in use_link(work)
        assert work.prompts == {}
    with pytest.raises(UserError, match="no click or box to share"):
        prompts_as_text(work)
