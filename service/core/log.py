"""Logging: one line an event on standard error, with every secret blotted out.

The formatter does it, not a filter: a filter never sees the text of a traceback.
"""

import logging
import re
from datetime import UTC, datetime
from typing import Any

import orjson

from service.core.settings import Settings

_SECRETS = (
    (re.compile(r"\bautos_[A-Za-z0-9]+_[A-Za-z0-9_]+"), "autos_[redacted]"),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=]+"), "whsec_[redacted]"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]+"), r"\1 [redacted]"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "[redacted token]"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@]+@"), r"\1[redacted]@"),
    # Queries of URLs: presigned links, and the tokens that callers put into their webhook URLs.
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#\"'<>]*)\?[^\s\"'<>]*"), r"\1?[redacted]"),
    # The party's case is nobody's business in a log; its first part is enough to find it.
    (re.compile(r"\b(\d{7})-?\d{2}\.?\d{4}\.?\d\.?\d{2}\.?\d{4}\b"), r"\1…"),
)


def redact(text: str) -> str:
    """Blot out keys, tokens, signing secrets, URL queries and the tails of process numbers."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class LineFormatter(logging.Formatter):
    """`time level logger message`, redacted, the traceback included."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """Return the time in UTC; the name is logging's."""
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")

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
