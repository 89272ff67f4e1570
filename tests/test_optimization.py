"""How weights move: rates and decay by name, the schedule, freezing, the running average, low-rank adapters."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from reference import tiny_config
from torch import nn

from efficienttam_hf import EfficientTamConfig, EfficientTamVideoModel
from efficienttam_hf.configuration_efficienttam import PRESETS, SMALL_PRESETS
from efficienttam_hf.training.config import ConfigError, LoraOptions, OptimizerOptions, StageOptions
from efficienttam_hf.training.models import enable_activation_checkpointing
from efficienttam_hf.training.optimization import (
    RunningAverage,
    add_adapters,
    freeze,
    merged_weights,
    parameter_groups,
    rate_at,
)


STAGE = StageOptions(learning_rate=1e-3, vision_learning_rate=1e-4)
OPTIONS = OptimizerOptions(weight_decay=0.1, vision_layer_decay=0.5)


def make_model(seed: int = 0) -> EfficientTamVideoModel:
    """Four blocks, 128 pixels; weights large enough that outputs vary."""
    torch.manual_seed(seed)
    model = EfficientTamVideoModel(tiny_config())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model


def settings(module: nn.Module, options: OptimizerOptions = OPTIONS) -> dict[str, tuple[float, float]]:
    """(rate, decay) of every parameter that is in a group, by name."""
    groups = parameter_groups(module, STAGE, options)
    of = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(of) == sum(len(group["params"]) for group in groups)
    return {name: of[id(p)] for name, p in module.named_parameters() if id(p) in of}


def learning(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def two_frames(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every part at work: a click on one frame, tracked to the next."""
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    first, second = model.get_image_features(pixels).fpn_hidden_states[-1].split(1)
    points, labels = torch.tensor([[[40.0, 64.0]]]), torch.ones(1, 1, dtype=torch.int64)
    start = model.track_step(first, input_points=points, input_labels=labels)
    from efficienttam_hf import MemoryBank

    bank = MemoryBank(
        spatial=start.memory[:, None],
        temporal_index=torch.tensor([[0]]),
        object_pointers=start.object_pointer[:, None],
    )
    end = model.track_step(second, bank)
    return {"masks": end.multimask_logits, "iou": end.multimask_iou_scores, "memory": end.memory}


# ------------------------------------------------------------------------------------------------------------ groups


def test_every_parameter_has_the_rate_and_decay_its_name_says():
    model = make_model()
    found = settings(model)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        rate = 1e-3
        if name.startswith("vision_encoder.patch_embed."):
            rate = 1e-4 * 0.5**4
        elif name.startswith("vision_encoder.layers."):
            rate = 1e-4 * 0.5 ** (3 - int(name.split(".")[2]))
        elif name.startswith("vision_encoder.neck."):
            rate = 1e-4
        part = name.split(".")[-2] if "." in name else name
        is_embedding = any(word in name for word in ("position_embeddings", "positional_encoding", "no_memory_emb"))
        is_embedding |= any(word in part for word in ("token", "point_embed", "no_mask_embed", "no_object"))
        decay = 0.1 if parameter.ndim > 1 and not is_embedding else 0.0
        assert found[name] == (pytest.approx(rate), decay), name


@pytest.mark.parametrize(
    "name",
    [
        "memory_temporal_positional_encoding",
        "no_memory_embedding",
        "no_object_pointer",
        "vision_encoder.patch_embed.position_embeddings",
        "vision_encoder.layers.0.layer_norm1.weight",
        "mask_decoder.mask_tokens.weight",
        "prompt_encoder.point_embed.weight",
        "memory_encoder.fuser.0.scale",
        "memory_attention.layers.0.linear1.bias",
    ],
)
def test_norms_biases_embeddings_and_tokens_do_not_decay(name):
    assert settings(make_model())[name][1] == 0.0


def test_without_a_rate_of_its_own_the_image_encoder_has_that_of_the_rest():
    groups = parameter_groups(make_model(), StageOptions(learning_rate=2e-3), OptimizerOptions())
    assert {group["lr"] for group in groups} == {2e-3}


def test_a_wrapped_model_has_the_same_groups():
    model = make_model()
    tracker = nn.Module()
    tracker.model = model
    tracker.projection = nn.Conv2d(64, 32, 1, bias=False)  # a translator for a teacher learns as the rest does
    found = settings(tracker)
    assert found.pop("projection.weight") == (1e-3, 0.1)
    assert found == {f"model.{name}": value for name, value in settings(model).items()}


def test_frozen_parts_are_in_no_group_and_do_not_move():
    model = make_model().train()
    freeze(model, ["vision_encoder", "mask_decoder.mask_tokens", "no_memory_embedding"])
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    expected = ("vision_encoder.", "mask_decoder.mask_tokens.", "no_memory_embedding")
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(expected)}
    assert set(settings(model)) == learning(model)

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(model, STAGE, OPTIONS))
    sum(value.float().square().mean() for value in two_frames(model).values()).backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert not moved & frozen
    assert {"memory_attention.layers.0.linear1.weight", "mask_decoder.iou_token.weight"} <= moved


def test_freezing_what_is_not_there_names_the_parts():
    with pytest.raises(ConfigError, match="'backbone'.*vision_encoder.*memory_encoder"):
        freeze(make_model(), ["backbone"])


def test_a_model_that_is_frozen_whole_cannot_be_trained():
    model = make_model().requires_grad_(False)
    with pytest.raises(ConfigError, match="Nothing is left to learn"):
        parameter_groups(model, STAGE, OPTIONS)


# ---------------------------------------------------------------------------------------------------------- schedule


def test_the_rate_warms_up_then_follows_a_cosine():
    stage = StageOptions(steps=110, warmup_steps=10, final_rate=0.2)
    assert [rate_at(step, stage) for step in range(10)] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rate_at(10, stage) == 1.0
    assert rate_at(35, stage) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert rate_at(60, stage) == pytest.approx(0.6)
    assert rate_at(110, stage) == pytest.approx(0.2)


def test_a_stage_may_be_shorter_than_its_warm_up_or_have_none():
    assert rate_at(2, StageOptions(steps=3, warmup_steps=50)) == pytest.approx(3 / 50)
    assert rate_at(0, StageOptions(steps=1, warmup_steps=0)) == 1.0
    assert rate_at(10, StageOptions(steps=10, warmup_steps=10, final_rate=0.0)) == 1.0


# ---------------------------------------------------------------------------------------------------- running average


def test_the_running_average_is_the_recurrence_written_out():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = RunningAverage(model, decay=0.6)
    expected = model.weight.detach().double().clone()
    for n in range(1, 30):
        with torch.no_grad():
            model.weight.normal_()
        average.update(model)
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    torch.testing.assert_close(average.shadow["weight"].double(), expected, atol=1e-6, rtol=0)


def test_the_running_average_is_of_what_learns_and_in_float32():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).bfloat16()
    model[0].requires_grad_(False)
    average = RunningAverage(model, decay=0.9)
    assert set(average.shadow) == {"1.weight", "1.bias"}
    assert {value.dtype for value in average.shadow.values()} == {torch.float32}
    before = average.shadow["1.weight"].clone()
    with torch.no_grad():
        model[1].weight.fill_(1.0)
    assert torch.equal(average.shadow["1.weight"], before)
    average.update(model)
    torch.testing.assert_close(average.shadow["1.weight"], before + (1 - 2 / 11) * (1 - before))


def test_a_saved_average_goes_on_as_if_it_had_not_stopped(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    one = RunningAverage(model, decay=0.9)
    one.update(model)
    torch.save(one.state_dict(), tmp_path / "average.pt")
    other = RunningAverage(nn.Linear(3, 2), decay=0.9)
    other.load_state_dict(torch.load(tmp_path / "average.pt"))
    for _ in range(3):
        with torch.no_grad():
            model.weight.normal_()
        one.update(model)
        other.update(model)
    assert one.updates == other.updates == 4
    assert all(torch.equal(one.shadow[name], other.shadow[name]) for name in one.shadow)


# ----------------------------------------------------------------------------------------------------------- adapters


def adapted_model(**options) -> EfficientTamVideoModel:
    """A model with adapters that do something, as after some training."""
    model = make_model().eval()
    add_adapters(model, LoraOptions(rank=4, alpha=8.0, **options))
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.05)
    return model


def test_fresh_adapters_change_nothing_and_only_they_learn():
    pytest.importorskip("peft")
    model = make_model().eval()
    before = two_frames(model)
    count = sum(isinstance(m, nn.Linear) and n.split(".")[-1] in _TARGETS for n, m in model.named_modules())
    add_adapters(model, LoraOptions(rank=4))
    assert all(torch.equal(value, before[name]) for name, value in two_frames(model).items())
    assert len(learning(model)) == 2 * count
    assert all(".lora_" in name for name in learning(model))
    assert not any(p.requires_grad for p in model.mask_decoder.mask_tokens.parameters())


_TARGETS = LoraOptions().target_modules


def test_adapters_have_the_rates_of_the_layers_they_are_in():
    pytest.importorskip("peft")
    found = settings(adapted_model())
    assert found["vision_encoder.layers.1.attn.qkv.lora_A.default.weight"] == (pytest.approx(1e-4 * 0.25), 0.1)
    assert found["memory_attention.layers.0.self_attn.q_proj.lora_B.default.weight"] == (1e-3, 0.1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_adapter(checkpointing):
    pytest.importorskip("peft")
    model = adapted_model().train()
    if checkpointing:  # nothing before the first adapter learns
        enable_activation_checkpointing(model)
    sum(value.float().square().mean() for value in two_frames(model).values()).backward()
    without = {n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert not without


def test_adapters_of_frozen_parts_do_not_learn():
    pytest.importorskip("peft")
    model = adapted_model()
    freeze(model, ["vision_encoder"])
    assert learning(model)
    assert not any(name.startswith("vision_encoder.") for name in learning(model))


def test_merged_weights_give_what_the_adapted_model_gives_and_load_without_peft(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    model = adapted_model()
    expected, plain = two_frames(model), two_frames(make_model().eval())
    assert not torch.allclose(expected["masks"], plain["masks"], atol=1e-2)

    fresh = EfficientTamVideoModel(model.config)
    fresh.load_state_dict(merged_weights(model, model.state_dict()))
    fresh.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    loaded = EfficientTamVideoModel.from_pretrained(tmp_path).eval()
    for name, value in two_frames(loaded).items():
        torch.testing.assert_close(value, expected[name], atol=2e-4, rtol=1e-4)


def test_merging_takes_the_weights_it_is_given():
    pytest.importorskip("peft")
    model = adapted_model()
    weights = {n: torch.zeros_like(w) if ".lora_B." in n else w for n, w in model.state_dict().items()}
    merged = merged_weights(model, weights)
    original = make_model().state_dict()
    assert merged.keys() == original.keys()
    assert all(torch.equal(merged[name], original[name]) for name in original)


def test_a_model_without_adapters_is_merged_already():
    weights = make_model().state_dict()
    assert merged_weights(make_model(), weights) is weights


@pytest.mark.parametrize("preset", [*SMALL_PRESETS, *PRESETS])
def test_every_preset_has_the_default_targets(preset):
    pytest.importorskip("peft")
    with torch.device("meta"):
        model = EfficientTamVideoModel(EfficientTamConfig.from_preset(preset))
        add_adapters(model, LoraOptions(rank=2))
    parts = {name.split(".")[0] for name in learning(model)}
    assert parts == {"vision_encoder", "mask_decoder", "memory_attention"}


@pytest.mark.parametrize("target", ["query", "vision_encoder", "conv1", "layers.0"])
def test_a_target_that_is_no_linear_layer_is_named(target):
    pytest.importorskip("peft")
    model = make_model()
    with pytest.raises(ConfigError, match=f"lora.target_modules.*'{target}'.*linear2.*qkv"):
        add_adapters(model, LoraOptions(rank=2, target_modules=["qkv", target]))
    assert not any(".lora_" in name for name, _ in model.named_parameters())


def test_without_peft_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"efficienttam-hf\[lora\]"):
        add_adapters(make_model(), LoraOptions(rank=2))
