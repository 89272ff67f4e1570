"""Three reference suites that every clone has: the published implementation's numbers on a small model.

One suite for each kind of memory cross-attention: a click, two conditioning frames, and corrections. `tests/parity`
holds the recipe of the weights, the frames at the model's input size and the expected outputs; its README says where
they come from. `tests/test_parity.py` runs all suites where they are at hand.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference import (
    assert_within_tolerance,
    build_folder,
    closest_run,
    expected_outputs,
    load_models,
    load_recipe,
    load_suites,
)

from efficienttam_hf.cpu_kernels import CHOICES, OPERATIONS


FOLDER = Path(__file__).parent / "parity"
SUITES = load_suites("suites.json", FOLDER)


def test_each_kind_of_memory_attention_has_a_suite():
    assert {suite["attention"] for suite in SUITES} == {"dense", "_1", "_2"}


def assert_suite_holds(suite, tmp_path):
    _, model, processor = load_models(build_folder(suite, tmp_path / "model", FOLDER))
    size, recipe = model.config.image_size, load_recipe(FOLDER)
    strip = Image.open(FOLDER / suite["frames"])  # the frames one below the other, each size x size pixels
    frames = [strip.crop((0, i * size, size, (i + 1) * size)) for i in range(suite["num_frames"])]
    pixel_values = torch.from_numpy(np.stack([recipe.pixel_values(frame, size) for frame in frames]))
    original = Image.new("RGB", tuple(suite["frame_size"]))  # of the originals, only the size is asked for
    expected = expected_outputs(suite, FOLDER)
    outputs = closest_run(model, processor, suite, [original], pixel_values, expected)
    assert_within_tolerance(outputs, expected, suite)


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite["name"])
def test_tiny_suite_equals_the_published_numbers(suite, tmp_path):
    assert_suite_holds(suite, tmp_path)


KERNELS = [
    f"{name}.float32={choice}"
    for name, operation in OPERATIONS.items()
    for choice in operation.candidates["float32"][1:]
]


@pytest.mark.parametrize("setting", ["plain", *KERNELS])
@pytest.mark.parametrize("suite", [s for s in SUITES if s["attention"] == "_1"], ids=lambda suite: suite["name"])
def test_tiny_suite_equals_the_published_numbers_with_each_kernel(suite, setting, tmp_path, small_thresholds):
    with CHOICES.setting(setting):
        assert_suite_holds(suite, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["plain", *KERNELS])
@pytest.mark.parametrize("suite", [s for s in SUITES if s["attention"] != "_1"], ids=lambda suite: suite["name"])
def test_other_tiny_suites_equal_the_published_numbers_with_each_kernel(suite, setting, tmp_path, small_thresholds):
    with CHOICES.setting(setting):
        assert_suite_holds(suite, tmp_path)
