"""Convert EfficientTAM's published checkpoints for `from_pretrained`, to folders of your own.

To use a published model this is not needed: its name is enough everywhere, and it is fetched and converted once, into
the Hugging Face cache (`efficienttam models`). This makes folders to keep or to pass on.

    python scripts/convert_published.py                            all eight, to checkpoints/<variant>/
    python scripts/convert_published.py efficienttam_s             one of them
    python scripts/convert_published.py --from-folder DIR          from .pt files that are here already

The files are those of the authors' repository on the Hub, `yunyangx/efficient-track-anything`, one a variant, named
`<variant>.pt`. To fetch one by other means: `hf download yunyangx/efficient-track-anything efficienttam_s.pt`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from efficienttam_hf import PRESETS
from efficienttam_hf.checkpoints import convert_checkpoint
from efficienttam_hf.published import PUBLISHED_FILES, PUBLISHED_REPOSITORY, download


def main(argv: list[str] | None = None) -> int:
    """Convert the chosen variants, each to a folder of its name. Those already there are left as they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", metavar="VARIANT", nargs="*", help=f"of {', '.join(PRESETS)}; all if none is named")
    parser.add_argument(
        "--output", "--out", metavar="DIR", type=Path, default=Path("checkpoints"), help="default: checkpoints"
    )
    parser.add_argument("--from-folder", metavar="DIR", type=Path, help="take <variant>.pt from here, not from the Hub")
    parser.add_argument("--overwrite", action="store_true", help="convert again what is there already")
    args = parser.parse_args(argv)
    unknown = [variant for variant in args.variants if variant not in PRESETS]
    if unknown:
        parser.error(f"there is no variant {', '.join(unknown)}; the variants are {', '.join(PRESETS)}")

    failures = 0
    for variant in args.variants or PRESETS:
        output = args.output / variant
        if output.exists() and not args.overwrite:
            print(f"{variant}: {output} is there already")
            continue
        try:
            source = None
            if args.from_folder is not None:
                checkpoint = args.from_folder / f"{variant}.pt"
            else:
                fetched = download(PUBLISHED_REPOSITORY, PUBLISHED_FILES.of(variant))
                checkpoint, source = fetched.path, fetched.source
            convert_checkpoint(checkpoint, output, variant, overwrite=args.overwrite, source=source)
        except (OSError, ValueError) as error:  # the others may still work
            print(f"{variant}: not converted. {error}")
            failures += 1
        else:
            print(f"{variant}: {output}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
