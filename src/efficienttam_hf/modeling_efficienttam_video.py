"""The video model: `EfficientTamVideoModel` with its tracking step, `track_step`, and the methods that use a session.

Every tracked frame goes through `EfficientTamVideoModel.track_step`. It takes the features of the frame, memories and
prompts of a batch of objects, and returns masks, scores, object pointers and new memories. It only computes tensors and
keeps no state: interactive use, streaming, training, evaluation and export all call it. A session (`video_session.py`)
keeps memories and pending prompts, and `session_walk.py` decides what is run on which frame; it calls this model
through `TorchBackend`. `forward` and `propagate_in_video_iterator` have the interface of Transformers'
`Sam2VideoModel`.

Letters of shapes: B objects, M memories, N = H * W tokens and C channels of a feature map, c channels of a memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_efficienttam import EfficientTamConfig, size_pair
from .memory import MemoryBank
from .modeling_efficienttam import EfficientTamModel
from .modeling_efficienttam_layers import EfficientTamFeedForward
from .modeling_efficienttam_memory import (
    EfficientTamMemoryAttention,
    EfficientTamMemoryEncoder,
    EfficientTamMemoryFuserBlock,
)
from .session_walk import SessionWalk
from .tracker_calls import TrackerCalls
from .tracking_rules import Direction, TrackingRules
from .video_backend import TorchBackend
from .video_outputs import EfficientTamTrackingOutput, EfficientTamVideoSegmentationOutput
from .video_session import EfficientTamVideoInferenceSession


__all__ = [
    "EfficientTamTrackingOutput",
    "EfficientTamVideoModel",
    "EfficientTamVideoSegmentationOutput",
]


class EfficientTamVideoModel(TrackerCalls, EfficientTamModel):
    """EfficientTAM for videos: tracks any number of objects, prompted on any frames, through all frames.

    It has the interface of `Sam2VideoModel` and works on a session from
    `EfficientTamVideoProcessor.init_video_session`. Its checkpoint folder also loads into `EfficientTamModel`.
    """

    input_modalities = ("video", "text")  # type: ignore[assignment]  # as Transformers' own models have it
    _can_record_outputs = {}
    _keys_to_ignore_on_load_unexpected = []
    _no_split_modules = [
        "EfficientTamVisionLayer",
        "EfficientTamTwoWayAttentionBlock",
        "EfficientTamMemoryAttentionLayer",
    ]

    def __init__(self, config: EfficientTamConfig, remove_vision_encoder: bool = False):
        r"""
        remove_vision_encoder (`bool`, *optional*, defaults to `False`):
            Whether to leave out the image encoder. The features then come from the session's `feature_provider`.
        """
        super().__init__(config)
        if remove_vision_encoder:
            self.vision_encoder = None
            ignored = self._keys_to_ignore_on_load_unexpected  # a list or a set, by the version of Transformers
            self._keys_to_ignore_on_load_unexpected = type(ignored)([*ignored, r"^vision_encoder\."])

    def _build(self, config: EfficientTamConfig) -> None:
        super()._build(config)
        width, memory_size = config.vision_config.fpn_hidden_size, config.memory_attention_config.memory_size
        config.memory_attention_config._attn_implementation = config._attn_implementation
        self.memory_attention = EfficientTamMemoryAttention(config.memory_attention_config)
        self.memory_encoder = EfficientTamMemoryEncoder(config.memory_encoder_config)
        self.memory_temporal_positional_encoding = nn.Parameter(torch.zeros(config.num_maskmem, 1, 1, memory_size))
        # This is not used, because `no_memory_embedding` is added directly; the published checkpoints contain it.
        self.no_memory_positional_encoding = nn.Parameter(torch.zeros(1, 1, width))
        self.no_object_pointer = nn.Parameter(torch.zeros(1, width))
        # It converts a mask prompt to the size and scale of predicted logits, from which the object pointer is made.
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.object_pointer_proj = EfficientTamFeedForward(width, width, width, 3)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EfficientTamVideoModel):
            std = self.config.initializer_range
            init.trunc_normal_(module.memory_temporal_positional_encoding, std=std)
            init.trunc_normal_(module.no_memory_positional_encoding, std=std)
            init.trunc_normal_(module.no_object_pointer, std=std)
        elif isinstance(module, EfficientTamMemoryFuserBlock):
            init.constant_(module.scale, module.initial_scale)

    # These are numbers of the configuration under the names of `Sam2VideoModel`'s attributes.

    @property
    def image_size(self) -> int | list[int] | tuple[int, int]:
        """Input size in pixels: one number, or (height, width)."""
        return self.config.image_size

    @property
    def num_maskmem(self) -> int:
        """Number of spatial memories that a frame attends to."""
        return self.config.num_maskmem

    @property
    def hidden_dim(self) -> int:
        """Number of channels of image features."""
        return self.config.vision_config.fpn_hidden_size

    @property
    def mem_dim(self) -> int:
        """Number of channels of a spatial memory."""
        return self.config.memory_encoder_config.output_channels

    @property
    def backbone_feature_sizes(self) -> list[list[int]]:
        """[height, width] of each feature map of the image encoder; it has one."""
        return [list(self.config.vision_config.feature_size)]

    def get_input_embeddings(self) -> nn.Module | None:  # type: ignore[override]  # in Transformers always one
        """The patch embeddings; `None` if the model has no image encoder."""
        return None if self.vision_encoder is None else super().get_input_embeddings()

    # ------------------------------------------------------------------------------------------- the tracking step

    def track_step(
        self,
        features: Tensor,
        memory_bank: MemoryBank | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
        previous_masks: Tensor | None = None,
        multimask_output: bool | None = None,
        mask_from_prompts: Tensor | bool = False,
        encode_memory: bool = True,
        conditioned_features: Tensor | None = None,
    ) -> EfficientTamTrackingOutput:
        """Track B objects to one frame, or segment them from prompts. Gradients flow through all tensors.

        Args:
            features: (B or 1, C, H, W) features of the frame, `fpn_hidden_states[-1]` of the image encoder.
            memory_bank: the memories of the objects; `None` on a frame that is segmented from its prompts alone.
            input_points: (B, K, 2) points (x, y) in pixels of the model's input.
            input_labels: (B, K) labels; a box is two points labelled 2 and 3, ahead of the other points.
            input_masks: (B, 1, height, width) masks of 0 and 1 at the model's input size. They become the result; the
                mask decoder only computes the object pointer.
            previous_masks: (B, 1, h, w) logits of an earlier result on this frame, which the points correct.
            multimask_output: whether to choose among several proposals; by default, `config.multimask_*` and the number
                of points decide.
            mask_from_prompts: whether the masks come from prompts, for all objects or (B,) for each. Such masks are
                binarised for the memory encoder (`config.binarize_mask_from_points_for_mem_enc`; not while training).
            encode_memory: whether to compute the frame's spatial memory.
            conditioned_features: (B, C, H, W), the output of `condition_on_memory` for this frame and bank. It saves
                time when the frame is run again with another prompt.
        """
        if not torch.compiler.is_compiling():
            self._check_sizes(features, input_masks, previous_masks)
        batch_size = self._batch_size(memory_bank, input_points, input_masks, features)
        if input_masks is not None:
            output = self._use_mask_as_output(features.expand(batch_size, -1, -1, -1), input_masks)
        else:
            if conditioned_features is None and memory_bank is None:
                conditioned_features = self.add_no_memory(features).expand(batch_size, -1, -1, -1)
            elif conditioned_features is None and memory_bank is not None:
                conditioned_features = self.condition_on_memory(features, memory_bank)
            if multimask_output is None:
                num_points = 0 if input_points is None else input_points.shape[1]
                rules = TrackingRules.from_config(self.config)
                multimask_output = rules.use_multimask(num_points, is_initial=memory_bank is None)
            assert conditioned_features is not None
            output = self._segment(conditioned_features, input_points, input_labels, previous_masks, multimask_output)
        if encode_memory:
            output.memory = self.encode_memory(features, output.high_res_masks, mask_from_prompts)
        return output

    def condition_on_memory(self, features: Tensor, memory_bank: MemoryBank) -> Tensor:
        """Apply memory attention over the bank to (B or 1, C, H, W) features of a frame; return (B, C, H, W)."""
        temporal = self.memory_temporal_positional_encoding.flatten(1)[memory_bank.temporal_index].unsqueeze(2)
        pointers = memory_bank.object_pointers
        if not self.config.use_object_pointers:
            pointers = pointers[:, :0]
        return self.memory_attention(features, memory_bank.spatial.to(features.dtype), temporal, pointers)

    def encode_memory(self, features: Tensor, masks: Tensor, mask_from_prompts: Tensor | bool = False) -> Tensor:
        """Compute the spatial memory of a frame, (B, N, c).

        Args:
            features: (B or 1, C, H, W) features of the frame before memory attention.
            masks: (B, 1, height, width) logits at the model's input size.
            mask_from_prompts: see `track_step`.
        """
        config = self.config
        probabilities = torch.sigmoid(masks)
        if config.binarize_mask_from_points_for_mem_enc and not self.training:
            from_prompts = torch.as_tensor(mask_from_prompts, device=masks.device).view(-1, 1, 1, 1)
            probabilities = torch.where(from_prompts, (masks > 0).to(masks.dtype), probabilities)
        scaled = probabilities * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        return self.memory_encoder(features, scaled.to(features.dtype))

    def _check_sizes(self, features: Tensor, input_masks: Tensor | None, previous_masks: Tensor | None) -> None:
        """Raise ValueError if the maps given to `track_step` do not have the sizes of the configuration."""
        size = size_pair(self.config.image_size)
        expected = {
            "features": (features, tuple(self.config.vision_config.feature_size)),
            "input_masks": (input_masks, size),
            "previous_masks": (previous_masks, tuple(self.prompt_encoder.mask_input_size)),
        }
        for name, (tensor, wanted) in expected.items():
            if tensor is not None and tuple(tensor.shape[-2:]) != wanted:
                raise ValueError(
                    f"`{name}` is {tensor.shape[-2]}x{tensor.shape[-1]} (height x width); at this model's input size "
                    f"of {size[0]}x{size[1]} pixels it must be {wanted[0]}x{wanted[1]}. Resize the input, or load the "
                    "model at its size: from_pretrained(..., image_size=(height, width))."
                )

    @staticmethod
    def _batch_size(
        memory_bank: MemoryBank | None, input_points: Tensor | None, input_masks: Tensor | None, features: Tensor
    ) -> int:
        if memory_bank is not None:
            return memory_bank.spatial.shape[0]
        for prompts in (input_points, input_masks):
            if prompts is not None:
                return prompts.shape[0]
        return features.shape[0]

    def _upsample(self, masks: Tensor) -> Tensor:
        """Resize (B, 1, h, w) logits to the model's input size, in float32."""
        size = size_pair(self.config.image_size)
        masks = masks.float()
        if masks.device.type == "cpu" and not torch.compiler.is_compiling():
            # Expand to three channels: with one, PyTorch uses a kernel whose last bits differ from the published code
            # (which upsamples all proposals), and one bit can change how a memory is rounded to bfloat16.
            masks = masks.expand(-1, 3, -1, -1)
        return F.interpolate(masks, size=size, mode="bilinear", align_corners=False)[:, :1]

    def _segment(
        self,
        features: Tensor,
        input_points: Tensor | None,
        input_labels: Tensor | None,
        masks: Tensor | None,
        multimask_output: bool,
        has_mask: Tensor | None = None,
    ) -> EfficientTamTrackingOutput:
        """Run the mask decoder on conditioned (B, C, H, W) features; choose the mask and compute the object pointer.

        `has_mask`, (B,) bool, says which rows of `masks` are prompts; by default all of them are.
        """
        if input_points is None:  # a frame without points gets one point labelled -1; an image without points gets none
            input_points = torch.zeros(features.shape[0], 1, 2, device=features.device)
            input_labels = torch.full((features.shape[0], 1), -1, device=features.device)
        assert input_labels is not None  # the processor returns labels with points
        input_points, input_labels = input_points.unsqueeze(1), input_labels.unsqueeze(1)
        proposals, iou_scores, tokens, object_score_logits = (
            x.squeeze(1)
            for x in self.decode_masks(
                features, input_points, input_labels, None, masks, multimask_output, has_mask=has_mask
            )
        )
        output = EfficientTamTrackingOutput(
            object_score_logits=object_score_logits,
            multimask_logits=proposals,
            multimask_iou_scores=iou_scores,
            multimask_tokens=tokens,
        )
        return self.choose_proposals(output, iou_scores.argmax(dim=-1))

    def choose_proposals(self, output: EfficientTamTrackingOutput, proposals: Tensor) -> EfficientTamTrackingOutput:
        """Return the result of a tracking step with other proposals as masks. The result has no spatial memory.

        Args:
            output: the output of `track_step` for B objects with K proposals each.
            proposals: (B,) int64, the index of the proposal that becomes the mask of each object. `track_step` itself
                takes the proposals with the highest predicted IoU.
        """
        rows = torch.arange(proposals.shape[0], device=proposals.device)
        # The decision whether an object is present is a hard one, in the mask and therefore in its memory.
        appears: Tensor = output.object_score_logits > 0
        pred_masks = output.multimask_logits[rows, proposals].unsqueeze(1)
        pred_masks = torch.where(appears[..., None, None], pred_masks, self.config.no_object_score)
        # A single mask has a single token, even if the decoder replaced the mask by a proposal.
        tokens = output.multimask_tokens
        assert tokens is not None  # only the result of a mask prompt has none, and it has no proposals
        token = tokens[rows, proposals] if tokens.shape[1] > 1 else tokens[:, 0]
        return EfficientTamTrackingOutput(
            pred_masks=pred_masks,
            high_res_masks=self._upsample(pred_masks),
            iou_scores=output.multimask_iou_scores[rows, proposals].unsqueeze(1),
            object_score_logits=output.object_score_logits,
            object_pointer=self._where_present(appears, self.object_pointer_proj(token)),
            multimask_logits=output.multimask_logits,
            multimask_iou_scores=output.multimask_iou_scores,
            multimask_tokens=tokens,
        )

    def proposal_pointers(self, output: EfficientTamTrackingOutput) -> Tensor:
        """Compute the (B, K, C) object pointers of all proposals of a tracking step, not only of the chosen ones."""
        assert output.multimask_tokens is not None  # see `choose_proposals`
        pointers = self._where_present(
            output.object_score_logits[..., None] > 0, self.object_pointer_proj(output.multimask_tokens)
        )
        return pointers.expand(-1, output.multimask_iou_scores.shape[1], -1)

    def _where_present(self, appears: Tensor, pointer: Tensor) -> Tensor:
        """Return the pointers of objects that are present, (B, 1) bool, and `no_object_pointer` for the others."""
        return torch.where(appears, pointer, self.no_object_pointer.to(pointer.dtype))

    def _use_mask_as_output(self, features: Tensor, input_masks: Tensor) -> EfficientTamTrackingOutput:
        """Use a mask prompt as the frame's result; the decoder only computes the object pointer."""
        config = self.config
        masks = input_masks.float()
        logits = masks * config.mask_prompt_scale + config.mask_prompt_bias
        size = self.prompt_encoder.mask_input_size
        pred_masks = F.interpolate(logits, size=size, mode="bilinear", align_corners=False, antialias=True)
        decoded = self._segment(
            features, None, None, self.mask_downsample(masks.to(self.mask_downsample.weight.dtype)), False
        )
        appears = masks.flatten(1).any(dim=1, keepdim=True)
        iou_scores = torch.ones_like(appears, dtype=decoded.iou_scores.dtype)
        score = appears.to(decoded.object_score_logits.dtype) * config.mask_prompt_scale + config.mask_prompt_bias
        return EfficientTamTrackingOutput(
            pred_masks=pred_masks,
            high_res_masks=self._upsample(pred_masks),
            iou_scores=iou_scores,
            object_score_logits=score,
            object_pointer=self._where_present(appears, decoded.object_pointer),
            multimask_logits=pred_masks,
            multimask_iou_scores=iou_scores,
        )

    # ------------------------------------------------------------------------------------------------- the session

    @property
    def walk(self) -> SessionWalk:
        """The walk that runs sessions with this model."""
        return SessionWalk(TorchBackend(self))

    @torch.no_grad()
    def forward(
        self,
        inference_session: EfficientTamVideoInferenceSession,
        frame_idx: int | None = None,
        frame: Any = None,
        reverse: bool = False,
        run_mem_encoder: bool = True,
        **kwargs: Any,
    ) -> EfficientTamVideoSegmentationOutput:
        r"""
        Run one frame of a session, as `Sam2VideoModel` does.

        Objects with pending prompts on the frame are segmented from these; the others are tracked to the frame. If no
        prompts are pending, or the frame is a new one of a stream, tracking has then passed the frame, and later
        prompts on it are corrections. `segment_prompts` runs prompts without tracking the other objects.

        Args:
            inference_session: a session from `EfficientTamVideoProcessor.init_video_session`.
            frame_idx: the frame; not needed for a new frame of a stream.
            frame: a new frame of a stream: processed pixels (3, height, width) or (1, 3, height, width), or a raw
                image if a processor made the session.
            reverse: whether tracking runs backward.
            run_mem_encoder: whether the memory encoder runs, so that later frames can attend to this one.

        Returns:
            A row for each object. The output of a stream without objects has no rows.

        Raises:
            ValueError: if a video has no objects, an object has no prompts, or the frame is not available.
        """
        return self.walk.run(inference_session, frame_idx, frame, Direction.of(reverse), run_mem_encoder)

    def encode_frame(self, pixels: Tensor) -> Tensor:
        """Encode (3, height, width) pixels of a frame as (1, C, H, W) features for `track_step`.

        Raises:
            ValueError: if the model has no image encoder.
        """
        if self.vision_encoder is None:
            raise ValueError(
                "This model was made with remove_vision_encoder=True and cannot encode a frame: give the session a "
                "`feature_provider` that has the features of its frames."
            )
        return self.get_image_features(pixels.unsqueeze(0), return_dict=True).fpn_hidden_states[-1]
