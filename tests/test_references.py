"""Reference images: an object that is shown to a session in another picture and found where it appears in the video."""

import numpy as np
import pytest
import torch
from reference import lively_model

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.app.plan import Reference, plan_tracking, track_objects
from efficienttam_hf.synthetic_clip import make_clip
from efficienttam_hf.tracking_rules import MEMORY_SELECTIONS, Direction


CLIP = make_clip(6, 96, 64)
OTHER = make_clip(1, 80, 100, seed=3)  # another picture, of another size


@pytest.fixture(scope="module")
def lively():
    return lively_model()


@pytest.fixture(scope="module")
def lively_processor(lively):
    return EfficientTamVideoProcessor.from_config(lively.config)


def background(seed):
    """The picture of a clip without its object."""
    return np.median(make_clip(24, 320, 240, seed=seed).frames, axis=0).astype(np.uint8)


def test_an_object_that_appears_later_is_found_from_a_reference_image_and_not_without_it():
    model = EfficientTamVideoModel.from_pretrained("efficienttam-nano").eval()
    processor = EfficientTamVideoProcessor.from_pretrained("efficienttam-nano")
    clip, empty, other = make_clip(12, 320, 240), background(0), background(9)
    frames = [empty, clip.frames[5]]
    mask = np.roll(clip.masks[6], (-20, -40), (0, 1))
    picture = np.where(mask[..., None], np.roll(clip.frames[6], (-20, -40), (0, 1)), other)
    nothing = np.zeros_like(mask)
    nothing[150:200, 220:280] = True  # some of the other picture's background

    def overlap(image, shown):
        session = processor.init_video_session(frames)
        processor.add_reference_to_session(session, image, shown, 1)
        outputs = list(model.propagate_in_video_iterator(session))
        assert [output.frame_idx for output in outputs] == [0, 1]
        found = [processor.post_process_masks([o.pred_masks], [(240, 320)])[0][0, 0].numpy() for o in outputs[1:]]
        return [(own & truth).sum() / (own | truth).sum() for own, truth in zip(found, clip.masks[5:6], strict=True)]

    assert min(overlap(picture, mask)) > 0.65
    assert max(overlap(other, nothing)) < 0.05


def test_a_frame_of_the_video_as_reference_gives_the_masks_of_a_prompt_there(lively, lively_processor):
    def tracked(add):
        session = lively_processor.init_video_session(CLIP.frames[1:])
        add(session)
        return [output.pred_masks for output in lively.propagate_in_video_iterator(session, 0)]

    prompted = lively_processor.init_video_session(CLIP.frames)
    lively_processor.add_inputs_to_inference_session(prompted, 0, 1, input_masks=CLIP.masks[0])
    expected = [output.pred_masks for output in lively.propagate_in_video_iterator(prompted)][1:]
    found = tracked(lambda s: lively_processor.add_reference_to_session(s, CLIP.frames[0], CLIP.masks[0], 1))
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MEMORY_SELECTIONS)
def test_every_memory_strategy_attends_to_references_and_never_drops_them(name, lively, lively_processor):
    session = lively_processor.init_video_session(CLIP.frames, memory_selection=name, keep_history=False)
    lively_processor.add_reference_to_session(session, OTHER.frames[0], OTHER.masks[0], 4)
    assert len(list(lively.propagate_in_video_iterator(session))) == len(CLIP.frames)
    memory = session.objects[4].memory
    assert len(memory.references) == 1 and not memory.conditioning
    selection = memory.select(6, Direction.FORWARD, lively.walk.rules(session))
    assert selection.spatial[0][0] is selection.pointers[0] is memory.references[0]


def test_references_and_prompts_of_one_object_are_both_used(lively, lively_processor):
    session = lively_processor.init_video_session(CLIP.frames)
    for _ in range(2):
        lively_processor.add_reference_to_session(session, OTHER.frames[0], OTHER.masks[0], 1)
    lively_processor.add_inputs_to_inference_session(session, 3, 1, input_masks=CLIP.masks[3])
    lively_processor.add_inputs_to_inference_session(session, 0, 2, input_masks=CLIP.masks[0])
    for output in lively.propagate_in_video_iterator(session, 0):
        assert output.object_ids == [1, 2]
    assert len(session.objects[1].memory.references) == 2
    assert list(session.objects[1].memory.conditioning) == [3]
    session.clear_prompts(3, 1)
    lively.track_frame(session, 5)  # the reference images remain
    session.remove_object(1)
    assert session.obj_ids == [2]


def test_a_stream_is_searched_for_the_object(lively, lively_processor):
    session = lively_processor.init_video_session()
    lively_processor.add_reference_to_session(session, OTHER.frames[0], OTHER.masks[0], 1)
    scores = [lively(session, frame=frame).object_score_logits for frame in CLIP.frames[:3]]
    assert all(score.shape == (1, 1) for score in scores)


def test_a_reference_that_does_not_fit_changes_nothing(lively_processor):
    session = lively_processor.init_video_session(CLIP.frames)
    image, mask = OTHER.frames[0], OTHER.masks[0]
    for given, message in (
        ((image, mask[:-1], 1), "80x99 pixels, but the frame is 80x100"),
        ((image, np.zeros_like(mask), 1), "is empty"),
        (("photo.jpg", mask, 1), "An image is a PIL image"),
        ((image, mask, 1.5), "must be a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            lively_processor.add_reference_to_session(session, *given)
    assert session.obj_ids == []


@pytest.mark.parametrize(("direction", "frames"), [(None, [0, 1, 2, 3, 4, 5]), ("backward", [5, 4, 3, 2, 1, 0])])
def test_an_object_with_references_is_tracked_through_all_frames(direction, frames, lively, lively_processor):
    plan = plan_tracking({}, direction, [7], 6)
    reference = Reference(7, OTHER.frames[0], OTHER.masks[0], "other.png")
    done = list(track_objects(lively, lively_processor, list(CLIP.frames), {}, plan, references=[reference]))
    assert [one.index for one in done] == frames
    assert plan.num_steps(6) == 6
    assert all(one.object_ids == [7] for one in done)
