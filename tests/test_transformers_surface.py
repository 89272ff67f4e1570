"""The rest of Transformers' and the published interface: what sessions and models say and do beside tracking."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from reference import tiny_config, with_objects, write_frames

from efficienttam_hf import EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.memory import FrameMemory
from efficienttam_hf.object_memory import ObjectMemory
from efficienttam_hf.tracking_rules import Direction, TrackingRules
from efficienttam_hf.video_backend import TorchBackend


HEIGHT, WIDTH = 60, 80
CLICK = {"input_points": [[[[30, 20]]]], "input_labels": [[[1]]]}


def frames(count: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture
def session(model, processor):
    """Object 4 clicked and object 9 given as a mask on frame 0, tracked to frame 3."""
    session = processor.init_video_session(frames(), max_vision_features_cache_size=2)
    processor.add_inputs_to_inference_session(session, 0, 4, **CLICK)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:50, 10:40] = True
    processor.add_inputs_to_inference_session(session, 0, 9, input_masks=mask)
    list(model.propagate_in_video_iterator(session, max_frame_num_to_track=3))
    return session


def tracked(model, session) -> list[torch.Tensor]:
    return [output.pred_masks for output in model.propagate_in_video_iterator(session, start_frame_idx=3)]


# ------------------------------------------------------------------------------------------------------------ sessions


def test_a_session_shows_its_frames_and_inputs_as_transformers_does(session):
    assert list(session.processed_frames) == list(range(6)) and len(session.processed_frames) == 6
    assert torch.equal(session.processed_frames[2], session.get_frame(2))
    assert 6 not in session.processed_frames
    assert session.max_vision_features_cache_size == 2
    inputs = session.point_inputs_per_obj
    assert list(inputs) == [0, 1] and list(inputs[0]) == [0] and inputs[1] == {}
    torch.testing.assert_close(inputs[0][0]["point_coords"], torch.tensor([[[[30 / WIDTH * 128, 20 / HEIGHT * 128]]]]))
    assert inputs[0][0]["point_labels"].tolist() == [[[1]]]
    assert session.mask_inputs_per_obj[0] == {} and session.mask_inputs_per_obj[1][0].shape == (1, 1, 128, 128)
    assert session.frames_tracked_per_obj[1] == {t: {"reverse": False} for t in range(4)}


def test_a_streams_frames_are_those_still_kept(model, processor):
    session = processor.init_video_session()
    assert session.processed_frames is None
    for frame in frames(3):
        model(session, frame=frame)
    assert list(session.processed_frames) == [2]


def test_outputs_that_are_kept_can_be_read(model, session):
    output = model.get_frame_output(session, 2)
    for row in range(2):
        for key in ("pred_masks", "object_pointer", "object_score_logits", "iou_scores"):
            value = session.get_output(row, 2, key, is_conditioning_frame=False)
            assert torch.equal(value, getattr(output, key)[row : row + 1])
    assert session.get_output(0, 0, "maskmem_features").shape == (64, 1, 16)
    assert session.get_output(0, 2, "pred_masks") is None  # frame 2 defines no object
    assert list(session.output_dict_per_obj[1]["cond_frame_outputs"]) == [0]
    assert list(session.output_dict_per_obj[1]["non_cond_frame_outputs"]) == [1, 2, 3]
    with pytest.raises(KeyError, match="memory is bounded"):
        session.get_output(0, 0, "high_res_masks")


def test_outputs_can_be_stored_and_count(model, processor, session):
    copied = processor.init_video_session(frames())
    for obj_id in session.obj_ids:
        copied.obj_id_to_idx(obj_id)
    for row, outputs in session.output_dict_per_obj.items():
        for name, is_conditioning in (("cond_frame_outputs", True), ("non_cond_frame_outputs", False)):
            for t, values in outputs[name].items():
                copied.store_output(row, t, output_value=values, is_conditioning_frame=is_conditioning)
    for ours, expected in zip(tracked(model, copied), tracked(model, session), strict=True):
        assert torch.equal(ours, expected)
    copied.store_output(0, 0, "iou_scores", torch.full((1, 1), 0.25))
    assert model.get_frame_output(copied, 0).iou_scores[0] == 0.25
    with pytest.raises(KeyError, match="object_pointer"):
        copied.store_output(0, 1, output_value={"pred_masks": torch.zeros(1, 1, 32, 32)})
    with pytest.raises(KeyError, match="no 'high_res_masks'"):
        copied.store_output(0, 0, "high_res_masks", torch.zeros(1))


def test_inputs_that_wait_can_be_taken_back(processor, session):
    processor.add_inputs_to_inference_session(session, 5, 4, **CLICK)
    session.remove_mask_inputs(0, 5)
    assert session.obj_with_new_inputs == [4]
    session.remove_point_inputs(0, 5)
    assert session.obj_with_new_inputs == [] and 5 not in session.point_inputs_per_obj[0]


def test_removing_an_unknown_object_is_an_error_only_if_asked(session):
    session.remove_object(7, strict=False)
    assert session.obj_ids == [4, 9]
    with pytest.raises(ValueError, match="no object 7"):
        session.remove_object(7, strict=True)
    session.remove_object(4, strict=False)
    assert session.obj_ids == [9]


def test_reset_state_forgets_objects_and_features(session):
    session.reset_state()
    assert session.obj_ids == [] and session.num_frames == 6 and 3 not in session.cache


def copies(session):
    return {"copied": copy.deepcopy(session), "pickled": pickle.loads(pickle.dumps(session))}


@pytest.mark.parametrize("kind", ["frames", "folder", "file", "stream"])
def test_a_session_can_be_copied_and_pickled(model, processor, tmp_path, kind):
    from PIL import Image

    video = frames()
    if kind == "folder":
        for t, frame in enumerate(video):
            Image.fromarray(frame).save(tmp_path / f"{t:05d}.png")
        video = tmp_path
    elif kind == "file":
        pytest.importorskip("av")

        write_frames(tmp_path / "video.mp4", 24, video)
        video = str(tmp_path / "video.mp4")
    session = processor.init_video_session(None if kind == "stream" else video)
    processor.add_inputs_to_inference_session(session, 0, 1, **CLICK, original_size=(HEIGHT, WIDTH))
    if kind == "stream":
        model(session, frame=frames()[0])
    else:
        list(model.propagate_in_video_iterator(session, max_frame_num_to_track=2))
    rest = frames()[1:3] if kind == "stream" else None
    expected = None
    for each in (*copies(session).values(), session):
        results = tracked(model, each) if rest is None else [model(each, frame=frame).pred_masks for frame in rest]
        expected = expected or results
        for ours, theirs in zip(results, expected, strict=True):
            assert torch.equal(ours, theirs)


# -------------------------------------------------------------------------------------------------------------- models


def test_a_model_has_the_attributes_of_transformers(model):
    assert model.image_size == 128 and model.num_maskmem == 7
    assert (model.hidden_dim, model.mem_dim) == (64, 16)
    assert model.backbone_feature_sizes == [[8, 8]]


def test_a_model_without_its_image_encoder_takes_features_from_elsewhere(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    headless = EfficientTamVideoModel.from_pretrained(tmp_path, remove_vision_encoder=True).eval()
    assert headless.vision_encoder is None and headless.get_input_embeddings() is None
    names = {name for name, _ in model.named_parameters() if not name.startswith("vision_encoder.")}
    assert {name for name, _ in headless.named_parameters()} == names

    class Encoder:
        def features(self, session, frame_idx, encode):
            with torch.no_grad():
                return model.encode_frame(session.get_frame(frame_idx))

    results = []
    for each, provider in ((model, None), (headless, Encoder())):
        session = processor.init_video_session(frames(3))
        session.feature_provider = provider
        processor.add_inputs_to_inference_session(session, 0, 1, **CLICK)
        results.append(torch.stack([o.pred_masks for o in each.propagate_in_video_iterator(session)]))
    assert torch.equal(*results)
    session.reset_state()
    session.feature_provider = None
    processor.add_inputs_to_inference_session(session, 0, 1, **CLICK)
    with pytest.raises(ValueError, match="feature_provider"):
        headless(session, frame_idx=0)


# ---------------------------------------------------------------------------------------- options of the published code


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
@pytest.mark.parametrize("reverse", [False, True])
def test_memories_at_a_stride_are_those_of_the_published_code(stride, reverse):
    rules = TrackingRules(num_maskmem=7, memory_temporal_stride_for_eval=stride)
    for frame_idx in range(30, 41):
        expected = []
        for t_pos in range(1, 7):  # the published loop, over positions from the farthest memory to the nearest
            t_rel = 7 - t_pos
            if t_rel == 1:
                previous = frame_idx + 1 if reverse else frame_idx - 1
            elif reverse:
                previous = -(-(frame_idx + 2) // stride) * stride + (t_rel - 2) * stride
            else:
                previous = ((frame_idx - 2) // stride) * stride - (t_rel - 2) * stride
            expected.append((previous, 7 - t_pos - 1))
        assert rules.memory_frames(frame_idx, Direction.of(reverse)) == expected
        assert max(abs(t - frame_idx) for t, _ in expected) <= rules.reach
    assert rules.for_training().memory_frames(20, Direction.FORWARD) == [(20 - k, k - 1) for k in range(6, 0, -1)]


def entry(t: int) -> FrameMemory:
    one = torch.full((1, 1), float(t))
    return FrameMemory(one[None, None], one, one, one.clone(), spatial=one[None])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pending", ["pending_conditioning", "pending_tracked"])
def test_memories_around_a_prompt_are_dropped_as_in_the_published_code(stride, pending):
    rules = TrackingRules(num_maskmem=3, memory_temporal_stride_for_eval=stride, clear_non_cond_mem_around_input=True)
    memory = ObjectMemory(conditioning={0: entry(0)}, tracked={t: entry(t) for t in range(1, 30)})
    getattr(memory, pending)[15] = entry(15)
    memory.commit(rules)
    window = range(15 - 3 * stride, 15 + 3 * stride + 1)
    assert sorted(memory.tracked) == [t for t in range(1, 30) if t not in window]
    assert sorted(memory.conditioning) == ([0, 15] if pending == "pending_conditioning" else [0])
    plain = ObjectMemory(conditioning={0: entry(0)}, tracked={t: entry(t) for t in range(1, 30)})
    plain.commit(TrackingRules())
    assert len(plain.tracked) == 29


def small_model(**options) -> EfficientTamVideoModel:
    torch.manual_seed(1)
    return with_objects(EfficientTamVideoModel(tiny_config(**options)).eval())


def test_passing_a_prompted_frame_drops_the_memories_around_it():
    model = small_model(clear_non_cond_mem_around_input=True, num_maskmem=3)
    processor = EfficientTamVideoProcessor.from_config(model.config)
    session = processor.init_video_session(frames())
    processor.add_inputs_to_inference_session(session, 0, 1, **CLICK)
    list(model.propagate_in_video_iterator(session))
    assert sorted(session.objects[1].memory.tracked) == [1, 2, 3, 4, 5]
    next(model.propagate_in_video_iterator(session, start_frame_idx=0))
    assert sorted(session.objects[1].memory.tracked) == [4, 5]


def test_masks_are_remembered_without_overlap_as_the_published_code_makes_them(monkeypatch):
    model = small_model(non_overlap_masks_for_mem_enc=True)
    processor = EfficientTamVideoProcessor.from_config(model.config)
    session = processor.init_video_session(frames())
    for obj_id, x in ((1, 30), (2, 40), (3, 50)):
        processor.add_inputs_to_inference_session(session, 0, obj_id, input_points=[[[[x, 20]]]], input_labels=[[[1]]])
    remembered = []
    encode = model.encode_memory
    monkeypatch.setattr(
        model, "encode_memory", lambda f, masks, p: remembered.append((masks, p)) or encode(f, masks, p)
    )

    def expected(output) -> torch.Tensor:
        masks = model._upsample(output.pred_masks)
        winner = masks.argmax(dim=0)
        return torch.stack([torch.where(winner == i, m, m.clamp(max=-10.0)) for i, m in enumerate(masks)])

    for t, output in enumerate(model.propagate_in_video_iterator(session, max_frame_num_to_track=1)):
        assert torch.equal(torch.cat([masks for masks, _ in remembered]), expected(output))
        assert [from_prompts for _, from_prompts in remembered] == [t == 0] * 3
        remembered.clear()
    entries = [obj.memory.tracked[1] for obj in session.objects.values()]
    apart = TorchBackend(model).without_overlap(entries)
    assert ((torch.cat(apart) > 0).sum(0) <= 1).all()
    features = session.cache.get(1)
    for kept, mask in zip(entries, apart, strict=True):
        with torch.no_grad():
            assert torch.equal(kept.spatial, encode(features, mask, False).to(torch.bfloat16))


def test_a_model_with_competing_memories_is_not_exported(tmp_path):
    from efficienttam_hf.export.exporting import check_exportable

    with pytest.raises(ValueError, match="non_overlap_masks_for_mem_enc cannot be exported"):
        check_exportable(small_model(non_overlap_masks_for_mem_enc=True), tmp_path / "out", overwrite=False)


def test_a_stride_is_at_least_one():
    with pytest.raises(ValueError, match="memory_temporal_stride_for_eval"):
        tiny_config(memory_temporal_stride_for_eval=0)
