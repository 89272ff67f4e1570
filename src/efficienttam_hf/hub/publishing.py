"""Builds a repository on the Hub from a model's name: makes the folder, verifies it, and uploads missing files.

Each step can be used alone and raises `PublishingError` with a message for the user. An upload is one commit, so a
repository never has half a model. The Hub keeps files that were sent for a commit that failed, so an interrupted upload
continues where it stopped. Only `upload` connects to the Hub.
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
    """A repository cannot be made or uploaded. The message says how to correct it."""


@dataclass
class Upload:
    """The result of an upload.

    Attributes:
        url: the address of the repository.
        sent: the files that were uploaded.
        kept: the files that were in the repository already.
    """

    url: str
    sent: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def make_repository(name: str, folder: Path, repo_id: str, checkpoint: Path | None = None) -> dict[str, str]:
    """Make a new folder with the content of a model's repository: weights, configuration, processors, code and card.

    Args:
        name: a published variant, or an included model.
        folder: the path of the folder, which must not exist.
        repo_id: the repository for the upload, `"owner/name"`; the examples in the card load it.
        checkpoint: the authors' `.pt` file of a published variant.

    Returns:
        The SHA-256 of each file by its name. The file `SHA256SUMS` in the folder has them too.

    Raises:
        FileExistsError: if the folder exists.
        FileNotFoundError: if the checkpoint does not exist.
        CheckpointError: if the checkpoint cannot be converted.
        PublishingError: if an argument is missing or the result cannot be verified. After any error, no folder is left.
    """
    if name not in INCLUDED_MODELS and checkpoint is None:
        raise PublishingError(f"{name} is a published variant: give the authors' file, {name}.pt.")
    target = Path(folder)
    if target.exists():
        raise FileExistsError(f"{target} exists already; choose another name.")
    # Everything is made in a temporary folder, which is the only one that is ever removed.
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    folder = work / target.name
    try:
        if name in INCLUDED_MODELS:
            _copy_included(name, folder)
        else:
            assert checkpoint is not None  # checked at the beginning of this function
            convert_checkpoint(checkpoint, folder, name)
            (folder / LIST_NAME).unlink()  # it is only useful on this machine
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
    """Write an included model as `save_pretrained` would, but with its weights unchanged, in half precision."""
    EfficientTamConfig.from_pretrained(name).save_pretrained(folder)
    EfficientTamVideoProcessor.from_pretrained(name).save_pretrained(folder)
    for file in Path(included_checkpoint(name)).glob("*.safetensors"):
        shutil.copyfile(file, folder / file.name)


def verify(folder: Path, checkpoint: Path | None = None) -> None:
    """Check a folder for the properties that users of the repository rely on.

    It must have the code of this package and load with exactly the expected tensors. All weights must be finite. If the
    published checkpoint is given, the weights must equal it in every bit. An image and a video must give finite
    results.

    Args:
        folder: the folder of the repository.
        checkpoint: the authors' `.pt` file, if the model is a published variant.

    Raises:
        PublishingError: for the first property that does not hold.
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
    """Segment an image and track two frames of a video from one click each, and check that the results are finite."""
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
    """Raise `PublishingError` if a tensor has values that are not finite."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise PublishingError(f"Among the {what}, {name!r} has numbers that are not finite.")


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest(path, hashlib.sha256()) for path in files}


def _digest(path: Path, digest: hashlib._Hash) -> str:
    """Return the digest of a file in hexadecimal."""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def upload(folder: Path, repo_id: str, api: HfApi, message: str, create: bool = False, private: bool = False) -> Upload:
    """Upload a folder to a model repository, in one commit. Files that are in the repository already are not sent.

    Args:
        folder: the output of `make_repository`.
        repo_id: `"owner/name"`.
        api: the client of the Hub, with its token.
        message: the commit message; the checksums are added below it.
        create: whether the repository is made if it does not exist.
        private: whether a new repository is private.

    Returns:
        The files that were sent and kept, after a comparison with the Hub's checksums.

    Raises:
        PublishingError: if there is no valid token or no such repository, or the upload was interrupted. Then the
            repository is unchanged.
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
    except (HTTPError, LocalTokenNotFoundError, RuntimeError) as error:  # the Hub's errors are subclasses of these
        if isinstance(error, PublishingError):
            raise
        raise PublishingError(_explanation(error, repo_id)) from error


def _not_there(folder: Path, repo_id: str, api: HfApi) -> list[str]:
    """Return the files of a folder that the repository does not have, or has with another content."""
    sums = checksums(folder)
    remote: dict[str, Any] = {info.path: info for info in api.get_paths_info(repo_id, list(sums))}
    missing = []
    for file, sha in sums.items():
        info = remote.get(file)
        if info is None:
            there = False
        elif info.lfs is not None:
            there = info.lfs.sha256 == sha
        else:  # git's hash of the content
            size = (folder / file).stat().st_size
            there = info.blob_id == _digest(folder / file, hashlib.sha1(b"blob %d\0" % size))
        if not there:
            missing.append(file)
    return missing


def _explanation(error: Exception, repo_id: str) -> str:
    """Return a message that says what failed at the Hub, and how to correct it."""
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
