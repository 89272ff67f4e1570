"""The HTTP service: sessions of videos, prompts, tracking as a stream of events, and results, for other programs.

`efficienttam serve` starts it (`server.py`). A request passes the guard (`guard.py`: token, rate, size of the body),
then a route (`video_routes.py`, `image_routes.py`), which works on a session (`sessions.py`) and gives the model's work
to the one worker thread (`worker.py`, `engine.py`). `schemas.py` has the JSON that is read and written, `uploads.py`
streams uploads to disk, `settings.py` has every limit. This package needs FastAPI; nothing imports it but the command.
"""

from __future__ import annotations


def check_installed() -> None:
    """Raise `ImportError` with the name of the extra if FastAPI, uvicorn or python-multipart is missing."""
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"The service needs FastAPI, uvicorn and python-multipart: pip install efficienttam-hf[serve] ({error})."
        ) from error
