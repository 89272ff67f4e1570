"""The detector that finds what a visitor's text says. It is loaded when the first visitor asks, and then shared."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import torch
from settings import Settings
from uploads import UserError

from efficienttam_hf.discovery import DetectionError, Detector, load_detector
from efficienttam_hf.discovery.detections import checked_texts
from efficienttam_hf.discovery.transformers_detectors import ClassDetector, TextDetector


logger = logging.getLogger(__name__)

OFF = "off"
MOST_TEXTS = 10  # that a visitor may look for at a time
MOST_CHARACTERS = 500  # of all texts together


class SharedDetector:
    """Loads the detector once and makes a detector for each list of texts from it.

    Args:
        settings: the settings of the demo, which name the detector.
        device: the device that it runs on.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self._name = settings.text_detector
        self._device = device
        self._loaded: TextDetector | ClassDetector | None = None
        self._lock = threading.Lock()

    def for_texts(self, texts: Sequence[str]) -> Detector:
        """Return a detector for texts.

        Args:
            texts: what to look for; see `split_texts`.

        Raises:
            UserError: if visitors cannot look for texts, the detector is not available, or it does not know a text.
        """
        if self._name == OFF:
            raise UserError("This server does not look for texts. Click on objects, or press Everything.")
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load(texts)
            loaded = self._loaded
        try:
            return type(loaded)(loaded.pipeline, loaded.name, texts)
        except DetectionError as error:  # a detector of classes does not know every text
            raise UserError(str(error)) from error

    def _load(self, texts: Sequence[str]) -> TextDetector | ClassDetector:
        try:
            return load_detector(self._name, texts, device=self._device)
        except (DetectionError, ImportError) as error:
            logger.warning("Visitors cannot look for texts: %s", error)
            raise UserError(
                "The detector that finds what a text says is not available on this server at the moment. Click on "
                "objects, or press Everything."
            ) from error


def split_texts(given: str) -> list[str]:
    """Split what a visitor wrote at commas.

    Raises:
        UserError: if there is no text, or more than allowed.
    """
    if len(given) > MOST_CHARACTERS:
        raise UserError(f"The text has {len(given)} characters; up to {MOST_CHARACTERS} are accepted.")
    texts = [text for text in (part.strip() for part in given.split(",")) if text]
    if not texts:
        raise UserError("Write what to look for, such as: a dog, a red ball.")
    if len(texts) > MOST_TEXTS:
        raise UserError(f"Up to {MOST_TEXTS} things can be looked for at a time, got {len(texts)}.")
    try:
        return checked_texts(texts)
    except DetectionError as error:
        raise UserError(str(error)) from error
