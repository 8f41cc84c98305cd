"""What a worker says of itself: whether its loops turn, and whether it can work."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID, uuid4

import aiohttp
import pytest
from redis.asyncio import Redis

from service.core.portal_shared import state_key
from service.core.queue import DELIVER, DELIVERIES_QUEUE, FETCH_PROCESS, JOBS_QUEUE
from service.core.settings import Settings
from service.sandbox.cases import Special, special_number
from service.sandbox.children import free_port
from tests.conftest import MakeSettings
from tests.faults.proxy import Mood, open_proxy
from tests.faults.test_backends_away import port_of, with_port
from tests.log_lines import log_lines
from tests.world import World, until
from worker.context import Context, Run, open_context
from worker.http import open_http
from worker.main import create_worker, open_worker
from worker.sweep import Sweep
from worker.tasks.fetch_process import fetch_process

SHORT_S = 0.2


@dataclass
class Said:
    """One answer."""

    status: int
    body: Any
    headers: dict[str, str]


async def _ask(settings: Settings, path: str, method: str = "GET") -> Said:
    url = f"http://127.0.0.1:{settings.worker_port}{path}"
    async with aiohttp.ClientSession() as http, http.request(method, url) as response:
        body = await response.json() if response.content_type == "application/json" else await response.text()
        return Said(response.status, body, dict(response.headers))


async def _answers(settings: Settings) -> bool:
    try:
        return (await _ask(settings, "/healthz")).status > 0
    except aiohttp.ClientError:
        return False


async def _until_it_answers(settings: Settings) -> None:
    async with asyncio.timeout(30):
        while not await _answers(settings):
            await asyncio.sleep(0.02)


async def _until_it_says(settings: Settings, path: str, status: int) -> Said:
    async with asyncio.timeout(30):
        while (said := await _ask(settings, path)).status != status:
            await asyncio.sleep(0.02)
    return said


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """With a port of the worker's own."""
    return make_settings(worker_port=free_port())


@asynccontextmanager
async def _watched(settings: Settings, *, patience_s: float = 30.0) -> AsyncIterator[Context]:
    """A worker's resources and its server; none of its loops."""
    async with open_context(settings) as context, open_http(context, patience_s=patience_s):
        await _until_it_answers(settings)
        yield context


async def test_a_worker_that_turns_and_can_work_says_so(empty: None, settings: Settings) -> None:
    async with open_worker(settings):
        await _until_it_answers(settings)
        health, ready = await _ask(settings, "/healthz"), await _ask(settings, "/readyz")
    assert (health.status, health.body) == (200, {"status": "ok", "checks": {}})
    checks = dict.fromkeys(("database", "redis", "storage", "portal"), "ok")
    assert (ready.status, ready.body) == (200, {"status": "ready", "checks": checks})


async def test_a_worker_answers_what_it_cannot_read_and_repeats_nothing_of_it(
    empty: None, settings: Settings
) -> None:
    async with _watched(settings):
        said = await _ask(settings, f"/metrics?{'a' * 5000}")
    assert (said.status, said.body) == (400, "the request has a line of more than 4096 bytes\n")
    assert said.headers["Server"] == "Autos"


async def test_each_loop_of_a_worker_notes_its_turns(empty: None, settings: Settings) -> None:
    async def nothing(_context: Context, _id: UUID) -> None: ...

    async with open_context(settings) as context:
        polls = [
            create_worker(context, name, nothing, queue, 1)
            for name, queue in ((FETCH_PROCESS, JOBS_QUEUE), (DELIVER, DELIVERIES_QUEUE))
        ]
        loops = [Sweep(context).run(), *(one.poll_until(context.stopping) for one in polls)]
        running = [asyncio.create_task(loop) for loop in loops]
        await until(lambda: len(context.beats.since_s()) == 3)
        begun_at = time.monotonic()
        # Each of them has turned since.
        await until(lambda: max(context.beats.since_s().values()) < time.monotonic() - begun_at)
        context.stopping.set()
        for one in polls:
            one.called.set()
        await asyncio.gather(*running)


async def test_a_sweep_that_stands_still_is_a_reason_to_end_the_worker(
    empty: None, settings: Settings
) -> None:
    settings = settings.model_copy(update={"sweep_interval_s": 0.01})
    async with _watched(settings, patience_s=SHORT_S) as context:
        sweeping = asyncio.create_task(Sweep(context).run())
        await until(lambda: "sweep" in context.beats.since_s())
        sweeping.cancel()
        said = await _until_it_says(settings, "/healthz", 503)
        assert said.body["status"] == "stuck"
        assert list(said.body["checks"]) == ["sweep"]
        assert "has not turned" in said.body["checks"]["sweep"]
        context.beats.note("sweep")
        assert (await _ask(settings, "/healthz")).status == 200


async def test_polls_that_stand_still_are_one_too(empty: None, settings: Settings) -> None:
    async with _watched(settings, patience_s=SHORT_S) as context:
        context.beats.note("polls for jobs")
        context.beats.note("polls for deliveries")
        said = await _until_it_says(settings, "/healthz", 503)
    assert set(said.body["checks"]) <= {"polls for jobs", "polls for deliveries"}


async def test_a_slow_sweep_is_given_ten_of_its_intervals(empty: None, settings: Settings) -> None:
    settings = settings.model_copy(update={"sweep_interval_s": 3600.0})
    async with _watched(settings, patience_s=0) as context:
        context.beats.note("sweep")
        context.beats.note("polls for jobs")
        said = await _until_it_says(settings, "/healthz", 503)
    assert list(said.body["checks"]) == ["polls for jobs"]


async def test_a_job_without_a_heartbeat_is_a_reason_too(empty: None, settings: Settings) -> None:
    settings = settings.model_copy(update={"lease_s": SHORT_S / 2})
    async with _watched(settings, patience_s=SHORT_S) as context:
        context.runs.add(Run(uuid4()))
        said = await _until_it_says(settings, "/healthz", 503)
    assert list(said.body["checks"]) == ["heartbeat"]


async def test_the_heartbeat_of_a_running_job_is_seen(api: World) -> None:
    """It has nothing to tell: the portal hangs."""
    caller = await api.caller()
    answer = await caller.post("/jobs", json={"process_number": special_number(Special.HANGING)})
    settings = api.settings.model_copy(update={"lease_s": 1.0})
    async with open_context(settings) as context:
        task = asyncio.create_task(fetch_process(context, UUID(answer.json["job_id"])))
        await until(lambda: bool(context.runs))
        (run,) = context.runs
        for _ in range(3):
            before = run.beat_at
            await until(lambda: run.beat_at > before)  # noqa: B023  # it is called before the next turn
        task.cancel()
        await asyncio.wait([task])


async def test_a_database_that_is_away_makes_a_worker_unfit_but_none_of_its_loops_stand_still(
    empty: None, make_settings: MakeSettings, database_url: str
) -> None:
    async with open_proxy(port_of(database_url)) as postgres:
        settings = make_settings(database_url=with_port(database_url, postgres.port), worker_port=free_port())
        async with _watched(settings) as context:
            sweeping = asyncio.create_task(Sweep(context).run())
            await postgres.set_mood(Mood.REFUSED)
            said = await _until_it_says(settings, "/readyz", 503)
            away_at = time.monotonic()
            await until(lambda: context.beats.since_s()["sweep"] < time.monotonic() - away_at)
            assert (await _ask(settings, "/healthz")).status == 200
            await postgres.set_mood(Mood.THROUGH)
            await _until_it_says(settings, "/readyz", 200)
            context.stopping.set()
            await sweeping
    assert said.body["status"] == "unavailable"
    assert said.body["checks"]["database"] == "unavailable: DatabaseUnavailableError"
    assert said.body["checks"]["storage"] == "ok"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"redis_url": "redis://127.0.0.1:1/0"}, "redis"),
        ({"s3_endpoint_url": "http://127.0.0.1:1"}, "storage"),
    ],
)
async def test_without_redis_or_s3_it_cannot_work_either(
    empty: None, make_settings: MakeSettings, change: dict[str, str], name: str
) -> None:
    settings = make_settings(worker_port=free_port(), **change)
    async with _watched(settings):
        said = await _ask(settings, "/readyz")
    assert (said.status, said.body["status"]) == (503, "unavailable")
    assert [one for one, state in said.body["checks"].items() if state != "ok"] == [name]


async def test_a_portal_that_is_left_alone_is_told_and_makes_nobody_unfit(
    empty: None, settings: Settings, redis_url: str
) -> None:
    async with _watched(settings), Redis.from_url(redis_url) as redis:
        seconds, _ = await redis.time()
        await cast("Awaitable[int]", redis.hset(state_key("portal"), "open_until", (seconds + 60) * 1000))
        said = await _ask(settings, "/readyz")
    assert (said.status, said.body["status"]) == (200, "degraded")
    assert "left alone" in said.body["checks"]["portal"]


async def test_a_worker_that_stops_is_not_ready_and_stands_still_for_nobody(
    empty: None, settings: Settings
) -> None:
    async with _watched(settings, patience_s=0) as context:
        context.beats.note("sweep")
        await _until_it_says(settings, "/healthz", 503)
        context.stopping.set()
        ready, health = await _ask(settings, "/readyz"), await _ask(settings, "/healthz")
    assert (ready.status, ready.body["status"]) == (503, "draining")
    assert health.status == 200


async def test_it_is_heard_until_what_runs_has_been_handed_back(api: World) -> None:
    settings = api.settings.model_copy(update={"worker_port": free_port(), "drain_s": 60.0})
    caller = await api.caller()
    stop, is_open = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with open_worker(settings):
            is_open.set()
            await stop.wait()

    working = asyncio.create_task(work())
    await is_open.wait()
    await caller.post("/jobs", json={"process_number": special_number(Special.SLOW)})
    await until(lambda: api.portal.in_flight > 0)
    stop.set()
    assert (await _until_it_says(settings, "/readyz", 503)).body["status"] == "draining"
    await working
    assert not await _answers(settings)


async def test_answers_are_safe_and_nothing_but_looking_is_allowed(empty: None, settings: Settings) -> None:
    async with _watched(settings):
        head = await _ask(settings, "/healthz", "HEAD")
        refused = [
            await _ask(settings, "/healthz", method) for method in ("POST", "PUT", "DELETE", "OPTIONS")
        ]
        unknown = await _ask(settings, "/jobs")
        long = await _ask(settings, "/healthz?" + "x" * 5000)
    assert (head.status, head.body) == (200, None)
    assert {one.status for one in refused} == {405}
    assert (unknown.status, long.status) == (404, 400)
    for said in (head, *refused, unknown):
        assert said.headers["X-Content-Type-Options"] == "nosniff"
        assert said.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert said.headers["Server"] == "Autos"


async def test_a_port_that_another_worker_has_ends_nobody_and_is_taken_when_it_is_free(
    empty: None, settings: Settings
) -> None:
    async with open_context(settings) as second:
        with log_lines() as lines:
            async with open_worker(settings):
                await _until_it_answers(settings)
                other = open_http(second)
                await other.__aenter__()
                await until(lambda: any("not to be had" in one["message"] for one in lines))
        second.stopping.set()
        # Who answers now is the other one.
        await _until_it_answers(settings)
        assert (await _ask(settings, "/readyz")).body["status"] == "draining"
        await other.__aexit__(None, None, None)
    assert sum("not to be had" in one["message"] for one in lines) == 1


async def test_without_a_port_nobody_listens(empty: None, make_settings: MakeSettings) -> None:
    with log_lines() as lines:
        async with open_worker(make_settings(worker_port=0)):
            pass
    assert not [one for one in lines if one["logger"] == "worker.http"]
