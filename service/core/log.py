"""Logging: one line an event on standard error, with every secret blotted out.

The formatter does it, not a filter: a filter never sees the text of a traceback. What a line is about (the
request, the job, …) is bound around the work, so that every line within says it.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import orjson

from service.core.settings import Settings

# Each with a part that it cannot be without: most lines hold none of these, and are looked at no further.
_SECRETS = (
    ("autos_", re.compile(r"\bautos_[A-Za-z0-9]+_[A-Za-z0-9_]+"), "autos_[redacted]"),
    ("whsec_", re.compile(r"\bwhsec_[A-Za-z0-9+/=]+"), "whsec_[redacted]"),
    ("", re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]+"), r"\1 [redacted]"),
    ("eyJ", re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "[redacted token]"),
    ("://", re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@]+@"), r"\1[redacted]@"),
    # Queries of URLs: presigned links, and the tokens that callers put into their webhook URLs.
    ("://", re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#\"'<>]*)\?[^\s\"'<>]*"), r"\1?[redacted]"),
    # The party's case is nobody's business in a log; its first part is enough to find it.
    ("", re.compile(r"\b(\d{7})-?\d{2}\.?\d{4}\.?\d\.?\d{2}\.?\d{4}\b"), r"\1…"),
)


_NOTHING: Mapping[str, object] = {}
_bound: ContextVar[Mapping[str, object]] = ContextVar("bound")


@contextmanager
def bound(**ids: object) -> Iterator[None]:
    """Name what the log's lines within the block are about, beside what is named around it.

    Args:
        ids: by the names of the JSON form: `request_id`, `job_id`, `worker_id`, `delivery_id`, `attempt`.
    """
    token = _bound.set({**_bound.get(_NOTHING), **ids})
    try:
        yield
    finally:
        _bound.reset(token)


def bound_ids() -> dict[str, str]:
    """Return what a line that is written now is about, redacted: a caller may have chosen a part of it."""
    return {name: redact(str(one)) for name, one in _bound.get(_NOTHING).items()}


def redact(text: str) -> str:
    """Blot out keys, tokens, signing secrets, URL queries and the tails of process numbers."""
    for part, pattern, replacement in _SECRETS:
        if part in text:
            text = pattern.sub(replacement, text)
    return text


class LineFormatter(logging.Formatter):
    """`time level logger message [job=… request=…]`, redacted, the traceback included."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """Return the time in UTC; the name is logging's."""
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line with what it is about; the name is logging's."""
        about = " ".join(f"{name.removesuffix('_id')}={one}" for name, one in _bound.get(_NOTHING).items())
        return super().formatMessage(record) + (f" [{about}]" if about else "")

    def format(self, record: logging.LogRecord) -> str:
        """Return the redacted line."""
        return redact(super().format(record))


class JsonFormatter(LineFormatter):
    """The same as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the redacted object."""
        event: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
            **bound_ids(),
        }
        if record.exc_info:
            event["traceback"] = redact(self.formatException(record.exc_info))
        return orjson.dumps(event).decode()


def configure_logging(settings: Settings) -> None:
    """Send the log to standard error, as text or JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_json else LineFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    # arq logs every task at INFO; our own lines say the same with the job's fate.
    logging.getLogger("arq").setLevel(logging.WARNING)
    logging.getLogger("botocore").setLevel(logging.WARNING)
