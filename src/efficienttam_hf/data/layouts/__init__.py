"""The layouts in which datasets are published: where their frames and masks are. Each module has one family.

A layout only knows files. It returns a :class:`~efficienttam_hf.data.records.VideoRecord` for each video;
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

# The evaluation conventions of each kind, from its module. A kind without an entry has no conventions of its own.
RULES: dict[str, BenchmarkRules] = {**davis.RULES, **youtube_vos.RULES, **sav.RULES, **instances.RULES, **stress.RULES}


def rules_of(kind: str) -> BenchmarkRules:
    """Return the evaluation conventions of a kind of dataset.

    Args:
        kind: the kind, as in `VideoRecord.source`.

    Returns:
        Its conventions; the general ones if it has none of its own.
    """
    return RULES.get(kind, BenchmarkRules())
