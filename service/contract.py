"""What each handler says of itself, for the OpenAPI description: what it reads, answers and refuses."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from service.problems import Problem
from service.request_schemas import NoQuery, Request

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

Content = type[BaseModel] | UnionType | dict[str, Any] | str | tuple[str, ...] | None
"""A model (or one of several) or a schema sent as JSON, other media types, or no body at all."""

OBJECT: dict[str, Any] = {"type": "object"}
"""A JSON object of any shape."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One handler's side of the contract; decorates it.

    Args:
        tag: under which heading it is shown.
        answers: what it sends, by status.
        query: the model of its query.
        body: the model or the schema of its JSON body; `lines`: the model of each line of an NDJSON one.
        is_body_needed: False when it may be left out.
        problems: what it refuses with, beside what every handler of its kind does.
        reads: names of the request headers it heeds.
        tells: names of the headers of its answers.
    """

    tag: str
    answers: Mapping[int, Content]
    query: type[Request] = NoQuery
    body: type[Request] | dict[str, Any] | None = None
    lines: type[Request] | None = None
    is_body_needed: bool = True
    problems: tuple[Problem, ...] = ()
    reads: tuple[str, ...] = ()
    tells: tuple[str, ...] = ()

    def __call__(self, handler: Handler) -> Handler:
        """Mark a handler with it."""
        handler.operation = self  # type: ignore[attr-defined]
        return handler
