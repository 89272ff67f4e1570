"""The networks as PyTorch modules and Transformers models: gradients, precision, attention, compiling, saving."""

from __future__ import annotations

import pytest
import torch
from reference import tiny_config
from torch import Tensor, nn

from efficienttam_hf import (
    EfficientTamConfig,
    EfficientTamModel,
    EfficientTamTrackingOutput,
    EfficientTamVideoModel,
    EfficientTamVideoProcessor,
    MemoryBank,
)
from efficienttam_hf.modeling_efficienttam_layers import attend


CROSS_ATTENTION = ("full", "pooled_logit_bias", "pooled_key_shift", "windowed")


def make_model(cross_attention: str = "full", **vision) -> EfficientTamVideoModel:
    """A small video model whose outputs vary: fresh weights are so small that every mask is nearly constant."""
    config = tiny_config()
    config.memory_attention_config.cross_attention = cross_attention
    config.memory_attention_config.window_size = 4
    for name, value in vision.items():
        setattr(config.vision_config, name, value)
    torch.manual_seed(0)
    model = EfficientTamVideoModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
        for block in model.memory_encoder.fuser:
            block.scale.fill_(1.0)
        # Objects are there.
        model.mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(10.0)
    return model


def make_frames(count: int = 3) -> Tensor:
    """Processed frames (count, 3, 128, 128)."""
    return torch.randn(count, 3, 128, 128, generator=torch.Generator().manual_seed(1))


def encode(model: EfficientTamVideoModel, frames: Tensor) -> tuple[Tensor, ...]:
    """Each frame's features, (1, C, H, W)."""
    return model.get_image_features(frames).fpn_hidden_states[-1].split(1)


def remember(model: EfficientTamVideoModel, outputs: list[EfficientTamTrackingOutput]) -> MemoryBank:
    """A bank of the first frame, which was prompted, and of those tracked after it."""
    tracked = len(outputs) - 1
    index = torch.tensor([model.config.num_maskmem - 1, *range(tracked - 1, -1, -1)])
    batch_size = len(outputs[0].memory)
    return MemoryBank(
        spatial=torch.stack([output.memory for output in outputs], dim=1),
        temporal_index=index.to(outputs[0].memory.device).expand(batch_size, -1),
        object_pointers=torch.stack([output.object_pointer for output in outputs], dim=1),
    )


def click(model: EfficientTamVideoModel, features: Tensor, rows: slice = slice(None)) -> EfficientTamTrackingOutput:
    """Two objects on a frame, from a click each; `rows` of them."""
    points = torch.tensor([[[40.0, 64.0]], [[90.0, 30.0]]])[rows]
    return model.track_step(features, input_points=points, input_labels=torch.ones(len(points), 1, dtype=torch.int64))


def track(model: EfficientTamVideoModel, frames: Tensor, rows: slice = slice(None)) -> list[EfficientTamTrackingOutput]:
    """Click on the first frame, then track through the others."""
    features = encode(model, frames)
    outputs = [click(model, features[0], rows)]
    for frame_features in features[1:]:
        outputs.append(model.track_step(frame_features, remember(model, outputs)))
    return outputs


def total(outputs: list[EfficientTamTrackingOutput]) -> Tensor:
    """A loss that every output has a part in."""
    return sum(value.float().square().mean() for output in outputs for value in output.values())


def assert_alike(
    ours: list[EfficientTamTrackingOutput], theirs: list[EfficientTamTrackingOutput], **tolerances
) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        for name in other:
            torch.testing.assert_close(mine[name], other[name], **tolerances, msg=lambda m, name=name: f"{name}: {m}")


# ------------------------------------------------------------------------------------------------ the tracking step


@pytest.mark.parametrize("kind", CROSS_ATTENTION)
def test_objects_of_a_batch_do_not_see_each_other(kind):
    model, frames = make_model(kind), make_frames()
    with torch.no_grad():
        both = track(model, frames)
        for i in range(2):
            alone = track(model, frames, slice(i, i + 1))
            of_both = [EfficientTamTrackingOutput(**{k: v[i : i + 1] for k, v in o.items()}) for o in both]
            assert_alike(alone, of_both, rtol=1e-3, atol=1e-3)


def test_track_step_says_what_it_promises():
    model = make_model()
    with torch.no_grad():
        first, second, _ = track(model, make_frames())
    for output in (first, second):
        assert output.pred_masks.shape == (2, 1, 32, 32)
        assert output.high_res_masks.shape == (2, 1, 128, 128)
        assert output.high_res_masks.dtype == torch.float32
        assert output.iou_scores.shape == output.object_score_logits.shape == (2, 1)
        assert output.object_pointer.shape == (2, 64)
        assert output.memory.shape == (2, 64, 16)
    # One click is ambiguous: three proposals, and the best is the result.
    assert first.multimask_logits.shape == (2, 3, 32, 32)
    best = first.multimask_iou_scores.argmax(1)
    chosen = first.multimask_logits[torch.arange(2), best]
    present = first.object_score_logits > 0
    assert torch.equal(first.pred_masks[:, 0], torch.where(present[..., None], chosen, model.config.no_object_score))
    with torch.no_grad():
        assert model.track_step(encode(model, make_frames(1))[0], encode_memory=False).memory is None


def test_gradients_flow_through_three_frames_to_every_weight():
    model = make_model().train()
    features = encode(model, make_frames())
    clicked = click(model, features[0])
    masks = torch.zeros(2, 1, 128, 128)
    masks[0, :, 30:80, 40:90] = 1  # the second one's object is not there
    masked = model.track_step(features[0], input_masks=masks)
    first = EfficientTamTrackingOutput(
        memory=torch.cat([clicked.memory, masked.memory]),
        object_pointer=torch.cat([clicked.object_pointer, masked.object_pointer]),
    )
    # A box, a positive, a negative and an absent point, and a mask to correct.
    points = torch.tensor([[20.0, 20], [90, 90], [50, 50], [10, 100], [0, 0]]).expand(4, -1, -1)
    labels = torch.tensor([2, 3, 1, 0, -1]).expand(4, -1)
    previous = torch.cat([clicked.pred_masks, masked.pred_masks])
    second = model.track_step(features[1], remember(model, [first]), points, labels, previous_masks=previous)
    third = model.track_step(features[2], remember(model, [first, second]))
    total([third]).backward()

    # Nothing in the published model uses it; its checkpoints carry it.
    unused = {"no_memory_positional_encoding"}
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert without == unused


def test_gradients_reach_the_first_frames_pixels():
    model, frames = make_model(), make_frames().requires_grad_()
    track(model, frames)[-1].pred_masks.mean().backward()
    assert all(gradient.abs().sum() > 0 for gradient in frames.grad)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(use_reentrant):
    model, frames = make_model(), make_frames().requires_grad_()
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.config.memory_attention_config.attention_dropout = 0.0

    def gradients():
        model.zero_grad()
        total(track(model, frames)).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    # Later versions of Transformers have it by another name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})
    assert all(layer.gradient_checkpointing for layer in model.memory_attention.layers)
    checkpointed = gradients()
    assert plain.keys() == checkpointed.keys()
    largest = max(gradient.abs().max().item() for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-3, atol=1e-6 * largest)


def test_attention_that_learns_in_bfloat16_on_a_cpu_is_computed_in_float32():
    """Its gradients are those of float32 attention on the same bfloat16 numbers, and results keep their dtype."""
    module = torch.nn.Module()
    module.config = tiny_config().memory_attention_config
    module.config._attn_implementation = "sdpa"
    inputs = [torch.randn(1, 2, 40, 8).bfloat16().requires_grad_() for _ in range(3)]
    exact = [x.detach().float().requires_grad_() for x in inputs]
    bias = torch.randn(1, 1, 1, 40).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = attend(module, *inputs, bias)
    expected, _ = attend(module, *exact, bias.float())
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected.bfloat16())
    weights = torch.randn(output.shape).bfloat16().float()
    (output.float() * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, theirs in zip(inputs, exact, strict=True):
        assert torch.equal(mine.grad, theirs.grad.bfloat16())


@pytest.mark.parametrize("name", ["features", "input_masks", "previous_masks"])
def test_maps_of_another_size_are_refused_with_both_sizes(name):
    model, size = make_model().eval(), 96
    maps = {
        "features": torch.zeros(1, 64, 8, 8),
        "input_masks": torch.zeros(1, 1, 128, 128) if name == "input_masks" else None,
        "previous_masks": torch.zeros(1, 1, 32, 32),
    }
    scale = {"features": 16, "input_masks": 1, "previous_masks": 4}[name]
    maps[name] = torch.zeros(*maps[name].shape[:2], size // scale, size // scale)
    with pytest.raises(
        ValueError, match=f"`{name}` is {size // scale}x{size // scale} .* of 128x128 pixels it must be"
    ):
        model.track_step(**maps)


def test_dropout_and_stochastic_depth_act_in_training_only():
    model, frames = make_model(drop_path_rate=0.5, hidden_dropout=0.1), make_frames(2)
    with torch.no_grad():
        assert torch.equal(track(model, frames)[1].pred_masks, track(model, frames)[1].pred_masks)
        model.train()
        assert not torch.equal(track(model, frames)[1].pred_masks, track(model, frames)[1].pred_masks)


# ------------------------------------------------------------------------------------- precision, attention, compiling


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype):
    model, frames = make_model(), make_frames()
    with torch.no_grad():
        expected = track(model, frames)
        half = track(model.to(dtype), frames)
    for mine, other in zip(half, expected, strict=True):
        assert mine.pred_masks.dtype == mine.memory.dtype == dtype
        for name in ("multimask_logits", "object_pointer", "memory", "iou_scores"):
            assert mine[name].isfinite().all()
        # Not compared by value: choosing the best of three masks may turn on a rounding.
        error = (mine.object_score_logits.float() - other.object_score_logits).abs().max()
        assert error < 0.1 * other.object_score_logits.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_session_runs_in_half_precision(dtype):
    model = make_model().to(dtype)
    processor = EfficientTamVideoProcessor.from_config(model.config)
    video = (make_frames(3).clamp(-1, 1) * 127 + 128).to(torch.uint8)
    session = processor.init_video_session(video=video, dtype=dtype)
    processor.add_inputs_to_inference_session(session, 0, 1, input_points=[[[[60, 60]]]], input_labels=[[[1]]])
    for output in model.propagate_in_video_iterator(session):
        assert output.pred_masks.isfinite().all()


@pytest.mark.parametrize("kind", CROSS_ATTENTION)
def test_eager_and_sdpa_attention_agree(kind):
    model, frames = make_model(kind), make_frames()
    with torch.no_grad():
        model.set_attn_implementation("eager")
        assert model.vision_encoder.config._attn_implementation == "eager"
        assert model.mask_decoder.config._attn_implementation == "eager"
        assert model.memory_attention.config._attn_implementation == "eager"
        eager = track(model, frames)
        model.set_attn_implementation("sdpa")
        assert model.config._attn_implementation == "sdpa"
        assert_alike(track(model, frames), eager, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CROSS_ATTENTION)
def test_flex_attention_agrees(kind):
    model, frames = make_model(kind), make_frames()
    with torch.no_grad():
        expected = track(model, frames)
        model.set_attn_implementation("flex_attention")
        assert_alike(track(model, frames), expected, rtol=1e-3, atol=1e-3)


def test_attention_weights_come_out_where_asked_for():
    model = EfficientTamModel._from_config(tiny_config(), attn_implementation="eager").eval()
    with torch.no_grad():
        output = model(make_frames(1), output_attentions=True, output_hidden_states=True)
    assert len(output.vision_attentions) == 4
    assert len(output.vision_hidden_states) == 5
    for weights in (*output.vision_attentions, *output.mask_decoder_attentions):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@pytest.mark.slow
def test_the_image_encoder_compiles_to_one_graph():
    model, frames = make_model(), make_frames(1)
    with torch.no_grad():
        expected = model.vision_encoder(frames)
        compiled = torch.compile(model.vision_encoder, fullgraph=True)(frames)
    torch.testing.assert_close(compiled.fpn_hidden_states[-1], expected.fpn_hidden_states[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CROSS_ATTENTION)
def test_the_tracking_step_compiles_to_one_graph(kind):
    torch.compiler.reset()  # or what other kinds were compiled for counts against the limit on variants
    model, frames = make_model(kind), make_frames()
    with torch.no_grad():
        expected = track(model, frames)
        backend = "inductor" if kind == "full" else "aot_eager"  # whether it is one graph is seen without C++
        model.track_step = torch.compile(model.track_step, fullgraph=True, backend=backend)
        assert_alike(track(model, frames), expected, rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------------------------------------- sizes, loading, saving


@pytest.mark.parametrize("size", [(128, 192), (96, 64)])
def test_inputs_need_not_be_square(size):
    config = tiny_config()
    config = type(config)(**{**config.to_dict(), "image_size": list(size)})
    model = EfficientTamVideoModel(config).eval()
    with torch.no_grad():
        features = encode(model, torch.randn(2, 3, *size))
        first = click(model, features[0])
        second = model.track_step(features[1], remember(model, [first]))
    assert second.high_res_masks.shape == (2, 1, *size)
    assert second.pred_masks.shape == (2, 1, size[0] // 4, size[1] // 4)


def test_a_checkpoint_is_loaded_at_another_input_size(tmp_path):
    make_model().save_pretrained(tmp_path)
    model = EfficientTamVideoModel.from_pretrained(tmp_path, image_size=96).eval()
    with torch.no_grad():
        output = click(model, encode(model, torch.randn(1, 3, 96, 96))[0])
    assert output.high_res_masks.shape == (2, 1, 96, 96)
    assert EfficientTamConfig.from_pretrained(tmp_path).image_size == tiny_config().image_size


def test_pixels_that_do_not_fit_are_refused_by_name():
    model = EfficientTamModel(tiny_config())
    with pytest.raises(ValueError, match=r"\(1, 3, 100, 128\).*multiples of 16"):
        model(torch.zeros(1, 3, 100, 128))
    with pytest.raises(ValueError, match="Exactly one of pixel_values or image_embeddings"):
        model()


def test_weights_are_loaded_from_shards(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded = EfficientTamVideoModel.from_pretrained(tmp_path)
    for (name, ours), theirs in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_one_folder_loads_into_both_models(tmp_path):
    model, frame = make_model(), make_frames(1)
    model.save_pretrained(tmp_path)
    image_model, info = EfficientTamModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        (embedding,) = image_model.eval().get_image_embeddings(frame)
        torch.testing.assert_close(embedding, model.add_no_memory(encode(model, frame)[0]))


@pytest.mark.parametrize("model_class", [EfficientTamModel, EfficientTamVideoModel])
def test_a_fresh_model_is_initialised_all_over(model_class):
    torch.manual_seed(0)
    model = model_class(tiny_config())
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        # Zeros are for biases alone: a zero weight would never get past its symmetry.
        assert parameter.any() or name.endswith("bias"), name
    if model_class is EfficientTamVideoModel:
        assert torch.equal(model.memory_encoder.fuser[0].scale, torch.full((64,), 1e-6))


def test_loading_in_half_precision_converts_all_weights(tmp_path):
    make_model().save_pretrained(tmp_path)
    model = EfficientTamVideoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
