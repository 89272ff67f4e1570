"""`efficienttam serve`: the HTTP service for other programs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .common import add_model_arguments


if TYPE_CHECKING:
    from fastapi import FastAPI


# Option, field of `ServiceSettings`, metavar, help. The defaults are those of the class.
LIMITS = (
    ("--max-upload-mb", "max_upload_mb", "MB", "megabytes of an upload"),
    ("--max-frames", "max_frames", "N", "frames of a video that are used"),
    ("--max-side", "max_side", "PIXELS", "longer side to which frames and results are scaled down"),
    ("--max-sessions", "max_sessions", "N", "sessions at the same time"),
    ("--max-objects", "max_objects", "N", "objects of a session"),
    ("--tracking-at-once", "tracking_at_once", "N", "videos that are tracked in turn; others wait"),
    ("--requests-per-minute", "requests_per_minute", "N", "requests of one network address"),
    ("--session-minutes", "session_minutes", "MINUTES", "time without a request after which a session is deleted"),
)

LABEL_STUDIO_VARIABLE = "LABEL_STUDIO_API_KEY"


def add_parser(commands: argparse._SubParsersAction, **options: Any) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "serve",
        help="serve other programs over HTTP",
        description="Serve other programs over HTTP: they upload videos or images, send prompts, track, and fetch the "
        "results. The page /docs describes the service; docs/tools.md has examples.",
        **options,
    )
    add_model_arguments(parser)
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1); 0.0.0.0 makes the service reachable from other machines",
    )
    group.add_argument("--port", type=int, default=8080, help="port of the server (default: 8080); 0 takes a free one")
    group.add_argument(
        "--token",
        metavar="TOKEN",
        help="token that clients must send; by default that of the environment variable EFFICIENTTAM_TOKEN, or a "
        "random one, which is printed",
    )
    group.add_argument("--no-auth", action="store_true", help="serve programs on this machine without a token")
    tools = parser.add_argument_group("annotation tools")
    tools.add_argument(
        "--label-studio",
        metavar="URL",
        help="be a machine learning backend of the Label Studio at this address, too, such as http://localhost:8081",
    )
    tools.add_argument(
        "--label-studio-token",
        metavar="TOKEN",
        help=f"access token of a user there, to fetch images and videos; by default that of {LABEL_STUDIO_VARIABLE}",
    )
    limits = parser.add_argument_group("limits")
    for option, name, metavar, text in LIMITS:
        limits.add_argument(option, dest=name, metavar=metavar, type=int, help=text)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from ..serving import check_installed

    check_installed()
    from ..serving.engine import load_engine
    from ..serving.server import choose_token, serve
    from ..serving.settings import ServiceSettings

    given = {name: getattr(args, name) for _, name, _, _ in LIMITS if getattr(args, name) is not None}
    settings = ServiceSettings(**given)
    token, is_new = choose_token(args.token, args.no_auth, args.host)
    extend = _label_studio(args)
    engine = load_engine(args.model, args.device, args.dtype)
    if token is None:
        print("No token is needed, so only programs on this machine are served.", flush=True)
    elif is_new:
        print(f"Token: {token}", flush=True)
    serve(engine, settings, args.host, args.port, token, extend)
    return 0


def _label_studio(args: argparse.Namespace) -> Callable[[FastAPI], list[str]] | None:
    """What adds the backend for Label Studio to the service, if it is asked for."""
    if args.label_studio is None:
        if args.label_studio_token is not None:
            raise ValueError("--label-studio-token needs --label-studio, the address of Label Studio.")
        return None
    from ..integrations.label_studio import attach
    from ..integrations.label_studio_files import LabelStudioFiles

    files = LabelStudioFiles(args.label_studio, args.label_studio_token or os.environ.get(LABEL_STUDIO_VARIABLE))
    return lambda app: attach(app, files)
