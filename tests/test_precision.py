"""`--dtype auto`: bfloat16 where the machine is faster in it and the masks stay the same, else float32."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reference import tiny_config

from efficienttam_hf import EfficientTamVideoModel
from efficienttam_hf.app import precision
from efficienttam_hf.app.precision import agreement, choose_dtype, has_fast_bfloat16, requested_dtype
from efficienttam_hf.kernel_choice import KernelChoices, cache_file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache directory of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "efficienttam"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EfficientTamVideoModel(tiny_config()).eval()


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: True)


def masks_that_differ_in(pixels: int, calls: list[torch.dtype]):
    """Masks of 100 x 100 pixels, of which some change in bfloat16."""

    def masks(model):
        calls.append(model.dtype)
        mask = np.zeros((1, 100, 100), bool)
        if model.dtype == torch.bfloat16:
            mask.flat[:pixels] = True
        yield mask

    return masks


@pytest.mark.parametrize(("differing", "chosen"), [(9, torch.bfloat16), (10, torch.float32), (300, torch.float32)])
def test_bfloat16_is_chosen_where_more_than_999_of_1000_pixels_agree(model, fast, differing, chosen):
    dtype, reason = choose_dtype(model, masks_that_differ_in(differing, []))
    assert dtype == chosen
    assert f"{(10_000 - differing) / 100:.2f} %" in reason
    assert model.dtype == torch.float32  # the caller casts it


def test_masks_are_compared_once_for_a_model(model, fast, capsys):
    calls: list[torch.dtype] = []
    for _ in range(2):
        assert choose_dtype(model, masks_that_differ_in(1, calls))[0] == torch.bfloat16
    assert calls == [torch.float32, torch.bfloat16]
    assert capsys.readouterr().out.count("once for this model") == 1
    torch.manual_seed(1)
    another = EfficientTamVideoModel(tiny_config()).eval()
    assert choose_dtype(another, masks_that_differ_in(5000, calls))[0] == torch.float32


@pytest.mark.parametrize("content", ["", "[]", '{"agreement": "much"}', '{"agreement": 7}', '{"agreement": NaN}'])
def test_a_damaged_file_is_measured_again(model, fast, cache, content):
    choose_dtype(model, masks_that_differ_in(1, []))
    (path,) = cache.glob("agreement-*.json")
    path.write_text(content)
    calls: list[torch.dtype] = []
    choose_dtype(model, masks_that_differ_in(1, calls))
    assert calls
    assert json.loads(path.read_text()) == {"agreement": 0.9999}


def test_without_a_writable_cache_masks_are_compared_each_time(model, fast, cache):
    cache.parent.write_text("a file where the folder should be")
    calls: list[torch.dtype] = []
    for _ in range(2):
        assert choose_dtype(model, masks_that_differ_in(1, calls))[0] == torch.bfloat16
    assert len(calls) == 4


def test_nothing_is_compared_where_bfloat16_is_not_faster(model, monkeypatch):
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: False)
    calls: list[torch.dtype] = []
    assert choose_dtype(model, masks_that_differ_in(0, calls)) == (torch.float32, "bfloat16 is not faster here")
    assert not calls


def test_no_pixels_are_no_agreement():
    assert agreement([]) == 0


@pytest.mark.parametrize("faster", [True, False])
def test_the_speed_of_the_machine_is_kept(monkeypatch, cache, faster):
    monkeypatch.delenv("EFFICIENTTAM_KERNELS", raising=False)
    monkeypatch.setattr(precision, "SPEED", KernelChoices(precision.SPEED.operations, kind="dtypes"))
    path = cache_file("float32", "dtypes")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"choices": {"block": "bfloat16" if faster else "plain"}, "milliseconds": {}}))
    assert has_fast_bfloat16(torch.device("cpu")) == faster


@pytest.mark.parametrize("has_them", [True, False])
def test_without_measuring_the_instructions_decide(monkeypatch, has_them):
    monkeypatch.setenv("EFFICIENTTAM_KERNELS", "capability")
    monkeypatch.setattr(precision, "_has_bfloat16_instructions", lambda: has_them)
    assert has_fast_bfloat16(torch.device("cpu")) == has_them


def test_a_gpu_needs_bfloat16_products_of_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: asked.append(options) or True)
    assert has_fast_bfloat16(SimpleNamespace(type="cuda"))
    assert asked == [{"including_emulation": False}]
    assert not has_fast_bfloat16(SimpleNamespace(type="mps"))


def test_the_timed_block_computes_the_same_in_both_types():
    results = []
    for choice in precision.SPEED.operations["block"].candidates["float32"]:
        torch.manual_seed(0)
        with torch.no_grad():
            results.append(precision.SPEED.operations["block"].example(choice, torch.float32)())
    assert [result.dtype for result in results] == [torch.float32, torch.bfloat16]
    torch.testing.assert_close(results[1].float(), results[0], atol=0.1, rtol=0.1)


def test_the_environment_variable_names_the_default(monkeypatch):
    assert requested_dtype("bfloat16") == "bfloat16"
    monkeypatch.setenv("EFFICIENTTAM_DTYPE", "float16")
    assert requested_dtype(None) == "float16"
    monkeypatch.delenv("EFFICIENTTAM_DTYPE")
    assert requested_dtype(None) == "auto"
    monkeypatch.setenv("EFFICIENTTAM_DTYPE", "double")
    with pytest.raises(ValueError, match="EFFICIENTTAM_DTYPE is 'double'; accepted are auto, float32"):
        requested_dtype(None)
