"""Registers this package's classes with Transformers' Auto classes, without importing Transformers.

`AutoModel.from_pretrained` finds a model of this package only if its classes were registered before, and registering
needs Transformers, torch and all our classes: seconds, which a command's `--help` or a reader of videos must not pay.
So nothing is loaded until somebody else loads Transformers; then the classes are registered at once. Python offers an
import hook for that, a finder that is asked for every module. Ours acts at the end of two kinds of imports: that of
Transformers itself, and those of our own modules, since registering must wait until none of these is half-way through.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


PACKAGE = __name__.partition(".")[0]
NEEDED = ("torch", "torchvision", "transformers")


def watch_for_transformers() -> None:
    """Register our classes now if Transformers is loaded already, else as soon as it is."""
    if "transformers" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Watcher())


def _register() -> None:
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        return
    try:
        from . import _public  # noqa: F401
    except ImportError as error:
        warnings.warn(
            f"Transformers' Auto classes do not know EfficientTAM, as its classes cannot be imported: {error}",
            RuntimeWarning,
            stacklevel=2,
        )


class _Watcher:
    """An import hook that leaves all imports to the finders after it, and registers when the time has come."""

    def __init__(self) -> None:
        self._running = 0  # imports that are under way

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "transformers" and not name.startswith(f"{PACKAGE}."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others if hasattr(finder, "find_spec"))
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            self._watch(spec.loader)
        return spec

    def _watch(self, loader: Any) -> None:
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            self._running += 1
            try:
                execute(module)
            finally:
                self._running -= 1
            if self._running == 0 and "transformers" in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                _register()

        loader.exec_module = execute_and_register
