"""What an answer of the portal means. The body decides, not the status alone."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from service.core.errors import (
    BadContentError,
    CodexFailureError,
    DocumentNotReadyError,
    NoAccessError,
    PortalBlockedError,
    PortalError,
    PortalOverloadedError,
    PortalThrottledError,
    PortalUnauthorizedError,
    PortalUnavailableError,
    ProcessNotFoundError,
    RefusedError,
)

LONGEST_PAUSE_S = 3600.0
_BEFORE_MARKUP = b"\xef\xbb\xbf \t\r\n"
_SHELL_MARKERS = (b"<app-root", b"ng-version")
_FIREWALL = re.compile(rb"request rejected|requested url was rejected", re.IGNORECASE)
# Behind a 200 only the title counts: a lawyer may write the words into a document.
_FIREWALL_TITLE = re.compile(rb"<title>\s*request rejected", re.IGNORECASE)
_NO_STANDING = re.compile(r"\b(?:possui|sem|tem|ter) acesso|acesso ao processo|permiss", re.IGNORECASE)
_ABOUT_TOKEN = re.compile(r"token|jwt|expirad|credencia", re.IGNORECASE)
_ERROR_KEYS = frozenset(
    {"error", "errors", "message", "mensagem", "status", "code", "timestamp", "path", "externalUrlService"}
)
_LARGEST_ENVELOPE_BYTES = 4096
_HEAD_BYTES = 4096


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> PortalError:
    """Return the error that an answer other than 200 stands for.

    Args:
        headers: looked up without regard to case, as an HTTP client's are.
        body: its beginning, or all of it.
    """
    wait_s = retry_after_s(headers.get("Retry-After"))
    if status == 429:
        return PortalThrottledError("the portal asked for fewer requests", retry_after_s=wait_s)
    if _FIREWALL.search(body):
        return _blocked()
    said = _json(body)
    match status:
        case 202:
            return DocumentNotReadyError("the portal is preparing the document", retry_after_s=wait_s)
        case 401 | 403:
            return _refusal(status, said, body)
        case 404:
            return _absence(said)
        case _ if status >= 500 or status in {408, 425}:
            return _failure(status, said, wait_s)
        case _ if status < 400:
            return BadContentError(f"the portal answered {status} where 200 was expected")
        case _:
            return RefusedError(f"the portal answered {status}", code="bad_request")


def error_in_content(head: bytes, *, size: int | None) -> PortalError | None:
    """Return the error that hides behind a 200, or None when the body may be what was asked for.

    The declared type is not asked: a court's document may be HTML or JSON, and the shell may call itself
    anything.

    Args:
        head: the first 4 KiB of the body, or all of it.
        size: bytes of the whole body, when known.
    """
    lowered = head.lower()
    if lowered.lstrip(_BEFORE_MARKUP).startswith(b"<"):
        if any(marker in lowered for marker in _SHELL_MARKERS):
            return BadContentError("the portal answered with its own web page")
        if _FIREWALL_TITLE.search(lowered):
            return _blocked()
    is_small = (len(head) if size is None else size) <= _LARGEST_ENVELOPE_BYTES
    if is_small and _is_envelope(_json(head)):
        return BadContentError("the portal answered with an error in place of the document")
    return None


def checked(body: bytes) -> bytes:
    """Return the body of a whole answer.

    Raises:
        PortalError: that hides behind its 200.
    """
    if error := error_in_content(body[:_HEAD_BYTES], size=len(body)):
        raise error
    return body


def retry_after_s(value: str | None) -> float | None:
    """Read `Retry-After`, seconds or an HTTP date (RFC 9110 §10.2.3), as 0 to 3,600 seconds."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), LONGEST_PAUSE_S)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    # A date that names no zone ("-0000") is UTC.
    left_s = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(left_s, 0.0), LONGEST_PAUSE_S)


def _refusal(status: int, said: Any, body: bytes) -> PortalError:
    if isinstance(said, dict):
        # Final for the process, so a token that ran out must never be taken for it.
        text = str(said)
        if _NO_STANDING.search(text) or (status == 403 and not _ABOUT_TOKEN.search(text)):
            return NoAccessError("the token has no access to this process")
        return _unauthorized()
    is_page = body.lstrip(_BEFORE_MARKUP).startswith(b"<")
    return _unauthorized() if status == 401 and not is_page else _blocked()


def _absence(said: Any) -> PortalError:
    if isinstance(said, dict) and isinstance(said.get("timestamp"), int):
        return RefusedError("the portal does not know this path", code="unknown_route")
    if said == [] or (isinstance(said, dict) and {"code", "message"} & said.keys()):
        return ProcessNotFoundError("the portal has no such process or document")
    # Somebody before the portal answered: that proves no absence.
    return BadContentError("the portal answered 404 without saying what is missing")


def _failure(status: int, said: Any, wait_s: float | None) -> PortalError:
    if status == 500 and isinstance(said, dict) and "externalUrlService" in said:
        return CodexFailureError("the court's document store failed")
    if status == 503:
        return PortalOverloadedError("the portal answered 503", retry_after_s=wait_s)
    return PortalUnavailableError(f"the portal answered {status}")


def _unauthorized() -> PortalError:
    return PortalUnauthorizedError("the portal did not accept our token")


def _blocked() -> PortalError:
    return PortalBlockedError("the portal's firewall turned the request away")


def _is_envelope(said: Any) -> bool:
    """Whether most of the members are those of an error."""
    return isinstance(said, dict) and 2 * len(said.keys() & _ERROR_KEYS) > len(said)


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
