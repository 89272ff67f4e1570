"""The models of the demo: which are offered, which are in memory, and how another one gets there. No Gradio here.

A model is loaded once for all visitors and only ever read. At most `settings.models_in_memory` are in memory at a time:
another one takes the place of that which nobody has used for longest. Whoever uses a model holds it meanwhile, so
that it stays; whoever finds no room within seconds is told so. A model that is not on this machine is fetched by a
thread of its own, once for all who wait for it, and nobody else waits.
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
    """Which models may be chosen on the page, and the one that it begins with.

    Where the settings name a model and no others, that one is fixed. Where they name neither, every model that has a
    name is offered, and the page begins with the default of the commands.

    Raises:
        ValueError, OSError: if there is no such model, or the first cannot be fetched.
    """
    everything = [model.name for model in known_models()]
    names = [name for given in settings.models for name in (everything if given == ALL else [given])]
    begins_with_given = bool(names) and not settings.model
    first = find_model(names[0]) if begins_with_given else choose_model(settings.model or None, device)
    if not names:
        names = [] if settings.model else everything
    for name in names:
        if name not in VARIANTS:  # which are fetched when they are chosen
            find_model(name)
    return list(dict.fromkeys(names if first.name in names else [first.name, *names])), first


@dataclass(frozen=True)
class Models:
    """The model of videos and that of images, from the same weights, and their processor."""

    video: EfficientTamVideoModel
    image: EfficientTamModel
    processor: EfficientTamVideoProcessor


class Preparation:
    """A model on its way into memory.

    Attributes:
        done: whether it is over, well or not.
        problem: why it is not there, for the visitor; `None` if it is.
    """

    def __init__(self, name: str):
        self.name = name
        self.done = False
        self.problem: str | None = None
        self._text, self._part = "Loading …", 0.0

    def says(self) -> tuple[str, float]:
        """What is going on, for the visitor, and how much of it is done, 0 to 1."""
        return self._text, self._part

    def fetching(self, here: int, total: int | None) -> None:
        """So many bytes have arrived."""
        known = total or VARIANTS[self.name].parameters * 4
        self._text, self._part = f"Fetching {here / 1e6:.0f} of {known / 1e6:.0f} MB …", min(here / known, 1.0)
        if here >= known:
            self._text = "Converting …"

    def waiting(self) -> None:
        """Others are fetched first."""
        self._text = "Waiting for other downloads …"

    def loading(self) -> None:
        """It is on this machine."""
        self._text, self._part = "Loading …", 1.0


class ModelStore:
    """Models by name, as many in memory as there is room for.

    Args:
        names: those that are offered, `first` among them.
        first: that visitors begin with.
        load: from a name to a model that is ready to run.
        most: how many are in memory at a time.
    """

    def __init__(self, names: list[str], first: str, load: Callable[[str], Models], most: int):
        self.names, self.first = names, first
        self._known = {model.name: model for model in known_models()}
        self._load, self._most = load, most
        self._loaded: OrderedDict[str, Models] = OrderedDict()  # the one used last is at the end
        self._uses: Counter[str] = Counter()
        self._loading: set[str] = set()
        self._changed = threading.Condition()
        self._one_load_at_a_time = threading.Lock()  # Transformers replaces functions of torch while it loads
        self._downloads = threading.Semaphore(DOWNLOADS_AT_ONCE)
        self._preparations: dict[str, Preparation] = {}
        # A model that is the only one needs no lock. A process that ZeroGPU forks might inherit a held one.
        self._only = load(first) if len(names) == 1 else None
        if self._only is None:
            with self.use(first):
                pass

    @contextmanager
    def use(self, name: str) -> Iterator[Models]:
        """A model, which stays in memory until the block ends; loaded first if it is not.

        Raises:
            UserError: if there is no room, as others are being used.
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
        """Whether one more may be loaded; lets go of the one unused for longest where that makes room."""
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
        """Names of the models that are, the one used last at the end."""
        return [self.first] if self._only is not None else list(self._loaded)

    def prepare(self, name: str) -> Preparation:
        """Fetch a model if it is not here, and load it, in the background; once for all who ask meanwhile."""
        with self._changed:
            if name in self._preparations:
                return self._preparations[name]
            preparation = self._preparations[name] = Preparation(name)
        threading.Thread(target=self._prepare, args=(preparation,), name=f"prepare {name}", daemon=True).start()
        return preparation

    def _prepare(self, preparation: Preparation) -> None:
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
        """A line about a model that is offered: name, size, input, licence, and whether it would be fetched."""
        known: KnownModel | None = self._known.get(name)
        if known is None:
            return shown_name(name)
        here = "here" if known.is_here else f"to be fetched, about {known.download_size / 1e6:.0f} MB"
        size = f"{known.image_size}×{known.image_size}"
        return f"{name} · {known.parameters / 1e6:.1f} M parameters · {size} · {known.licence} · {here}"


def shown_name(name: str) -> str:
    """A model's name for visitors: of a folder on the server, only what it is called."""
    return Path(name).name if Path(name).is_dir() else name
