"""The video tab of the demo without a browser: objects that are found, the timeline, going on from results, links."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_demo import HEIGHT, ON_OBJECT, WIDTH, run, settings, upload, video, work  # noqa: F401 -- fixtures

import engine
from clicks import POSITIVE
from settings import Settings
from text_detector import SharedDetector, split_texts
from uploads import UserError

from efficienttam_hf.discovery import Detection


def detection(left, top, right, bottom, label, score):
    """A detection with its mask, so that a random model has nothing to say."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return Detection((left, top, right, bottom), label, score, mask)


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


# ------------------------------------------------------------------------------------------------- objects that are found


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
