"""Tracking: one tracking step, and the model that drives it over a session.

`EfficientTamVideoModel.track_step` is the one place where a frame is tracked: features of the frame, memories and
prompts go in, masks, scores, an object pointer and a new memory come out, for a batch of objects. It is plain tensor
code: interactive use, streaming, training, evaluation and export all call it. Everything stateful (which frame looks at
which memories, which prompts wait) is in `memory.py` and `video_session.py`; `forward` and
`propagate_in_video_iterator` connect the two, with the interface of Transformers' `Sam2VideoModel`.

Shapes: B objects, M memories, N = H * W tokens of a feature map, C its channels, c channels of a memory.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_efficienttam import EfficientTamConfig, size_pair
from .memory import FrameMemory, MemoryBank
from .modeling_efficienttam import EfficientTamModel
from .modeling_efficienttam_layers import EfficientTamFeedForward
from .modeling_efficienttam_memory import (
    EfficientTamMemoryAttention,
    EfficientTamMemoryEncoder,
    EfficientTamMemoryFuserBlock,
)
from .object_memory import MemorySelection
from .tracking_session import EndOfVideoError, TrackedObject
from .video_session import EfficientTamVideoInferenceSession


@dataclass
class EfficientTamTrackingOutput(ModelOutput):
    r"""
    What one tracking step gives for B objects.

    pred_masks (`Tensor` of shape `(B, 1, h, w)`): mask logits at a quarter of the model's input size.
    high_res_masks (`Tensor` of shape `(B, 1, height, width)`): the same at the model's input size, float32.
    iou_scores (`Tensor` of shape `(B, 1)`): predicted IoU of that mask.
    object_score_logits (`Tensor` of shape `(B, 1)`): above 0 where the object is judged present.
    object_pointer (`Tensor` of shape `(B, C)`): the object in one vector, for later frames.
    multimask_logits (`Tensor` of shape `(B, K, h, w)`): all proposals the mask was chosen from, as they are before an
        object that is judged absent is blanked; what a loss compares.
    multimask_iou_scores (`Tensor` of shape `(B, K)`): their predicted IoU.
    memory (`Tensor` of shape `(B, N, c)`, *optional*): the frame's spatial memory, when it was asked for.
    """

    pred_masks: Tensor | None = None
    high_res_masks: Tensor | None = None
    iou_scores: Tensor | None = None
    object_score_logits: Tensor | None = None
    object_pointer: Tensor | None = None
    multimask_logits: Tensor | None = None
    multimask_iou_scores: Tensor | None = None
    memory: Tensor | None = None


@dataclass
class EfficientTamVideoSegmentationOutput(ModelOutput):
    r"""
    The objects of a session on one frame.

    object_ids (`list[int]`): the objects, in the order of the tensors' rows.
    pred_masks (`Tensor` of shape `(num_objects, 1, h, w)`): mask logits at a quarter of the model's input size;
        `config.no_object_score` where an object is absent or has no result on this frame.
    object_score_logits (`Tensor` of shape `(num_objects, 1)`): above 0 where the object is judged present.
    iou_scores (`Tensor` of shape `(num_objects, 1)`): predicted IoU of each mask.
    object_pointer (`Tensor` of shape `(num_objects, C)`): zeros where an object has no result on this frame.
    frame_idx (`int`): the frame.
    """

    object_ids: list[int] | None = None
    pred_masks: Tensor | None = None
    object_score_logits: Tensor | None = None
    iou_scores: Tensor | None = None
    object_pointer: Tensor | None = None
    frame_idx: int | None = None


class EfficientTamVideoModel(EfficientTamModel):
    """EfficientTAM for videos: prompts on any frame, for any number of objects, tracked through all frames.

    Used as `Sam2VideoModel` is, with a session from `EfficientTamVideoProcessor.init_video_session`. Its checkpoint
    folder also loads into `EfficientTamModel`.
    """

    input_modalities = ("video", "text")
    _can_record_outputs = {}
    _keys_to_ignore_on_load_unexpected = []
    _no_split_modules = [
        "EfficientTamVisionLayer",
        "EfficientTamTwoWayAttentionBlock",
        "EfficientTamMemoryAttentionLayer",
    ]

    def _build(self, config: EfficientTamConfig) -> None:
        super()._build(config)
        width, memory_size = config.vision_config.fpn_hidden_size, config.memory_attention_config.memory_size
        config.memory_attention_config._attn_implementation = config._attn_implementation
        self.memory_attention = EfficientTamMemoryAttention(config.memory_attention_config)
        self.memory_encoder = EfficientTamMemoryEncoder(config.memory_encoder_config)
        self.memory_temporal_positional_encoding = nn.Parameter(torch.zeros(config.num_maskmem, 1, 1, memory_size))
        # Not used where `no_memory_embedding` is added directly, as the family does; the checkpoints carry it.
        self.no_memory_positional_encoding = nn.Parameter(torch.zeros(1, 1, width))
        self.no_object_pointer = nn.Parameter(torch.zeros(1, width))
        # Brings a mask prompt to the size and scale of predicted logits, to make an object pointer of it.
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
        """Track, or segment from prompts, B objects on one frame. Tensors in, tensors out; gradients flow.

        Args:
            features: (B or 1, C, H, W), the frame's `fpn_hidden_states[-1]`.
            memory_bank: what the objects remember; `None` on a frame that is segmented from its prompts alone.
            input_points: (B, K, 2) points (x, y) in pixels of the model's input, input_labels: (B, K); a box is two
                points labelled 2 and 3, ahead of the others.
            input_masks: (B, 1, height, width) masks of 0 and 1 at the model's input size. They are taken as the result;
                the mask decoder only makes the object pointer.
            previous_masks: (B, 1, h, w) logits predicted before on this frame, to be corrected by the points.
            multimask_output: whether to choose among several proposals; by default, by the number of points as
                `config.multimask_*` says.
            mask_from_prompts: whether a user made the mask, for all objects or (B,) for each: it is then binarised for
                the memory encoder (`config.binarize_mask_from_points_for_mem_enc`; not while training).
            encode_memory: whether to make the frame's spatial memory.
            conditioned_features: (B, C, H, W), what `condition_on_memory` gives for this frame and bank, where it is at
                hand because the frame is run again with another prompt.
        """
        batch_size = self._batch_size(memory_bank, input_points, input_masks, features)
        if input_masks is not None:
            output = self._use_mask_as_output(features.expand(batch_size, -1, -1, -1), input_masks)
        else:
            if conditioned_features is None and memory_bank is None:
                conditioned_features = self.add_no_memory(features).expand(batch_size, -1, -1, -1)
            elif conditioned_features is None:
                conditioned_features = self.condition_on_memory(features, memory_bank)
            if multimask_output is None:
                multimask_output = self._use_multimask(memory_bank is None, input_points)
            output = self._segment(conditioned_features, input_points, input_labels, previous_masks, multimask_output)
        if encode_memory:
            output.memory = self.encode_memory(features, output.high_res_masks, mask_from_prompts)
        return output

    def condition_on_memory(self, features: Tensor, memory_bank: MemoryBank) -> Tensor:
        """(B or 1, C, H, W) features of a frame to (B, C, H, W), after memory attention over the bank."""
        temporal = self.memory_temporal_positional_encoding.flatten(1)[memory_bank.temporal_index].unsqueeze(2)
        pointers = memory_bank.object_pointers
        if not self.config.use_object_pointers:
            pointers = pointers[:, :0]
        return self.memory_attention(features, memory_bank.spatial.to(features.dtype), temporal, pointers)

    def encode_memory(self, features: Tensor, masks: Tensor, mask_from_prompts: Tensor | bool = False) -> Tensor:
        """The spatial memory of a frame: (B, N, c).

        Args:
            features: (B or 1, C, H, W), before memory attention.
            masks: (B, 1, height, width) logits at the model's input size.
            mask_from_prompts: as in `track_step`.
        """
        config = self.config
        probabilities = torch.sigmoid(masks)
        if config.binarize_mask_from_points_for_mem_enc and not self.training:
            from_prompts = torch.as_tensor(mask_from_prompts, device=masks.device).view(-1, 1, 1, 1)
            probabilities = torch.where(from_prompts, (masks > 0).to(masks.dtype), probabilities)
        scaled = probabilities * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        return self.memory_encoder(features, scaled.to(features.dtype))

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

    def _use_multimask(self, is_initial: bool, input_points: Tensor | None) -> bool:
        config = self.config
        num_points = 0 if input_points is None else input_points.shape[1]
        return (
            config.multimask_output_in_sam
            and (is_initial or config.multimask_output_for_tracking)
            and config.multimask_min_pt_num <= num_points <= config.multimask_max_pt_num
        )

    def _upsample(self, masks: Tensor) -> Tensor:
        """(B, 1, h, w) logits to the model's input size, float32."""
        size = size_pair(self.config.image_size)
        masks = masks.float()
        if masks.device.type == "cpu" and not torch.compiler.is_compiling():
            # Thrice, for one: with fewer channels PyTorch takes another kernel, whose last bits are not those of the
            # published code (it upsamples all proposals), and one bit can tip a memory's rounding to bfloat16.
            masks = masks.expand(-1, 3, -1, -1)
        return F.interpolate(masks, size=size, mode="bilinear", align_corners=False)[:, :1]

    def _segment(
        self,
        features: Tensor,
        input_points: Tensor | None,
        input_labels: Tensor | None,
        masks: Tensor | None,
        multimask_output: bool,
    ) -> EfficientTamTrackingOutput:
        """The mask decoder on conditioned (B, C, H, W) features, its best mask, and the object pointer."""
        if input_points is None:  # a frame without clicks has one that is none; an image without has no token at all
            input_points = torch.zeros(features.shape[0], 1, 2, device=features.device)
            input_labels = torch.full((features.shape[0], 1), -1, device=features.device)
        input_points, input_labels = input_points.unsqueeze(1), input_labels.unsqueeze(1)
        proposals, iou_scores, tokens, object_score_logits = (
            x.squeeze(1)
            for x in self.decode_masks(
                features, input_points, input_labels, None, masks, multimask_output=multimask_output
            )
        )
        # A hard choice, in the mask and so in its memory: there, or not.
        appears = object_score_logits > 0
        best = iou_scores.argmax(dim=-1)
        rows = torch.arange(best.shape[0], device=best.device)
        pred_masks = proposals[rows, best].unsqueeze(1)
        pred_masks = torch.where(appears[..., None, None], pred_masks, self.config.no_object_score)
        # A single mask has a single token, whichever proposal stood in for it.
        token = tokens[rows, best] if tokens.shape[1] > 1 else tokens[:, 0]
        return EfficientTamTrackingOutput(
            pred_masks=pred_masks,
            high_res_masks=self._upsample(pred_masks),
            iou_scores=iou_scores[rows, best].unsqueeze(1),
            object_score_logits=object_score_logits,
            object_pointer=self._where_present(appears, self.object_pointer_proj(token)),
            multimask_logits=proposals,
            multimask_iou_scores=iou_scores,
        )

    def _where_present(self, appears: Tensor, pointer: Tensor) -> Tensor:
        """The pointer of objects that appear, (B, 1) bool, and the learned stand-in for those that do not."""
        return torch.where(appears, pointer, self.no_object_pointer.to(pointer.dtype))

    def _use_mask_as_output(self, features: Tensor, input_masks: Tensor) -> EfficientTamTrackingOutput:
        """A mask prompt as the frame's result; the decoder gives its pointer only."""
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
        Run one frame of a session.

        If prompts wait on the frame, the objects they are for are segmented from them, and no others. If none do (or
        the frame is a new one of a stream), every object is tracked to it.

        Args:
            inference_session: of `EfficientTamVideoProcessor.init_video_session`.
            frame_idx: the frame; not needed for a new frame of a stream.
            frame: a new frame of a stream: processed pixels (3, height, width) or (1, 3, height, width), or a raw
                image if the session came from a processor.
            reverse: whether tracking runs backwards.
            run_mem_encoder: whether tracked frames are remembered.

        Raises:
            ValueError: without objects, for an object without prompts, or for a frame that is not there.
        """
        session = inference_session
        if frame is None and frame_idx is None:
            raise ValueError("Give frame_idx, or for a stream the new frame as `frame`.")
        if not session.objects:
            raise ValueError("No objects are provided for tracking; please add inputs first.")
        is_new_frame = frame is not None
        if is_new_frame:
            self._run_waiting_prompts(session)  # the last frame is about to go
            frame_idx = session.add_new_frame(frame, frame_idx)
        session.check_frame_idx(frame_idx)

        prompted = [obj for obj in session.objects.values() if frame_idx in obj.unrun]
        if prompted:
            self._run_prompts(session, prompted, frame_idx)
        if is_new_frame or not prompted:
            self._track(session, frame_idx, reverse, run_mem_encoder)
        return self.get_frame_output(session, frame_idx)

    def propagate_in_video_iterator(
        self,
        inference_session: EfficientTamVideoInferenceSession,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        show_progress_bar: bool = False,
    ) -> Iterator[EfficientTamVideoSegmentationOutput]:
        r"""
        Track every object through the frames of a video, yielding each frame as it is done.

        Prompts that were added but not run yet are run first.

        Args:
            inference_session: of `EfficientTamVideoProcessor.init_video_session`, with a video.
            start_frame_idx: where to start; by default the earliest prompted frame.
            max_frame_num_to_track: how many frames after the first; by default to the end.
            reverse: whether to go backwards.
            show_progress_bar: whether to show one.

        Raises:
            ValueError: if nothing was prompted, an object lost all its prompts, or the start is not in the video.
        """
        session = inference_session
        self._run_waiting_prompts(session)
        session.commit()
        if start_frame_idx is None:
            start_frame_idx = min(t for obj in session.objects.values() for t in obj.memory.conditioning)
        session.check_frame_idx(start_frame_idx)
        frames = session.frames_to_track(start_frame_idx, max_frame_num_to_track, reverse)
        for frame_idx in tqdm(frames, desc="propagate in video", disable=not show_progress_bar):
            try:
                output = self.forward(session, frame_idx=frame_idx, reverse=reverse)
            except EndOfVideoError as error:
                warnings.warn(f"Tracking stopped before frame {frame_idx}: {error}", stacklevel=2)
                return
            yield output

    def _frame_features(self, session: EfficientTamVideoInferenceSession, frame_idx: int) -> Tensor:
        """(1, C, H, W), computed once while the session keeps them."""
        features = session.cache.get(frame_idx)
        if features is None:
            features = self.encode_frame(session.get_frame(frame_idx))
            session.cache.put(frame_idx, features)
        return features

    def encode_frame(self, pixels: Tensor) -> Tensor:
        """(3, height, width) pixels of a frame, as a session gives them, to (1, C, H, W) features for `track_step`."""
        return self.get_image_features(pixels.unsqueeze(0), return_dict=True).fpn_hidden_states[-1]

    @torch.no_grad()
    def _run_waiting_prompts(self, session: EfficientTamVideoInferenceSession) -> None:
        """Run the prompts that were added and not run yet, on frames that are at hand."""
        for frame_idx in sorted({t for obj in session.objects.values() for t in obj.unrun}):
            if session.has_frame(frame_idx):
                waiting = [obj for obj in session.objects.values() if frame_idx in obj.unrun]
                self._run_prompts(session, waiting, frame_idx)

    def _run_prompts(
        self, session: EfficientTamVideoInferenceSession, objects: list[TrackedObject], frame_idx: int
    ) -> None:
        """Segment objects on a frame from the prompts that wait there; objects alike in shape run as one batch."""
        features = self._frame_features(session, frame_idx)
        device, dtype = features.device, features.dtype
        batches: dict[Any, list] = defaultdict(list)
        for obj in objects:
            prompts = obj.prompts[frame_idx]
            reverse = obj.memory.direction(frame_idx)
            bank, bank_shape, previous = None, None, None
            # A frame that was not tracked is segmented from its prompts alone; one that was is corrected.
            if reverse is not None and prompts.mask is None:
                selection = self._select(obj, frame_idx, reverse)
                bank, bank_shape = MemoryBank.from_selection(selection, device, dtype), selection.shape
            if prompts.mask is None:
                entry = obj.memory.find(frame_idx)
                if entry is not None:
                    clamp = self.config.previous_mask_clamp
                    previous = entry.pred_masks.to(device, dtype).clamp(-clamp, clamp)
            num_points = None if prompts.points is None else prompts.points.shape[1]
            key = (num_points, prompts.mask is None, bank_shape, previous is None)
            batches[key].append((obj, prompts, bank, previous, reverse))

        for batch in batches.values():
            group, prompts, banks, previous, directions = zip(*batch, strict=True)
            with_points, with_masks = prompts[0].points is not None, prompts[0].mask is not None
            output = self.track_step(
                features,
                None if banks[0] is None else MemoryBank.concatenate(banks),
                torch.cat([p.points for p in prompts]).to(device) if with_points else None,
                torch.cat([p.labels for p in prompts]).to(device) if with_points else None,
                input_masks=torch.cat([p.mask for p in prompts]).to(device) if with_masks else None,
                previous_masks=None if previous[0] is None else torch.cat(previous),
                mask_from_prompts=True,
            )
            for row, (obj, direction) in enumerate(zip(group, directions, strict=True)):
                conditioning = direction is None or self.config.add_all_frames_to_correct_as_cond
                session.store_prompted(obj, frame_idx, self._entry(session, output, row), conditioning)

    def _track(
        self, session: EfficientTamVideoInferenceSession, frame_idx: int, reverse: bool, run_mem_encoder: bool
    ) -> None:
        """Track every object to a frame; objects with equally many memories run as one batch."""
        session.commit()
        batches: dict[tuple[int, int], list] = defaultdict(list)
        for obj in session.objects.values():
            # Prompts on the frame were run and stand; prompts on a later frame of a stream have yet to begin.
            if frame_idx in obj.memory.conditioning or not obj.memory.conditioning:
                continue
            selection = self._select(obj, frame_idx, reverse)
            batches[selection.shape].append((obj, selection))
        if batches:
            features = self._frame_features(session, frame_idx)
        for batch in batches.values():
            group, selections = zip(*batch, strict=True)
            bank = MemoryBank.concatenate(
                [MemoryBank.from_selection(s, features.device, features.dtype) for s in selections]
            )
            output = self.track_step(features, bank, encode_memory=run_mem_encoder)
            for row, obj in enumerate(group):
                obj.memory.tracked[frame_idx] = self._entry(session, output, row)
        horizon = max(self.config.num_maskmem, self.config.max_object_pointers_in_encoder) - 1
        session.mark_tracked(frame_idx, reverse, horizon)

    def _select(self, obj: TrackedObject, frame_idx: int, reverse: bool) -> MemorySelection:
        config = self.config
        return obj.memory.select(
            frame_idx,
            reverse,
            config.num_maskmem,
            config.max_object_pointers_in_encoder,
            config.max_cond_frame_num,
        )

    def _entry(
        self, session: EfficientTamVideoInferenceSession, output: EfficientTamTrackingOutput, row: int
    ) -> FrameMemory:
        """One object's part of a batch, for its memory. Copies, so that no batch is kept alive by one of its rows."""
        device = session.inference_state_device
        spatial = None
        if output.memory is not None:
            spatial = output.memory[row : row + 1].to(device, getattr(torch, self.config.memory_dtype), copy=True)
        return FrameMemory(
            pred_masks=output.pred_masks[row : row + 1].to(device, copy=True),
            object_score_logits=output.object_score_logits[row : row + 1].clone(),
            iou_scores=output.iou_scores[row : row + 1].clone(),
            object_pointer=output.object_pointer[row : row + 1].clone(),
            spatial=spatial,
        )

    def get_frame_output(
        self, inference_session: EfficientTamVideoInferenceSession, frame_idx: int
    ) -> EfficientTamVideoSegmentationOutput:
        """The newest result of every object on a frame, without running anything.

        Objects without a result there (never reached, or let go: see `keep_history`) have masks and scores at
        `config.no_object_score`.
        """
        session = inference_session
        height, width = self.prompt_encoder.mask_input_size
        device, pointer = self.device, self.no_object_pointer
        absent = FrameMemory(
            pred_masks=torch.full((1, 1, height, width), float(self.config.no_object_score), device=device),
            object_score_logits=torch.full((1, 1), float(self.config.no_object_score), device=device),
            iou_scores=torch.zeros(1, 1, device=device),
            object_pointer=torch.zeros_like(pointer),
        )
        entries = [obj.memory.find(frame_idx) or absent for obj in session.objects.values()]
        return EfficientTamVideoSegmentationOutput(
            object_ids=session.obj_ids,
            pred_masks=torch.cat([e.pred_masks.to(device, torch.float32) for e in entries]),
            object_score_logits=torch.cat([e.object_score_logits.to(device, torch.float32) for e in entries]),
            iou_scores=torch.cat([e.iou_scores.to(device, torch.float32) for e in entries]),
            object_pointer=torch.cat([e.object_pointer.to(device, pointer.dtype) for e in entries]),
            frame_idx=frame_idx,
        )


__all__ = [
    "EfficientTamTrackingOutput",
    "EfficientTamVideoModel",
    "EfficientTamVideoSegmentationOutput",
]
