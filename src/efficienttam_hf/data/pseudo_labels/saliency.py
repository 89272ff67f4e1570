"""A saliency network that proposes whole objects: it finds what a viewer looks at first, as boxes for the teacher.

A grid of clicks finds surfaces as often as objects. A small network such as U²-Net (Qin et al., arXiv 2005.09007) finds
the objects coarsely, and the teacher then draws them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..schema import DatasetError
from .proposals import box_prompts
from .teachers import Prompt, open_onnx


__all__ = ["SaliencyProposer"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SaliencyProposer:
    """Proposes objects with an ONNX file that has U²-Net's interface.

    The network maps a picture (1, 3, size, size) to a map (1, 1, size, size), which is its first output.

    Args:
        file: the ONNX file.
        threads: the number of threads of ONNX Runtime; None is its default.
        threshold: the threshold of the map, relative to its largest value.

    Raises:
        DatasetError: if the file does not exist or has another interface.
        ImportError: if ONNX Runtime is not installed.
    """

    def __init__(self, file: str | Path, threads: int | None = None, threshold: float = 0.5) -> None:
        self._network, self.threshold = open_onnx(file, threads), threshold
        picture = self._network.get_inputs()[0]
        if len(picture.shape) != 4 or not isinstance(picture.shape[-1], int) or picture.shape[1] != 3:
            raise DatasetError(
                f"The proposer '{file}' takes an input of shape {picture.shape}; (1, 3, size, size) is accepted."
            )
        self._input, self._size = picture.name, int(picture.shape[-1])
        self._output = self._network.get_outputs()[0].name

    def __call__(self, image: np.ndarray) -> list[Prompt]:
        """Return boxes, with a click in each, around the salient objects of uint8 (height, width, 3) RGB."""
        import cv2

        small = cv2.resize(image, (self._size, self._size), interpolation=cv2.INTER_AREA)
        pixels = small.astype(np.float32) / max(1, int(small.max()))
        mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
        pixels = ((pixels - mean) / std).transpose(2, 0, 1)[None]
        salience = np.squeeze(self._network.run([self._output], {self._input: pixels})[0])
        spread = float(salience.max() - salience.min())
        if spread <= 0:
            return []
        return box_prompts((salience - salience.min()) / spread > self.threshold, image.shape[:2])
