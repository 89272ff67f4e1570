#!/usr/bin/env python
"""Train EfficientTAM, from scratch or from a checkpoint.

    accelerate launch scripts/train.py --config scripts/configs/nano.yaml
    accelerate launch scripts/train.py --config scripts/configs/nano.yaml --resume
    python scripts/train.py --config my.yaml --model preset:efficienttam_ti --output runs/mine stages.0.steps=2000

Every field is documented in `efficienttam_hf/training/config.py`; the command line goes before the file.
"""

import sys

from efficienttam_hf.cli import main


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
