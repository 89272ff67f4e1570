"""Transformers' own common tests, run on this package's models, configurations, processors and the pipeline.

`transformers_suite.py` fetches them. A test that cannot apply is skipped by its name, with the reason, so that a new
test of a later version of Transformers counts until somebody has looked at it.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import MaskGenerationPipeline
from transformers.utils import ModelOutput, can_return_tuple
from transformers_suite import load

from efficienttam_hf import (
    EfficientTamConfig,
    EfficientTamImageProcessor,
    EfficientTamMaskDecoderConfig,
    EfficientTamMemoryAttentionConfig,
    EfficientTamMemoryEncoderConfig,
    EfficientTamModel,
    EfficientTamProcessor,
    EfficientTamPromptEncoderConfig,
    EfficientTamVideoModel,
    EfficientTamVideoProcessor,
    EfficientTamVideoVideoProcessor,
    EfficientTamVisionConfig,
    EfficientTamVisionModel,
    MemoryBank,
)
from efficienttam_hf.modeling_efficienttam_vision import EfficientTamPatchEmbeddings


modeling = load("test_modeling_common")
configurations = load("test_configuration_common")
processing = load("test_processing_common")
image_processing = load("test_image_processing_common")
video_processing = load("test_video_processing_common")
pipelines = load("test_pipeline_mixin")

pytestmark = pytest.mark.slow


def skip_tests(reason: str, *patterns: str) -> Callable[[type], type]:
    """Class decorator: skip the inherited tests whose names match, for `reason`."""

    def decorate(cls: type) -> type:
        for name in dir(cls):
            if name.startswith("test_") and any(fnmatch(name, pattern) for pattern in patterns):
                setattr(cls, name, unittest.skip(reason)(getattr(cls, name)))
        return cls

    return decorate


# ---------------------------------------------------------------------------------------------------------- models


def vision_config() -> EfficientTamVisionConfig:
    """An image encoder of two blocks, one windowed (windows do not divide the map) and one global."""
    return EfficientTamVisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        window_size=3,
        global_attention_indexes=[1],
        pretrained_image_size=48,
        fpn_hidden_size=32,
    )


def model_config() -> EfficientTamConfig:
    """A whole model of under 200,000 parameters."""
    return EfficientTamConfig(
        image_size=64,
        # Weights then deviate by about 0.02, which the tolerances of the suites are for; wider ones amplify last bits.
        initializer_range=0.005,
        vision_config=vision_config().to_dict(),
        prompt_encoder_config={"hidden_size": 32, "mask_input_channels": 8},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
        memory_attention_config={
            "hidden_size": 32,
            "memory_size": 16,
            "num_hidden_layers": 1,
            "feed_forward_hidden_size": 64,
        },
        memory_encoder_config={"hidden_size": 32, "output_channels": 16, "fuser_intermediate_size": 64},
    )


class ModelTester:
    """What the model suite asks for: a configuration and inputs."""

    batch_size = 2
    num_hidden_layers = 2
    num_attention_heads = 2
    hidden_size = 32
    seq_length = 4  # the last axis of hidden states is a row of the feature map

    def __init__(self, get_config: Callable, is_training: bool):
        self.get_config = get_config
        self.is_training = is_training

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": modeling.floats_tensor([self.batch_size, 3, 64, 64])}


NO_TEXT = ("*text_features*", "*audio_features*", "*video_features*", "*tokens_embeddings*", "*inputs_embeds*")
TRAINING = ("test_training", "test_enable_input_require_grads_with_gradient_checkpointing")


class CommonModelTests(modeling.ModelTesterMixin):
    """The suite, with what differs for a network of feature maps. Tests of training run on `training_class`."""

    training_class: type
    get_config: Callable
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True
    # The inputs have one kind of prompt, and each kind has its weights; test_modeling.py goes through all of them.
    test_all_params_have_gradient = False

    def setUp(self):
        is_training = self._testMethodName.startswith(TRAINING)
        if is_training:
            self.all_model_classes = (self.training_class,)
        self.model_tester = ModelTester(type(self).get_config, is_training)

    def test_model_get_set_embeddings(self):
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            assert isinstance(model.get_input_embeddings(), EfficientTamPatchEmbeddings)
            assert model.get_output_embeddings() is None


def forward_with_loss(model_class: type) -> type:
    """The model with a loss in its output, over everything it predicts: what the suite's tests of training call."""

    class WithLoss(model_class):
        def forward(self, pixel_values, **kwargs):
            output = super().forward(pixel_values, **kwargs)
            tensors = [v for v in output.values() for v in (v if isinstance(v, tuple | list) else [v])]
            loss = sum(tensor.float().square().mean() for tensor in tensors)
            return modeling.ModelOutput(loss=loss)

    return WithLoss


@skip_tests("These are for models of language; this one has pixels only.", *NO_TEXT)
class VisionModelTest(CommonModelTests, unittest.TestCase):
    all_model_classes = (EfficientTamVisionModel,)
    training_class = forward_with_loss(EfficientTamVisionModel)
    get_config = staticmethod(vision_config)

    def test_attention_outputs(self):
        self.model_tester.seq_length = vision_config().window_size ** 2  # the first block attends inside windows
        super().test_attention_outputs()


@skip_tests("These are for models of language; this one has pixels only.", *NO_TEXT)
@skip_tests("The image encoder records hidden states; VisionModelTest tests it.", "test_hidden_states_output")
class ImageModelTest(CommonModelTests, pipelines.PipelineTesterMixin, unittest.TestCase):
    all_model_classes = (EfficientTamModel,)
    training_class = forward_with_loss(EfficientTamModel)
    get_config = staticmethod(model_config)
    pipeline_model_mapping = {"mask-generation": EfficientTamModel}
    _is_composite = True

    # Transformers has no test of this pipeline yet, and the suite's is a placeholder that skips.
    def test_pipeline_mask_generation(self, dtype: str = "float32"):
        config = model_config()
        model = EfficientTamModel(config).to(getattr(torch, dtype)).eval()
        generate = MaskGenerationPipeline(
            model=model,
            image_processor=EfficientTamProcessor.from_config(config).image_processor,
            dtype=dtype,
            device=modeling.torch_device,
        )
        thresholds = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "mask_threshold": -1e4}
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
        outputs = generate([image, image], points_per_crop=4, points_per_batch=8, **thresholds)
        assert len(outputs) == 2
        for output in outputs:
            assert len(output["masks"]) == len(output["scores"]) > 0
            assert output["masks"][0].shape == (60, 90)

    def test_pipeline_mask_generation_fp16(self):
        self.test_pipeline_mask_generation("float16")

    def outputs_with_everything(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = EfficientTamModel._from_config(config, attn_implementation="eager")
        return model(**inputs, output_attentions=True, output_hidden_states=True)

    def test_attention_outputs(self):
        outputs = self.outputs_with_everything()
        assert len(outputs.vision_attentions) == 2
        # Windows of 3x3 on a map of 4x4: four an image. Then the whole map.
        assert outputs.vision_attentions[0].shape == (2 * 4, 2, 9, 9)
        assert outputs.vision_attentions[1].shape == (2, 2, 16, 16)
        assert len(outputs.vision_hidden_states) == 3
        # Two blocks of three attentions, and the last one.
        assert len(outputs.mask_decoder_attentions) == 2 * 3 + 1

    def test_retain_grad_hidden_states_attentions(self):
        outputs = self.outputs_with_everything()
        kept = [outputs.vision_hidden_states[0], outputs.vision_attentions[0], outputs.mask_decoder_attentions[0]]
        for tensor in kept:
            tensor.retain_grad()
        outputs.pred_masks.flatten()[0].backward()
        assert all(tensor.grad is not None for tensor in kept)


@dataclass
class TwoFramesOutput(ModelOutput):
    """What tracking over two frames predicts on the second."""

    pred_masks: torch.Tensor | None = None
    object_score_logits: torch.Tensor | None = None
    iou_scores: torch.Tensor | None = None
    object_pointer: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class TwoFrames(EfficientTamVideoModel):
    """The video model as a function of pixels, which the suite can call: an object is clicked on, then tracked.

    `EfficientTamVideoModel.forward` takes a session; this is the tracking step that it is made of, and the same
    weights, configuration, loading and saving.
    """

    main_input_name = "pixel_values"

    @can_return_tuple
    def forward(self, pixel_values, **kwargs):
        features = self.get_image_features(pixel_values, **kwargs).fpn_hidden_states[-1]
        points = torch.full((len(pixel_values), 1, 2), 32.0, device=pixel_values.device)
        labels = torch.ones(points.shape[:2], dtype=torch.int64, device=pixel_values.device)
        first = self.track_step(features, input_points=points, input_labels=labels, mask_from_prompts=True)
        index = torch.full((len(points), 1), self.config.num_maskmem - 1, device=pixel_values.device)
        bank = MemoryBank(first.memory[:, None], index, first.object_pointer[:, None])
        second = self.track_step(features.flip(-1), bank)
        return TwoFramesOutput(
            pred_masks=second.pred_masks,
            object_score_logits=second.object_score_logits,
            iou_scores=second.iou_scores,
            object_pointer=second.object_pointer,
            hidden_states=(second.memory,),
        )


@skip_tests("These are for models of language; this one has pixels only.", *NO_TEXT)
@skip_tests(
    "The image encoder records these; VisionModelTest and ImageModelTest test it.",
    "test_hidden_states_output",
    "test_attention_outputs",
    "test_retain_grad_hidden_states_attentions",
    "test_can_capture_specific_layers_hidden_states",
)
class VideoModelTest(CommonModelTests, unittest.TestCase):
    all_model_classes = (TwoFrames,)
    training_class = forward_with_loss(TwoFrames)
    get_config = staticmethod(model_config)
    _is_composite = True


# -------------------------------------------------------------------------------------------------- configurations


CONFIGURATIONS = {
    EfficientTamVisionConfig: ["hidden_size", "num_attention_heads", "num_hidden_layers"],
    EfficientTamPromptEncoderConfig: ["hidden_size"],
    EfficientTamMaskDecoderConfig: ["hidden_size", "num_attention_heads", "num_hidden_layers"],
    EfficientTamMemoryAttentionConfig: ["hidden_size", "num_attention_heads", "num_hidden_layers"],
    EfficientTamMemoryEncoderConfig: ["hidden_size"],
    EfficientTamConfig: ["initializer_range"],
}


class ConfigurationTest(unittest.TestCase):
    def setUp(self):
        self.model_tester = ModelTester(model_config, False)

    def test_config(self):
        for config_class, properties in CONFIGURATIONS.items():
            with self.subTest(config_class.__name__):
                configurations.ConfigTester(
                    self, config_class=config_class, has_text_modality=False, common_properties=properties
                ).run_common_tests()


# ------------------------------------------------------------------------------------------------------ processors


class ImageProcessingTester(image_processing.ImageProcessingTester):
    """What the image processor's suite asks for. The parent would look classes up by the folder of a test."""

    def __init__(self):
        self.batch_size = 3
        self.num_channels = 3
        self.min_resolution = 30
        self.max_resolution = 60
        self.size = {"height": 20, "width": 24}
        self.mask_size = {"height": 12, "width": 14}

    def prepare_image_processor_dict(self):
        return {"size": self.size, "mask_size": self.mask_size}

    def prepare_image_inputs(self, **kwargs):
        names = ("batch_size", "num_channels", "min_resolution", "max_resolution")
        return image_processing.prepare_image_inputs(**{name: getattr(self, name) for name in names}, **kwargs)

    def expected_output_image_shape(self, images):
        return self.num_channels, self.size["height"], self.size["width"]


@skip_tests("The arguments are Sam2ImageProcessor's, so their class is too.", "test_valid_kwargs_set")
class ImageProcessorTest(image_processing.ImageProcessingTestMixin, unittest.TestCase):
    image_processing_classes = {"torchvision": EfficientTamImageProcessor}
    image_processor_dict = ImageProcessingTester().prepare_image_processor_dict()
    test_cast_dtype = True

    def setUp(self):
        self.image_processor_tester = ImageProcessingTester()


class VideoProcessingTester:
    batch_size = 3
    num_frames = 4
    num_channels = 3
    size = {"height": 20, "width": 24}

    def prepare_video_inputs(self, equal_resolution: bool = False, return_tensors: str = "pil"):
        return video_processing.prepare_video_inputs(
            self.batch_size, self.num_frames, self.num_channels, 30, 60, equal_resolution, return_tensors
        )

    def expected_output_video_shape(self, videos):
        return self.num_frames, self.num_channels, self.size["height"], self.size["width"]


class VideoVideoProcessorTest(video_processing.VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = EfficientTamVideoVideoProcessor
    test_cast_dtype = True

    def setUp(self):
        super().setUp()
        self.video_processor_tester = VideoProcessingTester()
        self.video_processor_dict = {"size": dict(VideoProcessingTester.size), "do_normalize": True}

    def test_video_processor_from_dict_with_kwargs(self):
        # The suite's own expects a size by the shortest edge and a crop.
        processor = EfficientTamVideoVideoProcessor.from_dict(self.video_processor_dict)
        assert processor.size == {"height": 20, "width": 24}
        processor = EfficientTamVideoVideoProcessor.from_dict(self.video_processor_dict, size=42)
        assert processor.size == {"height": 42, "width": 42}


@skip_tests(
    "Sam2Processor, whose call this is, names return_tensors too.", "test_call_arguments_not_in_processor_kwargs"
)
@skip_tests("The call takes no arguments for a tokenizer.", "test_flat_kwarg_applied_when_modality_dict_lacks_it")
@skip_tests("There are no tokens of text for images or videos to replace.", "test_replacement_offsets")
@skip_tests(
    "The call takes images; a video goes to init_video_session, as with Sam2VideoProcessor.",
    "test_processor_with_multiple_inputs",
)
class ProcessorTest(processing.ProcessorTesterMixin, unittest.TestCase):
    processor_class = EfficientTamProcessor

    @classmethod
    def _setup_image_processor(cls):
        return EfficientTamImageProcessor(size={"height": 64, "width": 64})


class VideoProcessorTest(ProcessorTest):
    processor_class = EfficientTamVideoProcessor

    @classmethod
    def _setup_video_processor(cls):
        return EfficientTamVideoVideoProcessor(size={"height": 64, "width": 64})
