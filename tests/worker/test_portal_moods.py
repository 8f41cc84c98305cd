"""The portal in a bad mood: jobs wait, say why, spend nothing, and go on when it is over."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from service.core import job_events
from tests.conftest import MakeSettings
from tests.world import Caller, World, open_world, until

CASE = "1003579-22.2025.8.26.0564"


async def _until_it_waits(caller: Caller, reason: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            status: dict[str, Any] = (await caller.get(f"/processes/{CASE}/status")).json
            if status["waiting_reason"] == reason:
                return status
            assert status["status"] in ("pending", "processing"), status
            await asyncio.sleep(0.02)


async def _retries_spent(world: World) -> tuple[int, int]:
    async with world.db.connection() as conn:
        retries = await conn.fetchval("select max(retries) from jobs")
        attempts = await conn.fetchval("select coalesce(max(attempts), 0) from documents")
    return retries, attempts


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "upstream_auth"), (403, "upstream_blocked"), (503, "portal_unavailable")]
)
async def test_a_job_waits_out_a_portal_that_serves_nobody(
    empty: None, make_settings: MakeSettings, status: int, reason: str
) -> None:
    settings = make_settings(portal_breaker_failures=2, portal_breaker_open_s=1.0, job_retry_delays_s=(60.0,))
    async with open_world(settings) as world:
        caller = await world.caller()
        world.portal.outage = status
        await caller.get(f"/processes/{CASE}")
        waiting = await _until_it_waits(caller, reason)
        assert waiting["status"] == "pending"
        assert waiting["next_attempt_at"]
        world.portal.outage = None
        assert (await caller.wait_until_final(CASE))["completed_documents"] == 26
        assert await _retries_spent(world) == (0, 1)
        async with world.db.connection() as conn:
            events = await job_events.list_of_job(conn, UUID(waiting["job_id"]))
    assert [(one.run, one.what, one.reason) for one in events[:2]] == [
        (1, "waits", reason),
        (2, "claimed", None),
    ]


async def test_a_portal_that_fails_is_left_alone_but_for_probes(
    empty: None, make_settings: MakeSettings
) -> None:
    settings = make_settings(portal_breaker_failures=2, portal_breaker_open_s=60)
    async with open_world(settings) as world:
        caller = await world.caller()
        world.portal.outage = 502
        for number in ("1003579-22.2025.8.26.0564", "0919992-11.2023.8.19.0001", "5316779-54.2023.8.13.0024"):
            await caller.get(f"/processes/{number}")
        await _until_it_waits(caller, "portal_unavailable")
        await until(lambda: world.portal.in_flight == 0)
        # Two failures open it; what was on its way by then is all that comes after them.
        assert world.portal.turned_away <= 2 + 3


async def test_only_the_deadline_ends_the_wait(empty: None, make_settings: MakeSettings) -> None:
    settings = make_settings(job_deadline_s=2, portal_breaker_failures=1, portal_breaker_open_s=0.2)
    async with open_world(settings) as world:
        caller = await world.caller()
        world.portal.outage = 503
        await caller.get(f"/processes/{CASE}")
        final = await caller.wait_until_final(CASE)
    assert (final["status"], final["error_code"]) == ("failed", "deadline_exceeded")
