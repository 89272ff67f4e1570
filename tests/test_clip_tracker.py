"""Training's forward pass: the same tracking as a session's, who is judged, and where gradients go."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from reference import tiny_config, with_objects
from torch import nn

from efficienttam_hf import EfficientTamVideoInferenceSession, EfficientTamVideoModel
from efficienttam_hf.data.batch import collate_clips
from efficienttam_hf.data.clip import Clip
from efficienttam_hf.tracking_session import FramePrompts
from efficienttam_hf.training.clip_tracker import ClipTracker
from efficienttam_hf.training.losses import LossOptions, tracking_losses
from efficienttam_hf.training.simulated_user import PromptPlan, UserOptions


SIZE, FRAMES = 128, 4
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
MASK = PromptPlan({0: "mask"}, [])
CLICKS = PromptPlan({0: "point"}, [0, 2])
TWO_FRAMES = PromptPlan({0: "box", 2: "point"}, [2])
NO_CORRECTIONS = UserOptions(correction_clicks=0)


def make_model(cross_attention="full", dropout=0.0):
    """A small model with fresh weights, large enough for its masks to have objects in them."""
    torch.manual_seed(1)
    config = tiny_config(cross_attention, memory_dtype="float32", add_all_frames_to_correct_as_cond=True)
    config.memory_attention_config.dropout = config.memory_attention_config.attention_dropout = dropout
    return with_objects(EfficientTamVideoModel(config), 2.0)


@pytest.fixture(scope="module")
def model():
    return make_model()


def make_tracker(model, user=None, losses=None, **options):
    user = user or UserOptions(correction_clicks=2)
    losses = losses or LossOptions(full_resolution=False)
    return ClipTracker(model, user, losses, MEAN, STD, **options).train()


def make_clip(seed, num_objects, void=None):
    """Textured squares that move over a textured ground."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 120, (FRAMES, 3, SIZE, SIZE))
    masks = np.zeros((FRAMES, num_objects, SIZE, SIZE), dtype=bool)
    for k in range(num_objects):
        texture, (top, left) = rng.integers(120, 255, (3, 40, 40)), rng.integers(0, 70, 2)
        for t in range(FRAMES):
            rows, columns = slice(top + 4 * t, top + 4 * t + 40), slice(left + 5 * t, left + 5 * t + 40)
            frames[t, :, rows, columns] = texture
            masks[t, :, rows, columns] = False
            masks[t, k, rows, columns] = True
    as_tensor = torch.from_numpy
    return Clip(as_tensor(frames.astype(np.uint8)), as_tensor(masks), f"clip {seed}", seed, void)


@pytest.fixture(scope="module")
def batch():
    return collate_clips([make_clip(0, 2), make_clip(1, 1)])


def record(monkeypatch, model):
    """Every call of `track_step` from now on, as (arguments by name, output)."""
    calls, step = [], model.track_step

    def track_step(features, memory_bank=None, input_points=None, input_labels=None, **kwargs):
        output = step(features, memory_bank, input_points, input_labels, **kwargs)
        calls.append(({"bank": memory_bank, "points": input_points, "labels": input_labels, **kwargs}, output))
        return output

    monkeypatch.setattr(model, "track_step", track_step)
    return calls


def gradients(tracker, batch, plan, num_objects=3.0):
    """The output, and the gradient of every parameter that got one."""
    tracker.zero_grad()
    output = tracker(batch, plan, num_objects)
    output.loss.backward()
    return output, {n: p.grad.clone() for n, p in tracker.named_parameters() if p.grad is not None}


def assert_same_gradients(actual, expected, tolerance=1e-3):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert (actual[name] - value).norm() <= tolerance * value.norm() + 1e-4, name


# ------------------------------------------------------------------------------------------------- the same as tracking


def session_of(tracker, batch, clip):
    """A session over the frames of a clip."""
    pixels = (batch.frames[:, clip] / 255 - tracker.image_mean) / tracker.image_std
    return EfficientTamVideoInferenceSession(video=pixels, video_height=SIZE, video_width=SIZE)


@pytest.mark.parametrize("cross_attention", ["full", "pooled_logit_bias"])
def test_after_a_mask_prompt_every_frame_is_what_a_session_tracks(monkeypatch, batch, cross_attention):
    model = make_model(cross_attention)
    tracker = make_tracker(model).eval()
    with torch.no_grad():
        calls = record(monkeypatch, model)
        tracker(batch, MASK, 3.0)
        ours = [output.pred_masks for _, output in calls]
        monkeypatch.undo()
        for clip in range(2):
            rows = batch.clip_index == clip
            session = session_of(tracker, batch, clip)
            for obj, mask in enumerate(batch.masks[0, rows]):
                session.add_mask_inputs(session.obj_id_to_idx(obj), 0, mask.view(1, 1, SIZE, SIZE))
            outputs = list(model.propagate_in_video_iterator(session))
            assert [output.frame_idx for output in outputs] == list(range(FRAMES))
            for t, output in enumerate(outputs):
                torch.testing.assert_close(ours[t][rows], output.pred_masks, atol=2e-3, rtol=1e-3)
            assert (outputs[-1].pred_masks > 0).float().mean() not in (0.0, 1.0)


@pytest.mark.parametrize("kind", ["point", "box"])
def test_clicks_and_corrections_give_what_they_give_in_a_session(monkeypatch, model, kind):
    batch = collate_clips([make_clip(2, 2)])
    tracker = make_tracker(model).eval()
    with torch.no_grad():
        calls = record(monkeypatch, model)
        tracker(batch, PromptPlan({0: kind}, [0, 2]), 2.0)
        monkeypatch.undo()
        # Frames 0, 0, 0 (prompt and two corrections), 1, 2, 2, 2 (tracked and two corrections), 3.
        frames = [0, 0, 0, 1, 2, 2, 2, 3]
        assert len(calls) == len(frames)
        session = session_of(tracker, batch, 0)
        for t, (arguments, ours) in zip(frames, calls, strict=True):
            if arguments["points"] is not None:
                for obj in range(2):
                    row = slice(obj, obj + 1)
                    session.add_prompts(obj, t, FramePrompts(arguments["points"][row], arguments["labels"][row]))
            theirs = model(session, frame_idx=t)
            torch.testing.assert_close(ours.pred_masks, theirs.pred_masks, atol=2e-3, rtol=1e-3)
            torch.testing.assert_close(ours.object_pointer, theirs.object_pointer, atol=2e-3, rtol=1e-3)


# ------------------------------------------------------------------------------------------------------ the clip's walk


def test_a_frame_is_corrected_by_clicks_that_add_up_and_see_the_mask_before(monkeypatch, model, batch):
    calls = record(monkeypatch, model)
    make_tracker(model)(batch, CLICKS, 3.0)
    num_points = [0 if a["points"] is None else a["points"].shape[1] for a, _ in calls]
    assert num_points == [1, 2, 3, 0, 0, 1, 2, 0]
    assert [a["previous_masks"] is not None for a, _ in calls] == [False, True, True, False, False, True, True, False]
    for before, after in ((0, 1), (1, 2), (4, 5), (5, 6)):
        torch.testing.assert_close(calls[after][0]["previous_masks"], calls[before][1].pred_masks.clamp(-32, 32))
        if calls[before][0]["points"] is not None:
            assert torch.equal(calls[after][0]["points"][:, :-1], calls[before][0]["points"])
    # What is kept of a frame is its last prediction; nobody looks back at the last frame.
    assert [a["encode_memory"] for a, _ in calls] == [False, False, True, True, False, False, True, False]


def test_frames_prompted_from_the_start_come_first_and_are_seen_by_the_frames_before_them(monkeypatch, model, batch):
    calls = record(monkeypatch, model)
    output = make_tracker(model, NO_CORRECTIONS)(batch, TWO_FRAMES, 3.0)
    kinds = [a["labels"][0].tolist() if a["labels"] is not None else None for a, _ in calls]
    assert kinds == [[2, 3], [1], None, None]
    banks = [a["bank"] for a, _ in calls]
    assert banks[0] is None and banks[1] is None
    conditioning = model.config.num_maskmem - 1
    assert banks[2].temporal_index.tolist() == [[conditioning, conditioning]]
    assert banks[2].object_pointers.shape[1] == 1  # frame 2 is ahead of frame 1
    assert not output.iou.isnan().any()


@pytest.mark.parametrize("as_conditioning", [True, False])
def test_whether_a_corrected_frame_conditions_later_ones_is_an_option(monkeypatch, model, batch, as_conditioning):
    calls = record(monkeypatch, model)
    user = UserOptions(correction_clicks=1, corrected_is_conditioning=as_conditioning)
    make_tracker(model, user)(batch, PromptPlan({0: "point"}, [0, 1]), 3.0)
    conditioning = model.config.num_maskmem - 1
    # The last frame looks at frame 0, the corrected frame 1, and frame 2.
    expected = [conditioning, conditioning, 0] if as_conditioning else [conditioning, 1, 0]
    assert calls[-1][0]["bank"].temporal_index[0].tolist() == expected


def test_a_single_image_is_segmented_and_corrected(model):
    clip = make_clip(3, 2)
    image = collate_clips([replace(clip, frames=clip.frames[:1], masks=clip.masks[:1])])
    output, grads = gradients(make_tracker(model), image, PromptPlan({0: "box"}, [0]), 2.0)
    assert output.iou.shape == (1, 2) and torch.isfinite(output.loss)
    parts = {name.split(".")[1] for name, grad in grads.items() if grad.any()}
    assert {"vision_encoder", "prompt_encoder", "mask_decoder"} <= parts
    assert not parts & {"memory_encoder", "memory_attention"}


def test_it_runs_in_bfloat16(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        output = make_tracker(model)(batch, CLICKS, 3.0)
    output.loss.backward()
    assert output.loss.dtype == torch.float32 and torch.isfinite(output.loss)
    model.zero_grad()


# ----------------------------------------------------------------------------------------------------- who is judged


@pytest.mark.parametrize("plan", [MASK, CLICKS, TWO_FRAMES, PromptPlan({0: "mask", 2: "mask"}, [])])
@pytest.mark.parametrize("full_resolution", [True, False])
def test_every_prediction_is_judged_and_no_given_mask(monkeypatch, model, batch, plan, full_resolution):
    calls = record(monkeypatch, model)
    options = LossOptions(full_resolution=full_resolution)
    output = make_tracker(model, losses=options)(batch, plan, 3.0)
    order = [*plan.conditioning, *(t for t in range(FRAMES) if t not in plan.conditioning)]
    frames = [t for t in order for _ in range(3 if t in plan.corrected else 1)]
    total, last = torch.zeros(3), {}
    for t, (arguments, prediction) in zip(frames, calls, strict=True):
        last[t] = prediction
        if arguments.get("input_masks") is not None:
            continue
        total += tracking_losses(
            prediction.multimask_logits,
            prediction.multimask_iou_scores,
            prediction.object_score_logits,
            batch.masks[t],
            None,
            options,
        ).total(options)
    torch.testing.assert_close(output.object_losses.total(options), total)
    torch.testing.assert_close(output.loss, total.sum() / 3)
    for t in range(FRAMES):
        is_given = plan.conditioning.get(t) == "mask"
        assert output.iou[t].isnan().all() == is_given
        assert torch.equal(output.pred_masks[t], last[t].pred_masks[:, 0] > 0)
        for o in range(3):
            a, b = last[t].high_res_masks[o, 0].numpy(force=True) > 0, batch.masks[t, o].numpy()
            assert is_given or output.iou[t, o] == pytest.approx((a & b).sum() / (a | b).sum(), abs=1e-6)
    assert not output.pred_masks.requires_grad and not output.iou.requires_grad


def test_void_pixels_change_nothing_whatever_is_annotated_there(model):
    void = torch.zeros(FRAMES, SIZE, SIZE, dtype=torch.bool)
    void[1:, SIZE // 2 :] = True
    clip = make_clip(4, 2, void)
    clip.masks[:, :, 10:20, 10:20] = True  # every object shows where pixels are judged
    relabelled = replace(clip, masks=clip.masks ^ void[:, None])
    # Clicks anywhere on the object are not in what is wrong, and may be anywhere.
    tracker = make_tracker(model, UserOptions(correction_clicks=2, click_on_object_probability=0.0))
    for plan in (MASK, CLICKS):
        first, expected = gradients(tracker, collate_clips([clip]), plan)
        second, actual = gradients(tracker, collate_clips([relabelled]), plan)
        torch.testing.assert_close(second.loss, first.loss)
        torch.testing.assert_close(second.iou, first.iou, equal_nan=True)
        assert_same_gradients(actual, expected)


def test_corrections_keep_away_from_void_pixels(monkeypatch, model):
    void = torch.zeros(FRAMES, SIZE, SIZE, dtype=torch.bool)
    void[2, SIZE // 2 :] = True
    clip = make_clip(4, 3, void)
    clip.masks &= ~void[:, None]
    calls = record(monkeypatch, model)
    tracker = make_tracker(model, UserOptions(correction_clicks=6, click_on_object_probability=0.0))
    tracker(collate_clips([clip]), PromptPlan({0: "mask"}, [2]), 3.0)
    assert calls[-2][0]["points"].shape[1] == 6
    assert calls[-2][0]["points"][..., 1].max() < SIZE // 2


# --------------------------------------------------------------------------------------------------------- gradients


def test_gradients_reach_every_part(model, batch):
    tracker, reached = make_tracker(model), set()
    for plan in (MASK, CLICKS, TWO_FRAMES):
        _, grads = gradients(tracker, batch, plan)
        reached |= {name.removeprefix("model.") for name, grad in grads.items() if grad.any()}
    missed = {name for name, _ in model.named_parameters()} - reached
    # No proposal but the best learns its mask; every object was judged present; the last is never used.
    allowed = ("mask_decoder.output_hypernetworks_mlps", "no_object_pointer", "no_memory_positional_encoding")
    assert {name for name in missed if not name.startswith(allowed)} == set()
    assert any(name.startswith("mask_decoder.output_hypernetworks_mlps") for name in reached)


def test_a_later_frame_teaches_the_memory_of_an_earlier_one(monkeypatch, model, batch):
    calls = record(monkeypatch, model)
    output = make_tracker(model)(batch, MASK, 3.0)
    memory, pointer = calls[0][1].memory, calls[0][1].object_pointer
    grads = torch.autograd.grad(output.loss, [memory, pointer])
    assert all(grad.flatten(1).abs().sum(1).gt(0).all() for grad in grads)


@pytest.mark.parametrize("plan", [MASK, CLICKS], ids=["mask", "clicks"])
def test_a_batch_costs_the_sum_of_its_clips_and_objects_do_not_see_each_other(model, plan):
    clips = [make_clip(5, 2), make_clip(6, 1), make_clip(7, 3)]
    tracker = make_tracker(model)
    with torch.no_grad():
        together = tracker(collate_clips(clips), plan, 6.0)
        apart = [tracker(collate_clips([clip]), plan, 6.0) for clip in clips]
        alone = tracker(collate_clips([replace(clips[2], masks=clips[2].masks[:, :1])]), plan, 6.0)
    torch.testing.assert_close(together.loss, sum(output.loss for output in apart), rtol=1e-4, atol=0)
    for name, value in vars(together.object_losses).items():
        parts = torch.cat([getattr(output.object_losses, name) for output in apart])
        torch.testing.assert_close(value, parts, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(value[3:4], getattr(alone.object_losses, name), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        together.iou, torch.cat([output.iou for output in apart], 1), equal_nan=True, rtol=0, atol=2e-3
    )


@pytest.mark.parametrize("plan", [MASK, CLICKS], ids=["mask", "clicks"])
def test_two_processes_with_a_share_of_the_clips_each_average_to_the_whole(model, plan):
    """As DDP averages: objects are shared out unevenly, and every object counts alike."""
    clips = [make_clip(8, 1), make_clip(9, 3)]
    tracker = make_tracker(model)
    _, whole = gradients(tracker, collate_clips(clips), plan, num_objects=4.0)
    halves = [gradients(tracker, collate_clips([clip]), plan, num_objects=4.0 / 2)[1] for clip in clips]
    average = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    # Another batch size rounds otherwise, and a ReLU close to its kink then falls on the other side.
    assert_same_gradients(average, whole, tolerance=2e-2)


@pytest.mark.parametrize("plan", [MASK, CLICKS, TWO_FRAMES], ids=["mask", "clicks", "two frames"])
def test_recomputed_steps_give_the_same_loss_and_gradients_also_with_dropout(batch, plan):
    model = make_model(dropout=0.2)
    results = []
    for checkpoint_steps in (False, True):
        torch.manual_seed(0)
        results.append(gradients(make_tracker(model, checkpoint_steps=checkpoint_steps), batch, plan))
    assert torch.equal(results[0][0].loss, results[1][0].loss)
    assert_same_gradients(results[1][1], results[0][1])


@pytest.mark.parametrize("part", ["memory_attention", "mask_decoder", "memory_encoder"])
@pytest.mark.parametrize("checkpoint_steps", [False, True])
def test_what_is_not_kept_is_computed_again_in_the_backward_pass(monkeypatch, model, batch, part, checkpoint_steps):
    calls, module = [], getattr(model, part)
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs))
    output = make_tracker(model, checkpoint_steps=checkpoint_steps)(batch, CLICKS, 3.0)
    in_forward = len(calls)
    output.loss.backward()
    assert in_forward == {"memory_attention": 3, "mask_decoder": 8, "memory_encoder": 3}[part]
    assert len(calls) == (2 if checkpoint_steps else 1) * in_forward


# ------------------------------------------------------------------------------------------------------- distillation


class MeanFeature(nn.Module):
    def __init__(self, frames=tuple(range(FRAMES))):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.frames = list(frames)

    def chosen_frames(self, num_frames):
        return self.frames

    def forward(self, pixels, features):
        assert len(pixels) == len(features) == len(self.frames) * 2
        self.pixels = pixels
        return self.scale * features.pow(2).mean()


def test_a_feature_loss_is_added_and_learns(model, batch):
    plain = make_tracker(model)(batch, MASK, 3.0)
    tracker = make_tracker(copy.deepcopy(model), distillation=MeanFeature())
    output, grads = gradients(tracker, batch, MASK)
    assert plain.feature_loss is None and output.feature_loss > 0
    torch.testing.assert_close(output.loss, plain.loss + output.feature_loss)
    torch.testing.assert_close(grads["distillation.scale"], output.feature_loss / 2)


def test_the_teacher_sees_the_chosen_frames_of_each_clip(model, batch):
    teacher = MeanFeature([1])
    make_tracker(model, distillation=teacher)(batch, MASK, 3.0)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    shown = (teacher.pixels * std.view(3, 1, 1) + mean.view(3, 1, 1)) * 255
    torch.testing.assert_close(shown, batch.frames[1].float(), atol=1e-2, rtol=0)
