"""Example videos and images: a real clip that is fetched once, and clips that the package draws at the first start."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from pathlib import Path

from PIL import Image
from settings import HAWK

from efficienttam_hf.app.example_clip import make_example_clip
from efficienttam_hf.atomic_file import atomic_path
from efficienttam_hf.checksums import sha256_of
from efficienttam_hf.hub_files import is_offline
from efficienttam_hf.kernel_choice import cache_folder
from efficienttam_hf.video_io import open_video


logger = logging.getLogger(__name__)

HASHES = {HAWK: "59423fa2a0a692664b729485ca47bddc3632551f790bb69cb0f66e97402b1396"}  # SHA-256 by address

# Limits of fetching: a start of the demo must not wait longer, whatever the network does.
SECONDS = 15.0
MOST_BYTES = 32 * 2**20

# The numbers of synthetic clips that make good examples, by name.
CLIPS = {"people": 4, "dog": 7, "flies": 8}


def make_examples(folder: Path, real: str) -> tuple[list[Path], list[Path]]:
    """Provide the examples that do not exist yet.

    Args:
        folder: the folder of the examples; it is created if necessary.
        real: the path or the address of a real video, which becomes the first example, or `off`. Without it, for
            example without a network, there are only the clips that are drawn.

    Returns:
        The paths of the videos, and of the first frame of each video as an image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    videos = [] if real == "off" else _real_video(real, folder)
    for name, number in CLIPS.items():
        video = folder / f"{name}.mp4"
        if not video.exists():
            make_example_clip(video, number, max_objects=3)
        videos.append(video)
    images = [video.with_suffix(".jpg") for video in videos]
    for video, image in zip(videos, images, strict=True):
        if not image.exists():
            with open_video(video, prefetch=0) as source:
                Image.fromarray(source[0]).save(image, quality=92)
    return videos, images


def _real_video(real: str, folder: Path) -> list[Path]:
    """Return a list of the real video, or an empty one if it cannot be had; the log says why."""
    try:
        source = _fetched(real) if real.startswith(("https://", "http://")) else Path(real)
        video = folder / f"real{source.suffix}"
        if not video.exists():
            shutil.copyfile(source, video)
        _check(video)
    except (OSError, ValueError) as error:
        logger.warning("The page has no real example, because %s cannot be had: %s", real, error)
        return []
    return [video]


def _check(video: Path) -> None:
    """Read a frame, so that a file that is no video is found before the page offers it."""
    with open_video(video, prefetch=0) as frames:
        frames[0]


def _fetched(address: str) -> Path:
    """Fetch a video once into the user's cache directory, and check its hash if it is known.

    Raises:
        OSError: if it cannot be fetched in time, is too large, or is not the expected file.
        ValueError: if it is no video.
    """
    import httpx

    name = hashlib.sha256(address.encode()).hexdigest()[:16] + Path(httpx.URL(address).path).suffix
    path = cache_folder() / "examples" / name
    if path.exists():
        return path
    if is_offline():
        raise OSError("HF_HUB_OFFLINE is set, and it was not fetched before.")
    end = time.monotonic() + SECONDS
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            atomic_path(path) as temporary,
            temporary.open("wb") as file,
            httpx.stream("GET", address, timeout=SECONDS / 3, follow_redirects=True) as response,
        ):
            response.raise_for_status()
            for block in response.iter_bytes():
                file.write(block)
                if file.tell() > MOST_BYTES:
                    raise OSError(f"it has more than {MOST_BYTES // 2**20} MiB.")
                if time.monotonic() > end:
                    raise OSError(f"it did not arrive within {SECONDS:.0f} s.")
            file.flush()
            if address in HASHES and (found := sha256_of(temporary)) != HASHES[address]:
                raise OSError(f"its SHA-256 is {found}, and {HASHES[address]} is expected.")
            _check(temporary)
    except httpx.HTTPError as error:
        raise OSError(str(error) or type(error).__name__) from error
    return path
