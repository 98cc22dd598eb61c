"""What the errors of a store mean: it refuses, or is away. In one line."""

from __future__ import annotations

import errno
import re

from invad_jax.errors import UnavailableError

_LOGIN = {
    "gs": "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS",
    "s3": "aws configure, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}
_DENIED = re.compile(
    r"NoCredentials|DefaultCredentials|Unauthorized|Forbidden|AccessDenied|PermissionError"
    r"|Anonymous caller|InvalidAccessKeyId|Invalid Credentials|SignatureDoesNotMatch|\b40[13]\b"
)
_AWAY = {
    *("ClientConnectionError", "ClientPayloadError", "ConnectionError", "HTTPClientError"),
    "TransportError",
}
"""Classes of aiohttp, botocore and google.auth: not reached, after they have asked again."""
_AWAY_SAID = re.compile(r"\b(UNAVAILABLE|DEADLINE_EXCEEDED): |\bretry attempts failed\b")
"""What tensorstore says then; the class is that of any of its errors."""


def said(error: Exception, scheme: str, name: str) -> str:
    """What is to be told of an error, with the ways to log in where it is for want of rights.

    Args:
      error: of aiohttp, botocore, google.auth or fsspec.
      scheme: `gs` or `s3`.
      name: of the object, which may look like a reason.
    """
    reason = in_short(error)
    if _DENIED.search(reason.replace(name, "")):
        return f"no credentials that may do this ({reason}); {_LOGIN[scheme]}"
    return reason


def is_away(error: Exception) -> bool:
    """Whether the store may answer later: it was not reached, or had no time (429, 5xx)."""
    status = str(getattr(error, "code", ""))  # of gcsfs; s3fs makes an OSError of it
    busy = status == "429" or status.startswith("5")
    busy |= getattr(error, "errno", 0) in (errno.EBUSY, errno.EREMOTEIO)
    return busy or not _AWAY.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def is_outage(error: BaseException | None) -> bool:
    """Whether a store is away, by an error of a library above it or by what that came of."""
    while error is not None:
        if isinstance(error, UnavailableError | TimeoutError | ConnectionError):
            return True
        if isinstance(error, Exception) and (is_away(error) or _AWAY_SAID.search(str(error))):
            return True
        error = error.__cause__ or error.__context__
    return False


def in_short(error: BaseException) -> str:
    """One line of at most 200 characters."""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
