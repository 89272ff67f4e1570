"""A picture that can be viewed and clicked, without files on the server.

It has a file of its own because Gradio writes a stub (`click_image.pyi`) beside the source of every component.
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
    """Return a `ClickImage` without label and buttons; `options` are options of `gr.Image`."""
    return ClickImage(interactive=False, type="numpy", buttons=[], show_label=False, **options)


class ClickImage(gr.Image):
    """A `gr.Image` whose pictures are sent inside the answer.

    `gr.Image` writes each picture to a file in Gradio's cache, and tracking shows hundreds of pictures.
    """

    is_template = True  # the page draws it as it draws its parent class

    def postprocess(self, value: np.ndarray | None) -> ImageData | None:  # type: ignore[override]  # pixels only
        """Encode uint8 (height, width, 3) RGB as a JPEG in a data URL; None shows no picture."""
        if value is None:
            return None
        jpeg = io.BytesIO()
        Image.fromarray(value).save(jpeg, "JPEG", quality=88, subsampling=0)
        return ImageData(url=f"data:image/jpeg;base64,{b64encode(jpeg.getvalue()).decode('ascii')}")
