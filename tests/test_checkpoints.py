"""Checkpoint conversion: published files to ours and back without a changed bit, and refusals that say why."""

import json
import os
import pickle
import zipfile

import pytest
import torch
from reference import REFERENCE, tiny_config
from safetensors.torch import load_file, save_file

from efficienttam_hf import PRESETS, EfficientTamConfig, EfficientTamModel, EfficientTamVideoModel, checkpoints
from efficienttam_hf.checkpoints import (
    CheckpointError,
    check_belongs,
    convert_checkpoint,
    describe,
    from_published,
    publish_checkpoint,
    published_layout,
    read_published,
    resolve_config,
    to_our_name,
    to_published_name,
)
from efficienttam_hf.checksums import CHECKSUMS_FILE, ChecksumError, read_checksums, verify_folder
from efficienttam_hf.cli import main
from efficienttam_hf.output_folders import LIST_NAME, OutputFolder


ATTENTIONS = ("full", "pooled_logit_bias", "pooled_key_shift")


def published_tensors(config, seed=0):
    """Random tensors under the published names."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, (_, shape) in published_layout(config).items()}


def write_published(path, tensors):
    torch.save({"model": tensors}, path)
    return path


@pytest.fixture
def tiny_file(tmp_path):
    """A published file of the tiny model."""
    return write_published(tmp_path / "tiny.pt", published_tensors(tiny_config()))


# ---------------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_there_and_back_changes_no_bit(attention, tmp_path):
    config = tiny_config(attention)
    tensors = published_tensors(config)
    folder = convert_checkpoint(write_published(tmp_path / "in.pt", tensors), tmp_path / "folder", config)
    back = read_published(publish_checkpoint(folder, tmp_path / "out.pt"))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == torch.float32
        assert torch.equal(back[name], tensor), name


def test_every_tensor_arrives_in_both_models(tiny_file, tmp_path):
    folder = convert_checkpoint(tiny_file, tmp_path / "folder", tiny_config())
    published = read_published(tiny_file)
    for model_class in (EfficientTamModel, EfficientTamVideoModel):
        model, loading = model_class.from_pretrained(folder, output_loading_info=True)
        assert not loading["missing_keys"]
        state = model.state_dict()
        assert torch.equal(
            state["vision_encoder.patch_embed.projection.weight"],
            published["image_encoder.trunk.patch_embed.proj.weight"],
        )
        for row in range(4):
            name = f"sam_prompt_encoder.point_embeddings.{row}.weight"
            assert torch.equal(state["prompt_encoder.point_embed.weight"][row : row + 1], published[name])


def test_a_converted_folder_has_checksums_that_find_a_flipped_bit(tiny_file, tmp_path):
    folder = convert_checkpoint(tiny_file, tmp_path / "folder", tiny_config())
    listed = read_checksums(folder)
    assert {path.name for path in folder.iterdir()} == {*listed, CHECKSUMS_FILE, LIST_NAME}
    verify_folder(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-100] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ChecksumError, match="model.safetensors is damaged"):
        verify_folder(folder)


def test_a_sharded_folder_goes_back_as_well(tiny_file, tmp_path):
    folder = convert_checkpoint(tiny_file, tmp_path / "folder", tiny_config(), max_shard_size="1MB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    back = read_published(publish_checkpoint(folder, tmp_path / "out.pt"))
    assert all(torch.equal(back[name], tensor) for name, tensor in read_published(tiny_file).items())


@pytest.mark.parametrize("variant", PRESETS)
def test_names_map_one_to_one_in_every_variant(variant):
    config = EfficientTamConfig.from_preset(variant)
    layout = published_layout(config)
    meta = {name: torch.empty(shape, device="meta") for name, (_, shape) in layout.items()}
    with torch.device("meta"):
        ours = EfficientTamVideoModel(config).state_dict()
    converted = from_published(meta, config)
    assert {name: t.shape for name, t in converted.items()} == {name: t.shape for name, t in ours.items()}
    num_layers = config.memory_encoder_config.num_mask_downsampler_layers
    for published in layout:
        if "point_embeddings" not in published:
            assert to_published_name(to_our_name(published).replace("convs.4.", "final_conv."), num_layers) == published


@pytest.mark.parametrize("variant", PRESETS)
def test_parameter_counts_are_the_published_ones(variant):
    with torch.device("meta"):
        model = EfficientTamVideoModel(EfficientTamConfig.from_preset(variant))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert round(millions, 2) == (17.87 if "_ti" in variant else 34.06)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the published layouts are not here")
@pytest.mark.parametrize("variant", PRESETS)
def test_layout_is_that_of_the_published_file(variant):
    expected = json.loads((REFERENCE / "layout" / f"{variant}.json").read_text())
    layout = published_layout(EfficientTamConfig.from_preset(variant))
    assert {name: list(shape) for name, (_, shape) in layout.items()} == expected


def test_what_a_checkpoint_tells_is_read_from_its_tensors():
    config = EfficientTamConfig.from_preset("efficienttam_ti")
    meta = {name: torch.empty(shape, device="meta") for name, (_, shape) in published_layout(config).items()}
    found = describe(meta)
    assert found["vision_config.hidden_size"] == 192
    assert found["vision_config.num_hidden_layers"] == 12
    assert found["memory_attention_config.num_hidden_layers"] == 4
    assert found["num_maskmem"] == 7


# ------------------------------------------------------------------------------------------------------ bad checkpoints


def test_missing_extra_and_misshapen_tensors_are_all_named():
    config = tiny_config()
    tensors = published_tensors(config)
    del tensors["no_mem_embed"]
    tensors["surplus.weight"] = torch.zeros(3)
    tensors["no_obj_ptr"] = torch.zeros(2, 64)
    with pytest.raises(CheckpointError) as error:
        check_belongs(tensors, config)
    message = str(error.value)
    assert "missing: no_mem_embed [1, 1, 64]" in message
    assert "extra: surplus.weight [3]" in message
    assert "misshapen: no_obj_ptr is [2, 64], should be [1, 64]" in message


def test_numbers_that_differ_from_the_configuration_are_named(tiny_file, tmp_path):
    with pytest.raises(CheckpointError, match="vision_config.hidden_size: checkpoint 48, configuration 384"):
        convert_checkpoint(tiny_file, tmp_path / "folder", "efficienttam_s")
    assert not (tmp_path / "folder").exists()


def test_a_layer_too_few_is_a_number_that_differs():
    config = tiny_config()
    tensors = {n: t for n, t in published_tensors(config).items() if not n.startswith("memory_attention.layers.1.")}
    with pytest.raises(CheckpointError, match="memory_attention_config.num_hidden_layers: checkpoint 1, config"):
        check_belongs(tensors, config)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = write_published(tmp_path / "other.pt", {"layer.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="not an EfficientTAM checkpoint.*no tensor 'image_encoder"):
        convert_checkpoint(path, tmp_path / "folder", "efficienttam_s")


# ------------------------------------------------------------------------------ training checkpoints, safetensors


def test_a_safetensors_file_with_published_names_is_converted(tmp_path):
    config, tensors = tiny_config(), published_tensors(tiny_config())
    for name in ("x.safetensors", "x.bin"):
        save_file(tensors, tmp_path / name)
        folder = convert_checkpoint(tmp_path / name, tmp_path / f"folder {name}", config)
        back = read_published(publish_checkpoint(folder, tmp_path / f"{name}.pt"))
        assert all(torch.equal(back[key], tensor) for key, tensor in tensors.items())


@pytest.mark.parametrize("content", [b"", b"\x10", b"\xff" * 8 + b"{", b"\x02" + bytes(7) + b"{}" + b"rest"])
def test_a_damaged_safetensors_file_is_refused_by_name(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="x.safetensors"):
        convert_checkpoint(tmp_path / "x.safetensors", tmp_path / "folder", tiny_config())
    assert not (tmp_path / "folder").exists()


def wrapped(tensors, prefix):
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("key", "average"),
    [
        (None, None),
        ("ema", lambda tensors: tensors),
        ("model_ema", lambda tensors: {**wrapped(tensors, "module."), "n_averaged": torch.tensor(9)}),
        ("ema_state_dict", lambda tensors: {"model": tensors}),
    ],
)
def test_a_checkpoint_of_the_training_code_is_converted(key, average, tmp_path, capsys):
    config, trained, averaged = (
        tiny_config(),
        published_tensors(tiny_config()),
        published_tensors(tiny_config(), seed=1),
    )
    content = {
        "model": wrapped(trained, "module."),
        "optimizer": {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]}},
        "epoch": 3,
        "loss": {"all": {}},
        "steps": {"train": 40, "val": 0},
        "time_elapsed": 8.5,
        "best_meter_values": {},
    }
    if key is not None:
        content[key] = average(averaged)
    torch.save(content, tmp_path / "checkpoint.pt")
    config.save_pretrained(tmp_path / "config")
    for weights, expected in (("auto", averaged if key else trained), ("model", trained)):
        command = ["convert", str(tmp_path / "checkpoint.pt"), str(tmp_path / weights)]
        assert main([*command, "--variant", str(tmp_path / "config"), "--weights", weights]) == 0
        back = read_published(publish_checkpoint(tmp_path / weights, tmp_path / f"{weights}.pt"))
        assert all(torch.equal(back[name], tensor) for name, tensor in expected.items())
        assert ("Took the" in capsys.readouterr().out) == (key is not None)
    if key is None:
        with pytest.raises(CheckpointError, match="checkpoint.pt holds no average"):
            read_published(tmp_path / "checkpoint.pt", "average")


def test_weights_in_half_precision_become_float32_and_those_that_are_no_numbers_are_refused(tmp_path):
    config = tiny_config()
    tensors = {name: tensor.half() for name, tensor in published_tensors(config).items()}
    folder = convert_checkpoint(write_published(tmp_path / "half.pt", tensors), tmp_path / "folder", config)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float32}
    tensors["no_mem_embed"][..., 0] = torch.nan
    with pytest.raises(CheckpointError, match="nan.pt has weights that are not finite numbers, such as no_memory_emb"):
        convert_checkpoint(write_published(tmp_path / "nan.pt", tensors), tmp_path / "other", config)


def test_a_compressed_file_is_refused_before_it_is_unpacked(tiny_file, tmp_path):
    with zipfile.ZipFile(tiny_file) as whole, zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match="x.pt .*compressed"):
        read_published(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("\x00", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "must hold a mapping of fields, found list"),
        ('{"model_type": "sam2"}', "of a model of type 'sam2'"),
        ('{"vision_config": {"num_hidden_layers": 1000000000}}', "`vision_config.num_hidden_layers` is 1000000000"),
        ('{"vision_config": {"hidden_size": 1e400}}', "`vision_config.hidden_size` is inf"),
        ('{"image_size": [99999999, 16]}', r"`image_size\[0\]` is 99999999"),
        (
            '{"vision_config": {"hidden_size": "wide"}}',
            "vision_config.hidden_size is 'wide'; accepted is a whole number",
        ),
        ('{"vision_config": 7}', "`vision_config` must be a mapping of fields, found 7"),
        ('{"vision_config": {"id2label": 7}}', "`vision_config.id2label` must be a mapping of fields, found 7"),
        ('{"num_maskmem": null}', "num_maskmem is None; accepted is a whole number"),
        ('{"vision_config": {"patch_size": 0}}', "does not describe a model"),
    ],
)
def test_a_configuration_that_is_broken_or_hostile_is_refused_with_file_and_field(content, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [{"weights": {}}, [1, 2], {"model": {"a": 1}}, {"model": [1]}, 7])
def test_a_file_of_another_shape_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="not a published EfficientTAM file"):
        read_published(tmp_path / "x.pt")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99, -1])
def test_a_truncated_file_is_refused(keep, tiny_file, tmp_path):
    whole = tiny_file.read_bytes()
    size = int(len(whole) * keep) if isinstance(keep, float) else keep
    (tmp_path / "cut.pt").write_bytes(whole[:size])
    with pytest.raises(CheckpointError, match="cut.pt"):
        read_published(tmp_path / "cut.pt")


@pytest.mark.parametrize("kind", ["data.pkl", "data/0", "data/7"])
def test_damaged_bytes_are_found_and_their_place_is_named(kind, tiny_file, tmp_path):
    damaged = bytearray(tiny_file.read_bytes())
    with zipfile.ZipFile(tiny_file) as archive:
        name = next(name for name in archive.namelist() if name.endswith(kind))
        content = archive.read(name)
    damaged[damaged.index(content) + len(content) // 2] ^= 1
    (tmp_path / "damaged.pt").write_bytes(damaged)
    with pytest.raises(CheckpointError, match=f"damaged.pt is damaged: '{name}' in it"):
        convert_checkpoint(tmp_path / "damaged.pt", tmp_path / "folder", tiny_config())
    assert not (tmp_path / "folder").exists()


def test_a_damaged_directory_of_the_file_is_refused_as_damage(tiny_file, tmp_path):
    damaged = bytearray(tiny_file.read_bytes())
    locator = damaged.rindex(b"PK\x06\x07")  # says where the directory's end record is; 8 bytes in, as an offset
    damaged[locator + 8] ^= 255
    (tmp_path / "damaged.pt").write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged.pt"):
        read_published(tmp_path / "damaged.pt")


@pytest.mark.parametrize("form", ["without checksums", "before torch 1.6"])
def test_a_file_that_has_no_checksums_is_read(form, tmp_path):
    tensors = published_tensors(tiny_config())
    if form == "before torch 1.6":
        torch.save({"model": tensors}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    elif not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this torch always writes checksums")
    else:
        before = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(False)
        try:
            torch.save({"model": tensors}, tmp_path / "x.pt")
        finally:
            torch.serialization.set_crc32_options(before)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read_published(tmp_path / "x.pt").items())


@pytest.mark.parametrize("content", [b"GIF89a" + bytes(50), b"no checkpoint\n", bytes(999), b"PK\x03\x04" + bytes(99)])
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="x.pt"):
        read_published(tmp_path / "x.pt")


class _Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_code_in_a_pickle_is_not_run(save, tmp_path):
    content = {"model": _Malicious(tmp_path / "was-here")}
    if save == "torch":
        torch.save(content, tmp_path / "x.pt")
    else:
        (tmp_path / "x.pt").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match="cannot be read safely|not a checkpoint"):
        read_published(tmp_path / "x.pt")
    assert not (tmp_path / "was-here").exists()


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        read_published(tmp_path / "nothing.pt")


# ------------------------------------------------------------------------------------------------------------- variants


def test_a_variant_is_a_name_a_file_a_folder_or_a_configuration(tmp_path):
    config = tiny_config("pooled_key_shift")
    config.save_pretrained(tmp_path)
    for variant in (tmp_path, tmp_path / "config.json", str(tmp_path), config):
        assert resolve_config(variant).memory_attention_config.cross_attention == "pooled_key_shift"
    assert resolve_config("efficienttam_ti_512x512").image_size == 512
    with pytest.raises(ValueError, match="neither a variant .*efficienttam_s_512x512.* nor a configuration file"):
        resolve_config("efficienttam_xl")


# -------------------------------------------------------------------------------------------------------------- writing


def test_an_existing_output_is_kept_unless_it_may_be_replaced(tiny_file, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        convert_checkpoint(tiny_file, folder, tiny_config())
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]

    with pytest.raises(FileExistsError, match="mine.txt' was not written by efficienttam"):
        convert_checkpoint(tiny_file, folder, tiny_config(), overwrite=True)
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]
    (folder / "mine.txt").unlink()
    for _ in range(2):
        convert_checkpoint(tiny_file, folder, tiny_config(), overwrite=True)
    with pytest.raises(FileExistsError, match="exists already"):
        publish_checkpoint(folder, tiny_file)


@pytest.mark.skipif(os.name != "posix", reason="there is no umask here")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_the_umask_says_who_may_read_what_is_written(umask, tiny_file, tmp_path):
    before = os.umask(umask)
    try:
        folder = convert_checkpoint(tiny_file, tmp_path / "folder", tiny_config(), max_shard_size="1MB")
        back = publish_checkpoint(folder, tmp_path / "back.pt")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in [*folder.rglob("*"), back]}
    assert set(modes.values()) == {oct(0o666 & ~umask)}, modes


@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_conversion_leaves_what_was_there(existing, tiny_file, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    if existing:
        OutputFolder(out / "folder").add("earlier.txt").write_text("earlier")

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.EfficientTamVideoProcessor, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(tiny_file, out / "folder", tiny_config(), overwrite=True)
    left = sorted(path.relative_to(out).as_posix() for path in out.rglob("*"))
    assert left == (["folder", f"folder/{LIST_NAME}", "folder/earlier.txt"] if existing else [])


def test_an_interrupted_way_back_leaves_nothing(tiny_file, tmp_path, monkeypatch):
    folder = convert_checkpoint(tiny_file, tmp_path / "folder", tiny_config())
    out = tmp_path / "out"

    def interrupt(content, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        publish_checkpoint(folder, out / "x.pt")
    assert list(out.iterdir()) == []


def test_the_way_back_needs_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no model"):
        publish_checkpoint(tmp_path, tmp_path / "x.pt")


def test_the_way_back_refuses_another_model_and_missing_weights(tiny_file, tmp_path):
    folder = convert_checkpoint(tiny_file, tmp_path / "folder", tiny_config())
    weights = load_file(folder / "model.safetensors")
    del weights["no_object_pointer"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks tensors: no_object_pointer"):
        publish_checkpoint(folder, tmp_path / "x.pt")
    (folder / "config.json").write_text('{"model_type": "sam2"}')
    with pytest.raises(CheckpointError, match="model of type 'sam2'"):
        publish_checkpoint(folder, tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()
