"""What each effect does to which pixels, what a stream remembers, and what is refused, on small frames made here."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from efficienttam_hf.effects import (
    EFFECTS,
    BlackAndWhite,
    Blur,
    BlurBackground,
    Cutout,
    EffectStream,
    Fill,
    GreenScreen,
    Outline,
    Overlay,
    Pixelate,
    ReplaceBackground,
    Spotlight,
    parse_effect,
)
from efficienttam_hf.visualization import object_color, overlay_masks


pytest.importorskip("cv2", reason="effects are drawn with OpenCV")

HEIGHT, WIDTH = 60, 90
HIDING = (Pixelate, Blur, Fill)


@pytest.fixture
def frame():
    return np.random.default_rng(0).integers(30, 226, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def masks():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return {1: (x - 25) ** 2 + (y - 30) ** 2 < 15**2, 2: (abs(x - 70) < 12) & (abs(y - 40) < 30)}


def square(left, top=10, side=20):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, left : left + side] = True
    return mask


# ----------------------------------------------------------------------------------------------------------- one frame


@pytest.mark.parametrize("name", [name for name in EFFECTS if name not in ("overlay", "cutout", "mask", "outline")])
def test_one_side_of_the_mask_stays_as_it_is_and_the_other_does_not(name, frame, masks):
    before = frame.copy()
    picture = parse_effect(name)(frame, masks)
    inside = masks[1] | masks[2]
    kept = ~inside if EFFECTS[name] in HIDING else inside
    assert (frame == before).all() and picture.dtype == np.uint8 and picture.shape == frame.shape
    assert (picture[kept] == frame[kept]).all()
    assert (picture[~kept] != frame[~kept]).any(axis=1).mean() > 0.9


@pytest.mark.parametrize("name", EFFECTS)
def test_without_objects_there_is_a_picture_too(name, frame):
    effect = parse_effect(name)
    for masks in ({}, {1: np.zeros((HEIGHT, WIDTH), bool)}):
        picture = effect(frame, masks)
        assert picture.shape == (HEIGHT, WIDTH, effect.channels)
        if name in ("overlay", "outline", "pixelate", "blur", "fill"):
            assert (picture == frame).all()
        elif name in ("cutout", "mask"):
            assert not picture.any()
    assert effect(frame, {1: np.ones((HEIGHT, WIDTH), bool)}).shape == (HEIGHT, WIDTH, effect.channels)


@pytest.mark.parametrize("name", EFFECTS)
def test_only_the_chosen_objects_are_meant(name, frame, masks):
    chosen, alone = parse_effect(f"{name}:objects=2")(frame, masks), parse_effect(name)(frame, {2: masks[2]})
    assert (chosen == alone).all()
    assert (chosen != parse_effect(name)(frame, {1: masks[1]})).any()


def test_the_overlay_is_the_usual_one(frame, masks):
    assert (Overlay()(frame, masks) == overlay_masks(frame, masks, labels=True)).all()
    assert (
        Overlay(alpha=0.2, contour=False, labels=False)(frame, masks) == overlay_masks(frame, masks, 0.2, False)
    ).all()


def test_an_outline_has_the_colour_of_its_object_and_changes_only_the_edge(frame, masks):
    picture = Outline(width=2)(frame, masks)
    assert (np.abs(picture[40, 59].astype(int) - object_color(2)) < 12).all()
    assert (picture[30, 25] == frame[30, 25]).all() and (picture[5, 5] == frame[5, 5]).all()
    assert (Outline(color="#102030", width=3)(frame, masks)[40, 59] == (16, 32, 48)).all()


def test_a_spotlight_dims_the_rest_and_makes_it_grey(frame, masks):
    outside = ~(masks[1] | masks[2])
    dimmed = Spotlight(dim=0.25, grey=False)(frame, masks)[outside]
    assert np.abs(dimmed - 0.75 * frame[outside]).max() <= 0.51
    grey = Spotlight(dim=0)(frame, masks)[outside]
    assert (grey == grey[:, :1]).all() and np.abs(grey[:, 0] - frame[outside] @ (0.299, 0.587, 0.114)).max() <= 1
    assert not Spotlight(dim=1)(frame, masks)[outside].any()


def test_a_blurred_background_has_no_colour_of_the_object_in_it():
    frame = np.full((HEIGHT, WIDTH, 3), (20, 40, 200), np.uint8)
    mask = square(30)
    frame[mask] = (255, 0, 0)
    for sigma in (2, 20):
        picture = BlurBackground(sigma=sigma)(frame, {1: mask})
        assert np.abs(picture[~mask].astype(int) - (20, 40, 200)).max() <= 2
        assert (picture[mask] == (255, 0, 0)).all()


def test_the_background_is_a_colour_or_a_picture_that_covers_the_frame(frame, masks, tmp_path):
    inside = masks[1] | masks[2]
    assert (ReplaceBackground(color=(1, 2, 3))(frame, masks)[~inside] == (1, 2, 3)).all()
    assert (GreenScreen()(frame, masks)[~inside] == (0, 177, 64)).all()
    # Three vertical stripes: a frame that is narrower than the picture shows its middle.
    stripes = np.zeros((20, 90, 3), np.uint8)
    stripes[:, 30:60], stripes[:, 60:] = 100, 200
    Image.fromarray(stripes).save(tmp_path / "a,b=c.png")
    for effect in (ReplaceBackground(image=stripes), parse_effect(f"replace-background:image={tmp_path}/a,b=c.png")):
        picture = effect(frame, masks)
        assert (picture[~inside] == 100).all() and (picture[inside] == frame[inside]).all()
        assert effect(frame[:20, :60], {}).shape == (20, 60, 3)  # and of another size afterwards


def test_the_alpha_of_a_cutout_is_the_mask_and_the_background_is_gone(frame, masks):
    picture = Cutout()(frame, masks)
    inside = masks[1] | masks[2]
    assert (picture[..., 3] == 255 * inside).all() and (picture[inside][:, :3] == frame[inside]).all()
    assert not picture[:10, :5].any()
    soft = Cutout(feather=2)(frame, masks)[..., 3]
    assert soft[30, 25] == 255 and soft[0, 0] == 0 and 90 < soft[30, 11] < 170 and len(np.unique(soft)) > 20


def test_a_mask_is_black_and_white(frame, masks):
    assert (BlackAndWhite(objects=[1])(frame, masks) == 255 * masks[1][..., None]).all()


@pytest.mark.parametrize("block", [4, 7, 16, 64])
def test_inside_a_pixelated_object_every_block_is_the_mean_of_the_frame_there(block, frame, masks):
    picture = Pixelate(block=block)(frame, {1: masks[1]})
    for top in range(0, HEIGHT, block):
        for left in range(0, WIDTH, block):
            part = (slice(top, top + block), slice(left, left + block))
            hidden = picture[part][masks[1][part]]
            if len(hidden):
                assert (hidden == hidden[0]).all()
                if top + block <= HEIGHT and left + block <= WIDTH:
                    assert np.abs(hidden[0] - frame[part].mean(axis=(0, 1))).max() <= 1


@pytest.mark.parametrize("side", [8, 20, 50])
def test_a_pixelated_object_has_few_blocks_however_large_it_is(side, frame):
    picture = Pixelate()(frame, {1: square(4, 4, side)})[4 : 4 + side, 4 : 4 + side].astype(int)
    changes = (np.diff(picture, axis=1) != 0).any(axis=(0, 2)).sum()
    assert changes <= 8


def test_blurring_leaves_less_of_an_object(frame, masks):
    weak, strong = (Blur(sigma=sigma)(frame, masks)[masks[1]].std(axis=0).mean() for sigma in (1, 6))
    assert strong < weak < frame[masks[1]].std(axis=0).mean()


def test_masks_grow_and_shrink_by_pixels_and_the_frame_is_no_edge(frame):
    grown = BlackAndWhite(grow=3)(frame, {1: square(40)})[..., 0] > 0
    assert grown[10:30, 37:63].all() and not grown[:, :37].any() and not grown[:, 63:].any()
    assert not grown[7, 37]  # round corners
    shrunk = BlackAndWhite(grow=-3)(frame, {1: square(0, 0, 20)})[..., 0] > 0
    assert (np.argwhere(shrunk).max(axis=0) == (16, 16)).all() and shrunk[0, 0]
    assert not BlackAndWhite(grow=-30)(frame, {1: square(40)}).any()
    assert BlackAndWhite(grow=1000)(frame, {1: square(40)}).all()
    assert BlackAndWhite(grow=5)(frame, {1: np.ones((HEIGHT, WIDTH), bool)}).all()


@pytest.mark.parametrize("effect", HIDING)
def test_a_soft_edge_of_what_is_hidden_lies_outside(effect, frame):
    mask = {1: square(40)}
    hard, soft = effect(grow=2)(frame, mask), effect(grow=2, feather=3)(frame, mask)
    assert (soft[mask[1]] != frame[mask[1]]).any(axis=1).mean() > 0.9
    if effect is Fill:
        assert not soft[mask[1]].any() and not hard[mask[1]].any()
        assert 0 < soft[20, 36].mean() < frame[20, 36].mean()


# -------------------------------------------------------------------------------------------------------------- videos


def test_an_object_that_is_lost_stays_hidden_for_some_frames_and_then_the_frame_can_be_blank(frame):
    gone = [{}, {1: np.zeros((HEIGHT, WIDTH), bool)}]
    for lost in ("show", "blank"):
        stream = EffectStream(Fill(hold=3, lost=lost, color="white"))
        for number in range(3):
            picture = stream(frame, {1: square(20 + number)})
        for number in range(3):  # hidden where it was last seen, as often as hold says
            assert (stream(frame, gone[number % 2]) == picture).all()
        for _ in range(2):
            later = stream(frame, {})
            assert (later == frame).all() if lost == "show" else not later.any()
        again = stream(frame, {1: square(50)})
        assert (again[square(50)] == 255).all() and (again[:, :50] == frame[:, :50]).all()
        assert (stream(frame, {})[square(50)] == 255).all()  # and held again


def test_an_object_of_which_only_a_speck_is_left_stays_hidden(frame):
    speck = square(29, 9, 4)
    stream = EffectStream(Fill(hold=2, color="white"))
    stream(frame, {1: square(30)})
    for _ in range(2):
        assert (stream(frame, {1: speck})[square(30) | speck] == 255).all()
    picture = stream(frame, {1: speck})
    assert (picture[speck] == 255).all() and (picture[~speck] == frame[~speck]).all()
    half = square(29, 9, 2)  # a quarter of it: an object that moves away is not a speck
    assert (stream(frame, {1: half})[~half] == frame[~half]).all()


def test_a_frame_is_blank_while_any_object_is_lost_or_was_never_seen(frame):
    stream = EffectStream(Pixelate(hold=0, lost="blank"), object_ids=(1, 2))
    assert not stream(frame, {1: square(5)}).any()
    assert stream(frame, {1: square(5), 2: square(60)}).any()
    assert not stream(frame, {2: square(60)}).any()
    chosen = EffectStream(Pixelate(hold=0, lost="blank", objects=(2,)), object_ids=(1, 2))
    assert chosen(frame, {2: square(60)}).any()


def test_several_effects_are_applied_in_order(frame, masks):
    stream = EffectStream([Pixelate(objects=(1,)), Outline(objects=(2,)), Cutout()])
    picture = stream(frame, masks)
    hidden = Pixelate(objects=(1,))(frame, masks)
    assert stream.channels == 4 and (picture == Cutout()(Outline(objects=(2,))(hidden, masks), masks)).all()


def test_a_stream_labels_objects_if_the_video_has_several(frame, masks):
    one = {1: masks[1]}
    assert (EffectStream(Overlay(), (1, 2))(frame, one) == overlay_masks(frame, one, labels=True)).all()
    assert (EffectStream(Overlay(), (1,))(frame, one) == overlay_masks(frame, one)).all()


def flicker(pictures):
    return np.abs(np.diff(np.stack(pictures).astype(int), axis=0)).mean()


def test_smoothing_steadies_the_edge_of_an_object_at_rest():
    """The picture has noise of a camera, and the mask is a pixel larger on every other frame."""
    rng = np.random.default_rng(0)
    still = rng.integers(60, 190, (HEIGHT, WIDTH, 3))
    plain, smooth = EffectStream(BlackAndWhite()), EffectStream(BlackAndWhite(smooth=0.8))
    pictures = {plain: [], smooth: []}
    for number in range(12):
        frame = np.clip(still + rng.normal(0, 2, still.shape), 0, 255).astype(np.uint8)
        for stream, made in pictures.items():
            made.append(stream(frame, {1: square(30 - number % 2, 15, 20 + 2 * (number % 2))}))
    assert flicker(pictures[smooth][6:]) < 0.3 * flicker(pictures[plain][6:])
    assert (pictures[smooth][-1][17:33, 32:48] == 255).all()


def test_smoothing_leaves_no_trail_behind_what_moves():
    rng = np.random.default_rng(0)
    background, thing = (rng.integers(*range_, (HEIGHT, WIDTH, 3), dtype=np.uint8) for range_ in ((0, 90), (150, 255)))
    stream = EffectStream(BlackAndWhite(smooth=0.9))
    for left in range(5, 60, 6):
        mask = square(left)
        picture = stream(np.where(mask[..., None], thing, background), {1: mask})[..., 0]
        assert (picture == 255 * mask).all()
    assert not stream(background, {}).any()  # gone from the picture: gone from the mask


def test_smoothing_fades_an_object_that_only_the_tracker_lost(frame):
    stream = EffectStream(BlackAndWhite(smooth=0.5))
    levels = [int(stream(frame, {1: square(30)} if number == 0 else {}).max()) for number in range(8)]
    assert levels[:4] == [255, 128, 64, 32] and levels[-1] == 0


def test_smoothing_never_uncovers_what_is_hidden(frame):
    stream = EffectStream(Fill(smooth=0.9, feather=2))
    for left in (30, 31, 33, 20):
        assert not stream(frame, {1: square(left)})[square(left)].any()


def test_memory_does_not_grow_with_the_length_of_a_video(frame):
    effects = [Pixelate(smooth=0.8, hold=5, feather=1), ReplaceBackground(smooth=0.5, feather=1)]
    stream = EffectStream(effects)
    tracemalloc.start()
    try:
        used = []
        for number in range(150):
            here = {1: square(number % 60)} if number % 20 < 15 else {}
            stream(frame, here)
            if number in (49, 149):
                used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert used[1] - used[0] < frame.nbytes


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparkle", "no effect 'sparkle'; accepted are overlay, outline, spotlight, blur-background"),
        ("", "no effect ''"),
        ("pixelate:size=3", "Effect pixelate has no parameter 'size'; accepted are objects=, grow="),
        ("pixelate:block", "has no parameter 'block'; accepted are"),
        ("pixelate:", "has no parameter ''"),
        ("pixelate:block=", "block must be a whole number from 2 to 2048, got ''"),
        ("pixelate:block=1", "from 2 to 2048, got '1'"),
        ("pixelate:block=8,block=9", "block is given twice"),
        ("pixelate:block=8.5", "a whole number"),
        ("pixelate:grow=-1", "grow must be a whole number from 0 to 1000, got '-1'"),
        ("pixelate:lost=hide", "lost must be show or blank, got 'hide'"),
        ("pixelate:hold=-1", "hold must be"),
        ("blur:sigma=nan", "sigma must be a number from 0.5 to 500, got 'nan'"),
        ("spotlight:dim=2", "dim must be a number from 0 to 1"),
        ("spotlight:grey=perhaps", "grey must be yes or no"),
        ("cutout:smooth=1", "smooth must be a number from 0 to 0.95"),
        ("cutout:feather=inf", "feather must be a number from 0 to 100"),
        ("cutout:objects=1-3", "objects must be object ids, joined by + as in 1+3, got '1-3'"),
        ("cutout:objects=", "objects must be"),
        ("fill:color=greenish", "color must be a colour such as #00b140"),
        ("replace-background:image=nothing.png", "image must be an image file that can be read"),
    ],
)
def test_a_bad_effect_is_one_line(text, message):
    with pytest.raises(ValueError) as caught:
        parse_effect(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_parameters_are_the_same_from_text_and_from_python():
    text = parse_effect("pixelate:objects=3+1,grow=4,feather=1.5,smooth=0.5,block=8,hold=2,lost=blank")
    given = Pixelate(objects={1, 3}, grow=4, feather=1.5, smooth=0.5, block=np.int64(8), hold=2, lost="blank")
    assert vars(text) == vars(given) and text.objects == (1, 3)
    assert parse_effect("spotlight:grey=no").grey is False and parse_effect("fill:color=#0a0b0c").color == (10, 11, 12)
    for bad in ({"color": (1, 2)}, {"color": (1, 2, 300)}, {"color": 3}, {"grow": True}, {"objects": [1.5]}):
        with pytest.raises(ValueError, match=f"Effect fill: {next(iter(bad))} must be"):
            Fill(**bad)
    with pytest.raises(ValueError, match="image must be"):
        ReplaceBackground(image=np.zeros((4, 4)))


def test_frames_masks_and_streams_that_do_not_fit_are_refused(frame, masks):
    for picture, here, message in (
        (frame[..., 0], masks, "The frame must be uint8"),
        (frame, {1: masks[1][:-1]}, "mask of object 1 has shape"),
        (frame, {1: masks[1] * 0.5}, "mask of object 1 must be bool"),
    ):
        for draw in (Cutout(), EffectStream(Cutout())):
            with pytest.raises(ValueError, match=message):
                draw(picture, here)
    with pytest.raises(ValueError, match="cutout makes a transparent picture, so it must be the last"):
        EffectStream([Cutout(), Outline()])
    with pytest.raises(ValueError, match="at least one effect"):
        EffectStream([])
    stream = EffectStream(Cutout(smooth=0.5))
    stream(frame, masks)
    with pytest.raises(ValueError, match="make a stream for each video"):
        stream(frame[:30], {})
