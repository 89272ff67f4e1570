"""Every other way of computing gives what PyTorch's own way gives, on any machine; and which way is taken."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from reference import tiny_config
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from efficienttam_hf import EfficientTamVideoModel, MemoryBank, cpu_kernels, kernel_choice
from efficienttam_hf.cpu_kernels import (
    CHOICES,
    LINEAR,
    OPERATIONS,
    ROWS,
    attend_before_projecting,
    attend_by_rows,
    by_tokens,
    linear,
    linear_by_onednn,
    linear_in_float32,
    sdpa_attention,
)
from efficienttam_hf.kernel_choice import KernelChoices, Operation, cache_file, capability, measure, parse
from efficienttam_hf.modeling_efficienttam_layers import Constants, sine_position_encoding
from efficienttam_hf.modeling_efficienttam_memory import EfficientTamMemoryAttention


# Every candidate of every operation, each forced by itself: what the environment variable would say.
FORCED = [
    f"{name}.{dtype}={choice}"
    for name, operation in OPERATIONS.items()
    for dtype, choices in operation.candidates.items()
    for choice in choices[1:]
]
SETTINGS = ["plain", "capability", *FORCED]


# -------------------------------------------------------------------------------------------------- linear layers


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(700, 48), (2, 350, 48), (1, 3, 48), (0, 48)])
def test_a_linear_layer_by_onednn_is_pytorchs(threads, shape):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(shape, generator=generator)
    weight, bias = torch.randn(40, 48, generator=generator), torch.randn(40, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for given in (bias, None):
            ours, expected = linear_by_onednn(tokens, weight, given), F.linear(tokens, weight, given)
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_a_linear_layer_by_onednn_takes_strided_tokens_and_gives_gradients():
    weight = torch.randn(24, 64, requires_grad=True)
    tokens = torch.randn(1, 64, 500).transpose(1, 2).requires_grad_()
    gradients = [
        torch.autograd.grad(product(tokens, weight).square().mean(), (tokens, weight))
        for product in (linear_by_onednn, F.linear)
    ]
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_a_bfloat16_linear_layer_in_float32_is_as_near_as_pytorchs():
    generator = torch.Generator().manual_seed(0)
    tokens, weight, bias = (
        torch.randn(shape, generator=generator).bfloat16() for shape in ((300, 96), (40, 96), (40,))
    )
    exact = F.linear(tokens.double(), weight.double(), bias.double())
    ours, plain = linear_in_float32(tokens, weight, bias), F.linear(tokens, weight, bias)
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).abs().max() <= 1.01 * (plain - exact).abs().max()
    torch.testing.assert_close(ours, exact.bfloat16())


# ------------------------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize("product", ROWS)
@pytest.mark.parametrize("many_keys", [False, True])
@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_by_rows_is_the_fused_one(monkeypatch, product, many_keys, width, biased):
    if many_keys:  # as at 1024 pixels: blocks of keys, and a last one that is smaller
        monkeypatch.setattr(cpu_kernels, "MANY_KEYS", 256)
        monkeypatch.setattr(cpu_kernels, "KEYS_AT_A_TIME", 200)
    monkeypatch.setattr(cpu_kernels, "LARGEST_SCORES", 2**15)
    monkeypatch.setattr(cpu_kernels, "SMALLEST_PRODUCT", 0)
    query, key = 5 * torch.randn(2, 3, 330, 32), torch.randn(2, 330, 3, 32).transpose(1, 2)
    value = torch.randn(2, 3, 330, width)
    bias = torch.linspace(-3, 3, 330) if biased else None
    ours = attend_by_rows(query, key, value, 0.2, bias, ROWS[product])
    expected = F.scaled_dot_product_attention(
        query, key, value, attn_mask=None if bias is None else bias[None].expand(330, -1), scale=0.2
    )
    torch.testing.assert_close(ours, expected.transpose(1, 2), atol=1e-5, rtol=1e-4)


def test_attention_by_rows_survives_logits_that_overflow_an_exponential(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "MANY_KEYS", 2)
    monkeypatch.setattr(cpu_kernels, "KEYS_AT_A_TIME", 2)
    key = torch.tensor([[-300.0], [-200.0], [200.0], [199.0]]).expand(1, 1, 4, 1)
    value = torch.eye(4).view(1, 1, 4, 4)
    weights = attend_by_rows(torch.ones(1, 1, 1, 1), key, value, 1.0).flatten()
    torch.testing.assert_close(weights, torch.tensor([-500.0, -400.0, 0.0, -1.0]).softmax(0))


def test_attention_by_rows_in_bfloat16_is_as_near_as_the_fused_one():
    query, key, value = (torch.randn(1, 2, 400, 32) for _ in range(3))
    exact = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    query, key, value = (x.bfloat16() for x in (query, key, value))
    fused = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    ours = attend_by_rows(query, key, value, 32**-0.5)
    assert (ours - exact).abs().mean() < 1.5 * (fused - exact).abs().mean()


@pytest.mark.parametrize("choice", ROWS)
@pytest.mark.parametrize("biased", [False, True])
def test_attention_before_projecting_is_attention_to_what_is_projected(choice, biased, small_thresholds):
    query, key, tokens = torch.randn(2, 1, 300, 32), torch.randn(2, 1, 500, 32), torch.randn(2, 500, 8)
    projection = torch.nn.Linear(8, 32)
    bias = torch.linspace(-2, 2, 500).view(1, 1, 1, -1) if biased else None
    with torch.no_grad(), CHOICES.setting(f"memories.float32={choice}"):
        ours = attend_before_projecting(query, key, tokens, projection, bias)
        expected = F.scaled_dot_product_attention(query, key, projection(tokens).unsqueeze(1), bias).squeeze(1)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_gradients_go_through_pytorchs_attention(small_thresholds, monkeypatch):
    query, key, value = (torch.randn(1, 1, 64, 8) for _ in range(3))
    monkeypatch.setattr(cpu_kernels, "attend_by_rows", None)  # calling it fails
    with CHOICES.setting("attention.float32=rows,memories.float32=rows"):
        output, _ = sdpa_attention(torch.nn.Identity(), query.requires_grad_(), key, value, None, 0.3)
        assert attend_before_projecting(query, key, value[0], torch.nn.Linear(8, 8), None) is None
        output.sum().backward()
        assert query.grad is not None
        with torch.no_grad(), pytest.raises(TypeError):
            sdpa_attention(torch.nn.Identity(), query, key, value, None, 0.3)


@pytest.mark.parametrize("masked", [False, True])
def test_a_mask_that_is_no_bias_of_keys_goes_to_pytorchs_attention(masked, small_thresholds):
    query, key, value = (torch.randn(1, 2, 70, 8) for _ in range(3))
    mask = torch.randn(1, 1, 70, 70) if masked else torch.randn(1, 1, 1, 70)
    with torch.no_grad(), CHOICES.setting("attention.float32=rows"):
        ours, _ = sdpa_attention(torch.nn.Identity(), query, key, value, mask, 0.3)
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------------------------------------ tensors in parts


def test_a_function_of_tokens_may_see_some_at_a_time():
    seen = []

    def double(tokens):
        seen.append(tokens.shape[-2])
        return 2 * tokens

    tokens = torch.randn(2, cpu_kernels.TOKENS_AT_A_TIME + 76, 3)
    with torch.no_grad(), CHOICES.setting("parts.float32=parts"):
        torch.testing.assert_close(by_tokens(double, tokens), 2 * tokens, rtol=0, atol=0)
    assert max(seen) <= cpu_kernels.TOKENS_AT_A_TIME < sum(seen)
    with torch.no_grad(), CHOICES.setting("plain"):
        by_tokens(double, tokens)
    assert seen[-1] == tokens.shape[-2]
    assert by_tokens(double, tokens.requires_grad_()).requires_grad  # all at once where gradients flow
    assert seen[-1] == tokens.shape[-2]


# ---------------------------------------------------------------------------------------------- the model, each way


@pytest.fixture(scope="module")
def tracked():
    """A tiny model and what a frame with three memories needs, by kind of attention and dtype."""
    made = {}

    def make(kind, dtype):
        if (kind, dtype) not in made:
            torch.manual_seed(0)
            model = EfficientTamVideoModel(tiny_config(kind)).eval().to(dtype)
            bank = MemoryBank(
                torch.randn(2, 3, 64, 16, dtype=dtype),
                torch.tensor([[6, 1, 0]] * 2),
                torch.randn(2, 2, 64, dtype=dtype),
            )
            made[kind, dtype] = model, torch.randn(1, 3, 128, 128), bank
        return made[kind, dtype]

    return make


@pytest.mark.parametrize("kind", ["full", "pooled_logit_bias", "pooled_key_shift"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_frame_is_tracked_alike_each_way(kind, setting, tracked, small_thresholds):
    dtype = torch.bfloat16 if "bfloat16" in setting else torch.float32
    model, pixels, bank = tracked(kind, dtype)

    def track():
        with torch.no_grad():
            features = model.get_image_features(pixels, return_dict=True).fpn_hidden_states[0]
            conditioned = model.condition_on_memory(features, bank)
            return features, conditioned

    with CHOICES.setting("plain"):
        expected = track()
    with CHOICES.setting(setting):
        ours = track()
        again = track()
    for mine, value, once_more in zip(ours, expected, again, strict=True):
        assert torch.equal(mine, once_more)
        bound = 1e-4 if dtype == torch.float32 else 0.1
        assert (mine - value).abs().max() <= bound * value.abs().max()


@pytest.mark.parametrize("kind", ["full", "pooled_logit_bias", "windowed"])
@pytest.mark.parametrize("num_features", [1, 5])
def test_objects_attend_to_memories_alike_one_by_one_some_at_a_time_and_all_at_once(kind, num_features, monkeypatch):
    torch.manual_seed(0)
    config = tiny_config().memory_attention_config
    config.cross_attention, config.window_size = kind, 4
    attention = EfficientTamMemoryAttention(config).eval()
    features = torch.randn(num_features, 64, 8, 8)
    memories = (torch.randn(5, 3, 64, 16), torch.randn(5, 3, 1, 16), torch.randn(5, 2, 64))
    begun = []
    attention.layers[0].self_attn.register_forward_hook(lambda module, arguments, output: begun.append(len(output)))
    with torch.no_grad():
        together = attention(features, *memories)
        monkeypatch.setattr(cpu_kernels, "OBJECT_TOKENS_AT_A_TIME", 128)  # those of two
        in_parts = attention(features, *memories)
        rows = [slice(i, i + 1) for i in range(5)]
        alone = [attention(features[r] if num_features > 1 else features, *(x[r] for x in memories)) for r in rows]
    assert begun == [num_features, num_features] + 5 * [1]  # once for all that have the same features
    torch.testing.assert_close(in_parts, together, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["full", "pooled_logit_bias", "pooled_key_shift", "windowed"])
@pytest.mark.parametrize("num_memories", [1, 3])
def test_memories_taken_one_by_one_give_what_all_at_once_give(kind, num_memories, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "MEMORY_TOKENS_AT_A_TIME", 64)  # those of one
    torch.manual_seed(0)
    config = tiny_config().memory_attention_config
    config.cross_attention, config.window_size = kind, 4
    attention = EfficientTamMemoryAttention(config).eval()
    side = 8
    features = torch.randn(2, config.hidden_size, side, side)
    memory = torch.randn(2, num_memories, side * side, config.memory_size)
    temporal = torch.randn(2, num_memories, 1, config.memory_size)
    pointers = torch.randn(2, 2, config.hidden_size)
    with torch.no_grad(), CHOICES.setting("plain"):
        whole = attention(features, memory, temporal, pointers)
    with torch.no_grad(), CHOICES.setting("parts.float32=parts"):
        parts = attention(features, memory, temporal, pointers)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ constants


def test_constants_of_a_resolution_are_kept_and_can_be_trained_with():
    constants, args = Constants(), ((5, 7), 16, 10000.0, torch.device("cpu"))
    with torch.inference_mode():
        first = constants.of(sine_position_encoding, *args)
    assert constants.of(sine_position_encoding, *args) is first
    scale = torch.ones(1, requires_grad=True)
    (first * scale).sum().backward()
    assert scale.grad is not None
    for other in (Constants(), copy.deepcopy(constants), pickle.loads(pickle.dumps(constants))):
        assert other.of(sine_position_encoding, *args) is not first  # each model has its own


def test_constants_are_bounded():
    constants = Constants()
    for size in range(100):
        constants.of(torch.full, (2,), float(size))
        assert len(constants._kept) <= Constants.MOST


def test_tensors_without_numbers_are_not_kept_nor_given_those_that_are():
    constants = Constants()
    with FakeTensorMode():
        assert isinstance(constants.of(torch.full, (2,), 3.0), FakeTensor)
    assert constants.of(torch.full, (2,), 3.0).tolist() == [3.0, 3.0]
    with FakeTensorMode():
        assert isinstance(constants.of(torch.full, (2,), 3.0), FakeTensor)


# ------------------------------------------------------------------------------------------------------ the choice


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache directory of its own, and measuring as it is by default."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.delenv("EFFICIENTTAM_KERNELS", raising=False)
    return tmp_path / "efficienttam"


def slow_and_quick(calls: list[str]) -> dict[str, Operation]:
    """An operation whose plain way is slow, and another whose plain way is not."""

    def example(slow):
        def make(choice, dtype):
            def call():
                calls.append(choice)
                end = time.thread_time() + (0.004 if choice == slow else 0.001)
                while time.thread_time() < end:  # this also takes that long on a clock
                    pass

            return call

        return make

    candidates = {"float32": ("plain", "other")}
    return {
        "first": Operation(candidates, example("plain")),
        "second": Operation(candidates, example("other"), {"float32": {capability(): "other"}}),
    }


def test_what_is_faster_is_chosen_and_kept_for_the_next_process(cache):
    calls = []
    choices = KernelChoices(slow_and_quick(calls))
    assert choices.of("first", torch.float32, measure=True) == "other"
    assert choices.of("second", torch.float32, measure=True) == "plain"
    assert calls
    content = json.loads(cache_file("float32").read_text())
    assert content["choices"] == {"first": "other", "second": "plain"}
    assert content["machine"]["torch"] == torch.__version__
    assert [path.name for path in cache.iterdir()] == [cache_file("float32").name]  # nothing half-written beside it

    again = []
    assert KernelChoices(slow_and_quick(again)).of("first", torch.float32, measure=True) == "other"
    assert not again


def test_the_first_process_to_finish_decides_for_all(cache):
    operations = slow_and_quick([])
    slower = KernelChoices(operations)
    measured_apart = slower._measure_apart

    def another_process_is_first(dtype):
        found = measured_apart(dtype)
        content = {"choices": {"first": "plain", "second": "other"}, "milliseconds": {}}
        cache_file("float32").write_text(json.dumps(content))
        return found

    slower._measure_apart = another_process_is_first
    assert slower.of("first", torch.float32, measure=True) == "plain"
    assert slower.of("second", torch.float32, measure=True) == "other"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"choices": {"first": "gone"}, "milliseconds": {}}', '{"choices": 3, "milliseconds": {}}'],
)
def test_a_damaged_file_is_measured_anew(content, cache):
    cache.mkdir()
    cache_file("float32").write_text(content)
    assert KernelChoices(slow_and_quick([])).of("first", torch.float32, measure=True) == "other"
    assert json.loads(cache_file("float32").read_text())["choices"]["first"] == "other"


def test_without_a_cache_that_can_be_written_nothing_is_measured(cache, monkeypatch):
    cache.write_text("a file where the folder should be")
    calls = []
    choices = KernelChoices(slow_and_quick(calls))
    assert choices.of("first", torch.float32, measure=True) == "plain"
    assert choices.of("second", torch.float32, measure=True) == "other"  # by what the processor has
    assert not calls


def test_a_way_that_cannot_be_measured_stops_nobodys_work(cache):
    def broken(choice, dtype):
        raise RuntimeError("no such instruction")

    candidates = {"float32": ("plain", "other")}
    choices = KernelChoices({"first": Operation(candidates, broken, {"float32": {capability(): "other"}})})
    with pytest.warns(UserWarning, match="could not be measured .RuntimeError: no such instruction.; the default"):
        assert choices.of("first", torch.float32, measure=True) == "other"
    assert not cache_file("float32").exists()


def test_what_is_measured_depends_on_threads_and_versions(cache, monkeypatch):
    before = torch.get_num_threads()
    files = {cache_file("float32"), cache_file("bfloat16")}
    torch.set_num_threads(before + 1)
    try:
        files.add(cache_file("float32"))
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(torch, "__version__", "0.0")
    files.add(cache_file("float32"))
    assert len(files) == 4


@pytest.mark.parametrize(
    ("value", "first", "second"),
    [
        ("plain", "plain", "plain"),
        ("capability", "plain", "other"),
        ("first.float32=other", "other", "other"),
        ("first.float32=other, second.float32=plain", "other", "plain"),
    ],
)
def test_the_environment_variable_forces_choices(value, first, second, cache, monkeypatch):
    monkeypatch.setenv("EFFICIENTTAM_KERNELS", value)
    calls = []
    choices = KernelChoices(slow_and_quick(calls))
    assert choices.of("first", torch.float32, measure=True) == first
    assert choices.of("second", torch.float32, measure=True) == second
    assert not calls and not cache.exists()


@pytest.mark.parametrize(
    "value", ["fast", "first=other", "first.float32=quick", "third.float32=plain", "first.float16=plain"]
)
def test_a_wrong_value_of_the_variable_names_what_is_accepted(value):
    with pytest.raises(ValueError, match=r"accepted are plain, measured, capability.*first.float32=plain\|other"):
        parse(value, slow_and_quick([]))


def test_nothing_is_measured_where_gradients_are_recorded_or_a_graph_is_traced(cache, monkeypatch):
    monkeypatch.setattr(kernel_choice, "measure", None)  # calling it fails
    tokens, weight = torch.randn(300, 96), torch.randn(40, 96, requires_grad=True)
    with CHOICES.setting("measured"):
        linear(tokens, weight).sum().backward()
        with torch.no_grad():
            torch.export.export(torch.nn.Linear(96, 40), (tokens,))
            with torch.autocast("cpu", torch.bfloat16):
                linear(tokens, weight)
    assert not cache.exists()


def test_measuring_is_not_seen_by_what_watches_the_caller(cache):
    with FakeTensorMode(), CHOICES.setting("measured"):
        found = KernelChoices(slow_and_quick([])).of("first", torch.float32, measure=True)
    assert found == "other"


def test_importing_allocates_and_measures_nothing(tmp_path):
    code = (
        "import torch, threading; torch.empty = None; before = threading.active_count(); import efficienttam_hf; "
        "from efficienttam_hf import cpu_kernels; assert not cpu_kernels.CHOICES._chosen; "
        "assert threading.active_count() == before"
    )
    environment = {"XDG_CACHE_HOME": str(tmp_path), "EFFICIENTTAM_KERNELS": "measured"}
    subprocess.run([sys.executable, "-c", code], env=os.environ | environment, check=True, timeout=300)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_chosen_by_measuring_is_no_slower_than_what_is_preferred(dtype):
    with torch.no_grad():
        found = measure(OPERATIONS, dtype)
    for name, operation in OPERATIONS.items():
        times = found.milliseconds[name]
        assert set(times) <= set(operation.candidates[dtype])
        if found.choices[name] != operation.preferred:
            assert times[found.choices[name]] <= 1.1 * times[operation.preferred]


def test_each_linear_candidate_is_known():
    assert set(LINEAR) == {choice for choices in OPERATIONS["linear"].candidates.values() for choice in choices}


def test_a_candidate_that_this_build_of_torch_lacks_is_not_taken(cache):
    def example(choice, dtype):
        def call():
            if choice == "other":
                raise RuntimeError("could not create a primitive descriptor")

        return call

    operations = {"first": Operation({"float32": ("plain", "other")}, example)}
    assert KernelChoices(operations).of("first", torch.float32, measure=True) == "plain"
