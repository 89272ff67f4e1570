"""Example videos and images, which the package draws at the first start, so that no files are needed."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from efficienttam_hf.app.example_clip import make_example_clip
from efficienttam_hf.video_io import open_video


# The numbers of synthetic clips that make good examples, by name.
CLIPS = {"people": 4, "dog": 7, "flies": 8}


def draw_examples(folder: Path) -> tuple[list[Path], list[Path]]:
    """Draw the examples that do not exist yet.

    Args:
        folder: the folder of the examples; it is created if necessary.

    Returns:
        The paths of the videos, and of the first frame of each video as an image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    videos, images = [], []
    for name, number in CLIPS.items():
        video, image = folder / f"{name}.mp4", folder / f"{name}.jpg"
        if not video.exists():
            make_example_clip(video, number, max_objects=3)
        if not image.exists():
            with open_video(video, prefetch=0) as source:
                Image.fromarray(source[0]).save(image, quality=92)
        videos.append(video)
        images.append(image)
    return videos, images
