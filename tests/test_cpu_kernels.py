"""Products and attention as a CPU does them fastest are those of PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from reference import tiny_config
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from efficienttam_hf import cpu_kernels, modeling_efficienttam_memory
from efficienttam_hf.cpu_kernels import attend_by_rows, by_tokens, linear, rows_are_faster
from efficienttam_hf.modeling_efficienttam_layers import constant, sine_position_encoding
from efficienttam_hf.modeling_efficienttam_memory import EfficientTamMemoryAttention


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(700, 48), (2, 350, 48), (1, 3, 48), (0, 48)])
def test_linear_is_pytorchs(threads, shape):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(shape, generator=generator)
    weight, bias = torch.randn(40, 48, generator=generator), torch.randn(40, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for given in (bias, None):
            torch.testing.assert_close(
                linear(tokens, weight, given), F.linear(tokens, weight, given), atol=1e-5, rtol=1e-5
            )
    finally:
        torch.set_num_threads(before)


def test_linear_takes_strided_tokens_and_gives_gradients():
    weight = torch.randn(24, 64, requires_grad=True)
    tokens = torch.randn(1, 64, 500).transpose(1, 2).requires_grad_()
    gradients = [
        torch.autograd.grad(product(tokens, weight).square().mean(), (tokens, weight)) for product in (linear, F.linear)
    ]
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("many_keys", [False, True])
@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_by_rows_is_the_fused_one(monkeypatch, many_keys, width, biased):
    if many_keys:  # as at 1024 pixels: blocks of keys, and a last one that is smaller
        monkeypatch.setattr(cpu_kernels, "MANY_KEYS", 256)
        monkeypatch.setattr(cpu_kernels, "KEYS_AT_A_TIME", 200)
    monkeypatch.setattr(cpu_kernels, "LARGEST_SCORES", 2**15)
    query, key = 5 * torch.randn(2, 3, 330, 32), torch.randn(2, 330, 3, 32).transpose(1, 2)
    value = torch.randn(2, 3, 330, width)
    bias = torch.linspace(-3, 3, 330) if biased else None
    ours = attend_by_rows(query, key, value, 0.2, bias)
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


def test_gradients_go_through_pytorchs_attention():
    query, key = torch.randn(1, 1, 512, 8, requires_grad=True), torch.randn(1, 1, 512, 8)
    assert not rows_are_faster(query, key)
    with torch.no_grad():
        assert rows_are_faster(query, key) == cpu_kernels.uses_onednn(query)


def test_constants_of_a_resolution_are_kept_and_can_be_trained_with():
    with torch.inference_mode():
        first = sine_position_encoding((5, 7), 16, 10000.0, torch.device("cpu"))
    assert sine_position_encoding((5, 7), 16, 10000.0, torch.device("cpu")) is first
    scale = torch.ones(1, requires_grad=True)
    (first * scale).sum().backward()
    assert scale.grad is not None
    assert constant(torch.full)((2,), 3.0).tolist() == [3.0, 3.0]


def test_tensors_without_numbers_are_not_kept_nor_given_those_that_are():
    full = constant(torch.full)
    with FakeTensorMode():
        assert isinstance(full((2,), 3.0), FakeTensor)
    assert full((2,), 3.0).tolist() == [3.0, 3.0]
    with FakeTensorMode():
        assert isinstance(full((2,), 3.0), FakeTensor)


def test_a_function_of_tokens_may_see_some_at_a_time():
    seen = []

    def double(tokens):
        seen.append(tokens.shape[-2])
        return 2 * tokens

    tokens = torch.randn(2, cpu_kernels.TOKENS_AT_A_TIME + 76, 3)
    with torch.no_grad():
        torch.testing.assert_close(by_tokens(double, tokens), 2 * tokens, rtol=0, atol=0)
    assert max(seen) <= cpu_kernels.TOKENS_AT_A_TIME < sum(seen)
    assert by_tokens(double, tokens.requires_grad_()).requires_grad  # all at once where gradients flow
    assert seen[-1] == tokens.shape[-2]


@pytest.mark.parametrize("kind", ["full", "pooled_logit_bias", "pooled_key_shift", "windowed"])
@pytest.mark.parametrize("num_memories", [1, 3])
def test_memories_taken_one_by_one_give_what_all_at_once_give(kind, num_memories, monkeypatch):
    monkeypatch.setattr(modeling_efficienttam_memory, "MEMORY_TOKENS_AT_A_TIME", 64)  # those of one
    torch.manual_seed(0)
    config = tiny_config().memory_attention_config
    config.cross_attention, config.window_size = kind, 4
    attention = EfficientTamMemoryAttention(config).eval()
    side = 8
    features = torch.randn(2, config.hidden_size, side, side)
    memory = torch.randn(2, num_memories, side * side, config.memory_size)
    temporal = torch.randn(2, num_memories, 1, config.memory_size)
    pointers = torch.randn(2, 2, config.hidden_size)
    whole = attention(features, memory, temporal, pointers).detach()
    with torch.no_grad():
        parts = attention(features, memory, temporal, pointers)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
