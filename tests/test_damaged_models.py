"""Models whose files are damaged, or whose configuration no network can be made of: one error that says what to do."""

import dataclasses
import json
import shutil

import pytest

from efficienttam_hf import (
    EfficientTamConfig,
    EfficientTamModel,
    EfficientTamProcessor,
    EfficientTamVideoModel,
    EfficientTamVideoProcessor,
)
from efficienttam_hf.app.loading import load_config
from efficienttam_hf.configuration_efficienttam import SUB_CONFIGS
from efficienttam_hf.remote_code import included_checkpoint


@pytest.fixture
def folder(tmp_path):
    """A copy of the included model, to be damaged."""
    return shutil.copytree(included_checkpoint("efficienttam-nano"), tmp_path / "copy")


DAMAGES = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "not UTF-8": lambda content: b'{"a": "\xff\xfe"}',
    "no mapping": lambda content: b"[1]",
    "nested deeply": lambda content: b'{"a":' * 100_000,
    "a pointer of Git LFS": lambda content: b"version https://git-lfs.github.com/spec/v1\nsize 12\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name, classes",
    [
        ("model.safetensors", [EfficientTamModel, EfficientTamVideoModel]),
        ("config.json", [EfficientTamConfig, EfficientTamVideoModel]),
        ("processor_config.json", [EfficientTamProcessor, EfficientTamVideoProcessor]),
    ],
)
def test_a_damaged_file_is_named_with_the_way_out(name, classes, damage, folder):
    (folder / name).write_bytes(DAMAGES[damage]((folder / name).read_bytes()))
    for loaded in classes:
        with pytest.raises(OSError, match=rf"{name}' is damaged and cannot be read: .*\. Copy, fetch or convert"):
            loaded.from_pretrained(folder)


def test_other_errors_of_loading_are_as_they_were(folder):
    with pytest.raises(TypeError, match="no_such_option"):
        EfficientTamModel.from_pretrained(folder, no_such_option=1)
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="no file named model.safetensors"):
        EfficientTamModel.from_pretrained(folder)


@pytest.mark.parametrize(
    "part, field, value, accepted",
    [
        ("vision_config", "hidden_act", "gelU", "one of gelu, "),
        ("vision_config", "hidden_act", ["gelu"], "one of gelu, "),
        ("memory_attention_config", "feed_forward_hidden_act", None, "one of gelu, "),
        ("vision_config", "num_hidden_layers", 2.0, "a whole number from 1 to 256"),
        ("vision_config", "num_hidden_layers", True, "a whole number from 1 to 256"),
        ("vision_config", "layer_norm_eps", -1, "a number from 0 to 1"),
        (None, "image_size", [64], r"a number from 1 to 16384, or a pair of them \(height, width\)"),
        ("vision_config", "global_attention_indexes", [1.5], "a list of whole numbers"),
        ("memory_attention_config", "dropout", -1, "a number from 0 to 1"),
        ("memory_attention_config", "dtype", 1.5, "one of float32, float16, bfloat16, float64"),
        ("mask_decoder_config", "dynamic_multimask_via_stability", "no", "true or false"),
        ("mask_decoder_config", "attention_downsample_rate", 3, "must divide hidden_size"),
        ("memory_encoder_config", "fuser_padding", 2, "half of fuser_kernel_size"),
        ("memory_encoder_config", "mask_downsampler_padding", 0, "kernel_size 3 and _stride 2"),
        ("memory_attention_config", "memory_size", 2, "must be a multiple of 4"),
        (None, "initializer_range", 0, "a number from 1e-12 to 100"),
        (None, "memory_dtype", "float99", "one of float32"),
        (None, "memory_selection_options", {"quality_threshold": "high"}, "is a str; accepted is a number"),
        (None, "architectures", [[["x"]]], "a list of names"),
    ],
)
def test_a_value_no_network_has_is_named_with_what_is_accepted(part, field, value, accepted, folder):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    (content[part] if part else content)[field] = value
    path.write_text(json.dumps(content))
    for load in (EfficientTamConfig.from_pretrained, EfficientTamVideoModel.from_pretrained):
        with pytest.raises(ValueError, match=f"copy'.*{part or 'config'}.{field}.*{accepted}"):
            load(folder)
    with pytest.raises(ValueError, match=f"copy/config.json.*{field}"):
        load_config(str(folder))


@pytest.mark.parametrize("part", [None, *SUB_CONFIGS])
def test_no_field_takes_a_value_of_another_type(part):
    """Whatever field it is, so that a new one is checked too; a part's image size follows the whole model's."""
    fields = [field.name for field in dataclasses.fields(SUB_CONFIGS[part] if part else EfficientTamConfig)]
    inherited = {"transformers_version", "problem_type", "id2label", "label2id", "num_labels"}
    names = sorted(set(fields) - inherited - set(SUB_CONFIGS) - ({"image_size"} if part else set()))
    assert len(names) > 8
    for name in names:
        with pytest.raises(ValueError, match=name):
            EfficientTamConfig(**({part: {name: [{}]}} if part else {name: [{}]}))


def test_a_backbone_that_cannot_be_made_is_named(folder):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["vision_config"] = {
        "model_type": "efficienttam_backbone_model",
        "image_size": content["image_size"],
        "fpn_hidden_size": content["vision_config"]["fpn_hidden_size"],
        "backbone_config": {"model_type": "dinov2", "hidden_act": "gelU", "patch_size": 16},
    }
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="copy/config.json: no backbone can be made of .*KeyError: 'gelU'"):
        load_config(str(folder))
