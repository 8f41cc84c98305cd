"""How many requests each route answers, how, and how long it takes; and the span of each request."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import NamedTuple

from aiohttp import web
from prometheus_client import Counter, Histogram

from service.core import metrics, traceparent, tracing
from service.keys import ORIGIN, WAITED_S

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PREFIX = "/api/v1"
# What callers may put into a path or a method without bound is told as one.
_NO_ROUTE = "none"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_METHOD = "other"


class _Answers(NamedTuple):
    """Those of one route with one class of status."""

    counter: Counter
    seconds: Histogram


# What `labels` looks up, at a fraction of its cost.
_known: dict[tuple[str, str, int], _Answers] = {}


@web.middleware
async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count and time each request, whatever comes of it; outside of all else."""
    if tracing.is_on():
        return await _trace(request, handler)
    since = perf_counter()
    response = await handler(request)
    _count(request, response.status, perf_counter() - since)
    return response


async def _trace(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Do the same in a span, a part of the caller's trace."""
    method, route = _names(request)
    since = perf_counter()
    with tracing.within(f"{method} {route}", _accepted(request), kind="server") as part:
        response = await handler(request)
        part.note(
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": response.status,
            }
        )
        if response.status >= 500:
            part.failed(str(response.status))
    _count(request, response.status, perf_counter() - since)
    return response


def origin(request: web.Request) -> str:
    """Return the `traceparent` for what this request begins: of its span, of its caller, or a new one."""
    known = request.get(ORIGIN)
    if known is None:
        # Once a request: all jobs of a batch are parts of one trace.
        known = request[ORIGIN] = tracing.current() or _accepted(request) or traceparent.new()
    return known


@contextmanager
def waiting(request: web.Request) -> Iterator[None]:
    """Leave the time of a block, in which the caller waits by his own wish, out of the request's."""
    since = perf_counter()
    try:
        yield
    finally:
        request[WAITED_S] = request.get(WAITED_S, 0.0) + perf_counter() - since


def _accepted(request: web.Request) -> str | None:
    return traceparent.accept(request.headers.getall(traceparent.HEADER, ()))


def _count(request: web.Request, status: int, took_s: float) -> None:
    key = (*_names(request), status // 100)
    known = _known.get(key)
    if known is None:
        method, route, status_class = key
        known = _known[key] = _Answers(
            metrics.HTTP_REQUESTS.labels(method, route, f"{status_class}xx"),
            metrics.HTTP_SECONDS.labels(method, route),
        )
    known.counter.inc()
    if not getattr(request.match_info.handler, "is_stream", False):
        known.seconds.observe(took_s - request.get(WAITED_S, 0.0))


def _names(request: web.Request) -> tuple[str, str]:
    """Return the method and the template of the route, one for both prefixes."""
    resource = request.match_info.route.resource
    method = request.method
    if resource is None:
        return method if method in _METHODS else _NO_METHOD, _NO_ROUTE
    return method, resource.canonical.removeprefix(_PREFIX)
