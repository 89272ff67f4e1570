"""Annotation images that hold object ids are read, those that cannot are refused with the way out, by every reader."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from efficienttam_hf._media import VideoError
from efficienttam_hf.data.checking import check_dataset
from efficienttam_hf.data.loading import load_records
from efficienttam_hf.mask_io import davis_palette, read_indexed_png, write_indexed_png
from efficienttam_hf.mask_values import MaskCoding


HEIGHT, WIDTH = 48, 64


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


LABELS = (disc(20, 20, 12) + 2 * disc(46, 28, 10)).astype(np.uint8)
MASK = LABELS > 0
WHITE = Image.fromarray(MASK.astype(np.uint8) * 255)


def soft() -> Image.Image:
    return WHITE.resize((WIDTH // 3, HEIGHT // 3), Image.BILINEAR).resize((WIDTH, HEIGHT), Image.BICUBIC)


def indexed(values: np.ndarray, palette: np.ndarray) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(palette.astype(np.uint8).tobytes())
    return image


def rgba(color, alpha: np.ndarray) -> Image.Image:
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = color, alpha
    return Image.fromarray(pixels)


def colored(*colors) -> np.ndarray:
    return np.array(colors, np.uint8)[LABELS]


def resorted() -> Image.Image:
    """What an optimiser makes of an indexed PNG that sorts colours by how often they occur, from the rarest on."""
    return indexed(2 - LABELS, davis_palette()[[2, 1, 0]])


# What cannot be ids: the image, its suffix, and what the message says of it.
SIZE, PNG = (WIDTH, HEIGHT), ".png"
RESORTED, NOT_DAVIS = "palette that was sorted anew", "not of the DAVIS palette"


def smooth(values: np.ndarray) -> Image.Image:
    """Scaled down and up again with a smooth filter."""
    return Image.fromarray(values.astype(np.uint8)).resize((32, 24), Image.BILINEAR).resize(SIZE, Image.BILINEAR)


NOT_IDS = {
    "smooth scaling": (soft(), PNG, "soft edges"),
    "scaled up and down": (WHITE.resize((128, 96), Image.BILINEAR).resize(SIZE, Image.LANCZOS), PNG, "edges|levels"),
    "blurred ids": (smooth(LABELS * 100), PNG, "soft edges"),
    "smoothly scaled ids with a palette": (indexed(np.array(smooth(LABELS * 4)), davis_palette()), PNG, "soft edges"),
    "jpeg": (WHITE, ".jpg", "lossy format"),
    "lossy webp": (soft(), ".webp", "lossy format"),
    "palette from the rarest colour on": (resorted(), PNG, RESORTED),
    "palette with two objects exchanged": (indexed(LABELS, davis_palette()[[0, 2, 1]]), PNG, RESORTED),
    "palette without unused entries": (indexed(MASK, davis_palette()[[0, 3]]), PNG, RESORTED),
    "background last": (indexed(2 - LABELS, np.array([(10, 20, 30), (200, 100, 0), (0, 0, 0)])), PNG, RESORTED),
    "palette of soft greys": (soft().convert("P"), PNG, "soft edges"),
    "alpha": (rgba((255, 255, 255), MASK * 255), PNG, "alpha channel"),
    "soft alpha over black": (rgba((0, 0, 0), np.array(soft())), PNG, "alpha channel"),
    "three levels of grey": (Image.fromarray(np.array([0, 128, 255], np.uint8)[LABELS]), PNG, "levels of grey"),
    "classes in colours": (Image.fromarray(colored((0, 0, 0), (255, 0, 0), (0, 255, 0))), PNG, NOT_DAVIS),
    "background in a colour": (Image.fromarray(colored((70, 130, 180), (220, 20, 60), (0, 0, 142))), PNG, NOT_DAVIS),
    "16 bits": (Image.fromarray(LABELS.astype(np.uint16) * 1000), PNG, "labels from 0 to 2000"),
}


# Where a background that is not black, or soft edges of objects of different brightness, leave open what one object is.
UNCLEAR = ("background in a colour", "blurred ids", "smoothly scaled ids with a palette")


@pytest.fixture(params=list(NOT_IDS))
def not_ids(request, tmp_path):
    image, suffix, message = NOT_IDS[request.param]
    path = tmp_path / f"mask{suffix}"
    image.convert("RGB").save(path) if suffix == ".webp" else image.save(path)
    return path, message


def test_what_cannot_be_ids_is_refused_by_file_with_the_way_out(not_ids):
    path, message = not_ids
    with pytest.raises(VideoError, match=rf"mask{path.suffix}' .*({message}).*(binary|threshold).*colors"):
        read_indexed_png(path)


def test_binary_makes_one_object_of_it(not_ids, request):
    name, (path, _) = request.node.callspec.params["not_ids"], not_ids
    found = read_indexed_png(path, MaskCoding.of(binary=True))
    assert set(np.unique(found)) <= {0, 1}
    if name not in UNCLEAR:
        assert ((found == 1) & MASK).sum() / ((found == 1) | MASK).sum() > 0.85


@pytest.mark.parametrize("name, image", [
    ("indices with the palette of DAVIS", indexed(LABELS, davis_palette())),
    ("indices with any other palette", indexed(LABELS, np.array([(0, 0, 0), (236, 95, 103), (249, 145, 87)]))),
    ("white background", indexed(LABELS, np.array([(255, 255, 255), (236, 95, 103), (249, 145, 87)]))),
    ("grey values", Image.fromarray(LABELS)),
    ("16 bits that fit", Image.fromarray(LABELS.astype(np.uint16))),
    ("colours of DAVIS", Image.fromarray(davis_palette()[LABELS])),
    ("opaque alpha", Image.fromarray(davis_palette()[LABELS]).convert("RGBA")),
    ("transparent background", rgba(davis_palette()[LABELS], MASK * 255)),
])  # fmt: skip
def test_what_can_be_ids_is_read(tmp_path, name, image):
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_indexed_png(tmp_path / "a.png"), LABELS)


def test_two_values_are_one_object(tmp_path):
    for number, image in enumerate(
        [WHITE, WHITE.convert("1"), WHITE.convert("RGB"), Image.fromarray(MASK.astype(np.uint16) * 65535)]
    ):
        image.save(tmp_path / f"{number}.png")
        np.testing.assert_array_equal(read_indexed_png(tmp_path / f"{number}.png"), MASK)


def test_thin_and_many_objects_are_not_soft_edges(tmp_path):
    crowd = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number in range(1, 31):
        crowd[(number - 1) // 6 * 9 + 2, (number - 1) % 6 * 10 + 3 :][: 1 + number % 3] = number
    ring = np.where(disc(32, 24, 10), 2, np.where(disc(32, 24, 12), 1, 0))
    stripes = np.repeat(np.arange(8, dtype=np.uint8), 8)[None].repeat(HEIGHT, axis=0)
    void = np.where(disc(32, 24, 12) & ~disc(32, 24, 10), 255, disc(32, 24, 10))
    for name, values in {"crowd": crowd, "ring": ring, "stripes": stripes, "void": void}.items():
        for image in (Image.fromarray(values.astype(np.uint8)), indexed(values, davis_palette())):
            image.save(tmp_path / "a.png")
            np.testing.assert_array_equal(read_indexed_png(tmp_path / "a.png"), values, err_msg=name)


def test_a_map_from_colour_to_id(tmp_path):
    colors = {"#ff0000": 1, (0, 255, 0): 2}
    Image.fromarray(colored((0, 0, 0), (255, 0, 0), (0, 255, 0))).save(tmp_path / "rgb.png")
    resorted().save(tmp_path / "resorted.png")
    Image.fromarray(np.array([0, 128, 255], np.uint8)[LABELS]).save(tmp_path / "grey.png")
    for name, given in {
        "rgb": colors,
        "resorted": "128,0,0=1 0,128,0=2",
        "grey": {128: 1, 255: 2},
    }.items():
        found = read_indexed_png(tmp_path / f"{name}.png", MaskCoding.of(colors=given))
        np.testing.assert_array_equal(found, LABELS, err_msg=name)
    with pytest.raises(VideoError, match=r"rgb\.png' has 1 colour that the map does not list: #00ff00"):
        read_indexed_png(tmp_path / "rgb.png", MaskCoding.of(colors={"#ff0000": 1}))
    background = Image.fromarray(colored((70, 130, 180), (220, 20, 60), (0, 0, 142)))
    background.save(tmp_path / "city.png")
    given = {"70,130,180": 0, "220,20,60": 1, "0,0,142": 2}
    np.testing.assert_array_equal(read_indexed_png(tmp_path / "city.png", MaskCoding.of(colors=given)), LABELS)


def test_a_threshold(tmp_path):
    soft().save(tmp_path / "a.png")
    found = read_indexed_png(tmp_path / "a.png", MaskCoding.of(threshold=200))
    np.testing.assert_array_equal(found, np.array(soft()) >= 200)
    with pytest.raises(VideoError, match="can reach the threshold 300"):
        read_indexed_png(tmp_path / "a.png", MaskCoding.of(threshold=300))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"colors": {"red": 1}}, "'red' is not a colour; accepted are #rrggbb"),
        ({"colors": {"#ff0000": 256}}, "from 0 to 255, got 256"),
        ({"colors": "#ff0000"}, "written colour=id"),
        ({"colors": {}}, "empty"),
        ({"colors": {300: 1}}, "300 is not a colour"),
        ({"threshold": 0}, "at least 1, got 0"),
        ({"binary": True, "colors": {1: 1}}, "give one"),
    ],
)
def test_what_says_nothing_is_refused(options, message):
    with pytest.raises(VideoError, match=message):
        MaskCoding.of(**options)


def test_a_dataset_is_looked_through_and_read_as_its_options_say(tmp_path, not_ids):
    path, message = not_ids
    for kind, suffix in (("frames", ".jpg"), ("masks", path.suffix)):
        (tmp_path / "data" / kind / "one").mkdir(parents=True)
        for t in range(3):
            target = tmp_path / "data" / kind / "one" / f"{t:05d}{suffix}"
            if kind == "frames":
                Image.new("RGB", (WIDTH, HEIGHT)).save(target)
            elif t < 2:
                write_indexed_png(target.with_suffix(".png"), LABELS)
            else:
                target.write_bytes(path.read_bytes())
    (problem,) = check_dataset(load_records("folder", tmp_path / "data"))
    assert f"00002{path.suffix}" in problem and "binary" in problem
    (colors,) = load_records("folder", tmp_path / "data", binary=True)
    assert set(colors.masks(2)) == {1}


def test_a_mask_of_another_size_is_not_decoded(tmp_path, monkeypatch):
    for kind in ("frames", "masks"):
        (tmp_path / kind / "one").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "frames" / "one" / "00000.jpg")
    Image.new("1", (20000, 20000)).save(tmp_path / "masks" / "one" / "00000.png")
    (problem,) = check_dataset(load_records("folder", tmp_path))
    assert "00000.png" in problem


# ------------------------------------------------------------------------------------------- command line


def given_masks(*arguments: str):
    """The masks of one frame that options of `track` amount to, by object id."""
    import argparse

    from efficienttam_hf.cli.prompts import add_prompt_arguments, check_order, gather

    parser = argparse.ArgumentParser()
    add_prompt_arguments(parser, video=True)
    args = parser.parse_args(list(map(str, arguments)))
    check_order(args)
    on_frame = gather(args.prompts, (HEIGHT, WIDTH), range(1)).get(0, {})
    return {object_id: prompts.mask for object_id, prompts in on_frame.items()}


def test_track_refuses_masks_that_cannot_be_ids_and_takes_the_word_of_its_user(not_ids):
    path, message = not_ids
    with pytest.raises(VideoError, match=message):
        given_masks("--mask", path)
    assert set(given_masks("--mask-binary", "--mask", path)) == {1}
    assert set(given_masks("--object", 7, "--mask", path)) == {7}, "--object says that the file is of one object"


def test_track_takes_a_threshold_and_colors_for_the_masks_that_follow(tmp_path):
    soft().save(tmp_path / "soft.png")
    Image.fromarray(colored((0, 0, 0), (255, 0, 0), (0, 255, 0))).save(tmp_path / "rgb.png")
    masks = given_masks("--mask-threshold", 200, "--mask", tmp_path / "soft.png")
    np.testing.assert_array_equal(masks[1], np.array(soft()) >= 200)
    masks = given_masks("--mask-colors", "#ff0000=1 0,255,0=2", "--mask", tmp_path / "rgb.png")
    assert set(masks) == {1, 2} and (masks[2] == (LABELS == 2)).all()
    with pytest.raises(ValueError, match="No prompt follows --mask-threshold 200"):
        given_masks("--mask", tmp_path / "rgb.png", "--mask-threshold", 200)


def test_void_pixels_of_a_mask_prompt_are_no_object(tmp_path):
    indexed(np.where(LABELS == 2, 255, LABELS), davis_palette()).save(tmp_path / "void.png")
    assert set(given_masks("--mask", tmp_path / "void.png")) == {1}
    indexed(MASK * 255, davis_palette()).save(tmp_path / "white.png")
    assert set(given_masks("--mask", tmp_path / "white.png")) == {1}


def test_datasets_take_the_same_options_on_the_command_line(tmp_path):
    import argparse

    from efficienttam_hf.app.datasets import load_data
    from efficienttam_hf.cli.mask_arguments import add_mask_arguments, mask_options

    for kind in ("frames", "masks"):
        (tmp_path / kind / "one").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "frames" / "one" / "00000.jpg")
    Image.fromarray(colored((0, 0, 0), (255, 0, 0), (0, 255, 0))).save(tmp_path / "masks" / "one" / "00000.png")
    parser = argparse.ArgumentParser()
    add_mask_arguments(parser)
    assert mask_options(parser.parse_args([])) == {}
    for arguments, ids in [(["--mask-colors", "#ff0000=1", "0,255,0=2"], {1, 2}), (["--mask-binary"], {1})]:
        records, _, _ = load_data(tmp_path, options=mask_options(parser.parse_args(arguments)))
        assert check_dataset(records) == [] and set(records[0].masks(0)) == ids


def test_manifests_name_the_field_and_stay_in_their_folder(tmp_path):
    import json

    from efficienttam_hf.export.manifest import ExportError, Manifest

    manifest = Manifest("m", "0", "1", "float32", 17, {}, None)  # type: ignore[arg-type]
    for file in ("/dev/zero", "../decoder.onnx", "a/../../b.onnx", 5, None):
        manifest.graphs["decoder"] = {"file": file, "sha256": "0"}
        with pytest.raises(ExportError, match="decoder"):
            manifest.graph_file(tmp_path, "decoder")
    for text in (
        "{",
        "[" * 100_000,
        "[]",
        json.dumps({"format": "efficienttam-onnx", "format_version": 1, "rules": 5}),
    ):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ExportError, match=r"manifest\.json"):
            Manifest.read(tmp_path)
