"""Segments images with exported graphs: masks from points and boxes, with ONNX Runtime, NumPy and Pillow only.

segmenter = OnnxImageSegmenter("exported")
output = segmenter(image, input_points=[[[[500, 375]]]], input_labels=[[[1]]])
masks = segmenter.post_process_masks(output.pred_masks, [image.size[::-1]])[0]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..images import to_rgb
from ..prompt_calls import CallPrompts
from ..prompts import NEGATIVE, NO_POINT, PADDING, POSITIVE, frame_prompts
from .arrays import image_pixels, masks_at_size, resize
from .onnx_graphs import OnnxGraphs


@dataclass
class ImageEmbeddings:
    """An encoded image.

    Attributes:
        embeddings: float32 (1, C, H, W).
        original_size: (height, width) of the image, to which prompts refer.
    """

    embeddings: np.ndarray
    original_size: tuple[int, int]


@dataclass
class OnnxImageSegmentationOutput:
    """The masks of P prompted objects, as `EfficientTamImageSegmentationOutput`, in float32 arrays.

    Attributes:
        iou_scores: (1, P, M), predicted IoU.
        pred_masks: (1, P, M, h, w), mask logits.
        object_score_logits: (1, P, 1), object scores.
        image_embeddings: the encoded image, which can be used in place of the image in further calls.
    """

    iou_scores: np.ndarray
    pred_masks: np.ndarray
    object_score_logits: np.ndarray
    image_embeddings: ImageEmbeddings


class OnnxImageSegmenter:
    """Segments prompted objects in images with two graphs of an exported folder.

    Args:
        folder: a folder that `efficienttam export` made.
        providers: the providers of ONNX Runtime; the default is the CPU's.
        num_threads: the number of threads of each operator; None is ONNX Runtime's default.

    Raises:
        FileNotFoundError, ExportError, ImportError: see `OnnxGraphs`.
    """

    def __init__(self, folder: str | Path, providers: list[str] | None = None, num_threads: int | None = None):
        self.graphs = OnnxGraphs(folder, ("image_encoder", "mask_decoder"), providers, num_threads)

    def get_image_embeddings(self, image: Any) -> ImageEmbeddings:
        """Encode an image once for any number of prompts.

        Raises:
            ValueError: if the argument is not an image; see `to_rgb`.
        """
        rules, image = self.graphs.rules, to_rgb(image)
        pixels = image_pixels(image, rules.image_size, rules.image_mean, rules.image_std)
        return ImageEmbeddings(self.graphs.encode_image(pixels)[1], image.shape[:2])

    def __call__(
        self,
        image: Any = None,
        input_points: Any = None,
        input_labels: Any = None,
        input_boxes: Any = None,
        input_masks: np.ndarray | None = None,
        image_embeddings: ImageEmbeddings | None = None,
        multimask_output: bool = True,
    ) -> OnnxImageSegmentationOutput:
        """Segment P prompted objects in one image.

        Args:
            image: an image in any form that `to_rgb` accepts.
            input_points: [[[[x, y], ...] per object]] in pixels of the image.
            input_labels: [[[label, ...] per object]]; 1 is a positive point, and 0 a negative one.
            input_boxes: [[[x_min, y_min, x_max, y_max] per object]] in pixels of the image.
            input_masks: (P, 1, h, w), mask logits to refine, at the size of `pred_masks`.
            image_embeddings: the encoded image, in place of `image`.
            multimask_output: whether three proposals are returned for each object instead of one.

        Returns:
            The masks and scores.

        Raises:
            ValueError: if both or neither of `image` and `image_embeddings` are given, if there is no prompt, or if a
                prompt does not fit the image.
        """
        if (image is None) == (image_embeddings is None):
            raise ValueError("Exactly one of image or image_embeddings must be provided.")
        if input_points is None and input_boxes is None:
            raise ValueError("Say what to segment: give input_points and input_labels, or input_boxes.")
        encoded = image_embeddings or self.get_image_embeddings(image)
        given = CallPrompts.read(input_points, input_labels, input_boxes)
        prompts = []
        for row, one in enumerate(given.objects(0, lambda row: f" for object {row}")):
            if one.is_empty:
                raise ValueError(f"There is no point for object {row}: each object needs a point or a box.")
            one.check(encoded.original_size, f" for object {row}", labels=(POSITIVE, NEGATIVE, NO_POINT))
            prompts.append(frame_prompts(one, encoded.original_size, self.graphs.rules.input_size, resize))
        clicks = [(np.asarray(p.points), np.asarray(p.labels)) for p in prompts]
        objects, longest = len(clicks), max(given.shape[1] for given, _ in clicks)
        points = np.zeros((objects, longest, 2), np.float32)
        labels = np.full((objects, longest), PADDING, np.int64)
        for row, (given_points, given_labels) in enumerate(clicks):
            points[row, : given_points.shape[1]] = given_points[0]
            labels[row, : given_labels.shape[1]] = given_labels[0]
        output = self.graphs.segment(encoded.embeddings, points, labels, input_masks, multimask_output)
        assert output.proposal_iou_scores is not None and output.proposals is not None  # the mask decoder returns both
        number = None if multimask_output else 1
        return OnnxImageSegmentationOutput(
            iou_scores=output.proposal_iou_scores[None, :, :number],
            pred_masks=output.proposals[None, :, :number],
            object_score_logits=output.object_score_logits[None],
            image_embeddings=encoded,
        )

    def post_process_masks(
        self, masks: Any, original_sizes: Any, mask_threshold: float = 0.0, binarize: bool = True
    ) -> list[np.ndarray]:
        """Resize predicted masks to the size of the original images; see `masks_at_size`."""
        return masks_at_size(masks, original_sizes, mask_threshold, binarize)
