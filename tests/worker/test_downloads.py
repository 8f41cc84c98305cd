"""Documents wait long for their places; what changed meanwhile is heard of before the portal is asked."""

import asyncio

from service.sandbox.cases import Special, special_number
from tests.conftest import MakeSettings
from tests.world import World, open_world
from worker.main import open_worker

NUMBER = special_number(Special.THOUSAND)


async def _under_way(world: World) -> None:
    async with asyncio.timeout(30):
        while sum(world.portal.binaries.values()) < 20:
            await asyncio.sleep(0.01)


async def test_documents_that_wait_while_the_token_is_refused_do_not_ask_the_portal(
    empty: None, make_settings: MakeSettings
) -> None:
    settings = make_settings(portal_concurrency=1, portal_pause_s=600)
    async with open_world(settings) as world:
        caller = await world.caller()
        await caller.get(f"/processes/{NUMBER}")
        await _under_way(world)
        world.portal.outage = 401
        async with asyncio.timeout(30):
            while (await caller.get(f"/processes/{NUMBER}/status")).json["waiting_reason"] != "upstream_auth":
                pass
        assert world.portal.turned_away == 1


async def test_documents_that_wait_while_the_process_stops_do_not_ask_the_portal(
    empty: None, make_settings: MakeSettings
) -> None:
    settings = make_settings(portal_concurrency=1)
    async with open_world(settings, with_worker=False) as world:
        caller = await world.caller()
        async with open_worker(world.settings):
            await caller.get(f"/processes/{NUMBER}")
            await _under_way(world)
            before = sum(world.portal.binaries.values())
        assert sum(world.portal.binaries.values()) <= before + 1  # the one that had its place
        status = (await caller.get(f"/processes/{NUMBER}/status")).json
        assert (status["status"], status["processing_documents"]) == ("pending", 0)
        assert {one["status"] for one in status["documents"]} == {"available", "pending"}
        assert {one["attempts"] for one in status["documents"] if one["status"] == "pending"} == {0}
