"""Prompted images: where clicks fall, which mask is taken, what is fed back, and what becomes of the scores."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from efficienttam_hf.data.loading import load_records
from efficienttam_hf.evaluation.image_protocol import (
    ImageOptions,
    click_objects,
    evaluate_images,
    mean_over_datasets,
    summarize_images,
)
from efficienttam_hf.evaluation.prompted import prompt_objects
from efficienttam_hf.evaluation.region_boundary import region_similarity
from efficienttam_hf.evaluation.results import EvaluationResult
from efficienttam_hf.mask_io import encode_rle
from efficienttam_hf.synthetic_clip import make_clip


SIZE = HEIGHT, WIDTH = 64, 64


def square(left, top, side):
    mask = np.zeros(SIZE, bool)
    mask[top : top + side, left : left + side] = True
    return mask


IMAGE = np.zeros((*SIZE, 3), np.uint8)
OBJECT = square(8, 8, 32)


class Told:
    """Stands in for a model: for each click, the masks it gives to every object and their predicted IoU."""

    device, dtype = torch.device("cpu"), torch.float32
    config = SimpleNamespace(previous_mask_clamp=32.0)

    def __init__(self, *answers):
        self.answers = answers
        self.calls = []

    def get_image_embeddings(self, pixels):
        return [torch.zeros(1, 4, 8, 8)]

    def decode_masks(self, features, points, labels, input_masks=None, multimask_output=True):
        self.calls.append((points / 128 * WIDTH, labels, input_masks, multimask_output))
        masks, scores = self.answers[len(self.calls) - 1]
        logits = torch.tensor(np.where(np.array(masks), 50.0, -50.0), dtype=torch.float32)
        count = len(features)
        return logits.expand(count, 1, *logits.shape), torch.tensor(scores).expand(count, 1, -1), None, None


def test_of_the_first_three_masks_the_best_predicted_is_taken_and_the_best_reported(processor):
    too_small, right, too_large = square(8, 8, 16), OBJECT, square(8, 8, 48)
    told = Told(([too_small, right, too_large], [0.9, 0.5, 0.1]))
    (scores,) = click_objects(told, processor, IMAGE, {7: OBJECT}, clicks=1)
    assert scores.object_id == 7
    assert scores.clicks == scores.j == [0.25]
    assert scores.best_of_three == 1
    assert scores.f == []


def test_clicks_go_where_the_error_is_largest_with_the_mask_so_far(processor):
    too_small, too_large = square(8, 8, 16), square(8, 8, 56)
    told = Told(([too_small] * 3, [0.9, 0.5, 0.1]), ([too_large], [0.9]), ([OBJECT], [0.9]))
    (scores,) = click_objects(told, processor, IMAGE, {1: OBJECT}, clicks=3)
    assert scores.clicks == pytest.approx([0.25, 1024 / 3136, 1])

    (_, _, nothing, three), (_, _, first, one), (points, labels, second, _) = told.calls
    assert (three, one) == (True, False)
    assert nothing is None
    assert first.shape == (1, 1, *SIZE)
    assert first.min() == -32  # bounded, as a session bounds what it feeds back
    assert ((second[0, 0] > 0).numpy() == too_large).all()
    (inside, missed, beside), given = points[0, 0].round().int().tolist(), labels[0, 0].tolist()
    assert given == [1, 1, 0]
    assert OBJECT[inside[1], inside[0]]
    assert (OBJECT & ~too_small)[missed[1], missed[0]]
    assert (too_large & ~OBJECT)[beside[1], beside[0]]


def test_an_object_without_errors_is_left_alone(processor):
    told = Told(([OBJECT] * 3, [0.9, 0.5, 0.1]), ([square(0, 0, 8)], [0.9]))
    scores = click_objects(told, processor, IMAGE, {1: OBJECT, 2: square(8, 8, 16)}, clicks=2)
    assert scores[0].clicks == [1, 1]
    assert len(told.calls[1][0]) == 1  # of the two, only the second got a second click
    assert scores[1].clicks == [0.25, 0]


def test_void_pixels_do_not_count(processor):
    void = ~OBJECT & square(0, 0, 48)
    told = Told(([square(0, 0, 48)] * 3, [0.9, 0.5, 0.1]))
    scores = click_objects(told, processor, IMAGE, {1: OBJECT, 2: square(0, 0, 8)}, void, clicks=1)
    assert [s.object_id for s in scores] == [1]  # nothing of the other is left
    assert scores[0].clicks == [1]


def test_batches_change_nothing(model, processor):
    clip = make_clip(num_frames=1, width=WIDTH, height=HEIGHT)
    masks = {1: clip.masks[0], 2: square(4, 40, 12), 3: square(40, 4, 16)}
    together, one_by_one = (
        click_objects(model, processor, clip.frames[0], masks, clicks=3, batch_size=size) for size in (3, 1)
    )
    for a, b in zip(together, one_by_one, strict=True):
        assert a.clicks == pytest.approx(b.clicks, abs=2e-3)


@pytest.mark.parametrize("clicks", [1, 3])
def test_an_image_is_segmented_as_a_session_does_with_the_same_clicks(model, processor, clicks):
    """The video model and its session are a second implementation of the protocol; they resize frames otherwise."""
    clip = make_clip(num_frames=1, width=128, height=128)  # of the model's size, so that nothing is resized
    frame, mask = clip.frames[0], clip.masks[0]
    (scores,) = click_objects(model, processor, frame, {1: mask}, clicks=clicks)
    session = processor.init_video_session(video=[frame])
    with torch.inference_mode():
        prompt_objects(model, processor, session, 0, {1: mask}, f"{clicks}-click")
        # Where a session judges an object absent, it shows nothing; the protocol of images has no such judgement.
        logits = model(session, frame_idx=0).pred_masks
    if logits.max() > model.config.no_object_score:
        predicted = processor.post_process_masks([logits], [frame.shape[:2]])[0][0, 0].numpy()
        assert scores.clicks[-1] == pytest.approx(region_similarity(predicted, mask), abs=1e-3)
    else:
        pytest.fail("the model judges the object absent; choose another seed")


# ------------------------------------------------------------------------------------------------------------ datasets


@pytest.fixture
def coco(tmp_path):
    """Two images in COCO's layout: one with two objects, one with one object whose image file is damaged."""
    images, annotations = [], []
    (tmp_path / "val").mkdir()
    (tmp_path / "annotations").mkdir()
    for number, masks in enumerate([[OBJECT, square(44, 44, 12)], [OBJECT]], start=1):
        name = f"{number:012d}.jpg"
        Image.fromarray(IMAGE).save(tmp_path / "val" / name)
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for mask in masks:
            rle = encode_rle(mask)
            counts = rle["counts"].decode() if isinstance(rle["counts"], bytes) else rle["counts"]
            segmentation = {"size": rle["size"], "counts": counts}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0})
            annotations[-1] |= {"segmentation": segmentation, "area": int(mask.sum())}
    (tmp_path / "val" / "000000000002.jpg").write_bytes(b"no image")
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return load_records("coco", tmp_path, "val")


def test_a_dataset_is_the_mean_over_its_objects_and_a_bad_image_is_reported(model, processor, coco):
    result = evaluate_images(model, processor, coco, ImageOptions("coco", "val", "tiny", clicks=2))
    (good,), (bad,) = result.scored, result.failures
    assert "000000000002" in bad.name
    assert bad.error
    assert [scores.category for scores in good.objects] == ["thing", "thing"]
    for click in (0, 1):
        expected = np.mean([scores.clicks[click] for scores in good.objects])
        assert result.summary[f"{click + 1}-click mIoU"] == pytest.approx(expected)
    assert result.summary["mIoU"] == result.summary["2-click mIoU"]
    assert result.summary["1-click best-of-three mIoU"] >= result.summary["1-click mIoU"]
    assert result.settings["image_size"] == [128, 128]
    assert EvaluationResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_images_that_are_done_are_not_done_again(model, processor, coco, tmp_path, monkeypatch):
    options = ImageOptions("coco", "val", "tiny", clicks=2, output=tmp_path / "out")
    first = evaluate_images(model, processor, coco, options)
    monkeypatch.setattr(type(model), "decode_masks", lambda *_, **__: pytest.fail("an image was done again"))
    again = evaluate_images(model, processor, coco, options)
    assert again.videos == first.videos
    with pytest.raises(ValueError, match="other settings"):
        evaluate_images(model, processor, coco, ImageOptions("coco", "val", "tiny", clicks=3, output=options.output))


def test_frames_of_videos_are_images(model, processor, tmp_path):
    clip = make_clip(num_frames=5, width=WIDTH, height=HEIGHT)
    for folder in ("frames", "masks"):
        (tmp_path / folder / "clip").mkdir(parents=True)
    for index, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
        Image.fromarray(frame).save(tmp_path / "frames" / "clip" / f"{index:05d}.jpg")
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "masks" / "clip" / f"{index:05d}.png")
    records = load_records("folder", tmp_path)
    result = evaluate_images(model, processor, records, ImageOptions(clicks=1, frames_per_video=3))
    assert [image.name for image in result.videos] == ["clip/00000", "clip/00002", "clip/00004"]


def test_data_sets_weigh_the_same_in_their_mean():
    def result(name, value):
        return EvaluationResult("images", name, "", "", "1-click", "", summary={"mIoU": value})

    assert mean_over_datasets([result("large", 0.25), result("small", 0.75)]) == {"mIoU": 0.5}
    with pytest.raises(ValueError, match="empty: none"):
        mean_over_datasets([result("large", 0.25), EvaluationResult("images", "empty", "", "", "", "")])
    assert summarize_images(EvaluationResult("images", "empty", "", "", "", "")) == {}


def test_options_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="clicks must be at least 1, got 0"):
        ImageOptions(clicks=0)
