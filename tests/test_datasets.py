"""Every published layout gives the same records and the same table, and what is wrong with a dataset is said by file.

The trees are written here, small, in each layout; each has a square that moves one pixel a frame over noise. Where the
repository has real data beside it (``../shared``), DAVIS and the annotations of SA-V are read too.
"""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import (
    HEIGHT,
    TREES,
    WIDTH,
    coco_tree,
    davis_tree,
    folder_tree,
    labels,
    sa1b_tree,
    sav_train_tree,
    sav_val_tree,
    square,
    write_frame,
    write_json,
    write_labels,
    write_mp4,
    youtube_tree,
)
from PIL import Image

from efficienttam_hf.data.checking import check_dataset
from efficienttam_hf.data.loading import load_records, load_video_dataset, records_of
from efficienttam_hf.data.records import VideoRecord
from efficienttam_hf.data.run_lengths import area_of, run_lengths_of
from efficienttam_hf.data.schema import DatasetError, video_features
from efficienttam_hf.mask_io import decode_rle, encode_rle
from efficienttam_hf.video_io import VideoError
from efficienttam_hf.video_writer import VideoWriter


datasets = pytest.importorskip("datasets", reason="tables of videos need the datasets library")
pytest.importorskip("pycocotools", reason="run-length masks need pycocotools")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path_factory):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def areas(record: VideoRecord) -> dict[int, dict[int, int]]:
    return {i: record.objects_in(i) for i in record.annotated_frames}


# --------------------------------------------------------------------------------------------------- layouts to records


def test_davis_2016_has_one_object_and_2017_has_its_palette_indices(tmp_path):
    old = load_records("davis2016", davis_tree(tmp_path / "16", 2016), "train")[0]
    assert areas(old) == {i: {1: 36} for i in range(4)}
    assert (old.masks(2)[1] == square(2)).all()

    new = load_records("davis2017", davis_tree(tmp_path / "17"), "train")[0]
    assert new.object_ids == [1, 2] and new.fps == 24 and new.split == "train"
    assert (new.masks(3)[2] == square(3, top=12)).all()

    merged = load_records("davis2016", tmp_path / "17", None)[0]
    assert areas(merged)[0] == {1: 72}, "the 2016 task over masks of 2017 takes all objects as one"


def test_davis_splits_are_its_lists_in_their_order(tmp_path):
    root = davis_tree(tmp_path, videos=("x", "z", "a"))
    assert load_records("davis2017", root, "val").names == ["z", "a"]
    assert load_records("davis2017", root).names == ["a", "x", "z"]
    paths = [f"/JPEGImages/480p/z/{i:05d}.jpg /Annotations/480p/z/{i:05d}.png" for i in range(3)]
    (root / "ImageSets/480p").mkdir()
    (root / "ImageSets/480p/val.txt").write_text("\n".join(paths))
    assert load_records("davis2016", root, "val").names == ["z"], "as the archive of 2016 lists them"


def test_void_pixels_are_no_object(tmp_path):
    root = davis_tree(tmp_path)
    image = labels(0)
    image[20:] = 255
    write_labels(root / "Annotations/480p/bear/00000.png", image)
    record = load_records("davis2017", root, "train")[0]
    assert record.object_ids == [1, 2]
    assert record.void(0).sum() == 4 * WIDTH and record.void(1) is None


@pytest.mark.parametrize("kind", ["youtube_vos2018", "youtube_vos2019", "mose", "lvos"])
def test_youtube_vos_frames_are_counted_whatever_their_numbers_and_objects_appear_late(kind, tmp_path):
    record = load_records(kind, TREES[kind][0](tmp_path), "train")[0]
    assert record.num_frames == 4 and record.annotated_frames == [0, 1, 2, 3]
    assert areas(record) == {0: {1: 36}, 1: {1: 36}, 2: {1: 36, 2: 36}, 3: {1: 36, 2: 36}}
    assert record.categories == {1: "dog", 2: "cat"} and record.complete
    assert abs(int(record.frame(2)[..., 0].mean()) - 40) < 5


def test_first_masks_are_not_taken_for_absence(tmp_path):
    record = load_records("youtube_vos2019", youtube_tree(tmp_path), "valid")[0]
    assert record.annotated_frames == [0, 2] and not record.complete
    problems = check_dataset(load_records("youtube_vos2019", tmp_path, "valid"))
    assert len(problems) == 1 and "first masks only" in problems[0]


def test_mose_unpacked_without_a_folder_for_its_split(tmp_path):
    youtube_tree(tmp_path)
    assert load_records("mose", tmp_path / "train").names == ["0a1b"]


def test_sav_train_is_annotated_at_every_fourth_frame_of_a_video(tmp_path):
    record = load_records("sav_train", sav_train_tree(tmp_path))[0]
    assert record.num_frames == 9 and record.annotated_frames == [0, 4, 8] and record.size == (HEIGHT, WIDTH)
    assert areas(record) == {0: {1: 36}, 4: {1: 36, 2: 36}, 8: {1: 36, 2: 36}}, "an empty mask is an absent object"
    assert (record.masks(8)[2] == square(2, top=6)).all()
    assert [abs(int(record.frame(i).mean()) - 20 * i) < 6 for i in (8, 0, 5)] == [True] * 3, "in any order"


def test_sav_masklets_automatic_ones_are_numbered_after_manual_ones(tmp_path):
    sav_train_tree(tmp_path)
    assert areas(load_records("sav_train", tmp_path, masklets="auto")[0])[0] == {1: 36}
    both = load_records("sav_train", tmp_path, masklets="both")[0]
    assert areas(both)[4] == {1: 36, 2: 36, 3: 36} and (both.masks(4)[3] == square(1, top=12)).all()


def test_sav_frames_that_were_not_judged_for_every_object_are_left_out(tmp_path):
    masks = [[encode_rle(square(i)), None if i == 1 else encode_rle(square(i))] for i in range(3)]
    record = load_records("sav_train", sav_train_tree(tmp_path, masklet=masks))[0]
    assert record.annotated_frames == [0, 8]


def test_sav_val_has_a_folder_for_each_object(tmp_path):
    record = load_records("sav_val", sav_val_tree(tmp_path))[0]
    assert record.num_frames == 9 and record.annotated_frames == [0, 4, 8]
    assert areas(record) == {0: {1: 36}, 4: {1: 36, 2: 36}, 8: {1: 36}}
    assert (record.masks(4)[2] & record.masks(4)[1]).sum() == 30, "objects may overlap"


def test_sa1b_images_are_videos_of_one_frame(tmp_path):
    record = load_records("sa1b", sa1b_tree(tmp_path))[0]
    assert record.num_frames == 1 and areas(record) == {0: {1: 36, 2: 36}}, "neither empty masks nor whole images"
    assert areas(load_records("sa1b", tmp_path, max_area=1.0)[0])[0][2] == HEIGHT * WIDTH
    assert areas(load_records("sa1b", tmp_path, min_stability=0.92)[0]) == {0: {1: 36}}


def test_coco_polygons_run_lengths_and_crowds(tmp_path):
    records = load_records("coco", coco_tree(tmp_path), "train2017")
    assert records.names == ["000000000000"], "an image without annotations trains nothing"
    record = records[0]
    assert areas(record) == {0: {1: 36, 2: 36}} and record.categories == {1: "dog", 2: "person"}
    assert record.masks(0)[1][2:8, 4:10].all()
    assert record.void(0)[:, :2].all() and record.void(0).sum() == 2 * HEIGHT


@pytest.mark.parametrize(("frames", "masks"), [("frames", "masks"), ("JPEGImages", "Annotations")])
def test_a_folder_of_your_own(frames, masks, tmp_path):
    records = load_records("folder", folder_tree(tmp_path, frames, masks), fps=10.0, licence="mine")
    assert records.names == ["a", "b"]
    assert records[0].annotated_frames == [0, 2] and records[0].object_ids == [1, 2]
    assert records[0].fps == 10.0 and records[0].licence == "mine"


def test_a_folder_of_one_video(tmp_path):
    folder_tree(tmp_path / "all", videos=("a",))
    one = tmp_path / "one"
    shutil.copytree(tmp_path / "all/frames/a", one / "frames")
    shutil.copytree(tmp_path / "all/masks/a", one / "masks")
    records = load_records("folder", one)
    assert records.names == ["one"] and records[0].annotated_frames == [0, 2]


def test_a_folder_of_video_files(tmp_path):
    write_mp4(tmp_path / "frames/clip.mp4", 5)
    write_labels(tmp_path / "masks/clip/00003.png", labels(3))
    record = load_records("folder", tmp_path)[0]
    assert record.num_frames == 5 and record.annotated_frames == [3]
    assert abs(int(record.frame(3).mean()) - 60) < 6


def test_a_folder_with_splits(tmp_path):
    folder_tree(tmp_path)
    (tmp_path / "val.txt").write_text("b\n")
    assert load_records("folder", tmp_path, "val").names == ["b"]
    folder_tree(tmp_path / "train", videos=("c",))
    assert load_records("folder", tmp_path, "train").names == ["c"]


@pytest.mark.parametrize("palette", [True, False])
def test_masks_of_0_and_255_are_one_object(palette, tmp_path):
    folder_tree(tmp_path, videos=("a",))
    for i in (0, 2):
        write_labels(tmp_path / f"masks/a/{i:05d}.png", 255 * square(i).astype(np.uint8), palette)
    assert areas(load_records("folder", tmp_path, binary=True)[0]) == {0: {1: 36}, 2: {1: 36}}
    if not palette:
        assert areas(load_records("folder", tmp_path)[0]) == {0: {1: 36}, 2: {1: 36}}


# -------------------------------------------------------------------------------------------------------- the sequences


def test_videos_are_chosen_and_left_out_by_name(tmp_path):
    root = davis_tree(tmp_path, videos=("a", "b", "c"))
    assert load_records("davis2017", root, videos=["c", "a"]).names == ["c", "a"]
    assert load_records("davis2017", root, exclude=["b"]).names == ["a", "c"]
    with pytest.raises(DatasetError, match="no video nope"):
        load_records("davis2017", root, videos=["nope"])


@pytest.mark.parametrize("kind", list(TREES))
def test_records_are_lazy_and_picklable(kind, tmp_path, monkeypatch):
    write, split = TREES[kind]
    root = write(tmp_path / "data")
    expected = areas(load_records(kind, root, split)[0])

    def decoded(*arguments, **options):
        raise AssertionError("an image was decoded")

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", decoded)
        records = load_records(kind, root, split)
        record = records[0]
        assert record.annotated_frames == list(expected) and record.num_frames > 0
    for copy in (pickle.loads(pickle.dumps(records))[0], pickle.loads(pickle.dumps(record))):
        assert areas(copy) == expected
        assert copy.frame(0).shape == (HEIGHT, WIDTH, 3)


def test_two_videos_at_once_need_one_open_decoder(tmp_path):
    for name in ("x", "y"):
        write_mp4(tmp_path / f"frames/{name}.mp4", 4)
        write_labels(tmp_path / f"masks/{name}/00000.png", labels(0))
    records = load_records("folder", tmp_path)

    x, y = records[0], records[1]
    for i in range(4):
        assert (x.frame(i) == y.frame(i)).all()
    opened = [link.resolve() for link in Path("/proc/self/fd").glob("*") if link.exists()]  # nothing but on Linux
    assert sum(file.is_relative_to(tmp_path) for file in opened) <= 1


# ----------------------------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize("kind", list(TREES))
def test_the_table_has_the_documented_columns_and_the_same_masks(kind, tmp_path):
    write, split = TREES[kind]
    root = write(tmp_path / "data")
    records = load_records(kind, root, split)
    for table in (load_video_dataset(kind, root, split), load_video_dataset(kind, root, split, streaming=True)):
        assert table.features == video_features()
        row = next(iter(table))
        assert row["video_id"] == records[0].video_id and row["source"] == kind
        assert (row["height"], row["width"]) == (HEIGHT, WIDTH) and row["num_frames"] == records[0].num_frames
        assert [a["frame_index"] for a in row["annotations"]] == records[0].annotated_frames
        assert [o["object_id"] for o in row["objects"]] == records[0].object_ids
        assert bool(row["frames"]) != bool(row["video"])
        back = VideoRecord.from_row(row)
        for i in records[0].annotated_frames:
            assert back.masks(i).keys() == records[0].masks(i).keys()
            assert all((back.masks(i)[k] == mask).all() for k, mask in records[0].masks(i).items())
            assert (back.void(i) is None) == (records[0].void(i) is None)
            assert back.void(i) is None or (back.void(i) == records[0].void(i)).all()
        assert (back.frame(0) == records[0].frame(0)).all()
        assert back.categories == records[0].categories


def test_a_table_follows_changed_masks_and_is_kept_otherwise(tmp_path):
    root = folder_tree(tmp_path / "data", videos=("a",))
    first = load_video_dataset("folder", root)
    assert load_video_dataset("folder", root)._fingerprint == first._fingerprint
    write_labels(root / "masks/a/00000.png", labels(0, ids=(1, 7)))
    assert [o["object_id"] for o in load_video_dataset("folder", root)[0]["objects"]] == [1, 2, 7]


@pytest.mark.parametrize("kind", ["davis2017", "sav_train"])
@pytest.mark.parametrize("form", ["disk", "parquet"])
def test_a_saved_table_needs_no_original_files(kind, form, tmp_path, monkeypatch):
    from datasets.table import embed_table_storage

    write, split = TREES[kind]
    root = write(tmp_path / "data")
    original = load_records(kind, root, split)[0]
    frames = [original.frame(i) for i in (0, 3)]
    monkeypatch.chdir(root)
    table = load_video_dataset(kind, ".", split)
    if form == "disk":
        table.save_to_disk(tmp_path / "saved")
    else:  # what push_to_hub does with each shard
        embedded = table.with_format("arrow").map(embed_table_storage, batched=True, keep_in_memory=True)
        embedded.with_format(None).to_parquet(tmp_path / "saved.parquet")
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(root)
    if form == "disk":
        loaded = datasets.load_from_disk(tmp_path / "saved")
    else:
        loaded = datasets.Dataset.from_parquet(str(tmp_path / "saved.parquet"), keep_in_memory=True)
    assert loaded.features == video_features()
    record = records_of(loaded)[0]
    assert all((record.frame(i) == frame).all() for i, frame in zip((0, 3), frames, strict=True))
    assert (record.masks(0)[1] == square(0, top=2 if kind == "davis2017" else 4)).all()


def test_streams_are_divided_among_processes_shuffled_and_resumed(tmp_path):
    from datasets.distributed import split_dataset_by_node

    root = davis_tree(tmp_path, videos=tuple("abcdef"), frames=1)
    stream = load_video_dataset("davis2017", root, streaming=True)
    assert stream.num_shards == 6
    parts = [[row["video_id"] for row in split_dataset_by_node(stream, rank, 2)] for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == list("abcdef") and len(parts[0]) == 3

    shuffled = [row["video_id"] for row in stream.shuffle(seed=1, buffer_size=1)]
    assert sorted(shuffled) == list("abcdef") and shuffled != list("abcdef")
    assert shuffled == [row["video_id"] for row in stream.shuffle(seed=1, buffer_size=1)]

    iterator = iter(stream)
    seen = [next(iterator)["video_id"] for _ in range(2)]
    fresh = load_video_dataset("davis2017", root, streaming=True)
    fresh.load_state_dict(stream.state_dict())
    assert seen + [row["video_id"] for row in fresh] == list("abcdef")


def test_tables_are_sharded_and_made_by_several_processes(tmp_path):
    root = davis_tree(tmp_path, videos=tuple("abcd"), frames=1)
    table = load_video_dataset("davis2017", root, num_proc=2)
    assert table["video_id"] == list("abcd")
    assert table.shard(2, 1)["video_id"] == list("cd")


def test_a_table_of_something_else_is_refused():
    with pytest.raises(DatasetError, match="lacks the columns annotations"):
        records_of(datasets.Dataset.from_dict({"video_id": ["x"]}))


# ---------------------------------------------------------------------------------------------------------- run lengths


def test_areas_are_read_from_run_lengths(tmp_path):
    rng = np.random.default_rng(0)
    for density in (0.0, 0.01, 0.3, 0.5, 0.99, 1.0):
        for size in ((1, 1), (3, 200), (90, 41)):
            mask = rng.random(size) < density
            for segmentation in (encode_rle(mask), encode_rle(mask) | {"counts": encode_rle(mask)["counts"].encode()}):
                rle, area = run_lengths_of(segmentation, size, "it")
                assert area == area_of(rle) == mask.sum() and (decode_rle(rle) == mask).all()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 6], "counts": "52203"}, "6x4 pixels, but its frame of 5x4"),
        ({"size": [4, 5], "counts": "52203"}, "add up to 16 pixels, but 5x4 are 20"),
        ({"size": [4, 5], "counts": ""}, "empty, cut short"),
        ({"size": [4, 5], "counts": "!"}, "characters of no meaning"),
        ({"size": [4, 5], "counts": [3, 16]}, "add up to 19"),
        ({"size": [4, 5]}, "not a COCO run-length mask"),
        ({"size": 4, "counts": "d0"}, "not a COCO run-length mask"),
        ("nothing", "not a COCO run-length mask"),
        ([[0, 0, 1]], "not a list of polygons"),
        ([["x", 0, 1, 1, 2, 2]], "not a list of polygons"),
    ],
)
def test_run_lengths_that_do_not_fit_are_refused(segmentation, message):
    with pytest.raises(DatasetError, match=message) as caught:
        run_lengths_of(segmentation, (4, 5), "the mask of object 3 in x.json")
    assert "the mask of object 3 in x.json" in str(caught.value)


# ------------------------------------------------------------------------------------------------------------ bad input


def test_an_unknown_kind_or_option_lists_those_there_are(tmp_path):
    with pytest.raises(DatasetError, match="no kind of dataset 'davis'; there are davis2016, davis2017"):
        load_records("davis", tmp_path)
    with pytest.raises(DatasetError, match="no option fsp; it has binary, fps, licence"):
        load_records("folder", folder_tree(tmp_path), fsp=3)
    with pytest.raises(DatasetError, match="no option year; it has resolution"):
        load_records("davis2016", tmp_path, year=2017)


@pytest.mark.parametrize("kind", list(TREES))
def test_a_missing_or_an_empty_root_is_named(kind, tmp_path):
    with pytest.raises(DatasetError, match="nowhere' does not exist"):
        load_records(kind, tmp_path / "nowhere", TREES[kind][1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty"):
        load_records(kind, tmp_path / "empty", TREES[kind][1])


def test_a_root_that_is_a_level_off_says_which_is_right(tmp_path):
    davis_tree(tmp_path / "DAVIS")
    with pytest.raises(DatasetError, match=r"no folder 'JPEGImages/480p'. It holds DAVIS/.*one level down.*/DAVIS'"):
        load_records("davis2017", tmp_path, "train")
    with pytest.raises(DatasetError, match="further up: give '.*/DAVIS'"):
        load_records("davis2017", tmp_path / "DAVIS" / "JPEGImages", "train")


def test_an_unknown_split_lists_those_there_are(tmp_path):
    with pytest.raises(DatasetError, match="no split 'test' in .*: train, val"):
        load_records("davis2017", davis_tree(tmp_path / "d"), "test")
    with pytest.raises(DatasetError, match="No split was given; .* holds: train, valid"):
        load_records("mose", youtube_tree(tmp_path / "m"))
    with pytest.raises(DatasetError, match="COCO needs a split; .*: train2017"):
        load_records("coco", coco_tree(tmp_path / "c"))


def test_a_split_that_names_a_video_that_is_not_there(tmp_path):
    root = davis_tree(tmp_path)
    (root / "ImageSets/2017/train.txt").write_text("bear\nwhale\n")
    with pytest.raises(DatasetError, match="train.txt' names whale, which .*JPEGImages/480p' does not have"):
        load_records("davis2017", root, "train")


def damage_frame(root: Path, how: str) -> tuple[Path, str]:
    """Spoil frame 2 of video a, or a mask; the file and what should be said of it."""
    frame, mask = root / "frames/a/00002.jpg", root / "masks/a/00002.png"
    if how == "missing":
        frame.unlink()
        return frame, "Missing: 00002.jpg"
    if how == "cut short":
        frame.write_bytes(frame.read_bytes()[:400])
        return frame, "cut short|truncated"
    if how == "empty file":
        frame.write_bytes(b"")
        return frame, "0 bytes"
    if how == "other size":
        write_frame(frame, 2, (HEIGHT, WIDTH + 8))
        return frame, "40x24 pixels, but the video 'a' is 32x24"
    if how == "mask of other size":
        write_labels(mask, np.zeros((HEIGHT // 2, WIDTH), np.uint8))
        return mask, "32x12 pixels, but its frame .*32x24"
    if how == "mask cut short":
        write_labels(mask, np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH), dtype=np.uint8))
        mask.write_bytes(mask.read_bytes()[:-60])
        return mask, "cut short|truncated"
    assert how == "ids over 255"
    for i in (0, 2):
        Image.fromarray(300 * labels(i).astype(np.uint16)).save(root / f"masks/a/{i:05d}.png")
    return root / "masks/a/00000.png", "labels from 0 to 600"


@pytest.mark.parametrize(
    "how",
    ["missing", "cut short", "empty file", "other size", "mask of other size", "mask cut short", "ids over 255"],
)
def test_damage_is_found_before_a_run_and_named_while_reading(how, tmp_path):
    root = folder_tree(tmp_path)
    assert check_dataset(load_records("folder", root)) == []
    file, said = damage_frame(root, how)
    (problem,) = check_dataset(load_records("folder", root))
    assert (file.name if how == "missing" else str(file)) in problem

    with pytest.raises(DatasetError, match=said) as caught:
        record = load_records("folder", root)[0]
        for i in record.annotated_frames:
            record.masks(i)
        record.frame(2)
    assert file.name in str(caught.value)


def test_a_mask_without_a_frame_is_named(tmp_path):
    root = folder_tree(tmp_path)
    write_labels(root / "masks/a/00009.png", labels(0))
    with pytest.raises(DatasetError, match="00009.png' has no frame: .* no image numbered 9"):
        load_records("folder", root)[0]


def test_a_mask_beyond_the_end_of_a_video_file_is_found(tmp_path):
    write_mp4(tmp_path / "frames/clip.mp4", 3)
    write_labels(tmp_path / "masks/clip/00007.png", labels(0))
    (problem,) = check_dataset(load_records("folder", tmp_path))
    assert "00007.png' is of frame 7, but 'clip' has 3 frames" in problem


def test_a_video_without_masks_or_without_objects_is_found(tmp_path):
    root = folder_tree(tmp_path, videos=("a", "b", "c"))
    shutil.rmtree(root / "masks/a")
    for i in (0, 2):
        write_labels(root / f"masks/b/{i:05d}.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    problems = check_dataset(load_records("folder", root))
    assert len(problems) == 2
    assert "no folder of masks" in problems[0] and "masks/a" in problems[0]
    assert "'b' of folder has no object" in problems[1]
    assert len(check_dataset(load_records("folder", root), max_problems=1)) == 1


def test_damage_stops_the_making_of_a_table_with_the_file_named(tmp_path):
    root = folder_tree(tmp_path)
    file, said = damage_frame(root, "mask of other size")
    with pytest.raises(DatasetError, match=said):
        load_video_dataset("folder", root)


def test_broken_json_is_named(tmp_path):
    root = sav_train_tree(tmp_path / "v")
    file = root / "sav_000/sav_000001_manual.json"
    whole = file.read_text()
    for text, said in [(whole[:-30], "not JSON"), ('{"masklet": []}', "not an annotation of SA-V"), ("[]", "SA-V")]:
        file.write_text(text)
        with pytest.raises(DatasetError, match=said) as caught:
            load_records("sav_train", root)[0]
        assert str(file) in str(caught.value)
    (coco_tree(tmp_path / "c") / "annotations/instances_train2017.json").write_text('{"images": []}')
    with pytest.raises(DatasetError, match="not a file of COCO instances"):
        load_records("coco", tmp_path / "c", "train2017")
    write_json(youtube_tree(tmp_path / "y") / "train/meta.json", {"videos": ["0a1b"]})
    with pytest.raises(DatasetError, match="no table of videos"):
        load_records("youtube_vos2019", tmp_path / "y", "train")


def test_sav_without_its_video_or_with_too_short_a_one(tmp_path):
    root = sav_train_tree(tmp_path)
    write_mp4(root / "sav_000/sav_000001.mp4", 5)
    with pytest.raises(DatasetError, match="frame 8 of '.*sav_000001.mp4' cannot be read"):
        load_records("sav_train", root)[0].frame(8)
    assert any("5" in problem for problem in check_dataset(load_records("sav_train", root)))
    (root / "sav_000/sav_000001.mp4").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="sav_000001.mp4' cannot be read"):
        load_records("sav_train", root)[0].frame(0)
    (root / "sav_000/sav_000001.mp4").unlink()
    (problem,) = check_dataset(load_records("sav_train", root))
    assert "no video" in problem and "sav_000001_manual.json" in problem


def test_sav_masks_that_do_not_fit(tmp_path):
    small = encode_rle(np.ones((HEIGHT, WIDTH - 1), bool))
    root = sav_train_tree(tmp_path / "a", masklet=[[small]])
    (problem,) = check_dataset(load_records("sav_train", root))
    assert "object 1" in problem and "sav_000001_manual.json" in problem and "31x24" in problem and "32x24" in problem
    root = sav_train_tree(tmp_path / "b", masklet=[[encode_rle(square(0))]] * 4)
    with pytest.raises(DatasetError, match="annotates 4 frames, every 4th, which a video of 9 does not have"):
        load_records("sav_train", root)[0]


def test_objects_of_sav_val_have_numbers(tmp_path):
    root = sav_val_tree(tmp_path)
    (root / "Annotations_6fps/sav_7/dog").mkdir()
    with pytest.raises(DatasetError, match="dog' is not a folder of an object"):
        load_records("sav_val", root)[0]


def test_frames_that_are_not_there_or_not_annotated(tmp_path):
    record = load_records("folder", folder_tree(tmp_path))[0]
    with pytest.raises(IndexError, match="Frame 4 is outside .*0 to 3"):
        record.frame(4)
    with pytest.raises(IndexError, match="Frame 1 .* is not annotated"):
        record.masks(1)


# ------------------------------------------------------------------------------------------------------------ real data


@pytest.mark.skipif(not (SHARED / "DAVIS").is_dir(), reason="no DAVIS beside the repository")
def test_real_davis():
    records = load_records("davis2016", SHARED / "DAVIS", "val")
    assert len(records) == 8 and check_dataset(records) == []
    for record in records:
        assert record.size == (480, 854) and record.annotated_frames == list(range(record.num_frames))
        assert record.objects_in(0).keys() == {1}
    row = load_video_dataset("davis2016", SHARED / "DAVIS", videos=["libby"])[0]
    libby = next(record for record in records if record.video_id == "libby")
    assert len(row["frames"]) == libby.num_frames == len(row["annotations"]) == 49
    assert (VideoRecord.from_row(row).masks(20)[1] == libby.masks(20)[1]).all()


@pytest.mark.skipif(not (SHARED / "sav").is_dir(), reason="no annotations of SA-V beside the repository")
def test_real_sav_annotations_lack_their_video():
    (problem,) = check_dataset(load_records("sav_train", SHARED / "sav"))
    assert "no video" in problem and "sav_000001.mp4" in problem


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "sav").is_dir(), reason="no annotations of SA-V beside the repository")
def test_real_sav_annotations_with_a_video_of_their_size(tmp_path):
    for file in (SHARED / "sav").glob("*.json"):
        shutil.copy(file, tmp_path)
    with VideoWriter(tmp_path / "sav_000001.mp4", 24, 480, 848, crf=40) as writer:
        for i in range(483):
            writer.write(np.full((848, 480, 3), i // 2, dtype=np.uint8))
    record = load_records("sav_train", tmp_path, masklets="both")[0]
    assert record.num_frames == 483 and len(record.annotated_frames) == 121 and record.annotated_frames[-1] == 480
    assert len(record.object_ids) == 14 and check_dataset(load_records("sav_train", tmp_path)) == []
    assert 4 not in record.objects_in(0), "manual masklet 3 appears late"
    assert record.masks(480)[2].shape == record.frame(480).shape[:2] == (848, 480)
    row = load_video_dataset("sav_train", tmp_path)[0]
    assert row["video"]["path"].endswith("sav_000001.mp4") and len(row["annotations"]) == 121


@pytest.mark.parametrize("counts", [[3, 2], [30, 40], "0", "13"])
def test_runs_that_do_not_fill_their_size_are_no_mask(counts):
    with pytest.raises(VideoError, match="run-length mask"):
        decode_rle({"size": [5, 6], "counts": counts})
