"""Imports the public classes and registers them with Transformers' Auto classes.

`efficienttam_hf` imports this module when one of its classes is asked for, or when Transformers is loaded.
"""

# ruff: noqa: F401

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForMaskGeneration,
    AutoProcessor,
    AutoVideoProcessor,
)

from .configuration_efficienttam import (
    PRESETS,
    EfficientTamBackboneConfig,
    EfficientTamConfig,
    EfficientTamMaskDecoderConfig,
    EfficientTamMemoryAttentionConfig,
    EfficientTamMemoryEncoderConfig,
    EfficientTamPromptEncoderConfig,
    EfficientTamVideoConfig,
    EfficientTamVideoMaskDecoderConfig,
    EfficientTamVideoPromptEncoderConfig,
    EfficientTamVisionConfig,
)
from .memory import FrameMemory, MemoryBank
from .modeling_efficienttam import EfficientTamImageSegmentationOutput, EfficientTamModel
from .modeling_efficienttam_backbone import EfficientTamBackboneModel
from .modeling_efficienttam_layers import EfficientTamPreTrainedModel
from .modeling_efficienttam_video import (
    EfficientTamTrackingOutput,
    EfficientTamVideoModel,
    EfficientTamVideoSegmentationOutput,
)
from .modeling_efficienttam_vision import EfficientTamVisionEncoderOutput, EfficientTamVisionModel
from .object_memory import ObjectMemory
from .processing_efficienttam import (
    EfficientTamImageProcessor,
    EfficientTamProcessor,
    EfficientTamVideoProcessor,
    EfficientTamVideoVideoProcessor,
)
from .remote_code import named_checkpoint
from .video_session import EfficientTamVideoInferenceSession


AutoConfig.register("efficienttam", EfficientTamConfig, exist_ok=True)
AutoConfig.register("efficienttam_vision_model", EfficientTamVisionConfig, exist_ok=True)
AutoConfig.register("efficienttam_backbone_model", EfficientTamBackboneConfig, exist_ok=True)
AutoModel.register(EfficientTamConfig, EfficientTamVideoModel, exist_ok=True)
AutoModel.register(EfficientTamBackboneConfig, EfficientTamBackboneModel, exist_ok=True)
AutoModel.register(EfficientTamVisionConfig, EfficientTamVisionModel, exist_ok=True)
AutoModelForMaskGeneration.register(EfficientTamConfig, EfficientTamModel, exist_ok=True)
AutoProcessor.register(EfficientTamConfig, EfficientTamVideoProcessor, exist_ok=True)
AutoProcessor.register(EfficientTamVisionConfig, EfficientTamProcessor, exist_ok=True)
AutoImageProcessor.register(
    EfficientTamConfig, image_processor_classes={"torchvision": EfficientTamImageProcessor}, exist_ok=True
)
AutoVideoProcessor.register(EfficientTamConfig, EfficientTamVideoVideoProcessor, exist_ok=True)
