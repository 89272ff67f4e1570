"""What a viewer of results can rely on: masks in distinct colours, readable outlines, prompts where they were given."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from efficienttam_hf.visualization import contact_sheet, object_color, overlay_masks


pytest.importorskip("cv2", reason="overlays are drawn with OpenCV")

DAVIS = Path(__file__).resolve().parents[2] / "shared" / "data" / "DAVIS"
HEIGHT, WIDTH = 120, 160


@pytest.fixture
def frame():
    return np.random.default_rng(0).integers(60, 200, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def masks():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return {1: (x - 40) ** 2 + (y - 60) ** 2 < 30**2, 2: (abs(x - 120) < 25) & (abs(y - 50) < 35)}


def near(pixels, color, tolerance=2):
    return np.abs(pixels.astype(int) - np.asarray(color)).max(axis=-1) <= tolerance


# -------------------------------------------------------------------------------------------------------------- colours


def test_colours_of_neighbouring_objects_are_far_apart_and_never_dark():
    colors = np.array([object_color(object_id) for object_id in range(1, 65)])
    assert colors.min() >= 0
    assert colors.max() <= 255
    assert colors.max(axis=1).min() >= 140
    assert len(np.unique(colors, axis=0)) == 64
    first = colors[:12].astype(int)
    distance = np.abs(first[:, None] - first[None]).sum(axis=-1) + 999 * np.eye(12, dtype=int)
    assert distance.min() >= 80
    assert np.abs(np.diff(colors.astype(int), axis=0)).sum(axis=1).min() >= 80


def test_the_colour_of_an_object_depends_on_its_id_alone():
    assert object_color(7) == object_color(np.int64(7))
    for object_id in (0, -3, 10**9):
        color = object_color(object_id)
        assert all(isinstance(value, int) and 0 <= value <= 255 for value in color)
        assert max(color) >= 140


# ------------------------------------------------------------------------------------------------------------- overlays


def test_a_mask_is_blended_with_its_colour_and_nothing_else_changes(frame, masks):
    before = frame.copy()
    image = overlay_masks(frame, masks, alpha=0.4, contour=False)
    assert (frame == before).all()
    assert image.dtype == np.uint8
    for object_id, mask in masks.items():
        expected = 0.6 * frame[mask] + 0.4 * np.array(object_color(object_id))
        assert np.abs(image[mask] - expected).max() <= 0.5 + 1e-4
    background = ~(masks[1] | masks[2])
    assert (image[background] == frame[background]).all()


def test_alpha_goes_from_invisible_to_opaque(frame, masks):
    assert (overlay_masks(frame, masks, alpha=0, contour=False) == frame).all()
    opaque = overlay_masks(frame, masks, alpha=1, contour=False)
    assert near(opaque[masks[1]], object_color(1), 0).all()
    with pytest.raises(ValueError, match=r"alpha.*1\.5"):
        overlay_masks(frame, masks, alpha=1.5)


def test_later_masks_lie_on_top(frame):
    everything = np.ones((HEIGHT, WIDTH), dtype=bool)
    image = overlay_masks(frame, {5: everything, 3: everything}, alpha=1, contour=False)
    assert near(image, object_color(3), 0).all()


def test_the_outline_is_the_objects_colour_beside_a_dark_line(frame, masks):
    # Worst case: an object of exactly its overlay's colour on a background of that colour.
    frame[:] = object_color(2)
    image = overlay_masks(frame, {2: masks[2]})
    row = image[50]
    edges = np.flatnonzero(near(row, (25, 25, 25), 40))
    assert {95, 145} <= {int(edge) + shift for edge in edges for shift in range(-4, 5)}
    assert near(row[120], object_color(2))
    # Holes have an outline, too.
    mask = masks[2].copy()
    mask[40:60, 110:130] = False
    inner = overlay_masks(frame, {2: mask})[50]
    assert near(inner[104:116], (25, 25, 25), 40).any()


def test_only_pixels_near_the_edge_belong_to_the_outline(frame, masks):
    plain = overlay_masks(frame, masks, contour=False)
    outlined = overlay_masks(frame, masks)
    changed = (plain != outlined).any(axis=-1)
    y, x = np.nonzero(changed)
    to_circle = np.abs(np.hypot(x - 40, y - 60) - 30)
    to_box = np.abs(np.maximum(np.abs(x - 120) - 25, np.abs(y - 50) - 35))
    assert changed.any()
    assert np.minimum(to_circle, to_box).max() <= 5


def test_no_masks_and_empty_masks_leave_the_frame(frame):
    assert (overlay_masks(frame, {}) == frame).all()
    assert (overlay_masks(frame, {1: np.zeros((HEIGHT, WIDTH), dtype=bool)}, labels=True) == frame).all()


def test_masks_may_touch_the_border_be_one_pixel_or_cover_everything(frame):
    pixel = np.zeros((HEIGHT, WIDTH), dtype=bool)
    pixel[0, 0] = True
    image = overlay_masks(frame, {1: np.ones((HEIGHT, WIDTH), dtype=bool), 2: pixel}, labels=True)
    assert image.shape == frame.shape


def test_masks_of_integers_and_views_are_drawn_like_bool(frame, masks):
    expected = overlay_masks(frame, masks)
    assert (overlay_masks(frame, {k: mask.astype(np.int64) for k, mask in masks.items()}) == expected).all()
    fortran = {k: np.asfortranarray(mask) for k, mask in masks.items()}
    assert (overlay_masks(np.asfortranarray(frame), fortran) == expected).all()


def test_points_are_green_or_red_and_boxes_are_drawn_at_their_edges(frame):
    image = overlay_masks(frame, {}, points=[(30, 40, 1), (100.4, 70.6, 0)], boxes=[(20, 10, 140, 110)])
    green, red = image[42, 32].astype(int), image[73, 102].astype(int)
    assert green[1] > green[0] + 60
    assert red[0] > red[1] + 60
    for x, y in [(20, 60), (140, 60), (80, 10), (80, 110)]:
        assert near(image[y, x], (255, 255, 255))
    assert (image[60, 60] == frame[60, 60]).all()
    # Positive and negative differ by more than colour.
    plus, minus = (overlay_masks(np.zeros_like(frame), {}, points=[(30, 40, sign)]).min(axis=-1) for sign in (1, 0))
    assert (plus[36:45, 30] > 200).sum() > (minus[36:45, 30] > 200).sum()


def test_prompts_outside_the_frame_do_no_harm(frame):
    image = overlay_masks(frame, {}, points=[(-500, 10**6, 1)], boxes=[(-50, -50, 10**5, 10**5)])
    assert (image == frame).all()


def test_labels_are_written_on_their_object(frame, masks):
    plain = overlay_masks(frame, masks)
    for labels in (True, {1: "dog", 2: "ball"}):
        image = overlay_masks(frame, masks, labels=labels)
        for mask in masks.values():
            assert (image[mask] != plain[mask]).any(axis=-1).sum() > 30
        assert (image[110:] == plain[110:]).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frame": np.zeros((4, 4), np.uint8)}, r"frame must be uint8 of shape \(height, width, 3\)"),
        ({"frame": np.zeros((4, 4, 3), np.float32)}, "float32"),
        ({"masks": {3: np.zeros((4, 4), np.float32)}}, "object 3.*threshold logits"),
        ({"masks": {3: np.zeros((5, 4), bool)}}, r"object 3 .*\(5, 4\).*resize"),
        ({"points": [(1, 2)]}, "points"),
        ({"points": [(1, 2, 3)]}, "positive"),
        ({"boxes": [(1, 2, 3)]}, "boxes"),
        ({"boxes": [(1, 2, 3, np.nan)]}, "finite"),
    ],
)
def test_wrong_input_is_named(wrong, message):
    arguments = {"frame": np.zeros((4, 4, 3), np.uint8), "masks": {}, **wrong}
    with pytest.raises(ValueError, match=message):
        overlay_masks(**arguments)


@pytest.mark.slow  # the clock is of use only where nothing else runs
def test_an_overlay_is_fast_enough_for_a_live_preview():
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 255, (720, 1280, 3), dtype=np.uint8)
    y, x = np.mgrid[:720, :1280]
    masks = {k: np.hypot((x - 320 * k) / 1.5, y - 360) + 20 * np.sin(x / 9) < 190 for k in (1, 2, 3)}
    overlay_masks(frame, masks)
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        overlay_masks(frame, masks, labels=True, points=[(320, 360, 1)])
        times.append(time.perf_counter() - begin)
    # A few milliseconds on two cores; the bound leaves room for a machine that is busy with something else.
    assert min(times) < 0.03


def test_a_missing_opencv_names_the_extra(frame, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install efficienttam-hf\[video\]"):
        overlay_masks(frame, {})


@pytest.mark.skipif(not DAVIS.exists(), reason=f"no DAVIS sequences in {DAVIS}")
def test_a_real_annotation_is_drawn_on_its_frame():
    from efficienttam_hf.image_io import read_image
    from efficienttam_hf.mask_io import read_indexed_png

    frame = read_image(DAVIS / "JPEGImages" / "480p" / "bmx-trees" / "00020.jpg")
    mask = read_indexed_png(DAVIS / "Annotations" / "480p" / "bmx-trees" / "00020.png") == 1
    image = overlay_masks(frame, {2: mask}, alpha=1)
    assert near(image[mask], object_color(2)).mean() > 0.3
    assert (image != frame).any(axis=-1).mean() < 3 * mask.mean()


# --------------------------------------------------------------------------------------------------------------- sheets


def test_a_sheet_places_pictures_row_by_row():
    images = [np.full((20, 30, 3), 40 * k, np.uint8) for k in range(1, 6)]
    sheet = contact_sheet(images, 3, gap=4, background=(1, 2, 3))
    assert sheet.shape == (2 * 24 + 4, 3 * 34 + 4, 3)
    for k in range(5):
        top, left = 4 + k // 3 * 24, 4 + k % 3 * 34
        assert (sheet[top : top + 20, left : left + 30] == 40 * (k + 1)).all()
    assert (sheet[28:48, 72:102] == (1, 2, 3)).all()
    assert (sheet[:4] == (1, 2, 3)).all()


def test_pictures_of_other_sizes_are_fitted_into_the_cell():
    sheet = contact_sheet([np.full((20, 40, 3), 99, np.uint8), np.full((60, 60, 3), 200, np.uint8)], 2, gap=0)
    assert sheet.shape == (20, 80, 3)
    assert (sheet[:, 50:70] == 200).all()
    assert (sheet[:, 40:50] == 32).all()
    assert contact_sheet([np.zeros((20, 40, 3), np.uint8)], 1, cell_width=10, gap=0).shape == (5, 10, 3)


def test_captions_are_written_into_their_picture():
    images = [np.full((80, 100, 3), 128, np.uint8)] * 2
    sheet = contact_sheet(images, 2, captions=["", "frame 7"], gap=0)
    assert (sheet[:, :100] == 128).all()
    assert (sheet[:20, 100:] != 128).any()
    assert (sheet[40:, 100:] == 128).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 2), "at least one"),
        (([np.zeros((4, 4), np.uint8)], 2), "Image 0"),
        (([np.zeros((4, 4, 3), np.uint8)], 0), "columns"),
    ],
)
def test_a_sheet_that_cannot_be_made_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(*arguments)
    with pytest.raises(ValueError, match="2 captions for 1 images"):
        contact_sheet([np.zeros((4, 4, 3), np.uint8)], 1, captions=["a", "b"])
