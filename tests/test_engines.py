"""`track --engine`: exported graphs on ONNX Runtime or OpenVINO give the files that the torch model gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from reference import lively_model, save_model, write_frames

from efficienttam_hf.cli import main
from efficienttam_hf.synthetic_clip import make_clip


pytest.importorskip("onnxscript", reason="exporting needs the extra: pip install efficienttam-hf[export]")
pytest.importorskip("av", reason="the command line reads and writes video files with PyAV")
pytest.importorskip("pycocotools", reason="the command line writes run-length masks with pycocotools")

from efficienttam_hf.app import engines  # noqa: E402
from efficienttam_hf.export import exporting  # noqa: E402
from efficienttam_hf.export.onnx_graphs import OnnxGraphs  # noqa: E402
from efficienttam_hf.mask_io import decode_rle  # noqa: E402


CLIP = make_clip(5, 96, 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny model."""
    folder = tmp_path_factory.mktemp("model")
    model = lively_model()
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_frames(path, 12, CLIP.frames, crf=1)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "efficienttam" / "graphs"


def track(video, out, *arguments):
    prompts = ["--point", "24,38", "--frame", "2", "--object", "2", "--box", "40,20,60,40"]
    assert main(["track", str(video), *prompts, *map(str, arguments), "--out", str(out)]) == 0
    return json.loads((out / "masks.json").read_text())


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_exported_graphs_give_the_files_of_the_torch_model(engine, model, exported, video, tmp_path, capsys):
    if engine == "openvino":
        pytest.importorskip("openvino", reason="the engine needs the extra: pip install efficienttam-hf[openvino]")
    expected = track(video, tmp_path / "torch", "--model", model)
    capsys.readouterr()
    found = track(video, tmp_path / engine, "--engine", engine, "--graphs", exported)
    assert f"{engine} on the CPU, float32." in capsys.readouterr().out
    assert {**found, "frames": None, "model": None} == {**expected, "frames": None, "model": None}
    names = {path.relative_to(tmp_path / "torch") for path in (tmp_path / "torch").rglob("*")}
    assert names == {path.relative_to(tmp_path / engine) for path in (tmp_path / engine).rglob("*")}
    for mine, theirs in zip(found["frames"], expected["frames"], strict=True):
        assert mine["frame"] == theirs["frame"]
        for ours, other in zip(mine["objects"], theirs["objects"], strict=True):
            assert ours["id"] == other["id"]
            assert ours["score"] == pytest.approx(other["score"], abs=1e-3)
            masks = [decode_rle(each["segmentation"]) for each in (ours, other)]
            assert np.mean(masks[0] != masks[1]) < 0.002


DELETED_IN_A_THREAD = """
import faulthandler, os, signal, sys, threading
from pathlib import Path
from efficienttam_hf.export.runtimes import load_graph
faulthandler.enable()
graphs = [load_graph("openvino", Path(sys.argv[1]))]
thread = threading.Thread(target=graphs.clear)
thread.start()
thread.join()
signal.signal(signal.SIGINT, lambda *_: print("stopped"))
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_signal_after_an_openvino_graph_was_deleted_in_a_thread_does_not_crash(tmp_path):
    pytest.importorskip("openvino", reason="the engine needs the extra: pip install efficienttam-hf[openvino]")
    onnx = pytest.importorskip("onnx", reason="exporting needs the extra: pip install efficienttam-hf[export]")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "relu.onnx")
    command = [sys.executable, "-c", DELETED_IN_A_THREAD, str(tmp_path / "relu.onnx")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


def test_a_model_is_exported_once_even_by_several_at_a_time(model, exported, cache, monkeypatch):
    made = []

    def export(network, output, source):
        made.append(output)
        shutil.copytree(exported, output)

    monkeypatch.setattr(exporting, "export_onnx", export)
    found, told = [], []
    threads = [
        threading.Thread(target=lambda: found.append(engines.exported_graphs(str(model), told.append)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(told) == 1
    assert found == [made[0]] * 2 and found[0].parent == cache

    (found[0] / "mask_decoder.onnx").write_bytes(b"damaged")
    assert engines.exported_graphs(str(model), told.append) == found[0]
    assert len(made) == 2
    engines.load_tracker("onnx", found[0])


def test_a_cache_that_cannot_be_written_says_what_to_do(model, cache):
    cache.parent.parent.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="export .* FOLDER`, and give that with --graphs FOLDER"):
        engines.exported_graphs(str(model))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--graphs", "g"], "--graphs is for exported graphs"),
        (["--engine", "onnx", "--graphs", "g", "--model", "m"], "give one of them"),
        (["--engine", "onnx", "--device", "cuda"], "runs on the CPU"),
        (["--engine", "onnx", "--compile"], "--compile is for --engine torch"),
        (["--engine", "openvino", "--dtype", "bfloat16"], "leave --dtype bfloat16 out"),
        (["--engine", "onnx", "--graphs", "no-such-folder"], "There is no manifest.json"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message, video, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["track", str(video), "--point", "1,1", *arguments, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_runtime_must_be_known(exported):
    with pytest.raises(ValueError, match="choose one of onnxruntime, openvino"):
        OnnxGraphs(exported, runtime="tensorrt")
