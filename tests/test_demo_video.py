"""The video tab of the demo without a browser: objects that are found, the timeline, going on from results, links."""

from __future__ import annotations

import json
import re
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from test_demo import HEIGHT, NUM_FRAMES, ON_OBJECT, WIDTH, masks, run, settings, upload, video, work  # noqa: F401 -- fixtures


# isort: split

import engine
from clicks import POSITIVE
from export_panel import ALL, SELECTED, ExportPanel
from exports import ANNOTATIONS, make_effect, preview, write_effect, write_format
from settings import Settings
from text_detector import SharedDetector, split_texts
from timeline import MOST_PARTS, Row, lost_moments, timeline_html, timeline_rows
from uploads import UserError
from video_work import VideoWork

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
        assert str(tmp_path) not in str(refusal.value)
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
