"""From annotated videos to batches of training clips: sampling, augmentation, mixing, collating."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from efficienttam_hf.data.augmentation import Augmentation, AugmentationOptions
from efficienttam_hf.data.batch import collate_clips
from efficienttam_hf.data.clip import Clip
from efficienttam_hf.data.loading import load_records
from efficienttam_hf.data.mixing import MixedClips
from efficienttam_hf.data.sampling import RecordClips
from efficienttam_hf.data.schema import DatasetError
from efficienttam_hf.data.seeding import derive_seed, generator_of
from efficienttam_hf.data.splicing import SplicedClips


DAVIS = Path(__file__).resolve().parents[2] / "shared" / "data" / "DAVIS"

GEOMETRY_ONLY = dict.fromkeys(
    ["brightness", "contrast", "saturation", "frame_brightness", "frame_contrast", "frame_saturation"]
    + ["greyscale_probability"],
    0.0,
)
# Everything that moves pixels, strongly, and nothing that changes colours.
STRONG = AugmentationOptions(**GEOMETRY_ONLY, scale=(0.7, 1.4), translation=0.1, crop_probability=0.7)


@dataclass
class Video:
    """A video in memory: object k is a square painted in colour `COLOURS[k]`, from its first to its last frame."""

    video_id: str = "squares"
    source: str = "test"
    num_frames: int = 10
    size: tuple[int, int] = (60, 96)
    every: int = 1
    # object: (first frame, last frame, top, left, side); it moves a pixel to the right each frame
    objects: dict[int, tuple[int, int, int, int, int]] = field(default_factory=lambda: {1: (0, 99, 10, 20, 24)})
    void_rows: int = 0
    reads: list[int] = field(default_factory=list)

    @property
    def annotated_frames(self) -> list[int]:
        return list(range(0, self.num_frames, self.every))

    def objects_in(self, index: int) -> dict[int, int]:
        return {key: int(mask.sum()) for key, mask in self.masks(index).items()}

    def masks(self, index: int) -> dict[int, np.ndarray]:
        masks = {}
        for key, (first, last, top, left, side) in self.objects.items():
            if not first <= index <= last:
                continue
            masks[key] = np.zeros(self.size, dtype=bool)
            masks[key][top : top + side, left + index : left + index + side] = True
        return masks

    def frame(self, index: int) -> np.ndarray:
        self.reads.append(index)
        frame = np.full((*self.size, 3), 40, dtype=np.uint8)
        for key, mask in self.masks(index).items():
            frame[mask] = COLOURS[key]
        frame[: self.void_rows, :, 2] = 255
        frame.setflags(write=False)
        return frame

    def void(self, index: int) -> np.ndarray | None:
        if not self.void_rows:
            return None
        void = np.zeros(self.size, dtype=bool)
        void[: self.void_rows] = True
        return void


COLOURS = {1: (255, 40, 40), 2: (40, 255, 40)}


def clips_of(*videos: Video, **options) -> RecordClips:
    settings = {"image_size": 48, "num_frames": 4, "max_objects": 3, "augmentation": None} | options
    return RecordClips(list(videos), **settings)


def assert_same(one: Clip, other: Clip) -> None:
    for name, value in vars(one).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(other, name)), name
        else:
            assert value == getattr(other, name), name


# ---------------------------------------------------------------------------------------------------------- sampling


def test_clip_has_the_types_and_shapes_of_clip():
    clip = clips_of(Video(), augmentation=AugmentationOptions())[0]
    assert clip.frames.shape == (4, 3, 48, 48) and clip.frames.dtype == torch.uint8
    assert clip.masks.shape == (4, 1, 48, 48) and clip.masks.dtype == torch.bool
    assert clip.void is None
    assert clip.object_ids == [1] and len(clip.frame_indices) == 4
    assert "test squares" in clip.name


def test_a_clip_depends_on_settings_and_index_alone():
    videos = [Video(video_id=str(k), num_frames=8 + k) for k in range(3)]
    clips = clips_of(*videos, augmentation=STRONG, seed=3)
    expected = [clips[index] for index in range(6)]
    again = pickle.loads(pickle.dumps(clips_of(*videos, augmentation=STRONG, seed=3)))
    for index in (4, 0, 5, 2, 1, 3):
        assert_same(again[index], expected[index])
    other = clips_of(*videos, augmentation=STRONG, seed=4)
    assert any(not torch.equal(other[index].frames, expected[index].frames) for index in range(6))
    assert len({clip.seed for clip in expected}) == 6


def test_global_generators_are_neither_used_nor_disturbed():
    clips = clips_of(Video(), augmentation=AugmentationOptions())
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = clips[5]
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    torch.manual_seed(2)
    assert_same(first, clips[5])


def test_every_epoch_is_another_permutation_of_the_videos():
    clips = clips_of(*(Video(video_id=str(k)) for k in range(10)))
    assert len(clips) == 10
    epochs = [tuple(clips.record_of(10 * epoch + place) for place in range(10)) for epoch in range(5)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(epochs)) == 5
    assert clips[13].name.startswith(f"test {epochs[1][3]},")


def test_stride_counts_annotated_frames():
    clips = clips_of(Video(num_frames=200, every=4), stride=(1, 3), reverse_probability=0.0)
    steps = Counter()
    for index in range(30):
        differences = np.diff(clips[index].frame_indices)
        assert (differences == differences[0]).all()
        steps[differences[0]] += 1
    assert set(steps) == {4, 8, 12}


@pytest.mark.parametrize(("probability", "expected"), [(0.0, {1}), (1.0, {-1}), (0.5, {1, -1})])
def test_reverse_plays_backwards(probability, expected):
    clips = clips_of(Video(num_frames=30), reverse_probability=probability, stride=(1, 1))
    found = [clips[index] for index in range(20)]
    assert {int(step) for clip in found for step in np.diff(clip.frame_indices)} == expected
    # The squares move to the right: the masks are those of the frames, in the clip's own order.
    for clip in found:
        columns = [int(mask[0].any(dim=0).nonzero()[0]) for mask in clip.masks]
        assert (columns == sorted(columns)) == (clip.frame_indices[0] < clip.frame_indices[-1])


def test_a_short_video_is_taken_with_a_smaller_stride():
    clips = clips_of(Video(num_frames=8), stride=(5, 5), reverse_probability=0.0)
    assert {tuple(np.diff(clips[index].frame_indices)) for index in range(5)} == {(2, 2, 2)}


@pytest.mark.parametrize(("num_frames", "expected"), [(1, {0}), (2, {0, 1}), (3, {0, 1, 2})])
def test_a_video_shorter_than_the_clip_is_played_to_and_fro(num_frames, expected):
    clips = clips_of(Video(num_frames=num_frames), num_frames=6)
    for index in range(8):
        indices = clips[index].frame_indices
        assert len(indices) == 6 and set(indices) == expected
        assert num_frames == 1 or (np.abs(np.diff(indices)) == 1).all()


def test_a_frame_is_read_once_and_in_the_order_of_the_video():
    video = Video(num_frames=3)
    clips_of(video, num_frames=6, reverse_probability=1.0)[0]
    assert video.reads == [0, 1, 2]


def test_every_object_is_visible_in_the_first_frame():
    objects = {1: (0, 4, 10, 5, 20), 2: (15, 99, 30, 40, 20)}
    clips = clips_of(Video(num_frames=20, objects=objects), augmentation=STRONG)
    seen = Counter()
    for index in range(40):
        clip = clips[index]
        assert clip.masks[0].flatten(1).any(dim=1).all()
        seen[tuple(clip.object_ids)] += 1
    assert set(seen) == {(1,), (2,)}


def test_an_object_that_appears_only_in_the_last_frame_is_found():
    clip = clips_of(Video(num_frames=20, objects={2: (19, 19, 10, 10, 20)}), reverse_probability=0.0)[0]
    assert clip.frame_indices[0] == 19 and clip.object_ids == [2] and len(clip.frame_indices) == 4


def test_at_most_max_objects_are_taken_at_random():
    objects = {1: (0, 99, 5, 5, 20), 2: (0, 99, 35, 40, 20)}
    clips = clips_of(Video(objects=objects), max_objects=1)
    assert {tuple(clips[index].object_ids) for index in range(20)} == {(1,), (2,)}
    both = clips_of(Video(objects=objects), max_objects=2)[0]
    assert both.object_ids == [1, 2] and both.masks.shape[1] == 2


def test_objects_under_min_area_are_left_out_unless_there_are_no_others():
    # 4 of 60 x 96 pixels are 1.6 of 48 x 48.
    tiny, large = (0, 99, 50, 4, 2), (0, 99, 5, 30, 30)
    assert clips_of(Video(objects={1: tiny, 2: large}), min_area=16)[0].object_ids == [2]
    assert clips_of(Video(objects={1: tiny, 2: large}), min_area=1)[0].object_ids == [1, 2]
    assert clips_of(Video(objects={1: tiny}), min_area=16)[0].masks[0].any()


def test_a_video_without_any_object_is_named():
    clips = clips_of(Video(video_id="empty", objects={}))
    with pytest.raises(DatasetError, match="'empty' of test has no object .* in any of its 10 annotated frames"):
        clips[0]


@pytest.mark.parametrize(
    "options",
    [
        {"num_frames": 0},
        {"max_objects": 0},
        {"stride": (0, 2)},
        {"stride": (3, 2)},
        {"reverse_probability": 1.5},
        {"seed": -1},
    ]
    + [{"image_size": 0}, {"min_area": 0}],
)
def test_settings_out_of_range_are_refused_at_once(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        clips_of(Video(), **options)


def test_no_videos_and_negative_indices_are_refused():
    with pytest.raises(ValueError, match="no videos"):
        clips_of()
    with pytest.raises(IndexError, match="from 0"):
        clips_of(Video())[-1]


@pytest.mark.skipif(not DAVIS.is_dir(), reason="the DAVIS sequences are not beside the repository")
def test_clips_of_davis():
    records = load_records("davis2017", DAVIS)
    clips = RecordClips(records, image_size=128, num_frames=4, max_objects=2, seed=1)
    for index in range(len(records)):
        clip = clips[index]
        record = records[clips.record_of(index)]
        assert record.video_id in clip.name
        assert clip.frames.shape == (4, 3, 128, 128) and 1 <= clip.masks.shape[1] <= 2
        assert clip.masks[0].flatten(1).any(dim=1).all()
        assert set(clip.object_ids) <= set(record.objects_in(clip.frame_indices[0]))
        assert_same(clip, clips[index])


# ------------------------------------------------------------------------------------------------------ augmentation


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_masks_and_void_stay_on_their_pixels():
    """The object is painted red and void blue, so both can be found again in the augmented frames."""
    video = Video(num_frames=20, size=(240, 400), objects={1: (0, 99, 70, 120, 110)}, void_rows=60)
    clips = clips_of(video, image_size=96, augmentation=STRONG)
    moved = 0
    for index in range(25):
        clip = clips[index]
        red, _, blue = clip.frames.unbind(dim=1)
        assert overlap(red > 147, clip.masks[:, 0]) > 0.93
        void = torch.zeros_like(clip.masks[:, 0]) if clip.void is None else clip.void
        assert ((blue > 147) ^ void).float().mean() < 0.01
        moved += not torch.equal(clip.masks[0], clips_of(video, image_size=96)[index].masks[0])
    assert moved == 25


def test_masks_are_not_shifted_against_frames_by_resizing():
    """A ramp, and the mask of what is bright of it: the edge falls on the same column in both."""
    ramp = torch.linspace(0, 255, 101).expand(1, 3, 101, 101).to(torch.uint8)
    frames, masks, _ = Augmentation(20)(ramp, ramp[:, :1] >= 128, None, generator_of(0))
    assert torch.equal(frames[:, :1] >= 128, masks)


def test_geometry_is_the_same_for_all_frames():
    frames = torch.from_numpy(generator_of(1).integers(0, 256, (1, 3, 50, 70), dtype=np.uint8)).expand(5, -1, -1, -1)
    masks = torch.zeros(5, 1, 50, 70, dtype=torch.bool)
    masks[..., 20:35, 30:50] = True
    for seed in range(5):
        moved, moved_masks, _ = Augmentation(32, STRONG)(frames, masks, None, generator_of(seed))
        assert (moved == moved[0]).all() and (moved_masks == moved_masks[0]).all()


def test_colour_of_the_clip_is_shared_and_that_of_frames_is_not():
    grey = torch.full((6, 3, 16, 16), 100, dtype=torch.uint8)
    masks = torch.ones(6, 1, 16, 16, dtype=torch.bool)
    off = GEOMETRY_ONLY | {"rotation": 0.0, "shear": 0.0}

    def brightness(**options) -> torch.Tensor:
        augment = Augmentation(16, AugmentationOptions(**(off | options)))
        runs = [augment(grey, masks, None, generator_of(seed))[0] for seed in range(20)]
        return torch.stack(runs)[:, :, 0, 0, 0].float()

    shared = brightness(brightness=0.5)
    assert (shared == shared[:, :1]).all() and shared[:, 0].std() > 10
    assert 50 <= shared.min() < 75 and 125 < shared.max() <= 150
    assert (brightness(frame_brightness=0.5).std(dim=1) > 5).all()


def test_greyscale_takes_the_colour_of_the_whole_clip():
    frames = Video().frame(0)
    frames = torch.tensor(frames).permute(2, 0, 1).expand(3, -1, -1, -1)
    masks = torch.ones(3, 1, 60, 96, dtype=torch.bool)
    for probability, is_grey in ((0.0, False), (1.0, True)):
        options = AugmentationOptions(**(GEOMETRY_ONLY | {"greyscale_probability": probability}))
        moved = Augmentation(32, options)(frames, masks, None, generator_of(0))[0]
        assert bool((moved == moved[:, :1]).all()) == is_grey


def test_flip_mirrors_frames_and_masks():
    options = AugmentationOptions(**GEOMETRY_ONLY, flip_probability=1.0, rotation=0.0, shear=0.0)
    video = Video(num_frames=5, size=(64, 64))
    plain, flipped = (clips_of(video, image_size=64, augmentation=augmentation)[0] for augmentation in (None, options))
    assert torch.equal(flipped.frames, plain.frames.flip(-1)) and torch.equal(flipped.masks, plain.masks.flip(-1))


def test_a_draw_that_loses_an_object_is_drawn_again_and_at_last_given_up():
    frames = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    masks = torch.zeros(2, 2, 64, 64, dtype=torch.bool)
    masks[:, 0, :8, :8] = True
    masks[:, 1, -8:, -8:] = True
    # Almost every shift pushes one of the two corners out.
    options = AugmentationOptions(**GEOMETRY_ONLY, rotation=0.0, shear=0.0, translation=1.0, flip_probability=0.0)
    results = [Augmentation(64, options)(frames, masks, None, generator_of(k), min_area=16)[1] for k in range(30)]
    assert all((result[0].flatten(1).sum(dim=1) >= 16).all() for result in results)
    assert any(torch.equal(result, masks) for result in results)


def test_a_crop_is_smaller_than_the_frame_and_keeps_every_object():
    options = AugmentationOptions(
        **GEOMETRY_ONLY, rotation=0.0, shear=0.0, flip_probability=0.0, crop_probability=1.0, crop_area=(0.1, 0.1)
    )
    frames = torch.zeros(1, 3, 90, 90, dtype=torch.uint8)
    masks = torch.zeros(1, 2, 90, 90, dtype=torch.bool)
    masks[:, 0, 10:30, 10:30] = True
    areas = []
    for seed in range(20):
        one = Augmentation(90, options)(frames, masks[:, :1], None, generator_of(seed))[1]
        areas.append(int(one.sum()))
    # A tenth of the area makes what is seen of the object ten times as large.
    assert min(areas) > 0 and 2000 < max(areas) <= 4200
    masks[:, 1, 60:80, 50:70] = True
    both = Augmentation(90, options)(frames, masks, None, generator_of(0))[1]
    assert both[0].flatten(1).any(dim=1).all() and (both.sum() > masks.sum())


def test_an_image_becomes_a_clip_that_moves_smoothly():
    video = Video(num_frames=1, size=(120, 120), objects={1: (0, 0, 40, 40, 40)})
    clips = clips_of(video, image_size=96, num_frames=8, augmentation=AugmentationOptions(**GEOMETRY_ONLY))
    for index in range(5):
        masks = clips[index].masks[:, 0]
        to_next = [overlap(masks[k], masks[k + 1]) for k in range(7)]
        assert overlap(masks[0], masks[-1]) < min(to_next) and min(to_next) > 0.5
        assert overlap(masks, clips[index].frames[:, 0] > 147) > 0.9


def test_large_frames_are_shrunk_before_they_are_worked_on():
    augment = Augmentation(100)
    assert augment.shrink(torch.zeros(3, 600, 1000, dtype=torch.uint8)).shape == (3, 150, 250)
    assert augment.shrink(torch.zeros(3, 120, 1000, dtype=torch.uint8)).shape == (3, 120, 1000)


@pytest.mark.parametrize(
    "options",
    [{"flip_probability": 1.5}, {"rotation": -1.0}, {"rotation": float("nan")}, {"scale": (1.2, 0.8)}]
    + [{"scale": (0.0, 1.0)}, {"crop_area": (0.5, 2.0)}, {"brightness": 2.0}, {"hue": 0.7}, {"attempts": 0}],
)
def test_augmentation_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        AugmentationOptions(**options)


def test_augmentation_options_take_lists_as_configurations_have_them():
    assert AugmentationOptions(scale=[0.5, 2]).scale == (0.5, 2)


# ------------------------------------------------------------------------------------------------------------ mixing


@dataclass
class Numbers:
    """A source whose clips say which source and index they are of."""

    name: str

    def __getitem__(self, index: int) -> Clip:
        return Clip(torch.empty(0), torch.empty(0), name=f"{self.name}{index}")


def test_a_mixture_takes_its_sources_by_weight_and_passes_the_index_on():
    mixture = MixedClips([(Numbers("a"), 1), (Numbers("b"), 3)], seed=5)
    names = [mixture[index].name for index in range(2000)]
    assert [int(name[1:]) for name in names] == list(range(2000))
    assert 0.22 < sum(name[0] == "a" for name in names) / 2000 < 0.28
    again = pickle.loads(pickle.dumps(mixture))
    assert [again[index].name for index in reversed(range(2000))] == names[::-1]
    other = MixedClips([(Numbers("a"), 1), (Numbers("b"), 3)], seed=6)
    assert [other[index].name for index in range(2000)] != names


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_no_share_is_refused(weight):
    with pytest.raises(ValueError, match=r"weight of source 1 \(Numbers\)"):
        MixedClips([(Numbers("a"), 1), (Numbers("b"), weight)])


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        MixedClips([])


# --------------------------------------------------------------------------------------------------------- splicing


@dataclass
class TwoVideos:
    """A source whose frames have the value of their video, of which there are two, and whose object is everywhere."""

    num_frames: int = 4

    def __getitem__(self, index: int) -> Clip:
        video = 1 + index % 2
        frames = torch.full((self.num_frames, 3, 2, 2), video, dtype=torch.uint8)
        masks = torch.ones(self.num_frames, 1, 2, 2, dtype=torch.bool)
        return Clip(frames, masks, f"video {video}", void=masks[:, 0].clone(), video=str(video))


def test_frames_of_another_video_have_no_object():
    spliced = SplicedClips(TwoVideos(), probability=0.5, seed=3)
    returns, changed = 0, 0
    for index in range(200):
        clip = spliced[index]
        own = 1 + index % 2
        is_own = (clip.frames == own).flatten(1).all(1)
        assert (is_own | (clip.frames == 3 - own).flatten(1).all(1)).all()
        assert is_own[0]
        assert torch.equal(clip.masks.flatten(1).any(1), is_own) and torch.equal(clip.void.flatten(1).any(1), is_own)
        changed += not is_own.all()
        returns += bool((is_own[1:] & ~is_own[:-1]).any())
        assert ("replaced by" in clip.name) == (not is_own.all())
    assert 70 < changed < 130
    assert 0 < returns < changed
    assert torch.equal(spliced[7].frames, pickle.loads(pickle.dumps(spliced))[7].frames)


def test_clips_that_cannot_be_spliced_stay_as_they_are():
    assert (SplicedClips(TwoVideos(num_frames=1), 1.0)[0].frames == 1).all()

    class OneVideo(TwoVideos):
        def __getitem__(self, index: int) -> Clip:
            return super().__getitem__(0)

    assert (SplicedClips(OneVideo(), 1.0)[5].frames == 1).all()
    with pytest.raises(ValueError, match="probability must be from 0 to 1, got 1.5"):
        SplicedClips(TwoVideos(), 1.5)


# ---------------------------------------------------------------------------------------------------------- batching


def plain_clip(num_objects: int, num_frames: int = 2, seed: int = 0, with_void: bool = False) -> Clip:
    return Clip(
        frames=torch.full((num_frames, 3, 4, 5), seed, dtype=torch.uint8),
        masks=torch.ones(num_frames, num_objects, 4, 5, dtype=torch.bool),
        name=f"clip {seed}",
        seed=seed,
        void=torch.ones(num_frames, 4, 5, dtype=torch.bool) if with_void else None,
    )


def test_a_batch_has_the_objects_of_all_clips_in_one_row():
    batch = collate_clips([plain_clip(2, seed=7), plain_clip(1, seed=8, with_void=True), plain_clip(3, seed=9)])
    assert batch.frames.shape == (2, 3, 3, 4, 5) and batch.frames[1, 2, 0, 0, 0] == 9
    assert batch.masks.shape == (2, 6, 4, 5) and batch.masks.dtype == torch.bool
    assert batch.clip_index.tolist() == [0, 0, 1, 2, 2, 2] and batch.clip_index.dtype == torch.int64
    assert batch.void.shape == (2, 3, 4, 5) and batch.void.flatten(2).all(dim=2).tolist() == [[False, True, False]] * 2
    assert batch.names == ["clip 7", "clip 8", "clip 9"]
    assert collate_clips([plain_clip(1)]).void is None


def test_the_seed_of_an_object_does_not_depend_on_its_batch():
    one, other = plain_clip(2, seed=7), plain_clip(3, seed=8)
    together, alone = collate_clips([one, other]), collate_clips([other])
    assert (
        together.seeds.dtype == torch.int64 and (together.seeds >= 0).all() and len(set(together.seeds.tolist())) == 5
    )
    assert torch.equal(together.seeds[2:], alone.seeds)


def test_clips_of_different_lengths_are_no_batch():
    with pytest.raises(ValueError, match="'clip 1' .*2, 3, 4, 5.* 'clip 2' .*3, 3, 4, 5"):
        collate_clips([plain_clip(1, seed=1), plain_clip(1, num_frames=3, seed=2)])
    with pytest.raises(ValueError, match="at least one clip"):
        collate_clips([])


def test_a_batch_moves_between_devices_and_has_the_void_it_had():
    batch = collate_clips([plain_clip(1), plain_clip(2)]).to("meta", non_blocking=True)
    assert batch.frames.device.type == batch.masks.device.type == batch.clip_index.device.type == "meta"
    assert batch.seeds.device.type == "meta" and batch.void is None and batch.names == ["clip 0", "clip 0"]


def test_a_data_loader_with_workers_gives_the_clips_of_the_indices():
    clips = clips_of(Video(), Video(video_id="other"), augmentation=STRONG)
    loader = torch.utils.data.DataLoader(
        clips, batch_size=2, sampler=range(8, 14), collate_fn=collate_clips, num_workers=2
    )
    for batch, index in zip(loader, range(8, 14, 2), strict=True):
        assert torch.equal(batch.frames, torch.stack([clips[index].frames, clips[index + 1].frames], dim=1))


def test_seeds_of_different_counters_differ():
    counters = [(1,), (1, 0), (1, 0, 0), (0, 1), (2**32,), (2**32 + 1,), (1, 1)]
    assert len({derive_seed(*counter) for counter in counters}) == len(counters)
    assert all(0 <= derive_seed(k) < 2**63 for k in range(100))
