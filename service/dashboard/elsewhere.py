"""What is another client's: an operator is told whose it is, all others that there is no such thing."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import wraps
from uuid import UUID

from aiohttp import web

from service.core.db import Connection
from service.core.errors import NotFoundError
from service.dashboard.pages import SESSION, Handler, render
from service.handlers.jobs import path_uuid
from service.keys import DATABASE

Find = Callable[[Connection, Collection[UUID]], Awaitable[Mapping[UUID, Sequence[str]]]]
"""Returns the names of the clients who have each of the things."""


def or_whose(find: Find, name: str) -> Callable[[Handler], Handler]:
    """Let a page tell an operator which clients have what the client that he looks as does not have.

    Args:
        name: of the part of the path that is the thing's id.
    """

    def guard(handler: Handler) -> Handler:
        @wraps(handler)
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                return await handler(request)
            except NotFoundError:
                if not request[SESSION].is_operator:
                    raise
                one = path_uuid(request, name)
                async with request.app[DATABASE].connection() as conn:
                    names = (await find(conn, [one])).get(one)
                if not names:
                    raise
                return render(request, "elsewhere.html", status=404, names=names)

        return guarded

    return guard
