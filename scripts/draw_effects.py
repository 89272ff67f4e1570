"""The picture of docs/effects.md: each effect on a frame of the generated clip, with its exact mask.

python scripts/draw_effects.py --output docs/images/effects.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from efficienttam_hf.effects import parse_effect
from efficienttam_hf.synthetic_clip import make_clip
from efficienttam_hf.visualization import contact_sheet


SHOWN = (
    "overlay", "outline", "spotlight", "blur-background", "replace-background", "green-screen", "cutout", "mask",
    "pixelate", "blur", "fill", "cutout:feather=4",
)  # fmt: skip
SQUARE = 10  # pixels, of the squares that stand for transparency


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="a .png or .jpg file")
    parser.add_argument("--width", type=int, default=220, help="width of a cell in pixels (default: 220)")
    args = parser.parse_args(argv)

    clip = make_clip(9)
    frame, mask = clip.frames[4], clip.masks[4]
    pictures = [_on_squares(parse_effect(effect)(frame, {1: mask})) for effect in SHOWN]
    sheet = contact_sheet(pictures, 4, captions=SHOWN, cell_width=args.width)
    Image.fromarray(sheet).quantize(256, dither=Image.Dither.NONE).save(args.output, optimize=True)


def _on_squares(picture: np.ndarray) -> np.ndarray:
    """Lay a picture with alpha on grey squares, and return any other as it is."""
    if picture.shape[2] == 3:
        return picture
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]] // SQUARE
    squares = np.where((x + y) % 2, 200, 150)[..., None]
    alpha = picture[..., 3:] / 255
    return np.rint(alpha * picture[..., :3] + (1 - alpha) * squares).astype(np.uint8)


if __name__ == "__main__":
    main()
