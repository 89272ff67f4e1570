"""What is known of the objects that were found instead of clicked: their labels and scores."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import replace

from efficienttam_hf.app.finding import name_of
from efficienttam_hf.discovery import FoundObject


class FoundObjects:
    """The found objects of a video, by the ids that they have in it."""

    def __init__(self) -> None:
        self._by_id: dict[int, FoundObject] = {}

    def __iter__(self) -> Iterator[FoundObject]:
        return iter(self._by_id.values())

    def add(self, found: FoundObject, object_id: int, frame: int) -> None:
        """Add an object that was found on a single frame.

        Args:
            found: the object.
            object_id: its id in the video.
            frame: the number of the frame in the video.
        """
        sightings = [replace(one, frame_idx=frame) for one in found.sightings]
        self._by_id[object_id] = replace(found, object_id=object_id, sightings=sightings)

    def keep(self, object_ids: Container[int]) -> None:
        """Forget the objects that are not among these."""
        self._by_id = {i: one for i, one in self._by_id.items() if i in object_ids}

    @property
    def labels(self) -> dict[int, str]:
        """The labels by object id; objects without a label are left out."""
        return {i: one.label for i, one in self._by_id.items() if one.label}

    def drawn(self, object_ids: Iterable[int]) -> dict[int, str]:
        """Return what is written on objects in a picture: their ids, and their labels if they have any."""
        return {i: drawn_name(i, self._by_id.get(i)) for i in object_ids}


def drawn_name(object_id: int, found: FoundObject | None) -> str:
    """Return what is written on an object in a picture: its id, and its label if it was found and has one."""
    return str(object_id) if found is None else name_of(found).short
