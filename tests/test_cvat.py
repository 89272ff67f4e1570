"""The functions for CVAT: shapes to prompts and back; with CVAT's SDK, its own types and its own checks."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image
from reference import lively_model, save_model

from efficienttam_hf.integrations.cvat import create, points_of_mask, prompts_of_shape
from efficienttam_hf.synthetic_clip import make_clip


SIZE = (96, 128)


def test_rectangles_and_polygons_become_prompts():
    assert prompts_of_shape("rectangle", [70, 60, 10, -5], SIZE).box == (10, 0, 70, 60)
    mask = prompts_of_shape("polygon", [10, 10, 30, 10, 30, 20, 10, 20], SIZE).mask
    assert mask.sum() == 200
    assert mask[10:20, 10:30].all()
    with pytest.raises(ValueError, match="can be tracked, got 'ellipse'"):
        prompts_of_shape("ellipse", [1, 2, 3, 4], SIZE)
    with pytest.raises(ValueError, match="not a list of polygons"):
        prompts_of_shape("polygon", [1, 2, 3, 4], SIZE)


def test_masks_become_rectangles_and_polygons():
    mask = np.zeros(SIZE, bool)
    mask[20:40, 30:70] = True
    mask[80:82, 0:2] = True  # a smaller part
    assert points_of_mask(mask, "rectangle") == [0, 20, 70, 82]
    outline = points_of_mask(mask, "polygon")
    assert sorted(zip(outline[::2], outline[1::2], strict=True)) == [(30, 20), (30, 39), (69, 20), (69, 39)]
    line = np.zeros(SIZE, bool)
    line[5, 5:9] = True
    assert len(points_of_mask(line, "polygon")) == 8, "a polygon has three points at least"


def test_without_the_sdk_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvat_sdk.auto_annotation", None)
    for kind in ("tracker", "interactor"):
        with pytest.raises(ImportError, match=r"pip install efficienttam-hf\[cvat\]"):
            create(kind, "efficienttam-nano")
    with pytest.raises(ValueError, match="kind is one of tracker, interactor, got 'detector'"):
        create("detector")


@pytest.fixture
def sdk():
    return pytest.importorskip("cvat_sdk.auto_annotation", reason="needs cvat-sdk")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = lively_model()
    save_model(model, folder)
    return str(folder)


@pytest.fixture(scope="module")
def images():
    return [Image.fromarray(frame) for frame in make_clip(4, SIZE[1], SIZE[0]).frames]


class Prompts:
    """As CVAT's agent gives them."""

    def __init__(self, pos_points=(), neg_points=(), bounding_box=None):
        self.pos_points, self.neg_points, self.bounding_box = pos_points, neg_points, bounding_box


def test_clicks_give_a_mask_of_cvats_type(sdk, model_folder, images):
    from cvat_sdk.masks import decode_mask

    function = create("interactor", model_folder, "cpu")
    assert isinstance(function.spec, sdk.InteractionFunctionSpec)
    pixels = function.preprocess_image(None, images[0])
    (shape,) = function.detect(None, pixels, Prompts([(60, 50)], [(2, 2)], ((20, 20), (100, 80))))
    assert isinstance(shape, sdk.InteractionResultShape)
    assert shape.type == "mask"
    assert decode_mask(shape.points, image_width=SIZE[1], image_height=SIZE[0]).any()
    assert 0 <= float(shape.attributes[0].value) <= 1
    assert function.detect(None, pixels, Prompts()) == []


def test_shapes_are_tracked_as_the_type_they_have(sdk, model_folder, images):
    from cvat_sdk.masks import decode_mask, encode_mask

    function = create("tracker", model_folder, "cpu")
    assert isinstance(function.spec, sdk.TrackingFunctionSpec)
    mask = np.zeros(SIZE, bool)
    mask[30:60, 40:90] = True
    points = {
        "mask": encode_mask(mask),
        "polygon": [40, 30, 90, 30, 90, 60, 40, 60],
        "rectangle": [40, 30, 90, 60],
    }
    assert set(points) == function.spec.supported_shape_types
    for kind, given in points.items():
        frames = [function.preprocess_image(None, image) for image in images]
        state = function.init_tracking_state(None, frames[0], sdk.TrackableShape(type=kind, points=given))
        found = [function.track(None, frame, state) for frame in frames[1:]]
        assert any(found), kind
        for shape in filter(None, found):
            assert isinstance(shape, sdk.TrackableShape)
            assert shape.type == kind
            if kind == "mask":
                assert decode_mask(shape.points, image_width=SIZE[1], image_height=SIZE[0]).any()
            else:
                assert len(shape.points) % 2 == 0
    with pytest.raises(ValueError, match="is empty"):
        function.init_tracking_state(None, frames[0], sdk.TrackableShape(type="rectangle", points=[5, 5, 5, 9]))
