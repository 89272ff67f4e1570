"""Export to Core ML: what is refused, what a package holds, and its operators as torch carries them out."""

from __future__ import annotations

import sys

import pytest
import torch
from mil_replay import replay
from reference import tiny_config

from efficienttam_hf import EfficientTamVideoModel
from efficienttam_hf.cli import main
from efficienttam_hf.export.bounded import MOST_PROMPTED_FRAMES
from efficienttam_hf.export.coreml_export import FORMAT, export_coreml
from efficienttam_hf.export.exporting import BOUNDS, differences, prepared
from efficienttam_hf.export.graphs import GRAPHS
from efficienttam_hf.export.manifest import ExportError, Manifest, sha256


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EfficientTamVideoModel(tiny_config("pooled_logit_bias")).eval()


def test_what_cannot_be_converted_is_refused_before_anything_is_written(model, tmp_path):
    with pytest.raises(ValueError, match="no export to Core ML in dtype 'int8': choose one of float32, float16"):
        export_coreml(model, tmp_path / "out", "tiny", "int8")
    fields = tiny_config().to_dict()
    fields["memory_attention_config"] |= {"cross_attention": "windowed", "window_size": 4}
    windowed = EfficientTamVideoModel(type(tiny_config()).from_dict(fields))
    with pytest.raises(ValueError, match="'windowed' cannot be exported to Core ML.*more than five axes"):
        export_coreml(windowed, tmp_path / "out", "tiny")
    (tmp_path / "diary.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="diary.txt' was not written by efficienttam"):
        export_coreml(model, tmp_path, "tiny", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


@pytest.mark.parametrize("format", ["coreml", "executorch"])
def test_a_missing_package_names_the_extra(format, monkeypatch, tmp_path, capsys):
    package = {"coreml": "coremltools", "executorch": "executorch"}[format]
    for name in (package, f"{package}.runtime"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    assert main(["export", "efficienttam-nano", str(tmp_path / "out"), "--format", format]) == 2
    error = capsys.readouterr().err
    assert package in error and f"pip install efficienttam-hf[{format}]" in error
    assert not any(tmp_path.iterdir())


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert main(["export", "efficienttam-nano", str(tmp_path / "out"), "--format", "tflite"]) == 2
    assert "invalid choice: 'tflite'" in capsys.readouterr().err
    assert main(["export", "efficienttam-nano", str(tmp_path / "out"), "--format", "coreml", "--opset", "18"]) == 2
    assert "--opset is for --format onnx; leave it out with --format coreml" in capsys.readouterr().err


def test_a_package_is_known_by_the_contents_of_its_files(tmp_path):
    for name, content in (("a/weights", b"1"), ("model", b"2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path.parent / "one").write_bytes(b"12")
    before = sha256(tmp_path)
    assert before == sha256(tmp_path.parent / "one")
    (tmp_path / "model").write_bytes(b"3")
    assert sha256(tmp_path) != before


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_model_is_converted(dtype, model, tmp_path):
    pytest.importorskip("coremltools", reason="needs the extra: pip install efficienttam-hf[coreml]")
    made = []
    export_coreml(model, tmp_path / "out", "tiny", dtype, report=made.append)
    manifest = Manifest.read(tmp_path / "out", FORMAT)
    assert manifest.rules.max_cond_frame_num == MOST_PROMPTED_FRAMES
    for graph in made:
        manifest.graph_file(tmp_path / "out", graph.name)
        assert graph.largest is None and "not run" in graph.note
    attention = manifest.graphs["memory_attention"]["functions"]
    assert attention["several_memories"] == {"memories": [2, 14], "objects": [1, 4], "pointers": [1, 23]}
    assert attention["single_memory"] == {"objects": [1, 4], "pointers": [1, 23]}
    with pytest.raises(ExportError, match="format is not 'efficienttam-onnx'"):
        Manifest.read(tmp_path / "out")

    for graph in (graph_class(prepared(model, "float32")) for graph_class in GRAPHS):

        def run(inputs, graph=graph):
            function = "main"
            if graph.needs_several_memories:
                function = "several_memories" if inputs["memory"].shape[1] > 1 else "single_memory"
            outputs = replay(tmp_path / "out" / f"{graph.name}.mlpackage", inputs, function)
            return [outputs[name] for name in graph.outputs]

        largest, _ = differences(graph, run)
        assert largest < BOUNDS[dtype], graph.name
