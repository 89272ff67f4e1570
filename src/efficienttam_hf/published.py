"""The authors' checkpoints by name: where they lie on the Hub, fetching them, and converting each of them once.

`efficienttam_s` and its like are files of the published kind in the authors' repository. The first time that one is
asked for, it is downloaded with huggingface_hub, which takes care of endpoints, tokens, proxies and offline mode; its
hash is held against the one that the Hub states, and it is converted to a folder that `from_pretrained` loads. That
folder lies in the Hugging Face cache, inside the repository's own, so that what removes the repository from the cache
removes it too. It appears whole or not at all, and several processes that ask at once convert once.

Finding a folder that is there needs no network and loads neither torch nor Transformers.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar


__all__ = [
    "INCLUDED_MODELS",
    "PUBLISHED_FILES",
    "PUBLISHED_REPOSITORY",
    "VARIANTS",
    "Download",
    "FetchError",
    "PublishedFiles",
    "PublishedVariant",
    "answers",
    "download",
    "fetch",
    "folder_of",
    "found",
    "hub_file",
    "is_offline",
    "local_checkpoint",
    "remove",
]

logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class PublishedFiles:
    """The layout of the authors' repository on the Hub.

    Attributes:
        repository: its id.
        filename: of a variant's checkpoint in it, with `{variant}` for the variant's name.
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
    """What is told of a published variant where its configuration is not loaded for it.

    Attributes:
        name: a key of `PRESETS`, which has all other numbers.
        parameters: how many.
        image_size: side of the input, in pixels.
        paper_name: as the paper calls it; `None` where it has no results of it.
    """

    name: str
    parameters: int
    image_size: int
    paper_name: str | None = None


_TINY, _SMALL = 17_866_018, 34_055_842  # parameters
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
INCLUDED_MODELS = ("efficienttam-nano",)  # those that come with this package

CONVERTED = "efficienttam-hf"  # folder of converted checkpoints in the cached repository
SOURCE_FILE = "source.json"  # in a converted folder: repository, file, revision and hash of what it was made of


class FetchError(OSError):
    """A checkpoint is not here and could not be fetched or converted. The message says why, and the way out."""


# --------------------------------------------------------------------------------------------------- what is here


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """The Hugging Face cache, as huggingface_hub has it from `HF_HOME` and `HF_HUB_CACHE`."""
    from huggingface_hub import constants

    return Path(cache_dir or constants.HF_HUB_CACHE)


def is_offline() -> bool:
    """Whether huggingface_hub was told not to touch the network (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _repository_folder(cache_dir: str | Path | None) -> Path:
    return cache_folder(cache_dir) / f"models--{PUBLISHED_FILES.repository.replace('/', '--')}"


def folder_of(variant: str, cache_dir: str | Path | None = None) -> Path:
    """Where the converted folder of a variant lies, if it is here."""
    return _repository_folder(cache_dir) / CONVERTED / variant


def found(variant: str, cache_dir: str | Path | None = None) -> Path | None:
    """The converted folder of a variant, `None` if it is not here. Touches no network."""
    folder = folder_of(variant, cache_dir)
    there = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return folder if there else None


def remove(variant: str, cache_dir: str | Path | None = None) -> int:
    """Remove a variant's converted folder and its download from the cache.

    Returns:
        How many bytes that freed; 0 if nothing was here.

    Raises:
        FetchError: the cache cannot be written.
    """
    repository, freed = _repository_folder(cache_dir), 0
    if not repository.is_dir():
        return 0
    with _locked(variant, cache_dir), _cache_errors(variant, cache_dir):
        for pointer in repository.glob(f"snapshots/*/{PUBLISHED_FILES.of(variant)}"):
            freed += _forget(pointer)
        folder = folder_of(variant, cache_dir)
        for path in [folder, *_left_behind(folder)]:
            if path.is_dir():
                freed += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                shutil.rmtree(path)
    return freed


def _forget(pointer: Path) -> int:
    """Remove a downloaded file from the cache: the name in a snapshot, and the blob that it points to."""
    blob = pointer.resolve()
    size = blob.stat().st_size if blob.is_file() else 0
    pointer.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)
    return size


def _left_behind(folder: Path) -> Iterator[Path]:
    """Temporary folders of conversions that were killed. They belong to nobody while the lock is ours."""
    yield from folder.parent.glob(f".{folder.name}.*/")


# ------------------------------------------------------------------------------------------------------- fetching


def answers(variant: str, seconds: float = 4.0) -> str | None:
    """Ask the Hub for a variant's checkpoint, and wait no longer than that.

    Returns:
        `None` if it can be fetched, else why not.
    """
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            _metadata(PUBLISHED_FILES.repository, PUBLISHED_FILES.of(variant), timeout=seconds)
            outcome.append(None)
        except FetchError as error:
            outcome.append(str(error))

    # In a thread of its own, as no time-out covers the look-up of a host's name.
    asking = threading.Thread(target=ask, daemon=True, name="ask-the-hub")
    asking.start()
    asking.join(seconds)
    return outcome[0] if outcome else f"{_endpoint()} did not answer within {seconds:.0f} seconds"


def fetch(
    variant: str,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a published variant, downloaded and converted if it is not here yet.

    Args:
        variant: a key of `VARIANTS`.
        cache_dir, token: as huggingface_hub takes them; by default from the environment.
        local_files_only: never touch the network. A download that is here is converted nevertheless.

    Raises:
        FetchError: it is not here and cannot be fetched, is damaged, or the cache cannot be written.
    """
    folder = found(variant, cache_dir)
    if folder is not None:
        return folder
    offline = local_files_only or is_offline()
    if offline and not any(_repository_folder(cache_dir).glob(f"snapshots/*/{PUBLISHED_FILES.of(variant)}")):
        why = "only local files are to be used" if local_files_only else "HF_HUB_OFFLINE is set"
        raise FetchError(
            f"{variant} is not in the cache '{cache_folder(cache_dir)}', and {why}. Where there is a network, fetch it "
            f"with `efficienttam models fetch {variant}`, or take efficienttam-nano, which comes with the package."
        )
    with _locked(variant, cache_dir):
        folder = found(variant, cache_dir)  # another process may have made it meanwhile
        if folder is not None:
            return folder
        checkpoint = download(
            PUBLISHED_FILES.repository, PUBLISHED_FILES.of(variant), None, cache_dir, token, local_files_only
        )
        return _convert(variant, checkpoint, cache_dir)


def _convert(variant: str, checkpoint: Download, cache_dir: str | Path | None) -> Path:
    """Convert a downloaded checkpoint into the cache; the lock is held."""
    from .checkpoints import CheckpointError, convert_checkpoint

    folder = folder_of(variant, cache_dir)
    with _cache_errors(variant, cache_dir):
        for path in _left_behind(folder):
            shutil.rmtree(path)
        if os.path.lexists(folder):  # without its configuration or its weights: files were removed from it
            shutil.rmtree(folder)
        try:
            return convert_checkpoint(checkpoint.path, folder, variant, source=checkpoint.source)
        except CheckpointError as error:
            raise FetchError(
                f"{checkpoint.source['file']} of {checkpoint.source['repository']} is as the Hub states it, and not a "
                f"checkpoint of {variant}: {error}"
            ) from error


@dataclass(frozen=True)
class Download:
    """A file from the Hub whose hash is the one that the Hub states.

    Attributes:
        path: where it lies in the cache.
        source: `repository`, `file`, `revision` (a commit), and `sha256` or, of small files, git's `sha1`.
    """

    path: Path
    source: dict[str, Any]


def download(
    repository: str,
    filename: str,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Download:
    """A file of a model repository on the Hub, from the cache if it is there, with its hash verified.

    A download whose connection breaks is resumed by huggingface_hub; a progress bar is shown as it shows them.

    Args:
        repository, filename, revision: as of `hf_hub_download`.
        cache_dir, token, local_files_only: as of `fetch`.

    Raises:
        FetchError: there is no such file, the Hub cannot be reached or refuses, or the file is damaged.
    """
    from huggingface_hub import hf_hub_download

    what = f"{filename} of {repository}"
    with _cache_errors(what, cache_dir):
        here = partial(hf_hub_download, repository, filename, cache_dir=cache_dir)
        metadata = None
        try:
            if not (local_files_only or is_offline()):
                metadata = _metadata(repository, filename, revision, token=token)
        except FetchError:  # what was downloaded before is as good
            try:
                path = _ask(what, partial(here, revision=revision, local_files_only=True))
            except FetchError:
                path = None
            if path is None:
                raise
        else:
            options = {"local_files_only": True} if metadata is None else {"token": token}
            path = _ask(what, partial(here, revision=revision, **options))
        path = Path(path)
        commit = _snapshot_of(path)
        if metadata is not None and metadata.commit_hash != commit:  # there was a new commit between the two
            metadata = _metadata(repository, filename, commit, token=token)
        stated = metadata.etag if metadata else _blob_name(path)
        kind = "sha256" if re.fullmatch(r"[0-9a-f]{64}", stated or "") else "sha1"
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", stated or ""):
            raise FetchError(f"The Hub states no hash of {what} (it says {stated!r}), so the file cannot be verified.")
        actual = _sha256(path) if kind == "sha256" else _git_sha1(path)
        if actual != stated:
            _forget(path)
            raise FetchError(
                f"{what} was damaged on its way: its {kind} is {actual}, and the Hub states {stated}. It was removed "
                "from the cache; the next try fetches it again."
            )
    return Download(path, {"repository": repository, "file": filename, "revision": commit, kind: stated})


def hub_file(address: str) -> tuple[str, str, str | None] | None:
    """Repository, file and revision that an address of a file on the Hub means; `None` if it is none.

    Taken are `hf://owner/name/file` and `hf://owner/name@revision/file`, and addresses as the browser has them:
    `https://huggingface.co/owner/name/blob/revision/file`, with `resolve` too, and of the endpoint that is set.
    """
    match = re.fullmatch(r"hf://(?:models/)?([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", address)
    if match:
        return match[1], match[3], match[2]
    for endpoint in ("https://huggingface.co", "https://hf.co", _endpoint()):
        match = re.fullmatch(
            re.escape(endpoint) + r"/([^/]+/[^/]+)/(?:blob|resolve|raw)/([^/]+)/([^?#]+)(?:[?#].*)?", address
        )
        if match:
            return match[1], match[3], match[2]
    return None


@contextmanager
def local_checkpoint(checkpoint: str | Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """A checkpoint as a file on this machine, fetched first if it is an address or a file on the Hub.

    Args:
        checkpoint: a path; `hf://...` or an address of a file on the Hub, see `hub_file`, which is kept in the cache
            and whose hash is verified; or any other address, which is fetched to a temporary file.

    Yields:
        The file, and where it comes from, `None` for a path.

    Raises:
        FetchError: it cannot be fetched.
    """
    address = str(checkpoint)
    on_hub = hub_file(address)
    if on_hub is not None:
        fetched = download(*on_hub)
        yield fetched.path, fetched.source
    elif address.startswith("hf://"):
        raise FetchError(f"{address} names no file on the Hub: write hf://owner/name/file, as in {_EXAMPLE}.")
    elif re.match(r"https?://", address):
        import torch.hub

        with tempfile.TemporaryDirectory(prefix="efficienttam-") as folder:
            path = Path(folder) / "checkpoint"
            try:
                torch.hub.download_url_to_file(address, str(path))
            except (OSError, ValueError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in _FULL:
                    raise
                raise FetchError(f"{address} could not be fetched: {_first_line(error)}") from error
            yield path, {"url": address, "sha256": _sha256(path)}
    else:
        yield Path(checkpoint), None


_EXAMPLE = f"hf://{PUBLISHED_FILES.repository}/{PUBLISHED_FILES.of('efficienttam_s')}"


def _metadata(
    repository: str,
    filename: str,
    revision: str | None = None,
    token: str | bool | None = None,
    timeout: float | None = None,
) -> Any:
    """What the Hub states of a file: `commit_hash`, `etag` (its hash) and `size`.

    Raises:
        FetchError: there is no such file, or the Hub cannot be reached or refuses.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    def ask() -> Any:
        url = hf_hub_url(repository, filename, revision=revision)
        return get_hf_file_metadata(url, token=token, timeout=timeout or constants.HF_HUB_ETAG_TIMEOUT)

    metadata = _ask(f"{filename} of {repository}", ask)
    if not metadata.commit_hash:
        raise FetchError(
            f"{_endpoint()} does not answer as the Hub does (no commit is stated for {filename} of {repository}): look "
            "at HF_ENDPOINT, or at what stands between here and there."
        )
    return metadata


def _ask(what: str, call: Callable[[], _Result]) -> _Result:
    """Call huggingface_hub, and have what goes wrong on the network in one kind of error and in plain words.

    Its exceptions are of several libraries, which differ between its versions, so they are told apart by what they say.
    """
    from huggingface_hub import errors

    try:
        return call()
    except errors.GatedRepoError as error:
        raise FetchError(f"{what} needs permission: ask for it on its page, then `hf auth login`.") from error
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError, errors.RepositoryNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise FetchError(f"{what} is not in the cache, and the network is not to be used or not there.") from error
        status = getattr(getattr(error, "response", None), "status_code", 404)
        hint = "" if status == 404 else ": the token is missing or wrong (`hf auth login`, or HF_TOKEN)"
        raise FetchError(f"{_endpoint()} has no {what}, or does not show it ({status}){hint}.") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        hint = ": the token is missing or wrong (`hf auth login`, or HF_TOKEN)" if status in (401, 403) else ""
        raise FetchError(f"{_endpoint()} does not give {what} (status {status}){hint}.") from error
    except OSError as error:
        if error.errno is not None and type(error).__module__ == "builtins":  # of this machine's disk
            raise
        raise FetchError(f"{what} could not be fetched: {_first_line(error)}") from error
    except Exception as error:  # of the library that speaks HTTP
        name = type(error).__name__
        raise FetchError(f"{_endpoint()} cannot be reached for {what} ({name}: {_first_line(error)}).") from error


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


# ----------------------------------------------------------------------------------------------------- the cache


@contextmanager
def _locked(variant: str, cache_dir: str | Path | None) -> Iterator[None]:
    """Hold the lock of a variant's converted folder; whoever dies lets go of it."""
    from filelock import FileLock, Timeout

    path = cache_folder(cache_dir) / ".locks" / _repository_folder(cache_dir).name / f"{CONVERTED}-{variant}.lock"
    lock = FileLock(path)
    with _cache_errors(variant, cache_dir):
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


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def _cache_errors(what: str, cache_dir: str | Path | None) -> Iterator[None]:
    """Say of an error of the disk which folder it is about, and the way out."""
    from safetensors import SafetensorError

    cache = cache_folder(cache_dir)
    try:
        yield
    except FetchError:
        raise
    except SafetensorError as error:  # what safetensors cannot write is none of Python's errors
        raise FetchError(_full(what, cache, error)) from error
    except OSError as error:
        if error.errno in _FULL:
            raise FetchError(_full(what, cache, error)) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise FetchError(
                f"{what} cannot be kept: the cache '{cache}' cannot be written ({error.strerror}). Set HF_HOME or "
                "HF_HUB_CACHE to a folder that can be."
            ) from error
        raise


def _full(what: str, cache: Path, error: BaseException) -> str:
    return (
        f"{what} cannot be kept in the cache '{cache}': {_first_line(error)}. Make room there, or set HF_HOME or "
        "HF_HUB_CACHE to a folder on another disk."
    )


def _snapshot_of(pointer: Path) -> str:
    """The commit of a file in the cache: the folder under `snapshots` that it is in."""
    parts = pointer.parts
    return parts[len(parts) - 1 - parts[::-1].index("snapshots") + 1]


def _blob_name(pointer: Path) -> str | None:
    """The hash that the Hub stated of a file in the cache, which is the name of what it points to."""
    return Path(os.readlink(pointer)).name if pointer.is_symlink() else None


def _sha256(path: Path) -> str:
    from .checksums import sha256_of

    return sha256_of(path)


def _git_sha1(path: Path) -> str:
    """What git calls a file: the hash of a small file that a repository holds itself."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def source_of(folder: Path) -> dict[str, Any]:
    """What a converted folder was made of, as `Download.source`; empty if it does not say."""
    try:
        return json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
