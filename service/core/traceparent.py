"""The W3C header that says of which trace something is a part: `traceparent`.

https://www.w3.org/TR/trace-context/. Every job has one, whether spans are recorded or not.
"""

import re
import secrets
from collections.abc import Sequence
from uuid import UUID

HEADER = "traceparent"

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
# Sampled, and that the trace's id is random; all others mean nothing yet.
_KNOWN_FLAGS = 0x03


def accept(values: Sequence[str]) -> str | None:
    """Return what a caller sent, in the version that is ours; None when there is nothing or it is invalid.

    Args:
        values: of each such header; two of them say nothing.
    """
    match = _FORM.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # Later versions may have more behind it, and are read as if they were this one.
    is_known = version != "ff" and not (version == "00" and more)
    if not is_known or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return f"00-{trace_id}-{span_id}-{int(flags, 16) & _KNOWN_FLAGS:02x}"


def new() -> str:
    """Return one that begins a trace."""
    ids = secrets.token_hex(24)
    return f"00-{ids[:32]}-{ids[32:]}-01"


def of_id(row_id: UUID) -> str:
    """Return the one of something that no request began: the same whenever it is asked for.

    Args:
        row_id: a random one.
    """
    return f"00-{row_id.hex}-{row_id.hex[16:]}-01"
