"""Code written for Transformers' SAM 2 runs here with the class names changed.

Every test runs on both families: on small random models of Transformers' own `Sam2*` classes, which shows that it is
the interface people write against, and on this package's.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from reference import tiny_config
from transformers import pipeline

import efficienttam_hf


HEIGHT, WIDTH = 90, 120
CLICK = {"input_points": [[[[60, 40]]]], "input_labels": [[[1]]]}


def sam2_config() -> transformers.Sam2VideoConfig:
    """A small SAM 2 at 128 pixels, as narrow as its code allows: 64 channels of memory are written into it."""
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=12,
        num_attention_heads=1,
        image_size=[128, 128],
        blocks_per_stage=[1, 2, 2, 1],
        embed_dim_per_stage=[12, 24, 48, 96],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        global_attention_blocks=[4],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[96, 48, 24, 12],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=128,
    )
    return transformers.Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=transformers.Sam2VideoPromptEncoderConfig(hidden_size=128, image_size=128),
        mask_decoder_config=transformers.Sam2VideoMaskDecoderConfig(
            hidden_size=128, mlp_dim=64, iou_head_hidden_dim=128
        ),
        image_size=128,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=128,
        memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=128,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=64,
    )


def sam2_image_config(config: transformers.Sam2VideoConfig) -> transformers.Sam2Config:
    """The image part."""
    return transformers.Sam2Config(
        vision_config=config.vision_config,
        prompt_encoder_config=transformers.Sam2PromptEncoderConfig(hidden_size=128, image_size=128),
        mask_decoder_config=transformers.Sam2MaskDecoderConfig(hidden_size=128, mlp_dim=64, iou_head_hidden_dim=128),
    )


@pytest.fixture(scope="module", params=["Sam2", "EfficientTam"])
def family(request) -> SimpleNamespace:
    """Models and processors of a family. From here on, code is the same for both."""
    torch.manual_seed(0)
    size, mask_size = {"height": 128, "width": 128}, {"height": 32, "width": 32}
    if request.param == "Sam2":
        library, config = transformers, sam2_config()
        image_config = sam2_image_config(config)
    else:
        library, config = efficienttam_hf, tiny_config()
        image_config = config

    def get(name):
        return getattr(library, request.param + name)

    image_processor = get("ImageProcessor")(size=size, mask_size=mask_size)
    model, video_model = get("Model")(image_config).eval(), get("VideoModel")(config).eval()
    for each in (model, video_model):
        # Objects are there, though weights are random.
        (last,) = (m for m in each.mask_decoder.pred_obj_score_head.modules() if getattr(m, "out_features", 0) == 1)
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, 10.0)
    return SimpleNamespace(
        name=request.param,
        model=model,
        processor=get("Processor")(image_processor),
        video_model=video_model,
        video_processor=get("VideoProcessor")(image_processor, get("VideoVideoProcessor")(size=size)),
    )


def make_image(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def make_frames(count: int = 4) -> list[Image.Image]:
    return [make_image(seed) for seed in range(count)]


# ---------------------------------------------------------------------------------------------------------- images


@torch.no_grad()
def test_a_click_gives_three_masks_at_the_images_size(family):
    inputs = family.processor(images=make_image(), **CLICK, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 128, 128)
    assert inputs["input_points"].shape == (1, 1, 1, 2)
    assert inputs["input_labels"].shape == (1, 1, 1)
    torch.testing.assert_close(inputs["input_points"][0, 0, 0], torch.tensor([60 / WIDTH, 40 / HEIGHT]) * 128)

    outputs = family.model(**inputs)
    assert outputs.pred_masks.shape == (1, 1, 3, 32, 32)
    assert outputs.iou_scores.shape == (1, 1, 3)
    assert outputs.object_score_logits.shape == (1, 1, 1)

    (masks,) = family.processor.post_process_masks(outputs.pred_masks.cpu(), inputs["original_sizes"])
    assert masks.shape == (1, 3, HEIGHT, WIDTH)
    assert masks.dtype == torch.bool


@torch.no_grad()
def test_one_mask_on_request(family):
    inputs = family.processor(images=make_image(), **CLICK, return_tensors="pt")
    outputs = family.model(**inputs, multimask_output=False)
    assert outputs.pred_masks.shape == (1, 1, 1, 32, 32)
    assert outputs.iou_scores.shape == (1, 1, 1)


@torch.no_grad()
def test_several_objects_of_an_image(family):
    inputs = family.processor(
        images=make_image(),
        input_points=[[[[60, 40]], [[20, 20]], [[100, 80]]]],
        input_labels=[[[1], [1], [1]]],
        return_tensors="pt",
    )
    outputs = family.model(**inputs)
    assert outputs.pred_masks.shape == (1, 3, 3, 32, 32)
    assert outputs.iou_scores.shape == (1, 3, 3)
    (masks,) = family.processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"])
    assert masks.shape == (3, 3, HEIGHT, WIDTH)


@torch.no_grad()
def test_a_batch_of_images_of_several_sizes(family):
    images = [make_image(0), make_image(1, 60, 50)]
    inputs = family.processor(
        images=images,
        input_points=[[[[60, 40]]], [[[20, 20]]]],
        input_labels=[[[1]], [[1]]],
        return_tensors="pt",
    )
    outputs = family.model(**inputs)
    assert outputs.pred_masks.shape == (2, 1, 3, 32, 32)
    masks = family.processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"])
    assert [tuple(mask.shape) for mask in masks] == [(1, 3, HEIGHT, WIDTH), (1, 3, 60, 50)]


@torch.no_grad()
def test_ragged_points_are_padded(family):
    ragged = family.processor(
        images=[make_image(), make_image()],
        input_points=[[[[60, 40]]], [[[60, 40], [20, 20]], [[100, 80]]]],
        input_labels=[[[1]], [[1, 0], [1]]],
        return_tensors="pt",
    )
    assert ragged["input_points"].shape == (2, 2, 2, 2)
    assert ragged["input_labels"].tolist() == [[[1, -10], [-10, -10]], [[1, 0], [1, -10]]]
    assert (ragged["input_points"][0, 0, 1] == -10).all()

    outputs = family.model(**ragged)
    assert outputs.pred_masks.shape == (2, 2, 3, 32, 32)
    assert outputs.pred_masks.isfinite().all()


@torch.no_grad()
def test_boxes(family):
    inputs = family.processor(
        images=make_image(), input_boxes=[[[10, 10, 80, 70], [50, 20, 110, 60]]], return_tensors="pt"
    )
    assert inputs["input_boxes"].shape == (1, 2, 4)
    outputs = family.model(**inputs, multimask_output=False)
    assert outputs.pred_masks.shape == (1, 2, 1, 32, 32)


@torch.no_grad()
def test_a_box_with_points(family):
    inputs = family.processor(
        images=make_image(),
        input_boxes=[[[10, 10, 80, 70]]],
        input_points=[[[[60, 40], [15, 15]]]],
        input_labels=[[[1, 0]]],
        return_tensors="pt",
    )
    assert family.model(**inputs).pred_masks.shape == (1, 1, 3, 32, 32)


@torch.no_grad()
def test_as_many_boxes_as_objects_with_points(family):
    inputs = family.processor(
        images=make_image(),
        input_boxes=[[[10, 10, 80, 70], [50, 20, 110, 60]]],
        **CLICK,
        return_tensors="pt",
    )
    with pytest.raises(ValueError, match="as many bounding boxes as input points"):
        family.model(**inputs)


@torch.no_grad()
def test_a_mask_is_refined_with_more_points(family):
    first = family.processor(images=make_image(), **CLICK, return_tensors="pt")
    outputs = family.model(**first)
    best = outputs.pred_masks[:, :, outputs.iou_scores[0, 0].argmax()]
    second = family.processor(
        original_sizes=[[HEIGHT, WIDTH]], input_points=[[[[60, 40], [20, 20]]]], input_labels=[[[1, 0]]],
        return_tensors="pt",
    )  # fmt: skip
    refined = family.model(
        input_points=second["input_points"],
        input_labels=second["input_labels"],
        input_masks=best,
        image_embeddings=outputs.image_embeddings,
        multimask_output=False,
    )
    assert refined.pred_masks.shape == (1, 1, 1, 32, 32)


@torch.no_grad()
def test_embeddings_computed_once_give_the_same(family):
    inputs = family.processor(images=make_image(), **CLICK, return_tensors="pt")
    expected = family.model(**inputs)
    embeddings = family.model.get_image_embeddings(inputs.pop("pixel_values"))
    assert isinstance(embeddings, list)
    inputs.pop("original_sizes")
    outputs = family.model(**inputs, image_embeddings=embeddings)
    torch.testing.assert_close(outputs.pred_masks, expected.pred_masks)
    torch.testing.assert_close(embeddings[-1], expected.image_embeddings[-1])


def test_pixels_and_embeddings_exclude_each_other(family):
    pixels = torch.zeros(1, 3, 128, 128)
    embeddings = family.model.get_image_embeddings(pixels)
    with pytest.raises(ValueError, match="Exactly one of pixel_values or image_embeddings"):
        family.model(pixel_values=pixels, image_embeddings=embeddings)
    with pytest.raises(ValueError, match="Exactly one of pixel_values or image_embeddings"):
        family.model()


@torch.no_grad()
def test_no_prompt_at_all(family):
    assert family.model(torch.zeros(2, 3, 128, 128)).pred_masks.shape == (2, 1, 3, 32, 32)


@torch.no_grad()
def test_tuples_on_request(family):
    inputs = family.processor(images=make_image(), **CLICK, return_tensors="pt")
    as_tuple = family.model(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    torch.testing.assert_close(as_tuple[1], family.model(**inputs).pred_masks)


@torch.no_grad()
def test_parts_of_the_model_by_name(family):
    pixels = torch.zeros(1, 3, 128, 128)
    features = family.model.get_image_features(pixels)
    assert len(features.fpn_hidden_states) == len(features.fpn_position_encoding)
    assert features.last_hidden_state.shape[0] == 1
    points = torch.zeros(1, 2, 3, 2)
    sparse, dense = family.model.get_prompt_embeddings(points, torch.ones(1, 2, 3, dtype=torch.int64), None, None)
    assert sparse.shape[:3] == (1, 2, 4)  # and a token of padding
    assert dense.shape[-2:] == (8, 8)
    assert family.model.get_image_wide_positional_embeddings().shape[-2:] == (8, 8)
    assert family.model.vision_encoder(pixels).last_hidden_state is not None
    assert family.model.get_input_embeddings() is not None


# ------------------------------------------------------------------------------------------------ masks to full size


def test_masks_and_sizes_of_any_kind(family):
    expected = torch.ones(1, 3, 40, 50, dtype=torch.bool)
    for masks in (torch.ones(1, 1, 3, 5, 5), [torch.ones(1, 3, 5, 5)], [np.ones((1, 3, 5, 5))]):
        for sizes in ([[40, 50]], [(40, 50)], torch.tensor([[40, 50]]), np.array([[40, 50]])):
            (mask,) = family.processor.post_process_masks(masks, sizes)
            assert torch.equal(mask, expected)
    with pytest.raises(TypeError):
        family.processor.post_process_masks([[1, 0], [0, 1]], np.array([[40, 50]]))


def test_masks_as_logits_and_with_a_threshold(family):
    masks = torch.full((1, 1, 1, 5, 5), 0.4)
    (logits,) = family.processor.post_process_masks(masks, [[40, 50]], binarize=False)
    torch.testing.assert_close(logits, torch.full((1, 1, 40, 50), 0.4))
    assert family.processor.post_process_masks(masks, [[40, 50]])[0].all()
    assert not family.processor.post_process_masks(masks, [[40, 50]], mask_threshold=0.5)[0].any()


def test_masks_that_do_not_overlap(family):
    masks = torch.stack([torch.full((1, 8, 8), 1.0), torch.full((1, 8, 8), 2.0)])
    (constrained,) = family.processor.post_process_masks([masks], [[16, 16]], apply_non_overlapping_constraints=True)
    assert not constrained[0].any()
    assert constrained[1].all()


# ------------------------------------------------------------------------------------------- processor and pipeline


def test_segmentation_maps_become_labels(family):
    maps = Image.fromarray(np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH), dtype=np.uint8))
    inputs = family.processor(images=make_image(), segmentation_maps=maps, return_tensors="pt")
    assert inputs["labels"].shape == (1, 32, 32)
    assert inputs["labels"].dtype == torch.long


def test_points_as_tensors_and_arrays(family):
    expected = family.processor(images=make_image(), **CLICK, return_tensors="pt")
    for convert in (torch.tensor, np.array):
        inputs = family.processor(
            images=make_image(),
            input_points=convert(CLICK["input_points"]),
            input_labels=convert(CLICK["input_labels"]),
            return_tensors="pt",
        )
        torch.testing.assert_close(inputs["input_points"], expected["input_points"])


@pytest.mark.parametrize(
    "prompts",
    [
        {"input_points": [[60, 40]], "input_labels": [1]},
        {"input_boxes": [10, 10, 80, 70]},
        {"input_points": [[[[60, 40], [20, 20]]]], "input_labels": [[[1], [1]]]},
    ],
)
def test_prompts_of_other_depths_are_refused(family, prompts):
    with pytest.raises(ValueError):
        family.processor(images=make_image(), **prompts, return_tensors="pt")


def test_processors_save_and_load(family, tmp_path):
    family.video_processor.save_pretrained(tmp_path)
    loaded = type(family.video_processor).from_pretrained(tmp_path)
    assert loaded.to_dict() == family.video_processor.to_dict()
    inputs = family.processor(images=make_image(), return_tensors="pt")
    again = loaded(images=make_image(), return_tensors="pt")
    torch.testing.assert_close(inputs["pixel_values"], again["pixel_values"])


EVERYTHING = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "mask_threshold": -1e4}


def test_mask_generation_pipeline(family):
    generator = pipeline("mask-generation", model=family.model, image_processor=family.processor.image_processor)
    outputs = generator(make_image(), points_per_batch=8, points_per_crop=3, **EVERYTHING)
    assert len(outputs["masks"]) == len(outputs["scores"]) > 0
    assert outputs["masks"][0].shape == (HEIGHT, WIDTH)
    outputs = generator(make_image(), points_per_crop=3, output_rle_mask=True, output_bboxes_mask=True, **EVERYTHING)
    assert {"masks", "scores", "rle_mask", "bounding_boxes"} <= set(outputs)


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.20"), reason="Transformers 5.17 cannot batch crops of several sizes."
)
def test_mask_generation_pipeline_with_crops(family):
    generator = pipeline("mask-generation", model=family.model, image_processor=family.processor.image_processor)
    outputs = generator(make_image(), points_per_crop=3, crops_n_layers=1, **EVERYTHING)
    assert outputs["masks"][0].shape == (HEIGHT, WIDTH)


# ---------------------------------------------------------------------------------------------------------- videos


def start(family, frames: int = 4, **options):
    return family.video_processor.init_video_session(video=make_frames(frames), inference_device="cpu", **options)


def prompt(family, session, frame_idx: int = 0, obj_ids=1, **prompts):
    family.video_processor.add_inputs_to_inference_session(
        inference_session=session, frame_idx=frame_idx, obj_ids=obj_ids, **(prompts or CLICK)
    )


def at_full_size(family, session, output) -> torch.Tensor:
    return family.video_processor.post_process_masks(
        [output.pred_masks], original_sizes=[[session.video_height, session.video_width]], binarize=False
    )[0]


def test_click_and_track(family):
    session = start(family)
    prompt(family, session)
    output = family.video_model(inference_session=session, frame_idx=0)
    assert output.frame_idx == 0
    assert output.object_ids == [1]
    assert at_full_size(family, session, output).shape == (1, 1, HEIGHT, WIDTH)

    segments = {}
    for output in family.video_model.propagate_in_video_iterator(session):
        segments[output.frame_idx] = at_full_size(family, session, output)
        assert output.object_score_logits.numel() == 1
    assert list(segments) == [0, 1, 2, 3]
    assert all(masks.shape == (1, 1, HEIGHT, WIDTH) for masks in segments.values())


def test_several_objects_with_points_of_different_number(family):
    session = start(family)
    prompt(
        family,
        session,
        obj_ids=[2, 3],
        input_points=[[[[60, 40], [70, 45], [20, 20]], [[100, 80]]]],
        input_labels=[[[1, 1, 0], [1]]],
    )
    output = family.video_model(inference_session=session, frame_idx=0)
    assert session.obj_ids == output.object_ids == [2, 3]
    assert output.pred_masks.shape == (2, 1, 32, 32)
    for output in family.video_model.propagate_in_video_iterator(session):
        masks = at_full_size(family, session, output)
        assert {obj_id: masks[i].shape for i, obj_id in enumerate(session.obj_ids)} == {
            2: (1, HEIGHT, WIDTH),
            3: (1, HEIGHT, WIDTH),
        }


def test_resetting_and_starting_over(family):
    session = start(family)
    prompt(family, session)
    family.video_model(inference_session=session, frame_idx=0)
    session.reset_inference_session()
    assert session.obj_ids == []
    prompt(family, session, obj_ids=[7])
    family.video_model(inference_session=session, frame_idx=0)
    assert [o.object_ids for o in family.video_model.propagate_in_video_iterator(session)] == [[7]] * 4


def test_refining_on_a_later_frame(family):
    session = start(family)
    prompt(family, session)
    family.video_model(inference_session=session, frame_idx=0)
    before = {o.frame_idx: o.pred_masks for o in family.video_model.propagate_in_video_iterator(session)}
    prompt(family, session, frame_idx=2, input_points=[[[[30, 70]]]], input_labels=[[[1]]])
    corrected = family.video_model(inference_session=session, frame_idx=2)
    assert not torch.equal(corrected.pred_masks, before[2])
    after = {o.frame_idx: o.pred_masks for o in family.video_model.propagate_in_video_iterator(session)}
    assert list(after) == [0, 1, 2, 3]


def test_a_box(family):
    session = start(family)
    prompt(family, session, input_boxes=[[[10, 10, 80, 70]]])
    assert family.video_model(inference_session=session, frame_idx=0).pred_masks.shape == (1, 1, 32, 32)


def test_a_box_then_points(family):
    session = start(family)
    prompt(family, session, input_boxes=[[[10, 10, 80, 70]]])
    family.video_model(inference_session=session, frame_idx=0)
    prompt(
        family,
        session,
        input_boxes=[[[10, 10, 80, 70]]],
        input_points=[[[[60, 40]]]],
        input_labels=[[[0]]],
    )
    assert family.video_model(inference_session=session, frame_idx=0).pred_masks.shape == (1, 1, 32, 32)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_a_mask(family, kind):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[20:60, 30:90] = True
    session = start(family)
    prompt(family, session, input_masks=kind(mask))
    output = family.video_model(inference_session=session, frame_idx=0)
    found = at_full_size(family, session, output)[0, 0] > 0
    assert (found.numpy() & mask).sum() / (found.numpy() | mask).sum() > 0.9
    assert len(list(family.video_model.propagate_in_video_iterator(session))) == 4


def test_masks_of_several_objects(family):
    masks = [np.zeros((HEIGHT, WIDTH), dtype=bool) for _ in range(2)]
    masks[0][20:60, 30:90] = masks[1][:30, :30] = True
    session = start(family)
    prompt(family, session, obj_ids=[1, 2], input_masks=masks)
    assert family.video_model(inference_session=session, frame_idx=0).pred_masks.shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        ({}, [0, 1, 2, 3]),
        ({"start_frame_idx": 2}, [2, 3]),
        ({"start_frame_idx": 1, "max_frame_num_to_track": 1}, [1, 2]),
        ({"start_frame_idx": 2, "reverse": True}, [2, 1, 0]),
        ({"start_frame_idx": 0, "reverse": True}, []),
    ],
)
def test_where_propagation_goes(family, options, frames):
    session = start(family)
    prompt(family, session)
    family.video_model(inference_session=session, frame_idx=0)
    outputs = family.video_model.propagate_in_video_iterator(session, **options)
    assert [output.frame_idx for output in outputs] == frames


def test_propagation_may_be_left_and_entered_again(family):
    session = start(family)
    prompt(family, session)
    family.video_model(inference_session=session, frame_idx=0)
    for output in family.video_model.propagate_in_video_iterator(session):
        if output.frame_idx == 1:
            break
    rest = family.video_model.propagate_in_video_iterator(session, start_frame_idx=2)
    assert [output.frame_idx for output in rest] == [2, 3]


def test_frames_one_by_one(family):
    """A loop of one's own over the frames of a video, in place of the iterator."""
    session = start(family)
    prompt(family, session)
    for frame_idx in range(4):
        output = family.video_model(inference_session=session, frame_idx=frame_idx)
        assert output.pred_masks.shape == (1, 1, 32, 32)


def test_a_stream(family):
    session = family.video_processor.init_video_session(inference_device="cpu")
    for frame_idx, frame in enumerate(make_frames()):
        inputs = family.video_processor(images=frame, device="cpu", return_tensors="pt")
        if frame_idx == 0:
            prompt(
                family,
                session,
                input_points=[[[[60, 40], [70, 50]]]],
                input_labels=[[[1, 1]]],
                original_size=inputs.original_sizes[0],
            )
        output = family.video_model(inference_session=session, frame=inputs.pixel_values[0])
        assert output.frame_idx == frame_idx
        (masks,) = family.video_processor.post_process_masks(
            [output.pred_masks], original_sizes=inputs.original_sizes, binarize=False
        )
        assert masks.shape == (1, 1, HEIGHT, WIDTH)


def test_what_a_session_says_of_itself(family):
    session = start(family)
    assert (session.video_height, session.video_width, session.num_frames) == (HEIGHT, WIDTH, 4)
    prompt(family, session, obj_ids=[5, 9], input_boxes=[[[10, 10, 80, 70], [0, 0, 30, 30]]])
    assert session.obj_ids == [5, 9]
    assert session.get_obj_num() == 2
    assert session.obj_id_to_idx(9) == 1
    assert session.obj_idx_to_id(0) == 5
    assert session.get_frame(1).shape[-3:] == (3, 128, 128)
    session.reset_tracking_data()
    assert session.get_obj_num() == 0
    assert session.num_frames == 4


@pytest.mark.parametrize(
    "prompts",
    [
        {},
        {"input_points": [[[[60, 40]]]]},
        {"input_labels": [[[1]]]},
        {"input_masks": np.ones((HEIGHT, WIDTH)), **CLICK},
        {"obj_ids": [1, 2], **CLICK},
        {"input_boxes": [[[10, 10, 80, 70]]], "clear_old_inputs": False},
    ],
)
def test_inputs_that_make_no_sense_are_refused(family, prompts):
    session = start(family)
    prompts = {"obj_ids": 1, **prompts}
    with pytest.raises(ValueError):
        family.video_processor.add_inputs_to_inference_session(inference_session=session, frame_idx=0, **prompts)


def test_tracking_without_objects_is_refused(family):
    with pytest.raises(ValueError):
        next(family.video_model.propagate_in_video_iterator(start(family)))


def test_the_video_processor_alone(family):
    processed = family.video_processor.video_processor(videos=[make_frames()], return_tensors="pt")
    assert processed["pixel_values_videos"].shape == (1, 4, 3, 128, 128)
    assert processed["original_sizes"].tolist() == [[HEIGHT, WIDTH]]
