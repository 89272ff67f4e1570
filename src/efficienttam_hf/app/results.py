"""Writes the results of tracking, with bounded RAM and so that an interruption loses no finished frame.

Masks arrive in the order of tracking, forward and then perhaps backward. The PNG of a frame is written at once. The
run-length masks are written to a temporary file, of which only offsets are kept in RAM; at the end, the JSON file is
written from it in the order of frames. The overlay is also written at the end, unless tracking goes in the order of
frames: then each frame is drawn when it is finished. The demo stores the masks of a visitor in the same way, and
changes them.

The JSON file:

    {
      "video": {"name", "width", "height", "fps"},      size and rate of the outputs: masks and overlay
      "prompt_size": {"width", "height"},               size of the original frames, in whose pixels the prompts are
      "complete": true,                                 false where tracking was stopped before the end
      "model": as given,
      "objects": [
        {"id", "prompts": [{"frame", "points": [[x, y]], "labels", "box", "mask"}],
         "label": the name of the object, if it has one, "references": the names of its reference images, if any}
      ],                                                those that were found have more fields: see `finding.py`
      "events": [{"frame": 12, "object": 1, "kind": "lost", "score": 0.03}],        or "found"; see `events.py`
      "frames": [
        {"frame": 0, "name": "00000", "objects": [
          {"id": 1, "score": 0.98, "area": 1200, "bbox": [x, y, width, height],
           "segmentation": {"size": [height, width], "counts": "..."}}
        ]}
      ]
    }

`score` is the probability that the object is in the frame. `segmentation` (the compressed run-length encoding), `bbox`
and `area` are in COCO's format, so that pycocotools reads them. Frames are numbered as in the whole video. Every object
has an entry in every tracked frame, with area 0 if it is not seen. Masks of different objects may overlap in the JSON
file; in the PNGs, a pixel belongs to the object with the highest logit.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_file import atomic_path
from ..formats import registry
from ..mask_io import box_and_area, decode_rle, encode_rle, read_indexed_png, write_indexed_png
from ..output_folders import OutputFolder
from ..prompts import Prompts
from ..safe_names import safe_name
from ..video_writer import VideoWriter
from ..visualization import draw_legend, overlay_masks
from .background import Background
from .effect_output import FORMATS, EffectOutput, EffectWriter
from .events import object_events, write_timeline


PICTURES = ("overlay.mp4", *FORMATS.values())


class TrackFolder:
    """The folder of one tracked video: `overlay.mp4`, `masks.json` and `Annotations/<video>/<frame>.png`.

    The folder may contain other files; they are never changed (see `output_folders`).

    Args:
        path: the folder.
        name: the name of the video.
        has_timeline: whether `timeline.png` will be written too.
        effect: effects that are drawn instead of the overlay, and how they are written.
        formats: the names of the formats in which the results will be written too; see `conversion.py`.

    Attributes:
        overlay: the path of the overlay, or of what is written with effects.
        frames: the frames that have masks, ascending.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        has_timeline: bool = False,
        effect: EffectOutput | None = None,
        formats: Sequence[str] = (),
    ):
        self.path = path
        self._folder = OutputFolder(path)
        self._masks_name = f"Annotations/{safe_name(name)}"
        self.annotations = path / self._masks_name
        self.json = path / "masks.json"
        self.overlay = path / ("overlay.mp4" if effect is None else effect.name)
        self._effect = effect
        self.timeline = path / "timeline.png"
        is_written = has_timeline or self.timeline.name in self._folder.listed
        own = (self._masks_name, self.json.name, self.overlay.name)
        self._claimed: tuple[str, ...] = (*own, self.timeline.name) if is_written else own
        # An earlier run may have written another picture, which would show what an effect is to hide.
        listed = {listed.split("/")[0] for listed in self._folder.listed}
        self._claimed += tuple(picture for picture in PICTURES if picture in listed - {self.overlay.name})
        # Nor would what an earlier run wrote in a format fit the new results.
        self._claimed += tuple(name for name in registry.FORMATS if name in formats or name in listed)
        self._records: Any = None
        self._offsets: dict[int, int] = {}

    def check(self, overwrite: bool) -> None:
        """Check, before anything is computed, that `prepare` will succeed. Nothing is changed.

        Raises:
            FileExistsError: if there are results of an earlier run and `overwrite` is false, or files that this package
                did not write.
            NotADirectoryError, PermissionError: if the folder cannot be created.
        """
        self._folder.check(*self._claimed, overwrite=overwrite)

    def prepare(self, overwrite: bool) -> None:
        """Create the folder and, with `overwrite`, remove the results of an earlier run. See `check` for errors."""
        self._folder.claim(*self._claimed, overwrite=overwrite)
        self.annotations.mkdir(parents=True)
        self._records = tempfile.TemporaryFile(dir=self.path)  # noqa: SIM115 -- lives as long as this object

    @property
    def frames(self) -> list[int]:
        return sorted(self._offsets)

    def add(self, frame: int, name: str, object_ids: list[int], logits: np.ndarray, scores: list[float]) -> None:
        """Add the masks of some objects on a frame.

        Masks that the frame already has stay (for example after tracking in the other direction), except those of the
        same objects, which are replaced.

        Args:
            frame: the number of the frame.
            name: the name of the frame in file names.
            object_ids: the ids of the objects, at most 255.
            logits: (objects, height, width) mask logits.
            scores: for each object, the probability that it is in the frame.
        """
        masks = logits > 0
        labels, highest = np.zeros(logits.shape[1:], np.uint8), np.zeros(logits.shape[1:], logits.dtype)
        for object_id, own in zip(object_ids, logits, strict=True):
            labels[own > highest] = object_id
            np.maximum(highest, own, out=highest)
        objects = [
            {"id": object_id, "score": round(score, 4), **box_and_area(mask), "segmentation": encode_rle(mask)}
            for object_id, mask, score in zip(object_ids, masks, scores, strict=True)
        ]
        if frame in self._offsets:
            before, others = self._without(frame, object_ids)
            labels = np.where(before > 0, before, labels)
            objects += others
        self._write(frame, name, objects, labels)

    def remove(self, frame: int, object_id: int) -> None:
        """Remove the mask of an object on a frame, if it has one."""
        if frame not in self._offsets:
            return
        name = self.record(frame)["name"]
        labels, others = self._without(frame, [object_id])
        if others:
            self._write(frame, name, others, labels)
        else:
            del self._offsets[frame]
            self._folder.remove(self._png_name(name))

    def _without(self, frame: int, object_ids: list[int]) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """A frame's labels and entries without some objects. Pixels that these covered belong to the others again."""
        record = self.record(frame)
        others = [o for o in record["objects"] if o["id"] not in object_ids]
        labels = read_indexed_png(self.path / self._png_name(record["name"]))
        if len(others) < len(record["objects"]):
            labels = np.where(np.isin(labels, object_ids), 0, labels)
            for other in others:
                labels[decode_rle(other["segmentation"]) & (labels == 0)] = other["id"]
        return labels, others

    def _write(self, frame: int, name: str, objects: list[dict[str, Any]], labels: np.ndarray) -> None:
        write_indexed_png(self._folder.add(self._png_name(name)), labels)
        objects = sorted(objects, key=lambda o: o["id"])
        self._offsets[frame] = self._records.seek(0, 2)
        self._records.write(json.dumps({"frame": frame, "name": name, "objects": objects}).encode() + b"\n")

    def _png_name(self, name: str) -> str:
        return f"{self._masks_name}/{safe_name(name)}.png"

    def record(self, frame: int) -> dict[str, Any]:
        """A frame's entry of the JSON file."""
        self._records.seek(self._offsets[frame])
        return json.loads(self._records.readline())

    def records(self) -> Iterator[dict[str, Any]]:
        """The entries of all frames, ascending."""
        return (self.record(frame) for frame in self.frames)

    def write_timeline(self, names: Mapping[int, str] | None = None) -> None:
        """Draw the scores over the frames to `timeline.png`, with names of objects by id; see `events.py`."""
        write_timeline(self._folder.add(self.timeline.name), self.records(), names)

    def masks(self, frame: int) -> dict[int, np.ndarray]:
        """A frame's masks by object id, bool (height, width)."""
        return {o["id"]: decode_rle(o["segmentation"]) for o in self.record(frame)["objects"]}

    def write_json(self, header: dict[str, Any]) -> None:
        """Write `masks.json`, frame by frame."""
        with atomic_path(self._folder.add(self.json.name)) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write("{\n")
            header = {**header, "events": object_events(self.records())}
            file.writelines(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in header.items())
            file.write('"frames": [\n')
            file.writelines(_separated(json.dumps(record) for record in self.records()))
            file.write("\n]}\n")

    def open_overlay(
        self,
        size: tuple[int, int],
        fps: float,
        prompts: Prompts,
        sound: Path | None = None,
        show_prompts: bool = True,
        names: Mapping[int, ObjectName] | None = None,
    ) -> OverlayWriter | EffectWriter:
        """Start to write the overlay, or the effects. See `OverlayWriter` for the arguments."""
        if self._effect is not None:
            prompted = {object_id for on_frame in prompts.values() for object_id in on_frame}
            return self._effect.open(self._folder, size, fps, sound, prompted | set(names or ()))
        return OverlayWriter(self._folder.add(self.overlay.name), size, fps, prompts, sound, show_prompts, names)

    def write_overlay(
        self,
        read: Callable[[int], np.ndarray],
        size: tuple[int, int],
        fps: float,
        prompts: Prompts,
        frames: Iterable[int],
        times: Callable[[int], tuple[float, float]] | None = None,
        sound: Path | None = None,
        show_prompts: bool = True,
        names: Mapping[int, ObjectName] | None = None,
    ) -> None:
        """Read the video again and write the overlay or the effects, after tracking in another order.

        Args:
            read: a function from the number of a frame to the frame, uint8 (height, width, 3) RGB.
            size: (height, width) of these frames, and of the masks.
            fps: frames per second.
            prompts: prompts by frame number, in pixels of these frames.
            frames: the numbers of the frames, ascending.
            times: a function from the number of a frame to the times at which it begins and ends, in seconds; by
                default, the rate is constant.
            sound: a file whose sound at these times is kept.
            show_prompts: whether points and boxes are drawn in addition to the masks.
            names: what objects are called.
        """
        with self.open_overlay(size, fps, prompts, sound, show_prompts, names) as overlay, Background() as drawing:
            for frame in frames:
                shown = (None, None) if times is None else times(frame)
                drawing.submit(overlay.add, frame, read(frame), self.masks(frame), *shown)

    def close(self) -> None:
        """Delete the temporary file. Written files stay, but masks can no longer be read."""
        self._offsets.clear()
        if self._records is not None:
            self._records.close()

    def discard(self) -> None:
        """Remove the empty folders that were created for a run without results."""
        self.close()
        self._folder.discard(self._masks_name, "Annotations")


@dataclass
class ObjectName:
    """What an object is called in pictures.

    Attributes:
        object_id: its id.
        label: what a detector calls it, if it does.
        score: the detector's score; `None` if the object was prompted by a user.
    """

    object_id: int
    label: str | None
    score: float | None

    @property
    def short(self) -> str:
        """The id and the label."""
        return f"{self.object_id} {self.label or ''}".strip()

    @property
    def long(self) -> str:
        """The id, the label and the score, if there is one."""
        return self.short if self.score is None else f"{self.short} {self.score:.2f}"


class OverlayWriter(VideoWriter):
    """A `VideoWriter` of frames with their masks and prompts drawn.

    Args:
        path: the path of the video.
        size: (height, width) of its frames.
        fps: frames per second.
        prompts: prompts by frame number, in pixels of these frames.
        sound: a file whose sound is kept, at the times of the frames.
        show_prompts: whether points and boxes are drawn in addition to the masks.
        names: what objects are called, by id; objects may be added while the video is written. They are written on the
            objects and, if any is called by more than its id, in a legend.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        fps: float,
        prompts: Prompts,
        sound: Path | None = None,
        show_prompts: bool = True,
        names: Mapping[int, ObjectName] | None = None,
    ):
        super().__init__(path, fps, size[1], size[0], audio_from=sound)
        self._prompts = prompts if show_prompts else {}
        self._names = {} if names is None else names
        self._several = (
            names is not None or len({object_id for on_frame in prompts.values() for object_id in on_frame}) > 1
        )

    def add(
        self,
        frame: int,
        image: np.ndarray,
        masks: dict[int, np.ndarray],
        time: float | None = None,
        until: float | None = None,
    ) -> None:
        """Draw on a frame and append it; see `draw` and, for the times, `VideoWriter.write`."""
        self.write(self.draw(frame, image, masks), time, until)

    def draw(self, frame: int, image: np.ndarray, masks: dict[int, np.ndarray]) -> np.ndarray:
        """Draw masks by object id, and the prompts of the frame, on its image, uint8 (height, width, 3) RGB."""
        here = self._prompts.get(frame, {}).values()
        names = {object_id: self._names[object_id] for object_id in masks if object_id in self._names}
        labels = {object_id: name.short for object_id, name in names.items()}
        drawn = overlay_masks(image, masks, labels=labels or self._several, prompts=here)
        if not any(name.label for name in names.values()):
            return drawn
        legend = {i: name.long if masks[i].any() else f"{name.short}, lost" for i, name in names.items()}
        return draw_legend(drawn, legend)


def _separated(lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield (",\n" if number else "") + line
