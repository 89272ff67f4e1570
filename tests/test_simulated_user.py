"""The simulated user: which frames it prompts, with what, and where its clicks and boxes fall."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from efficienttam_hf.training.simulated_user import PromptPlan, SimulatedUser, UserOptions, plan_prompts, sample_pixels


DRAWS = 4000
HEIGHT, WIDTH = 24, 32


def plans(num_frames, count=DRAWS, **options):
    rng, options = np.random.default_rng(0), UserOptions(**options)
    return [plan_prompts(num_frames, options, rng) for _ in range(count)]


def share(values):
    """How often something is so."""
    values = list(values)
    return sum(values) / len(values)


def close(expected):
    """Within four standard errors and a bit of a share over `DRAWS` draws."""
    return pytest.approx(expected, abs=4 * 0.5 / DRAWS**0.5)


# --------------------------------------------------------------------------------------------------------- the plan


def test_prompts_are_masks_points_and_boxes_as_often_as_published():
    drawn = plans(8)
    kinds = Counter(plan.conditioning[0] for plan in drawn)
    assert kinds["mask"] / DRAWS == close(0.5)
    assert kinds["point"] / DRAWS == close(0.25)
    assert kinds["box"] / DRAWS == close(0.25)
    assert all(set(plan.conditioning.values()) in ({"mask"}, {"point"}, {"box"}, {"point", "box"}) for plan in drawn)


def test_one_or_two_frames_are_prompted_the_first_always_and_the_other_any():
    drawn = plans(8)
    assert all(0 in plan.conditioning for plan in drawn)
    two = [plan for plan in drawn if len(plan.conditioning) == 2]
    assert len(two) / DRAWS == close(0.5) and max(len(plan.conditioning) for plan in drawn) == 2
    others = Counter(max(plan.conditioning) for plan in two)
    assert set(others) == set(range(1, 8))
    assert all(count / len(two) == pytest.approx(1 / 7, abs=0.04) for count in others.values())


def test_masks_are_not_corrected_and_points_are_on_as_many_frames_as_published():
    drawn = plans(8)
    assert all(plan.corrected == [] for plan in drawn if plan.conditioning[0] == "mask")
    by_points = [plan for plan in drawn if plan.conditioning[0] != "mask"]
    # One prompted frame: one or two are corrected. Two prompted frames: both.
    counts = Counter((len(plan.conditioning), len(plan.corrected)) for plan in by_points)
    assert set(counts) == {(1, 1), (1, 2), (2, 2)}
    assert counts[1, 1] / len(by_points) == pytest.approx(0.25, abs=0.05)
    assert counts[1, 2] / len(by_points) == pytest.approx(0.25, abs=0.05)
    assert all(set(plan.conditioning) <= set(plan.corrected) for plan in by_points)
    assert all(plan.corrected == sorted(set(plan.corrected)) and plan.corrected[-1] < 8 for plan in by_points)


def test_counts_that_are_not_drawn_are_the_maximum():
    for plan in plans(8, 100, random_frame_counts=False, max_conditioning_frames=3, max_corrected_frames=5):
        assert len(plan.conditioning) == 3
        assert len(plan.corrected) == (0 if plan.conditioning[0] == "mask" else 5)


def test_a_frame_of_a_clip_is_always_left_to_be_tracked():
    for num_frames in (2, 3, 4):
        for plan in plans(num_frames, 300, max_conditioning_frames=9, max_corrected_frames=9):
            assert len(plan.conditioning) < num_frames
            assert max(plan.conditioning) < num_frames
    two_frames = plans(2, 300)
    assert all(list(plan.conditioning) == [0] for plan in two_frames)
    assert {tuple(plan.corrected) for plan in two_frames} == {(), (0,), (0, 1)}


def test_a_single_image_is_prompted_by_a_point_or_a_box():
    drawn = plans(1, point_probability=0.0)
    assert {plan.conditioning[0] for plan in drawn} == {"point", "box"}
    assert share(plan.conditioning == {0: "box"} for plan in drawn) == close(0.5)
    assert all(plan.corrected == [0] for plan in drawn)


@pytest.mark.parametrize("options", [{"max_corrected_frames": 0}, {"correction_clicks": 0}])
def test_without_corrections_no_frame_is_corrected(options):
    assert all(plan.corrected == [] for plan in plans(5, 200, **options))
    assert all(plan.corrected == [] for plan in plans(1, 20, **options))


def test_fewer_frames_may_be_corrected_than_are_prompted():
    drawn = plans(8, 300, point_probability=1.0, max_conditioning_frames=3, max_corrected_frames=1)
    assert {len(plan.conditioning) for plan in drawn} == {1, 2, 3}
    assert all(plan.corrected == [0] for plan in drawn)


def test_certain_probabilities_are_certain():
    assert all(set(p.conditioning.values()) == {"mask"} for p in plans(6, 100, point_probability=0))
    assert all(set(p.conditioning.values()) == {"box"} for p in plans(6, 100, point_probability=1, box_probability=1))
    assert all(set(p.conditioning.values()) == {"point"} for p in plans(6, 100, point_probability=1, box_probability=0))


def test_a_plan_follows_from_the_generator():
    def draw(seed):
        return plan_prompts(8, UserOptions(), np.random.default_rng(seed))

    assert [draw(seed) for seed in range(20)] == [draw(seed) for seed in range(20)]
    assert isinstance(draw(0), PromptPlan) and draw(0) != draw(1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("point_probability", 1.5),
        ("box_probability", -0.1),
        ("click_on_object_probability", float("nan")),
        ("max_conditioning_frames", 0),
        ("max_corrected_frames", -1),
        ("correction_clicks", -1),
        ("box_noise", 0.7),
        ("max_box_noise", -1.0),
    ],
)
def test_an_option_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        UserOptions(**{field: value})


# ------------------------------------------------------------------------------------------------------------- clicks


def rectangle(top, left, bottom, right):
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def many(mask, count=DRAWS):
    """The same mask for many objects."""
    return mask.expand(count, -1, -1)


def at(mask, points):
    """Whether each of (O, 1, 2) points is on the mask."""
    x, y = points.squeeze(1).long().unbind(1)
    return mask[y, x]


def user(count=DRAWS, **options):
    return SimulatedUser(UserOptions(**options), range(count))


def test_every_pixel_of_a_region_is_equally_likely():
    region = torch.zeros(3, 4, dtype=torch.bool)
    region[0, 3] = region[1, 0] = region[2, 2] = region[2, 3] = True
    where = (torch.arange(400) + 0.5) / 400
    points = sample_pixels(region.expand(400, -1, -1), where)
    counts = Counter(map(tuple, points.long().tolist()))
    assert counts == {(3, 0): 100, (0, 1): 100, (2, 2): 100, (3, 2): 100}


def test_the_ends_of_the_draw_are_the_first_and_last_pixel_also_of_a_large_frame():
    regions = torch.zeros(2, 1024, 1024, dtype=torch.bool)
    regions[:, 5, 7] = regions[:, 1000, 3] = True
    regions[1] = True
    points = sample_pixels(regions, torch.tensor([0.0, 0.0]))
    assert points.tolist() == [[7, 5], [0, 0]]
    points = sample_pixels(regions, torch.tensor([1 - 2**-24, 1 - 2**-24]))
    assert points.tolist() == [[3, 1000], [1023, 1023]]


def test_an_empty_region_stands_for_the_whole_frame():
    points = sample_pixels(torch.zeros(4, HEIGHT, WIDTH, dtype=torch.bool), torch.tensor([0, 0.3, 0.6, 0.999]))
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [WIDTH - 1, HEIGHT - 1]


def test_the_first_click_is_anywhere_on_the_object():
    mask = rectangle(2, 3, 8, 13)
    points, labels = user().first_click(many(mask), 0)
    assert points.shape == (DRAWS, 1, 2) and labels.shape == (DRAWS, 1)
    assert points.dtype == torch.float32 and labels.dtype == torch.int64
    assert labels.all() and at(mask, points).all()
    counts = Counter(map(tuple, points.squeeze(1).tolist()))
    assert len(counts) == 60
    assert max(counts.values()) < 2 * DRAWS / 60


def test_a_click_for_an_absent_object_is_negative_and_anywhere():
    nothing = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for points, labels in (
        user().first_click(many(nothing), 0),
        user(click_on_object_probability=1.0).correction(many(nothing), many(nothing), 0, 0),
    ):
        assert not labels.any()
        assert points.squeeze(1).mean(0).tolist() == pytest.approx([(WIDTH - 1) / 2, (HEIGHT - 1) / 2], abs=0.7)


def test_corrections_fall_in_the_error_and_say_what_is_wrong():
    true, predicted = rectangle(2, 2, 12, 12), rectangle(2, 5, 12, 20)
    points, labels = user(click_on_object_probability=0.0).correction(many(true), many(predicted), 0, 0)
    missed, wrong = true & ~predicted, predicted & ~true
    assert torch.equal(at(missed, points), labels.squeeze(1) == 1)
    assert torch.equal(at(wrong, points), labels.squeeze(1) == 0)
    # In either by its area: 3 columns were missed and 8 are wrong.
    assert share(labels.squeeze(1).tolist()) == close(3 / 11)


def test_a_tenth_of_the_corrections_ignores_the_prediction():
    true, predicted = rectangle(2, 2, 12, 12), rectangle(2, 2, 12, 20)
    points, labels = user().correction(many(true), many(predicted), 0, 0)
    ignores = at(true & predicted, points)
    assert share(ignores.tolist()) == close(0.1)
    assert labels[ignores].all() and not labels[~ignores].any()
    assert at(predicted & ~true, points[~ignores]).all()


def test_where_nothing_is_wrong_the_click_is_on_the_object():
    mask = rectangle(2, 2, 12, 12)
    points, labels = user(100, click_on_object_probability=0.0).correction(many(mask, 100), many(mask, 100), 0, 0)
    assert labels.all() and at(mask, points).all()


def test_a_prediction_for_an_absent_object_is_clicked_away():
    nothing, predicted = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool), rectangle(4, 4, 9, 9)
    points, labels = user(100, click_on_object_probability=0.0).correction(
        many(nothing, 100), many(predicted, 100), 0, 0
    )
    assert not labels.any() and at(predicted, points).all()


# -------------------------------------------------------------------------------------------------------------- boxes


def test_a_box_without_noise_is_the_objects():
    mask = rectangle(3, 5, 11, 20)
    points, labels = user(2, box_noise=0.0).box(many(mask, 2), 0)
    assert points.tolist() == [[[5, 3], [19, 10]]] * 2
    assert labels.tolist() == [[2, 3]] * 2


@pytest.mark.parametrize(("noise", "most"), [(0.1, 20.0), (0.5, 3.0)])
def test_the_noise_of_boxes_is_bounded_uniform_and_of_each_side_its_own(noise, most):
    mask = rectangle(6, 8, 17, 25)  # 10 pixels from the first row to the last, 16 from the first column to the last
    points, _ = user(box_noise=noise, max_box_noise=most).box(many(mask), 0)
    shift = points.flatten(1) - torch.tensor([8.0, 6.0, 24.0, 16.0])
    reach = torch.tensor([16.0, 10.0, 16.0, 10.0]).mul(noise).clamp(max=most)
    assert (shift.abs() <= reach + 1e-5).all()
    assert (shift.abs().max(0).values > 0.95 * reach).all()
    assert (shift / reach).mean(0).abs().max() < 0.06
    assert torch.corrcoef(shift.T).triu(1).abs().max() < 0.08


def test_boxes_stay_in_the_frame():
    points, _ = user(500).box(many(torch.ones(HEIGHT, WIDTH, dtype=torch.bool), 500), 0)
    assert points.min() == 0
    assert points[..., 0].max() == WIDTH - 1 and points[..., 1].max() == HEIGHT - 1
    assert (points[:, 0] < points[:, 1]).all()


def test_an_object_that_is_one_pixel_has_a_box():
    points, labels = user(1).box(many(rectangle(4, 6, 5, 7), 1), 0)
    assert points.tolist() == [[[6, 4], [6, 4]]] and labels.tolist() == [[2, 3]]


def test_an_absent_object_gets_a_negative_click_in_place_of_a_box_beside_one_that_has_its_box():
    masks = torch.stack([rectangle(3, 5, 11, 20), torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)])
    simulated = user(2, box_noise=0.0)
    points, labels = simulated.box(masks, 3)
    assert labels.tolist() == [[2, 3], [0, -1]]
    assert points[0].tolist() == [[5, 3], [19, 10]]
    assert torch.equal(points[1, 0], simulated.first_click(masks, 3)[0][1, 0])


# --------------------------------------------------------------------------------------------------------------- seeds


def prompts_of(seeds, masks, predicted):
    simulated = SimulatedUser(UserOptions(), seeds)
    return [
        simulated.first_click(masks, 2),
        simulated.box(masks, 2),
        simulated.correction(masks, predicted, 2, 0),
        simulated.correction(masks, predicted, 2, 6),
    ]


def test_what_is_drawn_for_an_object_follows_from_its_seed_not_from_its_batch():
    generator = torch.Generator().manual_seed(0)
    masks, predicted = (torch.rand(6, HEIGHT, WIDTH, generator=generator) > 0.5 for _ in range(2))
    masks[4] = False
    seeds = [7, 2**62, 0, 7, 5, 1]
    together = prompts_of(seeds, masks, predicted)
    for rows in ([0], [5, 1], [2, 4, 3]):
        apart = prompts_of([seeds[row] for row in rows], masks[rows], predicted[rows])
        for (points, labels), (expected_points, expected_labels) in zip(apart, together, strict=True):
            assert torch.equal(points, expected_points[rows]) and torch.equal(labels, expected_labels[rows])


def test_seeds_frames_and_clicks_differ_in_what_is_drawn():
    masks = many(torch.ones(HEIGHT, WIDTH, dtype=torch.bool), 50)
    simulated = SimulatedUser(UserOptions(), range(50))
    clicks = [simulated.first_click(masks, frame)[0] for frame in (0, 1)]
    clicks += [simulated.correction(masks, ~masks, 0, click)[0] for click in (0, 1)]
    clicks += [SimulatedUser(UserOptions(), range(50, 100)).first_click(masks, 0)[0]]
    for i, a in enumerate(clicks):
        assert len(a.unique(dim=0)) > 40
        for b in clicks[:i]:
            assert (a == b).all(-1).float().mean() < 0.1
