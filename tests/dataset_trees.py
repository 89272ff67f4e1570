"""Small datasets in each published layout, for the tests that read one: a square that moves one pixel a frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from efficienttam_hf.mask_io import davis_palette, encode_rle
from efficienttam_hf.video_writer import VideoWriter


HEIGHT, WIDTH = 24, 32


def square(frame: int, top: int = 4, side: int = 6) -> np.ndarray:
    """Where an object is on a frame: bool (24, 32)."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + side, 2 + frame : 2 + frame + side] = True
    return mask


def labels(frame: int, ids=(1, 2)) -> np.ndarray:
    """Two squares that do not touch, as a label image."""
    image = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for row, object_id in enumerate(ids):
        image[square(frame, top=2 + 10 * row)] = object_id
    return image


def write_frame(path: Path, frame: int, size=(HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(frame).integers(0, 80, (*size, 3), dtype=np.uint8)
    pixels[..., 0] = 20 * frame  # so that a test can tell frames apart after JPEG
    Image.fromarray(pixels).save(path, quality=95)


def write_labels(path: Path, image: np.ndarray, palette: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    png = Image.fromarray(image)
    if palette:
        png.putpalette(davis_palette().tobytes())
    png.save(path)


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_mp4(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, 24, WIDTH, HEIGHT) as writer:
        for frame in range(count):
            writer.write(np.full((HEIGHT, WIDTH, 3), 20 * frame, dtype=np.uint8))


# -------------------------------------------------------------------------------------------------- trees, one a layout


def davis_tree(root: Path, year: int = 2017, videos=("bear", "cow"), frames: int = 4) -> Path:
    for video in videos:
        for i in range(frames):
            write_frame(root / f"JPEGImages/480p/{video}/{i:05d}.jpg", i)
            image = labels(i) if year == 2017 else 255 * square(i).astype(np.uint8)
            write_labels(root / f"Annotations/480p/{video}/{i:05d}.png", image, palette=year == 2017)
    lists = root / f"ImageSets/{year}"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text(f"{videos[0]}\n")
    (lists / "val.txt").write_text("\n".join(videos[1:]) + "\n")
    return root


def youtube_tree(root: Path, meta: str = "meta.json") -> Path:
    """Object 2 appears on the third frame; `valid` has masks where an object appears first and nowhere else."""
    for split in ("train", "valid"):
        for i in range(4):
            write_frame(root / f"{split}/JPEGImages/0a1b/{5 * i:05d}.jpg", i)
            image = labels(i) * (labels(i) <= (1 if i < 2 else 2))
            if split == "train" or i in (0, 2):
                write_labels(root / f"{split}/Annotations/0a1b/{5 * i:05d}.png", image)
        objects = {"1": {"category": "dog", "frames": ["00000"]}, "2": {"category": "cat", "frames": ["00010"]}}
        write_json(root / split / meta.format(split=split), {"videos": {"0a1b": {"objects": objects}}})
    return root


def sav_train_tree(root: Path, frames: int = 9, **changes) -> Path:
    def rle(mask):
        return encode_rle(mask)

    empty = np.zeros((HEIGHT, WIDTH), dtype=bool)
    manual = [[rle(square(i)), rle(empty if i == 0 else square(i, top=6))] for i in range(3)]
    content = {
        "video_id": "sav_000001",
        "video_height": float(HEIGHT),
        "video_width": float(WIDTH),
        "video_frame_count": float(frames),
        "masklet": manual,
        "masklet_id": [0, 1],
    } | changes
    folder = root / "sav_000"
    write_mp4(folder / "sav_000001.mp4", frames)
    write_json(folder / "sav_000001_manual.json", content)
    write_json(folder / "sav_000001_auto.json", content | {"masklet": [[rle(square(i, top=12))] for i in range(3)]})
    return root


def sav_val_tree(root: Path) -> Path:
    for i in range(9):
        write_frame(root / f"JPEGImages_24fps/sav_7/{i:05d}.jpg", i)
    for i in (0, 4, 8):
        write_labels(root / f"Annotations_6fps/sav_7/000/{i:05d}.png", square(i).astype(np.uint8), palette=False)
    write_labels(root / "Annotations_6fps/sav_7/001/00004.png", 255 * square(4, top=5).astype(np.uint8), palette=False)
    (root / "sav_val.txt").write_text("sav_7\n")
    return root


def sa1b_tree(root: Path) -> Path:
    write_frame(root / "sa_000000/sa_5.jpg", 3)
    masks = [square(0), np.zeros((HEIGHT, WIDTH), bool), np.ones((HEIGHT, WIDTH), bool), square(8)]
    entries = [
        {"id": 10**9 + i, "area": int(m.sum()), "segmentation": encode_rle(m), "stability_score": 0.9 + i / 100}
        for i, m in enumerate(masks)
    ]
    image = {"image_id": 5, "height": HEIGHT, "width": WIDTH, "file_name": "sa_5.jpg"}
    write_json(root / "sa_000000/sa_5.json", {"image": image, "annotations": entries})
    return root


def coco_tree(root: Path) -> Path:
    for i in (0, 1):
        write_frame(root / f"train2017/{i:012d}.jpg", i)
    crowd = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * 2, HEIGHT * (WIDTH - 2)]}  # the two leftmost columns
    annotations = [
        {"image_id": 7, "category_id": 18, "iscrowd": 0, "segmentation": [[4, 2, 10, 2, 10, 8, 4, 8]]},
        {"image_id": 7, "category_id": 1, "iscrowd": 1, "segmentation": crowd},
        {"image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": encode_rle(square(9))},
    ]
    images = [
        {"id": 7 + i, "file_name": f"{i:012d}.jpg", "height": HEIGHT, "width": WIDTH} for i in (0, 1)
    ]  # the second has no annotation
    names = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": names}
    write_json(root / "annotations/instances_train2017.json", content)
    return root


def folder_tree(root: Path, frames: str = "frames", masks: str = "masks", videos=("a", "b"), count: int = 4) -> Path:
    for video in videos:
        for i in range(count):
            write_frame(root / frames / video / f"{i:05d}.jpg", i)
        for i in range(0, count, 2):
            write_labels(root / masks / video / f"{i:05d}.png", labels(i))
    return root


TREES = {
    "davis2016": (lambda root: davis_tree(root, 2016), "train"),
    "davis2017": (davis_tree, "train"),
    "youtube_vos2018": (youtube_tree, "train"),
    "youtube_vos2019": (youtube_tree, "train"),
    "mose": (youtube_tree, "train"),
    "lvos": (lambda root: youtube_tree(root, "{split}_meta.json"), "train"),
    "sav_train": (sav_train_tree, None),
    "sav_val": (sav_val_tree, None),
    "sa1b": (sa1b_tree, None),
    "coco": (coco_tree, "train2017"),
    "folder": (folder_tree, None),
}
