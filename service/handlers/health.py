"""Health: does the loop live, and can it serve."""

import asyncio
from collections.abc import Awaitable

import orjson
from aiohttp import web

from service.contract import Operation
from service.core.errors import DatabaseUnavailableError, StorageUnavailableError
from service.core.queue import REDIS_ERRORS
from service.keys import DATABASE, DRAINING, QUEUE, STORAGE
from service.middleware import public
from service.schemas import HealthAnswer, ReadyAnswer

_CHECK_TIMEOUT_S = 2.5


@Operation("service", {200: HealthAnswer})
@public
async def healthz(_request: web.Request) -> web.Response:
    """The event loop turns."""
    return web.json_response({"status": "ok"})


@Operation("service", {200: ReadyAnswer, 503: ReadyAnswer}, tells=("Retry-After",))
@public
async def readyz(request: web.Request) -> web.Response:
    """Say which dependencies answer.

    Only PostgreSQL decides: without Redis jobs are still accepted, and links are signed without S3. A process
    that is about to end says so, for others to send nothing more to it.
    """
    app = request.app
    if app[DRAINING].is_set():
        return web.json_response({"status": "draining", "checks": {}}, status=503)
    database, redis, storage = await asyncio.gather(
        _state(_ask_database(request)), _state(app[QUEUE].check()), _state(app[STORAGE].check())
    )
    is_ready = database == "ok"
    checks = {"database": database, "redis": redis, "storage": storage}
    status = "ready" if all(state == "ok" for state in checks.values()) else "degraded"
    body = {"status": status if is_ready else "unavailable", "checks": checks}
    headers = {} if is_ready else {"Retry-After": "2"}
    return web.Response(
        body=orjson.dumps(body),
        status=200 if is_ready else 503,
        content_type="application/json",
        headers=headers,
    )


async def _ask_database(request: web.Request) -> None:
    async with request.app[DATABASE].connection() as conn:
        await conn.fetchval("select 1")


async def _state(check: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            await check
    except (DatabaseUnavailableError, StorageUnavailableError, *REDIS_ERRORS) as error:
        return f"unavailable: {type(error).__name__}"
    return "ok"
