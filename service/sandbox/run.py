"""The whole world of Autos on one machine, opened in order and closed in the opposite one."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from urllib.parse import quote

import aiohttp
from aiohttp import web

from service.sandbox.backends import open_backends
from service.sandbox.cases import Special, special_number
from service.sandbox.children import Program, is_free, run_to_end
from service.sandbox.data_lake import FILES, create_data_lake
from service.sandbox.data_lake import PREFIX as DATA_LAKE_PREFIX
from service.sandbox.plan import API_KEY, ROOT, Plan
from service.sandbox.portal import PREFIX, create_portal
from service.sandbox.receiver import create_receiver
from service.sandbox.restarts import keep_running
from service.sandbox.state import SandboxError, lock_folder

CASE = "1003579-22.2025.8.26.0564"
DATA_LAKE_CASE = "5046512-94.2016.4.04.7000"

_READY_TIMEOUT_S = 60.0
_READY_POLL_S = 0.05
# What a stopping API or worker may take beyond its own time for draining, before it is killed.
_SPARE_S = 5.0


async def run(plan: Plan) -> None:
    """Run until cancelled, and leave nothing running.

    Raises:
        SandboxError: something is missing, taken, or did not start; the message says what to do.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(lock_folder(plan.state_dir))
        if not is_free(plan.host, plan.port):
            raise SandboxError(f"port {plan.port} of {plan.host} is taken; try AUTOS_PORT={plan.port + 100}")
        print(f"sandbox: starting, with its state in {plan.state_dir}", flush=True)
        secret = plan.webhook_secret()
        backends = await stack.enter_async_context(open_backends(plan.state_dir, plan.caller))
        portal = create_portal(latency_s=plan.latency_s, token=plan.portal_token)
        portal_url = await stack.enter_async_context(open_site(portal))
        data_lake_url = await stack.enter_async_context(_open_data_lake(plan))
        receiver = create_receiver(secret)
        receiver_url = await stack.enter_async_context(open_site(receiver, port=plan.port + 1))
        environ = plan.environ(backends.environ(plan.caller), portal_url + PREFIX, data_lake_url)
        environ["AUTOS_SECRET_KEYS"] = plan.secret_keys()
        await _prepare(plan, environ, secret)
        await stack.enter_async_context(keep_running(_programs(environ)))
        await _until_ready(plan.url)
        print(_banner(plan, secret, receiver_url), flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def open_site(app: web.Application, *, port: int = 0) -> AsyncIterator[str]:
    """Serve an application on 127.0.0.1 and yield its address; on any free port if the given one is taken."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
        except (OSError, OverflowError):
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _open_data_lake(plan: Plan) -> AsyncIterator[str]:
    """Serve the stand-in data lake and its files; yield the address of its API."""
    api, files = create_data_lake(latency_s=plan.latency_s, token=plan.data_lake_token)
    async with open_site(files) as files_url, open_site(api) as url:
        api[FILES].url = files_url
        yield url + DATA_LAKE_PREFIX


async def _prepare(plan: Plan, environ: Mapping[str, str], secret: str) -> None:
    """Bring schema, client and key into the database; nothing changes when they are there."""
    client = ("--client", "sandbox", "--key", API_KEY, "--webhook-secret", secret)
    scopes = ("--scopes", "read,write,operator,erase")
    for name, arguments in (
        ("db upgrade", ("db", "upgrade")),
        ("keys create", ("keys", "create", *client, *scopes)),
    ):
        log = plan.state_dir / f"{name.replace(' ', '-')}.log"
        command = [sys.executable, "-m", "service", *arguments]
        await run_to_end(Program(name=name, command=command, environ=environ, cwd=ROOT, log=log))


def _programs(environ: Mapping[str, str]) -> list[Program]:
    return [
        Program(
            name=name,
            command=[sys.executable, "-m", module],
            environ=environ,
            cwd=ROOT,
            stop_timeout_s=float(environ["AUTOS_DRAIN_S"]) + _SPARE_S,
        )
        for name, module in (("API", "service"), ("worker", "worker"))
    ]


async def _until_ready(url: str) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_READY_TIMEOUT_S), aiohttp.ClientSession(trust_env=False) as session:
            while True:
                if await _is_ready(session, url):
                    return
                await asyncio.sleep(_READY_POLL_S)
    raise SandboxError(f"the API at {url} is not ready after {_READY_TIMEOUT_S:g} s; see the output above")


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/readyz") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


def _banner(plan: Plan, secret: str, receiver_url: str) -> str:
    case = f"{plan.url}/processes/{CASE}"
    curl = f"curl -s -H 'X-API-Key: {API_KEY}'"
    return f"""
Autos is ready. Ctrl-C ends it.

  API             {plan.url}
  API key         {API_KEY}
  signing secret  {secret}
  receiver        {receiver_url}   (GET shows what came, newest first)

To look rather than read: open {plan.url} in a browser and sign in with the API key.

Start a case, watch it, list its files:

  {curl} '{case}?webhook_url={quote(receiver_url, safe="")}'
  {curl} {case}/status
  {curl} {case}/files

Any valid CNJ number is a case here. Some show a failure, for example {special_number(Special.CODEX_SOME)}
(some documents fail) and {special_number(Special.UNKNOWN)} (not found); the README lists them all.
Those of the TRF4, like {DATA_LAKE_CASE}, come from the second source, the data lake.
"""
