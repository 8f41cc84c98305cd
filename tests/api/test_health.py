"""Health: what is asked without a key, and what decides."""

import asyncio

import pytest

from service.core.db import Connection
from service.core.settings import Settings
from tests.cli.front import open_front
from tests.conftest import MakeSettings
from tests.world import World, open_world, until

pytestmark = pytest.mark.integration


async def test_the_loop_lives_and_everything_answers(api: World) -> None:
    for path in ("/healthz", "/api/v1/healthz"):
        async with api.http.get(api.base_url + path) as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})
    async with api.http.get(f"{api.base_url}/readyz") as response:
        assert response.status == 200
        assert await response.json() == {
            "status": "ready",
            "checks": {"database": "ok", "redis": "ok", "storage": "ok"},
        }


async def test_without_redis_and_s3_it_is_degraded_and_goes_on_serving(
    empty: None, make_settings: MakeSettings
) -> None:
    settings = make_settings(redis_url="redis://127.0.0.1:1/0", s3_endpoint_url="http://127.0.0.1:1")
    async with (
        open_world(settings, with_worker=False) as api,
        api.http.get(f"{api.base_url}/readyz") as response,
    ):
        assert response.status == 200
        body = await response.json()
    assert body["status"] == "degraded"
    assert body["checks"]["database"] == "ok"
    assert body["checks"]["redis"].startswith("unavailable")
    assert body["checks"]["storage"].startswith("unavailable")


async def test_however_many_ask_the_dependencies_are_asked_once_a_second(
    empty: None, make_settings: MakeSettings, settings: Settings
) -> None:
    async with (
        open_front(settings.s3_endpoint_url or "") as store,
        open_world(make_settings(s3_endpoint_url=store.url), with_worker=False) as api,
    ):
        caller = await api.caller()
        store.seen.clear()
        ready = await asyncio.gather(*(caller.get("/readyz") for _ in range(40)))
        assert {one.json["checks"]["storage"] for one in ready} == {"ok"}
        # On a busy machine more than one second may go by.
        assert len(store.asked("^HEAD")) < 10
        store.target = "http://127.0.0.1:1"
        async with asyncio.timeout(30):
            while (await caller.get("/readyz")).json["checks"]["storage"] == "ok":
                await asyncio.sleep(0.05)


async def test_without_a_worker_it_is_degraded_and_says_so(
    empty: None, conn: Connection, settings: Settings
) -> None:
    await conn.execute("update chores set done_at = now() - interval '5 min' where name = 'sweep'")
    async with open_world(settings, with_worker=False) as api:
        await until(lambda: api.pulses.latest is not None)
        caller = await api.caller()
        ready = await caller.get("/readyz")
    assert (ready.status, ready.json["status"]) == (200, "degraded")
    assert "no sweep for 30" in ready.json["checks"].pop("workers")
    assert set(ready.json["checks"].values()) == {"ok"}


async def test_with_a_worker_that_does_not_keep_up_it_is_degraded_and_says_so(api: World) -> None:
    caller = await api.caller()
    await caller.get("/processes/1003579-22.2025.8.26.0564")
    async with api.db.connection() as conn:
        await conn.execute("update jobs set next_attempt_at = now() - interval '1 h'")
    async with open_world(api.settings, with_worker=False) as other:
        await until(lambda: other.pulses.latest is not None)
        ready = await (await other.caller()).get("/readyz")
    assert (ready.status, ready.json["status"]) == (200, "degraded")
    assert "for 360" in ready.json["checks"]["jobs"]


async def test_every_answer_carries_the_safe_headers(api: World) -> None:
    for path in ("/healthz", "/nothing", "/problems/not-found"):
        async with api.http.get(api.base_url + path) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
