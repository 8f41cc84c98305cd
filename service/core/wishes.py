"""Wishes: what a caller asks for when it asks for a process, and how two wishes become one job."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from service.core.states import Priority

Filters = list[dict[str, Any]] | None
"""Which documents a job brings in: None is all, else those that any of the filters names.

A filter has one or more of `types` (names of types, in lower case), `ids` (ours or the portal's),
`filed_from` and `filed_until` (days, included), and names what fits all that it has. What fits is decided in
`schema.sql` (`document_is_wanted`).
"""


@dataclass(frozen=True, slots=True)
class Wish:
    """One process that a caller asks for.

    Attributes:
        number: its 20 digits.
        webhook_url: in canonical form; None for who polls, or names an endpoint.
        endpoint_id: the client's endpoint that is told in place of a URL.
        events: the types of event that `webhook_url` is told of beside a job's end; an endpoint has its own.
        reference: the caller's own name for it, echoed wherever the job is shown.
        deadline_s: seconds after which a job made for this wish ends with what it has; None for the setting.
        max_age_s: how old the portal's list of documents may be at most; None for the setting.
        traceparent: of the request; None for a trace of the job's own.
    """

    number: str
    webhook_url: str | None = None
    endpoint_id: UUID | None = None
    events: tuple[str, ...] = ()
    reference: str | None = None
    priority: Priority = Priority.NORMAL
    filters: Filters = None
    deadline_s: int | None = None
    max_age_s: int | None = None
    traceparent: str | None = None

    @property
    def is_told(self) -> bool:
        """Whether it names a place for webhooks."""
        return self.webhook_url is not None or self.endpoint_id is not None


def covers(filters: Filters, wished: Filters) -> bool:
    """Whether a job with these filters brings in everything that is wished for."""
    if filters is None:
        return True
    return wished is not None and all(one in filters for one in wished)


def widened(filters: Filters, wished: Filters) -> Filters:
    """Return the filters of a job that serves both."""
    if filters is None or wished is None:
        return None
    return filters + [one for one in wished if one not in filters]
