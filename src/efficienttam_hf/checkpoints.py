"""Converts published checkpoints (`.pt`, or `.safetensors` with the same names) to this package's folders, and back.

The table below maps each published name to one name of this package (four point embeddings become the rows of one
tensor). The widths, depths and layer counts of a checkpoint are read from its tensors and compared with the
configuration; then every tensor must have an expected name and shape. Nothing is written before all of this is checked,
and a result gets its final name only when it is complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import stat
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .checksums import sync_folder, write_checksums
from .configuration_efficienttam import PRESETS, EfficientTamBackboneConfig, EfficientTamConfig
from .modeling_efficienttam_backbone import EfficientTamBackboneModel
from .modeling_efficienttam_video import EfficientTamVideoModel
from .output_folders import check_place, check_replaceable, new_folder
from .processing_efficienttam import EfficientTamVideoProcessor
from .published import SOURCE_FILE
from .safe_names import one_line, reason_of, shown


__all__ = [
    "CheckpointError",
    "check_belongs",
    "convert_checkpoint",
    "describe",
    "from_published",
    "has_average",
    "publish_checkpoint",
    "read_config",
    "read_published",
    "resolve_config",
    "to_published",
]


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not belong to the configuration."""


# Prefixes of names, published and ours. The first prefix that matches is used, so longer ones come first.
_BEGINNINGS: tuple[tuple[str, str], ...] = (
    ("image_encoder.trunk.pos_embed", "vision_encoder.patch_embed.position_embeddings"),
    ("image_encoder.trunk.patch_embed.proj.", "vision_encoder.patch_embed.projection."),
    ("image_encoder.trunk.blocks.", "vision_encoder.layers."),
    ("image_encoder.neck.convs.0.conv_1x1.", "vision_encoder.neck.conv1."),
    ("image_encoder.neck.convs.0.norm_0.", "vision_encoder.neck.layer_norm1."),
    ("image_encoder.neck.convs.0.conv_3x3.", "vision_encoder.neck.conv2."),
    ("image_encoder.neck.convs.0.norm_1.", "vision_encoder.neck.layer_norm2."),
    ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    ("no_mem_embed", "no_memory_embedding"),
    ("no_mem_pos_enc", "no_memory_positional_encoding"),
    ("no_obj_ptr", "no_object_pointer"),
    ("obj_ptr_proj.", "object_pointer_proj."),
    ("memory_encoder.pix_feat_proj.", "memory_encoder.feature_projection."),
    ("memory_encoder.out_proj.", "memory_encoder.projection."),
    ("memory_encoder.fuser.layers.", "memory_encoder.fuser."),
    (
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    ("sam_prompt_encoder.mask_downscaling.0.", "prompt_encoder.mask_embed.conv1."),
    ("sam_prompt_encoder.mask_downscaling.1.", "prompt_encoder.mask_embed.layer_norm1."),
    ("sam_prompt_encoder.mask_downscaling.3.", "prompt_encoder.mask_embed.conv2."),
    ("sam_prompt_encoder.mask_downscaling.4.", "prompt_encoder.mask_embed.layer_norm2."),
    ("sam_prompt_encoder.mask_downscaling.6.", "prompt_encoder.mask_embed.conv3."),
    ("sam_prompt_encoder.", "prompt_encoder."),
    ("sam_mask_decoder.output_upscaling.0.", "mask_decoder.upscale_conv1."),
    ("sam_mask_decoder.output_upscaling.1.", "mask_decoder.upscale_layer_norm."),
    ("sam_mask_decoder.output_upscaling.3.", "mask_decoder.upscale_conv2."),
    ("sam_mask_decoder.", "mask_decoder."),
)
# Parts of names after the prefix, published and ours. Only whole parts are replaced.
_PARTS: tuple[tuple[str, str], ...] = (
    ("gamma", "scale"),
    ("dwconv", "depthwise_conv"),
    ("pwconv1", "pointwise_conv1"),
    ("pwconv2", "pointwise_conv2"),
    ("norm", "layer_norm"),
    ("norm1", "layer_norm1"),
    ("norm2", "layer_norm2"),
    ("norm3", "layer_norm3"),
    ("norm4", "layer_norm4"),
    ("norm_final_attn", "layer_norm_final_attn"),
    ("out_proj", "o_proj"),
)
_MASK_ENCODER = "memory_encoder.mask_downsampler.encoder."
_POINTS = "sam_prompt_encoder.point_embeddings."
_OUR_POINTS = "prompt_encoder.point_embed.weight"


def to_our_name(published: str) -> str:
    """Convert the published name of a tensor to ours (except point embeddings, which are stacked)."""
    if published.startswith(_MASK_ENCODER):
        # The module is a flat sequence: convolution, normalisation, activation, ..., and a last convolution.
        index, leaf = published.removeprefix(_MASK_ENCODER).split(".")
        layer, kind = divmod(int(index), 3)
        return f"memory_encoder.mask_downsampler.{('convs', 'layer_norms')[kind]}.{layer}.{leaf}"
    return _rename(published, _BEGINNINGS, dict(_PARTS))


def to_published_name(ours: str, num_mask_layers: int) -> str:
    """The inverse of `to_our_name`; `num_mask_layers` is the mask downsampler's number of strided convolutions."""
    match = re.fullmatch(r"memory_encoder\.mask_downsampler\.(convs|layer_norms)\.(\d+)\.(\w+)", ours)
    if match:
        kind, layer, leaf = match.groups()
        return f"{_MASK_ENCODER}{3 * int(layer) + (kind == 'layer_norms')}.{leaf}"
    if ours.startswith("memory_encoder.mask_downsampler.final_conv."):
        return f"{_MASK_ENCODER}{3 * num_mask_layers}.{ours.rsplit('.', 1)[1]}"
    return _rename(ours, [(b, a) for a, b in _BEGINNINGS], {b: a for a, b in _PARTS})


def _rename(name: str, beginnings: Iterable[tuple[str, str]], parts: dict[str, str]) -> str:
    beginning, rest = "", name
    for old, new in beginnings:
        if name.startswith(old):
            beginning, rest = new, name.removeprefix(old)
            break
    return beginning + ".".join(parts.get(part, part) for part in rest.split("."))


def published_layout(config: EfficientTamConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a published checkpoint of this configuration: name -> (our name, shape)."""
    with torch.device("meta"):
        tensors = EfficientTamVideoModel(config).state_dict()
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for ours, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if ours == _OUR_POINTS:
            layout |= {f"{_POINTS}{i}.weight": (ours, (1, shape[1])) for i in range(shape[0])}
        else:
            name = to_published_name(ours, config.memory_encoder_config.num_mask_downsampler_layers)
            layout[name] = (ours, shape)
    return layout


def describe(state_dict: dict[str, Tensor], where: str = "The checkpoint") -> dict[str, int]:
    """Read widths, depths and layer counts of a model from its published tensors, by configuration field.

    Raises:
        CheckpointError: if tensors that show these are missing, as in a checkpoint of another model.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in state_dict:
            raise CheckpointError(
                f"{where} is not an EfficientTAM checkpoint: it has no tensor {name!r}. It has "
                f"{len(state_dict)} tensors, among them {', '.join(shown(known) for known in sorted(state_dict)[:3])}."
            )
        sizes = tuple(state_dict[name].shape)
        return sizes + (0,) * (4 - len(sizes))  # a tensor may have fewer dimensions than expected

    def count(pattern: str) -> int:
        return len({match.group(1) for name in state_dict if (match := re.match(pattern, name))})

    patch = shape("image_encoder.trunk.patch_embed.proj.weight")
    iou_head = "sam_mask_decoder.iou_prediction_head.layers."
    return {
        "vision_config.hidden_size": patch[0],
        "vision_config.num_channels": patch[1],
        "vision_config.patch_size": patch[2],
        "vision_config.num_hidden_layers": count(r"image_encoder\.trunk\.blocks\.(\d+)\."),
        "vision_config.fpn_hidden_size": shape("image_encoder.neck.convs.0.conv_1x1.weight")[0],
        "memory_attention_config.num_hidden_layers": count(r"memory_attention\.layers\.(\d+)\."),
        "memory_attention_config.feed_forward_hidden_size": shape("memory_attention.layers.0.linear1.weight")[0],
        "memory_attention_config.memory_size": shape("memory_attention.layers.0.cross_attn_image.k_proj.weight")[1],
        "memory_encoder_config.output_channels": shape("memory_encoder.out_proj.weight")[0],
        "memory_encoder_config.fuser_num_layers": count(r"memory_encoder\.fuser\.layers\.(\d+)\."),
        "mask_decoder_config.num_hidden_layers": count(r"sam_mask_decoder\.transformer\.layers\.(\d+)\."),
        "mask_decoder_config.mlp_dim": shape("sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight")[0],
        "mask_decoder_config.num_multimask_outputs": shape("sam_mask_decoder.mask_tokens.weight")[0] - 1,
        "mask_decoder_config.iou_head_depth": count(rf"{re.escape(iou_head)}(\d+)\."),
        "mask_decoder_config.iou_head_hidden_dim": shape(f"{iou_head}0.weight")[0],
        "num_maskmem": shape("maskmem_tpos_enc")[0],
    }


def check_belongs(state_dict: dict[str, Tensor], config: EfficientTamConfig, where: str = "The checkpoint") -> None:
    """Check that published tensors belong to a configuration.

    Args:
        state_dict: tensors by their published names.
        config: the configuration.
        where: a phrase for the checkpoint, with which a message begins.

    Raises:
        CheckpointError: if they do not. The message has the numbers that differ, or the tensors that are missing,
            extra or of another shape.
    """
    differing = []
    for field, found in describe(state_dict, where).items():
        part, _, name = field.rpartition(".")
        expected = getattr(getattr(config, part) if part else config, name)
        if expected != found:
            differing.append(f"{field}: checkpoint {found}, configuration {expected}")
    if differing:
        raise CheckpointError(f"{where} does not belong to the configuration: {_some(differing)}.")
    layout = published_layout(config)
    problems = [f"missing: {name} {list(shape)}" for name, (_, shape) in layout.items() if name not in state_dict]
    problems += [
        f"extra: {one_line(name)[:100]} {list(t.shape)}" for name, t in state_dict.items() if name not in layout
    ]
    problems += [
        f"misshapen: {name} is {list(state_dict[name].shape)}, should be {list(shape)}"
        for name, (_, shape) in layout.items()
        if name in state_dict and tuple(state_dict[name].shape) != shape
    ]
    problems += [
        f"{name} is not dense" for name in layout if name in state_dict and state_dict[name].layout != torch.strided
    ]
    if problems:
        raise CheckpointError(f"{where} has other tensors than the configuration: {_some(problems)}.")


def _some(problems: list[str]) -> str:
    """Join the first problems to one line, with the number of the others."""
    more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
    return "; ".join(problems[:MOST_PROBLEMS] + more)


def from_published(
    state_dict: dict[str, Tensor], config: EfficientTamConfig, where: str = "The checkpoint"
) -> dict[str, Tensor]:
    """Return published tensors under our names in float32; see `check_belongs`, which is called first."""
    check_belongs(state_dict, config, where)
    ours: dict[str, Tensor] = {}
    for name, (our_name, _) in published_layout(config).items():
        if our_name == _OUR_POINTS:
            rows = range(config.prompt_encoder_config.num_point_embeddings)
            ours[our_name] = torch.cat([state_dict[f"{_POINTS}{i}.weight"] for i in rows])
        else:
            ours[our_name] = state_dict[name].contiguous()
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in ours.items()}


def to_published(state_dict: dict[str, Tensor], config: EfficientTamConfig) -> dict[str, Tensor]:
    """Return our tensors under the published names, in float32 as published."""
    published = {}
    for name, (our_name, _) in published_layout(config).items():
        tensor = state_dict[our_name]
        if our_name == _OUR_POINTS:
            index = int(name.removeprefix(_POINTS).split(".")[0])
            tensor = tensor[index : index + 1]
        published[name] = tensor.detach().to("cpu", torch.float32).clone()
    return published


def read_published(path: str | Path, weights: str = "auto") -> dict[str, Tensor]:
    """Load the tensors of a checkpoint with published names, without running any code from it.

    Three types of files are read: the published files (`{"model": tensors}`), checkpoints of the published training
    code, which also have the optimizer and perhaps an average of the weights, and `.safetensors` files.

    Args:
        path: the file.
        weights: the weights of a training checkpoint to load: `"model"` for the weights themselves, `"average"` for
            their moving average, `"auto"` for the average if there is one, because training code evaluates the average.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `weights` has another value.
        CheckpointError: if the file is not a checkpoint, or is damaged.
    """
    path = Path(path)
    if weights not in WEIGHTS:
        raise ValueError(f"`weights` must be one of {', '.join(WEIGHTS)}, got {weights!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    if _is_safetensors(path):
        return _read_safetensors(path)
    try:
        damaged = _damaged_member(path)
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can cause any error in the unpickler
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL comes from an invalid seek
            raise
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely ({reason}). Only tensors, numbers and texts are read "
            "from a .pt file: it is damaged, or holds other objects."
        ) from error
    if damaged:
        raise CheckpointError(
            f"{path} is damaged: {damaged!r} in it does not have the checksum it was saved with. Fetch the file again."
        )
    return _tensors_of(content, path, weights)


MOST_PROBLEMS = 12  # number of problems that one message lists
# The choices for the weights of a training checkpoint, and the names that training code gives their moving average.
WEIGHTS = ("auto", "model", "average")
_AVERAGE_KEYS = ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "average")
_MODEL_KEYS = ("model", "state_dict")
# The prefixes that wrappers add to every name: DDP, torch.compile, averaged models.
_WRAPPERS = ("module.", "_orig_mod.", "model.")


def has_average(path: str | Path) -> bool:
    """Whether a checkpoint also has a moving average of its weights, so that `weights` makes a difference."""
    if _is_safetensors(Path(path)):
        return False
    content = torch.load(path, map_location="meta", weights_only=True)
    return isinstance(content, dict) and any(_unwrapped(content.get(key)) for key in _AVERAGE_KEYS)


def _tensors_of(content: Any, path: Path, weights: str) -> dict[str, Tensor]:
    """The chosen weights in the content of a `.pt` file."""
    if isinstance(content, dict):
        averages = [found for key in _AVERAGE_KEYS if (found := _unwrapped(content.get(key)))]
        models = [found for key in _MODEL_KEYS if (found := _unwrapped(content.get(key)))]
        if weights == "average" and not averages:
            raise CheckpointError(f"{path} holds no average of the weights, under none of {', '.join(_AVERAGE_KEYS)}.")
        if averages and weights != "model":
            return averages[0]
        if models:
            return models[0]
    keys = f" with keys {shown(list(content)[:5])}" if isinstance(content, dict) else ""
    raise CheckpointError(
        f'{path} is not a published EfficientTAM file: expected {{"model": {{name: tensor}}}}, or a checkpoint of its '
        f"training code, found a {type(content).__name__}{keys}."
    )


def _unwrapped(tensors: Any) -> dict[str, Tensor] | None:
    """The tensors by name without the prefixes of wrappers; `None` if the value has no tensors by name."""
    if not isinstance(tensors, dict) or not tensors:
        return None
    for key in ("module", "shadow", *_MODEL_KEYS):  # some averages are nested once more
        if isinstance(tensors.get(key), dict):
            return _unwrapped(tensors[key])
    tensors = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()):
        return None
    for wrapper in _WRAPPERS * 2:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _is_safetensors(path: Path) -> bool:
    """Whether the content of a file is that of safetensors: a length in eight bytes, then a JSON header."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {reason_of(error)}") from error


def _is_checkpoint_file(path: Path) -> bool:
    """Whether the members of a file are those that `torch.save` writes."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def _damaged_member(path: Path) -> str | None:
    """The first member with a wrong checksum in the zip file of `torch.save`; torch does not check this itself."""
    if not zipfile.is_zipfile(path):
        return None  # the format before torch 1.6 has no checksums; if it is no checkpoint, loading fails
    with zipfile.ZipFile(path) as archive:
        packed = next((m.filename for m in archive.infolist() if m.compress_type != zipfile.ZIP_STORED), None)
        if packed is not None:  # a few compressed bytes could expand to any size
            raise zipfile.BadZipFile(f"{packed!r} in it is compressed, which torch.save never does")
        if not any(member.CRC for member in archive.infolist()):
            return None  # saved without checksums (`torch.serialization.set_crc32_options`)
        try:
            return archive.testzip()
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise zipfile.BadZipFile("its directory points outside the file") from error


def weights_sha256(model: nn.Module, also: str = "") -> str:
    """SHA-256, in hexadecimal, of a text and of the names and stored values of all weights of a model."""
    seen = hashlib.sha256(also.encode())
    for name, tensor in sorted(model.state_dict().items()):
        seen.update(name.encode())
        seen.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()


def resolve_config(variant: str | Path | EfficientTamConfig) -> EfficientTamConfig:
    """Return the configuration of a preset's name or of a `config.json` (or its folder); return a configuration as is.

    Raises:
        ValueError: if `variant` is none of these.
        CheckpointError: if the file is not JSON or describes no possible model; the message names file and field.
    """
    if isinstance(variant, EfficientTamConfig):
        return variant
    if str(variant) in PRESETS:
        return EfficientTamConfig.from_preset(str(variant))
    path = Path(variant)
    if path.is_file():
        return read_config(path)
    if (path / "config.json").is_file():
        return read_config(path / "config.json")
    raise ValueError(
        f"{str(variant)!r} is neither a variant ({', '.join(sorted(PRESETS))}) nor a configuration file in JSON."
    )


MOST_LAYERS, LARGEST_NUMBER = 1024, 2**20
MOST_DEPTH, MOST_SHOWN = 16, 100  # levels of nested values, and characters of a field's name in a message
LARGEST_CONFIG = 2**20  # size in bytes


def read_config(path: Path) -> EfficientTamConfig:
    """Read a configuration file and check it before a model is created from it.

    Raises:
        CheckpointError: if it is not JSON, is of another model, or has a field of the wrong type or a number that no
            model has, such as a thousand million layers. The message names the file and the field.
    """
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes: it is no configuration.")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {reason_of(error)}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a mapping of fields, found {type(values).__name__}.")
    model_type = values.get("model_type", EfficientTamConfig.model_type)
    if model_type != EfficientTamConfig.model_type:
        raise CheckpointError(
            f"{path} is of a model of type {shown(model_type)}, not {EfficientTamConfig.model_type!r}."
        )
    _check_numbers(values, path, "")
    _check_mappings(values, EfficientTamConfig().to_dict(), path, "")
    try:
        config = EfficientTamConfig.from_dict(values)
    except (StrictDataclassError, ValueError, TypeError, AttributeError, KeyError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise CheckpointError(f"{path} does not describe a model: {reason}") from error
    if isinstance(config.vision_config, EfficientTamBackboneConfig):
        _check_backbone(config.vision_config, path)
    return config


def _check_backbone(config: EfficientTamBackboneConfig, path: Path) -> None:
    """Check that Transformers can create the backbone, by creating it without RAM for its weights."""
    try:
        with torch.device("meta"):
            EfficientTamBackboneModel(config)
    except Exception as error:  # any of several hundred classes can raise any error for invalid numbers
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise CheckpointError(f"{path}: no backbone can be made of vision_config.backbone_config: {reason}") from error


def _check_mappings(values: dict[str, Any], defaults: dict[str, Any], path: Path, field: str) -> None:
    """Raise an error, with the field's name, for a value that is not a mapping although the default is one.

    `check_fields` of the configuration checks all other values.
    """
    for name, default in defaults.items():
        if isinstance(default, dict) and name in values:
            value, full = values[name], f"{field}.{name}" if field else name
            if not isinstance(value, dict):
                raise CheckpointError(f"{path}: `{full}` must be a mapping of fields, found {shown(value)}.")
            _check_mappings(value, default, path, full)


def _check_numbers(value: Any, path: Path, field: str, depth: int = 0) -> None:
    """Raise an error for a number far larger than any model's, with its field, and for too deep nesting."""
    shown_field = field if len(field) <= MOST_SHOWN else f"{field[:MOST_SHOWN]}..."
    if depth > MOST_DEPTH:
        raise CheckpointError(f"{path}: `{shown_field}` is nested too deeply for a configuration.")
    if isinstance(value, dict):
        for name, item in value.items():
            _check_numbers(item, path, f"{field}.{one_line(name)}" if field else one_line(name), depth + 1)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_numbers(item, path, f"{field}[{number}]", depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        most = MOST_LAYERS if "layers" in field or "depth" in field else LARGEST_NUMBER
        if not abs(value) <= most:
            raise CheckpointError(f"{path}: `{shown_field}` is {shown(value)}; {most} is the most that is accepted.")


def convert_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    variant: str | Path | EfficientTamConfig,
    overwrite: bool = False,
    weights: str = "auto",
    source: Mapping[str, Any] | None = None,
    **save_kwargs: Any,
) -> Path:
    """Convert a file with published names to a folder for `from_pretrained`, with processor, code and checksums.

    Args:
        checkpoint: the published file, a checkpoint of the published training code, or a `.safetensors` file.
        output: the folder that is written.
        variant: a preset's name, a configuration file, or a configuration.
        overwrite: whether an existing folder may be replaced, if every file in it was written by this package.
        weights: the weights of a training checkpoint to convert; see `read_published`.
        source: the origin of the file, which is written next to the weights as `source.json`.
        save_kwargs: arguments of `save_pretrained`, such as `max_shard_size`.

    Returns:
        The folder.

    Raises:
        FileNotFoundError, FileExistsError, CheckpointError, ValueError: before anything is written.
    """
    config, output = resolve_config(variant), Path(output)
    check_replaceable(output, overwrite)
    tensors = from_published(read_published(checkpoint, weights), config, str(checkpoint))
    not_finite = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if not_finite:
        raise CheckpointError(f"{checkpoint} has weights that are not finite numbers, such as {not_finite[0]}.")
    with torch.device("meta"):
        model = EfficientTamVideoModel(config)
    model.load_state_dict(tensors, strict=True, assign=True)
    processor = EfficientTamVideoProcessor.from_config(config)

    with new_folder(output, overwrite) as whole:
        model.save_pretrained(whole, **save_kwargs)
        processor.save_pretrained(whole)
        if source is not None:
            (whole / SOURCE_FILE).write_text(json.dumps(dict(source), indent=2) + "\n", encoding="utf-8")
        write_checksums(whole)
        _give_plain_modes(whole)
        sync_folder(whole)
    return output


def _give_plain_modes(folder: Path) -> None:
    """Give the files of a folder from `save_pretrained` the permissions of the umask.

    From version 0.8 on, safetensors moves a private temporary file into place, which only its owner may read
    (github.com/safetensors/safetensors/issues/782), and copied code keeps the permissions of the installed files.
    """
    mode = stat.S_IMODE((folder / "config.json").stat().st_mode)  # the umask itself cannot be read without changing it
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def publish_checkpoint(folder: str | Path, output: str | Path, overwrite: bool = False) -> Path:
    """Convert a folder of `save_pretrained` back to a `.pt` file in the published format.

    Raises:
        FileNotFoundError: if the folder has no model.
        FileExistsError: if the file exists and must not be replaced, or is not a checkpoint.
        CheckpointError: if the folder has another model, or lacks some of its tensors.
    """
    folder, output = Path(folder), Path(output)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model: there is no config.json in it.")
    check_place(output.absolute().parent)
    if output.exists() and not overwrite:
        raise FileExistsError(f"'{output}' exists already: choose another name, or replace it with --overwrite.")
    if output.exists() and not _is_checkpoint_file(output):
        raise FileExistsError(f"'{output}' is not a checkpoint, so it is not replaced by one: choose another name.")
    read_config(folder / "config.json")
    model, loading = EfficientTamVideoModel.from_pretrained(folder, output_loading_info=True)
    if loading["missing_keys"]:
        raise CheckpointError(f"{folder} lacks tensors: {', '.join(sorted(loading['missing_keys']))}.")
    tensors = to_published(model.state_dict(), model.config)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.partial")
    try:
        torch.save({"model": tensors}, temporary)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return output
