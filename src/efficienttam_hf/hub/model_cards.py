"""Model cards: one for each published variant, and one for each included model.

A card describes the model, its use, measurements and their source, its licence and its limits. Everything that can be
computed is computed: parameters and input size from the configuration, the authors' results from the paper's tables. So
a card is determined by the name of the model and of its repository, and no fact is written twice.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..configuration_efficienttam import PRESETS, EfficientTamConfig, EfficientTamVisionConfig
from ..evaluation.paper_tables import PublishedTable, load_table
from ..modeling_efficienttam_video import EfficientTamVideoModel
from ..published import INCLUDED_MODELS, PUBLISHED_REPOSITORY, VARIANTS
from ..remote_code import included_checkpoint


__all__ = ["INCLUDED_MODELS", "card_folder", "model_card", "place_card"]


PAPER = "https://arxiv.org/abs/2411.18933"
# The names of variants in the paper, which has no results of the other four.
PAPER_METHODS = {name: variant.paper_name for name, variant in VARIANTS.items() if variant.paper_name}
TAGS = ["efficienttam", "sam2", "segment-anything", "video-object-segmentation", "object-tracking", "arxiv:2411.18933"]
ATTENTION = {
    "full": "every token of the memories",
    "pooled_logit_bias": "memories averaged over 2 × 2 tokens, their logits raised by the log of the area",
    "pooled_key_shift": "memories averaged over 2 × 2 tokens, their keys shifted by the log of the area",
}
PICTURE = re.compile(r"(!\[[^\]]*\]\()(?!https?:)([^)]+)\)")  # pictures in Markdown that are files, not addresses

CARD = """\
---
{metadata}
---

# {name}

{introduction}

{usage}

## Results

{results}

## Limits

{limits}

{ending}
"""

INTRODUCTION = """\
[EfficientTAM]({paper}) segments and tracks any object in a video from a click, a box or a mask.
It does what SAM 2 does, with a plain ViT as image encoder and a cheaper memory. These are the authors' weights of
`{name}`, converted one to one from their file [`{name}.pt`](https://huggingface.co/{source})
to safetensors for Transformers. They are the authors' work, trained on SA-1B and SA-V.

| | |
| --- | --- |
| parameters | {parameters:.1f} M |
| image encoder | ViT, {layers} blocks of width {width} |
| input | {size} × {size} pixels |
| memory attention sees | {attention} |
| memory | all prompted frames, and the last {memories} others |"""

USAGE = """\
## Use

```python
from PIL import Image
from transformers import AutoModel, AutoModelForMaskGeneration, AutoProcessor

processor = AutoProcessor.from_pretrained("{repo_id}", trust_remote_code=True)
image_model = AutoModelForMaskGeneration.from_pretrained("{repo_id}", trust_remote_code=True).eval()
video_model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True).eval()
```

`trust_remote_code=True` runs the code files of this repository, which need torch, torchvision and Transformers 5.17 or
later. Where the package `efficienttam-hf` is installed, `import efficienttam_hf` stands in for it.

**An image**, from a click (x, y); three masks are proposed, each with its predicted IoU:

```python
click = {{"input_points": [[[[500, 375]]]], "input_labels": [[[1]]]}}
inputs = processor(images=Image.open("truck.jpg"), **click, return_tensors="pt")
outputs = image_model(**inputs)
masks = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"])[0]  # (1, 3, height, width), bool
```

**A video**, from a click on its first frame:

```python
session = processor.init_video_session("my.mp4")
processor.add_inputs_to_inference_session(session, 0, 1, input_points=[[[[480, 300]]]], input_labels=[[[1]]])
masks = [output.pred_masks > 0 for output in video_model.propagate_in_video_iterator(session)]
```

`pred_masks` are a quarter of the model's input size; `processor.post_process_masks` brings them to the video's."""

OURS = """\
**Ours** (efficienttam-hf): agreement with the published code was measured, not accuracy. With the same weights
(rebuildable ones, not the trained ones), on real frames, in float32 on a CPU, this variant's outputs are the published
code's to a median of at most 5e-4 of an output's range, and at least 99.8 % of mask pixels have the same sign. These
are the bounds that `tests/test_parity.py` holds."""

LIMITS = """\
- A click can mean several things; three masks are proposed for one, and tracking takes that of the highest predicted
  IoU.
- Tracking follows appearance. Look-alikes, long occlusions, thin and fast things, and cuts between shots can lose it.
- Masks are predicted at a quarter of the input size, so finer edges are not to be had.
- It knows nothing of classes, and it was not made to identify people.
- Not for decisions that somebody's safety or rights depend on without a person who looks."""

ENDING = """\
## Licence and citation

Apache 2.0{licence}. The method is the work of its authors:

```bibtex
@article{{xiong2024efficienttam,
  title={{Efficient Track Anything}},
  author={{Yunyang Xiong and Chong Zhou and Xiaoyu Xiang and Lemeng Wu and Chenchen Zhu and Zechun Liu and
          Saksham Suri and Balakrishnan Varadarajan and Ramya Akula and Forrest Iandola and
          Raghuraman Krishnamoorthi and Bilge Soran and Vikas Chandra}},
  journal={{arXiv preprint arXiv:2411.18933}},
  year={{2024}}
}}
```"""


def model_card(name: str, repo_id: str | None = None) -> str:
    """Return the card of a published variant (a key of `PRESETS`) or of an included model.

    Args:
        name: such as `"efficienttam_s_2"` or `"efficienttam-nano"`.
        repo_id: the repository that the examples load, `"owner/name"`; None writes a placeholder.

    Raises:
        ValueError: if there is no such model.
    """
    repo_id = repo_id or f"OWNER/{name}"
    if name in INCLUDED_MODELS:
        return _included_card(name, repo_id)
    if name not in PRESETS:
        raise ValueError(f"There is no model {name!r}; the models are {', '.join([*PRESETS, *INCLUDED_MODELS])}.")
    return CARD.format(
        metadata=_metadata(name).to_yaml(),
        name=name,
        introduction=_introduction(name),
        usage=USAGE.format(repo_id=repo_id),
        results="\n\n".join([*_paper_results(name), OURS]),
        limits=LIMITS,
        ending=ENDING.format(licence=", as the authors' weights and code"),
    )


def place_card(card: str, source: Path, folder: Path, copy_pictures: bool = False) -> str:
    """Adapt the links of a card's pictures to the folder that the card is written to.

    Args:
        card: the output of `model_card`.
        source: the folder to which the links of its pictures are relative; see `card_folder`.
        folder: the folder that the card is written to.
        copy_pictures: whether pictures are copied into the folder, as a repository needs them, instead of linked.

    Returns:
        The card with new links.

    Raises:
        FileNotFoundError: if a picture does not exist.
    """

    def moved(match: re.Match) -> str:
        picture = (source / match.group(2)).resolve()
        if not picture.is_file():
            raise FileNotFoundError(f"The model card shows {picture}, which is not there; publish from a checkout.")
        if copy_pictures:
            shutil.copyfile(picture, folder / picture.name)
            return f"{match.group(1)}{picture.name})"
        return f"{match.group(1)}{Path(os.path.relpath(picture, folder.resolve())).as_posix()})"

    return PICTURE.sub(moved, card)


def card_folder(name: str) -> Path:
    """Return the folder to which the links in a model's card are relative."""
    return Path(included_checkpoint(name)).resolve()


def _metadata(name: str) -> ModelCardData:
    """Return the metadata at the beginning of a card."""
    results = _eval_results(name)
    return ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="mask-generation",
        tags=TAGS,
        datasets=["sa-1b", "sa-v"],
        metrics=["j_and_f", "mean_iou"],
        model_name=name if results else None,
        eval_results=results or None,
    )


def _published_tables(name: str) -> list[tuple[PublishedTable, dict[str, float]]]:
    """Return the paper's tables that have a row for a variant, with its numbers by column."""
    found = []
    for table in map(load_table, (1, 2, 3)):
        for row in table.rows:
            if row.method == PAPER_METHODS.get(name):
                found.append((table, {column: value for column, value in row.values.items() if value is not None}))
    return found


def _eval_results(name: str) -> list[EvalResult]:
    """Return the paper's results of a variant as metadata, with the paper as the source of each."""
    results = []
    for table, numbers in _published_tables(name):
        for column in table.columns:
            if column.measure == "parameters" or column.name not in numbers:
                continue
            dataset = column.dataset or table.collection
            assert dataset is not None  # a column names the dataset if its table does not
            results.append(
                EvalResult(
                    task_type="mask-generation",
                    task_name=table.title,
                    dataset_type=re.sub(r"[^a-z0-9]+", "-", dataset.lower()),
                    dataset_name=dataset,
                    metric_type="mean_iou" if column.measure.endswith("mIoU") else "j_and_f",
                    metric_name=column.measure,
                    metric_value=numbers[column.name],
                    source_name=f"Efficient Track Anything (arXiv 2411.18933), Table {table.number}",
                    source_url=PAPER,
                )
            )
    return results


def _paper_results(name: str) -> list[str]:
    """Return paragraphs and tables with the paper's results of a variant."""
    tables = _published_tables(name)
    if not tables:
        return [
            "**The paper's**: none. It has results of "
            + ", ".join(f"`{variant}`" for variant in PAPER_METHODS)
            + f", and none of `{name}`; nor did we measure its accuracy."
        ]
    parts = [f"**The paper's** ([arXiv 2411.18933]({PAPER})), where this variant is called {PAPER_METHODS[name]}:"]
    for table, numbers in tables:
        rows = [f"| {column} | {value:.1f} |" for column, value in numbers.items()]
        parts.append(f"Table {table.number}. {table.title}.")
        parts.append("\n".join(["| | |", "| --- | ---: |", *rows]))
    return parts


def _introduction(name: str) -> str:
    """Return the introduction of a variant's card."""
    config = EfficientTamConfig.from_preset(name)
    vision = config.vision_config
    assert isinstance(vision, EfficientTamVisionConfig)  # all presets have this configuration
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in EfficientTamVideoModel(config).parameters())
    return INTRODUCTION.format(
        paper=PAPER,
        name=name,
        source=PUBLISHED_REPOSITORY,
        parameters=parameters / 1e6,
        layers=vision.num_hidden_layers,
        width=vision.hidden_size,
        size=config.image_size,
        attention=ATTENTION[config.memory_attention_config.cross_attention],
        memories=config.num_maskmem - 1,
    )


def _included_card(name: str, repo_id: str) -> str:
    """Return the card of an included model: the text beside its weights, and the parts that all cards share."""
    card = ModelCard.load(card_folder(name) / "README.md")
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *TAGS]))
    parts = [card.text.strip(), USAGE.format(repo_id=repo_id), ENDING.format(licence="")]
    return f"---\n{card.data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"
