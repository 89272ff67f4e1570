"""The image tab of the demo without a browser: what is found by words, and exports. test_demo.py has its clicks."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_demo import HEIGHT, ON_OBJECT, WIDTH, settings, upload, video  # noqa: F401 -- fixtures
from test_demo_video import detection, script  # noqa: F401 -- fixtures


# isort: split

import engine
from clicks import POSITIVE
from export_panel import ALL, SELECTED
from exports import IMAGE_ANNOTATIONS
from image_tab import SHOWN, ImageTab
from image_work import ImageWork
from settings import Settings
from text_detector import SharedDetector
from uploads import UserError
from visitors import Visitors

from efficienttam_hf.formats.registry import read_annotations
from efficienttam_hf.mask_io import decode_rle
from efficienttam_hf.synthetic_clip import make_clip


gradio = pytest.importorskip("gradio", reason="the demo is a Gradio app")
VISITOR = SimpleNamespace(session_hash="one")


@pytest.fixture
def photo(upload):  # noqa: F811
    path = upload("photo.png")
    Image.fromarray(make_clip(1, WIDTH, HEIGHT).frames[0]).save(path)
    return path


@pytest.fixture
def work(settings, photo, tmp_path):  # noqa: F811
    work = ImageWork(tmp_path / "image", settings)
    work.load(photo)
    yield work
    work.close()


def objects(work):
    return json.loads(work.write_results()[2].read_text())["objects"]


def test_what_a_text_finds_is_added_labelled_and_in_the_files(work, script):  # noqa: F811
    work.click(POSITIVE, (5.0, 90.0))
    before = work.picture()
    assert work.find(["a ball", "a kite"]) == [2, 3]
    assert work.labels == {2: "a ball", 3: "a <b>kite</b>"}
    clicked, ball, kite = objects(work)
    assert "label" not in clicked
    assert (ball["label"], ball["detection_score"]) == ("a ball", 0.9)
    assert decode_rle(kite["segmentation"]).sum() == pytest.approx(60 * 35, rel=0.1)
    assert work.proposal_pictures() == [], "the detector gave one mask"
    assert work.remove_object() == 2
    assert work.labels == {3: "a <b>kite</b>"}
    assert [work.undo(), work.undo(), work.objects] == ["removal", "search", [1]]
    assert (work.picture() == before).all()


def test_a_found_box_is_a_prompt_with_three_proposals(work, script):  # noqa: F811
    script.detections = [replace(detection(20, 40, 60, 80, "a ball", 0.9), mask=None)]
    assert work.find(["a ball"]) == [1]
    assert len(work.proposal_pictures()) == 3
    assert objects(work)[0]["prompts"]["box"] == [20, 40, 60, 80]
    work.click(POSITIVE, ON_OBJECT)
    assert work.labels == {1: "a ball"}, "a click improves the object that was found"


def test_a_search_that_finds_nothing_or_cannot_be_made_changes_nothing(work, script, monkeypatch):  # noqa: F811
    work.click(POSITIVE, ON_OBJECT)
    before = work.picture()
    script.detections = []
    with pytest.raises(UserError, match=r"looked for a dog\)"):
        work.find(["a dog"])
    script.detections = [detection(i * 38, 2, i * 38 + 30, 40, "a tile", 0.9 - i / 10) for i in range(4)]
    with pytest.warns(UserWarning, match="More objects were found"):
        assert work.find(["a tile"]) == [2, 3], "of three in all"
    with pytest.raises(UserError, match="at most 3 objects"):
        work.find(["a tile"])
    work.undo()
    monkeypatch.setattr(engine, "detector", SharedDetector(Settings(text_detector="off"), "cpu"))
    with pytest.raises(UserError, match="does not look for texts"):
        work.find(["a dog"])
    assert (work.picture() == before).all()
    work.close()
    with pytest.raises(UserError, match="Choose an image first"):
        work.find(["a dog"])


def test_the_page_says_what_was_found(settings, photo, script, tmp_path):  # noqa: F811
    with gradio.Blocks():
        tab = ImageTab(Visitors(tmp_path / "visitors", settings), settings, [])
    assert "Choose an image first" in tab.on_find("a dog", False, VISITOR)[tab.status]
    tab.on_upload(str(photo), WIDTH, False, VISITOR)
    assert "Write what to look for" in tab.on_find(" , ", False, VISITOR)[tab.status]
    status, picture, choice, *_ = tab.on_find("a ball, a kite", False, VISITOR)
    assert "Found: Object 1 · a ball, Object 2 · a &lt;b&gt;kite" in status
    assert choice["choices"][0] == ("Object 1 · a ball", "1")
    assert isinstance(picture, np.ndarray)


def test_a_picture_with_an_effect_and_annotations_are_written(settings, photo, script, tmp_path):  # noqa: F811
    with gradio.Blocks():
        tab = ImageTab(Visitors(tmp_path / "visitors", settings), settings, [])
    panel = tab.exports
    tab.on_upload(str(photo), WIDTH, False, VISITOR)
    assert "Click on an object first" in panel.on_make("cutout", ALL, 0, "1", VISITOR)[panel.status]
    tab.on_find("a ball, a kite", False, VISITOR)
    image, masks = tab.visitors.of("one").image.image_with_masks()
    made = panel.on_make("cutout", SELECTED, 0, "2", VISITOR)
    assert set(made) <= set(panel.outputs), "Gradio refuses others"
    picture = np.array(Image.open(made[panel.effect_file]))
    assert ((picture[..., 3] > 127) == masks[2]).all()
    assert (picture[masks[2], :3] == image[masks[2]]).all()
    for name in IMAGE_ANNOTATIONS:
        converted = panel.on_convert(name, VISITOR)
        assert set(converted) <= set(panel.outputs)
        with zipfile.ZipFile(converted[panel.format_file]["value"]) as archive:
            assert archive.namelist()
            archive.extractall(tmp_path / name)
    assert not Path(made[panel.effect_file]).exists(), "a visitor has one such file at a time"
    read = read_annotations(tmp_path / "coco" / "annotations.json", "photo.png", (HEIGHT, WIDTH))
    assert {one.object_id: one.pixels().sum() for one in next(read.frames()).objects} == {
        i: mask.sum() for i, mask in masks.items()
    }
    assert "no such format" in panel.on_convert("../coco", VISITOR)[panel.status]
    assert "no such effect" in panel.on_make("rm", ALL, 0, "1", VISITOR)[panel.status]
    assert len(tab.on_undo(False, VISITOR)) == SHOWN
