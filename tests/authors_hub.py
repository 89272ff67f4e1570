"""The authors' repository on the stand-in of the Hub, with tiny models under the names of the published ones."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from hub_server import HubServer, hub_server
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from reference import tiny_fields

from efficienttam_hf.checkpoints import to_published
from efficienttam_hf.configuration_efficienttam import PRESETS
from efficienttam_hf.published import PUBLISHED_FILES, PUBLISHED_REPOSITORY


NAME, SMALL = "efficienttam_ti_512x512", "efficienttam_s_512x512"
NOWHERE = "http://127.0.0.1:9"  # a port that nobody listens at


def published_file(model) -> bytes:
    """A file of the published kind with a model in it."""
    file = io.BytesIO()
    torch.save({"model": to_published(model.state_dict(), model.config)}, file)
    return file.getvalue()


@contextmanager
def authors_hub(monkeypatch, folder, checkpoint: bytes) -> Iterator[HubServer]:
    """The authors' repository with a checkpoint, an empty cache in `folder`, and presets that have its shape."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    for variable in ("HF_TOKEN", "EFFICIENTTAM_MODEL"):
        monkeypatch.delenv(variable, raising=False)
    cache = folder / "cache"
    for constant, value in {
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(folder / "no token"),
        "DOWNLOAD_CHUNK_SIZE": 2**16,
    }.items():
        monkeypatch.setattr(constants, constant, value)
    for name in (NAME, SMALL):
        monkeypatch.setitem(PRESETS, name, tiny_fields())
    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        for name in (NAME, SMALL):
            server.add(PUBLISHED_REPOSITORY, PUBLISHED_FILES.of(name), checkpoint)
        server.cache = cache
        close_session()
        yield server
        close_session()


def cut_off(monkeypatch):
    """From here on nothing answers."""
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", NOWHERE + "/{repo_id}/resolve/{revision}/{filename}")
