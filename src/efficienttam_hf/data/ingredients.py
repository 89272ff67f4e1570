"""The images for synthetic videos: cutouts with a transparent background, and photographs.

`scripts/build_ingredients.py` makes such a folder from free clip art. Any other folder of images can be used: an image
with transparent parts is a cutout, and any other image is a photograph.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .._media import VideoError
from ..image_io import IMAGE_SUFFIXES, check_single, open_image, read_image


__all__ = ["Ingredients"]


class Ingredients:
    """Cutouts and photographs by number, in the order of their names. An image is read when it is requested.

    Args:
        folder: a folder with `cutouts/` (PNG or WebP with alpha), `photos/` (any images), or both. If it has neither,
            images with transparent pixels are the cutouts and the rest are the photographs; to find out, images with
            an alpha channel are read once. A subfolder may be missing or empty; then there are no images of its kind.
        cache_bytes: the size of the cache of decoded images in bytes. The least recently used images are removed first.
            The cache is not pickled, so every process, such as a data loader's worker, has its own.

    Raises:
        FileNotFoundError: if the folder does not exist.
        VideoError: if `folder` is a file, or an image in it cannot be read; the message names it.
    """

    def __init__(self, folder: str | os.PathLike, cache_bytes: int = 256 * 2**20) -> None:
        self.folder = Path(folder)
        if not self.folder.exists():
            raise FileNotFoundError(
                f"There is no folder '{folder}' to take cutouts and photos from; name a folder of images, "
                "or make one with scripts/build_ingredients.py."
            )
        if not self.folder.is_dir():
            raise VideoError(f"'{folder}' is a file; cutouts and photos are taken from a folder of images.")
        self.cache_bytes = cache_bytes
        cutouts, photos = self.folder / "cutouts", self.folder / "photos"
        if cutouts.is_dir() or photos.is_dir():
            self._cutouts = [path for path in _images_in(cutouts) if path.suffix.lower() in (".png", ".webp")]
            self._photos = _images_in(photos)
        else:
            images = {path: _is_cutout(path) for path in _images_in(self.folder)}
            self._cutouts = [path for path, transparent in images.items() if transparent]
            self._photos = [path for path, transparent in images.items() if not transparent]
        self._start_cache()

    @property
    def num_cutouts(self) -> int:
        return len(self._cutouts)

    @property
    def num_photos(self) -> int:
        return len(self._photos)

    def cutout(self, index: int) -> np.ndarray:
        """Return uint8 `(height, width, 4)`, RGBA, with colours not multiplied by alpha; the array is read-only."""
        return self._read(self._cutouts[index], _read_rgba)

    def photo(self, index: int) -> np.ndarray:
        """Return uint8 `(height, width, 3)`, RGB; the array is read-only."""
        return self._read(self._photos[index], read_image)

    def _read(self, path: Path, read: Callable[[Path], np.ndarray]) -> np.ndarray:
        with self._lock:
            if path in self._cache:
                self._cache.move_to_end(path)
                return self._cache[path]
        image = read(path)
        image.flags.writeable = False  # all callers share the array
        with self._lock:
            if path not in self._cache:
                self._cache[path] = image
                self._cached_bytes += image.nbytes
            while self._cached_bytes > self.cache_bytes:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return image

    def _start_cache(self) -> None:
        self._cache: OrderedDict[Path, np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name not in ("_cache", "_cached_bytes", "_lock")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._start_cache()

    def __repr__(self) -> str:
        return f"Ingredients('{self.folder}': {self.num_cutouts} cutouts, {self.num_photos} photos)"


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)


def _is_cutout(path: Path) -> bool:
    """Whether any pixel is transparent. Many programs write an alpha channel without transparent pixels."""
    with open_image(path) as image:
        check_single(image, str(path))
        if not image.has_transparency_data:
            return False
    return bool((_read_rgba(path)[..., 3] < 255).any())


def _read_rgba(path: Path) -> np.ndarray:
    """Return uint8 (height, width, 4); alpha is 255 everywhere if the image has no alpha channel."""
    with open_image(path) as image:
        check_single(image, str(path))
        try:
            return np.array(image.convert("RGBA"))
        except (OSError, SyntaxError, ValueError) as error:  # Pillow's errors differ by format
            raise VideoError(f"'{path}' is damaged or cut short and cannot be decoded ({error}).") from error
