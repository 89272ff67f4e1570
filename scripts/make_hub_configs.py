"""Write `hub_configs/`: for each model, the configuration, processor and card that its repository on the Hub holds.

    python scripts/make_hub_configs.py            after a change of a preset, a card, or the included model

They are generated, from the presets in `configuration_efficienttam.py` and `efficienttam_hf.hub.model_cards`; a test
tells when they are stale. `scripts/push_to_hub.py` adds weights and code.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from efficienttam_hf import PRESETS, EfficientTamConfig, EfficientTamVideoProcessor
from efficienttam_hf.hub.model_cards import INCLUDED_MODELS, card_folder, model_card, place_card


ROOT = Path(__file__).resolve().parents[1]


def main(argv: list[str] | None = None) -> int:
    """Write a folder for every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", "--out", metavar="DIR", type=Path, default=ROOT / "hub_configs", help="default: hub_configs"
    )
    args = parser.parse_args(argv)
    for name in [*PRESETS, *INCLUDED_MODELS]:
        included = name in INCLUDED_MODELS
        config = EfficientTamConfig.from_pretrained(name) if included else EfficientTamConfig.from_preset(name)
        config.architectures, config.dtype = ["EfficientTamVideoModel"], "float32"
        config.auto_map = dict(config.remote_classes)
        folder = args.output / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(config.to_json_string(), encoding="utf-8")
        processor = EfficientTamVideoProcessor.from_config(config)
        (folder / "processor_config.json").write_text(processor.to_json_string(), encoding="utf-8")
        card = place_card(model_card(name), card_folder(name), folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        print(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
