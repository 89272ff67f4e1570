"""Export to ONNX: what is refused, what the manifest guards, the arrays that stand in for torch, and whole exports."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from reference import tiny_config

from efficienttam_hf import EfficientTamProcessor, EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.checkpoints import weights_sha256
from efficienttam_hf.cli import main
from efficienttam_hf.configuration_efficienttam import PRESETS
from efficienttam_hf.export import arrays
from efficienttam_hf.export.manifest import ExportError, Manifest, sha256


pytest.importorskip("onnx", reason="exporting needs the extra: pip install efficienttam-hf[export]")
pytest.importorskip("onnxscript", reason="exporting needs the extra: pip install efficienttam-hf[export]")

from efficienttam_hf.export.exporting import BOUNDS, CHECKED_COUNTS, export_onnx, rules_of  # noqa: E402
from efficienttam_hf.export.graphs import GRAPHS  # noqa: E402


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EfficientTamVideoModel(tiny_config("pooled_logit_bias")).eval()


@pytest.fixture
def folder(tmp_path, model):
    """A manifest and one file that it names; no graph, but what is checked before a graph is loaded."""
    graph = tmp_path / "image_encoder.onnx"
    graph.write_bytes(b"a graph")
    entry = {"file": graph.name, "sha256": sha256(graph), "bytes": 7, "inputs": {}, "outputs": {}}
    Manifest("tiny", "a" * 64, "0", "float32", 18, {"image_encoder": entry}, rules_of(model)).write(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 11}, "Opset 11 is not supported: choose one from 18 to 23"),
        ({"opset": 99}, "Opset 99 is not supported"),
        ({"dtype": "bfloat16"}, "no export in dtype 'bfloat16': choose one of float32, float16, int8"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(model, tmp_path / "out", "tiny", **options)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["pooled_logit_bias", "pooled_key_shift"])
def test_a_model_that_pools_pointers_is_refused(kind, tmp_path):
    config = tiny_config(kind)
    config.memory_attention_config.pooling_scope = "all"
    with pytest.raises(ValueError, match="pooling_scope='all' cannot be exported: only with 'spatial'"):
        export_onnx(EfficientTamVideoModel(config), tmp_path / "out", "tiny")
    assert not any(tmp_path.iterdir())


def test_a_folder_that_holds_something_else_is_not_replaced(model, tmp_path):
    (tmp_path / "diary.txt").write_text("dear")
    for overwrite, message in ((False, "exists already"), (True, "diary.txt' was not written by efficienttam")):
        with pytest.raises(FileExistsError, match=message):
            export_onnx(model, tmp_path, "tiny", overwrite=overwrite)
    assert (tmp_path / "diary.txt").read_text() == "dear"


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert main(["export", "efficienttam-nano", str(tmp_path / "out"), "--opset", "7"]) == 2
    assert "Opset 7 is not supported" in capsys.readouterr().err
    assert main(["export", "efficienttam-nano", str(tmp_path / "out"), "--dtype", "int4"]) == 2
    assert "int4" in capsys.readouterr().err
    assert main(["export", "no-such-model", str(tmp_path / "out")]) == 2
    assert "no-such-model" in capsys.readouterr().err


def test_the_command_ends_when_it_has_said_that_it_is_done(model, tmp_path, monkeypatch, capsys):
    """Python does not walk through what exporters leave behind, which took seconds, and minutes on a busy machine."""
    frozen = []
    entry = {"file": "image_encoder.onnx", "sha256": "a" * 64, "bytes": 7, "inputs": {}, "outputs": {}}
    manifest = Manifest("tiny", "a" * 64, "0", "float32", 18, {"image_encoder": entry}, rules_of(model))
    monkeypatch.setattr("efficienttam_hf.export.exporting.export_onnx", lambda *args, **options: manifest)
    monkeypatch.setattr("gc.freeze", lambda: frozen.append(capsys.readouterr().out))
    monkeypatch.setattr("atexit.register", lambda function: None)
    assert main(["export", "efficienttam-nano", str(tmp_path / "out")]) == 0
    assert len(frozen) == 1 and "Exported 'efficienttam-nano'" in frozen[0]


def test_nothing_is_printed_as_an_export_ends():
    """Triton, which exporters load, would list all of its classes as leaked."""
    pytest.importorskip("triton", reason="without Triton nobody looks for leaks")
    code = "from triton._C import libtriton; from efficienttam_hf.cli.export import end_soon; end_soon(); print('done')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_a_manifest_is_read_as_it_was_written(folder, model):
    manifest = Manifest.read(folder)
    assert manifest.rules == rules_of(model)
    assert manifest.graph_file(folder, "image_encoder") == folder / "image_encoder.onnx"
    assert "num_maskmem" in json.loads((folder / "manifest.json").read_text())["guide"]["memories"]


def test_a_graph_of_another_model_is_refused(folder):
    (folder / "image_encoder.onnx").write_bytes(b"a grapH")
    with pytest.raises(ExportError, match="SHA-256 differs.*another model"):
        Manifest.read(folder).graph_file(folder, "image_encoder")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "large", "weights_sha256": "b" * 64}, f"source is large, not tiny and its weights.* is {'b' * 64}"),
        ({"dtype": "int8"}, "its dtype is int8, not float32[.]"),
        ({"graph": "mask_decoder"}, "its graph is mask_decoder, not image_encoder[.]"),
        ({}, "from another export of this model"),
    ],
)
def test_a_graph_of_another_export_is_named(folder, changes, message):
    import onnx
    from onnx import helper

    manifest = Manifest.read(folder)
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [])
    graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, manifest.properties("image_encoder") | changes)
    onnx.save(model, folder / "image_encoder.onnx")
    with pytest.raises(ExportError, match=f"SHA-256 differs.*{message}"):
        manifest.graph_file(folder, "image_encoder")


def test_weights_have_one_digest_however_the_model_is_called(model, tmp_path):
    model.save_pretrained(tmp_path)
    same = EfficientTamVideoModel.from_pretrained(tmp_path)
    assert weights_sha256(same) == weights_sha256(model)
    with torch.no_grad():
        same.no_memory_embedding[0, 0, 0] += 1e-3
    assert weights_sha256(same) != weights_sha256(model)


def test_a_graph_that_is_not_there_is_named(folder):
    with pytest.raises(ExportError, match="names no graph 'mask_decoder'"):
        Manifest.read(folder).graph_file(folder, "mask_decoder")
    (folder / "image_encoder.onnx").unlink()
    with pytest.raises(FileNotFoundError, match="image_encoder.onnx' is missing"):
        Manifest.read(folder).graph_file(folder, "image_encoder")


@pytest.mark.parametrize("file", ["/dev/zero", "../other.onnx", "..", "a/../../b", "C:\\x", "", "zero", 5, None])
def test_a_manifest_names_files_of_its_folder_only(folder, file):
    """Also where the file is there and its sum is right; `zero` is a link to what never ends."""
    (folder / "zero").symlink_to("/dev/zero")
    (folder.parent / "other.onnx").write_bytes(b"a graph")
    content = json.loads((folder / "manifest.json").read_text())
    content["graphs"]["image_encoder"]["file"] = file
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match="'image_encoder' of the manifest|not a regular file"):
        Manifest.read(folder).graph_file(folder, "image_encoder")


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no manifest.json in .*efficienttam export"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format="other"), "format is not 'efficienttam-onnx'"),
        (lambda content: content.update(format_version=99), "format version 99, this package reads 1"),
        (lambda content: content["rules"].pop("num_maskmem"), "rules.num_maskmem missing"),
        (lambda content: content.pop("graphs"), "graphs missing"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(folder, change, message):
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match=message):
        Manifest.read(folder)


def test_a_damaged_manifest_is_refused(folder):
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ExportError, match="damaged"):
        Manifest.read(folder)


# --------------------------------------------------------------------------------------------- arrays like torch's


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(7, 9), (61, 80), (16, 16), (40, 5)])
def test_maps_are_resized_as_torch_does(size, antialias):
    maps = np.random.default_rng(0).normal(size=(2, 1, 16, 24)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(maps), size, mode="bilinear", align_corners=False, antialias=antialias)
    np.testing.assert_allclose(arrays.resize(maps, size, antialias), expected.numpy(), atol=2e-5)


def test_memories_are_rounded_as_torch_rounds_to_bfloat16():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    values = np.concatenate([values, (values.view(np.uint32) & 0xFFFF0000 | 0x8000).view(np.float32)])  # ties too
    expected = torch.from_numpy(values).bfloat16()
    packed = arrays.pack(values, "bfloat16")
    assert packed.nbytes == values.nbytes // 2
    np.testing.assert_array_equal(arrays.unpack(packed, "bfloat16"), expected.float().numpy())


def test_pixels_are_those_of_the_processors(model):
    frame = np.random.default_rng(0).integers(0, 255, (90, 141, 3), dtype=np.uint8)
    rules = rules_of(model)
    settings = rules.image_size, rules.image_mean, rules.image_std
    video = EfficientTamVideoProcessor.from_config(model.config).process_frame(frame)[0]
    np.testing.assert_allclose(arrays.video_pixels(frame, *settings), video.numpy(), atol=1e-6)
    image = EfficientTamProcessor.from_config(model.config)(images=Image.fromarray(frame), return_tensors="pt")
    np.testing.assert_allclose(arrays.image_pixels(frame, *settings), image["pixel_values"][0].numpy(), atol=1e-4)


# --------------------------------------------------------------------------------------------------- whole exports


# At one input size the variants of 512 pixels are the networks of those of 1024.
NETWORKS = [name for name in PRESETS if not name.endswith("_512x512")]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_variant_exports(name, tmp_path):
    """Of the published sizes, at a small input: an export compares each graph with the model before it appears."""
    assert main(["export", f"preset:{name}", str(tmp_path / "out"), "--image-size", "128"]) == 0
    assert Manifest.read(tmp_path / "out").dtype == "float32"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("kind", ["full", "pooled_logit_bias", "pooled_key_shift"])
def test_every_type_exports(kind, dtype, tmp_path):
    """What a type changes depends on the kind of memory attention only, so a small network will do."""
    export_onnx(tiny_model_of(kind), tmp_path / "out", kind, dtype)
    assert Manifest.read(tmp_path / "out").dtype == dtype


def tiny_model_of(kind):
    fields = tiny_config().to_dict()
    fields["memory_attention_config"] |= {"cross_attention": kind, "window_size": 4}
    torch.manual_seed(0)
    return EfficientTamVideoModel(type(tiny_config()).from_dict(fields)).eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("full", "float32"),
        ("pooled_logit_bias", "float32"),
        ("pooled_logit_bias", "int8"),
        ("windowed", "float32"),
        ("windowed", "int8"),
    ],
)
def test_graphs_run_in_onnx_s_own_evaluator(kind, dtype, tmp_path):
    """Which is written from the standard alone; each kind of memory attention."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = tiny_model_of(kind)
    export_onnx(model, tmp_path / "out", kind, dtype)
    for graph in (graph_class(model) for graph_class in GRAPHS):
        proto = onnx.load(tmp_path / "out" / f"{graph.name}.onnx")
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        evaluator = ReferenceEvaluator(proto)
        for counts in CHECKED_COUNTS:
            examples = graph.examples(counts, torch.Generator().manual_seed(2))
            outputs = evaluator.run(None, {name: value.numpy() for name, value in examples.items()})
            with torch.no_grad():
                expected = graph(**examples)
            for name, output, value in zip(
                graph.outputs, outputs, expected if isinstance(expected, tuple) else [expected], strict=True
            ):
                assert output.shape == graph.shape(graph.outputs[name], counts)
                if name not in graph.chosen_outputs:
                    difference = np.abs(output - value.numpy()) / value.abs().max().item()
                    assert (difference.mean() if dtype == "int8" else difference.max()) < BOUNDS[dtype], name


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 21, 23])
def test_every_opset_exports(opset, model, tmp_path):
    import onnx

    manifest = export_onnx(model, tmp_path / "out", "tiny", opset=opset)
    for graph in manifest.graphs.values():
        versions = {o.domain: o.version for o in onnx.load(tmp_path / "out" / graph["file"]).opset_import}
        assert versions[""] == opset
