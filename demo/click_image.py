"""A picture to look at and click on, which leaves no files behind.

In a file of its own, as Gradio writes a stub (`click_image.pyi`) beside the source of every component.
"""

from __future__ import annotations

import io
from base64 import b64encode
from typing import Any

import gradio as gr
import numpy as np
from gradio.data_classes import ImageData
from PIL import Image


def click_image(**options: Any) -> ClickImage:
    """A `ClickImage` with nothing on it but the picture; `options` are those of `gr.Image`."""
    return ClickImage(interactive=False, type="numpy", buttons=[], show_label=False, **options)


class ClickImage(gr.Image):
    """`gr.Image` whose pictures travel inside the answer.

    That makes each picture a file in Gradio's cache, and tracking shows hundreds.
    """

    is_template = True  # drawn by the page as its parent is

    def postprocess(self, value: np.ndarray | None) -> ImageData | None:  # type: ignore[override]  # pixels only
        """uint8 (height, width, 3) RGB as a JPEG in a data URL."""
        if value is None:
            return None
        jpeg = io.BytesIO()
        Image.fromarray(value).save(jpeg, "JPEG", quality=88, subsampling=0)
        return ImageData(url=f"data:image/jpeg;base64,{b64encode(jpeg.getvalue()).decode('ascii')}")
