"""The authors' checkpoints by name: downloads each from the Hub and converts it once.

Each variant, such as `efficienttam_s`, is a `.pt` file in the authors' repository. When it is used for the first time,
it is downloaded and verified (`hub_files`), and converted to a folder that `from_pretrained` loads. This folder is
inside the repository's folder in the Hugging Face cache, so that removing the repository from the cache also removes
it. It appears only when it is complete, and several processes that need it at the same time convert it once.

Finding an existing folder needs no network and loads neither torch nor Transformers.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .hub_files import (
    Download,
    FetchError,
    Progress,
    cache_errors,
    cache_folder,
    download,
    file_answers,
    forget,
    is_offline,
    metadata_of,
)


__all__ = [
    "INCLUDED_MODELS",
    "PUBLISHED_FILES",
    "PUBLISHED_REPOSITORY",
    "VARIANTS",
    "FetchError",
    "PublishedFiles",
    "PublishedVariant",
    "answers",
    "fetch",
    "folder_of",
    "found",
    "remove",
    "source_of",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedFiles:
    """The layout of the authors' repository on the Hub.

    Attributes:
        repository: the id of the repository.
        filename: the path of a variant's checkpoint in it, with `{variant}` for the variant's name.
    """

    repository: str
    filename: str

    def of(self, variant: str) -> str:
        """The path of a variant's checkpoint in the repository."""
        return self.filename.format(variant=variant)


PUBLISHED_FILES = PublishedFiles("yunyangx/efficient-track-anything", "{variant}.pt")
PUBLISHED_REPOSITORY = PUBLISHED_FILES.repository


@dataclass(frozen=True)
class PublishedVariant:
    """The facts about a published variant that are shown without loading its configuration.

    Attributes:
        name: a key of `PRESETS`, which has all other numbers.
        parameters: number of parameters.
        image_size: side of the input, in pixels.
        paper_name: the model's name in the paper; `None` if the paper has no results for it.
    """

    name: str
    parameters: int
    image_size: int
    paper_name: str | None = None


_TINY, _SMALL = 17_866_018, 34_055_842  # numbers of parameters
VARIANTS = {
    variant.name: variant
    for variant in (
        PublishedVariant("efficienttam_s", _SMALL, 1024, "EfficientTAM-S"),
        PublishedVariant("efficienttam_s_1", _SMALL, 1024),
        PublishedVariant("efficienttam_s_2", _SMALL, 1024, "EfficientTAM-S/2"),
        PublishedVariant("efficienttam_s_512x512", _SMALL, 512),
        PublishedVariant("efficienttam_ti", _TINY, 1024, "EfficientTAM-Ti"),
        PublishedVariant("efficienttam_ti_1", _TINY, 1024),
        PublishedVariant("efficienttam_ti_2", _TINY, 1024, "EfficientTAM-Ti/2"),
        PublishedVariant("efficienttam_ti_512x512", _TINY, 512),
    )
}
INCLUDED_MODELS = ("efficienttam-nano",)  # the models that come with this package

CONVERTED = "efficienttam-hf"  # folder of converted checkpoints in the cached repository
SOURCE_FILE = "source.json"  # a file of a converted folder: repository, file, revision and hash of its checkpoint


# --------------------------------------------------------------------------------------------------- what is here


def _repository_folder(cache_dir: str | Path | None) -> Path:
    return cache_folder(cache_dir) / f"models--{PUBLISHED_FILES.repository.replace('/', '--')}"


def folder_of(variant: str, cache_dir: str | Path | None = None, commit: str | None = None) -> Path:
    """The path of the converted folder of a variant, which need not exist.

    Args:
        variant: a key of `VARIANTS`.
        cache_dir: the Hugging Face cache; by default from the environment.
        commit: a commit that the user named; `None` for the main branch at the time of the download.
    """
    return _repository_folder(cache_dir) / CONVERTED / (f"{variant}@{commit}" if commit else variant)


def found(variant: str, cache_dir: str | Path | None = None, commit: str | None = None) -> Path | None:
    """The converted folder of a variant, or `None` if it does not exist. This needs no network.

    Args:
        variant: a key of `VARIANTS`.
        cache_dir: the Hugging Face cache; by default from the environment.
        commit: the commit from which the folder must have been converted.
    """
    main = folder_of(variant, cache_dir)
    if commit is None or source_of(main).get("revision") == commit:
        folder = main
    else:
        folder = folder_of(variant, cache_dir, commit)
    there = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return folder if there else None


def remove(variant: str, cache_dir: str | Path | None = None) -> int:
    """Remove a variant's converted folders and its downloads, of all revisions, from the cache.

    Returns:
        The number of bytes that were freed; 0 if there was nothing to remove.

    Raises:
        FetchError: if the cache cannot be written.
    """
    repository, freed = _repository_folder(cache_dir), 0
    if not repository.is_dir():
        return 0
    with _locked(variant, cache_dir), cache_errors(variant, cache_dir):
        for pointer in repository.glob(f"snapshots/*/{PUBLISHED_FILES.of(variant)}"):
            freed += forget(pointer)
        folder = folder_of(variant, cache_dir)
        for path in [folder, *folder.parent.glob(f"{variant}@*"), *_left_behind(variant, cache_dir)]:
            if path.is_dir():
                freed += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                shutil.rmtree(path)
    return freed


def _left_behind(variant: str, cache_dir: str | Path | None) -> Iterator[Path]:
    """Temporary folders of conversions that were killed. While this process has the lock, nobody uses them."""
    yield from folder_of(variant, cache_dir).parent.glob(f".{variant}[.@]*/")


# ------------------------------------------------------------------------------------------------------- fetching


def answers(variant: str, seconds: float = 4.0) -> str | None:
    """Ask the Hub whether a variant's checkpoint can be fetched, and wait at most `seconds`.

    Returns:
        `None` if it can be fetched, otherwise the reason why it cannot.
    """
    return file_answers(PUBLISHED_FILES.repository, PUBLISHED_FILES.of(variant), seconds)


def fetch(
    variant: str,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    revision: str | None = None,
    force_download: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Return the folder of a published variant; download and convert it if it does not exist yet.

    Args:
        variant: a key of `VARIANTS`.
        cache_dir, token: arguments of huggingface_hub; by default from the environment.
        local_files_only: whether to use no network. A file that was downloaded before is still converted.
        revision: a branch, a tag or a commit of the authors' repository. By default, and for "main", an earlier
            download is used, however old it is. Each commit that is named has its own folder.
        force_download: whether to download and convert it again, and to replace the existing folder.
        progress: a function that is called during the download.

    Raises:
        FetchError: if the file does not exist here and cannot be fetched, is damaged, or the cache cannot be written.
    """
    offline = local_files_only or is_offline()
    commit = None if revision in (None, "main") else _commit_of(revision, variant, cache_dir, token, offline)
    folder = found(variant, cache_dir, commit)
    if folder is not None and not force_download:
        return folder
    downloads = f"snapshots/{commit or '*'}/{PUBLISHED_FILES.of(variant)}"
    if offline and (force_download or not any(_repository_folder(cache_dir).glob(downloads))):
        why = "only local files may be used (local_files_only)" if local_files_only else "HF_HUB_OFFLINE is set"
        if force_download:
            raise FetchError(
                f"{variant} cannot be downloaded again (force_download), because {why}: leave one of the two out."
            )
        raise FetchError(
            f"{variant}{f' of revision {revision}' if commit else ''} is not in the cache '{cache_folder(cache_dir)}', "
            f"and {why}. Fetch it with `efficienttam models fetch {variant}` where there is a network, or use "
            "efficienttam-nano, which comes with the package."
        )
    with _locked(variant, cache_dir):
        folder = found(variant, cache_dir, commit)  # another process may have created it in the meantime
        if folder is not None and not force_download:
            return folder
        checkpoint = download(
            PUBLISHED_FILES.repository,
            PUBLISHED_FILES.of(variant),
            commit,
            cache_dir,
            token,
            local_files_only,
            force_download,
            progress,
        )
        return _convert(variant, checkpoint, cache_dir, commit)


def _commit_of(
    revision: str, variant: str, cache_dir: str | Path | None, token: str | bool | None, offline: bool
) -> str:
    """The commit of a revision, from the Hub or, without a network, from the Hub's last answer.

    Raises:
        FetchError: if there is no such revision, or the Hub cannot be reached and has never answered.
    """
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    known = _repository_folder(cache_dir) / "refs" / revision
    if not offline:
        try:
            return metadata_of(PUBLISHED_FILES.repository, PUBLISHED_FILES.of(variant), revision, token).commit_hash
        except FetchError:
            if not known.is_file():
                raise
    if not known.is_file():
        raise FetchError(
            f"The commit of revision '{revision}' of {PUBLISHED_FILES.repository} is not in the cache "
            f"'{cache_folder(cache_dir)}', and the network may not be used. Give the full commit hash, or fetch the "
            "revision where there is a network."
        )
    return known.read_text(encoding="utf-8").strip()


def _convert(variant: str, checkpoint: Download, cache_dir: str | Path | None, commit: str | None) -> Path:
    """Convert a downloaded checkpoint into the cache. The caller has the lock."""
    from .checkpoints import CheckpointError, convert_checkpoint

    folder = folder_of(variant, cache_dir, commit)
    with cache_errors(variant, cache_dir):
        for path in _left_behind(variant, cache_dir):
            shutil.rmtree(path)
        whole = found(variant, cache_dir, commit) == folder  # it is replaced when the new one is complete
        if os.path.lexists(folder) and not whole:  # some of its files were removed
            shutil.rmtree(folder)
        try:
            return convert_checkpoint(checkpoint.path, folder, variant, overwrite=whole, source=checkpoint.source)
        except CheckpointError as error:
            raise FetchError(
                f"{checkpoint.source['file']} of {checkpoint.source['repository']} was downloaded correctly, but it is "
                f"not a checkpoint of {variant}: {error}"
            ) from error


# ----------------------------------------------------------------------------------------------------- the cache


@contextmanager
def _locked(variant: str, cache_dir: str | Path | None) -> Iterator[None]:
    """Hold the lock of a variant's converted folder. The system releases it if the process dies."""
    from filelock import FileLock, Timeout

    path = cache_folder(cache_dir) / ".locks" / _repository_folder(cache_dir).name / f"{CONVERTED}-{variant}.lock"
    lock = FileLock(path)
    with cache_errors(variant, cache_dir):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            logger.warning("Another process is fetching %s; waiting for it.", variant)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def source_of(folder: Path) -> dict[str, Any]:
    """The origin of a converted folder in the form of `Download.source`; empty if the folder does not have it."""
    try:
        return json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
