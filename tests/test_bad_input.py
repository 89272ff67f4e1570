"""What a user can get wrong: one clear error in the user's terms, and the session as it was."""

import numpy as np
import pytest
import torch
from PIL import Image

from efficienttam_hf import EfficientTamProcessor
from efficienttam_hf.images import to_rgb


HEIGHT, WIDTH = 60, 80


@pytest.fixture
def session(model, processor):
    """A session in which object 1 is prompted and tracked for a few frames."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(6)]
    session = processor.init_video_session(video=frames)
    processor.add_inputs_to_inference_session(session, 0, 1, input_points=[[[[30, 20]]]], input_labels=[[[1]]])
    list(model.propagate_in_video_iterator(session, max_frame_num_to_track=2))
    return session


def state(session):
    """All that a failed call must not change."""
    return (
        session.obj_ids,
        session.obj_with_new_inputs,
        {i: sorted(obj.prompts) for i, obj in session.objects.items()},
        {i: (sorted(obj.memory.conditioning), sorted(obj.memory.tracked)) for i, obj in session.objects.items()},
        (session.video_height, session.video_width, session.num_frames),
    )


def full_mask(height=HEIGHT, width=WIDTH):
    return np.ones((height, width), bool)


point = {"input_points": [[[[30, 20]]]], "input_labels": [[[1]]]}
BAD_PROMPTS = {
    "a point outside the frame": (
        {"input_points": [[[[90, 20]]]], "input_labels": [[[1]]]},
        "outside the frame.*80 wide",
    ),
    "a negative coordinate": ({"input_points": [[[[-1, 20]]]], "input_labels": [[[1]]]}, "outside the frame"),
    "NaN": ({"input_points": [[[[float("nan"), 20]]]], "input_labels": [[[1]]]}, "finite"),
    "infinity": ({"input_points": [[[[30, float("inf")]]]], "input_labels": [[[1]]]}, "finite"),
    "points without labels": (
        {"input_points": [[[[30, 20]]]]},
        "input_points and input_labels must be provided together",
    ),
    "labels without points": ({"input_labels": [[[1]]]}, "input_points and input_labels must be provided together"),
    "a label that means nothing": (
        {"input_points": [[[[30, 20]]]], "input_labels": [[[7]]]},
        "Label 7.*has no meaning",
    ),
    "fewer labels than points": (
        {"input_points": [[[[30, 20], [31, 21]]]], "input_labels": [[[1]]]},
        "2 points but 1 labels",
    ),
    "a box inside out": ({"input_boxes": [[[50, 10, 20, 40]]]}, "x0 < x1"),
    "a box of no height": ({"input_boxes": [[[20, 10, 50, 10]]]}, "y0 < y1"),
    "a box outside the frame": ({"input_boxes": [[[20, 10, 90, 40]]]}, "outside the frame"),
    "a box of NaN": ({"input_boxes": [[[20, 10, float("nan"), 40]]]}, "finite"),
    "a box added to old points": (
        {"input_boxes": [[[20, 10, 50, 40]]], "clear_old_inputs": False},
        "clear_old_inputs=True",
    ),
    "a mask of another size": ({"input_masks": full_mask(30, 40)}, "40x30.*80x60"),
    "an empty mask": ({"input_masks": np.zeros((HEIGHT, WIDTH), bool)}, "empty"),
    "a mask of NaN": ({"input_masks": np.full((HEIGHT, WIDTH), np.nan)}, "not finite"),
    "a mask of three dimensions": ({"input_masks": np.ones((2, HEIGHT, WIDTH), bool)}, "shape"),
    "a mask together with points": ({"input_masks": full_mask(), **point}, "together"),
    "nothing": ({}, "There is no prompt: give input_points"),
    "an empty list of points": ({"input_points": [[[]]], "input_labels": [[[]]]}, "4 levels"),
    "another frame size": ({**point, "original_size": (100, 100)}, "100x100.*80x60"),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_bad_prompts_are_named_and_change_nothing(processor, session, case):
    arguments, message = BAD_PROMPTS[case]
    before = state(session)
    with pytest.raises(ValueError, match=message):
        processor.add_inputs_to_inference_session(session, 1, 2, **arguments)
    assert state(session) == before


def test_of_several_objects_none_is_added_when_one_is_bad(processor, session):
    before = state(session)
    with pytest.raises(ValueError, match="object 3"):
        processor.add_inputs_to_inference_session(
            session, 1, [2, 3], input_points=[[[[30, 20]], [[300, 20]]]], input_labels=[[[1], [1]]]
        )
    assert state(session) == before


@pytest.mark.parametrize("frame", [-1, 6, 1000, 1.5, "0", None])
def test_a_frame_that_is_not_there(model, processor, session, frame):
    before = state(session)
    with pytest.raises(ValueError, match="out of range: the video has 6 frames, 0 to 5|whole number"):
        processor.add_inputs_to_inference_session(session, frame, 2, **point)
    assert state(session) == before
    with pytest.raises(ValueError, match="out of range|whole number|Give frame_idx"):
        model(session, frame_idx=frame)
    assert state(session) == before


@pytest.mark.parametrize("ids", [[], [1, 1], "1", 1.5, [True], None])
def test_object_ids_are_whole_numbers_named_once(processor, session, ids):
    before = state(session)
    with pytest.raises((ValueError, TypeError)):
        processor.add_inputs_to_inference_session(session, 1, ids, **point)
    assert state(session) == before


def test_ids_and_prompts_must_agree_in_number(processor, session):
    with pytest.raises(ValueError, match=r"ids \(2\) does not match number of points \(1\)"):
        processor.add_inputs_to_inference_session(session, 1, [2, 3], **point)
    with pytest.raises(ValueError, match=r"ids \(2\) does not match number of masks \(3\)"):
        processor.add_inputs_to_inference_session(session, 1, [2, 3], input_masks=[full_mask()] * 3)


def test_an_unknown_object_is_named_with_those_there_are(session):
    for act in (lambda: session.remove_object(9), lambda: session.clear_prompts(0, 9)):
        before = state(session)
        with pytest.raises(ValueError, match=r"no object 9.*\[1\]"):
            act()
        assert state(session) == before


def test_propagating_without_a_prompt(model, processor):
    session = processor.init_video_session(video=[np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 3)
    with pytest.raises(ValueError, match="please add inputs first"):
        list(model.propagate_in_video_iterator(session))
    with pytest.raises(ValueError, match="please add inputs first"):
        model(session, frame_idx=0)


def test_propagating_from_a_frame_that_is_not_there(model, session):
    before = state(session)
    with pytest.raises(ValueError, match="out of range"):
        list(model.propagate_in_video_iterator(session, start_frame_idx=6))
    with pytest.raises(ValueError, match="must not be negative"):
        list(model.propagate_in_video_iterator(session, max_frame_num_to_track=-1))
    assert state(session) == before


def test_a_stream_has_frames_of_one_size(model, processor):
    session = processor.init_video_session()
    processor.add_inputs_to_inference_session(session, 0, 1, **point, original_size=(HEIGHT, WIDTH))
    model(inference_session=session, frame=np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    before = state(session)
    with pytest.raises(ValueError, match="40x30.*80x60"):
        model(inference_session=session, frame=np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(ValueError, match="one size"):
        model(inference_session=session, frame=torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match="An image has shape"):
        model(inference_session=session, frame=np.zeros((5,), np.uint8))
    assert state(session) == before
    assert model(inference_session=session, frame=np.zeros((HEIGHT, WIDTH, 3), np.uint8)).frame_idx == 1


def test_the_first_prompt_of_a_stream_of_pixels_needs_the_frame_size(processor):
    session = processor.init_video_session()
    with pytest.raises(ValueError, match="original_size must be provided"):
        processor.add_inputs_to_inference_session(session, 0, 1, **point)
    assert session.obj_ids == []


def test_a_frame_is_not_streamed_into_a_video(model, session):
    with pytest.raises(ValueError, match="made without one"):
        model(inference_session=session, frame=np.zeros((HEIGHT, WIDTH, 3), np.uint8))


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ([], "no frames"),
        (
            [np.zeros((60, 80, 3), np.uint8), np.zeros((60, 90, 3), np.uint8)],
            "frame 1 is 90x60 pixels and frame 0 is 80x60",
        ),
        (np.zeros((60, 80, 3), np.uint8), "four dimensions"),
        (iter([np.zeros((60, 80, 3), np.uint8)]), "stream"),
        (["frame.png"], "Frame 0 is not an image"),
    ],
)
def test_a_video_that_is_none(processor, video, message):
    with pytest.raises(ValueError, match=message):
        processor.init_video_session(video=video)


def test_a_path_that_is_not_there(processor, tmp_path):
    pytest.importorskip("av")
    with pytest.raises(FileNotFoundError, match="nothing.mp4"):
        processor.init_video_session(video=tmp_path / "nothing.mp4")


# --------------------------------------------------------------------------------------------------------- images


def kinds_of_image():
    rgb = np.arange(60 * 80 * 3, dtype=np.uint32).reshape(60, 80, 3) % 256
    rgb = rgb.astype(np.uint8)
    grey = rgb[..., 0]
    return {
        "RGB": (Image.fromarray(rgb), rgb),
        "greyscale": (Image.fromarray(grey), np.repeat(grey[..., None], 3, -1)),
        "RGBA": (Image.fromarray(np.dstack([rgb, grey])), rgb),
        "16 bit": (Image.fromarray(grey.astype(np.uint16) * 257), np.repeat(grey[..., None], 3, -1)),
        "array, greyscale": (grey, np.repeat(grey[..., None], 3, -1)),
        "array, RGBA": (np.dstack([rgb, grey]), rgb),
        "array, 16 bit": (rgb.astype(np.uint16) * 257, rgb),
        "array, channels first": (rgb.transpose(2, 0, 1), rgb),
        "floats": (rgb / 255.0, rgb),
        "tensor": (torch.from_numpy(rgb).permute(2, 0, 1), rgb),
        "bool": (grey > 127, np.repeat((grey > 127)[..., None], 3, -1) * np.uint8(255)),
    }


@pytest.mark.parametrize("kind", kinds_of_image())
def test_images_of_every_kind_become_rgb(processor, kind):
    image, expected = kinds_of_image()[kind]
    np.testing.assert_array_equal(to_rgb(image), expected)
    pixels, size = processor.process_frame(image)
    assert size == (60, 80)
    torch.testing.assert_close(pixels, processor.process_frame(expected)[0])


@pytest.mark.parametrize("kind", ["greyscale", "RGBA", "16 bit", "array, greyscale", "array, 16 bit"])
def test_the_image_processor_takes_them_too(model, kind):
    image, expected = kinds_of_image()[kind]
    processor = EfficientTamProcessor.from_config(model.config)
    ours = processor(images=image, return_tensors="pt")
    reference = processor(images=Image.fromarray(expected), return_tensors="pt")
    torch.testing.assert_close(ours["pixel_values"], reference["pixel_values"])
    assert ours["original_sizes"].tolist() == [[60, 80]]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((60, 80, 5), np.uint8), "shape"),
        (np.zeros((0, 80, 3), np.uint8), "shape"),
        (np.full((60, 80, 3), 300.0), r"\[0, 1\]"),
        (np.full((60, 80, 3), np.nan), r"\[0, 1\]"),
        (np.zeros((60, 80, 3), np.int64), "int64"),
        ("cat.png", "str"),
    ],
)
def test_what_is_no_image_is_said(image, message):
    with pytest.raises(ValueError, match=message):
        to_rgb(image)


@pytest.mark.parametrize("case", ["a point outside the frame", "NaN", "a label that means nothing", "a box inside out"])
def test_prompts_on_images_are_checked_too(model, case):
    arguments, message = BAD_PROMPTS[case]
    processor = EfficientTamProcessor.from_config(model.config)
    with pytest.raises(ValueError, match=message):
        processor(images=Image.new("RGB", (WIDTH, HEIGHT)), return_tensors="pt", **arguments)


def test_pixels_of_a_wrong_size_are_refused(model):
    with pytest.raises(ValueError, match="multiples of 16"):
        model.get_image_features(torch.zeros(1, 3, 100, 128))


# ----------------------------------------------------------------------------------------------- post-processing


def test_holes_are_filled_and_specks_removed_up_to_an_area(processor):
    pytest.importorskip("cv2")
    mask = torch.full((1, 1, 20, 20), -5.0)
    mask[..., 4:16, 4:16] = 5.0
    mask[..., 8:10, 8:10] = -5.0  # a hole of 4
    mask[..., 12, 12] = -5.0  # and of 1
    mask[..., 1, 1] = 5.0  # a speck of 1
    mask[..., 17:19, 0:3] = 5.0  # and of 6
    clean = processor.post_process_masks(mask[None][0][None], [[20, 20]], max_hole_area=2, max_sprinkle_area=2)[0][0, 0]
    assert clean[12, 12] and not clean[8:10, 8:10].any()
    assert not clean[1, 1] and clean[17:19, 0:3].all()
    untouched = processor.post_process_masks(mask[None], [[20, 20]])[0][0, 0]
    assert not untouched[12, 12] and untouched[1, 1]


def test_without_overlap_every_pixel_goes_to_one_object(processor):
    masks = torch.stack([torch.full((1, 8, 8), 1.0), torch.full((1, 8, 8), 2.0)])
    both = processor.post_process_masks([masks], [[16, 16]])[0]
    assert both.all()
    apart = processor.post_process_masks([masks], [[16, 16]], apply_non_overlapping_constraints=True)[0]
    assert apart[1].all() and not apart[0].any()
