"""Health: does the loop live, and can it serve."""

import orjson
from aiohttp import web

from service.contract import Operation
from service.core.readiness import OK
from service.keys import DRAINING, LOOKS, PULSES
from service.middleware import public
from service.schemas import HealthAnswer, ReadyAnswer


@Operation("service", {200: HealthAnswer})
@public
async def healthz(_request: web.Request) -> web.Response:
    """The event loop turns."""
    return web.json_response({"status": "ok"})


@Operation("service", {200: ReadyAnswer, 503: ReadyAnswer}, tells=("Retry-After",))
@public
async def readyz(request: web.Request) -> web.Response:
    """Say which dependencies answer, and whether the workers keep up.

    Only PostgreSQL decides: without Redis jobs are still accepted, and links are signed without S3; without
    workers they wait. A process that is about to end says so, for others to send nothing more to it.
    """
    app = request.app
    if app[DRAINING].is_set():
        return web.json_response({"status": "draining", "checks": {}}, status=503)
    checks = {**await app[LOOKS].states(), **app[PULSES].doubts()}
    is_ready = checks["database"] == OK
    status = "ready" if all(state == OK for state in checks.values()) else "degraded"
    body = {"status": status if is_ready else "unavailable", "checks": checks}
    headers = {} if is_ready else {"Retry-After": "2"}
    return web.Response(
        body=orjson.dumps(body),
        status=200 if is_ready else 503,
        content_type="application/json",
        headers=headers,
    )
