"""Score a model on a dataset by the paper's protocols: `efficienttam evaluate`, to be copied and edited.

    python scripts/evaluate.py vos --data DAVIS --dataset davis2017              the mask of the first frame is given
    python scripts/evaluate.py prompted-video --data DAVIS --prompt 1-click box  clicks, or a box, in its place
    python scripts/evaluate.py images --data COCO --dataset coco --split val2017

`docs/evaluation.md` has all of it.
"""

import sys

from efficienttam_hf.cli import main


if __name__ == "__main__":
    raise SystemExit(main(["evaluate", *sys.argv[1:]]))
