"""Pseudo-labels: what a teacher draws becomes masks and tracks that training reads, and what is doubtful does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from script_files import load_script

from efficienttam_hf import EfficientTamConfig, EfficientTamModel, EfficientTamVideoProcessor
from efficienttam_hf.cli import main
from efficienttam_hf.data.checking import check_dataset
from efficienttam_hf.data.loading import load_records
from efficienttam_hf.data.pseudo_labels import labelling, saliency
from efficienttam_hf.data.pseudo_labels.labelling import (
    LabellingOptions,
    find_media,
    label_folder,
    load_teacher,
    read_prompts,
)
from efficienttam_hf.data.pseudo_labels.proposals import (
    ObjectMask,
    ProposalOptions,
    box_prompts,
    mark_parts,
    mask_iou,
    propose_objects,
)
from efficienttam_hf.data.pseudo_labels.saliency import SaliencyProposer
from efficienttam_hf.data.pseudo_labels.teachers import Prompt, Teacher, TeacherMask, View, low_resolution_mask_prompt
from efficienttam_hf.data.pseudo_labels.tracks import ClipFrames, Track, TrackOptions, track_clip
from efficienttam_hf.data.pseudo_labels.writing import remove_objects, split_into_layers, write_labels
from efficienttam_hf.data.schema import DatasetError
from efficienttam_hf.mask_io import write_indexed_png
from efficienttam_hf.output_folders import LIST_NAME, OutputFolder
from efficienttam_hf.prompts import Box, ObjectPrompts


HEIGHT, WIDTH = 96, 160


def box_mask(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


class ScriptedTeacher(Teacher):
    """Knows the objects of every picture: it draws the one that a prompt overlaps with most, or else the ground."""

    name = "scripted"

    def __init__(self, scenes: list[tuple[np.ndarray, list[np.ndarray]]], iou: float = 0.95) -> None:
        self.objects = {image.tobytes(): masks for image, masks in scenes}
        self.iou, self.looks = iou, 0

    def look_at(self, image: np.ndarray) -> View:
        self.looks += 1
        return ScriptedView(self.objects[image.tobytes()], self.iou)


class ScriptedView(View):
    def __init__(self, masks: list[np.ndarray], iou: float) -> None:
        self.masks, self.iou = masks, iou

    def segment(self, prompt: Prompt) -> list[TeacherMask]:
        if prompt.mask is not None:
            asked = [mask_iou(mask, prompt.mask) for mask in self.masks]
        else:
            x, y = prompt.points[0].astype(int)
            asked = [float(mask[y, x]) for mask in self.masks]
        if not asked or max(asked) == 0:
            return [TeacherMask(np.ones((HEIGHT, WIDTH), bool), 0.95, 0.95)]
        return [TeacherMask(self.masks[int(np.argmax(asked))], self.iou, 0.95)]


def moving_scene(num_frames: int = 8, hidden: range = range(0)) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Two textured squares over a textured ground, one moving to the right; it is not there in the `hidden` frames."""
    rng = np.random.default_rng(0)

    def texture(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
        coarse = rng.integers(0, 120, (height // 4, width // 4, 1)).repeat(4, 0).repeat(4, 1)
        return (np.array(colour) + coarse).clip(0, 255).astype(np.uint8)

    ground, mover, still = (
        texture(HEIGHT, WIDTH, (20, 60, 20)),
        texture(32, 32, (130, 30, 30)),
        texture(24, 24, (30, 30, 130)),
    )
    scenes = []
    for frame in range(num_frames):
        left = 16 + 4 * frame
        image, masks = ground.copy(), [box_mask(120, 60, 144, 84)]
        image[60:84, 120:144] = still
        if frame not in hidden:
            image[16:48, left : left + 32] = mover
            masks.append(box_mask(left, 16, left + 32, 48))
        scenes.append((image, masks))
    return scenes


def follow(scenes: list[tuple[np.ndarray, list[np.ndarray]]], **options) -> list[Track]:
    clip = ClipFrames([image for image, _ in scenes])
    return track_clip(clip, ScriptedTeacher(scenes), ProposalOptions(grid=10), TrackOptions(**options))


# ------------------------------------------------------------------------------------------------------- photographs


def test_every_object_is_proposed_once_and_the_ground_not_at_all():
    scene = moving_scene(1)
    view = ScriptedTeacher(scene).look_at(scene[0][0])
    found = propose_objects(view, (HEIGHT, WIDTH), ProposalOptions(grid=10))
    assert sorted(int(p.mask.sum()) for p in found) == [24 * 24, 32 * 32]


@pytest.mark.parametrize("options", [{"min_iou": 0.97}, {"min_stability": 0.97}, {"area": (0.2, 0.5)}])
def test_masks_that_the_teacher_doubts_or_of_another_size_are_no_proposals(options):
    scene = moving_scene(1)
    view = ScriptedTeacher(scene).look_at(scene[0][0])
    assert propose_objects(view, (HEIGHT, WIDTH), ProposalOptions(grid=10, **options)) == []


def test_a_mask_within_another_is_its_part_and_comes_after_it():
    part, whole = ObjectMask(box_mask(20, 20, 30, 30), 0.99, 1.0), ObjectMask(box_mask(10, 10, 60, 60), 0.9, 1.0)
    assert [p.part_of for p in mark_parts([part, whole], 0.85)] == [None, 0]
    assert mark_parts([part, whole], 0.85)[0] is whole


def test_regions_become_boxes_around_them_with_a_click_inside():
    regions = np.zeros((24, 40), bool)  # a quarter of the picture's size
    regions[4:12, 4:12] = regions[16:20, 30:34] = True
    large, small = box_prompts(regions, (HEIGHT, WIDTH))
    assert large.box == pytest.approx((14.4, 14.4, 49.6, 49.6)) and small.box[0] == pytest.approx(119.2)
    for prompt in (large, small):
        x, y = prompt.points[0]
        assert regions[int(y / 4), int(x / 4)]


# -------------------------------------------------------------------------------------------------------------- clips


def test_objects_are_followed_from_the_first_frame_to_the_last_the_moving_one_first():
    scenes = moving_scene()
    tracks = follow(scenes)
    assert [sorted(track.masks) for track in tracks] == [list(range(8))] * 2
    for frame, (_, (still, mover)) in enumerate(scenes):
        np.testing.assert_array_equal(tracks[0].masks[frame], mover)
        np.testing.assert_array_equal(tracks[1].masks[frame], still)
    assert tracks[0].agreement == 1.0


def test_objects_are_followed_backwards_from_a_later_seed():
    scenes = moving_scene()
    clip = ClipFrames([image for image, _ in scenes])
    tracks = track_clip(clip, ScriptedTeacher(scenes), ProposalOptions(grid=10), TrackOptions(), seed_frames=(5,))
    assert sorted(tracks[0].masks) == list(range(8))


def test_frames_between_the_labelled_ones_help_the_flow():
    scenes = moving_scene(15)
    clip = ClipFrames([image for image, _ in scenes[::2]], [[image] for image, _ in scenes[1::2]])
    tracks = track_clip(clip, ScriptedTeacher(scenes), ProposalOptions(grid=10), TrackOptions())
    np.testing.assert_array_equal(tracks[0].masks[7], scenes[14][1][1])


def test_where_an_object_cannot_be_found_it_is_unknown():
    tracks = follow(moving_scene(hidden=range(5, 7)))
    mover = next(track for track in tracks if track.masks[0].sum() == 32 * 32)
    assert not {5, 6} & set(mover.masks) and {0, 1, 2, 3, 4} <= set(mover.masks)


def test_a_track_that_does_not_come_back_to_its_seed_is_cut_before_it_went_astray():
    scenes = moving_scene()
    for frame in range(4, 8):  # the teacher takes something else to be the object from here on
        left = 16 + 4 * frame
        scenes[frame][1][1] = box_mask(left + 6, 16, left + 40, 56)
    mover = next(track for track in follow(scenes) if track.masks[0].sum() == 32 * 32)
    assert set(mover.masks) <= set(range(4)) and len(mover.masks) >= 3


def test_tracks_that_are_known_on_too_few_frames_are_left_out():
    tracks = follow(moving_scene(hidden=range(3, 8)), min_frames=6)
    assert [track.masks[0].sum() for track in tracks] == [24 * 24]


# ------------------------------------------------------------------------------------------------------------ writing


def test_what_is_written_is_a_dataset_that_knows_the_gaps(tmp_path):
    scenes = moving_scene(hidden=range(5, 7))
    tracks = follow(scenes)
    write_labels(OutputFolder(tmp_path), "clip", [image for image, _ in scenes], tracks, {"teacher": "scripted"})
    records = load_records("folder", tmp_path)
    assert check_dataset(records) == []
    by_name = {record.video_id: record for record in records}
    # The object without gaps and the one with some do not share a video, in which unknown would mean absent.
    assert sorted(by_name) == ["clip", "clip-2"]
    assert by_name["clip"].annotated_frames == list(range(8))
    assert not {5, 6} & set(by_name["clip-2"].annotated_frames)
    assert by_name["clip-2"].num_frames == 8
    np.testing.assert_array_equal(by_name["clip-2"].masks(0)[1], scenes[0][1][1])
    assert (tmp_path / "sheets" / "clip.jpg").is_file()
    notes = json.loads((tmp_path / "labels" / "clip.json").read_text())
    assert notes["teacher"] == "scripted" and notes["objects"]["1"]["kind"] == "whole"


def test_a_part_does_not_make_a_hole_in_its_whole(tmp_path):
    whole, part = box_mask(10, 10, 60, 60), box_mask(20, 20, 30, 30)
    tracks = [Track({0: whole}, 0.9, 0.9, 1.0), Track({0: part}, 0.9, 0.9, 1.0, part_of=0)]
    assert split_into_layers(tracks) == [[0], [1]]
    write_labels(OutputFolder(tmp_path), "photo", [moving_scene(1)[0][0]], tracks, {})
    masks = [record.masks(0)[1] for record in load_records("folder", tmp_path)]
    np.testing.assert_array_equal(masks[0], whole)
    np.testing.assert_array_equal(masks[1], part)


def test_objects_and_videos_that_do_not_look_right_are_removed(tmp_path):
    scenes = moving_scene()
    write_labels(OutputFolder(tmp_path), "clip", [image for image, _ in scenes], follow(scenes), {})
    remove_objects(tmp_path, ["clip:1"])
    assert load_records("folder", tmp_path)[0].object_ids == [2]
    with pytest.raises(DatasetError, match="no object '1'; it has 2"):
        remove_objects(tmp_path, ["clip:1"])
    remove_objects(tmp_path, ["clip"])
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [LIST_NAME]
    with pytest.raises(DatasetError, match="no labels of a video 'clip'"):
        remove_objects(tmp_path, ["clip"])


@pytest.mark.parametrize("chosen", ["clip", "clip:1"])
@pytest.mark.parametrize("place", ["frames/clip/thesis.txt", "masks/clip/mine.png"])
def test_what_is_not_ours_is_neither_removed_nor_changed(tmp_path, chosen, place):
    scenes = moving_scene()
    write_labels(OutputFolder(tmp_path), "clip", [image for image, _ in scenes], follow(scenes), {})
    (tmp_path / place).write_text("years of work")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=f"{Path(place).name}' was not written by efficienttam"):
        remove_objects(tmp_path, [chosen])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_names_that_lead_elsewhere_and_damaged_notes_are_refused(tmp_path):
    root = tmp_path / "labels_of_mine"
    (tmp_path / "other.json").write_text('{"objects": {"1": {}}}')
    (root / "labels").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no labels of a video"):
        remove_objects(root, ["../../other"])
    for content in ("[" * 200_000, '{"objects": 3}', "[]", "{"):
        (root / "labels" / "clip.json").write_text(content)
        with pytest.raises(DatasetError, match=r"clip\.json'"):
            remove_objects(root, ["clip"])


# ------------------------------------------------------------------------------------------------------------ folders


@pytest.fixture
def media(tmp_path):
    """A folder with a photograph and a clip of frames, and the scripted teacher that knows them."""
    scenes = moving_scene(6)
    folder = tmp_path / "media"
    (folder / "clip").mkdir(parents=True)
    Image.fromarray(scenes[0][0]).save(folder / "photo.png")
    for number, (image, _) in enumerate(scenes):
        Image.fromarray(image).save(folder / "clip" / f"{number:03d}.png")
    return folder, ScriptedTeacher(scenes)


OPTIONS = LabellingOptions(fps=24, proposals=ProposalOptions(grid=10))


def test_a_folder_of_photographs_and_clips_is_labelled_and_a_second_run_goes_on(media, tmp_path):
    folder, teacher = media
    assert [path.name for path in find_media(folder)] == ["clip", "photo.png"]
    results = list(label_folder(folder, tmp_path / "labels", teacher, OPTIONS))
    assert [(result.videos, result.objects) for result in results] == [(["clip"], 2), (["photo"], 2)]
    records = load_records("folder", tmp_path / "labels")
    assert check_dataset(records) == [] and [len(record.annotated_frames) for record in records] == [6, 1]

    looks = teacher.looks
    again = list(label_folder(folder, tmp_path / "labels", teacher, OPTIONS))
    assert teacher.looks == looks and all(result.is_known for result in again)


def test_a_damaged_list_of_labels_is_named(media, tmp_path):
    folder, teacher = media
    notes = tmp_path / "labels" / "pseudo_labels.json"
    notes.parent.mkdir()
    for content in ("{", "[]", '{"teacher": "scripted", "files": {"photo": {"videos": 3}}}'):
        notes.write_text(content)
        with pytest.raises(DatasetError, match=r"pseudo_labels\.json'"):
            list(label_folder(folder, tmp_path / "labels", teacher, OPTIONS))


def test_labels_of_two_teachers_are_not_mixed(media, tmp_path):
    folder, teacher = media
    list(label_folder(folder, tmp_path / "labels", teacher, OPTIONS))
    teacher.name = "another"
    with pytest.raises(DatasetError, match="labels of the teacher 'scripted', not of 'another'"):
        list(label_folder(folder, tmp_path / "labels", teacher, OPTIONS))


def test_a_damaged_file_is_reported_and_the_rest_is_labelled(media, tmp_path):
    folder, teacher = media
    (folder / "broken.jpg").write_bytes(b"no picture")
    results = {result.file.name: result for result in label_folder(folder, tmp_path / "labels", teacher, OPTIONS)}
    assert "broken.jpg" in results["broken.jpg"].problem
    assert results["photo.png"].objects == 2


def test_in_a_clip_that_a_person_prompted_their_objects_are_followed_and_no_others(media, tmp_path):
    folder, teacher = media
    file = tmp_path / "prompts.json"
    mover = [{"id": 7, "prompts": [{"frame": 0, "points": [[30, 30]]}]}]
    file.write_text(json.dumps({"clip": mover, "photo.png": mover}))
    prompts = read_prompts(file, folder)
    results = list(label_folder(folder, tmp_path / "labels", teacher, OPTIONS, prompts=prompts))
    assert [(result.file.name, result.objects) for result in results] == [("clip", 1), ("photo.png", 1)]
    (record,) = [record for record in load_records("folder", tmp_path / "labels") if record.video_id == "clip"]
    for frame in record.annotated_frames:
        (mask,) = record.masks(frame).values()
        assert mask_iou(mask, moving_scene(6)[frame][1][1]) > 0.95


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"other.mp4": []}, "'other.mp4', which is not in"),
        ({"clip": {"box": [1, 2, 3, 4]}}, "'clip' in .* cannot be read: The prompts must be a list"),
        ({"clip": [{"id": 1, "prompts": [{"frame": 0, "box": [1, "x", 3, 4]}]}]}, "'clip' in .* cannot be read"),
        (
            {"clip": [{"id": 1, "prompts": [{"frame": 3, "points": [[9, 9]]}]}]},
            r"frames \[3\]. Give prompts",
        ),
        ({"clip": [{"id": 1, "prompts": [{"frame": 0, "points": [[9, 9]], "labels": [0]}]}]}, "negative clicks"),
        ({"clip": []}, r"on frames \[\]. Give prompts on frame 0"),
    ],
)
def test_prompts_of_a_person_that_cannot_be_used_are_named(media, tmp_path, listed, message):
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(listed))
    with pytest.raises(DatasetError, match=message):
        read_prompts(file, media[0])


def test_a_prompt_outside_its_frame_is_a_problem_of_its_clip_alone(media, tmp_path):
    folder, teacher = media
    prompts = {"clip": {1: ObjectPrompts(box=Box(5, 5, 4000, 40))}}
    results = list(label_folder(folder, tmp_path / "labels", teacher, OPTIONS, prompts=prompts))
    assert "4000" in results[0].problem and results[1].objects == 2


def test_folders_without_anything_to_label_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="neither photographs nor clips"):
        find_media(tmp_path)
    with pytest.raises(DatasetError, match="no folder"):
        find_media(tmp_path / "nowhere")


# ----------------------------------------------------------------------------------------------------------- teachers


def tiny_efficienttam(folder):
    config = EfficientTamConfig.from_preset("efficienttam_nano", image_size=64)
    torch.manual_seed(0)
    EfficientTamModel(config).save_pretrained(folder)
    EfficientTamVideoProcessor.from_config(config).save_pretrained(folder)
    return folder


def tiny_sam(folder):
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
            "mlp_dim": 16,
            "num_pos_feats": 4,
            "global_attn_indexes": [0],
            "window_size": 0,
        },
        prompt_encoder_config={"hidden_size": 8, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 8,
            "num_attention_heads": 2,
            "mlp_dim": 16,
            "iou_head_hidden_dim": 8,
            "attention_downsample_rate": 1,
        },
    )
    torch.manual_seed(0)
    SamModel(config).save_pretrained(folder)
    processor = SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16}
    )
    SamProcessor(processor).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("make", [tiny_efficienttam, tiny_sam])
def test_models_of_transformers_kind_are_teachers(make, tmp_path):
    view = load_teacher([str(make(tmp_path / "model"))]).look_at(moving_scene(1)[0][0])
    click = np.array([[40.0, 30.0]])
    clicked = view.segment(Prompt(click))
    assert len(clicked) == 3
    boxed = view.segment(Prompt(click, (16.0, 16.0, 47.0, 47.0), box_mask(16, 16, 48, 48)))
    assert len(boxed) == 1
    for answer in (*clicked, *boxed):
        assert answer.mask.shape == (HEIGHT, WIDTH) and answer.mask.dtype == bool
        assert 0 <= answer.iou <= 1 and 0 <= answer.stability <= 1


def tiny_onnx_pair(folder):
    """An encoder that averages red in cells of four pixels, and a decoder that returns the cells brighter than half.

    Its predicted IoU is the x of the first point over the input size, so that a test sees where points arrive.
    """
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    def save(name, nodes, inputs, outputs, constants=()):
        graph = helper.make_graph(
            nodes,
            name,
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in inputs.items()],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()],
            list(constants),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, folder / f"{name}.onnx")
        return str(folder / f"{name}.onnx")

    integers = {
        "zero": [0],
        "one": [1],
        "axis": [1],
        "axes": [0, 1, 2],
        "from": [0, 0, 0],
        "to": [1, 1, 1],
    }
    constants = [helper.make_tensor(k, TensorProto.INT64, [len(v)], v) for k, v in integers.items()]
    encoder = save(
        "encoder",
        [
            helper.make_node("Slice", ["picture", "zero", "one", "axis"], ["red"]),
            helper.make_node("AveragePool", ["red"], ["embedding"], kernel_shape=[4, 4], strides=[4, 4]),
        ],
        {"picture": [1, 3, 64, 64]},
        {"embedding": [1, 1, 16, 16]},
        constants[:3],
    )
    decoder = save(
        "decoder",
        [
            helper.make_node("Mul", ["image_embeddings", "ten"], ["low_res_masks"]),
            helper.make_node("Slice", ["point_coords", "from", "to", "axes"], ["x"]),
            helper.make_node("Div", ["x", "size"], ["share"]),
            helper.make_node("Squeeze", ["share", "zero"], ["iou_predictions"]),
        ],
        {
            "image_embeddings": [1, 1, 16, 16],
            "point_coords": [1, "points", 2],
            "point_labels": [1, "points"],
            "mask_input": [1, 1, 16, 16],
            "has_mask_input": [1],
        },
        {"low_res_masks": [1, 1, 16, 16], "iou_predictions": [1, 1]},
        [
            *constants,
            helper.make_tensor("ten", TensorProto.FLOAT, [1], [10.0]),
            helper.make_tensor("size", TensorProto.FLOAT, [1], [64.0]),
        ],
    )
    return [encoder, decoder]


def test_a_pair_of_onnx_files_is_a_teacher(tmp_path):
    teacher = load_teacher(tiny_onnx_pair(tmp_path))
    bright = box_mask(80, 32, 160, 96)
    image = np.where(bright[..., None], 250, 10).repeat(3, axis=2).astype(np.uint8)
    (answer,) = teacher.look_at(image).segment(Prompt(np.array([[120.0, 48.0]])))
    # The picture is wider than high: padded below, and the padding is cut off again.
    assert mask_iou(answer.mask, bright) > 0.9
    assert answer.iou == pytest.approx(120 / WIDTH, abs=1e-6)


def tiny_saliency_network(folder):
    """The mean of the three channels as a map, in a file."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["picture"], ["map"], axes=[1], keepdims=1)],
        "brightness",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 1, 32, 32])],
    )
    file = folder / "brightness.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    return str(file)


def test_a_saliency_network_says_where_whole_objects_are(tmp_path):
    propose = SaliencyProposer(tiny_saliency_network(tmp_path))
    bright = box_mask(80, 24, 120, 72)
    image = np.where(bright[..., None], 250, 10).repeat(3, axis=2).astype(np.uint8)
    (prompt,) = propose(image)
    assert prompt.box == pytest.approx((80, 24, 120, 72), abs=5)
    assert propose(np.zeros((HEIGHT, WIDTH, 3), np.uint8)) == []


def test_the_files_of_a_pair_the_wrong_way_round_are_refused(tmp_path):
    encoder, decoder = tiny_onnx_pair(tmp_path)
    with pytest.raises(DatasetError, match="lacks image_embeddings.*encoder first"):
        load_teacher([decoder, encoder])
    with pytest.raises(DatasetError, match="two ONNX files, encoder and decoder"):
        load_teacher([encoder])
    with pytest.raises(DatasetError, match="no ONNX file"):
        load_teacher([encoder, str(tmp_path / "missing.onnx")])


def test_a_mask_prompt_lies_where_the_picture_lies():
    logits = low_resolution_mask_prompt(box_mask(80, 0, 160, 96), 16)[0, 0]
    assert logits.shape == (16, 16)
    assert (logits[:9, 9:] > 0).all() and (logits[:, :7] < 0).all() and (logits[11:] < 0).all()


# ------------------------------------------------------------------------------------------------------- command line


def test_the_command_labels_with_a_model_and_what_it_writes_can_be_trained_on(media, tmp_path, capsys):
    folder, _ = media
    model, labels = tiny_efficienttam(tmp_path / "model"), tmp_path / "labels"
    command = ["pseudo-label", str(folder), "--teacher", str(model), "--output", str(labels), "--grid", "3"]
    # A model with random weights believes in nothing.
    assert main([*command, "--min-score", "0", "--min-stability", "0", "--min-agreement", "0", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "[2/2] photo.png:" in printed and f"finetune {labels}" in printed
    assert json.loads((labels / "pseudo_labels.json").read_text())["teacher"] == str(model)


def test_the_command_limits_threads_and_looks_for_objects_where_it_is_told(media, tmp_path, monkeypatch):
    calls = {}

    def label(folder, output, teacher, options, proposer, prompts):
        calls["seed_every"] = options.seed_every
        return []

    monkeypatch.setattr(labelling, "label_folder", label)
    monkeypatch.setattr(labelling, "load_teacher", lambda names, device, threads: calls.update(teacher=threads))
    monkeypatch.setattr(saliency, "SaliencyProposer", lambda file, threads: calls.update(proposer=threads))
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: calls.update(torch=threads))
    options = ["--threads", "2", "--seed-every", "0", "--proposer", "u2net.onnx", "--output", str(tmp_path / "labels")]
    assert main(["pseudo-label", str(media[0]), "--device", "cpu", *options]) == 0
    assert calls == {"seed_every": 0, "teacher": 2, "proposer": 2, "torch": 2}


def test_the_command_names_what_is_wrong(tmp_path, capsys):
    assert main(["pseudo-label", str(tmp_path), "--device", "cpu"]) == 2
    assert "neither photographs nor clips" in capsys.readouterr().err
    Image.fromarray(moving_scene(1)[0][0]).save(tmp_path / "photo.png")
    assert main(["pseudo-label", str(tmp_path), "--teacher", str(tmp_path / "none"), "--device", "cpu"]) == 2
    assert "neither a pair of ONNX files nor a model" in capsys.readouterr().err
    for option, value in (("--threads", "0"), ("--seed-every", "-1")):
        assert main(["pseudo-label", str(tmp_path), option, value, "--device", "cpu"]) == 2
        assert "at least" in capsys.readouterr().err


# ------------------------------------------------------------------------- training data of the included model


def test_training_data_are_made_of_what_has_a_licence_and_is_not_held_out(tmp_path, monkeypatch):
    script = load_script("build_training_data")
    media, output = tmp_path / "media", tmp_path / "data"
    for folder in ("clips", "photos", "photos_masked/images", "photos_masked/masks"):
        (media / folder).mkdir(parents=True)
    bright = box_mask(40, 24, 100, 72)
    image = Image.fromarray(np.where(bright[..., None], 250, 10).repeat(3, axis=2).astype(np.uint8))
    for name in ("good.png", "etam_dog.png", "unknown.png"):
        image.save(media / "photos" / name)
    image.save(media / "photos_masked" / "images" / "tool.png")
    write_indexed_png(media / "photos_masked" / "masks" / "tool.png", 3 * bright)
    image.save(media / "photos" / "named.png")
    (tmp_path / "objects.json").write_text(
        '{"named.png": [{"id": 1, "prompts": [{"frame": 0, "points": [[70, 48]]}]}], "elsewhere.png": []}'
    )
    rows = ["file,licence", "photos/good.png,CC0", "photos/named.png,CC0", "photos/etam_dog.png,Apache-2.0"]
    (media / "ATTRIBUTION.csv").write_text("\n".join(rows) + "\n")

    teacher, proposer = tiny_onnx_pair(tmp_path), tiny_saliency_network(tmp_path)
    command = ["build_training_data.py", str(media), str(output), "--teacher", *teacher, "--proposer", proposer]
    monkeypatch.setattr("sys.argv", [*command, "--prompts", str(tmp_path / "objects.json")])
    monkeypatch.setattr(script, "OPTIONS", LabellingOptions(proposals=ProposalOptions(min_iou=0, grid=4)))
    script.main()

    assert (output / "SOURCES.csv").read_text().split() == [
        "file,licence",
        "photos/good.png,CC0",
        "photos/named.png,CC0",
    ]
    good, named = load_records("folder", output / "labels")
    assert good.video_id == "good" and mask_iou(good.masks(0)[1], bright) > 0.8
    assert named.video_id == "named" and mask_iou(named.masks(0)[1], bright) > 0.8
    (masked,) = load_records("folder", output / "masked")
    assert masked.video_id == "tool" and np.array_equal(masked.masks(0)[3], bright)
    assert sorted(p.name for p in (output / "ingredients" / "photos").iterdir()) == ["good.jpg", "named.jpg"]
    cutouts = sorted(p.name for p in (output / "ingredients" / "cutouts").iterdir())
    assert cutouts == ["good_1.png", "named_1.png", "tool_3.png"]
    with Image.open(output / "ingredients" / "cutouts" / "tool_3.png") as cutout:
        assert cutout.mode == "RGBA" and cutout.size == (58, 46)  # a pixel smaller on every side
