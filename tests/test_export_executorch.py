"""Export to ExecuTorch: what is refused, and whole exports, each program run beside the model."""

from __future__ import annotations

import pytest
import torch
from reference import tiny_config

from efficienttam_hf import EfficientTamVideoModel
from efficienttam_hf.export.bounded import MOST_PROMPTED_FRAMES
from efficienttam_hf.export.executorch_export import FORMAT, export_executorch
from efficienttam_hf.export.manifest import Manifest


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path):
    model = EfficientTamVideoModel(tiny_config("pooled_logit_bias"))
    with pytest.raises(ValueError, match="no export to ExecuTorch in dtype 'float16': choose float32"):
        export_executorch(model, tmp_path / "out", "tiny", "float16")
    with pytest.raises(FileExistsError, match="exists already"):
        export_executorch(model, tmp_path, "tiny")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "pooled_logit_bias"])
def test_programs_are_the_model_s(kind, tmp_path):
    pytest.importorskip("executorch", reason="needs the extra: pip install efficienttam-hf[executorch]")
    fields = tiny_config(kind).to_dict()  # with one layer of each part: lowering takes its time
    fields["vision_config"] |= {"num_hidden_layers": 1, "global_attention_indexes": []}
    for part in ("mask_decoder_config", "memory_attention_config"):
        fields[part]["num_hidden_layers"] = 1
    torch.manual_seed(0)
    made = []
    model = EfficientTamVideoModel(type(tiny_config()).from_dict(fields)).eval()
    export_executorch(model, tmp_path / "out", "tiny", report=made.append)
    manifest = Manifest.read(tmp_path / "out", FORMAT)
    assert manifest.rules.max_cond_frame_num == MOST_PROMPTED_FRAMES
    for graph in made:
        manifest.graph_file(tmp_path / "out", graph.name)
        assert 0 <= graph.mean <= graph.largest < 1e-5
    names = list(manifest.graphs["memory_attention"]["functions"])
    assert names == (["main"] if kind == "full" else ["several_memories", "single_memory"])
