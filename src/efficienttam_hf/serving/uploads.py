"""Streams multipart uploads to files, within limits that are checked before anything is kept.

The body is parsed by python-multipart as it arrives, so a large upload takes no memory, and one that exceeds a limit is
refused at once. Files get names of our own; of the client's file name, only a known suffix is used.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from .errors import Refusal, TooLarge
from .settings import MEGABYTE


MAX_FIELD = 256 * 1024  # bytes of a field that is not a file
MAX_HEADERS = 8 * 1024  # bytes of the headers of a part


def form_schema(required: str, properties: dict[str, Any]) -> dict[str, Any]:
    """The part of an OpenAPI operation that describes a multipart form.

    FastAPI cannot derive it, because uploads are parsed here and not by FastAPI.

    Args:
        required: the field that must be given.
        properties: the JSON schema of each field.
    """
    schema = {"type": "object", "required": [required], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@dataclass
class UploadedFile:
    """A file that arrived.

    Attributes:
        path: where it lies.
        name: the client's name for it; never use it as a path.
    """

    path: Path
    name: str


@dataclass
class Upload:
    """The parts of a form: files in their order, and the text of other fields by name."""

    files: list[UploadedFile] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


async def receive_upload(
    request: Request, folder: Path, file_field: str, text_fields: Collection[str], max_files: int, max_mb: int
) -> Upload:
    """Read the multipart body of a request and write its files to a folder.

    Args:
        folder: an empty folder.
        file_field: the name of the field that holds files.
        text_fields: the names of the other fields.
        max_files: the largest number of files.
        max_mb: megabytes of all files together.

    Raises:
        Refusal: if the body is not such a form.
        TooLarge: if it is larger or has more files.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise Refusal(f'Send a form (multipart/form-data) with the field "{file_field}".')
    receiver = _Receiver(folder, file_field, text_fields, max_files, max_mb)
    try:
        parser = MultipartParser(boundary, receiver.callbacks())
        async for chunk in request.stream():
            if chunk:
                await run_in_threadpool(parser.write, chunk)
        parser.finalize()
    except FormParserError as error:
        raise Refusal("The form is damaged or cut short.") from error
    finally:
        receiver.close()
    if not receiver.is_whole:
        raise Refusal("The form is cut short.")
    if not receiver.upload.files:
        raise Refusal(f'There is no file in the field "{file_field}".')
    return receiver.upload


class _Receiver:
    """The callbacks of a `MultipartParser`."""

    def __init__(self, folder: Path, file_field: str, text_fields: Collection[str], max_files: int, max_mb: int):
        self.upload = Upload()
        self.is_whole = False
        self._folder, self._file_field, self._text_fields = folder, file_field, text_fields
        self._max_files, self._max_mb, self._left = max_files, max_mb, max_mb * MEGABYTE
        self._file: IO[bytes] | None = None
        self._text = bytearray()
        self._text_name = ""
        self._header_name, self._header_value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": lambda data, start, end: self._add_header(self._header_name, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_header(self._header_value, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_part,
            "on_part_data": lambda data, start, end: self._add_data(data[start:end]),
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _add_header(self, part: bytearray, data: bytes) -> None:
        part += data
        if len(part) > MAX_HEADERS or len(self._headers) > 16:
            raise Refusal("The headers of a part of the form are too long.")

    def _end_header(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _begin_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == self._file_field:
            if len(self.upload.files) >= self._max_files:
                raise TooLarge(f"Up to {self._max_files} files are accepted.")
            given = options.get(b"filename", b"").decode("utf-8", "replace")
            suffix = re.search(r"\.[A-Za-z0-9]{1,5}$", given)
            path = self._folder / f"{len(self.upload.files):05d}{suffix[0].lower() if suffix else ''}"
            self._file = path.open("xb")
            self.upload.files.append(UploadedFile(path, given))
        elif name in self._text_fields and name not in self.upload.fields:
            self._text_name = name
        else:
            names = ", ".join([self._file_field, *self._text_fields])
            raise Refusal(f"The form has the fields {names}, and each of the latter once; got {name[:40]!r}.")

    def _add_data(self, data: bytes) -> None:
        if self._file is not None:
            self._left -= len(data)
            if self._left < 0:
                raise TooLarge(f"Uploads of up to {self._max_mb} MB are accepted.")
            self._file.write(data)
        else:
            self._text += data
            if len(self._text) > MAX_FIELD:
                raise TooLarge(f"The field {self._text_name!r} has more than {MAX_FIELD // 1024} KB.")

    def _end_part(self) -> None:
        if self._file is not None:
            self.close()
        else:
            try:
                self.upload.fields[self._text_name] = self._text.decode("utf-8")
            except UnicodeDecodeError as error:
                raise Refusal(f"The field {self._text_name!r} is not UTF-8 text.") from error
            self._text.clear()

    def _end(self) -> None:
        self.is_whole = True
