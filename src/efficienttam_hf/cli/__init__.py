"""The command line, `efficienttam COMMAND ...`: one module for each command, and modules for shared options.

A command's module has `add_parser(commands)`, which describes its options and names the function that runs it. That
function takes the parsed options and returns the exit code. torch and other large packages are imported when a command
runs, not when its options are parsed.

Exit codes: 0 success; 1 an unexpected error; 2 invalid input, with one message on standard error; 3 an object was lost
and `track --on-lost stop` was given; 130 Ctrl-C; 143 SIGTERM. With 3, 130 and 143 the results so far are kept.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from ..app.stopping import exit_code, stopped_by, terminable
from . import (
    benchmark,
    convert,
    demo,
    evaluate,
    export,
    export_masks,
    finetune,
    models,
    pseudo_label,
    segment,
    serve,
    track,
    train,
    verify,
)


# In the order in which `--help` lists them.
COMMANDS = (
    track,
    segment,
    export_masks,
    pseudo_label,
    finetune,
    train,
    evaluate,
    benchmark,
    models,
    convert,
    verify,
    export,
    demo,
    serve,
)


class _Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see `{self.prog} --help`)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the chosen command's function is in the options' `run`."""
    parser = _Parser(
        prog="efficienttam", description="Segment and track any object in a video from a point, a box or a mask."
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="print the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for command in COMMANDS:
        command.add_parser(commands, parents=[common])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, that of the process by default, and return the exit code."""
    argv = _join_negative_values(sys.argv[1:] if argv is None else argv)
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:  # argparse's way to return
        return int(stop.code or 0)
    args.command = shlex.join(["efficienttam", *argv])
    try:
        with terminable(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            # Pillow's, for a file that is refused or allowed by our own limit just after.
            warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
            return args.run(args)
    except KeyboardInterrupt as stop:
        print(f"\nefficienttam: stopped by {stopped_by(stop)}.", file=sys.stderr)
        return exit_code(stop)
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        return 1
    except Exception as error:  # the border: everything ends in a message and an exit code
        if args.debug:
            traceback.print_exc()
        users = _is_users(error)
        message = str(error) if users and str(error) else f"{type(error).__name__}: {error}"
        hint = "" if users or args.debug else " (--debug prints the traceback)"
        print(f"efficienttam: error: {message}{hint}", file=sys.stderr)
        return 2 if users else 1


def _is_users(error: Exception) -> bool:
    """Whether an error is what the package raises for bad input, with a message for the user, or a failure of ours."""
    from ..tracking_session import EndOfVideoError

    return isinstance(error, (ValueError, OSError, ImportError, EndOfVideoError))


def _join_negative_values(argv: Sequence[str]) -> list[str]:
    """`--point -5,10` as `--point=-5,10`: argparse would take the value for an option."""
    joined: list[str] = []
    for argument in argv:
        if re.match(r"-[\d.]", argument) and joined and re.fullmatch(r"--[a-z-]+", joined[-1]):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _show_warning(message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None) -> None:
    """Print a warning on a separate line above a progress bar."""
    from tqdm import tqdm

    tqdm.write(f"efficienttam: warning: {message}", file=sys.stderr)
