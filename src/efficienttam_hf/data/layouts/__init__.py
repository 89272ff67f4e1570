"""The layouts in which datasets are published, one module a family: where their frames and masks are.

A layout knows files and nothing else. What it gives is a :class:`~efficienttam_hf.data.records.VideoRecord` a video;
:mod:`efficienttam_hf.data.loading` makes tables and sequences of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..benchmark_rules import BenchmarkRules
from . import davis, instances, sav, stress, youtube_vos
from .common import Layout
from .davis import Davis
from .folder import Folder
from .instances import Coco, Sa1b
from .sav import SavImages, SavTrain
from .stress import Stress
from .youtube_vos import ABOUT, YouTubeVos


__all__ = ["LAYOUTS", "RULES", "Layout", "rules_of"]


LAYOUTS: dict[str, Callable[..., Layout]] = {
    "davis2016": partial(Davis, year=2016),
    "davis2017": partial(Davis, year=2017),
    **{source: partial(YouTubeVos, source=source) for source in ABOUT},
    "sav_train": SavTrain,
    "sav_val": partial(SavImages, name="sav_val"),
    "sav_test": partial(SavImages, name="sav_test"),
    "sa1b": Sa1b,
    "coco": Coco,
    "folder": Folder,
    "stress": Stress,
}

# How the benchmark of each is evaluated, as its module states it; a kind that is not here has no rules of its own.
RULES: dict[str, BenchmarkRules] = {**davis.RULES, **youtube_vos.RULES, **sav.RULES, **instances.RULES, **stress.RULES}


def rules_of(kind: str) -> BenchmarkRules:
    """The rules of a kind of dataset (`VideoRecord.source`), or those of any videos if it has none of its own."""
    return RULES.get(kind, BenchmarkRules())
