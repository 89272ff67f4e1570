"""`efficienttam demo`: run the Gradio Space on this machine.

The Space is the folder `demo/` of the repository, which is also in the installed package, as `_demo`. Its files lie
beside each other, as on the Hub, so that folder goes onto the import path.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from .common import add_model_arguments


PACKAGE = Path(__file__).resolve().parents[1]


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "demo",
        help="start the demo in a browser",
        description="Start a web page to track objects in videos and camera streams and to segment images. Environment "
        "variables, which docs/demo.md lists, set limits and speed.",
        **options,
    )
    add_model_arguments(parser, auto_dtype=True)
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1); 0.0.0.0 makes the page reachable from other machines",
    )
    group.add_argument("--port", type=int, help="port of the server (default: the first free port from 7860 on)")
    group.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    folder = next((f for f in (PACKAGE.parents[1] / "demo", PACKAGE / "_demo") if (f / "app.py").is_file()), None)
    if folder is None:
        raise FileNotFoundError("The demo's files are not installed: reinstall the package with its [demo] extra.")
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError("The demo needs Gradio: pip install efficienttam-hf[demo].") from error
    sys.path.insert(0, str(folder))
    from app import launch
    from settings import Settings

    settings = replace(Settings.from_environment(), device=args.device)
    if args.dtype is not None:
        settings = replace(settings, dtype=args.dtype)
    if args.model is not None:
        settings = replace(settings, model=args.model)
    launch(settings, server_name=args.host, server_port=args.port, inbrowser=args.open)
    return 0
