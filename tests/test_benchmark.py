"""The benchmark: what it computes from times is checked on a clock of our own, what it measures on tiny models."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from reference import save_tiny_model, tiny_config

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.benchmark import runner
from efficienttam_hf.benchmark.contenders import ContenderSpec, OurContender
from efficienttam_hf.benchmark.machine import MatrixProduct, MemoryUse, with_peak_memory
from efficienttam_hf.benchmark.peers import check_peer, make_peer
from efficienttam_hf.benchmark.reference import NEEDED, published_variant
from efficienttam_hf.benchmark.report import PAPER_METHODS, published_accuracy, to_markdown, write_report
from efficienttam_hf.benchmark.results import FRAME_PARTS, BenchmarkReport
from efficienttam_hf.benchmark.runner import BenchmarkOptions, TimedTrack, plan
from efficienttam_hf.benchmark.stages import STAGES, StageMeter, find_stages
from efficienttam_hf.benchmark.timing import Spread, interleave, paired_ratios
from efficienttam_hf.benchmark.video import draw_video
from efficienttam_hf.cli import main
from efficienttam_hf.configuration_efficienttam import PRESETS, EfficientTamConfig
from efficienttam_hf.evaluation.paper_tables import rows_for


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny random model."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return draw_video(tmp_path_factory.mktemp("video"), 6, (96, 64))


def tiny_contender() -> OurContender:
    torch.manual_seed(0)
    model = EfficientTamVideoModel(tiny_config())
    return OurContender(ContenderSpec("ours", "tiny"), model, EfficientTamVideoProcessor.from_config(model.config))


class ManualClock:
    """A clock that goes on when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# ------------------------------------------------------------------------------------------------ times to statements


def test_everyone_runs_once_a_round_and_the_first_place_goes_around():
    order = []
    rounds = list(interleave({name: lambda name=name: order.append(name) or name * 2 for name in "abc"}, 3))
    assert "".join(order) == "abcbcacab"
    assert rounds == [{"a": "aa", "b": "bb", "c": "cc"}] * 3


def test_a_busy_spell_does_not_move_a_paired_ratio():
    ours, theirs = [1.0, 1.0, 10.0, 10.0, 1.0], [2.0, 2.0, 20.0, 20.0, 2.0]
    assert paired_ratios(theirs, ours) == Spread(2.0, 2.0, 2.0, 5)
    with pytest.raises(ValueError):
        paired_ratios(theirs, ours[:-1])


def test_a_spread_is_the_median_and_the_quartiles():
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0, 5)


def test_a_meter_adds_up_the_calls_of_a_stage_and_nothing_else():
    clock = ManualClock()

    class Part(torch.nn.Module):
        def __init__(self, seconds):
            super().__init__()
            self.seconds = seconds

        def forward(self):
            clock.now += self.seconds

    model = torch.nn.Module()
    model.image_encoder, model.memory_attention, model.memory_encoder = Part(1.0), Part(2.0), Part(4.0)
    model.sam_prompt_encoder, model.sam_mask_decoder, model.something_else = Part(8.0), Part(16.0), Part(100.0)
    with StageMeter(model, clock).listening() as taken:
        for part in model.children():
            part()
        model.memory_attention()
    model.image_encoder()  # no longer listened to
    assert taken == {"image encoder": 1.0, "memory attention": 4.0, "mask decoder": 24.0, "memory encoder": 4.0}


def test_a_model_without_a_stage_is_refused_by_the_name_of_the_stage():
    with pytest.raises(ValueError, match="image encoder and the memory attention"):
        find_stages(torch.nn.Sequential())


def test_numbers_of_a_run_follow_from_its_times(folder, monkeypatch, tmp_path):
    """On a clock that a frame moves by two seconds, and another contender's frame by six."""
    clock = ManualClock()

    def forward(self, output, video):
        clock.now += 6.0 if self.spec.kind == "peer" else 2.0
        return torch.zeros(1)

    def build(spec):
        contender = tiny_contender()
        contender.spec = spec
        return contender

    monkeypatch.setattr(OurContender, "to_video_size", forward)
    monkeypatch.setattr(runner, "build", build)
    monkeypatch.setattr(runner, "clock_for", lambda device: clock)
    monkeypatch.setattr(runner, "MatrixProduct", lambda device, dtype: SimpleNamespace(rate=lambda: 1e9))
    options = BenchmarkOptions([str(folder)], ["sam2-tiny"], frames=2, warmup=2, video_size=(96, 64), memory=False)
    report = runner.run(options)

    ours, peer = report.results
    assert (ours.frame.median, peer.frame.median) == (2.0, 6.0)
    assert ours.frames_per_second == 0.5
    assert (ours.ratio, peer.ratio) == (Spread(1.0, 1.0, 1.0, 2), Spread(3.0, 3.0, 3.0, 2))
    assert ours.parts["output"].median == 2.0
    assert ours.share_of_peak["frame"] == pytest.approx(ours.flops["frame"] / 2.0 / 1e9)
    assert ours.weights == str(folder)
    assert peer.weights == "random"

    report.save(tmp_path / "report.json")
    assert BenchmarkReport.load(tmp_path / "report.json") == report
    text = to_markdown(report)
    assert "3.00 (3.00–3.00)" in text
    assert "float32 1.00 (1.00–1.00) GFLOP/s" in text


# ----------------------------------------------------------------------------------------------------------- measured


def test_parts_add_up_to_the_frame_and_meters_do_not_change_it(video):
    contender = tiny_contender()
    plain = list(contender.track(video, 2, preload=True))
    track = TimedTrack(contender, video, 2)
    for _ in range(4):
        track.step()
    flops = track.count_flops()
    parts = track.step_by_parts()
    assert list(parts) == list(FRAME_PARTS)
    assert all(seconds > 0 for seconds in parts.values())
    assert set(flops) == {*STAGES, "frame"}
    assert 0.9 * flops["frame"] < sum(flops[stage] for stage in STAGES) <= flops["frame"]

    with StageMeter(contender.model, lambda: 0.0).listening():
        metered = list(contender.track(video, 2, preload=True))
    for one, other in zip(plain, metered, strict=True):
        torch.testing.assert_close(one.pred_masks, other.pred_masks, rtol=0, atol=0)


def test_frames_read_before_and_frames_read_in_turn_give_the_same_masks(video):
    contender = tiny_contender()
    before, in_turn = (list(contender.track(video, 1, preload=preload)) for preload in (True, False))
    assert len(before) == video.num_frames
    torch.testing.assert_close(before[-1].pred_masks, in_turn[-1].pred_masks)
    assert contender.to_video_size(before[-1], video).shape[-2:] == (64, 96)


def test_operations_of_the_encoder_do_not_grow_with_objects_and_those_of_attention_do(video):
    counts = []
    for num_objects in (1, 3):
        track = TimedTrack(tiny_contender(), video, num_objects)
        track.step()
        track.step()
        counts.append(track.count_flops())
    assert counts[0]["image encoder"] == counts[1]["image encoder"]
    for stage in ("memory encoder", "memory attention"):  # but for what is the same for all objects
        assert 2.5 * counts[0][stage] < counts[1][stage] < 3 * counts[0][stage]


def test_the_yardstick_is_a_rate():
    assert MatrixProduct(torch.device("cpu"), "bfloat16", size=64).rate() > 1e3


@pytest.mark.slow
def test_memory_is_that_of_the_call():
    size, memory = with_peak_memory("cpu", eval, "len(b'1' * (300 * 2**20))")
    assert size == 300 * 2**20
    assert 300e6 < memory.own < 400e6
    assert memory.libraries > 50e6


def test_objects_have_boxes_of_their_own_in_the_frame(video):
    boxes = video.boxes(8)
    assert all(0 <= x0 < x1 <= 96 and 0 <= y0 < y1 <= 64 for x0, y0, x1, y1 in boxes)
    assert all(left[2] < right[0] for left, right in zip(boxes, boxes[1:], strict=False))


# -------------------------------------------------------------------------------------------------- peers, the paper


def test_peers_are_the_size_that_is_published():
    with torch.device("meta"):
        sizes = {
            name: sum(p.numel() for p in make_peer(name)[0].parameters()) for name in ("sam2-tiny", "sam2-base-plus")
        }
    assert [round(size / 1e6, 1) for size in sizes.values()] == [39.0, 80.9]


def test_every_preset_is_found_again_among_the_published_variants_at_any_size():
    config = EfficientTamConfig.from_preset("efficienttam_ti_2", image_size=256)
    assert published_variant(config) == "efficienttam_ti_2"
    with pytest.raises(ValueError, match="efficienttam_s_1"):
        published_variant(tiny_config("pooled_logit_bias"))


def test_accuracy_is_the_papers_and_only_at_the_papers_size():
    assert set(PAPER_METHODS.values()) <= {row.method for row in rows_for(1)}
    assert set(PAPER_METHODS) <= {*PRESETS, "sam2-base-plus"}
    result = _result("efficienttam_s", 1024)
    assert published_accuracy(result) == rows_for(1)[-1].values["SA-V test J&F"]
    assert published_accuracy(replace(result, image_size=512)) is None
    assert published_accuracy(_result("efficienttam-nano", 1024)) is None


def _report(results):
    machine = {"device": "cpu", "processor": "p", "threads": 1, "load average at the start": 0.0}
    machine |= {"torch": "2", "transformers": "5", "date": "today"}
    settings = {"dtype": "float32", "compiled": False, "video_size": [96, 64], "warmup": 2, "frames": 2}
    return BenchmarkReport(machine, settings, {"float32": Spread(1e9, 1e9, 1e9, 2)}, results)


def test_a_folder_of_results_has_a_plot_and_names_what_is_not_in_it(tmp_path):
    pytest.importorskip("matplotlib", reason="the plot is drawn with Matplotlib")
    results = [_result("efficienttam_s", 1024), _result("unheard-of", 1024)]
    paths = write_report(_report(results), tmp_path / "out")
    assert [path.name for path in paths] == ["benchmark.json", "benchmark.md", "benchmark.png"]
    assert "not in the plot: unheard-of." in paths[1].read_text()
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    assert json.loads(paths[0].read_text())["results"][0]["memory"] == {"peak": 3, "libraries": 1}


def test_names_of_contenders_act_neither_in_tables_nor_in_the_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="the plot is drawn with Matplotlib")
    results = [_result("<script>x</script>|y", 1024), _result("two\n# lines $\\frac$", 1024)]
    text = write_report(_report(results), tmp_path / "out")[1].read_text()
    assert "<script>" not in text and "\n# lines" not in text
    for table in (part for part in text.split("\n\n") if part.startswith("| contender")):
        assert len({len(row.replace("\\|", "").split("|")) for row in table.splitlines()}) == 1


def _result(name: str, image_size: int) -> runner.ContenderResult:
    spread = Spread(0.5, 0.4, 0.6, 2)
    return runner.ContenderResult(
        name, "ours", "random", image_size, 1, 10, [0.4, 0.6], spread, spread, dict.fromkeys(FRAME_PARTS, spread),
        spread, {"frame": 10}, {"frame": 0.5}, MemoryUse(3, 1),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": ["efficientam_s"]}, "no folder 'efficientam_s'.*did you mean efficienttam_s.*preset:NAME"),
        ({"objects": [2, 0]}, "objects must be at least 1, got 0"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"image_size": 100}, "multiple of 32"),
        ({"peers": ["sam3"]}, "no peer 'sam3'; there are sam2-tiny"),
        ({"peers": ["edgetam"], "image_size": 128}, "edgetam must be a multiple of 256|needs? timm"),
        ({"device": "cuda:99"}, "cuda:99 cannot compute in float32"),
        ({"reference": Path(__file__).parent}, "lacks efficient_track_anything/__init__.py"),
        ({"models": ["preset:efficienttam_s"] * 2}, "efficienttam_s is there more than once"),
    ],
)
def test_what_cannot_be_measured_is_named_first(options, said):
    with pytest.raises(ValueError, match=said):
        plan(BenchmarkOptions(**{"models": ["preset:efficienttam_s"], **options}))


def test_the_published_code_may_run_in_another_type(tmp_path):
    for name in NEEDED:
        path = tmp_path / name
        path.mkdir(parents=True) if not path.suffix else (path.parent.mkdir(parents=True, exist_ok=True), path.touch())
    options = BenchmarkOptions(
        ["preset:efficienttam_s"], reference=tmp_path, dtype="bfloat16", reference_dtype="float32", device="cpu"
    )
    assert [(spec.name, spec.dtype) for spec in plan(options)] == [
        ("preset:efficienttam_s", "bfloat16"),
        ("published preset:efficienttam_s", "float32"),
    ]


def test_an_edgetam_that_cannot_be_made_is_named(monkeypatch):
    monkeypatch.setattr("efficienttam_hf.benchmark.peers.transformers", type("Old", (), {"__version__": "4.50"}))
    with pytest.raises(ImportError, match="4.50 has no EdgeTamVideoModel"):
        check_peer("edgetam")


def test_the_default_edgetam_is_what_transformers_makes_by_default():
    if not hasattr(transformers, "EdgeTamVideoModel"):
        pytest.skip("this Transformers has no EdgeTAM")
    with torch.device("meta"):
        model, _ = make_peer("edgetam-default")
        default = transformers.EdgeTamVideoModel(transformers.EdgeTamVideoConfig())
    assert model.config.to_diff_dict() == default.config.to_diff_dict()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in default.parameters())


def test_the_command_line_names_a_wrong_size_and_a_wrong_model(capsys):
    assert main(["benchmark", "--video-size", "large"]) == 2
    assert "WIDTHxHEIGHT" in capsys.readouterr().err
    assert main(["benchmark", "--model", "nowhere", "--device", "cpu"]) == 2
    assert "There is no folder 'nowhere' with a model in it" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------- slow


@pytest.mark.slow
def test_the_command_beside_a_peer(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the plot is drawn with Matplotlib")
    arguments = "--model efficienttam-nano --peers sam2-tiny --image-size 128 --video-size 128x96 --device cpu"
    arguments += " --frames 2 --warmup 2 --threads 1"
    assert main(["benchmark", *arguments.split(), "--objects", "1", "2", "--output", str(tmp_path)]) == 0
    assert "sam2-tiny" in capsys.readouterr().out
    report = BenchmarkReport.load(tmp_path / "benchmark.json")
    assert [(result.name, result.objects) for result in report.results] == [
        ("efficienttam-nano", 1),
        ("sam2-tiny", 1),
        ("efficienttam-nano", 2),
        ("sam2-tiny", 2),
    ]
    assert all(result.memory.own > 10e6 for result in report.results)
    assert report.results[0].ratio.median == 1.0


@pytest.mark.slow
def test_the_published_implementation_beside_ours(tmp_path):
    """It needs a checkout, given in EFFICIENTTAM_REFERENCE, and what that needs."""
    if "EFFICIENTTAM_REFERENCE" not in os.environ:
        pytest.skip("EFFICIENTTAM_REFERENCE does not name a checkout of the published implementation")
    pytest.importorskip("hydra", reason="the published implementation is configured with hydra")
    from efficienttam_hf.benchmark.building import build

    video = draw_video(tmp_path, 4, (128, 96))
    ours = ContenderSpec("ours", "preset:efficienttam_ti", image_size=128)
    published = replace(ours, kind="reference", checkout=Path(os.environ["EFFICIENTTAM_REFERENCE"]))
    masks = []
    for contender in (build(ours), build(published)):
        outputs = list(contender.track(video, 2, preload=True))
        masks.append(contender.to_video_size(outputs[-1], video))
    assert ((masks[0] > 0) == (masks[1] > 0)).float().mean() > 0.99
