"""A Redis whose memory ends: refused at start-up if it would throw away keys, and survived if it is full."""

from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.core.queue import open_queue
from service.sandbox.redis import open_redis
from tests.conftest import MakeSettings
from tests.faults.children import run_to_end
from tests.world import open_world

CASE = "1003579-22.2025.8.26.0564"


@pytest.mark.parametrize("program", ["service", "worker"])
async def test_an_evicting_redis_is_refused_at_start_up(
    make_settings: MakeSettings, tmp_path: Path, program: str
) -> None:
    async with open_redis(tmp_path) as url, Redis.from_url(url) as redis:
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        status, said = await run_to_end(make_settings(redis_url=url, port=0), program)
    assert status == 1
    assert "allkeys-lru" in said
    assert "set it to noeviction" in said
    assert len(said.strip().splitlines()) == 1


async def test_a_redis_that_evicts_only_what_expires_is_warned_of(
    make_settings: MakeSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_redis(tmp_path) as url, Redis.from_url(url) as redis:
        await redis.config_set("maxmemory-policy", "volatile-lru")
        async with open_queue(make_settings(redis_url=url)):
            assert "volatile-lru" in caplog.text


async def test_a_full_redis_loses_nothing(empty: None, make_settings: MakeSettings, tmp_path: Path) -> None:
    """It refuses every ring; the job is done all the same once it takes them again."""
    async with (
        open_redis(tmp_path) as url,
        Redis.from_url(url) as redis,
        open_world(make_settings(redis_url=url)) as world,
    ):
        caller = await world.caller()
        await redis.config_set("maxmemory", "1")
        answer = await caller.post("/jobs", json={"process_number": CASE})
        assert (answer.status, answer.json["status"]) == (202, "pending")
        await redis.config_set("maxmemory", "0")
        assert (await caller.wait_until_final(CASE))["status"] == "completed"
