"""The models that have a name, as they are listed to a user: size, licence, published accuracy, what is here.

This file neither loads torch or Transformers nor uses the network.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open

from ..published import INCLUDED_MODELS, VARIANTS, PublishedVariant, found
from ..remote_code import included_checkpoint


# The columns of the paper's tables that are shown, by a short heading.
ACCURACIES = {"DAVIS 2017 val J&F": "DAVIS17", "SA-V test J&F": "SA-V"}
LICENCE = "Apache 2.0"
_BYTES = 4  # size of a parameter in the files


@dataclass(frozen=True)
class KnownModel:
    """A model that `--model` takes by name.

    Attributes:
        name: the name, such as `efficienttam_s`.
        parameters: number of parameters.
        image_size: side of the input, in pixels.
        licence: the licence of the weights.
        is_included: whether it comes with this package.
        accuracies: the paper's accuracies in percent, by the headings of `ACCURACIES`.
    """

    name: str
    parameters: int
    image_size: int
    licence: str = LICENCE
    is_included: bool = False
    accuracies: dict[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> Path | None:
        """The folder of a published model; `None` if it is not fetched yet, or comes with this package."""
        return None if self.is_included else found(self.name)

    @property
    def is_here(self) -> bool:
        """Whether it can be loaded without the network."""
        return self.is_included or self.folder is not None

    @property
    def download_size(self) -> int:
        """Approximate number of bytes that are downloaded if the model is not fetched yet."""
        return self.parameters * _BYTES


def known_models() -> list[KnownModel]:
    """The included models, followed by the variants that the authors publish."""
    return [*map(_included, INCLUDED_MODELS), *map(_published, VARIANTS.values())]


def _included(name: str) -> KnownModel:
    """Read the facts about an included model from its files."""
    folder = Path(included_checkpoint(name))
    side = json.loads((folder / "config.json").read_text(encoding="utf-8"))["image_size"]
    with safe_open(folder / "model.safetensors", "np") as weights:
        count = sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
    return KnownModel(name, count, side, is_included=True)


def _published(variant: PublishedVariant) -> KnownModel:
    from ..evaluation.paper_tables import rows_for

    values = next((row.values for row in rows_for(1) if row.method == variant.paper_name), {})
    known = {heading: values.get(column) for column, heading in ACCURACIES.items()}
    accuracies = {heading: value for heading, value in known.items() if value is not None}
    return KnownModel(variant.name, variant.parameters, variant.image_size, accuracies=accuracies)
