"""Convert a model, verify it, write its card, and upload it to the Hugging Face Hub.

    python scripts/push_to_hub.py efficienttam_s me/efficienttam-s                     makes, verifies, sends nothing
    python scripts/push_to_hub.py efficienttam_s me/efficienttam-s --push --create     and uploads to a new repository
    python scripts/push_to_hub.py efficienttam_s me/efficienttam-s --checkpoint FILE   from a .pt file that is here
    python scripts/push_to_hub.py efficienttam-nano me/efficienttam-nano --out DIR     keeps what would be uploaded

Prints the SHA-256 of every file; they are in the repository's SHA256SUMS and in the message of the commit. Started
again after an interruption, it sends only what is not there yet. The repository holds the code too, so that
`trust_remote_code=True` works where this package is not installed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import huggingface_hub

from efficienttam_hf import PRESETS, __version__
from efficienttam_hf.hub.publishing import PublishingError, make_repository, upload
from efficienttam_hf.hub_files import download
from efficienttam_hf.published import INCLUDED_MODELS, PUBLISHED_FILES, PUBLISHED_REPOSITORY


def main(argv: list[str] | None = None) -> int:
    """Make the repository's files, show them, and upload them where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=[*PRESETS, *INCLUDED_MODELS], metavar="MODEL", help="%(choices)s")
    parser.add_argument("repository", metavar="OWNER/NAME", help="where it goes")
    parser.add_argument("--checkpoint", metavar="FILE", type=Path, help="the authors' file; by default it is fetched")
    parser.add_argument(
        "--output", "--out", metavar="DIR", type=Path, help="keep the repository's files in this new folder"
    )
    parser.add_argument("--push", action="store_true", help="upload; without it nothing is sent")
    parser.add_argument("--create", action="store_true", help="make the repository if there is none")
    parser.add_argument("--private", action="store_true", help="make it private")
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as scratch:
        folder = args.output or Path(scratch) / "repository"
        try:
            checkpoint = args.checkpoint
            if checkpoint is None and args.model in PRESETS:
                checkpoint = download(PUBLISHED_REPOSITORY, PUBLISHED_FILES.of(args.model)).path
            for file, sha in make_repository(args.model, folder, args.repository, checkpoint).items():
                print(f"{sha}  {(folder / file).stat().st_size:>12,}  {file}")
            if not args.push:
                print(f"Dry run: verified, and nothing sent. Add --push to upload to {args.repository}.")
                return 0
            message = f"{args.model} for efficienttam-hf {__version__}"
            done = upload(folder, args.repository, huggingface_hub.HfApi(), message, args.create, args.private)
        except (OSError, ValueError, PublishingError) as error:
            parser.error(str(error))
    print(f"{done.url}: {len(done.sent)} files sent, {len(done.kept)} there already")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
