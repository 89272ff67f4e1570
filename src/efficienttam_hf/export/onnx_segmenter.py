"""Images with exported graphs: masks from points and boxes, on ONNX Runtime, NumPy and Pillow alone.

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
    """An encoded image: its (1, C, H, W) embeddings, and its own (height, width), to which prompts refer."""

    embeddings: np.ndarray
    original_size: tuple[int, int]


@dataclass
class OnnxImageSegmentationOutput:
    """Masks of P prompted objects, as `EfficientTamImageSegmentationOutput`, in float32 arrays.

    Attributes:
        iou_scores: (1, P, M). pred_masks: (1, P, M, h, w) logits. object_score_logits: (1, P, 1).
        image_embeddings: to be fed again in place of the image.
    """

    iou_scores: np.ndarray
    pred_masks: np.ndarray
    object_score_logits: np.ndarray
    image_embeddings: ImageEmbeddings


class OnnxImageSegmenter:
    """Segments prompted objects in images with two graphs of an exported folder; arguments as `OnnxVideoTracker`."""

    def __init__(self, folder: str | Path, providers: list[str] | None = None, num_threads: int | None = None):
        self.graphs = OnnxGraphs(folder, ("image_encoder", "mask_decoder"), providers, num_threads)

    def get_image_embeddings(self, image: Any) -> ImageEmbeddings:
        """Encode an image once, to prompt it many times.

        Raises:
            ValueError: if it is no image; see `to_rgb`.
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
            image: any that `to_rgb` takes, or `image_embeddings` of it.
            input_points: [[[[x, y], ...] an object]] in pixels of the image, input_labels: [[[label, ...]]]: 1
                positive, 0 negative.
            input_boxes: [[[x0, y0, x1, y1] an object]].
            input_masks: (P, 1, h, w) logits of masks to be refined, as `pred_masks` have them.
            multimask_output: three proposals for each object, or one.

        Raises:
            ValueError: unless exactly one of image and embeddings is given, and a point or box for each object.
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
        assert output.proposal_iou_scores is not None and output.proposals is not None  # the mask decoder gives both
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
        """Bring predicted masks to the size of the original images; see `masks_at_size`."""
        return masks_at_size(masks, original_sizes, mask_threshold, binarize)
