#!/usr/bin/env python
"""Fine-tune on a folder of frames and masks, and score videos held back, before and after.

python scripts/finetune.py my_videos --output runs/mine
accelerate launch scripts/finetune.py my_videos --output runs/mine --model checkpoints/efficienttam_ti --steps 2000
"""

import sys

from efficienttam_hf.cli import main


if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
