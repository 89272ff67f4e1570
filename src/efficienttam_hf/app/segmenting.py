"""Segments objects in an image, from prompts or all of them, and writes the result files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..formats.registry import FORMATS
from ..output_folders import OutputFolder
from ..prompts import ObjectPrompts
from .defaults import MAX_OBJECT_ID
from .effect_output import EffectOutput, write_png


if TYPE_CHECKING:
    import torch


def propose_masks(
    model: Any, processor: Any, image: np.ndarray, prompts: dict[int, ObjectPrompts], multimask: bool | None = None
) -> dict[int, list[dict[str, Any]]]:
    """Compute masks from prompts on an image, which is encoded once.

    Args:
        image: uint8 (height, width, 3) RGB.
        prompts: prompts by object id, in pixels of the image.
        multimask: whether to return three proposals for an object instead of one mask; by default, this is so if it
            has only one click.

    Returns:
        The proposals of each object: `score`, the predicted IoU, and `mask`, bool (height, width).
    """
    import torch

    inputs = processor(images=image, return_tensors="pt")
    found = {}
    with torch.no_grad():
        embeddings = model.get_image_embeddings(inputs["pixel_values"].to(model.device, model.dtype))
        for object_id, given in sorted(prompts.items()):
            prompt = processor(original_sizes=[image.shape[:2]], **given.as_call(), return_tensors="pt")
            prompt = {
                name: prompt[name].to(model.device)
                for name in ("input_points", "input_labels", "input_boxes")
                if name in prompt
            }
            ambiguous = len(given.points) == 1 and given.box is None
            output = model(
                image_embeddings=embeddings, multimask_output=ambiguous if multimask is None else multimask, **prompt
            )
            masks = processor.post_process_masks(output.pred_masks, [image.shape[:2]])[0][0]
            scores = output.iou_scores[0, 0].tolist()
            found[object_id] = [
                {"score": score, "mask": _to_numpy(mask)} for score, mask in zip(scores, masks, strict=True)
            ]
    return found


def first_masks(
    model: Any, processor: Any, image: np.ndarray, prompts: dict[int, ObjectPrompts]
) -> Iterator[np.ndarray]:
    """Yield the best mask of each object, bool (height, width); without prompts, of nine points across the image."""
    if not prompts:
        height, width = image.shape[:2]
        spots = [(width * (2 * i + 1) / 6, height * (2 * j + 1) / 6) for j in range(3) for i in range(3)]
        prompts = {number: ObjectPrompts([spot], [1]) for number, spot in enumerate(spots, start=1)}
    for proposals in propose_masks(model, processor, image, prompts).values():
        yield max(proposals, key=lambda proposal: proposal["score"])["mask"]


def segment_everything(
    model: Any, processor: Any, image: np.ndarray, grid: int, min_score: float, min_stability: float
) -> list[dict[str, Any]]:
    """Run Transformers' mask generation: click on a grid, and keep the good masks without duplicates, largest first.

    Returns:
        For each object: `id`, counted from 1, `score`, the predicted IoU, and `mask`, bool (height, width).
    """
    from PIL import Image
    from transformers import pipeline

    generator = pipeline("mask-generation", model=model, image_processor=processor.image_processor, device=model.device)
    result = generator(
        Image.fromarray(image),
        points_per_crop=grid,
        points_per_batch=64,
        pred_iou_thresh=min_score,
        stability_score_thresh=min_stability,
    )
    masks = [_to_numpy(mask) for mask in result["masks"]]
    best = sorted(range(len(masks)), key=lambda i: -float(result["scores"][i]))[:MAX_OBJECT_ID]
    by_area = sorted(best, key=lambda i: -int(masks[i].sum()))
    return [
        {"id": number, "score": float(result["scores"][i]), "mask": masks[i]}
        for number, i in enumerate(by_area, start=1)
    ]


def _to_numpy(mask: torch.Tensor | np.ndarray) -> np.ndarray:
    return mask if isinstance(mask, np.ndarray) else mask.cpu().numpy()


class SegmentFolder:
    """The folder of one segmented image: `overlay.png`, `masks.png`, `masks.json`, and perhaps other files.

    Args:
        path: the folder.
        effect: effects that are drawn instead of the overlay; then `effect.png` is written instead of `overlay.png`.
        formats: the names of the formats in which the results will be written too; see `conversion.py`.
    """

    def __init__(self, path: Path, effect: EffectOutput | None = None, formats: Sequence[str] = ()):
        self.path = path
        self.picture = "overlay.png" if effect is None else "effect.png"
        self._names = (self.picture, "masks.png", "masks.json")
        self._folder = OutputFolder(path)
        # An earlier run may have written the other picture, which would show what an effect is to hide.
        earlier = {"overlay.png", "effect.png"} & self._folder.listed - {self.picture}
        listed = {file.partition("/")[0] for file in self._folder.listed}
        own = (name for name in FORMATS if name in formats or name in listed)
        self._claimed = (*self._names, *earlier, *own)

    def check(self, overwrite: bool) -> None:
        """Check, before anything is computed, that `prepare` will succeed; raise `OSError` otherwise."""
        self._folder.check(*self._claimed, overwrite=overwrite)

    def prepare(self, overwrite: bool) -> dict[str, Path]:
        """Create the folder, remove results of an earlier run, and return the path of each file by its name."""
        self._folder.claim(*self._claimed, overwrite=overwrite)
        return {name: self._folder.add(name) for name in self._names}


def write_image_results(
    files: dict[str, Path],
    image: np.ndarray,
    name: str,
    model_name: str,
    found: list[dict[str, Any]],
    prompts: dict[int, ObjectPrompts],
    write_ids: bool | Mapping[int, str],
    prompt_size: tuple[int, int] | None = None,
    effect: EffectOutput | None = None,
) -> None:
    """Write the overlay, the indexed PNG (where masks overlap, it has the later id) and the JSON file.

    The JSON file is `{"image": {"name", "width", "height"}, "prompt_size": {"width", "height"}, "model", "objects":
    [{"id", "score", "area", "bbox", "segmentation", "prompts"}]}`, similar to that of `track`; here `score` is the
    predicted IoU.

    Args:
        files: the paths of `overlay.png` (or `effect.png`), `masks.png` and `masks.json`.
        found: objects with `id`, `score` and `mask`; what else they have is written to the JSON file as it is.
        prompts: the prompts to draw, in pixels of the image.
        prompt_size: (height, width) of the image to whose pixels the `prompts` in `found` refer; by default this image.
        write_ids: whether to write the ids of the objects on the overlay, if there are several; or the text for each.
        effect: effects that are drawn instead of the overlay.
    """
    from ..atomic_file import atomic_path
    from ..effects import EffectStream
    from ..mask_io import box_and_area, encode_rle, write_indexed_png
    from ..visualization import overlay_masks

    labels = np.zeros(image.shape[:2], np.uint8)
    for entry in found:
        labels[entry["mask"]] = entry["id"]
    masks = {entry["id"]: entry["mask"] for entry in found}
    if effect is None:
        names = write_ids if isinstance(write_ids, Mapping) else write_ids and len(found) > 1
        write_png(files["overlay.png"], overlay_masks(image, masks, labels=names, prompts=prompts.values()))
    else:
        write_png(files["effect.png"], EffectStream(effect.effects, masks)(image, masks))
    objects = []
    for entry in found:
        mask = entry["mask"]
        shown = {key: value for key, value in entry.items() if key != "mask"}
        shown["score"] = round(entry["score"], 4)
        objects.append({**shown, **box_and_area(mask), "segmentation": encode_rle(mask)})
    height, width = image.shape[:2]
    prompt_height, prompt_width = prompt_size or (height, width)
    content = {
        "image": {"name": name, "width": width, "height": height},
        "prompt_size": {"width": prompt_width, "height": prompt_height},
        "model": model_name,
        "objects": objects,
    }
    write_indexed_png(files["masks.png"], labels)
    with atomic_path(files["masks.json"]) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
