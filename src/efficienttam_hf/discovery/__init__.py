"""Finds the objects of a video instead of asking the user for clicks, and keeps finding new ones while it is tracked.

`detections.py` says what a detector is, and `transformers_detectors.py` makes detectors of Transformers' pipelines.
`frame_view.py` asks the model itself about a frame of a session: the masks of boxes, and everything that it sees.
`track_book.py` decides which detections are tracked objects, new ones, or lost ones that came back. `finder.py` does
all this to a session; `seed_objects` and `ObjectFinder` are the public names.
"""

from .detections import Detection, DetectionError, Detector, NothingFoundError
from .finder import FinderOptions, FoundObject, ObjectFinder, Sighting, seed_objects
from .transformers_detectors import load_detector


__all__ = [
    "Detection",
    "DetectionError",
    "Detector",
    "FinderOptions",
    "FoundObject",
    "NothingFoundError",
    "ObjectFinder",
    "Sighting",
    "load_detector",
    "seed_objects",
]
