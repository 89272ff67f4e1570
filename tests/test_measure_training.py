"""`scripts/measure_training.py`: what it counts, and that both ways print a table."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from reference import tiny_config
from torch._subclasses.fake_tensor import FakeTensorMode

from efficienttam_hf import EfficientTamConfig


@pytest.fixture
def script(monkeypatch):
    """The script, with the tiny model for every preset."""
    path = Path(__file__).resolve().parents[1] / "scripts" / "measure_training.py"
    spec = importlib.util.spec_from_file_location("measure_training", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(EfficientTamConfig, "from_preset", classmethod(lambda cls, name: tiny_config()))
    return module


def last_row(capsys) -> list[str]:
    return [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]


def test_bytes_count_while_a_tensor_lives(script):
    usage = script.Usage()
    with FakeTensorMode(), usage:
        first = torch.zeros(1000, 256)  # 1,024,000 bytes
        view = first.view(-1)
        second = first + 1
        assert usage.live == 2_048_000
        del second
        assert usage.live == 1_024_000
        del first
        assert usage.live == 1_024_000
        del view
        assert usage.live == 0
    assert usage.peak == 2_048_000


def test_attention_counts_as_the_fused_kernel_does_not_as_its_matrix_of_weights(script):
    usage = script.Usage()
    with FakeTensorMode(), script.as_on_cuda(), usage:
        query = torch.zeros(1, 1, 4096, 64, dtype=torch.bfloat16, requires_grad=True)  # 0.5 MB; the weights were 34 MB
        torch.nn.functional.scaled_dot_product_attention(query, query, query).sum().backward()
    assert usage.peak < 4e6
    assert usage.flops == pytest.approx(7 * 2 * 4096**2 * 64)  # two products forward, five backward


@pytest.mark.parametrize(
    "arguments", [["--device", "cpu", "--steps", "1"], pytest.param(["--compute"], marks=pytest.mark.slow)]
)
def test_both_ways_print_a_row(script, arguments, capsys):
    script.main(["--preset", "efficienttam_ti", "--num-frames", "2", "--objects", "1", *arguments])
    name, parameters, memory, cost = last_row(capsys)
    assert (name, parameters) == ("efficienttam_ti", "1.3 M")
    assert 0 < float(memory) < 2
    assert float(cost) >= 0
