"""Other image encoders than the plain ViT, and what configurations refuse before a network is made."""

from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from reference import tiny_config
from transformers import AutoModel, Dinov2WithRegistersConfig, HieraConfig

from efficienttam_hf import (
    EfficientTamBackboneConfig,
    EfficientTamConfig,
    EfficientTamVideoModel,
    EfficientTamVideoProcessor,
    EfficientTamVisionConfig,
)


BACKBONES = {
    "dinov2_with_registers": {
        "patch_size": 16,
        "image_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_register_tokens": 2,
    },
    # A pyramid, of which the third stage has the stride 16.
    "hiera": {
        "embed_dim": 16,
        "image_size": [128, 128],
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 2, 2, 4],
        "masked_unit_size": [8, 8],
        "out_features": ["stage3"],
    },
}


def with_backbone(kind: str, **overrides) -> EfficientTamConfig:
    """The tiny model with another image encoder, said as a `config.json` says it."""
    content = tiny_config().to_dict()
    content["vision_config"] = {
        "model_type": "efficienttam_backbone_model",
        "backbone_config": {"model_type": kind, **BACKBONES[kind]},
        "fpn_hidden_size": 64,
        **overrides,
    }
    return EfficientTamConfig.from_dict(content)


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_backbone_of_transformers_trains_tracks_and_comes_back(kind, tmp_path):
    torch.manual_seed(0)
    config = with_backbone(kind)
    model = EfficientTamVideoModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pixels = torch.randn(2, 3, 128, 128)
    target = torch.zeros(2, 1, 32, 32)
    target[..., 8:24, 8:24] = 1
    losses = []
    for _ in range(6):
        features = model.get_image_features(pixels, return_dict=True).fpn_hidden_states[-1]
        output = model.track_step(
            features, input_points=torch.full((2, 1, 2), 64.0), input_labels=torch.ones(2, 1, dtype=torch.long)
        )
        logits = output.multimask_logits.mean(1, keepdim=True)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    patches = model.get_input_embeddings()
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in patches.named_parameters() if "proj" in name)

    model.eval().save_pretrained(tmp_path)
    again = EfficientTamVideoModel.from_pretrained(tmp_path).eval()
    assert type(again.config.vision_config) is EfficientTamBackboneConfig
    processor = EfficientTamVideoProcessor.from_config(config)
    masks = []
    for tracker in (model, again, AutoModel.from_pretrained(tmp_path).eval()):
        session = processor.init_video_session(video=[torch.zeros(90, 120, 3, dtype=torch.uint8).numpy()] * 3)
        processor.add_inputs_to_inference_session(session, 0, 1, input_points=[[[[60, 40]]]], input_labels=[[[1]]])
        masks.append(torch.cat([output.pred_masks for output in tracker.propagate_in_video_iterator(session)]))
    assert masks[0].shape == (3, 1, 32, 32)
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])


def test_a_backbone_works_at_another_input_size():
    config = with_backbone("dinov2_with_registers")
    config.image_size = 192
    model = EfficientTamVideoModel(config).eval()
    with torch.no_grad():
        features = model.get_image_features(torch.randn(1, 3, 192, 192), return_dict=True)
    assert features.fpn_hidden_states[0].shape == (1, 64, 12, 12)
    assert features.last_hidden_state.shape == (1, 12, 12, 32)


def test_a_backbone_of_another_stride_says_so():
    config = tiny_config()
    backbone = Dinov2WithRegistersConfig(**{**BACKBONES["dinov2_with_registers"], "patch_size": 8})
    vision = EfficientTamBackboneConfig(backbone_config=backbone, image_size=128, fpn_hidden_size=64)
    content = {**config.to_dict(), "vision_config": vision}
    model = EfficientTamVideoModel(EfficientTamConfig(**{k: v for k, v in content.items() if k.endswith("_config")}))
    with pytest.raises(ValueError, match=r"last feature map is \(16, 16\).*patch_size \(16\) it is \(8, 8\)"):
        model.get_image_features(torch.randn(1, 3, 128, 128))


def test_an_encoder_that_is_none_is_refused():
    with pytest.raises(ValueError, match="vision_config has model_type 'hiera'; accepted is efficienttam_vision_model"):
        EfficientTamConfig(vision_config={"model_type": "hiera"})
    with pytest.raises(ValueError, match="vision_config is a HieraConfig; accepted is EfficientTamVisionConfig or"):
        EfficientTamConfig(vision_config=HieraConfig())
    with pytest.raises(ValueError, match="backbone_config says no model_type"):
        EfficientTamBackboneConfig(backbone_config={"hidden_size": 32})


# ------------------------------------------------------------------------------------------------------ image size


@pytest.mark.parametrize("size", [256, (128, 192), [64, 64]])
def test_an_image_size_set_later_is_that_of_all_parts(size):
    config = tiny_config()
    config.image_size = size
    assert config.vision_config.image_size == config.prompt_encoder_config.image_size == config.image_size == size
    height, width = (size, size) if isinstance(size, int) else size
    model = EfficientTamVideoModel(config).eval()
    with torch.no_grad():
        features = model.get_image_features(torch.randn(1, 3, height, width), return_dict=True).fpn_hidden_states[0]
        output = model.track_step(features)
    assert output.high_res_masks.shape == (1, 1, height, width)


@pytest.mark.parametrize("size", [100, 0, -16, 10**9, "128", (128, 100)])
def test_an_image_size_that_does_not_fit_is_refused_and_none_is_changed(size):
    config = tiny_config()
    with pytest.raises((ValueError, StrictDataclassFieldValidationError), match="image_size"):
        config.image_size = size
    assert config.image_size == config.vision_config.image_size == config.prompt_encoder_config.image_size == 128


def test_an_image_size_that_windows_do_not_divide_is_refused_and_none_is_changed():
    content = tiny_config().to_dict()
    content["memory_attention_config"] |= {"cross_attention": "windowed", "window_size": 4}
    config = EfficientTamConfig.from_dict(content)
    with pytest.raises(ValueError, match=r"window_size \(4\) must divide the feature map \(7, 7\)"):
        config.image_size = 112
    assert config.image_size == config.vision_config.image_size == config.prompt_encoder_config.image_size == 128


@pytest.mark.parametrize("part", ["vision_config", "prompt_encoder_config"])
def test_an_image_size_of_one_part_alone_is_refused_when_a_model_is_made(part):
    config = tiny_config()
    getattr(config, part).image_size = 256
    with pytest.raises(ValueError, match="Set `image_size` of EfficientTamConfig|Give `image_size`"):
        EfficientTamVideoModel(config)


# ---------------------------------------------------------------------------------------------------- absurd sizes


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("vision_config", "num_hidden_layers", 10**9),
        ("vision_config", "num_hidden_layers", 0),
        ("vision_config", "hidden_size", 10**9),
        ("vision_config", "hidden_size", -48),
        ("vision_config", "mlp_ratio", 1e12),
        ("vision_config", "patch_size", 0),
        ("vision_config", "pretrained_image_size", 10**7),
        ("prompt_encoder_config", "mask_input_channels", 10**9),
        ("prompt_encoder_config", "image_size", 10**6),
        ("mask_decoder_config", "num_hidden_layers", 10**9),
        ("mask_decoder_config", "mlp_dim", 10**10),
        ("mask_decoder_config", "iou_head_depth", 10**9),
        ("memory_attention_config", "num_hidden_layers", 10**9),
        ("memory_attention_config", "feed_forward_hidden_size", 10**12),
        ("memory_encoder_config", "fuser_num_layers", 10**9),
        ("memory_encoder_config", "mask_downsampler_total_stride", 2**40),
        (None, "num_maskmem", 10**9),
    ],
)
def test_a_config_file_of_an_absurd_size_is_refused_by_the_name_of_the_field(part, field, value, tmp_path):
    content = tiny_config().to_dict()
    (content if part is None else content[part])[field] = value
    if field == "image_size":
        del content["image_size"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{part or 'config'}.{field} is .*accepted is a (whole )?number from"):
        EfficientTamVideoModel.from_pretrained(tmp_path)


def test_sizes_that_are_too_large_together_are_refused():
    with pytest.raises(ValueError, match=r"num_hidden_layers \(256\) of vision_config.hidden_size \(8192\)"):
        EfficientTamVisionConfig(hidden_size=8192, num_hidden_layers=256, num_attention_heads=64)
