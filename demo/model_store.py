"""The models of the demo: which are offered, which are loaded, and how another one is loaded. This file has no Gradio.

A model is loaded once for all visitors and is never changed. At most `settings.models_in_memory` models are loaded at a
time: another one replaces the least recently used model. A model cannot be replaced while it is in use. If no model can
be replaced within a few seconds, the visitor gets a message. A model that is not on this machine is downloaded in a
separate thread, once for all visitors who wait for it, and no other visitor waits.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from settings import Settings
from uploads import UserError

from efficienttam_hf import EfficientTamModel, EfficientTamVideoModel, EfficientTamVideoProcessor
from efficienttam_hf.app.known_models import KnownModel, known_models
from efficienttam_hf.app.loading import ModelSource, choose_model, find_model
from efficienttam_hf.published import VARIANTS, fetch, found


logger = logging.getLogger(__name__)

ALL = "all"  # in the setting `models`: every model that has a name
SECONDS_FOR_ROOM = 10.0
DOWNLOADS_AT_ONCE = 2


def offered_models(settings: Settings, device: torch.device) -> tuple[list[str], ModelSource]:
    """Return the models that may be chosen on the page, and the model that the page begins with.

    If the settings name a model and no others, it cannot be changed. If they name neither, every model that has a name
    is offered, and the page begins with the default of the commands.

    Args:
        settings: the settings of the demo.
        device: the device that the models run on; the default model depends on it.

    Returns:
        The names, and the source of the first model.

    Raises:
        ValueError, OSError: if a model does not exist, or the first model cannot be downloaded.
    """
    everything = [model.name for model in known_models()]
    names = [name for given in settings.models for name in (everything if given == ALL else [given])]
    begins_with_given = bool(names) and not settings.model
    first = find_model(names[0]) if begins_with_given else choose_model(settings.model or None, device)
    if not names:
        names = [] if settings.model else everything
    for name in names:
        if name not in VARIANTS:  # variants are downloaded when they are chosen
            find_model(name)
    return list(dict.fromkeys(names if first.name in names else [first.name, *names])), first


@dataclass(frozen=True)
class Models:
    """The video model and the image model with the same weights, and their processor."""

    video: EfficientTamVideoModel
    image: EfficientTamModel
    processor: EfficientTamVideoProcessor


class Preparation:
    """The state of a model that is being downloaded and loaded.

    Attributes:
        name: the name of the model.
        done: whether the preparation has ended, with or without success.
        problem: a message for the visitor if the model could not be loaded; otherwise `None`.
    """

    def __init__(self, name: str):
        self.name = name
        self.done = False
        self.problem: str | None = None
        self._text, self._part = "Loading …", 0.0

    def says(self) -> tuple[str, float]:
        """Return the current step, as text for the visitor, and the completed part of it, from 0 to 1."""
        return self._text, self._part

    def fetching(self, here: int, total: int | None) -> None:
        """Note the progress of a download.

        Args:
            here: the number of bytes that have arrived.
            total: the number of bytes of the file, if it is known.
        """
        known = total or VARIANTS[self.name].parameters * 4
        self._text, self._part = f"Fetching {here / 1e6:.0f} of {known / 1e6:.0f} MB …", min(here / known, 1.0)
        if here >= known:
            self._text = "Converting …"

    def waiting(self) -> None:
        """Note that other downloads come first."""
        self._text = "Waiting for other downloads …"

    def loading(self) -> None:
        """Note that the model is on this machine and is being loaded."""
        self._text, self._part = "Loading …", 1.0


class ModelStore:
    """Loads models by name and keeps a limited number of them.

    Args:
        names: the names of the models that are offered, including `first`.
        first: the model that visitors begin with.
        load: a function that loads a model by name and makes it ready to run.
        most: the largest number of models that are loaded at a time.
    """

    def __init__(self, names: list[str], first: str, load: Callable[[str], Models], most: int):
        self.names, self.first = names, first
        self._known = {model.name: model for model in known_models()}
        self._load, self._most = load, most
        self._loaded: OrderedDict[str, Models] = OrderedDict()  # the most recently used model is at the end
        self._uses: Counter[str] = Counter()
        self._loading: set[str] = set()
        self._changed = threading.Condition()
        self._one_load_at_a_time = threading.Lock()  # Transformers replaces functions of torch while it loads a model
        self._downloads = threading.Semaphore(DOWNLOADS_AT_ONCE)
        self._preparations: dict[str, Preparation] = {}
        # If there is only one model, no lock is needed. A process that ZeroGPU forks could inherit a lock that is held.
        self._only = load(first) if len(names) == 1 else None
        if self._only is None:
            with self.use(first):
                pass

    @contextmanager
    def use(self, name: str) -> Iterator[Models]:
        """Give a model, which stays loaded until the `with` block ends. It is loaded first if necessary.

        Raises:
            UserError: if no model can be replaced, because all loaded models are in use.
        """
        if self._only is not None:
            yield self._only
            return
        models = self._take(name)
        try:
            yield models
        finally:
            with self._changed:
                self._uses[name] -= 1
                self._changed.notify_all()

    def _take(self, name: str) -> Models:
        """Return a model and count one more use of it; wait for a limited time if no model can be replaced."""
        deadline = time.monotonic() + SECONDS_FOR_ROOM
        with self._changed:
            while name not in self._loaded:
                if name in self._loading:
                    self._changed.wait()
                elif self._has_room():
                    break
                elif not self._changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    raise UserError(
                        f"There is no room for {shown_name(name)} at the moment: other models are at work. Try again "
                        "soon, or choose another model."
                    )
            else:
                self._loaded.move_to_end(name)
                self._uses[name] += 1
                return self._loaded[name]
            self._loading.add(name)
        try:
            with self._one_load_at_a_time:
                models = self._load(name)
        except BaseException:
            with self._changed:
                self._loading.discard(name)
                self._changed.notify_all()
            raise
        with self._changed:
            self._loading.discard(name)
            self._loaded[name] = models
            self._uses[name] += 1
            self._changed.notify_all()
        return models

    def _has_room(self) -> bool:
        """Whether one more model may be loaded. If necessary, the least recently used model is removed."""
        if len(self._loaded) + len(self._loading) < self._most:
            return True
        unused = next((name for name in self._loaded if not self._uses[name]), None)
        if unused is None:
            return False
        del self._loaded[unused]
        gc.collect()  # parts of a network refer to each other
        return True

    @property
    def in_memory(self) -> list[str]:
        """Return the names of the loaded models; the most recently used model is the last."""
        return [self.first] if self._only is not None else list(self._loaded)

    def prepare(self, name: str) -> Preparation:
        """Download a model if necessary and load it, in the background.

        Returns:
            The state of the preparation. Visitors who ask for the same model meanwhile share it.
        """
        with self._changed:
            if name in self._preparations:
                return self._preparations[name]
            preparation = self._preparations[name] = Preparation(name)
        threading.Thread(target=self._prepare, args=(preparation,), name=f"prepare {name}", daemon=True).start()
        return preparation

    def _prepare(self, preparation: Preparation) -> None:
        """Download and load a model, and note in `preparation` how this ended. It runs in a thread."""
        name = preparation.name
        try:
            if name in VARIANTS and found(name) is None:
                preparation.waiting()
                with self._downloads:
                    preparation.fetching(0, None)
                    fetch(name, progress=preparation.fetching)
            preparation.loading()
            with self.use(name):
                pass
        except (OSError, ValueError, UserError) as error:
            logger.warning("%s cannot be loaded: %s", name, error)
            preparation.problem = f"{shown_name(name)} cannot be loaded. {error}"
        except Exception:
            logger.exception("%s cannot be loaded", name)
            preparation.problem = f"{shown_name(name)} cannot be loaded: something went wrong on the server."
        finally:
            with self._changed:
                del self._preparations[name]
            preparation.done = True

    def describe(self, name: str) -> str:
        """Return a line about a model: its name, size, input size and licence, and whether it would be downloaded."""
        known: KnownModel | None = self._known.get(name)
        if known is None:
            return shown_name(name)
        here = "here" if known.is_here else f"to be fetched, about {known.download_size / 1e6:.0f} MB"
        size = f"{known.image_size}×{known.image_size}"
        return f"{name} · {known.parameters / 1e6:.1f} M parameters · {size} · {known.licence} · {here}"


def shown_name(name: str) -> str:
    """Return a model's name as it is shown to visitors. Of a folder on the server, only the last part is shown."""
    return Path(name).name if Path(name).is_dir() else name
