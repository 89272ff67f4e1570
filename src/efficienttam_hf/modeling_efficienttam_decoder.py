"""SAM's prompt encoder and mask decoder, which turn prompts and features into masks.

The prompt encoder turns points, boxes and a rough mask into embeddings. In the mask decoder, a small two-way
transformer lets these embeddings and the image's features attend to each other. Its output tokens give masks, their
predicted IoU and an object score.

Letters of shapes: B images, P prompts for an image, N = H * W tokens and C channels of a feature map.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_efficienttam import EfficientTamMaskDecoderConfig, EfficientTamPromptEncoderConfig, size_pair
from .cpu_kernels import EfficientTamLinear
from .modeling_efficienttam_layers import EfficientTamFeedForward, EfficientTamLayerNorm2d, attend
from .prompts import NO_POINT


# This is added to the logit of a token that must not be attended to: its softmax weight is then 0 in any precision.
NOT_ATTENDED = -30000.0


# ------------------------------------------------------------------------------------------------- prompt encoder


class EfficientTamPositionalEmbedding(nn.Module):
    """Random Fourier features of points in the unit square (SAM)."""

    def __init__(self, config: EfficientTamPromptEncoderConfig):
        super().__init__()
        self.scale = config.scale
        self.positional_embedding = nn.Buffer(self.scale * torch.randn(2, config.hidden_size // 2))

    def forward(self, coordinates: Tensor) -> Tensor:
        """Encode (..., 2) points (x, y) in [0, 1] as (..., hidden_size), always in float32."""
        coordinates = 2 * coordinates.float() - 1
        angles = 2 * math.pi * (coordinates @ self.positional_embedding.float())
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, size: tuple[int, int]) -> Tensor:
        """Encode the cell centres of a map of `size` (H, W) as (1, hidden_size, H, W)."""
        height, width = size
        device = self.positional_embedding.device
        rows = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        columns = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        centres = torch.stack([columns[None].expand(height, width), rows[:, None].expand(height, width)], dim=-1)
        return self(centres).permute(2, 0, 1).unsqueeze(0)


class EfficientTamMaskEmbedding(nn.Module):
    """Convolutions that turn a mask prompt at four times the feature map's size into a dense embedding."""

    def __init__(self, config: EfficientTamPromptEncoderConfig):
        super().__init__()
        inner, outer, eps = config.mask_input_channels // 4, config.mask_input_channels, config.layer_norm_eps
        self.conv1 = nn.Conv2d(1, inner, kernel_size=2, stride=2)
        self.layer_norm1 = EfficientTamLayerNorm2d(inner, eps=eps)
        self.conv2 = nn.Conv2d(inner, outer, kernel_size=2, stride=2)
        self.layer_norm2 = EfficientTamLayerNorm2d(outer, eps=eps)
        self.conv3 = nn.Conv2d(outer, config.hidden_size, kernel_size=1)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, masks: Tensor) -> Tensor:
        """Embed (B, 1, 4H, 4W) logits as (B, hidden_size, H, W)."""
        hidden_states = self.activation(self.layer_norm1(self.conv1(masks)))
        return self.conv3(self.activation(self.layer_norm2(self.conv2(hidden_states))))


class EfficientTamPromptEncoder(nn.Module):
    """Embeds points and boxes as sparse embeddings (tokens), and a mask as a dense embedding (a feature map)."""

    def __init__(self, config: EfficientTamPromptEncoderConfig):
        super().__init__()
        self.config = config
        self.shared_embedding = EfficientTamPositionalEmbedding(config)
        self.mask_embed = EfficientTamMaskEmbedding(config)
        self.no_mask_embed = nn.Embedding(1, config.hidden_size)
        self.point_embed = nn.Embedding(config.num_point_embeddings, config.hidden_size)
        self.not_a_point_embed = nn.Embedding(1, config.hidden_size)

    @property
    def image_embedding_size(self) -> tuple[int, int]:
        """(H, W) of the feature map."""
        return self.config.feature_size

    @property
    def mask_input_size(self) -> tuple[int, int]:
        """(4H, 4W), the size of a mask prompt."""
        return self.config.mask_input_size

    def embed_points(self, points: Tensor, labels: Tensor) -> Tensor:
        """Embed (B, P, K, 2) points and (B, P, K) labels as (B, P, K + 1, C), with a padding token at the end.

        Labels: 1 positive, 0 negative, 2 and 3 the corners of a box, -1 no point, -10 padding of a ragged batch.
        """
        points = F.pad(points, (0, 0, 0, 1))
        labels = F.pad(labels, (0, 1), value=-1).unsqueeze(-1)
        height, width = size_pair(self.config.image_size)
        size = torch.tensor([width, height], device=points.device, dtype=torch.float32)
        # The coordinates name a pixel; its centre is half a pixel further.
        positions = self.shared_embedding((points.float() + 0.5) / size)
        kinds = self.point_embed(labels.squeeze(-1).long().clamp(min=0))
        nothing = self.not_a_point_embed.weight.expand_as(kinds)
        embeddings = torch.where(labels >= 0, positions.to(kinds.dtype) + kinds, torch.zeros_like(kinds))
        return torch.where(labels == -1, nothing, embeddings)

    def padded_tokens(self, input_labels: Tensor | None, input_boxes: Tensor | None) -> Tensor | None:
        """Return which sparse embeddings are padding, (B, P, tokens) bool, or `None` if none is.

        Padding only makes the lists of a batch equally long. The mask decoder does not attend to it, so that the
        result of a prompt does not depend on the other prompts of the batch. (The published code attends to it.)

        Args:
            input_labels, input_boxes: as in `forward`.
        """
        if input_labels is None:
            return None
        num_points = input_labels.shape[-1]
        if isinstance(num_points, int) and num_points == 1 and input_boxes is None:
            return None  # a padded prompt has at least one other point, so a list of one point has no padding
        padding = F.pad(input_labels < NO_POINT, (0 if input_boxes is None else 2, 1))
        # A graph, or a tensor without values (on the meta device, of `FakeTensorMode`), cannot depend on the labels.
        has_no_numbers = torch.compiler.is_compiling() or padding.is_meta or type(padding) is not Tensor
        return padding if has_no_numbers or padding.any() else None

    def forward(
        self,
        input_points: Tensor | None,
        input_labels: Tensor | None,
        input_boxes: Tensor | None,
        input_masks: Tensor | None,
        has_mask: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """
        Args:
            input_points: (B, P, K, 2) points in pixels of the model's input.
            input_labels: (B, P, K) labels; see `embed_points`.
            input_boxes: (B, P, 4) as x0, y0, x1, y1; each becomes two corner points ahead of the others.
            input_masks: (B, 1, 4H, 4W) logits.
            has_mask: (B,) bool, which rows of `input_masks` are prompts; by default all of them.

        Returns:
            Sparse embeddings (B, P, tokens, C) or `None`, and dense embeddings (B or 1, C, H, W).
        """
        if input_boxes is not None:
            corners = input_boxes.view(*input_boxes.shape[:2], 2, 2)
            corner_labels = torch.tensor([2, 3], device=corners.device).expand(*corners.shape[:2], 2)
            if input_points is None or input_labels is None:
                input_points, input_labels = corners, corner_labels
            else:
                input_points = torch.cat([corners.to(input_points.dtype), input_points], dim=2)
                input_labels = torch.cat([corner_labels.to(input_labels.dtype), input_labels], dim=2)
        sparse = None
        if input_points is not None:
            assert input_labels is not None  # points come with labels
            sparse = self.embed_points(input_points, input_labels)
        no_mask = self.no_mask_embed.weight.view(1, -1, 1, 1)
        if input_masks is None:
            return sparse, no_mask.expand(-1, -1, *self.image_embedding_size)
        dense = self.mask_embed(input_masks.to(self.mask_embed.conv1.weight.dtype))
        if has_mask is not None:
            dense = torch.where(has_mask.view(-1, 1, 1, 1), dense, no_mask)
        return sparse, dense


# --------------------------------------------------------------------------------------------------- mask decoder


class EfficientTamAttention(nn.Module):
    """Attention of the mask decoder. Queries, keys and values have `downsample_rate` times fewer channels."""

    def __init__(self, config: EfficientTamMaskDecoderConfig, downsample_rate: int | None = None):
        super().__init__()
        rate = config.attention_downsample_rate if downsample_rate is None else downsample_rate
        inner = config.hidden_size // rate
        self.config = config
        self.num_heads = config.num_attention_heads
        self.q_proj = EfficientTamLinear(config.hidden_size, inner)
        self.k_proj = EfficientTamLinear(config.hidden_size, inner)
        self.v_proj = EfficientTamLinear(config.hidden_size, inner)
        self.o_proj = EfficientTamLinear(inner, config.hidden_size)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, logit_bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from (B, queries, C) to (B, keys, C).

        Args:
            query: (B, queries, C).
            key, value: (B, keys, C).
            logit_bias: bias that is added to the scaled logits, broadcastable to (B, heads, queries, keys).

        Returns:
            (B, queries, C), and the attention weights if the implementation returns them.
        """
        query, key, value = (
            projection(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, tokens in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        output, weights = attend(self, query, key, value, logit_bias=logit_bias)
        return self.o_proj(output), weights


class EfficientTamTwoWayAttentionBlock(GradientCheckpointingLayer):
    """A block in which tokens attend to themselves, tokens attend to the image, and the image attends to the tokens."""

    def __init__(self, config: EfficientTamMaskDecoderConfig, skip_first_layer_pe: bool):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = EfficientTamAttention(config, downsample_rate=1)
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.cross_attn_token_to_image = EfficientTamAttention(config)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = EfficientTamFeedForward(width, config.mlp_dim, width, 2)
        self.layer_norm3 = nn.LayerNorm(width, eps=eps)
        self.layer_norm4 = nn.LayerNorm(width, eps=eps)
        self.cross_attn_image_to_token = EfficientTamAttention(config)
        self.skip_first_layer_pe = skip_first_layer_pe

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        token_positions: Tensor,
        image_positions: Tensor,
        attention_similarity: Tensor | None = None,
        token_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Update (B, T, C) tokens and (B, N, C) image features; see `EfficientTamTwoWayTransformer`."""
        if self.skip_first_layer_pe:
            tokens, _ = self.self_attn(tokens, tokens, tokens, token_bias)
        else:
            query = tokens + token_positions
            tokens = tokens + self.self_attn(query, query, tokens, token_bias)[0]
        tokens = self.layer_norm1(tokens)

        placed_image = image + image_positions
        attended, _ = self.cross_attn_token_to_image(
            tokens + token_positions, placed_image, image, attention_similarity
        )
        tokens = self.layer_norm2(tokens + attended)
        tokens = self.layer_norm3(tokens + self.mlp(tokens))

        attended, _ = self.cross_attn_image_to_token(placed_image, tokens + token_positions, tokens, token_bias)
        return tokens, self.layer_norm4(image + attended)


class EfficientTamTwoWayTransformer(nn.Module):
    """The two-way blocks and a last attention from tokens to image."""

    def __init__(self, config: EfficientTamMaskDecoderConfig):
        super().__init__()
        self.layers = nn.ModuleList(
            EfficientTamTwoWayAttentionBlock(config, skip_first_layer_pe=i == 0)
            for i in range(config.num_hidden_layers)
        )
        self.final_attn_token_to_image = EfficientTamAttention(config)
        self.layer_norm_final_attn = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        prompt_tokens: Tensor,
        image: Tensor,
        image_positions: Tensor,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
        token_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Update the tokens and the image features.

        Args:
            prompt_tokens: (B, T, C).
            image, image_positions: (B or 1, N, C).
            attention_similarity: bias on the attention from tokens to image.
            target_embedding: embedding that is added to the tokens before each block.
            token_bias: (B, 1, 1, T), bias on all attention to tokens: `NOT_ATTENDED` for padding tokens.
        """
        tokens = prompt_tokens
        for layer in self.layers:
            if target_embedding is not None:
                tokens = tokens + target_embedding
            tokens, image = layer(tokens, image, prompt_tokens, image_positions, attention_similarity, token_bias)
        attended, _ = self.final_attn_token_to_image(tokens + prompt_tokens, image + image_positions, image)
        return self.layer_norm_final_attn(tokens + attended), image


class EfficientTamMaskDecoder(nn.Module):
    """Computes masks, their predicted IoU and an object score from image features and prompt embeddings."""

    def __init__(self, config: EfficientTamMaskDecoderConfig):
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.num_mask_tokens = config.num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, width)
        self.obj_score_token = nn.Embedding(1, width)
        self.transformer = EfficientTamTwoWayTransformer(config)
        self.upscale_conv1 = nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2)
        self.upscale_layer_norm = EfficientTamLayerNorm2d(width // 4, eps=config.upscale_layer_norm_eps)
        self.upscale_conv2 = nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2)
        self.activation = ACT2FN[config.hidden_act]
        self.output_hypernetworks_mlps = nn.ModuleList(
            EfficientTamFeedForward(width, width, width // 8, 3) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = EfficientTamFeedForward(
            width, config.iou_head_hidden_dim, self.num_mask_tokens, config.iou_head_depth, sigmoid_output=True
        )
        self.pred_obj_score_head = EfficientTamFeedForward(width, width, 1, 3)

    def forward(
        self,
        image_embeddings: Tensor,
        image_positional_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor | None,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
        padded_tokens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """
        Args:
            image_embeddings: (B, C, H, W).
            image_positional_embeddings: (1, C, H, W).
            sparse_prompt_embeddings: (B, P, tokens, C) or `None`.
            dense_prompt_embeddings: (B or 1, C, H, W).
            multimask_output: whether to return the proposals or a single mask.
            padded_tokens: (B, P, tokens) bool, which sparse embeddings are padding; see `padded_tokens` of the prompt
                encoder.

        Returns:
            Mask logits (B, P, M, 4H, 4W), predicted IoU (B, P, M), the masks' output tokens (B, P, M, C), and object
            score logits (B, P, 1), with M = `num_multimask_outputs` or 1.
        """
        batch_size, width, height, columns = image_embeddings.shape
        num_prompts = 1 if sparse_prompt_embeddings is None else sparse_prompt_embeddings.shape[1]
        learned = torch.cat([self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight])
        tokens = learned.expand(batch_size, num_prompts, -1, -1)
        if sparse_prompt_embeddings is not None:
            tokens = torch.cat([tokens, sparse_prompt_embeddings.to(learned.dtype)], dim=2)
        tokens = tokens.flatten(0, 1)
        token_bias = None
        if padded_tokens is not None:
            padding = F.pad(padded_tokens, (len(learned), 0)).flatten(0, 1)[:, None, None]
            token_bias = padding.to(tokens.dtype) * NOT_ATTENDED

        # All prompts of an image attend to the same features: (B, C, H, W) -> (B * P, N, C).
        image = (image_embeddings + dense_prompt_embeddings).flatten(2).transpose(1, 2).contiguous()
        if num_prompts > 1:
            image = image.repeat_interleave(num_prompts, dim=0)
        positions = image_positional_embeddings.to(image.dtype).flatten(2).transpose(1, 2).contiguous()
        if target_embedding is not None:
            target_embedding = target_embedding.reshape(-1, 1, width)
        tokens, image = self.transformer(tokens, image, positions, attention_similarity, target_embedding, token_bias)

        object_scores = self.pred_obj_score_head(tokens[:, 0])
        iou_scores = self.iou_prediction_head(tokens[:, 1])
        mask_tokens = tokens[:, 2 : 2 + self.num_mask_tokens]
        features = image.transpose(1, 2).reshape(-1, width, height, columns)
        features = self.activation(self.upscale_layer_norm(self.upscale_conv1(features)))
        features = self.activation(self.upscale_conv2(features))
        weights = torch.stack([mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        masks = (weights @ features.flatten(2)).unflatten(2, features.shape[-2:])

        if multimask_output:
            masks, iou_scores, mask_tokens = masks[:, 1:], iou_scores[:, 1:], mask_tokens[:, 1:]
        else:
            # The object pointer is always made from the token of the single mask.
            mask_tokens = mask_tokens[:, :1]
            if self.config.dynamic_multimask_via_stability and not self.training:
                masks, iou_scores = self._most_stable(masks, iou_scores)
            else:
                masks, iou_scores = masks[:, :1], iou_scores[:, :1]
        batched = (batch_size, num_prompts)
        return tuple(x.unflatten(0, batched) for x in (masks, iou_scores, mask_tokens, object_scores))

    def _most_stable(self, masks: Tensor, iou_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Choose from (B, 1 + M, h, w) masks the single mask if it is stable, else the best proposal: (B, 1, h, w).

        Stability is the IoU between the masks at a threshold slightly above 0 and at one slightly below 0.
        """
        single = masks[:, 0].flatten(1)
        delta = self.config.dynamic_multimask_stability_delta
        inner, outer = (single > delta).sum(-1), (single > -delta).sum(-1)
        stability = torch.where(outer > 0, inner / outer, 1.0)
        best = 1 + iou_scores[:, 1:].argmax(-1)
        choice = torch.where(stability >= self.config.dynamic_multimask_stability_thresh, 0, best)
        rows = torch.arange(choice.shape[0], device=choice.device)
        return masks[rows, choice].unsqueeze(1), iou_scores[rows, choice].unsqueeze(1)
