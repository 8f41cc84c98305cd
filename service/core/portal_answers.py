"""What an answer of the portal means. The body decides, not the status alone."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from service.core.errors import (
    BadContentError,
    CodexFailureError,
    NoAccessError,
    PortalBlockedError,
    PortalError,
    PortalThrottledError,
    PortalUnauthorizedError,
    PortalUnavailableError,
    ProcessNotFoundError,
    RefusedError,
)

LONGEST_PAUSE_S = 3600.0
_SHELL_MARKERS = (b"<app-root", b"ng-version")
_FIREWALL_MARKER = b"request rejected"
_ERROR_KEYS = frozenset({"error", "message", "status", "code", "timestamp", "errors"})
_LARGEST_ENVELOPE_BYTES = 4096


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> PortalError:
    """Return the error that an answer other than 200 stands for; `body` may be its beginning only."""
    said = _json_object(body)
    match status:
        case 429:
            return PortalThrottledError(
                "the portal asked for fewer requests", retry_after_s=retry_after_s(headers.get("Retry-After"))
            )
        case 401 | 403:
            return _refusal(status, said, body)
        case 404:
            return _absence(said)
        case 500 if "externalUrlService" in said:
            return CodexFailureError("the court's document store failed")
        case 408 | 425:
            return PortalUnavailableError(f"the portal answered {status}")
        case _ if status >= 500:
            return PortalUnavailableError(f"the portal answered {status}")
        case _:
            return RefusedError(f"the portal answered {status}", code="bad_request")


def error_in_content(content_type: str, head: bytes, *, size: int | None) -> PortalError | None:
    """Return the error that hides behind a 200, or None when the body may be a document.

    Args:
        head: the first 4 KiB of the body, or all of it.
        size: bytes of the whole body, when known.
    """
    lowered = head.lower()
    if any(marker in lowered for marker in _SHELL_MARKERS):
        return BadContentError("the portal answered with its own web page")
    if "html" in content_type and _FIREWALL_MARKER in lowered:
        return PortalBlockedError("the portal's firewall turned the request away")
    is_small = (size if size is not None else len(head)) <= _LARGEST_ENVELOPE_BYTES
    if is_small and _ERROR_KEYS & _json_object(head).keys():
        return BadContentError("the portal answered with an error in place of the document")
    return None


def retry_after_s(value: str | None) -> float | None:
    """Read `Retry-After`, seconds or an HTTP date (RFC 9110 §10.2.3), as 0 to 3,600 seconds."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), LONGEST_PAUSE_S)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    left_s = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(left_s, 0.0), LONGEST_PAUSE_S)


def _refusal(status: int, said: dict[str, Any], body: bytes) -> PortalError:
    if said:
        return NoAccessError("the token has no access to this process")
    if status == 401 and not body.strip():
        return PortalUnauthorizedError("the portal did not accept our token")
    return PortalBlockedError("the portal's firewall turned the request away")


def _absence(said: dict[str, Any]) -> PortalError:
    if isinstance(said.get("timestamp"), int):
        return RefusedError("the portal does not know this path", code="unknown_route")
    return ProcessNotFoundError("the portal has no such process or document")


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
