"""Distillation of image features: the teacher sees what it should, learns nothing, and the student comes nearer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reference import tiny_config
from script_files import load_script
from torch import nn
from transformers import (
    BitImageProcessor,
    Dinov2Config,
    Dinov2Model,
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
)

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.training.config import ConfigError, DistillationOptions
from efficienttam_hf.training.distillation import FeatureDistillation, check_teacher


SAM2_VISION = {
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 12,
        "embed_dim_per_stage": [12, 24, 48, 96],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "blocks_per_stage": [1, 1, 2, 1],
        "global_attention_blocks": [3],
        "image_size": [128, 128],
    },
    "backbone_channel_list": [96, 48, 24, 12],
    "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    "fpn_hidden_size": 32,
}
SAM2_PARTS = {
    "vision_config": SAM2_VISION,
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 128},
    "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 64, "iou_head_hidden_dim": 32},
}
SAM2_MEMORY = {
    "image_size": 128,
    "memory_attention_hidden_size": 32,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 64,
    "memory_encoder_hidden_size": 32,
    "memory_encoder_output_channels": 8,
    "mask_downsampler_embed_dim": 32,
    "memory_fuser_embed_dim": 32,
    "memory_fuser_intermediate_dim": 64,
    "memory_attention_rope_feat_sizes": [8, 8],
}


@pytest.fixture(scope="module")
def own_teacher(tmp_path_factory):
    """A folder with a model of ours, other weights than the student's; 160 pixels."""
    torch.manual_seed(7)
    config = tiny_config()
    config = type(config).from_dict(config.to_dict(), image_size=160)
    return save(EfficientTamVideoModel(config), EfficientTamVideoProcessor.from_config(config), tmp_path_factory)


@pytest.fixture(scope="module", params=["image", "video"])
def sam2_teacher(request, tmp_path_factory):
    """A folder with a SAM 2 of 32 channels, normalised in its own way."""
    torch.manual_seed(8)
    if request.param == "image":
        model = Sam2Model(Sam2Config(**SAM2_PARTS))
    else:
        model = Sam2VideoModel(Sam2VideoConfig(**SAM2_PARTS, **SAM2_MEMORY))
    processor = Sam2ImageProcessor(
        size={"height": 128, "width": 128}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.25, 0.3]
    )
    return save(model, processor, tmp_path_factory)


def save(model, processor, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def make_student(seed: int = 0) -> EfficientTamVideoModel:
    torch.manual_seed(seed)
    return EfficientTamVideoModel(tiny_config())


def make_images(count: int = 2) -> torch.Tensor:
    """Pixels from 0 to 1 that vary slowly, so that resizing changes little."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    return F.interpolate(coarse, size=(128, 128), mode="bilinear")


def make_pixels() -> torch.Tensor:
    """The same, normalised as the student's processor does."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (make_images() - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def features_of(model: EfficientTamVideoModel, pixels: torch.Tensor) -> torch.Tensor:
    return model.get_image_features(pixels).fpn_hidden_states[-1]


def losses_while_learning(teacher: str) -> list[float]:
    """The loss of each of 12 steps in which a student learns the same two images from a teacher."""
    student, pixels = make_student(), make_pixels()
    distillation = FeatureDistillation(DistillationOptions(teacher), student.config)
    optimizer = torch.optim.AdamW([*student.vision_encoder.parameters(), *distillation.parameters()], lr=1e-3)
    losses = []
    for _ in range(12):
        loss = distillation(pixels, features_of(student, pixels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_teacher_that_is_the_student_costs_nothing(tmp_path_factory):
    student = make_student()
    folder = save(student, EfficientTamVideoProcessor.from_config(student.config), tmp_path_factory)
    distillation = FeatureDistillation(DistillationOptions(folder), student.config)
    pixels = make_pixels()
    assert distillation(pixels, features_of(student, pixels)).item() == pytest.approx(0, abs=1e-5)
    assert distillation(pixels, -features_of(student, pixels)).item() == pytest.approx(2, abs=1e-5)


def test_the_loss_is_the_mean_cosine_distance_of_cells(own_teacher):
    student, pixels = make_student(), make_pixels()
    features = features_of(student, pixels)
    distillation = FeatureDistillation(DistillationOptions(own_teacher), student.config)
    teacher = EfficientTamVideoModel.from_pretrained(own_teacher)
    with torch.no_grad():
        target = features_of(teacher, F.interpolate(pixels, (160, 160), mode="bilinear", antialias=True))
    assert target.shape[-2:] == (10, 10)
    target = F.interpolate(target, (8, 8), mode="bilinear", antialias=True)
    distances = [
        1 - (a @ b / (a.norm() * b.norm())).item()
        for a, b in zip(features.movedim(1, -1).reshape(-1, 64), target.movedim(1, -1).reshape(-1, 64), strict=True)
    ]
    assert distillation(pixels, features).item() == pytest.approx(sum(distances) / len(distances), abs=1e-5)


def test_the_weight_is_in_the_loss(own_teacher):
    features = torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(2))
    one, three = (
        FeatureDistillation(DistillationOptions(own_teacher, weight), tiny_config())(make_pixels(), features)
        for weight in (1.0, 3.0)
    )
    assert three.item() == pytest.approx(3 * one.item())


def test_a_teacher_sees_frames_as_its_own_image_processor_makes_them(sam2_teacher):
    distillation = FeatureDistillation(DistillationOptions(sam2_teacher), tiny_config())
    seen = []
    distillation.teacher.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    distillation(make_pixels(), torch.randn(2, 64, 8, 8))
    processor = Sam2ImageProcessor.from_pretrained(sam2_teacher)
    expected = processor(list(make_images()), do_rescale=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(seen[0], expected, atol=1e-4, rtol=0)


def test_widths_that_differ_are_translated_by_a_projection_that_learns(sam2_teacher):
    student, pixels = make_student(), make_pixels()
    distillation = FeatureDistillation(DistillationOptions(sam2_teacher), student.config)
    assert [(n, tuple(p.shape)) for n, p in distillation.named_parameters()] == [("projection.weight", (32, 64, 1, 1))]
    distillation(pixels, features_of(student, pixels)).backward()
    assert distillation.projection.weight.grad.abs().sum() > 0
    assert student.vision_encoder.patch_embed.projection.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in student.mask_decoder.parameters())


def test_a_student_comes_nearer_to_its_teacher(sam2_teacher):
    losses = losses_while_learning(sam2_teacher)
    assert losses[-1] < 0.5 * losses[0]


def test_the_teacher_stays_as_it_is_and_is_no_part_of_the_run(own_teacher):
    tracker = nn.ModuleDict({"distillation": FeatureDistillation(DistillationOptions(own_teacher), tiny_config())})
    teacher = tracker["distillation"].teacher
    tracker.train()
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert list(tracker.parameters()) == []
    assert tracker.state_dict() == {}


def test_the_teacher_follows_the_frames_to_their_device(own_teacher):
    distillation = FeatureDistillation(DistillationOptions(own_teacher), tiny_config()).to("meta")
    loss = distillation(torch.zeros(1, 3, 128, 128, device="meta"), torch.zeros(1, 64, 8, 8, device="meta"))
    assert loss.device.type == "meta"
    assert distillation.teacher.device.type == "meta"


def test_mixed_precision_gives_a_float32_loss(own_teacher):
    student, pixels = make_student(), make_pixels()
    distillation = FeatureDistillation(DistillationOptions(own_teacher), student.config)
    full = distillation(pixels, features_of(student, pixels))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = distillation(pixels, features_of(student, pixels))
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(full.item(), abs=0.02)


def test_without_an_image_processor_the_teacher_sees_the_students_pixels(tmp_path, caplog):
    make_student(1).save_pretrained(tmp_path)
    distillation = FeatureDistillation(DistillationOptions(str(tmp_path)), tiny_config())
    assert "without an image processor" in caplog.text
    seen = []
    distillation.teacher.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    distillation(make_pixels(), torch.randn(2, 64, 8, 8))
    assert torch.equal(seen[0], make_pixels())


def test_a_teacher_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="distillation.teacher.*nowhere"):
        FeatureDistillation(DistillationOptions(str(tmp_path / "nowhere")), tiny_config())


def test_a_model_without_feature_maps_cannot_teach(tmp_path):
    from transformers import ViTConfig, ViTModel

    ViTModel(
        ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="ViTModel, which gives no feature maps.*Sam2Model"):
        FeatureDistillation(DistillationOptions(str(tmp_path)), tiny_config())


# ------------------------------------------------------------------------------------- a backbone that teaches


@pytest.fixture(scope="module")
def dino_teacher(tmp_path_factory):
    """A folder with a DINOv2 of 48 channels and patches of 14 pixels, whose position embeddings are for 56 pixels."""
    torch.manual_seed(9)
    config = Dinov2Config(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14, mlp_ratio=2
    )
    processor = BitImageProcessor(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.25, 0.3])
    return save(Dinov2Model(config), processor, tmp_path_factory)


def test_a_backbone_sees_frames_at_which_its_cells_are_the_students(dino_teacher):
    student, pixels = make_student(), make_pixels()
    distillation = FeatureDistillation(DistillationOptions(dino_teacher), student.config)
    seen = []
    distillation.teacher.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    features = features_of(student, pixels)
    loss = distillation(pixels, features)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    resized = F.interpolate(make_images(), (8 * 14, 8 * 14), mode="bilinear", antialias=True)
    expected = (resized - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(seen[0], expected, atol=1e-4, rtol=0)
    # The tokens of the model itself, normalised, without the class token, are what the student is compared with.
    teacher = Dinov2Model.from_pretrained(dino_teacher).eval()
    with torch.no_grad():
        target = teacher(expected).last_hidden_state[:, 1:].unflatten(1, (8, 8)).permute(0, 3, 1, 2)
        cosine = F.cosine_similarity(distillation.projection(features), target, dim=1)
    assert loss.item() == pytest.approx(1 - cosine.mean().item(), abs=1e-4)


def test_a_student_comes_nearer_to_a_backbone(dino_teacher):
    losses = losses_while_learning(dino_teacher)
    assert losses[-1] < 0.5 * losses[0]


def test_a_backbone_passes_the_check_before_weights_are_read(dino_teacher):
    check_teacher(dino_teacher)


@pytest.mark.parametrize(
    ("frames", "length", "chosen"),
    [(None, 3, [0, 1, 2]), (1, 4, [2]), (2, 4, [1, 3]), (9, 3, [0, 1, 2]), (2, 8, [2, 6])],
)
def test_the_teacher_sees_frames_at_equal_distances(own_teacher, frames, length, chosen):
    distillation = FeatureDistillation(DistillationOptions(own_teacher, frames=frames), tiny_config())
    assert distillation.chosen_frames(length) == chosen


@pytest.mark.parametrize("frames", [0, -1])
def test_a_teacher_that_sees_no_frames_is_refused(frames):
    with pytest.raises(ValueError, match=f"`frames` must be at least 1, got {frames}"):
        DistillationOptions("somewhere", frames=frames)


def test_a_backbone_within_an_onnx_file_becomes_a_teacher(dino_teacher, tmp_path):
    """A graph whose linear layers are unnamed matrices, as exporters write them."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    script = load_script("convert_feature_teacher")
    model = Dinov2Model.from_pretrained(dino_teacher).eval()
    renamed = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
    renamed["o_proj"] = "output.dense"  # the names of files are those that Transformers had first
    arrays, nodes = {}, []
    for name, weight in model.state_dict().items():
        for new, old in renamed.items():
            name = name.replace(f".attention.{new}.", f".attention.{old}.")
        if name.endswith("position_embeddings"):
            arrays["of_class"], arrays["of_patches"] = weight[:, :1].numpy(), weight[:, 1:].numpy()
        elif weight.ndim == 2 and name.startswith("encoder.layer.") and name.endswith(".weight"):
            place = name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
            arrays[f"onnx::MatMul_{len(nodes)}"] = weight.T.numpy()
            node = f"/backbone/{place}/MatMul"
            nodes.append(onnx.helper.make_node("MatMul", ["x", f"onnx::MatMul_{len(nodes)}"], ["y"], node))
        elif not name.endswith("mask_token"):
            arrays[f"backbone.{name}"] = weight.numpy()
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], initializers)), tmp_path / "file.onnx")

    script.save_teacher(script.read_backbone(tmp_path / "file.onnx"), tmp_path / "teacher")
    found = Dinov2Model.from_pretrained(tmp_path / "teacher").state_dict()
    for name, weight in model.state_dict().items():
        assert name.endswith("mask_token") or torch.equal(found[name], weight), name

    graph = onnx.helper.make_graph([], "g", [], [], [onnx.helper.make_tensor("x", 1, [1], [0.0])])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx' carries no Dinov2"):
        script.read_backbone(tmp_path / "other.onnx")
