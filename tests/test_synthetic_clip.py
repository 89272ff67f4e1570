"""The synthetic clip: the same every time, and its object where it says."""

import numpy as np
import pytest

from efficienttam_hf.synthetic_clip import make_clip


def test_a_seed_gives_the_same_clip_every_time():
    first, second, other = make_clip(seed=3), make_clip(seed=3), make_clip(seed=4)
    assert (first.frames == second.frames).all()
    assert (first.masks == second.masks).all()
    assert (first.frames != other.frames).any()


@pytest.mark.parametrize("seed", range(4))
def test_the_object_is_whole_in_every_frame_and_the_click_is_on_it(seed):
    clip = make_clip(seed=seed)
    assert clip.frames.shape == (24, 240, 320, 3)
    assert clip.frames.dtype == np.uint8
    x, y = (int(c) for c in clip.click)
    assert clip.masks[0, y, x]
    for mask in clip.masks:
        assert 1000 < mask.sum() < mask.size / 4
        assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def test_the_object_moves_and_looks_unlike_the_background():
    clip = make_clip()
    assert not (clip.masks[0] & clip.masks[-1]).any()
    inside, outside = (clip.frames[0][m].mean(axis=0) for m in (clip.masks[0], ~clip.masks[0]))
    assert np.abs(inside - outside).max() > 50


def test_a_clip_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 1 frame of 32x32"):
        make_clip(width=8)
