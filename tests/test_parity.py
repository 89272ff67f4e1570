"""The published implementation's numbers, reproduced: every reference suite within its tolerance.

The tiny suites cover behaviour and run by default; the full-size ones (`-m slow`) cover the eight published variants.
Weights go through `convert_checkpoint` and `from_pretrained`, prompts through the processor.
"""

import numpy as np
import pytest
import torch
from reference import (
    VideoSuite,
    assert_within_tolerance,
    build_folder,
    closest_run,
    compare,
    expected_outputs,
    load_frames,
    load_models,
    load_recipe,
    load_suites,
    run_image_suite,
)


TINY, FULL = load_suites("tiny.json"), load_suites("full.json")

pytestmark = pytest.mark.skipif(
    not TINY, reason="the reference suites are not here (they lie in ../shared/reference beside some checkouts)"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Converted checkpoint folders, made once for each variant and seed."""
    made, root = {}, tmp_path_factory.mktemp("checkpoints")

    def folder_for(suite):
        key = (suite["variant"], suite.get("attention"), suite["seed"])
        if key not in made:
            made[key] = build_folder(suite, root / "-".join(map(str, key)))
        return made[key]

    return folder_for


def run_suite(suite, folder):
    """A suite's outputs with the published preprocessing, so that the network alone is compared."""
    image_model, video_model, processor = load_models(folder)
    recipe, frames = load_recipe(), load_frames(suite)
    size = video_model.config.image_size
    expected = expected_outputs(suite)
    if suite["kind"] == "image":
        frame = frames[suite["frame"]]
        if suite["variant"] == "tiny":
            pixel_values = torch.from_numpy(expected["pixel_values"]).reshape(1, 3, size, size)
        else:
            pixel_values = processor(images=frame, return_tensors="pt")["pixel_values"]
        return run_image_suite(image_model, processor, suite, pixel_values, (frame.height, frame.width)), expected
    pixel_values = torch.from_numpy(np.stack([recipe.pixel_values(frame, size) for frame in frames]))
    return closest_run(video_model, processor, suite, frames, pixel_values, expected), expected


@pytest.mark.parametrize("suite", TINY, ids=lambda suite: suite["name"])
def test_tiny_suite_equals_the_published_numbers(suite, folders):
    assert_within_tolerance(*run_suite(suite, folders(suite)), suite)


@pytest.mark.slow
@pytest.mark.parametrize("suite", FULL, ids=lambda suite: suite["name"])
def test_full_size_suite_equals_the_published_numbers(suite, folders):
    assert_within_tolerance(*run_suite(suite, folders(suite)), suite)


# ------------------------------------------------------------------------------------------------- preprocessing


def test_processors_give_the_published_pixels(folders):
    """Images are resized as the published image predictor does, frames as its video loader does (PIL, bicubic)."""
    suite = next(suite for suite in FULL if suite["name"] == "efficienttam_ti_512x512.image")
    _, model, processor = load_models(folders(suite))
    size, frame = model.config.image_size, load_frames(suite)[suite["frame"]]
    expected = torch.from_numpy(expected_outputs(suite)["pixel_values"])
    image = processor(images=frame, return_tensors="pt")["pixel_values"][0, :, ::8, ::8]
    assert (image - expected.reshape(image.shape)).abs().max() < 1e-5
    video = processor.process_frame(frame)[0]
    difference = (video - torch.from_numpy(load_recipe().pixel_values(frame, size))).abs()
    assert difference.max() < 1.5 / 255 / 0.22  # one step of 255, in units of the smallest standard deviation
    assert difference.mean() < 1e-3


def mask_agreement(suite, folder) -> float:
    """Share of mask pixels with the published sign when frames go through our own video processor."""
    _, model, processor = load_models(folder)
    ours, expected = VideoSuite(model, processor, suite, load_frames(suite)).run(), expected_outputs(suite)
    return compare(ours, expected)["sign"]


@pytest.mark.parametrize("name", ["tiny_dense.one_click", "tiny_1.many_objects", "tiny_2.refine"])
def test_masks_from_our_own_pixels_agree_with_the_published(name, folders):
    suite = next(suite for suite in TINY if suite["name"] == name)
    assert mask_agreement(suite, folders(suite)) > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("suite", [s for s in FULL if s["kind"] == "video"], ids=lambda suite: suite["name"])
def test_full_size_masks_from_our_own_pixels_agree_with_the_published(suite, folders):
    assert mask_agreement(suite, folders(suite)) > 0.99
