"""Folders of cutouts and photos: what is found in them, and the script that builds one."""

import csv
import gzip
import json
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from script_files import load_script

from efficienttam_hf.data.ingredients import Ingredients
from efficienttam_hf.video_io import VideoError


ROOT = Path(__file__).resolve().parents[1]


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def disc(colour=(200, 40, 60), size=96, background=0):
    """RGBA: a shaded disc with room around it, which is transparent by default."""
    y, x = np.mgrid[:size, :size]
    image = np.zeros((size, size, 4), np.uint8)
    image[..., :3] = np.array(colour) * (0.5 + 0.5 * y[..., None] / size)
    image[..., 3] = np.where((y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 3) ** 2, 255, background)
    return image


def noise(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


# ----------------------------------------------------------------------------------------------------------- reading


def test_cutouts_and_photos_come_in_the_order_of_their_names(tmp_path):
    for name, colour in (("b", (0, 0, 255)), ("a", (255, 0, 0))):
        save(tmp_path / "cutouts" / f"{name}.png", disc(colour))
    save(tmp_path / "photos" / "one.jpg", noise(30, 40))
    (tmp_path / "photos" / "notes.txt").write_text("not an image")

    ingredients = Ingredients(tmp_path)

    assert (ingredients.num_cutouts, ingredients.num_photos) == (2, 1)
    assert np.array_equal(ingredients.cutout(0), disc((255, 0, 0)))
    assert np.array_equal(ingredients.cutout(1), disc((0, 0, 255)))
    assert ingredients.photo(0).shape == (30, 40, 3) and ingredients.photo(0).dtype == np.uint8


def test_a_subfolder_may_be_missing_or_empty(tmp_path):
    (tmp_path / "photos").mkdir()
    assert (Ingredients(tmp_path).num_cutouts, Ingredients(tmp_path).num_photos) == (0, 0)
    save(tmp_path / "photos" / "a.webp", noise(8, 8))
    assert (Ingredients(tmp_path).num_cutouts, Ingredients(tmp_path).num_photos) == (0, 1)


def test_in_any_other_folder_transparency_tells_cutouts_from_photos(tmp_path):
    save(tmp_path / "cat.png", disc())
    save(tmp_path / "screenshot.png", disc(background=255))
    save(tmp_path / "street.JPG", noise(8, 8))
    palette = Image.fromarray(disc()).quantize(16)
    palette.save(tmp_path / "dog.png", transparency=0)

    ingredients = Ingredients(tmp_path)

    assert (ingredients.num_cutouts, ingredients.num_photos) == (2, 2)
    assert ingredients.cutout(1).shape == (96, 96, 4) and ingredients.photo(0).shape == (96, 96, 3)


def test_images_are_kept_up_to_the_bound_and_the_least_recent_go(tmp_path):
    for index in range(3):
        save(tmp_path / "photos" / f"{index}.png", noise(10, 10, index))
    ingredients = Ingredients(tmp_path, cache_bytes=2 * 10 * 10 * 3)
    first, second = ingredients.photo(0), ingredients.photo(1)
    assert ingredients.photo(0) is first
    ingredients.photo(2)
    assert ingredients.photo(0) is first
    assert ingredients.photo(1) is not second and np.array_equal(ingredients.photo(1), second)
    with pytest.raises(ValueError, match="read-only"):
        first[:] = 0


def test_an_image_larger_than_the_cache_is_still_read(tmp_path):
    save(tmp_path / "photos" / "a.png", noise(10, 10))
    ingredients = Ingredients(tmp_path, cache_bytes=10)
    assert np.array_equal(ingredients.photo(0), ingredients.photo(0))


def test_pickling_leaves_the_images_behind(tmp_path):
    save(tmp_path / "photos" / "a.png", noise(200, 200))
    ingredients = Ingredients(tmp_path)
    image = ingredients.photo(0)
    pickled = pickle.dumps(ingredients)
    assert len(pickled) < 2000
    assert np.array_equal(pickle.loads(pickled).photo(0), image)


def test_a_missing_folder_and_a_damaged_file_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Ingredients(tmp_path / "nowhere")
    save(tmp_path / "cutouts" / "half.png", disc())
    save(tmp_path / "photos" / "half.jpg", noise(64, 64))
    for file in (tmp_path / "cutouts" / "half.png", tmp_path / "photos" / "half.jpg"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    ingredients = Ingredients(tmp_path)
    with pytest.raises(VideoError, match="half.png"):
        ingredients.cutout(0)
    with pytest.raises(VideoError, match="half.jpg"):
        ingredients.photo(0)
    with pytest.raises(VideoError, match="is a file"):
        Ingredients(tmp_path / "photos" / "half.jpg")


# ---------------------------------------------------------------------------------------------------------- building


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("cv2", reason="scripts/build_ingredients.py needs OpenCV")
    return load_script("build_ingredients")


CLIP_ART = "clipart/usr/share/openclipart/png"
MATE = "mate/usr/share/backgrounds/mate/nature"
PLASMA = "plasma/usr/share/wallpapers"


@pytest.fixture
def packages(tmp_path):
    """Unpacked packages, small: five good cutouts and two photos, and some of what must not come through."""
    folder = tmp_path / "packages"

    def document(root, name, text):
        documents = folder / root / "usr/share/doc" / name
        documents.mkdir(parents=True)
        (documents / "copyright").write_text(text)
        with gzip.open(documents / "changelog.Debian.gz", "wt") as file:
            file.write(f"{name} (1.2-3) unstable; urgency=low\n")

    document("clipart", "openclipart-png", "creative commons Public Domain Dedication\n")
    for index in range(5):
        save(folder / CLIP_ART / f"animals/{index}.png", disc((50 * index, 200 - 40 * index, 90), size=80 + 8 * index))
    save(folder / CLIP_ART / "animals/again.png", disc((0, 200, 90), size=160))
    save(folder / CLIP_ART / "animals/rectangle.png", disc(background=255))
    save(folder / CLIP_ART / "logos/mark.png", disc((9, 9, 250)))
    (folder / CLIP_ART / "animals/broken.png").write_bytes(b"no PNG")

    document(
        "mate",
        "mate-backgrounds",
        "Files: *\nCopyright: 2001, Nobody\nLicense: CC-BY-NC-4.0\n\n"
        "Files: nature/Dune.jpg\n       nature/Sea.jpg\nCopyright: 2008, A. Person\nLicense: GPL-2+\nComment: mine\n",
    )
    save(folder / MATE / "Dune.jpg", noise(300, 400, 1))
    save(folder / MATE / "Other.jpg", noise(300, 400, 2))

    document("plasma", "plasma-workspace-wallpapers", "Files: *\nCopyright: KDE\nLicense: GPL-2+\n")
    for name, licence in (("Kite", "CC-BY-SA-4.0"), ("Path", "All rights reserved")):
        save(folder / PLASMA / name / "contents/images/100x80.png", noise(80, 100, 3))
        save(folder / PLASMA / name / "contents/images/50x40.png", noise(40, 50, 3))
        plugin = {"KPlugin": {"License": licence, "Authors": [{"Name": "B. Person"}]}}
        (folder / PLASMA / name / "metadata.json").write_text(json.dumps(plugin))
    return folder


def build(script, packages, out, *options):
    assert script.main([str(out), "--packages", str(packages), *options]) == 0
    with open(out / "SOURCES.csv", newline="") as file:
        return {row["original"]: row for row in csv.DictReader(file)}


def test_what_passes_is_in_the_folder_with_its_source(script, packages, tmp_path, capsys):
    sources = build(script, packages, tmp_path / "out", "--size", "64", "--photo-size", "200")

    assert {name for name, row in sources.items() if row["file"].startswith("photos")} == {
        "nature/Dune.jpg",
        "Kite/contents/images/100x80.png",
    }
    dune, kite = sources["nature/Dune.jpg"], sources["Kite/contents/images/100x80.png"]
    assert (dune["licence"], dune["author"], dune["version"]) == ("GPL-2+", "2008, A. Person", "1.2-3")
    assert (kite["licence"], kite["author"]) == ("CC-BY-SA-4.0", "B. Person")
    ingredients = Ingredients(tmp_path / "out")
    assert (ingredients.num_cutouts, ingredients.num_photos) == (5, 2)
    assert ingredients.photo(0).shape == (150, 200, 3)
    for index in range(5):
        cutout = ingredients.cutout(index)
        assert max(cutout.shape[:2]) <= 64
        assert all(edge.any() for edge in (cutout[0, :, 3], cutout[-1, :, 3], cutout[:, 0, 3], cutout[:, -1, 3]))


def test_what_is_left_out_is_said(script, packages, tmp_path, capsys):
    sources = build(script, packages, tmp_path / "out")
    printed = capsys.readouterr()
    assert "broken.png' cannot be read" in printed.err
    assert "fonts-noto-color-emoji: not found" in printed.err
    assert "logos/mark.png" not in sources
    notice = (tmp_path / "out" / "LICENSES.txt").read_text()
    for line in (
        "1 left out: licence: CC-BY-NC-4.0",
        "2 left out: licence: All rights reserved",
        "1 left out: nearly empty or nearly a rectangle",
        "2 left out: a copy of another picture",
    ):
        assert line in printed.out and line in notice
    assert "creative commons Public Domain Dedication" in notice


def test_packages_may_be_archives(script, packages, tmp_path):
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb makes the archive, and is not here")
    control = packages / "mate" / "DEBIAN" / "control"
    control.parent.mkdir()
    control.write_text(
        "Package: mate-backgrounds\nVersion: 1.2-3\nArchitecture: all\n"
        "Maintainer: Nobody <n@example.org>\nDescription: wallpapers\n"
    )
    archives = tmp_path / "archives"
    archives.mkdir()
    archive = archives / "mate-backgrounds_1.2-3_all.deb"
    subprocess.run(["dpkg-deb", "--build", packages / "mate", archive], check=True, capture_output=True)
    assert list(build(script, archives, tmp_path / "out")) == ["nature/Dune.jpg"]


def test_the_same_packages_give_the_same_folder_and_a_seed_draws(script, packages, tmp_path):
    def files(name, *options):
        build(script, packages, tmp_path / name, *options)
        return {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }

    assert files("a", "--max-cutouts", "2") == files("b", "--max-cutouts", "2")
    draws = {tuple(sorted(files(f"s{seed}", "--max-cutouts", "2", "--seed", str(seed)))) for seed in range(4)}
    assert len(draws) > 1 and all(sum(path.parent.name == "cutouts" for path in draw) == 2 for draw in draws)


def test_an_interrupted_build_leaves_nothing(script, packages, tmp_path, monkeypatch):
    monkeypatch.setattr(script.Builder, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        script.main([str(tmp_path / "out"), "--packages", str(packages)])
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]


def test_a_changed_copyright_file_takes_the_package_out(script, packages, tmp_path):
    (packages / "clipart/usr/share/doc/openclipart-png/copyright").write_text("All rights reserved")
    sources = build(script, packages, tmp_path / "out")
    assert {row["package"] for row in sources.values()} == {"mate-backgrounds", "plasma-workspace-wallpapers"}


def comb(image):
    """Leave a spine with teeth 12 pixels wide."""
    rows, columns = np.indices(image.shape[:2])
    image[(rows % 16 < 4) & (abs(columns - 200) > 10), 3] = 0


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("empty", lambda image: image[..., 3].fill(0)),
        ("too long", lambda image: image[:180, :, 3].fill(0) or image[225:, :, 3].fill(0)),
        ("rectangle", lambda image: image[..., 3].fill(255)),
        ("translucent", lambda image: np.minimum(image[200:, :, 3], 100, out=image[200:, :, 3])),
        ("in pieces", lambda image: image[180:220, :, 3].fill(0)),
        ("line drawing", lambda image: image[130:270, 130:270, 3].fill(0)),
        ("thin lines", comb),
        ("one colour", lambda image: image[..., :3].fill(7)),
    ],
)
def test_what_is_not_one_solid_thing_is_refused(script, reason, change):
    image = disc(size=400)
    assert script.make_cutout(image, 256).shape == (256, 256, 4)
    change(image)
    with pytest.raises(script.Refused, match=reason):
        script.make_cutout(image, 256)
