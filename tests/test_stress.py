"""The synthetic stress set: each kind of event comes off, is the same for its seed, and is a dataset like any other."""

import numpy as np
import pytest

from efficienttam_hf.app.datasets import load_data
from efficienttam_hf.data.layouts import stress as layout
from efficienttam_hf.data.layouts.stress import Stress
from efficienttam_hf.data.loading import load_records
from efficienttam_hf.data.schema import DatasetError


cv2 = pytest.importorskip("cv2")

from efficienttam_hf.data.synthetic.stress import KINDS, came_off, stress_video  # noqa: E402


SIZE, FRAMES = (96, 160), 24


@pytest.fixture(scope="module")
def videos():
    return {kind: stress_video(kind, 3, SIZE, FRAMES) for kind in KINDS}


def areas(video, label):
    return (video.labels == label).sum(axis=(1, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_event_comes_off_and_the_object_is_there_at_both_ends(kind, videos):
    video = videos[kind]
    assert video.frames.shape == (FRAMES, *SIZE, 3) and video.frames.dtype == np.uint8
    assert video.labels.shape == (FRAMES, *SIZE)
    one, two = areas(video, 1), areas(video, 2)
    assert one[0] > 50 and one[-1] > 50
    if kind == "crossing":
        assert two[0] > 50 and two[-1] > 50
        # Each is hidden by the other once, at another time.
        assert one.min() < 0.6 * one[0] and two.min() < 0.6 * two[0] and abs(one.argmin() - two.argmin()) > 3
    else:
        assert not two.any()
        gone = np.flatnonzero(one < 0.15 * one[0])
        assert len(gone) >= 2 and 0 < gone[0] and gone[-1] < FRAMES - 1


def test_a_cut_changes_all_pixels_at_once(videos):
    changes = np.abs(np.diff(videos["cut"].frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    others = np.abs(np.diff(videos["reentry"].frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert (changes > 5 * np.median(changes)).sum() == 3
    assert not (others > 10 * np.median(others)).any()


def test_a_video_is_a_function_of_kind_and_seed(videos):
    again = stress_video("crossing", 3, SIZE, FRAMES)
    assert (again.frames == videos["crossing"].frames).all() and (again.labels == videos["crossing"].labels).all()
    assert not np.array_equal(again.labels, stress_video("crossing", 4, SIZE, FRAMES).labels)


def test_what_did_not_come_off_is_noticed():
    whole = np.full((24, 2), 1000)
    hidden = whole.copy()
    hidden[10:14, 0] = 0
    assert came_off("occlusion", hidden, whole, 10000)
    assert not came_off("occlusion", whole, whole, 10000)  # nothing was hidden
    assert came_off("reentry", hidden, np.where(hidden, whole, 0), 10000)
    at_end = hidden.copy()
    at_end[-1, 0] = 300
    assert not came_off("occlusion", at_end, whole, 10000)  # it did not come back whole
    assert not came_off("crossing", hidden, whole, 10000)  # only one of two was hidden


def test_it_is_a_dataset_without_files():
    assert layout.KINDS == KINDS
    records = load_records("stress", "", seeds=2, size=SIZE, num_frames=FRAMES)
    assert records.names == [f"{kind}-{seed}" for seed in range(2) for kind in KINDS]
    record = load_records("stress", "", "crossing", seeds=4, size=SIZE, num_frames=FRAMES)[3]
    assert record.video_id == "crossing-3" and record.num_frames == FRAMES and record.size == SIZE
    assert record.object_ids == [1, 2] and record.categories == {1: "crossing", 2: "crossing"}
    drawn = stress_video("crossing", 3, SIZE, FRAMES)
    assert (record.frame(5) == drawn.frames[5]).all() and (record.masks(5)[2] == (drawn.labels[5] == 2)).all()
    with pytest.raises(DatasetError, match="no split 'val'; it has occlusion"):
        Stress("", "val")


def test_only_a_drawn_dataset_needs_no_folder():
    records, kind, split = load_data(None, "stress", limit=3)
    assert (len(records), kind, split) == (3, "stress", None)
    for given in (None, "davis2017"):
        with pytest.raises(ValueError, match="give --data ROOT. Only --dataset stress needs no folder"):
            load_data(None, given)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="no kind of event 'flood'; there are occlusion"):
        stress_video("flood", 0)
    with pytest.raises(ValueError, match="at least 24 frames of 64x64"):
        stress_video("cut", 0, num_frames=8)
