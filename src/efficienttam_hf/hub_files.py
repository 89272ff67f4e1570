"""Downloads files of Hub repositories into the Hugging Face cache and verifies their hashes.

huggingface_hub downloads the files and handles endpoints, tokens, proxies and offline mode. This file compares the
downloads with the hashes that the Hub states, and turns all failures into one type of error with a clear message.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar


__all__ = [
    "Download",
    "FetchError",
    "Progress",
    "cache_errors",
    "cache_folder",
    "download",
    "endpoint",
    "file_answers",
    "forget",
    "hub_file",
    "is_offline",
    "local_checkpoint",
    "metadata_of",
    "snapshot_of",
]

_Result = TypeVar("_Result")
# A function that receives the bytes downloaded so far and the total, which is `None` if the server does not state it.
Progress = Callable[[int, int | None], None]


class FetchError(OSError):
    """A checkpoint could not be found, fetched or converted. The message has the reason and a remedy."""


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """The Hugging Face cache, which huggingface_hub takes from `HF_HOME` and `HF_HUB_CACHE`."""
    from huggingface_hub import constants

    return Path(cache_dir or constants.HF_HUB_CACHE)


def is_offline() -> bool:
    """Whether huggingface_hub must not use the network (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@dataclass(frozen=True)
class Download:
    """A file from the Hub whose hash is the one that the Hub states.

    Attributes:
        path: the path of the file in the cache.
        source: `repository`, `file`, `revision` (a commit), and `sha256` or, for small files, git's `sha1`.
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
    force_download: bool = False,
    progress: Progress | None = None,
) -> Download:
    """Download a file of a model repository on the Hub, or find it in the cache, and verify its hash.

    huggingface_hub continues a download after a lost connection, and shows a progress bar. Its versions before 2.0
    also continue the partial file of a killed process; later versions start again, and this function removes the
    partial file.

    Args:
        repository, filename, revision, force_download: arguments of `hf_hub_download`.
        cache_dir, token: arguments of huggingface_hub; by default from the environment.
        local_files_only: whether to use no network.
        progress: a function that is called during the download.

    Raises:
        FetchError: if there is no such file, the Hub cannot be reached or refuses, or the file is damaged.
    """
    from huggingface_hub import hf_hub_download

    what = f"{filename} of {repository}"
    with cache_errors(what, cache_dir):
        here = partial(hf_hub_download, repository, filename, cache_dir=cache_dir)
        metadata = None
        try:
            if not (local_files_only or is_offline()):
                metadata = metadata_of(repository, filename, revision, token=token)
        except FetchError:  # an earlier download can be used instead
            if force_download:
                raise
            try:
                path = Path(_ask(what, partial(here, revision=revision, local_files_only=True)))
            except FetchError:
                path = None
            if path is None:
                raise
        else:
            options: dict[str, Any] = {"local_files_only": True}
            if metadata is not None:
                bar = None if progress is None else _reporting_bar(progress)
                options = {"token": token, "force_download": force_download, "tqdm_class": bar}
            path = Path(_ask(what, partial(here, revision=revision, **options)))
        commit = snapshot_of(path)
        if metadata is not None and metadata.commit_hash != commit:  # a new commit came between the two requests
            metadata = metadata_of(repository, filename, commit, token=token)
        stated = metadata.etag if metadata else _blob_name(path)
        kind = "sha256" if re.fullmatch(r"[0-9a-f]{64}", stated or "") else "sha1"
        if stated is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", stated):
            raise FetchError(f"The Hub states no hash of {what} (it says {stated!r}), so the file cannot be verified.")
        actual = _sha256(path) if kind == "sha256" else _git_sha1(path)
        if actual != stated:
            forget(path)
            raise FetchError(
                f"{what} was damaged on its way: its {kind} is {actual}, and the Hub states {stated}. It was removed "
                "from the cache; the next try fetches it again."
            )
        # Another process that was downloading the file had huggingface_hub's lock, so nobody uses these partial files.
        for part in path.resolve().parent.glob(f"{stated}*.incomplete"):
            part.unlink(missing_ok=True)
    return Download(path, {"repository": repository, "file": filename, "revision": commit, kind: stated})


def _reporting_bar(progress: Progress) -> type:
    """A progress bar of huggingface_hub that also calls `progress`, even if the bar is not shown."""
    from huggingface_hub.utils import tqdm

    class ReportingBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._here, self._of = kwargs.get("initial") or 0, kwargs.get("total")

        def update(self, n: float | None = 1) -> bool | None:
            self._here += int(n or 0)
            progress(self._here, self._of)
            return super().update(n)

    return ReportingBar


def hub_file(address: str) -> tuple[str, str, str | None] | None:
    """Read repository, file and revision from the address of a file on the Hub; `None` for any other address.

    Accepted are `hf://owner/name/file` and `hf://owner/name@revision/file`, and the addresses of a browser,
    `https://huggingface.co/owner/name/blob/revision/file`, also with `resolve` and at the endpoint that is set.
    """
    match = re.fullmatch(r"hf://(?:models/)?([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", address)
    if match:
        return match[1], match[3], match[2]
    for site in ("https://huggingface.co", "https://hf.co", endpoint()):
        match = re.fullmatch(
            re.escape(site) + r"/([^/]+/[^/]+)/(?:blob|resolve|raw)/([^/]+)/([^?#]+)(?:[?#].*)?", address
        )
        if match:
            return match[1], match[3], match[2]
    return None


@contextmanager
def local_checkpoint(checkpoint: str | Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Provide a checkpoint as a local file; one at an address or on the Hub is fetched first.

    Args:
        checkpoint: a path; the address of a file on the Hub (see `hub_file`), which is kept in the cache and whose
            hash is verified; or any other address, which is fetched to a temporary file.

    Yields:
        The file and its origin, which is `None` for a path.

    Raises:
        FetchError: if it cannot be fetched.
    """
    address = str(checkpoint)
    on_hub = hub_file(address)
    if on_hub is not None:
        fetched = download(*on_hub)
        yield fetched.path, fetched.source
    elif address.startswith("hf://"):
        raise FetchError(f"{address} names no file on the Hub: write hf://owner/name/file.")
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


def metadata_of(
    repository: str,
    filename: str,
    revision: str | None = None,
    token: str | bool | None = None,
    timeout: float | None = None,
) -> Any:
    """Ask the Hub for the metadata of a file: `commit_hash`, `etag` (its hash) and `size`.

    Raises:
        FetchError: if there is no such file, or the Hub cannot be reached or refuses.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    def ask() -> Any:
        url = hf_hub_url(repository, filename, revision=revision)
        return get_hf_file_metadata(url, token=token, timeout=timeout or constants.HF_HUB_ETAG_TIMEOUT)

    metadata = _ask(f"{filename} of {repository}", ask)
    if not metadata.commit_hash:
        raise FetchError(
            f"{endpoint()} does not answer as the Hub does (no commit is stated for {filename} of {repository}): look "
            "at HF_ENDPOINT, or at what stands between here and there."
        )
    return metadata


def file_answers(repository: str, filename: str, seconds: float = 4.0) -> str | None:
    """Ask the Hub whether a file can be fetched, and wait at most `seconds`.

    Returns:
        `None` if it can be fetched, otherwise the reason why it cannot.
    """
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            metadata_of(repository, filename, timeout=seconds)
            outcome.append(None)
        except FetchError as error:
            outcome.append(str(error))

    # The request runs in its own thread, because no time-out covers the look-up of a host's name.
    asking = threading.Thread(target=ask, daemon=True, name="ask-the-hub")
    asking.start()
    asking.join(seconds)
    return outcome[0] if outcome else f"{endpoint()} did not answer within {seconds:.0f} seconds"


def _ask(what: str, call: Callable[[], _Result]) -> _Result:
    """Call huggingface_hub and turn network failures into one type of error with a clear message.

    Its exceptions come from several libraries, which differ between versions, so they are distinguished by their texts.
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
        raise FetchError(f"{endpoint()} has no {what}, or does not show it ({status}){hint}.") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        hint = ": the token is missing or wrong (`hf auth login`, or HF_TOKEN)" if status in (401, 403) else ""
        raise FetchError(f"{endpoint()} does not give {what} (status {status}){hint}.") from error
    except OSError as error:
        if error.errno is not None and type(error).__module__ == "builtins":  # an error of this machine's disk
            raise
        raise FetchError(f"{what} could not be fetched: {_first_line(error)}") from error
    except Exception as error:  # an error of the HTTP library
        name = type(error).__name__
        raise FetchError(f"{endpoint()} cannot be reached for {what} ({name}: {_first_line(error)}).") from error


def endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def cache_errors(what: str, cache_dir: str | Path | None) -> Iterator[None]:
    """Turn an error of the disk into a message with the folder and a remedy."""
    from safetensors import SafetensorError

    cache = cache_folder(cache_dir)
    try:
        yield
    except FetchError:
        raise
    except SafetensorError as error:  # safetensors has its own error for a failed write
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


def snapshot_of(pointer: Path) -> str:
    """The commit of a file in the cache, which is the name of its folder under `snapshots`."""
    parts = pointer.parts
    return parts[len(parts) - 1 - parts[::-1].index("snapshots") + 1]


def _blob_name(pointer: Path) -> str | None:
    """The hash that the Hub states for a file in the cache, which is the name of the blob that it links to."""
    return Path(os.readlink(pointer)).name if pointer.is_symlink() else None


def _sha256(path: Path) -> str:
    from .checksums import sha256_of

    return sha256_of(path)


def _git_sha1(path: Path) -> str:
    """The git hash of a file, which the Hub states for small files that are stored in the repository itself."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def forget(pointer: Path) -> int:
    """Remove a downloaded file from the cache: the link in a snapshot, and the blob that it links to."""
    blob = pointer.resolve()
    size = blob.stat().st_size if blob.is_file() else 0
    pointer.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)
    return size
