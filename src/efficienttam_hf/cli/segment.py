"""`efficienttam segment`: objects in an image, from prompts or everything there is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..prompts import ObjectPrompts
from .common import (
    add_model_arguments,
    add_size_argument,
    choose_device,
    limited_size,
    load_model,
    resize_image,
)
from .prompts import MAX_OBJECT_ID, add_prompt_arguments, check_order, gather


if TYPE_CHECKING:
    import torch

DEFAULT_OUT = Path("efficienttam-out")


def add_parser(commands: argparse._SubParsersAction, **options) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "segment",
        help="segment objects in an image",
        description="Segment objects in an image from clicks and boxes, or everything in it, and write an overlay, an "
        "indexed PNG, and the masks as COCO run-length JSON.",
        **options,
    )
    parser.add_argument("image", metavar="IMAGE", type=Path, help="an image file")
    add_prompt_arguments(parser, video=False)
    group = parser.add_argument_group("everything")
    group.add_argument("--everything", action="store_true", help="find all objects, without prompts")
    group.add_argument("--grid", metavar="N", type=int, default=32, help="clicks along each side (default: 32)")
    group.add_argument(
        "--min-score", metavar="P", type=float, default=0.88, help="least predicted IoU of a mask (default: 0.88)"
    )
    group.add_argument(
        "--min-stability",
        metavar="P",
        type=float,
        default=0.95,
        help="how much a mask may depend on its threshold, 1 is not at all (default: 0.95)",
    )
    add_model_arguments(parser)
    add_size_argument(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help=f"default: {DEFAULT_OUT}/<name of the image>")
    parser.add_argument("--overwrite", action="store_true", help="replace results of an earlier run in DIR")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Segment and write."""
    from ..image_io import read_image
    from ..modeling_efficienttam import EfficientTamModel

    check_order(args)
    if args.everything == bool(args.prompts):
        raise ValueError(
            "What is to be segmented? Give prompts, such as --point X,Y or --box X0,Y0,X1,Y1, or --everything"
            + (", not both." if args.everything else ".")
        )
    if args.grid < 1:
        raise ValueError(f"--grid must be at least 1, got {args.grid}.")
    original = read_image(args.image)
    size = limited_size(original.shape[:2], args.max_side)
    image = resize_image(original, size)
    prompts = gather(args.prompts, original.shape[:2], range(1)).get(0, {})
    out = args.out or DEFAULT_OUT / args.image.stem
    files = {name: out / name for name in ("overlay.png", "masks.png", "masks.json")}
    earlier = [path for path in files.values() if path.exists()]
    if earlier and not args.overwrite:
        raise FileExistsError(
            f"'{earlier[0]}' exists already: choose another --out, or replace the results there with --overwrite."
        )
    device = choose_device(args.device)
    model, processor = load_model(EfficientTamModel, args.model, device, args.dtype)
    if args.everything:
        found = segment_everything(model, processor, image, args.grid, args.min_score, args.min_stability)
    else:
        scaled = {object_id: given.scaled(original.shape[:2], size) for object_id, given in prompts.items()}
        found = []
        for object_id, proposals in propose_masks(model, processor, image, scaled).items():
            best = max(proposals, key=lambda proposal: proposal["score"])
            found.append({"id": object_id, **best, "prompts": prompts[object_id].as_json()})
        prompts = scaled
    write_image_results(files, image, args.image.name, args.model, found, prompts, not args.everything)
    print(f"{len(found)} object{'' if len(found) == 1 else 's'}.")
    for label, name in (("overlay", "overlay.png"), ("masks", "masks.png"), ("", "masks.json")):
        print(f"  {label:8} {files[name]}")
    return 0


def propose_masks(
    model: Any, processor: Any, image: np.ndarray, prompts: dict[int, ObjectPrompts], multimask: bool | None = None
) -> dict[int, list[dict[str, Any]]]:
    """Masks for prompts on an image, which is encoded once.

    Args:
        image: uint8 (height, width, 3) RGB.
        prompts: by object id, in pixels of the image.
        multimask: whether to propose three masks for an object instead of one; by default where it has but one click.

    Returns:
        For each object its proposals: `score`, the predicted IoU, and `mask`, bool (height, width).
    """
    import torch

    inputs = processor(images=image, return_tensors="pt")
    found = {}
    with torch.no_grad():
        embeddings = model.get_image_embeddings(inputs["pixel_values"].to(model.device, model.dtype))
        for object_id, given in sorted(prompts.items()):
            prompt = processor(
                original_sizes=[image.shape[:2]],
                input_points=[[[list(point) for point in given.points]]] if given.points else None,
                input_labels=[[given.labels]] if given.points else None,
                input_boxes=[[list(given.box)]] if given.box else None,
                return_tensors="pt",
            )
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


def segment_everything(
    model: Any, processor: Any, image: np.ndarray, grid: int, min_score: float, min_stability: float
) -> list[dict[str, Any]]:
    """Transformers' mask generation: clicks on a grid, the good masks of them once each, largest first.

    Returns:
        For each object `id`, counted from 1, `score`, the predicted IoU, and `mask`, bool (height, width).
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


def write_image_results(
    files: dict[str, Path],
    image: np.ndarray,
    name: str,
    model_name: str,
    found: list[dict[str, Any]],
    prompts: dict[int, ObjectPrompts],
    write_ids: bool,
) -> None:
    """The overlay, the indexed PNG (where masks overlap, the later id) and the JSON file.

    The JSON file: `{"image": {"name", "width", "height"}, "model", "objects": [{"id", "score", "area", "bbox",
    "segmentation", "prompts"}]}`, as that of `track`; here `score` is the predicted IoU.

    Args:
        files: where to: paths of `overlay.png`, `masks.png` and `masks.json`.
        found: objects with `id`, `score` and `mask`.
        prompts: to draw, in pixels of the image.
        write_ids: whether to write on the objects of the overlay which they are, if there are several.
    """
    from PIL import Image

    from ..atomic_file import atomic_path
    from ..mask_io import encode_rle, write_indexed_png
    from ..visualization import overlay_masks
    from .outputs import box_and_area

    labels = np.zeros(image.shape[:2], np.uint8)
    for entry in found:
        labels[entry["mask"]] = entry["id"]
    overlay = overlay_masks(
        image,
        {entry["id"]: entry["mask"] for entry in found},
        labels=write_ids and len(found) > 1,
        prompts=prompts.values(),
    )
    objects = []
    for entry in found:
        mask = entry["mask"]
        shown = {key: value for key, value in entry.items() if key != "mask"}
        shown["score"] = round(entry["score"], 4)
        objects.append({**shown, **box_and_area(mask), "segmentation": encode_rle(mask)})
    height, width = image.shape[:2]
    content = {
        "image": {"name": name, "width": width, "height": height},
        "model": model_name,
        "objects": objects,
    }
    with atomic_path(files["overlay.png"]) as temporary:
        Image.fromarray(overlay).save(temporary, format="PNG")
    write_indexed_png(files["masks.png"], labels)
    with atomic_path(files["masks.json"]) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
