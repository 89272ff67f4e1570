"""`scripts/measure_training.py`: what it counts, and that both ways print a table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reference import tiny_config
from script_files import load_script
from torch._subclasses.fake_tensor import FakeTensorMode

from efficienttam_hf import EfficientTamConfig


@pytest.fixture
def script(monkeypatch):
    """The script, with the tiny model for every preset."""
    module = load_script("measure_training")
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


SMALL = ["--preset", "efficienttam_ti", "--num-frames", "2", "--objects", "1"]


def check_row(row: list[str]) -> None:
    name, parameters, memory, cost = row
    assert (name, parameters) == ("efficienttam_ti", "1.3 M")
    assert 0 < float(memory) < 2
    assert float(cost) >= 0


@pytest.mark.slow
def test_a_measured_step_is_a_row(script):
    # In a process of its own: what is measured is how much more memory the process ever had.
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "import measure_training\n"
        "from reference import tiny_config\n"
        "from efficienttam_hf import EfficientTamConfig\n"
        "EfficientTamConfig.from_preset = classmethod(lambda cls, name: tiny_config())\n"
        "measure_training.main(sys.argv[3:])\n"
    )
    folders = [str(Path(script.__file__).parent), str(Path(__file__).parent)]
    arguments = [*folders, *SMALL, "--device", "cpu", "--steps", "1"]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    check_row([cell.strip() for cell in result.stdout.splitlines()[-1].strip("|").split("|")])


@pytest.mark.slow
def test_a_computed_step_is_a_row(script, capsys):
    script.main([*SMALL, "--compute"])
    check_row(last_row(capsys))
