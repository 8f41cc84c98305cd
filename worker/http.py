"""A small server in each worker, for whoever watches over it: do its loops turn, can it work, and metrics."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import orjson
from aiohttp import web

from service.core import metrics
from service.core.http_runner import HttpRunner
from service.core.readiness import OK, Looks, ask_dependencies, open_looks
from worker.context import Context

PATIENCE_S = 30.0
"""A loop that has not turned for so long, nor for ten times its interval, stands still."""

_INTERVALS = 10
_LEASES = 2
_TAKEN_AGAIN_S = 5.0
_KEEPALIVE_S = 15.0
_MAX_BYTES = 4096
_SAFE_HEADERS = {
    "Server": "Autos",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

CONTEXT = web.AppKey("context", Context)
_LOOKS = web.AppKey("looks", Looks)
_PATIENCE = web.AppKey("patience", float)

log = logging.getLogger(__name__)


def create_app(context: Context, *, patience_s: float = PATIENCE_S) -> web.Application:
    """Compose the application.

    Args:
        patience_s: for tests only.
    """
    app = web.Application(client_max_size=_MAX_BYTES)
    app[CONTEXT] = context
    app[_PATIENCE] = patience_s
    app.cleanup_ctx.append(_looks)
    app.on_response_prepare.append(_add_safe_headers)
    app.add_routes(
        [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", show_metrics)]
    )
    return app


async def _looks(app: web.Application) -> AsyncIterator[None]:
    async with open_looks(partial(_ask, app[CONTEXT])) as app[_LOOKS]:
        yield


async def healthz(request: web.Request) -> web.Response:
    """Say whether the loops of this worker turn; one that does not is a reason to end the process."""
    context = request.app[CONTEXT]
    still = {} if context.stopping.is_set() else list_still(context, patience_s=request.app[_PATIENCE])
    return _answer("stuck" if still else OK, still, status=503 if still else 200)


async def readyz(request: web.Request) -> web.Response:
    """Say whether this worker can work: it needs PostgreSQL, Redis and S3.

    A portal that is left alone for a while is no reason to take it for unfit: jobs wait for the portal.
    """
    if request.app[CONTEXT].stopping.is_set():
        return _answer("draining", {}, status=503)
    checks = await request.app[_LOOKS].states()
    if any(state != OK for name, state in checks.items() if name != "portal"):
        return _answer("unavailable", checks, status=503)
    return _answer("ready" if checks["portal"] == OK else "degraded", checks)


async def show_metrics(request: web.Request) -> web.Response:
    """Show the metrics of this process, for Prometheus; with `AUTOS_METRICS_TOKEN` to its bearer only."""
    token = request.app[CONTEXT].settings.metrics_token
    given = request.headers.get("Authorization", "")
    if not metrics.may_see(given, token.get_secret_value() if token else None):
        return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="autos"'})
    content_type, body = metrics.render(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


def list_still(context: Context, *, patience_s: float = PATIENCE_S) -> dict[str, str]:
    """Return what stands still in a worker that runs, and for how long."""
    settings, still = context.settings, dict[str, str]()
    for loop, since_s in context.beats.since_s().items():
        # The polls have an interval of their own, which is shorter than any patience.
        interval_s = settings.sweep_interval_s if loop == "sweep" else 0.0
        if since_s > max(patience_s, _INTERVALS * interval_s):
            still[loop] = f"has not turned for {since_s:.0f} s"
    silent_s = max((run.silent_s for run in context.runs), default=0.0)
    if silent_s > max(patience_s, _LEASES * settings.lease_s):
        still["heartbeat"] = f"a job's has not turned for {silent_s:.0f} s"
    return still


async def _ask(context: Context) -> dict[str, str]:
    checks, portal = await asyncio.gather(
        ask_dependencies(context.db, context.queue, context.storage), context.sources.look()
    )
    shut_s = portal.shut_ms / 1000 if portal else 0.0
    checks["portal"] = f"it kept failing and is left alone for {shut_s:.0f} s" if shut_s else OK
    return checks


def _answer(said: str, checks: Mapping[str, str], *, status: int = 200) -> web.Response:
    body = orjson.dumps({"status": said, "checks": checks})
    return web.Response(body=body, content_type="application/json", status=status)


def _refuse(status: int, detail: str, request_id: str) -> web.Response:
    headers = _SAFE_HEADERS | {"X-Request-ID": request_id}
    return web.Response(text=f"{detail}\n", status=status, headers=headers)


async def _add_safe_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_SAFE_HEADERS)


@asynccontextmanager
async def open_http(context: Context, *, patience_s: float = PATIENCE_S) -> AsyncIterator[None]:
    """Answer until the block ends, if the settings name a port.

    A port that is taken, as a rule by another worker of the host, ends nobody: it is tried again later.
    """
    if not context.settings.worker_port:
        yield
        return
    runner = HttpRunner(
        create_app(context, patience_s=patience_s),
        _refuse,
        max_line_bytes=_MAX_BYTES,
        keepalive_s=_KEEPALIVE_S,
        shutdown_s=0.5,
    )
    await runner.setup()
    listening = asyncio.create_task(
        _listen(runner, context.settings.worker_host, context.settings.worker_port)
    )
    try:
        yield
    finally:
        listening.cancel()
        await asyncio.wait([listening])
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    is_said = False
    while True:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            await site.stop()
            if not is_said:
                is_said = True
                log.warning("nobody hears how this worker is: %s:%d is not to be had (%s)", host, port, error)
            await asyncio.sleep(_TAKEN_AGAIN_S)
        else:
            log.info("tells how it is on %s:%d", host, port)
            return
