"""From a run's configuration to batches of clips.

The clips of step s of a stage are those with the indices `s * batch_size ... (s + 1) * batch_size - 1` of the stage's
source, and a clip is a function of its index (`data/clip.py`). So which process loads which clip, and where a resumed
run continues, is arithmetic, and no order has to be saved.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from typing import Any

import torch

from ..data.batch import collate_clips
from ..data.clip import ClipSource
from ..data.seeding import derive_seed
from .config import ConfigError, SourceOptions, StageOptions, TrainingConfig


def stage_source(config: TrainingConfig, number: int, image_size: int | tuple[int, int]) -> ClipSource:
    """Where the clips of a stage come from.

    Args:
        config: of the run.
        number: of the stage, from 0.
        image_size: the stage's input size.

    Raises:
        ConfigError: a source cannot be made of its options.
    """
    from ..data.mixing import MixedClips

    stage, sources = config.stages[number], []
    for place, options in enumerate(config.data):
        seed = derive_seed(config.seed, number, place)
        try:
            source = _source(options, stage, image_size, seed)
        except (TypeError, OSError) as error:
            raise ConfigError(f"`data[{place}]` ({options.kind}): {error}") from error
        sources.append((source, options.weight))
    return sources[0][0] if len(sources) == 1 else MixedClips(sources, seed=derive_seed(config.seed, number))


def _source(options: SourceOptions, stage: StageOptions, image_size: Any, seed: int) -> ClipSource:
    sizes = {
        "image_size": image_size,
        "num_frames": stage.num_frames,
        "max_objects": stage.max_objects,
        "seed": seed,
    }
    if options.kind == "synthetic":
        from ..data.synthetic import SyntheticClips

        return SyntheticClips(**sizes, ingredients=options.root, **options.options)
    from ..data.sampling import RecordClips

    loading = dict(options.options)
    sampling = loading.pop("sampling", {})
    records = annotated_videos(dataclasses.replace(options, options=loading))
    return RecordClips(records, **sizes, **sampling)


def annotated_videos(options: Any) -> list:
    """The records of a dataset, from the fields `kind`, `root`, `split`, `sequences`, `options` of its options.

    Raises:
        ConfigError: no root, or a sequence that the dataset does not have.
    """
    from ..data.loading import load_records

    if options.root is None:
        raise ConfigError(f"A dataset of kind {options.kind!r} needs `root`, its folder.")
    records = load_records(options.kind, options.root, options.split, **options.options)
    if options.sequences is None:
        return records
    by_name = {record.video_id: record for record in records}
    missing = [name for name in options.sequences if name not in by_name]
    if missing:
        raise ConfigError(f"{options.root} has no sequence {', '.join(missing)}. It has {', '.join(sorted(by_name))}.")
    return [by_name[name] for name in options.sequences]


class StepIndices:
    """The batches of one process as lists of clip indices, micro-batch by micro-batch, from a step on.

    Args:
        stage: whose batches.
        rank, world_size: this process and how many there are.
        start: the step to begin with.

    Raises:
        ConfigError: the batch cannot be shared out evenly.
    """

    def __init__(self, stage: StageOptions, rank: int, world_size: int, start: int):
        share, rest = divmod(stage.batch_size, world_size)
        if rest:
            raise ConfigError(
                f"`batch_size` ({stage.batch_size}) of stage {stage.name!r} must be a multiple of the number of "
                f"processes ({world_size})."
            )
        micro = share if stage.micro_batch_size is None else min(stage.micro_batch_size, share)
        if share % micro:
            raise ConfigError(
                f"`micro_batch_size` ({micro}) of stage {stage.name!r} must divide a process's share of the batch "
                f"({share} clips)."
            )
        self.micro_batches = share // micro
        self.micro, self.rank, self.world_size, self.stage, self.start = micro, rank, world_size, stage, start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stage.steps):
            for m in range(self.micro_batches):
                first = step * self.stage.batch_size + (m * self.world_size + self.rank) * self.micro
                yield list(range(first, first + self.micro))

    def __len__(self) -> int:
        return (self.stage.steps - self.start) * self.micro_batches


class _Endless(torch.utils.data.Dataset):
    """A source of clips as PyTorch's loader wants it."""

    def __init__(self, source: ClipSource):
        self.source = source

    def __getitem__(self, index: int):
        return self.source[index]


def batches(source: ClipSource, indices: StepIndices, workers: int, pin_memory: bool) -> torch.utils.data.DataLoader:
    """A loader of `ClipBatch`es, prepared by `workers` processes ahead of their use."""
    return torch.utils.data.DataLoader(
        _Endless(source),
        batch_sampler=indices,
        collate_fn=collate_clips,
        num_workers=workers,
        worker_init_fn=_prepare_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
    )


def _prepare_worker(_: int) -> None:
    # A stop is the training process's to handle: it finishes its step, saves, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


__all__ = ["StepIndices", "annotated_videos", "batches", "stage_source"]
