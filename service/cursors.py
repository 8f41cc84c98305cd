"""Cursors: where a page of a list ended, opaque to callers and bound to the filters of the list."""

import binascii
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from typing import Protocol, TypeVar
from uuid import UUID

import orjson

from service import problems
from service.problems import ProblemError
from service.request_schemas import Request

Position = tuple[datetime, UUID]
"""The time and the id of the last row of a page."""


class Placed(Protocol):
    """A row that has a place in a list: by its time, and among those of one time by its id."""

    @property
    def created_at(self) -> datetime:
        """When it was made."""
        ...

    @property
    def id(self) -> UUID:
        """Its id."""
        ...


R = TypeVar("R", bound=Placed)


def cut_page(found: list[R], filters: Request, *, limit: int) -> tuple[list[R], str | None]:
    """Return a page and the cursor of the next one; one row more than the page has was looked for."""
    page = found[:limit]
    if len(found) <= limit:
        return page, None
    return page, write_cursor((page[-1].created_at, page[-1].id), filters)


def write_cursor(position: Position, filters: Request) -> str:
    """Return the cursor of the page after this position."""
    created_at, row_id = position
    written = orjson.dumps([created_at, str(row_id), _digest(filters)])
    return urlsafe_b64encode(written).decode().rstrip("=")


def read_cursor(cursor: str | None, filters: Request) -> Position | None:
    """Return where the page before ended; None for the first page.

    Raises:
        ProblemError: 400, it is none of ours or belongs to a list with other filters.
    """
    if cursor is None:
        return None
    try:
        created_at, row_id, digest = orjson.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        position = datetime.fromisoformat(created_at), UUID(row_id)
        position[0].astimezone(UTC)
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error) as error:
        raise ProblemError(problems.BAD_REQUEST, "this is no cursor of ours") from error
    if position[0].tzinfo is None or digest != _digest(filters):
        raise ProblemError(problems.BAD_REQUEST, "the cursor belongs to a list with other filters")
    return position


def _digest(filters: Request) -> str:
    return hashlib.sha256(filters.model_dump_json(exclude={"cursor", "limit"}).encode()).hexdigest()[:16]
