"""Runs the reference suites (the published implementation's numbers on rebuildable weights) through this package.

A suite is a list of operations on a video, or prompts on an image, with the outputs the published code gave. The suites
lie in `../shared/reference` beside a checkout that has them; `tests/test_parity.py` skips where they are not. Three
small ones are part of the repository (`tests/parity`), and `tests/test_committed_parity.py` runs those everywhere.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

from efficienttam_hf import (
    EfficientTamConfig,
    EfficientTamModel,
    EfficientTamVideoInferenceSession,
    EfficientTamVideoModel,
    EfficientTamVideoProcessor,
)
from efficienttam_hf.checkpoints import convert_checkpoint


SHARED = Path(__file__).resolve().parents[2] / "shared"
REFERENCE = SHARED / "reference"
ATTENTION = {"dense": "full", "_1": "pooled_logit_bias", "_2": "pooled_key_shift"}


def tiny_config(cross_attention: str = "full", **overrides) -> EfficientTamConfig:
    """The small model of the suites: everything as in the family, but sizes."""
    return EfficientTamConfig(**tiny_fields(cross_attention), **overrides)


@torch.no_grad()
def with_objects(model: EfficientTamVideoModel, gain: float = 1.0) -> EfficientTamVideoModel:
    """The model, changed so that objects are judged present; a gain on its weights gives its masks more of them."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed" not in name:
            parameter.mul_(gain)
    model.mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    return model


def lively_model() -> EfficientTamVideoModel:
    """A small model with one layer of each part, in which objects are judged present."""
    config = tiny_config("pooled_logit_bias").to_dict()
    config["vision_config"] |= {"num_hidden_layers": 1, "global_attention_indexes": []}
    config["mask_decoder_config"]["num_hidden_layers"] = 1
    config["memory_attention_config"]["num_hidden_layers"] = 1
    torch.manual_seed(1)
    model = EfficientTamVideoModel(type(tiny_config()).from_dict(config)).eval()
    return with_objects(model, 1.5)


def save_model(model, folder) -> Path:
    """Save a video model and its processor, as `from_pretrained` and the command line load them; return the folder."""
    model.save_pretrained(folder)
    EfficientTamVideoProcessor.from_config(model.config).save_pretrained(folder)
    return Path(folder)


def save_tiny_model(folder, seed: int = 0) -> Path:
    """Save a tiny model with random weights and its processor; return the folder."""
    torch.manual_seed(seed)
    return save_model(EfficientTamVideoModel(tiny_config()), folder)


def write_frames(path, rate, frames, **options):
    """Write a video of images (height, width, 3) of one size, as the package writes it; `options` of `VideoWriter`."""
    from efficienttam_hf.video_writer import VideoWriter

    height, width = frames[0].shape[:2]
    with VideoWriter(path, rate, width, height, **options) as writer:
        for frame in frames:
            writer.write(frame)


def tiny_fields(cross_attention: str = "full") -> dict:
    """The fields of `tiny_config`, which can stand in for those of a preset."""
    return {
        "image_size": 128,
        "vision_config": {
            "hidden_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "window_size": 3,
            "global_attention_indexes": [1, 3],
            "fpn_hidden_size": 64,
        },
        "prompt_encoder_config": {"hidden_size": 64},
        "mask_decoder_config": {"hidden_size": 64},
        "memory_attention_config": {
            "hidden_size": 64,
            "memory_size": 16,
            "num_hidden_layers": 2,
            "feed_forward_hidden_size": 128,
            "cross_attention": cross_attention,
        },
        "memory_encoder_config": {"hidden_size": 64, "output_channels": 16, "fuser_intermediate_size": 256},
    }


def load_recipe(folder: Path = REFERENCE):
    """The module that rebuilds checkpoints, from a reference folder."""
    spec = importlib.util.spec_from_file_location("reference_recipe", folder / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_suites(name: str, folder: Path = REFERENCE) -> list[dict]:
    """The suites of `tiny.json` or `full.json`; none where the file is not there."""
    path = folder / name
    return json.loads(path.read_text())["suites"] if path.is_file() else []


def config_of(suite: dict) -> EfficientTamConfig:
    """The configuration of a suite's model."""
    if suite["variant"] == "tiny":
        return tiny_config(ATTENTION[suite["attention"]])
    return EfficientTamConfig.from_preset(suite["variant"])


def build_folder(suite: dict, folder: Path, reference: Path = REFERENCE) -> Path:
    """A checkpoint of the published kind, converted: what `from_pretrained` loads."""
    published = folder.with_suffix(".pt")
    tensors = load_recipe(reference).state_dict(suite["variant"], suite["seed"])
    torch.save({"model": {name: torch.from_numpy(t) for name, t in tensors.items()}}, published)
    convert_checkpoint(published, folder, config_of(suite))
    published.unlink()
    return folder


def load_frames(suite: dict, folder: Path = REFERENCE) -> list[Image.Image]:
    """The suite's frames as PIL images."""
    paths = sorted((folder / suite["frames"]).glob("*.*"))
    return [Image.open(path).convert("RGB") for path in paths[: suite.get("num_frames")]]


def ellipse(size: tuple[int, int], cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    """A filled ellipse as a bool mask of (height, width)."""
    y, x = np.mgrid[: size[0], : size[1]]
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1


class VideoSuite:
    """Runs a video suite's operations with the session API and gives its outputs by their reference names."""

    def __init__(self, model, processor, suite: dict, frames: list[Image.Image], pixel_values=None, **session_options):
        self.model, self.processor, self.suite = model, processor, suite
        self.width, self.height = frames[0].size
        if pixel_values is None:
            self.session = processor.init_video_session(video=frames, **session_options)
        else:
            self.session = EfficientTamVideoInferenceSession(
                video=pixel_values, video_height=self.height, video_width=self.width, **session_options
            )
        self.outputs: dict[str, torch.Tensor] = {}

    def run(self) -> dict[str, np.ndarray]:
        """All operations in order."""
        for index, op in enumerate(self.suite["ops"]):
            getattr(self, "_" + op["op"])(index, op)
        return {name: np.asarray(value) for name, value in self.outputs.items()}

    def _keep(self, prefix: str, output, video_res: bool) -> None:
        self.outputs[f"{prefix}.object_ids"] = torch.tensor(output.object_ids)
        if video_res:
            masks = self.processor.post_process_masks(
                [output.pred_masks], original_sizes=[[self.height, self.width]], binarize=False
            )[0]
            self.outputs[f"{prefix}.video_res_masks"] = masks[..., ::4, ::4]
        else:
            self.outputs[f"{prefix}.pred_masks"] = output.pred_masks
            self.outputs[f"{prefix}.object_pointer"] = output.object_pointer
            self.outputs[f"{prefix}.object_score_logits"] = output.object_score_logits

    def _after_prompt(self, index: int, op: dict) -> None:
        output = self.model.segment_prompts(self.session, op["frame"])
        self._keep(f"{index:02d}.{op['op']}", output, video_res=True)

    def _points(self, index: int, op: dict) -> None:
        self.processor.add_inputs_to_inference_session(
            self.session,
            op["frame"],
            op["obj"],
            input_points=[[op["points"]]] if op.get("points") else None,
            input_labels=[[op["labels"]]] if op.get("points") else None,
            input_boxes=[[op["box"]]] if op.get("box") else None,
            clear_old_inputs=op.get("clear_old_points", True),
        )
        self._after_prompt(index, op)

    def _mask(self, index: int, op: dict) -> None:
        mask = ellipse((self.height, self.width), *op["ellipse"])
        self.processor.add_inputs_to_inference_session(self.session, op["frame"], op["obj"], input_masks=mask)
        self._after_prompt(index, op)

    def _clear_prompts(self, index: int, op: dict) -> None:
        self.session.clear_prompts(op["frame"], op["obj"])
        self._keep(f"{index:02d}.clear_prompts", self.model.get_frame_output(self.session, op["frame"]), video_res=True)

    def _remove_object(self, index: int, op: dict) -> None:
        self.session.remove_object(op["obj"])
        self.outputs[f"{index:02d}.remove_object.object_ids"] = torch.tensor(self.session.obj_ids)

    def _reset(self, index: int, op: dict) -> None:
        self.session.reset_tracking_data()

    def _propagate(self, index: int, op: dict) -> None:
        for output in self.model.propagate_in_video_iterator(
            self.session,
            start_frame_idx=op.get("start"),
            max_frame_num_to_track=op.get("max_frames"),
            reverse=op.get("reverse", False),
        ):
            self._keep(f"{index:02d}.propagate.{output.frame_idx:03d}", output, video_res=False)


class CoinFlips:
    """The pixels of binarised masks that float32 cannot decide, and a way to decide them otherwise.

    A mask that comes from clicks is binarised for the memory encoder. Where a logit is zero but for rounding,
    processors disagree about that pixel, and one pixel changes a memory by more than the tolerance of a suite (the
    published code differs from its own expected numbers in the same way, on such a processor). `choose` decides such a
    pixel, so that a suite can be run with each outcome.

    Args:
        model: the video model, until `close` is called.
        noise: the largest |logit| that counts as undecided, as a share of the mask's largest.
    """

    def __init__(self, model: EfficientTamVideoModel, noise: float = 2e-6):
        self.model, self.noise, self.encode_memory = model, noise, model.encode_memory
        self.found: list[tuple[int, ...]] = []
        self.chosen: dict[tuple[int, ...], bool] = {}
        self._calls = 0
        model.encode_memory = self._encode_memory

    def choose(self, pixel: tuple[int, ...], inside: bool) -> None:
        """Decide a found pixel in the next run."""
        self.chosen[pixel] = inside

    def restart(self) -> None:
        """Begin a run."""
        self._calls, self.found = 0, []

    def close(self) -> None:
        """Give the model its own method back."""
        del self.model.encode_memory

    def _encode_memory(self, features, masks, mask_from_prompts=False):
        call, self._calls = self._calls, self._calls + 1
        if torch.as_tensor(mask_from_prompts).any():
            undecided = (masks.abs() <= self.noise * masks.abs().amax()).nonzero().tolist()
            self.found += [(call, *index) for index in undecided]
            masks = masks.clone()
            for (at_call, *index), inside in self.chosen.items():
                if at_call == call:
                    masks[tuple(index)] = 1e-6 if inside else -1e-6
        return self.encode_memory(features, masks, mask_from_prompts)


def compare(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict:
    """Worst and median relative difference over outputs, and the share of mask pixels with the expected sign.

    Outputs are matched by name; the expected names must all be there.
    """
    differences, agree, pixels = {}, 0, 0
    for name, value in expected.items():
        mine = ours[name]
        assert mine.shape == value.shape, f"{name}: {mine.shape}, expected {value.shape}"
        if name.endswith("object_ids"):
            assert mine.tolist() == value.tolist(), name
            continue
        value, mine = value.astype(np.float64), mine.astype(np.float64)
        differences[name] = float(np.abs(mine - value).max() / max(1.0, np.abs(value).max()))
        if "masks" in name:
            agree += int(((mine > 0) == (value > 0)).sum())
            pixels += value.size
    worst = max(differences, key=differences.get)
    return {
        "worst": differences[worst],
        "worst_name": worst,
        "median": float(np.median(list(differences.values()))),
        "sign": agree / max(1, pixels),
        "differences": differences,
    }


def exceeded(result: dict, suite: dict) -> list[str]:
    """The bounds of the reference's README that a suite's comparison exceeds; none where the suite passes."""
    bounds = {"worst": 1e-2, "median": 2e-4 if suite["variant"] == "tiny" else 5e-4}
    found = [name for name, bound in bounds.items() if not result[name] <= bound]
    return found if result["sign"] >= 0.998 else [*found, "sign"]


def assert_within_tolerance(ours: dict, expected: dict, suite: dict) -> None:
    """The tolerance of the reference's README: worst output, median output, and signs of mask pixels."""
    result = compare(ours, {name: value for name, value in expected.items() if name != "pixel_values"})
    assert exceeded(result, suite) == [], result


def closest_run(model, processor, suite: dict, frames, pixel_values, expected) -> dict[str, np.ndarray]:
    """A video suite's outputs; where they are not within the tolerance, those of the closest outcome of `CoinFlips`.

    Most suites pass as they run. Large masks have undecided pixels all the same: one pixel of many changes little.
    """
    flips = CoinFlips(model)
    try:
        outputs = VideoSuite(model, processor, suite, frames, pixel_values).run()
        undecided, runs = flips.found, [outputs]
        if not undecided or not exceeded(compare(outputs, expected), suite):
            return outputs
        assert len(undecided) <= 3, f"{len(undecided)} pixels of binarised masks are undecided: {undecided}"
        for outcome in itertools.product((True, False), repeat=len(undecided)):
            flips.restart()
            for pixel, inside in zip(undecided, outcome, strict=True):
                flips.choose(pixel, inside)
            runs.append(VideoSuite(model, processor, suite, frames, pixel_values).run())
    finally:
        flips.close()
    return min(runs, key=lambda run: compare(run, expected)["worst"])


def run_image_suite(model: EfficientTamModel, processor, suite: dict, pixel_values, size) -> dict[str, np.ndarray]:
    """An image suite: prompts on one image, with embeddings computed once."""
    height, width = size
    embeddings = model.get_image_embeddings(pixel_values)
    outputs, low_res = {}, []
    full_size = suite["variant"] != "tiny"
    outputs["image_embeddings"] = embeddings[-1][..., ::4, ::4] if full_size else embeddings[-1]
    for index, prompt in enumerate(suite["prompts"]):
        inputs = processor(
            original_sizes=[[height, width]],
            input_points=[[prompt["point_coords"]]] if "point_coords" in prompt else None,
            input_labels=[[prompt["point_labels"]]] if "point_coords" in prompt else None,
            input_boxes=[[prompt["box"]]] if "box" in prompt else None,
            return_tensors="pt",
        )
        inputs = {name: inputs[name] for name in ("input_points", "input_labels", "input_boxes") if name in inputs}
        if "mask_from" in prompt:
            inputs["input_masks"] = low_res[prompt["mask_from"]][:, :1]
        with torch.no_grad():
            output = model(image_embeddings=embeddings, multimask_output=prompt["multimask_output"], **inputs)
        low_res.append(output.pred_masks[:, 0].clamp(-32.0, 32.0))
        masks = processor.post_process_masks(output.pred_masks, [[height, width]], binarize=False)[0][0]
        outputs[f"{index:02d}.iou_scores"] = output.iou_scores[0, 0]
        outputs[f"{index:02d}.low_res_masks"] = low_res[-1][0]
        outputs[f"{index:02d}.masks"] = masks[..., ::4, ::4] if width > 300 else masks
    return {name: value.numpy() for name, value in outputs.items()}


def load_models(folder: Path):
    """Both models and the processor of a converted folder."""
    return (
        EfficientTamModel.from_pretrained(folder).eval(),
        EfficientTamVideoModel.from_pretrained(folder).eval(),
        EfficientTamVideoProcessor.from_pretrained(folder),
    )


def expected_outputs(suite: dict, folder: Path = REFERENCE) -> dict[str, np.ndarray]:
    """The published implementation's outputs."""
    return load_file(folder / "expected" / f"{suite['name']}.safetensors")
