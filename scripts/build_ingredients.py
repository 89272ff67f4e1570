"""Build a folder of cutouts and photographs for synthetic training videos, from packages of Debian or Ubuntu.

    python scripts/build_ingredients.py ingredients                      fetch the packages (470 MB) and build
    python scripts/build_ingredients.py ingredients --packages DIR       from .deb files or unpacked packages in DIR
    python scripts/build_ingredients.py stamps --only tuxpaint-stamps-default mate-backgrounds
                                                                         from these packages only

Clip art and emoji become `cutouts/*.png` (RGBA, cropped to what is visible), photographs become `photos/*.jpg`.
`SOURCES.csv` says for each file where it is from, whose it is and under which licence; `LICENSES.txt` has the licences
as the packages state them, and what was left out because of one. Read the folder with
`efficienttam_hf.data.ingredients.Ingredients`. Needs `apt-get` and `dpkg`, and `pip install efficienttam-hf[video]`.

The same packages and options give the same files. The folder appears when it is complete, not before.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from efficienttam_hf.image_io import IMAGE_SUFFIXES, open_image, read_image


class Package(NamedTuple):
    """What is taken of a package. Globs are relative to `root` in it, and `*` crosses folders."""

    name: str
    kind: str  # "cutouts", "photos" or "emoji"
    root: str
    take: tuple[str, ...] = ("*",)
    leave: tuple[str, ...] = ()
    licence_path: str = ""  # of `root` in the source package, which is what machine-readable copyright files speak of


PACKAGES = (
    Package(
        "openclipart-png",
        "cutouts",
        "usr/share/openclipart/png",
        # Rectangles (flags, patterns), trademarks, copies, and hundreds of variants of one outline.
        leave=(
            "signs_and_symbols/flags/*",
            "signs_and_symbols/led/*",
            "special/*",
            "logos/*",
            "unsorted/duplicates/*",
            "shapes/arrows/*",
            "shapes/callouts/*",
            "shapes/flowchart/*",
            "shapes/stars/*",
            "computer/icons/flat-theme/*",
        ),
    ),
    # Photographs of animals, plants, food, tools and vehicles, cut out by hand, among drawings.
    Package(
        "tuxpaint-stamps-default",
        "cutouts",
        "usr/share/tuxpaint/stamps",
        leave=("symbols/*", "seasonal/*", "*cartoon*", "town/flags/*", "town/roadsigns/*"),
    ),
    Package("fonts-noto-color-emoji", "emoji", "usr/share/fonts/truetype/noto", licence_path="fonts"),
    # The rest of these packages is drawn or rendered, as is all of gnome-backgrounds and ukui-wallpapers.
    Package(
        "lomiri-wallpapers-16.04",
        "photos",
        "usr/share/backgrounds",
        leave=("analogpattern*", "umang*"),
        licence_path="16.04",
    ),
    Package("lomiri-wallpapers-20.04", "photos", "usr/share/backgrounds", take=("Kleiber*",), licence_path="20.04"),
    Package("mate-backgrounds", "photos", "usr/share/backgrounds/mate", take=("nature/*",)),
    Package(
        "plasma-workspace-wallpapers",
        "photos",
        "usr/share/wallpapers",
        take=tuple(
            f"{name}/contents/images/*"
            for name in (
                "BytheWater",
                "ColdRipple",
                "ColorfulCups",
                "DarkestHour",
                "EveningGlow",
                "FallenLeaf",
                "Grey",
                "Kite",
                "OneStandsOut",
                "Path",
                "summer_1am",
            )
        ),
    ),
)

# Licences under which a picture may be used, changed and passed on, as packages spell them. Anything else is left out.
ALLOWED_LICENCES = (
    r"CC0(-1\.0)?",
    r"CC-PDDC",
    r"public-domain",
    r"CC-BY(-SA)?-[1-4]\.0\+?",
    r"L?GPL-?v?[23](\.[01])?\+?",
    r"Apache-2\.0",
    r"(SIL|OFL)-1\.1",
)

# Copyright files written for people, not machines: a sentence that must be there, and the licence of all the package.
LICENCE_SENTENCES = {"openclipart-png": ("creative commons Public Domain Dedication", "CC-PDDC", "see file name")}

# Emoji of things (weather, plants, food, sport, animals, clothes, tools, faces, vehicles), neither signs nor flags.
EMOJI = (
    (0x1F300, 0x1F3F0),
    (0x1F400, 0x1F4FC),
    (0x1F525, 0x1F52E),
    (0x1F5FB, 0x1F64F),
    (0x1F680, 0x1F6FC),
    (0x1F90C, 0x1F9FF),
    (0x1FA70, 0x1FAFF),
)
EMOJI_SIZE = 109  # of the font's only bitmaps

# A cutout is one solid thing: of its bounding box, of its visible pixels and of its outline's inside, these shares.
COVERAGE = (0.25, 0.93)  # of the box; above it is a rectangle
OPAQUE = 0.7  # of the visible pixels; below it is mostly shadow or glass
LARGEST_PIECE = 0.7  # of the opaque pixels; below it is text or a pattern
FILLED = 0.75  # of the area inside the outline; below it is a frame or a line drawing
THICK = 0.5  # of the opaque pixels, what an erosion by 1/50 of the longest side leaves; below it is lines
LONGEST_ASPECT = 4.0
SMALLEST_SIDE = 32
SMALLEST_SPREAD = 6.0  # standard deviation of the colours; below it is a silhouette in one colour


class Refused(Exception):
    """This picture is left out, for the reason in the message."""


def main(argv: list[str] | None = None) -> int:
    """Build the folder; 0 if it has cutouts or photographs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to make; must not be there yet")
    parser.add_argument("--packages", metavar="DIR", type=Path, help="take packages from here instead of fetching them")
    parser.add_argument(
        "--only", metavar="PACKAGE", nargs="+", choices=[package.name for package in PACKAGES], help="of these packages"
    )
    parser.add_argument("--max-cutouts", metavar="N", type=int, help="keep N of the cutouts, drawn at random")
    parser.add_argument("--size", metavar="PIXELS", type=int, default=256, help="of a cutout's longest side (256)")
    parser.add_argument(
        "--photo-size", metavar="PIXELS", type=int, default=1280, help="of a photo's longest side (1280)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    args = parser.parse_args(argv)
    if args.out.exists():
        parser.error(f"'{args.out}' is there already; remove it, or name another folder")
    if args.packages is not None and not args.packages.is_dir():
        parser.error(f"there is no folder '{args.packages}'")
    if min(args.size, args.photo_size) < SMALLEST_SIDE or (args.max_cutouts is not None and args.max_cutouts < 0):
        parser.error(f"sizes are at least {SMALLEST_SIDE} pixels, and a number of cutouts is not negative")

    warnings.simplefilter("error", Image.DecompressionBombWarning)  # clip art of 600 million pixels is not worth it
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=f".{args.out.name}.") as work:
        built = Path(work) / "built"
        builder = Builder(built, args.size, args.photo_size)
        for package in PACKAGES:
            if args.only is not None and package.name not in args.only:
                continue
            unpacked = find_or_fetch(package.name, args.packages, Path(work))
            if unpacked is None:
                warn(f"{package.name}: not found, so nothing of it is in the folder")
            else:
                builder.add(package, unpacked)
        if not builder.rows:
            print("None of the packages gave a picture; nothing was written.", file=sys.stderr)
            return 1
        builder.finish(args.max_cutouts, args.seed)
        built.rename(args.out)
    for line in builder.summary():
        print(line)
    return 0


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------- packages


def find_or_fetch(name: str, folder: Path | None, work: Path) -> Path | None:
    """The root of an unpacked package: as it is in `folder`, or unpacked to `work`. `None` if it cannot be had."""
    if folder is not None:
        for unpacked in sorted(folder.iterdir()):
            if (unpacked / "usr/share/doc" / name / "copyright").is_file():
                return unpacked
    else:
        folder = work / "debs"
        folder.mkdir(exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", name], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            warn(f"apt-get download {name}: {error}")
    archives = sorted(folder.glob(f"{name}_*.deb"))
    if not archives:
        return None
    try:
        subprocess.run(["dpkg", "-x", archives[-1].resolve(), work / name], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        warn(f"'{archives[-1]}' cannot be unpacked ({error})")
        return None
    return work / name


def package_version(name: str, unpacked: Path) -> str:
    changelog = unpacked / "usr/share/doc" / name / "changelog.Debian.gz"
    try:
        with gzip.open(changelog, "rt", encoding="utf-8") as file:
            return re.match(r"\S+ \((\S+)\)", file.readline()).group(1)
    except (OSError, AttributeError):
        return "unknown"


def licence_of(package: Package, unpacked: Path, file: Path) -> tuple[str, str]:
    """(licence, author) of one file: from metadata beside it, else from the package's copyright file.

    Raises:
        Refused: no licence is stated, or one that is not among `ALLOWED_LICENCES`.
    """
    copyright_file = unpacked / "usr/share/doc" / package.name / "copyright"
    text = copyright_file.read_text(encoding="utf-8", errors="replace")
    within = file.relative_to(unpacked / package.root)
    if package.name in LICENCE_SENTENCES:
        sentence, licence, author = LICENCE_SENTENCES[package.name]
        if sentence not in text:
            raise Refused(f"the copyright file no longer says '{sentence}'")
    elif (metadata := unpacked / package.root / within.parts[0] / "metadata.json").is_file():  # Plasma's
        plugin = json.loads(metadata.read_text(encoding="utf-8")).get("KPlugin", {})
        licence = plugin.get("License", "not stated")
        author = ", ".join(person.get("Name", "") for person in plugin.get("Authors", []))
    else:
        licence, author = licence_in_stanzas(text, (Path(package.licence_path) / within).as_posix())
    if not any(re.fullmatch(pattern, licence) for pattern in ALLOWED_LICENCES):
        raise Refused(f"licence: {licence}")
    return licence, author


def licence_in_stanzas(text: str, path: str) -> tuple[str, str]:
    """(licence, copyright holders) of `path` by a machine-readable copyright file (DEP 5): the last match holds."""
    licence, author = "not stated", ""
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^(\S+):[ \t]*(.*(?:\n[ \t]+.*)*)", stanza, re.MULTILINE))
        if any(fnmatch(path, glob) for glob in fields.get("Files", "").split()):
            licence = fields.get("License", "not stated").split("\n")[0].strip()
            author = "; ".join(line.strip() for line in fields.get("Copyright", "").split("\n"))
    return licence, author


# ---------------------------------------------------------------------------------------------------------- pictures


def pictures(package: Package, unpacked: Path) -> Iterator[tuple[Path, str, object]]:
    """(file, name, how to read it) of every picture that a package offers, in an order of their names and sizes."""
    root = unpacked / package.root
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    if package.kind == "emoji":
        for file in files:
            font = ImageFont.truetype(str(file), EMOJI_SIZE)
            for code in (code for first, last in EMOJI for code in range(first, last + 1)):
                yield file, f"{file.name}#U+{code:X}", lambda code=code, font=font: draw_glyph(font, chr(code))
        return
    if package.kind == "photos":  # of a picture in several sizes, the largest comes first and is kept
        files.sort(key=lambda file: -file.stat().st_size)
    for file in files:
        name = file.relative_to(root).as_posix()
        wanted = any(fnmatch(name, glob) for glob in package.take)
        if wanted and file.suffix.lower() in IMAGE_SUFFIXES and not any(fnmatch(name, glob) for glob in package.leave):
            read = read_rgba if package.kind == "cutouts" else read_image
            yield file, name, lambda file=file, read=read: read(file)


def read_rgba(file: Path) -> np.ndarray:
    with open_image(file) as image:
        return np.array(image.convert("RGBA"))


def draw_glyph(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    """A colour glyph as uint8 (h, w, 4) RGBA. A glyph that the font lacks is empty."""
    _, _, width, height = font.getbbox(character)
    image = Image.new("RGBA", (max(width, 1), max(height, 1)))
    ImageDraw.Draw(image).text((0, 0), character, font=font, embedded_color=True)
    return np.array(image)


def shrink(image: np.ndarray, longest: int) -> np.ndarray:
    """Resized so that the longest side is at most `longest`. Pillow weighs colours by alpha."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def make_cutout(rgba: np.ndarray, longest: int) -> np.ndarray:
    """Crop a picture to what is visible and shrink it.

    Raises:
        Refused: it is not one solid thing, by the shares above.
    """
    rows, columns = (np.flatnonzero((rgba[..., 3] > 16).any(axis)) for axis in (1, 0))
    if not len(rows):
        raise Refused("empty")
    cutout = shrink(rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], longest)
    height, width = cutout.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise Refused("too small")
    if max(height, width) > LONGEST_ASPECT * min(height, width):
        raise Refused("too long")

    opaque = cutout[..., 3] > 127
    area = opaque.sum()
    if not COVERAGE[0] <= area / opaque.size <= COVERAGE[1]:
        raise Refused("nearly empty or nearly a rectangle")
    if area < OPAQUE * (cutout[..., 3] > 16).sum():
        raise Refused("mostly translucent")
    mask = opaque.astype(np.uint8)
    pieces = cv2.connectedComponentsWithStats(mask)[2][1:, cv2.CC_STAT_AREA]
    if pieces.max() < LARGEST_PIECE * area:
        raise Refused("in pieces")
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if area < FILLED * cv2.drawContours(np.zeros_like(mask), outlines, -1, 1, cv2.FILLED).sum():
        raise Refused("a frame or a line drawing")
    radius = max(1, max(height, width) // 50)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    if cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0).sum() < THICK * area:
        raise Refused("thin lines")
    if cutout[..., :3][opaque].std(axis=0).max() < SMALLEST_SPREAD:
        raise Refused("one colour")
    return cutout


def fingerprint(image: np.ndarray) -> np.ndarray:
    """A picture as 16x16 of its grey values, so that copies at other sizes and qualities are close to it."""
    image = Image.fromarray(image)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, (128, 128, 128, 255)), image)
    return np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), np.float32)


SAME = 4.0  # mean difference of two fingerprints, in grey levels, below which two pictures are one


# ------------------------------------------------------------------------------------------------------------ folder


class Builder:
    """The folder in the making: its pictures so far, where each is from, and how many were refused for what."""

    COLUMNS = ("file", "package", "version", "original", "licence", "author")

    def __init__(self, folder: Path, size: int, photo_size: int) -> None:
        self.folder, self.size, self.photo_size = folder, size, photo_size
        self.rows: list[dict[str, str]] = []
        self.refused: dict[str, list[str]] = {}
        self.notices: list[str] = []
        self._seen: dict[str, list[np.ndarray]] = {"cutouts": [], "photos": []}
        for name in self._seen:
            (folder / name).mkdir(parents=True)

    def add(self, package: Package, unpacked: Path) -> None:
        """Add all of a package's pictures that pass, and its copyright file."""
        version = package_version(package.name, unpacked)
        kind = "photos" if package.kind == "photos" else "cutouts"
        for file, name, read in pictures(package, unpacked):
            try:
                licence, author = licence_of(package, unpacked, file)
                image = read()
                image = shrink(image, self.photo_size) if kind == "photos" else make_cutout(image, self.size)
                self._refuse_copies(kind, image)
            except Refused as reason:
                self.refused.setdefault(str(reason), []).append(f"{package.name}: {name}")
                continue
            except (
                OSError,
                SyntaxError,
                ValueError,
                Image.DecompressionBombError,
                Image.DecompressionBombWarning,
            ) as error:
                warn(f"'{file}' cannot be read, so it is left out ({error})")
                continue
            target = f"{kind}/{len(self._seen[kind]) - 1:05d}" + (".jpg" if kind == "photos" else ".png")
            Image.fromarray(image).save(self.folder / target, **({"quality": 88} if kind == "photos" else {}))
            values = (target, package.name, version, name, licence, author)
            self.rows.append(dict(zip(self.COLUMNS, values, strict=True)))
        text = (unpacked / "usr/share/doc" / package.name / "copyright").read_text("utf-8", errors="replace")
        self.notices.append(f"{'=' * 100}\n{package.name} {version}\n{'=' * 100}\n\n{text}\n")

    def _refuse_copies(self, kind: str, image: np.ndarray) -> None:
        seen, this = self._seen[kind], fingerprint(image)
        if seen and np.abs(np.stack(seen) - this).mean(axis=(1, 2)).min() < SAME:
            raise Refused("a copy of another picture")
        seen.append(this)

    def finish(self, max_cutouts: int | None, seed: int) -> None:
        """Keep the cutouts that are drawn, and write what says where everything is from."""
        cutouts = [row for row in self.rows if row["file"].startswith("cutouts")]
        if max_cutouts is not None and len(cutouts) > max_cutouts:
            kept = {row["file"] for row in random.Random(seed).sample(cutouts, max_cutouts)}
            for row in cutouts:
                if row["file"] not in kept:
                    (self.folder / row["file"]).unlink()
                    self.rows.remove(row)
        with open(self.folder / "SOURCES.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        (self.folder / "LICENSES.txt").write_text(
            "Whose each picture is and under which licence: SOURCES.csv. Below, the packages' copyright files as they\n"
            "are. All pictures were resized, and cutouts cropped.\n\n"
            + "\n".join(self.summary())
            + "\n\n"
            + "\n".join(self.notices),
            encoding="utf-8",
        )

    def summary(self) -> list[str]:
        """How many pictures of which package and licence are in, and how many are not, for which reason."""
        kept: dict[tuple[str, str], int] = {}
        for row in self.rows:
            key = (row["package"], row["licence"])
            kept[key] = kept.get(key, 0) + 1
        lines = [f"{count:6d} of {package}, {licence}" for (package, licence), count in kept.items()]
        return lines + [f"{len(names):6d} left out: {reason}" for reason, names in sorted(self.refused.items())]


if __name__ == "__main__":
    raise SystemExit(main())
