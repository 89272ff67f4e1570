"""`manifest.json` of an exported folder: all facts that an application needs to run the graphs.

Reading and checking it needs neither torch nor onnx.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..published import INCLUDED_MODELS, VARIANTS
from ..safe_names import contained_path
from ..structured_files import build, field, read_json
from ..tracking_rules import TrackingRules


MANIFEST_NAME = "manifest.json"
FORMAT = "efficienttam-onnx"
SUFFIXES = {FORMAT: ".onnx", "efficienttam-coreml": ".mlpackage", "efficienttam-executorch": ".pte"}
FORMAT_VERSION = 1
MAX_BYTES = 64 * 2**20  # the largest size of the file; that of the largest model has about 100 kB
DTYPES = ("float32", "float16", "int8")

GUIDE = {
    "frame": "Run image_encoder once a frame, whatever the number of objects. For each object choose memories (below), "
    "run memory_attention on `features`, mask_decoder on its output with one point (0, 0) labelled -1, and "
    "memory_encoder on `features` and `pred_masks`. Objects with equally many memories and pointers run as one batch.",
    "prompts": "On a frame that was not tracked, run mask_decoder on `image_embeddings`, without memory_attention, and "
    "memory_encoder with mask_from_prompts true; the result is a conditioning frame. On a frame that was tracked, "
    "run memory_attention as when tracking, and give mask_decoder the frame's masks, clamped to plus or minus "
    "previous_mask_clamp, as previous_masks; the result replaces the frame's (a conditioning frame only if "
    "add_all_frames_to_correct_as_cond). Points are (x, y) in pixels of the input size: x / frame width * input width. "
    "Labels: 1 positive, 0 negative, 2 and 3 the top-left and bottom-right corner of a box, ahead of other points; -1 "
    "none.",
    "multimask_output": "True if multimask_output_in_sam, the number of points (corners count; a frame without prompts "
    "has 0) lies from multimask_min_pt_num to multimask_max_pt_num, and the frame is segmented without memory or "
    "multimask_output_for_tracking holds.",
    "mask_prompts": "A mask of 0 and 1 at the input size is itself the result: pred_masks are mask_prompt_scale * mask "
    "+ mask_prompt_bias, scaled down to mask_size (triangle filter, antialiased); the score is +10 if any pixel is set "
    "(scale + bias). Its object pointer comes from mask_decoder on `features` with the point (0, 0) labelled -1, "
    "multimask_output false, and as previous_masks the mask convolved with mask_downsample_weight (stride 4) plus "
    "mask_downsample_bias; it is no_object_pointer if no pixel is set.",
    "memories": "Of the frames an object has a result for, a frame t looks at all its conditioning frames (at most "
    "max_cond_frame_num, the closest in time; -1: all) with temporal_index num_maskmem - 1, then at those among the "
    "last num_maskmem - 1 frames, the farthest first, with temporal_index distance - 1. When tracking backwards, the "
    "last frames are t + 1, t + 2 and so on. With r = memory_temporal_stride_for_eval above 1 they are t - 1 and the "
    "nearest num_maskmem - 2 multiples of r up to t - 2 (from t + 2 on, backwards), with the same indices. If "
    "clear_non_cond_mem_around_input, an object's frames within r * num_maskmem of a prompted one are dropped when its "
    "prompts are run and when tracking passes it, but conditioning frames are not.",
    "pointers": "object_pointers are those of the chosen conditioning frames that are not ahead of t, then of the last "
    "max_object_pointers_in_encoder - 1 frames there are, the nearest first. There may be none.",
    "storage": "Between frames an object's memory is rounded to memory_dtype.",
    "masks": "Masks are logits at mask_size; above mask_threshold is the object. Scale them to the frame bilinearly "
    "(pixel centres at half, no antialiasing), then threshold.",
    "pixels": "Frames of videos: bicubic as Pillow does it, rounded to 8 bits; images: triangle filter, antialiased, "
    "not rounded. To RGB, to [0, 1], minus image_mean, over image_std, channels first.",
}


class ExportError(ValueError):
    """A folder of exported graphs is incomplete or damaged. The message says what is wrong and how to correct it."""


@dataclass(frozen=True, kw_only=True)
class Rules(TrackingRules):
    """The rules of tracking, and other parameters that a host needs, with the names of `EfficientTamConfig`.

    Sizes are (height, width). `feature_size` is the size of the feature map, and `mask_size` that of masks, which is
    four times as large. `mask_downsample_*` and `no_object_pointer` are learned (see `graphs.host_constants`).
    """

    image_size: list[int]
    feature_size: list[int]
    mask_size: list[int]
    image_mean: list[float]
    image_std: list[float]
    mask_threshold: float
    mask_prompt_scale: float
    mask_prompt_bias: float
    no_object_score: float
    memory_dtype: str
    mask_downsample_weight: list[list[float]]
    mask_downsample_bias: float
    no_object_pointer: list[float]

    @property
    def input_size(self) -> tuple[int, int]:
        """`image_size` as a pair (height, width)."""
        height, width = self.image_size
        return height, width


# Older exported folders do not name these rules; they were made with the defaults.
LATER_RULES = (
    "memory_temporal_stride_for_eval",
    "clear_non_cond_mem_around_input",
    "memory_selection",
    "memory_selection_options",
    "object_competition",
    "non_overlap_masks_for_mem_enc",
)


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        source: the name of the exported model, as it was given.
        weights_sha256: the checksum of its weights in float32; see `checkpoints.weights_sha256`. It does not depend on
            the dtype, so exports of the same model have the same checksum.
        package_version: the version of this package that exported the graphs.
        dtype: the dtype of the stored weights, one of `DTYPES`. Inputs and outputs are always float32.
        opset: the version of the ONNX operator set; None for other formats.
        graphs: for each graph, `file`, `sha256`, `bytes`, and the axes of `inputs` and `outputs`: a number, or the name
            of an axis that may vary. If axes are bounded or a graph has several functions (see `bounded.py`), also
            `functions`: for each function, the smallest and the largest size of each axis.
        rules: the rules of tracking and other parameters; see `Rules`.
        format: one of `SUFFIXES`.
    """

    source: str
    weights_sha256: str
    package_version: str
    dtype: str
    opset: int | None
    graphs: dict[str, dict[str, Any]]
    rules: Rules
    format: str = FORMAT

    def write(self, folder: Path) -> None:
        """Write the file to a folder, with `GUIDE` for readers of the file."""
        content = {"format": self.format, "format_version": FORMAT_VERSION, **asdict(self), "guide": GUIDE}
        (folder / MANIFEST_NAME).write_text(json.dumps(content, indent=2) + "\n")

    @classmethod
    def read(cls, folder: str | Path, format: str = FORMAT) -> Manifest:
        """Read the manifest of an exported folder.

        Args:
            folder: the exported folder.
            format: the format that the caller can run.

        Raises:
            FileNotFoundError: if the folder has no manifest.
            ExportError: if the file is not a manifest, or has another version or format.
        """
        path = Path(folder) / MANIFEST_NAME
        if not path.is_file():
            named = str(folder) in (*INCLUDED_MODELS, *VARIANTS) and not Path(folder).exists()
            raise FileNotFoundError(
                f"'{folder}' is the name of a model; here a folder with its exported graphs is needed, as "
                f"`efficienttam export {folder} FOLDER` makes it."
                if named
                else f"There is no {MANIFEST_NAME} in '{folder}': give the folder that `efficienttam export` made."
            )
        try:
            content = read_json(path, what="manifest", max_bytes=MAX_BYTES)
        except ValueError as error:
            raise ExportError(f"'{path}' is damaged ({error}): export the model again.") from error
        if not isinstance(content, dict) or content.get("format") != format:
            raise ExportError(f"'{path}' does not describe exported graphs: its format is not {format!r}.")
        if content.get("format_version") != FORMAT_VERSION:
            raise ExportError(
                f"'{path}' is of format version {content.get('format_version')}, this package reads {FORMAT_VERSION}: "
                "export the model again."
            )
        rules = field(content, "rules", dict, f"'{path}'", error=ExportError, default={})
        missing = [f.name for f in fields(cls) if f.name not in content]
        missing += [f"rules.{f.name}" for f in fields(Rules) if f.name not in rules and f.name not in LATER_RULES]
        if missing:
            raise ExportError(f"'{path}' is not complete, {', '.join(missing)} missing: export the model again.")
        values = {f.name: content[f.name] for f in fields(cls)}
        values["rules"] = {f.name: rules[f.name] for f in fields(Rules) if f.name in rules}
        return build(cls, values, f"'{path}'", error=ExportError)

    def graph_file(self, folder: str | Path, name: str) -> Path:
        """Return the path of a graph's file after checking that it is the exported file.

        Args:
            folder: the exported folder.
            name: the name of the graph.

        Raises:
            FileNotFoundError: if the file does not exist.
            ExportError: if it is another file, such as that of another model.
        """
        entry = self.graphs.get(name)
        if entry is None:
            raise ExportError(f"The manifest in '{folder}' names no graph {name!r}: export the model again.")
        where = f"The graph {name!r} of the manifest in '{folder}'"
        try:  # a manifest may come from somebody else, so the file must be inside the folder
            path = contained_path(folder, field(entry, "file", str, where, error=ExportError))
        except ValueError as error:
            raise ExportError(f"{where} cannot be used: {error}") from error
        if not path.exists():
            raise FileNotFoundError(f"The graph '{path}' is missing: export the model again.")
        if not (path.is_file() or path.is_dir()):
            raise ExportError(f"The graph '{path}' is not a regular file.")
        if sha256(path) != field(entry, "sha256", str, where, error=ExportError):
            raise ExportError(
                f"'{path}' is not the graph that was exported with this manifest (its SHA-256 differs): "
                f"{self._difference(path, name)}. Export the model again."
            )
        return path

    def properties(self, graph: str) -> dict[str, str]:
        """Return the metadata that a graph's file contains."""
        return {"graph": graph, "source": self.source, "weights_sha256": self.weights_sha256, "dtype": self.dtype}

    def _difference(self, path: Path, graph: str) -> str:
        """Describe the difference between a graph's file and the manifest, by their metadata."""
        try:
            import onnxruntime

            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            found = session.get_modelmeta().custom_metadata_map
            expected = self.properties(graph)
            others = [
                f"its {key} is {found[key]}, not {value}" for key, value in expected.items() if found[key] != value
            ]
        except Exception:  # the file is not a graph of this package
            return "it was damaged, or belongs to another model"
        return " and ".join(others) or "it is from another export of this model"


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal; for a folder, that of its files' contents in the order of their paths."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
