"""Builds a repository on the Hub from a model's name: makes the folder, verifies it, and uploads missing files.

Each step stands alone and raises `PublishingError` in words for whoever publishes. An upload is one commit, so a
repository never holds half a model; and as the Hub keeps what was sent for a commit that did not come about, an upload
that broke off goes on where it stopped when it is started again. Only `upload` speaks to the Hub.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from torch import Tensor

from ..checkpoints import convert_checkpoint, read_published, to_published
from ..checksums import write_checksums
from ..configuration_efficienttam import EfficientTamConfig
from ..modeling_efficienttam import EfficientTamModel
from ..modeling_efficienttam_video import EfficientTamVideoModel
from ..output_folders import LIST_NAME
from ..processing_efficienttam import EfficientTamVideoProcessor
from ..remote_code import REMOTE_CODE_FILES, included_checkpoint
from ..synthetic_clip import make_clip
from .model_cards import INCLUDED_MODELS, card_folder, model_card, place_card


__all__ = ["PublishingError", "Upload", "checksums", "make_repository", "upload", "verify"]


class PublishingError(RuntimeError):
    """A repository cannot be made or uploaded as it is; the message says what to do."""


@dataclass
class Upload:
    """What an upload did: the address of the repository, files that were sent, and files that were there already."""

    url: str
    sent: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def make_repository(name: str, folder: Path, repo_id: str, checkpoint: Path | None = None) -> dict[str, str]:
    """Everything a model's repository holds, in a new folder, verified: weights, configuration, processors, code, card.

    Args:
        name: a published variant, or a model that comes with the package.
        folder: to make; must not exist.
        repo_id: where it is to be uploaded, `"owner/name"`; the card's examples load it.
        checkpoint: the authors' `.pt` file of a published variant.

    Returns:
        SHA-256 of each file by its name; they are in the folder's `SHA256SUMS` too.

    Raises:
        FileExistsError, FileNotFoundError, CheckpointError, PublishingError: and no folder is left.
    """
    if name not in INCLUDED_MODELS and checkpoint is None:
        raise PublishingError(f"{name} is a published variant: give the authors' file, {name}.pt.")
    target = Path(folder)
    if target.exists():
        raise FileExistsError(f"{target} exists already; choose another name.")
    # All is made in a folder of its own, the only one that is ever removed.
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    folder = work / target.name
    try:
        if name in INCLUDED_MODELS:
            _copy_included(name, folder)
        else:
            assert checkpoint is not None  # see above
            convert_checkpoint(checkpoint, folder, name)
            (folder / LIST_NAME).unlink()  # of use on this machine only
        verify(folder, checkpoint)
        card = place_card(model_card(name, repo_id), card_folder(name), folder, copy_pictures=True)
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_checksums(folder)
        if target.exists():
            raise FileExistsError(f"{target} was made by something else meanwhile; choose another name.")
        folder.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return checksums(target)


def _copy_included(name: str, folder: Path) -> None:
    """An included model as `save_pretrained` would write it, but with its weights as they are, in half precision."""
    EfficientTamConfig.from_pretrained(name).save_pretrained(folder)
    EfficientTamVideoProcessor.from_pretrained(name).save_pretrained(folder)
    for file in Path(included_checkpoint(name)).glob("*.safetensors"):
        shutil.copyfile(file, folder / file.name)


def verify(folder: Path, checkpoint: Path | None = None) -> None:
    """Hold a folder against what a user of the repository relies on.

    It has the code of this package, and loads with every tensor in its place and no other. All weights are finite.
    Given the published checkpoint, they are that file's, bit by bit. An image and a video go through it and give finite
    numbers.

    Raises:
        PublishingError: naming the first thing that does not hold.
    """
    here = Path(__file__).resolve().parents[1]
    for file in REMOTE_CODE_FILES:
        if not (folder / file).is_file() or (folder / file).read_bytes() != (here / file).read_bytes():
            raise PublishingError(f"{folder / file} is not this package's code, which trust_remote_code would run.")
    model, loading = EfficientTamVideoModel.from_pretrained(folder, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[kind]:
            raise PublishingError(f"{folder} does not load cleanly: {kind} {sorted(map(str, loading[kind]))[:3]}.")
    tensors = model.state_dict()
    _require_finite(tensors, "weights")
    if checkpoint is not None:
        back = to_published(tensors, model.config)
        for tensor_name, tensor in read_published(checkpoint).items():
            if tensor_name not in back or not torch.equal(back[tensor_name], tensor):
                raise PublishingError(f"{folder} does not give back {tensor_name!r} of {checkpoint}.")
    _run(folder, model.eval())


@torch.no_grad()
def _run(folder: Path, video_model: EfficientTamVideoModel) -> None:
    """One click on an image, and on the first of two frames of a video."""
    processor = EfficientTamVideoProcessor.from_pretrained(folder)
    clip = make_clip(2, 160, 120)
    click = {"input_points": [[[list(clip.click)]]], "input_labels": [[[1]]]}
    outputs = EfficientTamModel.from_pretrained(folder).eval()(
        **processor(images=clip.frames[0], **click, return_tensors="pt")
    )
    _require_finite({"pred_masks": outputs.pred_masks, "iou_scores": outputs.iou_scores}, "results of an image")
    session = processor.init_video_session(clip.frames)
    processor.add_inputs_to_inference_session(session, 0, 1, **click)
    for output in video_model.propagate_in_video_iterator(session):
        _require_finite(
            {"pred_masks": output.pred_masks, "object_score_logits": output.object_score_logits}, "results of a video"
        )


def _require_finite(tensors: dict[str, Tensor], what: str) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise PublishingError(f"Among the {what}, {name!r} has numbers that are not finite.")


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest(path, hashlib.sha256()) for path in files}


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def upload(folder: Path, repo_id: str, api: HfApi, message: str, create: bool = False, private: bool = False) -> Upload:
    """Bring a folder's files to a model repository, in one commit, but those that are there already.

    Args:
        folder: of `make_repository`.
        repo_id: `"owner/name"`.
        api: whose token is used.
        message: of the commit; the checksums go below it.
        create: whether to make the repository if there is none.
        private: whether a repository that is made is private.

    Returns:
        What was sent and what was kept, after the Hub's checksums were compared.

    Raises:
        PublishingError: if there is no valid token or no such repository, or the upload broke off. The repository is
            then as it was before.
    """
    try:
        api.whoami()
        if create:
            api.create_repo(repo_id, private=private, exist_ok=True)
        result = Upload(f"{api.endpoint}/{repo_id}")
        missing = _not_there(folder, repo_id, api)
        result.kept = [file for file in checksums(folder) if file not in missing]
        if not missing:
            return result
        description = "\n".join(f"{sha}  {file}" for file, sha in checksums(folder).items())
        additions = [CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file) for file in missing]
        api.create_commit(repo_id, additions, commit_message=message, commit_description=description)
        result.sent = missing
        if differing := _not_there(folder, repo_id, api):
            raise PublishingError(f"After the upload, {repo_id} holds other bytes than were sent: {differing}.")
        return result
    except (HTTPError, LocalTokenNotFoundError, RuntimeError) as error:  # of which the Hub's errors are kinds
        if isinstance(error, PublishingError):
            raise
        raise PublishingError(_explanation(error, repo_id)) from error


def _not_there(folder: Path, repo_id: str, api: HfApi) -> list[str]:
    """The files of a folder that the repository has not, or has with other bytes."""
    sums = checksums(folder)
    remote: dict[str, Any] = {info.path: info for info in api.get_paths_info(repo_id, list(sums))}
    missing = []
    for file, sha in sums.items():
        info = remote.get(file)
        if info is None:
            there = False
        elif info.lfs is not None:
            there = info.lfs.sha256 == sha
        else:  # git's name of the content
            size = (folder / file).stat().st_size
            there = info.blob_id == _digest(folder / file, hashlib.sha1(b"blob %d\0" % size))
        if not there:
            missing.append(file)
    return missing


def _explanation(error: Exception, repo_id: str) -> str:
    """What happened on the way to the Hub, and what to do."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, RepositoryNotFoundError):
        return f"There is no repository {repo_id} that you can see. Make it on the Hub, or add --create."
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "The Hub does not know you. Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
    if status == 403:
        return f"Your token may not write to {repo_id}. Make one that may at https://huggingface.co/settings/tokens."
    return (
        f"The upload to {repo_id} broke off: {error} The repository is as it was before. Run the same command again; "
        "what has arrived is not sent again."
    )
