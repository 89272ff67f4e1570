"""Masks, and the JSON and folders of data sets and of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from harness import Kind, mutate_bytes, mutate_json
from PIL import Image

from efficienttam_hf.mask_io import decode_rle, encode_rle, read_indexed_png, write_indexed_png
from efficienttam_hf.structured_files import read_json


HEIGHT, WIDTH = 24, 32


def square(left: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:14, left : left + 10] = True
    return mask


def masks(folder: Path) -> list[Path]:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[square(3)], labels[square(18)] = 1, 2
    write_indexed_png(folder / "palette.png", labels)
    Image.fromarray(labels).save(folder / "grey.png")
    Image.fromarray(255 * (labels > 0).astype(np.uint8)).save(folder / "binary.png")
    return sorted(folder.iterdir())


def run_lengths(folder: Path) -> list[Path]:
    (folder / "a.json").write_text(json.dumps(encode_rle(square(5))))
    (folder / "b.json").write_text(json.dumps({"size": [4, 6], "counts": [3, 5, 4, 2, 10]}))
    return sorted(folder.iterdir())


def read_run_lengths(path: Path) -> None:
    mask = decode_rle(read_json(path))
    if mask.ndim != 2 or mask.dtype != bool:
        raise AssertionError(f"decode_rle gave {mask.dtype} {mask.shape}")


def frames(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * number, np.uint8)).save(folder / f"{number:05d}.jpg")


def coco(folder: Path) -> list[Path]:
    root = folder / "coco"
    frames(root / "train2017", 2)
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 18, "iscrowd": 0, "segmentation": [[4, 2, 10, 2, 10, 8, 4, 8]]},
        {"id": 2, "image_id": 7, "category_id": 18, "iscrowd": 0, "segmentation": encode_rle(square(9))},
        {"id": 3, "image_id": 8, "category_id": 18, "iscrowd": 1, "segmentation": encode_rle(square(0))},
    ]
    described = [{"id": 7 + i, "file_name": f"{i:05d}.jpg", "height": HEIGHT, "width": WIDTH} for i in (0, 1)]
    content = {"images": described, "annotations": annotations, "categories": [{"id": 18, "name": "dog"}]}
    (root / "annotations").mkdir()
    (root / "annotations/instances_train2017.json").write_text(json.dumps(content))
    return [root]


def youtube(folder: Path) -> list[Path]:
    root = folder / "youtube"
    frames(root / "train/JPEGImages/0a1b", 3)
    (root / "train/Annotations/0a1b").mkdir(parents=True)
    for number in range(3):
        write_indexed_png(root / f"train/Annotations/0a1b/{number:05d}.png", square(3 + number).astype(np.uint8))
    objects = {"1": {"category": "dog", "frames": ["00000"]}}
    (root / "train/meta.json").write_text(json.dumps({"videos": {"0a1b": {"objects": objects}}}))
    return [root]


def sa1b(folder: Path) -> list[Path]:
    root = folder / "sa1b"
    root.mkdir()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 99, np.uint8)).save(root / "sa_5.jpg")
    entries = [{"id": 4, "area": 100, "segmentation": encode_rle(square(2)), "stability_score": 0.97}]
    image = {"image_id": 5, "height": HEIGHT, "width": WIDTH, "file_name": "sa_5.jpg"}
    (root / "sa_5.json").write_text(json.dumps({"image": image, "annotations": entries}))
    return [root]


def sav(folder: Path) -> list[Path]:
    from efficienttam_hf.video_writer import VideoWriter

    root = folder / "sav"
    root.mkdir()
    with VideoWriter(root / "sav_000001.mp4", 24, WIDTH, HEIGHT) as writer:
        for number in range(5):
            writer.write(np.full((HEIGHT, WIDTH, 3), 20 * number, np.uint8))
    content = {
        "video_id": "sav_000001",
        "video_height": float(HEIGHT),
        "video_width": float(WIDTH),
        "video_frame_count": 5.0,
        "masklet": [[encode_rle(square(2)), encode_rle(square(9))] for _ in range(2)],
        "masklet_id": [0, 1],
    }
    (root / "sav_000001_manual.json").write_text(json.dumps(content))
    return [root]


def read_all(kind: str, split: str | None):
    """A reader of all frames and masks of a data set."""

    def read(root: Path) -> None:
        from efficienttam_hf.data.loading import load_records

        records = load_records(kind, root, split)
        for record in records:
            for number in record.annotated_frames:
                record.frame(number)
                record.masks(number)
                record.void(number)

    return read


KINDS = [
    Kind("mask", masks, read_indexed_png, mutate_bytes),
    Kind("run-lengths", run_lengths, read_run_lengths, mutate_json, names_file=False),
    Kind("coco", coco, read_all("coco", "train2017"), mutate_json, suffixes=(".json",)),
    Kind("youtube-vos", youtube, read_all("youtube_vos2019", "train"), mutate_json, suffixes=(".json",)),
    Kind("sa1b", sa1b, read_all("sa1b", None), mutate_json, suffixes=(".json",)),
    Kind("sav", sav, read_all("sav_train", None), mutate_json, suffixes=(".json",)),
]
