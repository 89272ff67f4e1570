"""Ablations: what is varied, that weights stay the same, and what the tables say."""

import numpy as np
import pytest
import torch
from reference import tiny_config, with_objects

from efficienttam_hf import EfficientTamConfig, EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.data.masks import Segmentations
from efficienttam_hf.data.records import VideoRecord
from efficienttam_hf.evaluation.ablations import (
    ABLATIONS,
    ablation_markdown,
    run_ablations,
    variants_of,
    with_config,
    write_ablations,
)
from efficienttam_hf.evaluation.results import EvaluationResult
from efficienttam_hf.evaluation.runner import RunOptions
from efficienttam_hf.mask_io import encode_rle
from efficienttam_hf.synthetic_clip import make_clip


CLIP = make_clip(num_frames=4, width=64, height=48)


class ClipFrames:
    """The frames of a clip in memory."""

    size = 48, 64

    def __len__(self):
        return len(CLIP.frames)

    def read(self, index):
        return np.asarray(CLIP.frames[index])

    def name(self, index):
        return f"frame {index}"


def record():
    masks = Segmentations({i: {1: encode_rle(mask)} for i, mask in enumerate(CLIP.masks)}, "clip")
    return VideoRecord("clip", ClipFrames(), masks, source="folder")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return with_objects(EfficientTamVideoModel(tiny_config("pooled_logit_bias")).eval())


@pytest.fixture(scope="module")
def processor(model):
    return EfficientTamVideoProcessor.from_config(model.config)


def titles(config, **options):
    found = {}
    for variant in variants_of(config, **options):
        star = "*" if variant.is_as_configured(config) else ""
        found.setdefault(ABLATIONS[variant.ablation][0], []).append(variant.title + star)
    return found


def test_rows_are_those_of_the_papers_tables():
    assert titles(EfficientTamConfig.from_preset("efficienttam_s_1")) == {
        4: ["every memory token", "squares of 2x2, logits raised (`_1`)*", "squares of 2x2, keys shifted (`_2`)"],
        5: ["1024x1024*", "512x512"],
        6: ["with*", "without"],
        7: ["spatial memories*", "all tokens"],
        8: ["squares of 2x2*", "windows of 16x16"],
    }


def test_rows_fit_the_model():
    found = titles(EfficientTamConfig.from_preset("efficienttam_nano"))
    assert found[5] == ["352x352*", "160x160"]  # whole pooling squares
    assert found[8] == ["squares of 2x2*", "windows of 11x11"]  # which divide 22 tokens
    # What is pooled can only be asked where there is pooling: neither row is this model as it is.
    assert titles(EfficientTamConfig.from_preset("efficienttam_s"))[7] == ["spatial memories", "all tokens"]
    assert titles(tiny_config(), ablations=["resolution"], image_sizes=[128, 96]) == {5: ["128x128*", "96x96"]}
    with pytest.raises(ValueError, match="no ablation depth; there are cross-attention, resolution"):
        variants_of(tiny_config(), ["depth"])


def test_every_row_of_every_published_model_can_be_configured():
    for preset in ("efficienttam_s", "efficienttam_ti_2", "efficienttam_ti_512x512", "efficienttam_nano"):
        config = EfficientTamConfig.from_preset(preset)
        for variant in variants_of(config):
            changed = variant.configure(config)
            assert variant.is_as_configured(changed)
            assert (changed.to_dict() == config.to_dict()) == variant.is_as_configured(config)


def test_a_variant_has_the_same_weights_and_not_a_copy(model, processor):
    (variant,) = [v for v in variants_of(model.config, ["cross-attention"]) if v.title == "every memory token"]
    other, same_processor = with_config(model, processor, variant.configure(model.config))
    assert other.config.memory_attention_config.cross_attention == "full"
    assert model.config.memory_attention_config.cross_attention == "pooled_logit_bias"
    assert same_processor is processor
    theirs = dict(other.named_parameters())
    assert all(theirs[name].data_ptr() == weight.data_ptr() for name, weight in model.named_parameters())


@pytest.fixture(scope="module")
def rows(model, processor):
    variants = variants_of(model.config, ["cross-attention", "resolution", "windowed"], image_sizes=[128, 64])
    options = RunOptions(model="tiny", dataset="folder")
    return run_ablations(model, processor, [record()], options, variants)


def test_the_model_as_it_is_is_run_once(rows):
    own = [row.result for row in rows if row.as_configured]
    assert len(own) == 3
    assert all(result is own[0] for result in own)
    assert [row.result.settings["image_size"] for row in rows].count([64, 64]) == 1
    assert all(row.result.scored for row in rows)


@pytest.mark.slow
@torch.inference_mode()
def test_every_change_changes_what_is_tracked(model, processor):
    def tracked(model, processor):
        session = processor.init_video_session(video=list(CLIP.frames))
        processor.add_inputs_to_inference_session(session, 0, 1, input_masks=CLIP.masks[0])
        logits = [output.pred_masks for output in model.propagate_in_video_iterator(session)]
        return logits[-1]

    own = tracked(model, processor)
    for variant in variants_of(model.config, image_sizes=[128, 64]):
        found = tracked(*with_config(model, processor, variant.configure(model.config)))
        is_same = found.shape == own.shape and torch.equal(found, own)
        assert is_same == variant.is_as_configured(model.config), variant.title


def test_tables_say_which_row_is_the_model_and_that_the_others_were_not_retrained(rows):
    text = ablation_markdown(rows, "efficienttam evaluate ablate")
    assert "none was trained again" in text
    assert "## The size of the input (the paper's Table 5)" in text
    lines = [line for line in text.splitlines() if line.endswith("| its own |")]
    assert len(lines) == 3
    assert all("(the model as it is) |" in line and "| – |" in line for line in lines)
    assert text.count("| not retrained |") == len(rows) - 3
    own = next(row.result.summary["J&F"] for row in rows if row.as_configured)
    small = next(row.result.summary["J&F"] for row in rows if row.variant.title == "64x64")
    assert f"| 64x64 | {100 * small:.1f} | {round(100 * (small - own), 1) + 0.0:+.1f} |" in text
    assert text.endswith("```bash\nefficienttam evaluate ablate\n```\n")


def test_tables_and_results_are_written(rows, tmp_path):
    path = write_ablations(rows, tmp_path)
    assert path.read_text().startswith("# Ablations of tiny on folder")
    assert EvaluationResult.read(tmp_path / "results-1.json") == rows[0].result


def test_reports_of_others_are_not_replaced_by_tables(rows, tmp_path):
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"report\.md' was not written by efficienttam"):
        write_ablations(rows, tmp_path)
    assert (tmp_path / "report.md").read_text() == "mine"


def test_what_is_done_is_not_done_again(model, processor, tmp_path, monkeypatch):
    variants = variants_of(model.config, ["object-pointers"])
    options = RunOptions(model="tiny", output=tmp_path)
    first = run_ablations(model, processor, [record()], options, variants)
    monkeypatch.setattr(type(model), "track_step", lambda *_, **__: pytest.fail("a video was done again"))
    again = run_ablations(model, processor, [record()], options, variants)
    assert [row.result.videos for row in again] == [row.result.videos for row in first]
