"""The refusals of the service: each is answered with its HTTP status and one sentence."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is not served. The message is for the client.

    Attributes:
        status: the HTTP status of the answer.
        retry_after: seconds after which the client may try again, if that helps.
    """

    status = 422
    retry_after: int | None = None


class NotFound(Refusal):
    """There is no such session, object or result."""

    status = 404


class Conflict(Refusal):
    """The session is in another state, such as being tracked."""

    status = 409


class TooLarge(Refusal):
    """The body, a file or the number of files is beyond a limit."""

    status = 413


class Busy(Refusal):
    """There is no room at the moment."""

    status = 503
    retry_after = 5
