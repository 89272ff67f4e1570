"""Makes batches of clips from the configuration of a run.

The clips of step s of a stage are those with the indices `s * batch_size ... (s + 1) * batch_size - 1` of the stage's
source, and a clip is a function of its index (`data/clip.py`). So the clips of each process, and the clip at which a
resumed run continues, follow from the step, and no order has to be saved.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..data.batch import ClipBatch, collate_clips
from ..data.checking import check_dataset
from ..data.clip import ClipSource
from ..data.loading import VideoRecords, load_records
from ..data.mixing import MixedClips
from ..data.records import VideoRecord
from ..data.sampling import RecordClips
from ..data.seeding import derive_seed
from ..data.splicing import SplicedClips
from .config import ConfigError, EvaluationOptions, SourceOptions, StageOptions, TrainingConfig, build_options


__all__ = ["StepIndices", "TrainingData", "annotated_videos", "batches", "dataset_videos"]


class TrainingData:
    """The sources of a run's clips. The constructor checks the datasets; each stage samples its own clips from them.

    Args:
        config: the configuration of the run.

    Raises:
        ConfigError: if a dataset is missing or has problems; the message lists them.
    """

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.records = [
            None if options.kind == "synthetic" else annotated_videos(options, f"data[{place}]")
            for place, options in enumerate(config.data)
        ]

    def of_stage(self, number: int, image_size: int | Sequence[int]) -> ClipSource:
        """Return the source of the clips of a stage.

        Args:
            number: the number of the stage, from 0.
            image_size: the stage's input size, or its (height, width).

        Raises:
            ConfigError: if the options of a source are invalid.
        """
        stage, sources = self.config.stages[number], []
        for place, (options, records) in enumerate(zip(self.config.data, self.records, strict=True)):
            common = {
                "image_size": image_size,
                "num_frames": stage.num_frames,
                "max_objects": stage.max_objects,
                "seed": derive_seed(self.config.seed, number, place),
            }
            try:
                sources.append((_clips(options, records, common), options.weight))
            except (TypeError, ValueError, OSError) as error:
                raise ConfigError(f"`data[{place}]` ({options.kind}): {error}") from error
        seed = derive_seed(self.config.seed, number)
        clips = sources[0][0] if len(sources) == 1 else MixedClips(sources, seed=seed)
        probability = self.config.splice_probability
        return SplicedClips(clips, probability, derive_seed(seed, len(sources))) if probability else clips


def _clips(options: SourceOptions, records: Sequence[VideoRecord] | None, common: dict[str, Any]) -> ClipSource:
    if records is None:
        from ..data.synthetic import SyntheticClips

        return SyntheticClips(**common, ingredients=options.root, **options.options)
    from ..data.augmentation import AugmentationOptions

    sampling = dict(options.options.get("sampling", {}))
    if isinstance(sampling.get("augmentation"), dict):
        sampling["augmentation"] = build_options(AugmentationOptions, sampling["augmentation"], "sampling.augmentation")
    return RecordClips(records, **common, **sampling)


def dataset_videos(options: SourceOptions | EvaluationOptions, where: str = "data") -> VideoRecords:
    """Return the videos of a dataset without checking them; see `annotated_videos`.

    Args:
        options: the dataset and the selection of its videos.
        where: the configuration field that holds the options, for messages.

    Raises:
        ConfigError: if no root is given, or there is no such dataset in it.
    """
    kind, root = options.kind, options.root
    assert kind is not None  # an evaluation without a kind does not run
    if root is None:
        raise ConfigError(f"`{where}` is a dataset of kind {kind!r}, which needs `root`, its folder.")
    loading = {name: value for name, value in options.options.items() if name != "sampling"}
    try:
        return load_records(kind, root, options.split, videos=options.sequences, **loading)
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"`{where}`: {error}") from error


def annotated_videos(options: SourceOptions | EvaluationOptions, where: str = "data") -> VideoRecords:
    """Return the videos of a dataset (see `dataset_videos`) after a check for problems that would stop a run.

    Raises:
        ConfigError: also if the dataset has problems; the message lists them.
    """
    records = dataset_videos(options, where)
    try:
        problems = check_dataset(records)
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"`{where}`: {error}") from error
    if isinstance(options, EvaluationOptions) and all(len(record.annotated_frames) < 3 for record in records):
        problems.append("No video has three annotated frames. The first and the last of a video do not count.")
    if problems:
        raise ConfigError("\n  ".join([f"`{where}` ({options.root}) cannot be used:", *problems]))
    return records


class StepIndices:
    """The clip indices of one process, one list for each micro-batch, beginning with a step.

    Args:
        stage: the stage.
        rank, world_size: the number of this process, and the number of processes.
        start: the first step.

    Raises:
        ConfigError: if the batch cannot be divided evenly among processes and micro-batches.
    """

    def __init__(self, stage: StageOptions, rank: int, world_size: int, start: int = 0):
        share, rest = divmod(stage.batch_size, world_size)
        if rest:
            raise ConfigError(
                f"`batch_size` ({stage.batch_size}) of stage {stage.name!r} must be a multiple of the number of "
                f"processes ({world_size})."
            )
        self.micro = min(stage.micro_batch_size or share, share)
        if share % self.micro:
            raise ConfigError(
                f"`micro_batch_size` ({self.micro}) of stage {stage.name!r} must divide a process's share of the batch "
                f"({share} clips)."
            )
        self.micro_batches = share // self.micro
        self.rank, self.world_size, self.stage, self.start = rank, world_size, stage, start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stage.steps):
            for m in range(self.micro_batches):
                first = step * self.stage.batch_size + (m * self.world_size + self.rank) * self.micro
                yield list(range(first, first + self.micro))

    def __len__(self) -> int:
        return (self.stage.steps - self.start) * self.micro_batches


def batches(source: ClipSource, indices: StepIndices, workers: int, pin_memory: bool) -> Iterator[ClipBatch]:
    """Yield the batches of a source, which `workers` processes prepare in advance.

    Raises:
        ValueError, OSError: the error of a source that could not make a clip, unchanged.
    """
    loader = torch.utils.data.DataLoader(
        _Batches(source),
        sampler=indices,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_prepare_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


class _Batches(torch.utils.data.Dataset):
    """Batches by clip indices. Errors are returned, because an error raised in a worker arrives as a traceback."""

    def __init__(self, source: ClipSource):
        self.source = source

    def __getitem__(self, indices: list[int]) -> ClipBatch | Exception:
        try:
            return collate_clips([self.source[index] for index in indices])
        except (ValueError, OSError) as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _prepare_worker(_: int) -> None:
    # Only the training process handles a stop: it finishes its step, saves, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
