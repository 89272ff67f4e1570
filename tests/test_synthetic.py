"""Synthetic videos: what a clip promises, whatever its scene, and that each ingredient of a scene does what it says."""

import hashlib
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from efficienttam_hf.data.synthetic import SyntheticClips, SyntheticOptions


cv2 = pytest.importorskip("cv2")

# A scene in which only one object is, in front of a camera that does not move.
PLAIN = {
    "max_untracked": 0, "clutter": 0, "midground": 0, "sway": 0, "camera_still": 1, "camera_shake": 0, "camera_pan": 0,
    "camera_follow": 0, "aspect_ratios": (1.0,), "light": 0, "lamp": 0, "noise": 0, "compression": 0,
    "low_resolution": 0, "shadow": 0, "shutter": (0.0, 0.0), "camouflage": 0, "soft_edge": 0,
}  # fmt: skip


class Drawings:
    """Ingredients in memory: a red rectangle, and dark grey photographs of noise."""

    num_cutouts, num_photos = 1, 3

    def cutout(self, index):
        drawing = np.full((60, 60, 4), (255, 0, 0, 255), np.uint8)
        drawing[:, :8, 3] = 0
        return drawing

    def photo(self, index):
        grey = np.random.default_rng(index).integers(0, 120, (150, 200, 1), dtype=np.uint8)
        return np.repeat(grey, 3, axis=2)


@pytest.mark.parametrize("size, num_frames, ingredients", [(64, 1, None), ((48, 80), 5, None), (64, 4, Drawings())])
def test_clips_have_the_asked_form_and_all_objects_visible_at_first(size, num_frames, ingredients):
    clips = SyntheticClips(size, num_frames, max_objects=3, ingredients=ingredients, min_visible=0.01)
    height, width = (size, size) if isinstance(size, int) else size
    for index in range(25):
        clip = clips[index]
        objects = clip.masks.shape[1]
        assert 1 <= objects <= 3
        assert clip.frames.shape == (num_frames, 3, height, width) and clip.frames.dtype == torch.uint8
        assert clip.masks.shape == (num_frames, objects, height, width) and clip.masks.dtype == torch.bool
        assert clip.masks[0].flatten(1).sum(1).min() >= 0.01 * height * width
        assert clip.masks.sum(1).max() <= 1, "a pixel belongs to what is in front, and to nothing else"
        assert clip.object_ids == list(range(1, objects + 1)) and clip.frame_indices == list(range(num_frames))
        assert str(index) in clip.name


def test_a_clip_follows_from_settings_and_index_alone():
    clips = SyntheticClips(48, 3, seed=5)
    first, other = clips[7], clips[8]
    again = pickle.loads(pickle.dumps(clips))[7]
    assert torch.equal(first.frames, again.frames) and torch.equal(first.masks, again.masks)
    assert first.seed == again.seed != other.seed
    assert not torch.equal(first.frames, other.frames)
    assert not torch.equal(first.frames, SyntheticClips(48, 3, seed=6)[7].frames)


def _digest(clip):
    return hashlib.sha256(clip.frames.numpy().tobytes() + clip.masks.numpy().tobytes()).hexdigest()


@pytest.mark.slow
def test_another_process_draws_the_same():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        elsewhere = pool.submit(SyntheticClips(48, 2).__getitem__, 10**9).result()
    assert _digest(elsewhere) == _digest(SyntheticClips(48, 2)[10**9])


def test_masks_cover_exactly_what_is_drawn():
    """A red object over a grey photograph can be found by its colour alone, but for the pixels of its edge."""
    clips = SyntheticClips(
        96, 4, max_objects=1, ingredients=Drawings(), **PLAIN, figure=0, cutout=1, own_colours=1, photo_surface=0,
        procedural_surface=0, shading=0, photo_background=1, defocus=0,
    )  # fmt: skip
    for index in range(10):
        clip = clips[index]
        for frame, mask in zip(clip.frames.int(), clip.masks[:, 0].numpy().astype(np.uint8), strict=True):
            red = (frame[0] - torch.maximum(frame[1], frame[2])).numpy()
            assert (red[cv2.erode(mask, None) > 0] > 100).all()
            assert (red[cv2.dilate(mask, None) == 0] < 100).all()


def test_a_still_camera_leaves_the_background_and_a_moving_one_does_not():
    still = SyntheticClips(64, 3, max_objects=1, **PLAIN)[3]
    moving = SyntheticClips(64, 3, max_objects=1, **PLAIN | {"camera_still": 0, "camera_pan": 1})[3]
    for clip, moves in ((still, False), (moving, True)):
        background = ~clip.masks.any(dim=0)[0]
        # A pixel beside the outline may be partly the object's.
        background = ~(torch.nn.functional.max_pool2d((~background)[None, None].float(), 5, 1, 2)[0, 0] > 0)
        change = (clip.frames[0].float() - clip.frames[-1].float()).abs().amax(0)[background]
        assert (change.max() > 0) == moves


def test_objects_move_hide_leave_and_return():
    clips = SyntheticClips(48, 12, max_objects=3)
    absent = returned = moved = 0
    for index in range(40):
        visible = clips[index].masks.flatten(2).any(2).T
        absent += int((~visible).any(1).sum())
        returned += sum(bool((~one[:-1] & one[1:]).any()) for one in visible)
        masks = clips[index].masks
        moved += int((masks[0] != masks[-1]).flatten(1).any(1).sum())
    assert absent >= 3 and returned >= 1 and moved >= 40


def test_a_hidden_object_is_not_tracked():
    """What something else hides almost wholly at first is nothing that a user could have pointed at."""
    from efficienttam_hf.data.synthetic.bodies import Wardrobe
    from efficienttam_hf.data.synthetic.compose import compose

    options = SyntheticOptions()
    scene = compose(np.random.default_rng(0), (64, 64), 1, 3, Wardrobe([], None, options))
    whole = scene.frame(0)
    assert (np.bincount(whole.seen.ravel(), minlength=256)[1:] <= whole.whole[1:]).all()
    everything = SyntheticClips(64, 1, min_shown_part=0.0)
    strict = SyntheticClips(64, 1, min_shown_part=1.0)
    assert sum(strict[i].masks.shape[1] for i in range(30)) < sum(everything[i].masks.shape[1] for i in range(30))


def test_motion_blur_keeps_the_light_and_the_middle():
    from efficienttam_hf.data.synthetic.render import motion_blur

    image = np.zeros((41, 41, 4), np.uint8)
    image[18:23, 18:23] = 200
    blurred = motion_blur(image, (9.0, -5.0)).astype(float)[..., 0]
    y, x = np.mgrid[:41, :41]
    assert blurred.sum() == pytest.approx(25 * 200, rel=0.02)
    assert (blurred * x).sum() / blurred.sum() == pytest.approx(20, abs=0.1)
    assert (blurred * y).sum() / blurred.sum() == pytest.approx(20, abs=0.1)
    assert blurred[23, 16] > 0 == blurred[16, 16], "along the motion and not across it"
    assert motion_blur(image, (0.5, 0.0)) is image


def test_warp_and_its_coarse_deformation_agree_with_each_other():
    """A deformation that moves nothing gives what the plain map gives, also at the border of the canvas."""
    from efficienttam_hf.data.synthetic.render import Deformation, warp

    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 50, 4), dtype=np.uint8), None, 2)
    matrix = np.array([[1.2, -0.4, 30], [0.5, 1.1, -20], [0.001, 0.0005, 1]])
    nothing = Deformation(np.zeros((1, 6)), np.zeros((1, 7)))
    plain, deformed = warp(image, matrix, (80, 90)), warp(image, matrix, (80, 90), nothing)
    assert (plain.left, plain.top, plain.image.shape) == (deformed.left, deformed.top, deformed.image.shape)
    assert np.abs(plain.image.astype(int) - deformed.image).mean() < 1
    assert warp(image, matrix + np.array([[0, 0, 500], [0, 0, 0], [0, 0, 0]]), (80, 90)) is None


def test_options_come_from_configs():
    assert SyntheticClips(64, 1, options={"speed": [0.1, 0.2]}, tilt=3.0).options == SyntheticOptions(
        speed=(0.1, 0.2), tilt=3.0
    )
    with pytest.raises(ValueError, match="'sped'.*speed"):
        SyntheticClips(64, 1, options={"sped": 1})


@pytest.mark.parametrize("wrong", [{"image_size": 16}, {"num_frames": 0}, {"max_objects": 0}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1 frame|1 to 255"):
        SyntheticClips(**{"image_size": 64, "num_frames": 1} | wrong)


def test_scenes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="min_visible"):
        SyntheticClips(32, 1, min_visible=0.99)[0]
    with pytest.raises(IndexError, match="from 0"):
        SyntheticClips(32, 1)[-1]
