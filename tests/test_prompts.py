"""Prompts from any source: one form, checked and scaled once, and none changed by what is beside it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from reference import tiny_config
from torch._subclasses.fake_tensor import FakeTensorMode

from efficienttam_hf import (
    EfficientTamModel,
    EfficientTamProcessor,
    EfficientTamVideoModel,
    EfficientTamVideoProcessor,
)
from efficienttam_hf.export.arrays import masks_at_size, resize
from efficienttam_hf.processing_efficienttam import _resize_mask
from efficienttam_hf.prompt_calls import read_masks
from efficienttam_hf.prompts import (
    Box,
    ObjectPrompts,
    check_mask,
    covered_cells,
    mask_for_network,
    prompts_as_json,
    prompts_from_json,
    scaled_prompts,
)


HEIGHT, WIDTH = 60, 80
RESIZERS = {"torch": _resize_mask, "NumPy": partial(resize, antialias=True)}


@pytest.fixture(scope="module")
def image_model() -> EfficientTamModel:
    """A small model whose masks vary, since all its weights are drawn."""
    torch.manual_seed(0)
    model = EfficientTamModel(tiny_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model


@pytest.fixture(scope="module")
def image_processor(image_model) -> EfficientTamProcessor:
    return EfficientTamProcessor.from_config(image_model.config)


def make_image(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@torch.no_grad()
def segmented(model, processor, images, **prompts):
    """The model's output for prompts on images, with several proposals."""
    inputs = processor(images=images, return_tensors="pt", **prompts)
    return model(**{name: value for name, value in inputs.items() if name != "original_sizes"})


# ------------------------------------------------------------ prompts beside other prompts

POINTS = [[[30, 20]], [[10, 10], [20, 50], [70, 15], [40, 40]], [[60, 30], [50, 50]]]
LABELS = [[1], [1, 0, 0, 1], [1, 0]]
BOXES = [[5, 5, 50, 40], [20, 10, 70, 55], [1, 2, 30, 30]]


def assert_each_is_as_alone(model, processor, prompts: dict[str, list]) -> None:
    image = make_image()
    together = segmented(model, processor, image, **{name: [values] for name, values in prompts.items()})
    assert together.pred_masks.std() > 0.05
    for row in range(len(next(iter(prompts.values())))):
        own = {name: [[values[row]]] for name, values in prompts.items()}
        if own.get("input_points") == [[[]]]:
            own = {"input_boxes": own["input_boxes"]}
        alone = segmented(model, processor, image, **own)
        for name in ("pred_masks", "iou_scores", "object_score_logits"):
            torch.testing.assert_close(together[name][0, row], alone[name][0, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "prompts",
    [
        {"input_points": POINTS, "input_labels": LABELS},
        {"input_points": POINTS, "input_labels": LABELS, "input_boxes": BOXES},
        {"input_points": [[], POINTS[0], POINTS[1]], "input_labels": [[], LABELS[0], LABELS[1]], "input_boxes": BOXES},
        {"input_points": [[], POINTS[0]], "input_labels": [[], LABELS[0]], "input_boxes": BOXES[:2]},
    ],
    ids=["points", "points and boxes", "boxes with and without points", "a box without the single point"],
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_prompt_gives_what_it_gives_alone(image_model, image_processor, prompts, attention):
    image_model.set_attn_implementation(attention)
    assert_each_is_as_alone(image_model, image_processor, prompts)
    image_model.set_attn_implementation("sdpa")


def test_a_prompt_does_not_depend_on_those_of_other_images(image_model, image_processor):
    images = [make_image(0), make_image(1, 50, 70)]
    both = segmented(
        image_model,
        image_processor,
        images,
        input_points=[[POINTS[0]], [POINTS[2], POINTS[2]]],
        input_labels=[[LABELS[0]], [LABELS[2], LABELS[2]]],
    )
    alone = segmented(image_model, image_processor, images[0], input_points=[[POINTS[0]]], input_labels=[[LABELS[0]]])
    torch.testing.assert_close(both.pred_masks[0, 0], alone.pred_masks[0, 0], atol=1e-4, rtol=1e-4)


def test_points_without_labels_are_positive_and_padding_is_none(image_model, image_processor):
    inputs = image_processor(images=make_image(), input_points=[POINTS], return_tensors="pt")
    assert inputs["input_labels"].tolist() == [[[1, -10, -10, -10], [1, 1, 1, 1], [1, 1, -10, -10]]]


@torch.no_grad()
def test_a_previous_mask_is_refined_alike_with_padding(image_model, image_processor):
    inputs = image_processor(
        images=make_image(), input_points=[POINTS[:1]], input_labels=[LABELS[:1]], return_tensors="pt"
    )
    inputs.pop("original_sizes")
    mask = torch.randn(1, 1, *image_model.prompt_encoder.mask_input_size, generator=torch.Generator().manual_seed(0))
    alone = image_model(**inputs, input_masks=mask)
    inputs["input_points"] = torch.nn.functional.pad(inputs["input_points"], (0, 0, 0, 3), value=-10)
    inputs["input_labels"] = torch.nn.functional.pad(inputs["input_labels"], (0, 3), value=-10)
    torch.testing.assert_close(
        image_model(**inputs, input_masks=mask).pred_masks, alone.pred_masks, atol=1e-4, rtol=1e-4
    )


# ------------------------------------------------------------ any nesting, or an error


def nestings(value):
    """The same prompts as lists, tuples, arrays, tensors and mixtures of them."""

    def tuples(part):
        return tuple(tuples(item) for item in part) if isinstance(part, list) else part

    return {
        "tuples": tuples(value),
        "an array": np.array(value),
        "a tensor": torch.tensor(value, dtype=torch.bfloat16),
        "a list of tensors": [torch.tensor(part) for part in value],
        "a tuple of lists of arrays": tuple([np.array(item) for item in part] for part in value),
        "numbers of NumPy": np.array(value, dtype=object).tolist(),
    }


@pytest.mark.parametrize("kind", nestings([[[0]]]))
def test_any_nesting_of_the_right_depth_is_read(image_processor, processor, kind):
    given = {"input_points": [[[[20, 40], [60, 30]]]], "input_labels": [[[1, 0]]], "input_boxes": [[[20, 40, 60, 50]]]}
    nested = {name: nestings(value)[kind] for name, value in given.items()}
    expected = image_processor(images=make_image(), return_tensors="pt", **given)
    inputs = image_processor(images=make_image(), return_tensors="pt", **nested)
    for name in given:
        torch.testing.assert_close(inputs[name], expected[name])
    sessions = [processor.init_video_session(video=[make_image()]) for _ in range(2)]
    for session, prompts in zip(sessions, (given, nested), strict=True):
        processor.add_inputs_to_inference_session(session, 0, 1, **prompts)
    points, expected_points = (session.objects[1].prompts[0].points for session in sessions)
    assert points.shape == (1, 4, 2)
    torch.testing.assert_close(points, expected_points)


@pytest.mark.parametrize(
    "prompts",
    [
        {"input_boxes": ((20, 40, 60, 50),)},
        {"input_boxes": (((20, 40, 60),),)},
        {"input_points": ((((20, "x"),),),), "input_labels": (((1,),),)},
        {"input_points": "points", "input_labels": [[[1]]]},
        {"input_points": [[[[[20, 40]]]]], "input_labels": [[[1]]]},
        {"input_points": [[[[20, 40]]]], "input_labels": [[[0.5]]]},
        {"input_points": [[[[20, 40]]], [[[20, 40]]]], "input_labels": [[[1]], [[1]]]},
        {"input_points": [[[[20, 40]]]], "input_labels": [[[3]]]},
        {"input_points": [[[[20, 40], [30, 50]]]], "input_labels": [[[2, 3]]], "input_boxes": [[[20, 40, 60, 50]]]},
    ],
)
def test_anything_else_is_an_error_and_changes_nothing(image_processor, processor, prompts):
    with pytest.raises(ValueError):
        image_processor(images=make_image(), return_tensors="pt", **prompts)
    session = processor.init_video_session(video=[make_image()])
    with pytest.raises(ValueError):
        processor.add_inputs_to_inference_session(session, 0, 1, **prompts)
    assert session.obj_ids == []


def test_corners_as_labelled_points_are_a_box(processor):
    session = processor.init_video_session(video=[make_image()])
    processor.add_inputs_to_inference_session(session, 0, 1, input_boxes=[[[5, 5, 50, 40]]])
    processor.add_inputs_to_inference_session(
        session, 0, 2, input_points=[[[[5, 5], [50, 40]]]], input_labels=[[[2, 3]]]
    )
    box, corners = (session.objects[i].prompts[0] for i in (1, 2))
    assert torch.equal(box.points, corners.points) and torch.equal(box.labels, corners.labels)


# ------------------------------------------------------------ masks


def mask_kinds() -> dict:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:40, 20:60] = True
    return {
        "bool": mask,
        "0 and 255": mask.astype(np.uint8) * 255,
        "PIL, L": Image.fromarray(mask.astype(np.uint8) * 255),
        "PIL, 1": Image.fromarray(mask),
        "bfloat16": torch.from_numpy(mask).bfloat16(),
        "float16": torch.from_numpy(mask).half()[None, None],
        "rows of numbers": mask.astype(int).tolist(),
        "a tuple of one": (mask,),
        "a list of one PIL image": [Image.fromarray(mask)],
    }


@pytest.mark.parametrize("kind", mask_kinds())
def test_masks_of_any_kind_are_prompts(processor, kind):
    session = processor.init_video_session(video=[make_image()])
    for object_id, name in ((1, "bool"), (2, kind)):
        processor.add_inputs_to_inference_session(session, 0, object_id, input_masks=mask_kinds()[name])
    assert torch.equal(session.objects[1].prompts[0].mask, session.objects[2].prompts[0].mask)


def test_a_mask_of_numbers_below_zero_is_refused():
    with pytest.raises(ValueError, match="The mask has values below 0: give True or a number above 0"):
        check_mask(np.array([[-1, 0], [0, -1]]), None)


def test_masks_of_several_objects_come_as_lists_tuples_and_arrays():
    masks = [np.ones((4, 5)), np.zeros((4, 5))]
    for given in (masks, tuple(masks), np.stack(masks), np.stack(masks)[:, None], torch.ones(2, 4, 5)):
        assert [np.squeeze(mask).shape for mask in read_masks(given, 2)] == [(4, 5), (4, 5)]
    with pytest.raises(ValueError, match=r"ids \(3\) does not match number of masks \(2\)"):
        read_masks(masks, 3)


@pytest.mark.parametrize("resizer", RESIZERS)
@pytest.mark.parametrize(
    ("size", "where"),
    [
        ((1080, 1920), np.s_[100:1000, 901:903]),
        ((1080, 1920), np.s_[500:502, 10:1900]),
        ((2160, 3840), np.s_[1003:1011, 2005:2013]),
        ((2160, 3840), np.s_[0:1, 0:1]),
        ((512, 512), np.s_[100:101, 100:101]),
    ],
    ids=["2 px wide in 1080p", "2 px high in 1080p", "8x8 px in 4K", "a pixel in a corner of 4K", "no resizing"],
)
def test_a_thin_or_tiny_mask_keeps_the_cells_that_it_covers(size, where, resizer):
    mask = np.zeros(size, bool)
    mask[where] = True
    prompt = mask_for_network(mask, (512, 512), RESIZERS[resizer])
    decoded = RESIZERS[resizer](prompt, (128, 128)) > 0.5  # as the model makes its output of a mask prompt
    np.testing.assert_array_equal(decoded, covered_cells(mask, (128, 128)))
    rows, columns = np.nonzero(decoded)
    expected_rows, expected_columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    assert rows.min() == expected_rows[0] * 128 // size[0] and rows.max() == expected_rows[-1] * 128 // size[0]
    assert columns.min() == expected_columns[0] * 128 // size[1]
    assert columns.max() == expected_columns[-1] * 128 // size[1]


def test_an_ordinary_mask_is_resized_as_published():
    mask = np.zeros((90, 120), bool)
    mask[20:70, 30:80] = True
    expected = _resize_mask(mask.astype(np.float32), (64, 64)) >= 0.5
    np.testing.assert_array_equal(mask_for_network(mask, (64, 64), _resize_mask), expected)


@torch.no_grad()
def test_an_object_prompted_by_a_thin_mask_is_there(model, processor):
    mask = np.zeros((1080, 1920), bool)
    mask[:, 928:930] = True  # within a cell, not on its edge, where the resized mask is at its threshold
    session = processor.init_video_session(video=[make_image(0, 1080, 1920)])
    processor.add_inputs_to_inference_session(session, 0, 1, input_masks=mask)
    output = model(session, frame_idx=0)
    assert output.object_score_logits.item() > 0
    (found,) = processor.post_process_masks([output.pred_masks], [mask.shape])
    assert found[0, 0][torch.from_numpy(mask)].float().mean() > 0.9


# ------------------------------------------------------------ one form, one JSON


def test_prompts_are_scaled_there_and_back():
    mask = np.zeros((100, 200), bool)
    mask[:, 101:102] = True
    prompts = {3: {1: ObjectPrompts([(20.0, 10.0)], [1], Box(10, 5, 40, 50)), 2: ObjectPrompts(mask=mask)}}
    half = scaled_prompts(prompts, (100, 200), (25, 50))
    assert half[3][1].points == [(5.0, 2.5)] and half[3][1].box == (2.5, 1.25, 10, 12.5)
    assert half[3][2].mask.shape == (25, 50) and half[3][2].mask[:, 25].all(), "a thin mask is kept"
    back = scaled_prompts({3: {1: half[3][1]}}, (25, 50), (100, 200))
    assert back[3][1] == prompts[3][1]


def test_prompts_are_read_from_the_json_that_is_written():
    prompts = {
        0: {1: ObjectPrompts([(1.5, 2.0), (3.0, 4.0)], [1, 0])},
        4: {1: ObjectPrompts(box=Box(1, 2, 3, 4)), 2: ObjectPrompts([(5.0, 6.0)], [1], Box(1, 2, 9, 9))},
    }
    assert prompts_from_json(prompts_as_json(prompts)) == prompts
    assert prompts_from_json([{"id": 1, "prompts": [{"frame": 0, "points": [[1, 2]]}]}]) == {
        0: {1: ObjectPrompts([(1.0, 2.0)], [1])}
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "list of objects, got dict"),
        ([{"prompts": []}], '"id" of item 0'),
        ([{"id": "1", "prompts": []}], "whole number, got '1'"),
        ([{"id": 1}], '"prompts"'),
        ([{"id": 1, "prompts": [{"points": [[1, 2]]}]}], '"frame"'),
        ([{"id": 1, "prompts": [{"frame": 0, "points": [[1, 2, 3]]}]}], "points of object 1 on frame 0"),
        ([{"id": 1, "prompts": [{"frame": 0, "points": [[1, 2]], "labels": ["a"]}]}], "labels of object 1 on frame 0"),
        ([{"id": 1, "prompts": [{"frame": 0, "box": [1, 2, 3]}]}], "box of object 1 on frame 0"),
        ([{"id": 1, "prompts": [{"frame": 0, "mask": True}]}], "a mask, which JSON prompts cannot contain"),
        ([{"id": 1, "prompts": [{"frame": 0}, {"frame": 0}]}], "two prompts of object 1 on frame 0"),
    ],
)
def test_json_of_another_form_is_named_by_its_field(given, message):
    with pytest.raises(ValueError, match=message):
        prompts_from_json(given)


@pytest.mark.parametrize("label", [2, 3, -1, -10, 7])
def test_a_label_of_an_object_is_1_or_0(label):
    with pytest.raises(ValueError, match=f"Label {label} for object 3.*Accepted are 1 .a positive point.*and 0"):
        ObjectPrompts([(1.0, 2.0)], [label]).check((HEIGHT, WIDTH), " for object 3")


# ------------------------------------------------------------ Sam2's public methods


def test_the_public_methods_of_sam2_add_prompts(model, processor):
    sessions = [processor.init_video_session(video=[make_image()] * 2) for _ in range(2)]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:40, 20:60] = True
    points = {"input_points": [[[[30, 20]], [[60, 40]]]], "input_labels": [[[1], [1]]]}
    for session in sessions:
        assert session.obj_ids == []
    processor.add_inputs_to_inference_session(sessions[0], 0, [1, 2], **points)
    processor.add_inputs_to_inference_session(sessions[0], 1, 3, input_masks=mask)
    processor.process_new_points_or_boxes_for_video_frame(sessions[1], 0, [1, 2], **points)
    processor.process_new_mask_for_video_frame(sessions[1], 1, [3], mask)
    for session in sessions:
        assert session.obj_with_new_inputs == [1, 2, 3]
    for a, b in zip(*(model.propagate_in_video_iterator(session) for session in sessions), strict=True):
        torch.testing.assert_close(a.pred_masks, b.pred_masks)
    before = {i: sorted(obj.prompts) for i, obj in sessions[1].objects.items()}
    with pytest.raises(ValueError, match="outside the frame"):
        processor.process_new_points_or_boxes_for_video_frame(sessions[1], 1, [4], [[[[300, 20]]]], [[[1]]])
    with pytest.raises(ValueError, match="the frame is 80x60: resize"):
        processor.process_new_mask_for_video_frame(sessions[1], 1, [4], np.ones((3, 3)))
    assert {i: sorted(obj.prompts) for i, obj in sessions[1].objects.items()} == before


# ------------------------------------------------------------ masks and sizes


@pytest.mark.parametrize("sizes", [1, 2, 4])
def test_masks_and_sizes_come_in_equal_numbers(processor, sizes):
    masks = [torch.zeros(1, 1, 8, 8)] * 3
    for post_process, given in ((processor.post_process_masks, masks), (masks_at_size, [m.numpy() for m in masks])):
        with pytest.raises(ValueError, match=f"masks of 3 images, but {sizes} original sizes"):
            post_process(given, [(20, 30)] * sizes)
        assert len(post_process(given, [(20, 30)] * 3)) == 3


# ------------------------------------------------------------ images of floats


def float_images() -> dict:
    image = make_image()
    return {
        "float64": image / 255,
        "float32, channels first": (image / 255).astype(np.float32).transpose(2, 0, 1),
        "tensor": torch.from_numpy(image / 255).permute(2, 0, 1),
        "half": (image / 255).astype(np.float16),
        "a list": [image / 255],
        "a batch of one": (image / 255)[None],
        "a tensor batch": torch.from_numpy(image / 255).permute(2, 0, 1)[None],
    }


@pytest.mark.parametrize("kind", float_images())
def test_images_of_floats_give_the_pixels_of_bytes(image_processor, kind):
    expected = image_processor(images=make_image(), return_tensors="pt")
    inputs = image_processor(images=float_images()[kind], return_tensors="pt")
    torch.testing.assert_close(inputs["pixel_values"], expected["pixel_values"])
    assert inputs["original_sizes"].tolist() == [[HEIGHT, WIDTH]]


def test_arrays_that_pytorch_cannot_share_are_read_without_a_word(image_processor, processor, recwarn):
    read_only = make_image()
    read_only.flags.writeable = False
    expected = image_processor(images=make_image(), return_tensors="pt")["pixel_values"]
    mirrored = make_image()[:, ::-1].copy()[:, ::-1]
    for image in (read_only, mirrored):
        torch.testing.assert_close(image_processor(images=image, return_tensors="pt")["pixel_values"], expected)
        processor.process_frame(image)
    assert not [str(warning.message) for warning in recwarn if "writable" in str(warning.message)]


def test_videos_of_floats_give_the_pixels_of_bytes():
    processor = EfficientTamVideoProcessor.from_config(tiny_config()).video_processor
    frames = np.stack([make_image(0), make_image(1)])
    expected = processor(videos=frames, return_tensors="pt")["pixel_values_videos"]
    floats = frames / 255
    for video in (floats, [floats], list(floats), torch.from_numpy(floats).permute(0, 3, 1, 2), floats[None]):
        torch.testing.assert_close(processor(videos=video, return_tensors="pt")["pixel_values_videos"], expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (make_image().astype(np.float32), r"\[0, 1\].*[Dd]ivide"),
        (make_image().astype(np.int32), "int32"),
        (np.zeros((3, 80, 3), np.uint8), "ambiguous"),
        (np.zeros((60, 80, 2), np.uint8), "shape"),
    ],
)
def test_an_image_that_could_be_read_in_two_ways_is_refused_everywhere(image_processor, processor, image, message):
    for call in (
        lambda: image_processor(images=image, return_tensors="pt"),
        lambda: processor.process_frame(image),
        lambda: processor.video_processor(videos=[[image, image]], return_tensors="pt"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_pixels_that_are_not_to_be_rescaled_are_left(image_processor):
    image = make_image() / 255
    ours = image_processor(images=image, do_rescale=False, do_normalize=False, do_resize=False, return_tensors="pt")
    np.testing.assert_allclose(ours["pixel_values"][0].permute(1, 2, 0).numpy(), image, atol=1e-6)


def test_the_order_of_channels_can_be_said(image_processor):
    image = np.zeros((3, 80, 3), np.uint8)
    assert image_processor(images=image, input_data_format="channels_first", return_tensors="pt")[
        "original_sizes"
    ].tolist() == [[80, 3]]
    assert image_processor(images=image, input_data_format="channels_last", return_tensors="pt")[
        "original_sizes"
    ].tolist() == [[3, 80]]


def test_a_stream_reads_frames_of_floats_as_images(model, processor):
    assert isinstance(model, EfficientTamVideoModel)
    image = make_image()
    masks = []
    for frame in (image, image / 255, torch.from_numpy(image / 255).permute(2, 0, 1)):
        session = processor.init_video_session()
        processor.add_inputs_to_inference_session(
            session, 0, 1, input_points=[[[[30, 20]]]], input_labels=[[[1]]], original_size=(HEIGHT, WIDTH)
        )
        masks.append(model(inference_session=session, frame=frame).pred_masks)
    for other in masks[1:]:
        torch.testing.assert_close(other, masks[0])


def test_padding_added_to_a_session_directly_is_left_out(processor):
    session = processor.init_video_session(video=[make_image()])
    points, labels = torch.tensor([[[[30.0, 20.0], [-10.0, -10.0]]]]), torch.tensor([[[1, -10]]])
    session.add_point_inputs(session.obj_id_to_idx(1), 0, {"point_coords": points, "point_labels": labels})
    prompts = session.objects[1].prompts[0]
    assert prompts.points.tolist() == [[[30.0, 20.0]]] and prompts.labels.tolist() == [[1]]


def test_prompts_without_numbers_are_decoded(image_model):
    """As when the memory of a training step is computed without running it."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        labels = torch.ones(1, 2, 3, dtype=torch.int64)
        padding = image_model.prompt_encoder.padded_tokens(labels, None)
    assert padding.shape == (1, 2, 4)
    assert image_model.prompt_encoder.padded_tokens(torch.ones(1, 2, 3, dtype=torch.int64), None) is None
