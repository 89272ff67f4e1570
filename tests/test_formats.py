"""Annotations in the formats of other tools: what is written is read by the tools' own libraries and comes back."""

import importlib
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from efficienttam_hf.formats.annotations import AnnotatedFrame, AnnotatedMedia, Annotation, AnnotationError
from efficienttam_hf.formats.label_studio import decode_brush, encode_brush
from efficienttam_hf.formats.prompting import prompts_of
from efficienttam_hf.formats.registry import FORMATS, read_annotations, write_annotations
from efficienttam_hf.polygons import mask_of_polygons, polygons_of_mask


SIZE = (48, 64)
LABELS = {1: "a dog", 3: "ball & <co>"}


def library(name):
    """A library that only this check needs."""
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"the reader of the format, {name.split('.')[0]}, is not installed")


def shapes():
    """The masks of two objects on frames 2 to 6: one moves and has a hole, the other is missing on frame 4."""
    rows, columns = np.indices(SIZE)
    found = {}
    for frame in range(2, 7):
        ring = np.hypot(rows - 20, columns - 12 - 3 * frame)
        found[frame] = {1: (ring < 10) & (ring > 3)}
        if frame != 4:
            found[frame][3] = (abs(rows - 40) < 3) & (abs(columns - 10 * frame) < 4)
            found[frame][3][30, 60] = True  # a part of one pixel
    return found


def video(masks=None, labels=LABELS):
    masks = masks or shapes()
    frames = [
        AnnotatedFrame(index, f"{index:05d}", [Annotation.of_mask(i, mask, 0.5 + i / 8) for i, mask in own.items()])
        for index, own in masks.items()
    ]
    return AnnotatedMedia.of_frames("clip", SIZE, frames, labels, fps=25.0)


def image(labels=LABELS):
    objects = [Annotation.of_mask(i, mask, 0.9) for i, mask in shapes()[3].items()]
    frame = AnnotatedFrame(0, "photo.jpg", objects)
    return AnnotatedMedia("photo.jpg", SIZE, lambda: iter([frame]), [1, 3], 1, is_video=False, labels=labels)


def written(media, name, folder):
    """The files of a format by relative name."""

    def add(relative):
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    write_annotations(name, media, add)
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def content_of(media):
    """Masks, or boxes where there are no masks, by frame and object."""
    return {
        (frame.index if frame.index >= 0 else int(frame.name), one.object_id): one
        for frame in media.frames()
        for one in frame.visible
    }


EXACT = ("coco", "youtube-vis", "mots", "cvat", "labelme", "numpy")
BOXES = ("mot", "cvat-boxes", "label-studio")


@pytest.mark.parametrize("name", EXACT)
def test_masks_come_back_as_they_were_written(name, tmp_path):
    written(video(), name, tmp_path)
    back = read_annotations(tmp_path, "clip", SIZE)
    before, after = content_of(video()), content_of(back)
    assert before.keys() == after.keys()
    for key, one in before.items():
        np.testing.assert_array_equal(after[key].pixels(), one.pixels(), err_msg=str(key))
    assert back.size == SIZE
    if name != "mots":  # whose text file has numbers for labels
        assert dict(back.labels) == LABELS


@pytest.mark.parametrize("name", BOXES)
def test_boxes_come_back_as_they_were_written(name, tmp_path):
    written(video(), name, tmp_path)
    back = read_annotations(tmp_path, "clip", SIZE)
    before, after = content_of(video()), content_of(back)
    assert before.keys() == after.keys()
    for key, one in before.items():
        np.testing.assert_allclose(after[key].box, one.box, atol=1e-6)
    assert dict(back.labels) == ({} if name == "mot" else LABELS)


def test_polygons_of_cvat_follow_the_outline_of_the_largest_part(tmp_path):
    written(video(), "cvat-polygons", tmp_path)
    for key, one in content_of(read_annotations(tmp_path, "clip", SIZE)).items():
        if key[1] == 3:  # no hole, but a second part
            mask = content_of(video())[key].pixels()
            assert (one.pixels() & mask).sum() / (one.pixels() | mask).sum() > 0.7


@pytest.mark.parametrize("name", ["coco", "label-studio", "labelme", "numpy"])
def test_the_masks_of_an_image_come_back(name, tmp_path):
    written(image(), name, tmp_path)
    back = (
        content_of(read_annotations(next(tmp_path.iterdir()), "photo", SIZE))
        if name != "labelme"
        else {
            (0, one.object_id): one
            for frame in read_annotations(tmp_path / "photo.json", "photo", SIZE).frames()
            for one in frame.visible
        }
    )
    for one in next(image().frames()).objects:
        np.testing.assert_array_equal(back[0, one.object_id].pixels(), one.pixels())


def test_formats_of_videos_are_refused_for_an_image(tmp_path):
    with pytest.raises(ValueError, match="cvat is not for an image; those are coco, label-studio"):
        written(image(), "cvat", tmp_path)
    with pytest.raises(ValueError, match="no format 'voc'; the formats are coco"):
        written(image(), "voc", tmp_path)


def test_objects_without_a_name_are_called_object(tmp_path):
    written(video(labels={}), "coco", tmp_path)
    content = json.loads((tmp_path / "annotations.json").read_text())
    assert [c["name"] for c in content["categories"]] == ["object"]
    assert read_annotations(tmp_path, "clip", SIZE).labels == {}


def test_a_long_video_is_never_in_ram_as_a_whole(tmp_path):
    alive, most = 0, 0

    class Counted(AnnotatedFrame):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def frames():
        nonlocal alive, most
        mask = Annotation.of_mask(1, np.eye(*SIZE, dtype=bool))
        for index in range(50):
            alive += 1
            most = max(most, alive)
            yield Counted(index, f"{index:05d}", [mask])

    for name in FORMATS:
        media = AnnotatedMedia("clip", SIZE, frames, [1], 50, 25.0)
        written(media, name, tmp_path / name)
    assert most <= 3


# ---------------------------------------------------------------------------------------------------- other readers


def test_pycocotools_reads_coco(tmp_path):
    from pycocotools.coco import COCO

    coco = COCO(written(video(), "coco", tmp_path)["annotations.json"])
    assert len(coco.getImgIds()) == 5
    for annotation in coco.loadAnns(coco.getAnnIds()):
        frame = coco.loadImgs(annotation["image_id"])[0]["frame_id"]
        mask = shapes()[frame][annotation["track_id"]]
        np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), mask)
        assert annotation["area"] == mask.sum()
        assert coco.loadCats(annotation["category_id"])[0]["name"] == LABELS[annotation["track_id"]]


def test_pycocotools_decodes_the_lists_of_youtube_vis(tmp_path):
    content = json.loads(written(video(), "youtube-vis", tmp_path)["instances.json"].read_text())
    assert content["videos"][0]["length"] == len(content["videos"][0]["file_names"]) == 7
    for annotation in content["annotations"]:
        for frame, rle in enumerate(annotation["segmentations"]):
            mask = shapes().get(frame, {}).get(annotation["id"])
            assert (rle is None) == (mask is None) == (annotation["bboxes"][frame] is None)
            if mask is not None:
                np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), mask)
                assert annotation["bboxes"][frame] == coco_mask.toBbox(rle).tolist()


def test_motmetrics_reads_mot(tmp_path):
    motmetrics = library("motmetrics")
    table = motmetrics.io.loadtxt(str(written(video(), "mot", tmp_path)["clip.txt"]), fmt="mot15-2D")
    for (frame, object_id), one in content_of(video()).items():
        row = table.loc[frame + 1, object_id]
        assert (row["X"], row["Y"], row["Width"], row["Height"]) == one.box  # it subtracts the 1
        assert row["Confidence"] == one.score


def test_trackeval_reads_mots(tmp_path):
    datasets = library("trackeval.datasets")
    files = written(video(labels={1: "a", 3: "a"}), "mots", tmp_path / "made")
    truth, seqmap = tmp_path / "gt", tmp_path / "seqmap"
    (truth / "label_02").mkdir(parents=True)
    seqmap.mkdir()
    (seqmap / "evaluate_mots.seqmap.val").write_text("0007 empty 0 6\n0007 empty 0 6\n")
    text = files["instances_txt/clip.txt"].read_text()
    (tmp_path / "trackers" / "ours" / "data").mkdir(parents=True)
    for path in (truth / "label_02" / "0007.txt", tmp_path / "trackers/ours/data/0007.txt"):
        path.write_text(text)
    config = {"GT_FOLDER": str(truth), "TRACKERS_FOLDER": str(tmp_path / "trackers"), "SPLIT_TO_EVAL": "val"}
    config |= {"CLASSES_TO_EVAL": ["car"], "PRINT_CONFIG": False}
    config["SEQMAP_FILE"] = str(seqmap / "evaluate_mots.seqmap.val")
    dataset = datasets.KittiMOTS(config)
    raw = dataset.get_raw_seq_data("ours", "0007")
    for frame, own in shapes().items():
        for mask, rle in zip(own.values(), raw["gt_dets"][frame], strict=True):
            np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), mask)
        assert raw["gt_ids"][frame].tolist() == [1000 + i for i in own]


def test_mots_pngs_have_class_and_object_in_each_pixel(tmp_path):
    files = written(video(), "mots", tmp_path)
    values = np.array(Image.open(files["instances/clip/000003.png"]))
    assert values.max() == 2003 and set(np.unique(values)) == {0, 1001, 2003}
    np.testing.assert_array_equal(values == 1001, shapes()[3][1])


@pytest.mark.parametrize("package", ["label_studio_sdk.converter", "label_studio_converter"])
def test_label_studio_decodes_the_brushes(package, tmp_path):
    brush = library(f"{package}.brush")
    content = json.loads(written(image(), "label-studio", tmp_path)["tasks.json"].read_text())
    for region in content[0]["predictions"][0]["result"]:
        height, width = region["original_height"], region["original_width"]
        pixels = brush.decode_rle(region["value"]["rle"]).reshape(height, width, 4)
        mask = shapes()[3][int(region["id"].removeprefix("object_"))]
        np.testing.assert_array_equal(pixels[..., 3] > 0, mask)


@pytest.mark.parametrize("package", ["label_studio_sdk.converter", "label_studio_converter"])
def test_brushes_of_label_studio_are_read(package):
    brush = library(f"{package}.brush")
    mask = np.random.default_rng(0).random(SIZE) < 0.3
    np.testing.assert_array_equal(decode_brush(brush.mask2rle((mask * 255).astype(np.uint8)), SIZE), mask)


def test_brushes_of_one_value_and_of_single_pixels():
    large = np.zeros((300, 400), bool)  # longer than the longest run
    for mask in (large, ~large, np.eye(5, dtype=bool), np.ones((1, 1), bool)):
        np.testing.assert_array_equal(decode_brush(encode_brush(mask), mask.shape), mask)


def test_labelme_draws_the_polygons_as_the_masks(tmp_path):
    label_file = library("labelme._label_file")
    shape = library("labelme.utils.shape")
    files = written(video(), "labelme", tmp_path)
    for frame, own in shapes().items():
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "clip" / f"{frame:05d}.jpg")
        loaded = label_file.LabelFile(str(files[f"clip/{frame:05d}.json"]))
        for object_id, mask in own.items():
            drawn = np.zeros(SIZE, bool)
            for one in loaded.shapes:
                if one["group_id"] == object_id:
                    assert one["label"] == LABELS[object_id]
                    drawn |= shape.shape_to_mask(SIZE, one["points"], one["shape_type"])
            np.testing.assert_array_equal(drawn, mask)


def test_datumaro_reads_the_boxes_of_cvat(tmp_path):
    datumaro = library("datumaro")
    path = written(video(), "cvat-boxes", tmp_path)["annotations.xml"]
    found = {
        (int(item.attributes["frame"]), int(box.attributes["track_id"])): box.get_bbox()
        for item in datumaro.Dataset.import_from(str(path), "cvat")
        for box in item.annotations
        if not box.attributes.get("outside")
    }
    assert found.keys() == content_of(video()).keys()
    for key, one in content_of(video()).items():
        np.testing.assert_allclose(found[key], one.box)


def test_numpy_loads_the_archive(tmp_path):
    with np.load(written(video(), "numpy", tmp_path)["masks.npz"], allow_pickle=False) as arrays:
        assert arrays["frames"].tolist() == [2, 3, 4, 5, 6]
        assert arrays["labels"].tolist() == list(LABELS.values())
        for number, own in enumerate(shapes().values()):
            for row, object_id in enumerate(arrays["object_ids"].tolist()):
                mask = own.get(object_id, np.zeros(SIZE, bool))
                np.testing.assert_array_equal(arrays["masks"][number, row], mask)
                assert (arrays["boxes"][number, row, 2] > 0) == mask.any()


# ------------------------------------------------------------------------------------------------------------ polygons


@pytest.mark.parametrize("density", [0.03, 0.5, 0.97])
def test_any_mask_is_drawn_exactly_from_its_polygons(density):
    mask = np.random.default_rng(1).random((30, 40)) < density
    polygons = polygons_of_mask(mask)
    assert all(len(polygon) >= 3 for polygon in polygons)
    drawn = np.zeros(mask.shape, bool)
    for polygon in polygons:
        drawn |= mask_of_polygons([np.ravel(polygon).tolist()], mask.shape, "a mask")
    np.testing.assert_array_equal(drawn, mask)
    assert polygons_of_mask(np.zeros((4, 4), bool)) == []


# ------------------------------------------------------------------------------------------------------------- prompts


def test_prompts_are_the_masks_of_the_tracked_frames():
    made = prompts_of(video(), SIZE, range(3, 6))
    assert sorted(made.prompts) == [3, 4, 5] and sorted(made.prompts[4]) == [1]
    np.testing.assert_array_equal(made.prompts[3][3].mask, shapes()[3][3])
    assert made.labels == LABELS
    assert made.left_out == 4


def test_prompts_of_many_frames_are_spread_evenly():
    masks = {index: {1: np.ones(SIZE, bool)} for index in range(100)}
    made = prompts_of(video(masks), SIZE, range(200), most=3)
    assert sorted(made.prompts) == [0, 50, 99] and made.left_out == 97
    assert len(prompts_of(video(masks), SIZE, range(200), most=0).prompts) == 100


def test_annotations_of_a_smaller_size_are_scaled_and_those_of_another_shape_refused():
    made = prompts_of(video(), (96, 128), range(10))
    assert made.prompts[2][1].mask.shape == (96, 128)
    assert made.prompts[2][1].mask.sum() == 4 * shapes()[2][1].sum()
    with pytest.raises(AnnotationError, match="for 64x48 pixels and the video has 96x96"):
        prompts_of(video(), (96, 96), range(10))


def test_frames_are_found_by_name():
    frames = [AnnotatedFrame(-1, name, [Annotation(1, (1, 2, 3, 4))]) for name in ("f20", "f30")]
    media = AnnotatedMedia.of_frames("it", SIZE, frames)
    made = prompts_of(media, SIZE, range(4), lambda index: f"f{index}0")
    assert {frame: tuple(own[1].box) for frame, own in made.prompts.items()} == {2: (1, 2, 4, 6), 3: (1, 2, 4, 6)}
    with pytest.raises(AnnotationError, match="no frame 'f20'"):
        prompts_of(media, SIZE, range(4))


def test_annotations_on_no_tracked_frame_are_refused():
    with pytest.raises(AnnotationError, match="No annotation is on the frames 7 to 8"):
        prompts_of(video(), SIZE, range(7, 9))


# ------------------------------------------------------------------------------------------------------- hostile files


TRACK = '<annotations><track id="1" label="a">{}</track></annotations>'
MASK = '<mask frame="0" outside="0" keyframe="1" rle="{}" left="{}" top="0" width="2" height="2"/>'
ENTITIES = '<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>'
COCO = {"images": [{"id": 1, "width": 64, "height": 48, "file_name": "a.jpg"}], "categories": []}
HOSTILE = {
    "empty.json": b"",
    "no.json": b"[1, 2]",
    "deep.json": b"[" * 100_000,
    "binary.json": bytes(range(256)),
    "number.json": b"7",
    "none.json": json.dumps({**COCO, "annotations": []}).encode(),
    "rle.json": json.dumps(
        {**COCO, "annotations": [{"image_id": 1, "segmentation": {"size": [48, 64], "counts": "~~~"}}]}
    ).encode(),
    "large.json": json.dumps(
        {**COCO, "annotations": [{"image_id": 1, "segmentation": {"size": [10**9, 10**9], "counts": [10**18]}}]}
    ).encode(),
    "far.json": json.dumps({**COCO, "annotations": [{"image_id": 1, "segmentation": [[0, 0, 1e300, 0, 5]]}]}).encode(),
    "bool.json": json.dumps({**COCO, "annotations": [{"image_id": 1, "bbox": [True, 0, 1, 1]}]}).encode(),
    "nan.json": json.dumps({**COCO, "annotations": [{"image_id": 1, "bbox": [float("nan"), 0, 1, 1]}]}).encode(),
    "vis.json": json.dumps({"videos": [], "annotations": [{"segmentations": [None]}]}).encode(),
    "studio.json": json.dumps(
        [{"data": {}, "predictions": [{"result": [{"type": "brushlabels", "value": {"rle": [255] * 100}}]}]}]
    ).encode(),
    "me.json": json.dumps(
        {"imageHeight": 4, "imageWidth": 4, "shapes": [{"label": "a", "points": [[0, 0], [1e308, 0]]}]}
    ).encode(),
    "paint.json": json.dumps(
        {
            "imageHeight": 4,
            "imageWidth": 4,
            "shapes": [{"label": "a", "shape_type": "mask", "mask": "AAAA", "points": [[0, 0], [3, 3]]}],
        }
    ).encode(),
    "own.json": b'{\n"video": {"name": "a", "width": 4, "height": 4},\n"frames": [\n{"frame": -1}\n]}\n',
    "entities.xml": ENTITIES.encode(),
    "external.xml": b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>',
    "html.xml": b"<html/>",
    "cut.xml": b"<annotations><track",
    "nothing.xml": b"<annotations/>",
    "mask.xml": TRACK.format(MASK.format("1, 2", 0)).encode(),
    "outside.xml": TRACK.format(MASK.format("0, 4", 63)).encode(),
    "text.xml": TRACK.format(MASK.format("a", 0)).encode(),
    "box.xml": TRACK.format('<box frame="0" keyframe="1" xtl="nan" ytl="0" xbr="1" ybr="1"/>').encode(),
    "frame.xml": TRACK.format('<box frame="-1" keyframe="1"/>').encode(),
    "points.xml": TRACK.format('<polygon frame="0" keyframe="1" points="1,2;inf,3;4,5"/>').encode(),
    "words.txt": b"one,two\n",
    "zero.txt": b"0,1,1,1,1,1,1,-1,-1,-1\n",
    "detections.txt": b"1,-1,1,1,1,1,1,-1,-1,-1\n",
    "mots.txt": b"1 1 1 48 64 abc\n",
    "binary.txt": bytes(range(128, 256)),
    "empty.txt": b"",
    "zip.npz": b"PK\x03\x04 no archive",
    "picture.gif": b"GIF89a",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_gets_one_clear_error(name, tmp_path):
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(ValueError) as raised:
        read_annotations(tmp_path / name, "clip", SIZE)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 600
    assert isinstance(raised.value, AnnotationError), message


@pytest.mark.parametrize(
    ("array", "values"),
    [
        ("frames", np.array([0, 10**9])),
        ("frames", np.array([object()])),
        ("object_ids", np.array([1, 1])),
        ("object_ids", np.array([[1]])),
        ("masks", np.zeros((1, 2, 3), bool)),
        ("masks", np.zeros((1, 2, 3, 3), np.int8)),
        ("scores", np.full((2, 2), np.nan, np.float32)),
    ],
)
def test_a_hostile_array_gets_one_clear_error(array, values, tmp_path):
    arrays = {"frames": np.arange(2), "object_ids": np.array([1, 2]), "masks": np.ones((2, 2, 3, 3), bool)}
    np.savez(tmp_path / "a.npz", allow_pickle=True, **{**arrays, array: values})
    with pytest.raises(AnnotationError):
        read_annotations(tmp_path / "a.npz", "clip", SIZE)


def test_an_array_that_claims_to_be_large_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("frames.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (2**60,)})
    with pytest.raises(AnnotationError, match="'frames' must have 1 axes"):
        read_annotations(tmp_path / "a.npz", "clip", SIZE)


def test_annotations_that_are_missing_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder of annotations"):
        read_annotations(tmp_path / "gone.json", "clip", SIZE)
    with pytest.raises(AnnotationError, match="has no annotations that can be read"):
        read_annotations(tmp_path, "clip", SIZE)
