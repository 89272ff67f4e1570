"""The configuration classes of the model: all parameters, nested by part of the network, and their validation.

A configuration describes a model completely: the modeling files never depend on the name of a variant.
`EfficientTamConfig` serves both `EfficientTamModel` (one image) and `EfficientTamVideoModel` (tracking), so that one
checkpoint folder loads into either. The published variants are presets (`presets.py`); they differ in five numbers.

Source of the numbers: "Efficient Track Anything" (arXiv 2411.18933) and the published configuration files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_efficienttam_backbone import EfficientTamBackboneConfig
from .configuration_sizes import FeatureMapSizes, check_divides, check_fields, check_parts_fit, size_pair
from .presets import PRESETS, SMALL_PRESETS
from .remote_code import RemoteConfig


__all__ = [
    "PRESETS",
    "SMALL_PRESETS",
    "EfficientTamBackboneConfig",
    "EfficientTamConfig",
    "EfficientTamMaskDecoderConfig",
    "EfficientTamMemoryAttentionConfig",
    "EfficientTamMemoryEncoderConfig",
    "EfficientTamPromptEncoderConfig",
    "EfficientTamVideoConfig",
    "EfficientTamVideoMaskDecoderConfig",
    "EfficientTamVideoPromptEncoderConfig",
    "EfficientTamVisionConfig",
]

CROSS_ATTENTION_KINDS = ("full", "pooled_logit_bias", "pooled_key_shift", "windowed")
POOLING_SCOPES = ("spatial", "all")


@strict
class EfficientTamVisionConfig(FeatureMapSizes, RemoteConfig, PreTrainedConfig):
    r"""
    The image encoder: a plain ViT with windowed and global attention, and a two-convolution neck.

    Args:
        hidden_size (`int`, defaults to 384): Width of the ViT (192 for ViT-Tiny, 384 for ViT-Small).
        num_hidden_layers (`int`, defaults to 12): Number of ViT blocks.
        num_attention_heads (`int`, defaults to 6): Attention heads of a block.
        num_channels (`int`, defaults to 3): Channels of the image.
        image_size (`int` or `(height, width)`, defaults to 1024): Input size in pixels, a multiple of `patch_size`.
        patch_size (`int`, defaults to 16): Side of a patch in pixels, and the stride of the feature map.
        mlp_ratio (`float`, defaults to 4.0): Hidden width of a block's MLP over `hidden_size`.
        qkv_bias (`bool`, defaults to `True`): Whether queries, keys and values have a bias.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the MLPs.
        layer_norm_eps (`float`, defaults to 1e-6): Epsilon of every normalisation, neck included.
        hidden_dropout (`float`, defaults to 0.0): Dropout on both residual branches of a block.
        drop_path_rate (`float`, defaults to 0.0): Stochastic depth rate of the last block (grows linearly from 0).
        window_size (`int`, defaults to 14): Side of an attention window, in patches.
        global_attention_indexes (`list[int]`, defaults to `[2, 5, 8, 11]`): Blocks that attend to the whole image.
        pretrained_image_size (`int`, defaults to 224): Image size the position embeddings were trained at; they are
            resized (bicubic) to the feature map.
        has_class_position (`bool`, defaults to `True`): Whether the position embeddings begin with one for a class
            token. It is not used; the published checkpoints contain it.
        fpn_hidden_size (`int`, defaults to 256): Channels of the image features that the neck returns.
        position_temperature (`float`, defaults to 10000.0): Temperature of the sine encoding of the feature map.
        initializer_range (`float`, defaults to 0.02): Scale of initial weights, relative to 0.02 for SAM's scales.
    """

    base_config_key = "vision_config"
    model_type = "efficienttam_vision_model"
    remote_classes = {
        "AutoConfig": "configuration_efficienttam.EfficientTamVisionConfig",
        "AutoModel": "modeling_efficienttam_vision.EfficientTamVisionModel",
    }

    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 1024
    patch_size: int = 16
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    hidden_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.0
    window_size: int = 14
    global_attention_indexes: list[int] | tuple[int, ...] = (2, 5, 8, 11)
    pretrained_image_size: int = 224
    has_class_position: bool = True
    fpn_hidden_size: int = 256
    position_temperature: float | int = 10000.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self)
        self.global_attention_indexes = list(self.global_attention_indexes)
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raise ValueError, which names the field, if a value does not give a valid image encoder."""
        super().check()
        check_divides(self, "num_attention_heads", "hidden_size", "each head has an equal part of the width")
        if self.pretrained_image_size < self.patch_size:
            raise ValueError(
                f"vision_config.pretrained_image_size ({self.pretrained_image_size}) must be at least patch_size "
                f"({self.patch_size}): the position embeddings have one for each patch."
            )


@strict
class EfficientTamPromptEncoderConfig(FeatureMapSizes, PreTrainedConfig):
    r"""
    The prompt encoder, which embeds points, boxes and masks.

    Args:
        hidden_size (`int`, defaults to 256): Width of the embeddings.
        image_size (`int` or `(height, width)`, defaults to 1024): Size in pixels that prompt coordinates refer to.
        patch_size (`int`, defaults to 16): Stride of the feature map.
        mask_input_channels (`int`, defaults to 16): Hidden channels of the mask prompt's convolutions.
        num_point_embeddings (`int`, defaults to 4): Learned types of points: negative, positive, two box corners.
        hidden_act (`str`, defaults to `"gelu"`): Activation between the convolutions.
        layer_norm_eps (`float`, defaults to 1e-6): Epsilon of the normalisations.
        scale (`float`, defaults to 1): Scale of the random Fourier frequencies of positions.
    """

    base_config_key = "prompt_encoder_config"
    model_type = "efficienttam_prompt_encoder"

    hidden_size: int = 256
    image_size: int | list[int] | tuple[int, int] = 1024
    patch_size: int = 16
    mask_input_channels: int = 16
    num_point_embeddings: int = 4
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    scale: float | int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self)
        super().__post_init__(**kwargs)
        self.check()

    @property
    def mask_input_size(self) -> tuple[int, int]:
        """`(height, width)` of a mask prompt and of predicted masks: four times the feature map."""
        height, width = self.feature_size
        return 4 * height, 4 * width


@strict
class EfficientTamMaskDecoderConfig(PreTrainedConfig):
    r"""
    The mask decoder: SAM's two-way transformer and heads.

    Args:
        hidden_size (`int`, defaults to 256): Width.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the upscaling convolutions.
        mlp_dim (`int`, defaults to 2048): Hidden width of the two-way transformer's MLPs.
        num_hidden_layers (`int`, defaults to 2): Two-way blocks.
        num_attention_heads (`int`, defaults to 8): Attention heads.
        attention_downsample_rate (`int`, defaults to 2): Width reduction inside cross-attentions.
        num_multimask_outputs (`int`, defaults to 3): Number of proposals for an ambiguous prompt.
        iou_head_depth (`int`, defaults to 3): Layers of the IoU head.
        iou_head_hidden_dim (`int`, defaults to 256): Hidden width of the IoU head.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of the transformer's normalisations.
        upscale_layer_norm_eps (`float`, defaults to 1e-6): Epsilon of the upscaling's normalisation.
        dynamic_multimask_via_stability (`bool`, defaults to `True`): Whether the best proposal replaces a single mask
            that is not stable (not while training).
        dynamic_multimask_stability_delta (`float`, defaults to 0.05): Logit offset of the stability score.
        dynamic_multimask_stability_thresh (`float`, defaults to 0.98): A mask is stable from this stability on.
    """

    base_config_key = "mask_decoder_config"
    model_type = "efficienttam_mask_decoder"

    hidden_size: int = 256
    hidden_act: str = "gelu"
    mlp_dim: int = 2048
    num_hidden_layers: int = 2
    num_attention_heads: int = 8
    attention_downsample_rate: int = 2
    num_multimask_outputs: int = 3
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256
    layer_norm_eps: float = 1e-5
    upscale_layer_norm_eps: float = 1e-6
    dynamic_multimask_via_stability: bool = True
    dynamic_multimask_stability_delta: float = 0.05
    dynamic_multimask_stability_thresh: float = 0.98

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self)
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raise ValueError, which names the field, if a value does not give a valid mask decoder."""
        check_fields(self)
        check_divides(self, "num_attention_heads", "hidden_size", "each head has an equal part of the width")
        rate, heads, width = self.attention_downsample_rate, self.num_attention_heads, self.hidden_size
        if width % (rate * heads):
            raise ValueError(
                f"mask_decoder_config.attention_downsample_rate ({rate}) times num_attention_heads ({heads}) must "
                f"divide hidden_size ({width}): each head has an equal part of the reduced width."
            )
        if width % 8:
            raise ValueError(f"mask_decoder_config.hidden_size ({width}) must be a multiple of 8, for the upscaling.")


@strict
class EfficientTamMemoryAttentionConfig(PreTrainedConfig):
    r"""
    The memory attention: the current frame attends to the memories of an object (paper, section 3.2).

    Args:
        hidden_size (`int`, defaults to 256): Width of the frame's features.
        memory_size (`int`, defaults to 64): Channels of a memory token; divides `hidden_size`.
        num_hidden_layers (`int`, defaults to 4): Number of layers.
        num_attention_heads (`int`, defaults to 1): Number of attention heads.
        feed_forward_hidden_size (`int`, defaults to 2048): Hidden width of a layer's MLP.
        feed_forward_hidden_act (`str`, defaults to `"relu"`): Activation of a layer's MLP.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of the normalisations.
        dropout (`float`, defaults to 0.1): Dropout on the residual branches (training only).
        attention_dropout (`float`, defaults to 0.1): Dropout on attention weights (training only).
        rope_theta (`float`, defaults to 10000.0): Base of the axial rotary encoding.
        input_position_scale (`float`, defaults to 0.1): Weight of the sine encoding added to the frame's features.
        position_temperature (`float`, defaults to 10000.0): Temperature of the memories' sine encoding.
        cross_attention (`str`, defaults to `"full"`): How a frame attends to memories. `"full"`: to every token;
            `"pooled_logit_bias"`: to spatial memories averaged over squares of `pool_size`, with the log of the
            square's area added to their logits (published as `_1`); `"pooled_key_shift"`: the same, with that constant
            added to the pooled keys (published as `_2`); `"windowed"`: within windows of `window_size` (the paper's
            comparison).
        pool_size (`int`, defaults to 2): Side of a pooling square, in tokens.
        pooling_scope (`str`, defaults to `"spatial"`): The tokens that are pooled: `"spatial"` memories only (the
            paper's choice), or `"all"` tokens, object pointers included.
        window_size (`int`, defaults to 16): Side of a window of `"windowed"`; it must divide the feature map.
    """

    base_config_key = "memory_attention_config"
    model_type = "efficienttam_memory_attention"

    hidden_size: int = 256
    memory_size: int = 64
    num_hidden_layers: int = 4
    num_attention_heads: int = 1
    feed_forward_hidden_size: int = 2048
    feed_forward_hidden_act: str = "relu"
    layer_norm_eps: float = 1e-5
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    rope_theta: float | int = 10000.0
    input_position_scale: float | int = 0.1
    position_temperature: float | int = 10000.0
    cross_attention: str = "full"
    pool_size: int = 2
    pooling_scope: str = "spatial"
    window_size: int = 16

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self)
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raise ValueError, which names the field, if a value does not give a valid memory attention."""
        check_fields(self)
        if self.cross_attention not in CROSS_ATTENTION_KINDS:
            raise ValueError(
                f"cross_attention must be one of {list(CROSS_ATTENTION_KINDS)}, got {self.cross_attention!r}."
            )
        if self.pooling_scope not in POOLING_SCOPES:
            raise ValueError(f"pooling_scope must be one of {list(POOLING_SCOPES)}, got {self.pooling_scope!r}.")
        if self.hidden_size % self.memory_size:
            raise ValueError(
                f"memory_size ({self.memory_size}) must divide hidden_size ({self.hidden_size}): an object pointer is "
                "split into tokens of that size."
            )
        if self.memory_size % 4:
            problem = "must be a multiple of 4, for sine and cosine along two axes"
            raise ValueError(f"memory_attention_config.memory_size ({self.memory_size}) {problem}.")
        check_divides(self, "num_attention_heads", "hidden_size", "each head has an equal part of the width")
        if self.cross_attention == "windowed" and self.window_size < 1:
            raise ValueError(f"memory_attention_config.window_size is {self.window_size}; accepted is at least 1.")
        if (self.hidden_size // self.num_attention_heads) % 4:
            raise ValueError(
                f"hidden_size / num_attention_heads ({self.hidden_size}/{self.num_attention_heads}) must be a multiple "
                "of 4: the axial rotary encoding turns pairs of channels along each of two axes."
            )


@strict
class EfficientTamMemoryEncoderConfig(PreTrainedConfig):
    r"""
    The memory encoder, which computes a spatial memory from a frame's features and its mask.

    Args:
        hidden_size (`int`, defaults to 256): Width of the fused features.
        output_channels (`int`, defaults to 64): Channels of a memory token.
        mask_downsampler_kernel_size (`int`, defaults to 3): Kernel size of the mask's convolutions.
        mask_downsampler_stride (`int`, defaults to 2): Stride of the mask's convolutions.
        mask_downsampler_padding (`int`, defaults to 1): Padding of the mask's convolutions.
        mask_downsampler_total_stride (`int`, defaults to 16): Stride from mask to feature map.
        mask_downsampler_hidden_act (`str`, defaults to `"gelu"`): Activation of the mask's convolutions.
        fuser_num_layers (`int`, defaults to 2): Number of ConvNeXt blocks that mix features and mask.
        fuser_kernel_size (`int`, defaults to 7): Kernel size of the depth-wise convolution in these blocks.
        fuser_padding (`int`, defaults to 3): Padding of the depth-wise convolution.
        fuser_intermediate_size (`int`, defaults to 1024): Hidden width of the MLP in these blocks.
        fuser_layer_scale_init_value (`float`, defaults to 1e-6): Initial value of the blocks' layer scale.
        fuser_hidden_act (`str`, defaults to `"gelu"`): Activation of the MLP.
        layer_norm_eps (`float`, defaults to 1e-6): Epsilon of the normalisations.
    """

    base_config_key = "memory_encoder_config"
    model_type = "efficienttam_memory_encoder"

    hidden_size: int = 256
    output_channels: int = 64
    mask_downsampler_kernel_size: int = 3
    mask_downsampler_stride: int = 2
    mask_downsampler_padding: int = 1
    mask_downsampler_total_stride: int = 16
    mask_downsampler_hidden_act: str = "gelu"
    fuser_num_layers: int = 2
    fuser_kernel_size: int = 7
    fuser_padding: int = 3
    fuser_intermediate_size: int = 1024
    fuser_layer_scale_init_value: float = 1e-6
    fuser_hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self)
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raise ValueError, which names the field, if a value does not give a valid memory encoder."""
        check_fields(self)
        stride = self.mask_downsampler_stride
        if stride < 2 or stride**self.num_mask_downsampler_layers != self.mask_downsampler_total_stride:
            raise ValueError(
                f"mask_downsampler_total_stride ({self.mask_downsampler_total_stride}) must be a power of "
                f"mask_downsampler_stride ({stride}, at least 2)."
            )
        kernel, padding = self.mask_downsampler_kernel_size, self.mask_downsampler_padding
        if not kernel - stride <= 2 * padding < kernel:
            raise ValueError(
                f"memory_encoder_config.mask_downsampler_padding ({padding}) must be at least (kernel_size - stride) / "
                f"2 and less than kernel_size / 2, of mask_downsampler_kernel_size {kernel} and _stride {stride}."
            )
        if 2 * self.fuser_padding != self.fuser_kernel_size - 1:
            raise ValueError(
                f"memory_encoder_config.fuser_padding ({self.fuser_padding}) must be half of fuser_kernel_size "
                f"({self.fuser_kernel_size}), which is odd: the feature map keeps its size."
            )

    @property
    def num_mask_downsampler_layers(self) -> int:
        """Number of convolutions from the mask to the feature map's stride."""
        layers, reached = 0, 1
        while 1 < self.mask_downsampler_stride and reached < self.mask_downsampler_total_stride:
            layers, reached = layers + 1, reached * self.mask_downsampler_stride
        return layers


# The configuration classes of image encoders, by the `model_type` of a `vision_config`.
VISION_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    config.model_type: config for config in (EfficientTamVisionConfig, EfficientTamBackboneConfig)
}

SUB_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "vision_config": EfficientTamVisionConfig,
    "prompt_encoder_config": EfficientTamPromptEncoderConfig,
    "mask_decoder_config": EfficientTamMaskDecoderConfig,
    "memory_attention_config": EfficientTamMemoryAttentionConfig,
    "memory_encoder_config": EfficientTamMemoryEncoderConfig,
}

if TYPE_CHECKING:
    T = TypeVar("T")

    class _Part(Generic[T]):
        """For type checkers: a field that may be given as a dict or left out, and that is a `T` once it is set."""

        def __get__(self, instance: Any, owner: type | None = None) -> T: ...

        def __set__(self, instance: Any, value: T | dict[str, Any] | None) -> None: ...


@strict
class EfficientTamConfig(RemoteConfig, PreTrainedConfig):
    r"""
    A whole EfficientTAM: the image model, the memory, and the rules of tracking.

    Args:
        vision_config (`EfficientTamVisionConfig`, `EfficientTamBackboneConfig` or `dict`, *optional*): The image
            encoder; the `model_type` of a dict selects it, and without one it is the plain ViT.
        prompt_encoder_config (`EfficientTamPromptEncoderConfig` or `dict`, *optional*): The prompt encoder.
        mask_decoder_config (`EfficientTamMaskDecoderConfig` or `dict`, *optional*): The mask decoder.
        memory_attention_config (`EfficientTamMemoryAttentionConfig` or `dict`, *optional*): The memory attention.
        memory_encoder_config (`EfficientTamMemoryEncoderConfig` or `dict`, *optional*): The memory encoder.
        image_size (`int` or `(height, width)`, *optional*): Input size of the model. It replaces the sizes of
            `vision_config` and `prompt_encoder_config`; by default, these are used.
        num_maskmem (`int`, defaults to 7): Spatial memories: one conditioning, and the last `num_maskmem - 1` others.
        max_cond_frame_num (`int`, defaults to -1): Conditioning frames attended to, the closest in time; -1 for all.
        use_object_pointers (`bool`, defaults to `True`): Whether memory attention reads object pointers.
        max_object_pointers_in_encoder (`int`, defaults to 16): Object pointers attended to (conditioning frames of the
            past, and the last `max_object_pointers_in_encoder - 1` frames).
        memory_temporal_stride_for_eval (`int`, defaults to 1): With a stride r above 1, a frame attends to the spatial
            memories of the last frame and of the nearest multiples of r before it. Not while training.
        memory_selection (`str`, defaults to `"recent"`): The strategy that chooses the memories a frame attends to:
            `"recent"` (the published one), `"skip_absent"`, `"quality"`, `"motion"`, `"distractor_aware"` or
            `"hypotheses"`.
        memory_selection_options (`dict`, *optional*): Options of the strategies that differ from their defaults, by
            name, such as thresholds that suit this model.
        object_competition (`str`, defaults to `"none"`): How overlapping masks of several objects are resolved: not
            at all (`"none"`), in the output (`"shown"`), or also in memory (`"remembered"`).
        non_overlap_masks_for_mem_enc (`bool`, defaults to `False`): Whether only the object with the highest logit
            keeps a pixel before the memory encoder reads the masks. Not while training.
        sigmoid_scale_for_mem_enc (`float`, defaults to 20.0): Scale of mask probabilities for the memory encoder.
        sigmoid_bias_for_mem_enc (`float`, defaults to -10.0): Offset of mask probabilities for the memory encoder.
        binarize_mask_from_points_for_mem_enc (`bool`, defaults to `True`): Whether masks that come from
            prompts are binarised for the memory encoder (not while training).
        multimask_output_in_sam (`bool`, defaults to `True`): Whether the mask is chosen among several proposals.
        multimask_min_pt_num (`int`, defaults to 0): Fewest points (a box counts two) for which this is so.
        multimask_max_pt_num (`int`, defaults to 1): Most points for which this is so.
        multimask_output_for_tracking (`bool`, defaults to `True`): Whether this is also so on tracked frames.
        add_all_frames_to_correct_as_cond (`bool`, defaults to `False`): Whether a corrected frame becomes a
            conditioning frame. As published, it does not: its memory is like that of any tracked frame, and tracking
            over the frame again replaces it.
        clear_non_cond_mem_around_input (`bool`, defaults to `False`): Whether the memories of tracked frames within
            `num_maskmem` memories of a prompted frame are dropped; they may show the object before its correction. As
            published, this includes a corrected frame itself, unless it becomes a conditioning frame.
        mask_prompt_scale (`float`, defaults to 20.0): Scale that converts a mask prompt of 0 and 1 to logits.
        mask_prompt_bias (`float`, defaults to -10.0): Offset that converts a mask prompt to logits.
        no_object_score (`float`, defaults to -1024.0): Mask logits of an object that is judged absent.
        previous_mask_clamp (`float`, defaults to 32.0): Bound on the logits of a mask that a correction changes.
        memory_dtype (`str`, defaults to `"bfloat16"`): Dtype in which a session stores spatial memories.
        initializer_range (`float`, defaults to 0.02): Scale of initial weights, relative to 0.02 for SAM's scales.

    Example:

    ```python
    >>> from efficienttam_hf import EfficientTamConfig, EfficientTamVideoModel

    >>> config = EfficientTamConfig.from_preset("efficienttam_s_1")
    >>> model = EfficientTamVideoModel(config)
    ```
    """

    model_type = "efficienttam"
    sub_configs = SUB_CONFIGS
    remote_classes = {
        "AutoConfig": "configuration_efficienttam.EfficientTamConfig",
        "AutoModel": "modeling_efficienttam_video.EfficientTamVideoModel",
        "AutoModelForMaskGeneration": "modeling_efficienttam.EfficientTamModel",
    }

    if TYPE_CHECKING:
        vision_config: _Part[EfficientTamVisionConfig | EfficientTamBackboneConfig] = _Part()
        prompt_encoder_config: _Part[EfficientTamPromptEncoderConfig] = _Part()
        mask_decoder_config: _Part[EfficientTamMaskDecoderConfig] = _Part()
        memory_attention_config: _Part[EfficientTamMemoryAttentionConfig] = _Part()
        memory_encoder_config: _Part[EfficientTamMemoryEncoderConfig] = _Part()
        image_size: _Part[int | list[int] | tuple[int, int]] = _Part()
    else:
        vision_config: dict | PreTrainedConfig | None = None
        prompt_encoder_config: dict | PreTrainedConfig | None = None
        mask_decoder_config: dict | PreTrainedConfig | None = None
        memory_attention_config: dict | PreTrainedConfig | None = None
        memory_encoder_config: dict | PreTrainedConfig | None = None
        image_size: int | list[int] | tuple[int, int] | None = None
    num_maskmem: int = 7
    max_cond_frame_num: int = -1
    use_object_pointers: bool = True
    max_object_pointers_in_encoder: int = 16
    memory_temporal_stride_for_eval: int = 1
    memory_selection: str = "recent"
    memory_selection_options: dict | None = None
    object_competition: str = "none"
    non_overlap_masks_for_mem_enc: bool = False
    sigmoid_scale_for_mem_enc: float | int = 20.0
    sigmoid_bias_for_mem_enc: float | int = -10.0
    binarize_mask_from_points_for_mem_enc: bool = True
    multimask_output_in_sam: bool = True
    multimask_min_pt_num: int = 0
    multimask_max_pt_num: int = 1
    multimask_output_for_tracking: bool = True
    add_all_frames_to_correct_as_cond: bool = False
    clear_non_cond_mem_around_input: bool = False
    mask_prompt_scale: float | int = 20.0
    mask_prompt_bias: float | int = -10.0
    no_object_score: float | int = -1024.0
    previous_mask_clamp: float | int = 32.0
    memory_dtype: str = "bfloat16"
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self)
        image_size = self.image_size
        for key in SUB_CONFIGS:
            super().__setattr__(key, _sub_config(key, getattr(self, key), image_size))
        super().__setattr__("image_size", self.vision_config.image_size)
        super().__post_init__(**kwargs)
        self.check()

    def __setattr__(self, key: str, value: Any) -> None:
        """Set a field. `image_size` is set in every part that has one, or in none if one of them is invalid."""
        parts = [self.__dict__.get(name) for name in SUB_CONFIGS]
        if key != "image_size" or value is None or not all(isinstance(part, PreTrainedConfig) for part in parts):
            super().__setattr__(key, value)
            return
        before = [(part, part.image_size) for part in parts if isinstance(part, FeatureMapSizes)]
        own = self.__dict__.get("image_size")
        try:
            for part, _ in before:
                part.image_size = value
            super().__setattr__(key, value)
            self.check()
        except Exception:
            for part, size in before:
                part.image_size = size
            super().__setattr__(key, own)
            raise

    def check(self) -> None:
        """Check all sizes and that the parts fit one another. A model checks this again before it is created.

        Raises:
            ValueError: if a field is wrong; the message names it.
        """
        check_fields(self)
        for key in SUB_CONFIGS:
            getattr(self, key).check()
        if size_pair(self.image_size) != size_pair(self.vision_config.image_size):
            raise ValueError(
                f"image_size is {self.image_size}, and that of vision_config {self.vision_config.image_size}. Set "
                "`image_size` of EfficientTamConfig, which sets all."
            )
        check_parts_fit(self)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Create a configuration as in Transformers. A given `image_size` is also set in the parts."""
        if kwargs.get("image_size") is not None:
            config_dict = {**config_dict, "image_size": kwargs.pop("image_size")}
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> EfficientTamConfig:
        """Create the configuration of a published variant, or of a small model of this package.

        Args:
            name: A key of `PRESETS`, e.g. `"efficienttam_s_1"`, or of `SMALL_PRESETS`.
            overrides: Fields that replace those of the preset; dicts of sub-configurations are merged into it.

        Raises:
            ValueError: if there is no such preset.
        """
        presets = {**PRESETS, **SMALL_PRESETS}
        if name not in presets:
            raise ValueError(f"There is no preset {name!r}. The presets are {', '.join(sorted(presets))}.")
        fields: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in presets[name].items()}
        for key, value in overrides.items():
            fields[key] = {**fields.get(key, {}), **value} if isinstance(value, dict) else value
        return cls(**fields)


def _sub_config(key: str, value: dict | PreTrainedConfig | None, image_size: Any) -> PreTrainedConfig:
    """Create the configuration of a part from its value; a given `image_size` replaces that of the part."""
    classes = VISION_CONFIGS if key == "vision_config" else {SUB_CONFIGS[key].model_type: SUB_CONFIGS[key]}
    if isinstance(value, PreTrainedConfig):
        if not isinstance(value, tuple(classes.values())):
            names = " or ".join(config.__name__ for config in classes.values())
            raise ValueError(f"{key} is a {type(value).__name__}; accepted is {names}, or a dict.")
        if image_size is not None and hasattr(value, "image_size"):
            value.image_size = image_size
        return value
    fields = dict(value or {})
    kind = fields.pop("model_type", SUB_CONFIGS[key].model_type)
    if kind not in tuple(classes):  # a tuple, because an unhashable `kind` cannot be looked up in a dict
        raise ValueError(
            f"{key} has model_type {kind!r}; accepted is {' or '.join(classes)}. A backbone of Transformers goes into "
            "the backbone_config of an efficienttam_backbone_model."
        )
    if image_size is not None and key in ("vision_config", "prompt_encoder_config"):
        fields["image_size"] = image_size
    return classes[kind](**fields)


# These are the names of Transformers' SAM 2 with another prefix, for code that uses them.
EfficientTamVideoConfig = EfficientTamConfig
EfficientTamVideoPromptEncoderConfig = EfficientTamPromptEncoderConfig
EfficientTamVideoMaskDecoderConfig = EfficientTamMaskDecoderConfig
