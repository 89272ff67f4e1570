"""Options for memory selection, shared by the commands that track."""

from __future__ import annotations

import argparse
from typing import Any

from ..tracking_rules import MEMORY_SELECTIONS


ALL = "all"


def add_memory_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """`--memory`, `--memory-stride` and `--memory-option`.

    Args:
        several: whether several names may be given, and "all", to be compared.
    """
    names = list(MEMORY_SELECTIONS)
    group = parser.add_argument_group("memory")
    more = f"; give several, or {ALL}, to compare them" if several else ""
    group.add_argument(
        "--memory",
        metavar="NAME",
        choices=[*names, ALL] if several else names,
        nargs="+" if several else None,
        help=f"memory selection strategy, one of {', '.join(names)}{more} (see docs/memory.md); the default is the "
        "one in "
        "the model's configuration",
    )
    group.add_argument("--memory-stride", metavar="N", type=int, help="distance in frames between spatial memories")
    group.add_argument(
        "--memory-option",
        metavar="KEY=VALUE",
        action="append",
        type=_option,
        help="a parameter of the strategy, such as quality_threshold=0.5; may be given several times",
    )


def memory_options(args: argparse.Namespace, name: str | None) -> dict[str, Any]:
    """The options of a session that the arguments ask for, with a strategy's name or none; only those given.

    Raises:
        ValueError: for an option that no strategy has.
    """
    from ..memory_selection import make_strategy

    options = dict(args.memory_option) if args.memory_option else None
    make_strategy(name or "recent", options)
    given = {"memory_selection": name, "memory_options": options, "memory_stride": args.memory_stride}
    return {key: value for key, value in given.items() if value is not None}


def memory_names(args: argparse.Namespace) -> list[str | None]:
    """The strategies to evaluate, one after the other; `None` is the model's own."""
    if args.memory is None:
        return [None]
    return list(MEMORY_SELECTIONS) if ALL in args.memory else list(dict.fromkeys(args.memory))


def _option(text: str) -> tuple[str, Any]:
    from ..memory_selection import option_value

    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as quality_threshold=0.5")
    try:
        return key, option_value(key, value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
