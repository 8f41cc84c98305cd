"""Two sources: the same documents from either, each court's from its own, and no list read in vain."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.core import documents
from service.sandbox.cases import Special, expected_documents, special_number
from tests.conftest import MakeSettings
from tests.world import Caller, DataLakeStandIn, World, open_data_lake_stand_in, open_world

CASE = "1003579-22.2025.8.26.0564"
FEDERAL = "5046512-94.2016.4.04.7000"
pytestmark = pytest.mark.integration


@asynccontextmanager
async def open_lake_world(
    make_settings: MakeSettings, **settings: Any
) -> AsyncIterator[tuple[World, DataLakeStandIn]]:
    """An Autos for which everything comes from the data lake, unless `settings` say otherwise."""
    async with open_data_lake_stand_in() as lake:
        made = make_settings(**{"source": "data_lake", **lake.settings, **settings})
        async with open_world(made) as world:
            yield world, lake


async def _fetch(caller: Caller, number: str, **query: Any) -> dict[str, Any]:
    await caller.get(f"/processes/{number}", params=query)
    return await caller.wait_until_final(number)


async def _consulted_at(caller: Caller) -> str:
    answer = await caller.get(f"/processes/{CASE}", params={"auto_download": "false"})
    return str(answer.json["last_consultation"])


def _documents(final: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    members = ("sha256", "size", "mime_type", "name", "position", "type", "secrecy_level")
    return {one["uuid"]: tuple(one.get(member) for member in members) for one in final["documents"]}


async def test_the_same_process_from_either_source_is_the_same_documents(
    empty: None, make_settings: MakeSettings
) -> None:
    async with open_lake_world(make_settings) as (world, lake):
        caller = await world.caller()
        by_data_lake = await _fetch(caller, CASE)
        assert world.portal.processes.total() == world.portal.binaries.total() == 0
        assert (by_data_lake["status"], by_data_lake["completed_documents"]) == ("completed", 26)
        by_row = {one["uuid"]: one["id"] for one in by_data_lake["documents"]}
        # Some were prepared first, which is no attempt; all came by links that no token was sent to.
        assert any(times > 1 for times in lake.files.asked.values())
        assert set(lake.state.binaries.values()) == {1}
        assert {one["attempts"] for one in by_data_lake["documents"]} == {1}
        assert lake.files.leaks == 0
    async with open_world(make_settings()) as world:
        caller = await world.caller()
        # The same rows, listed by the other source: nothing is fetched anew.
        again = await _fetch(caller, CASE, force_refresh="true")
        assert {one["uuid"]: one["id"] for one in again["documents"]} == by_row
        assert world.portal.binaries.total() == 0
        assert _documents(again) == _documents(by_data_lake)
        async with world.db.transaction() as conn:
            await conn.execute("truncate processes, jobs cascade")
        by_portal = await _fetch(caller, CASE)
    assert _documents(by_portal) == _documents(by_data_lake)
    assert {one.uuid: one.sha256 for one in expected_documents(CASE)} == {
        one["uuid"]: one["sha256"] for one in by_portal["documents"]
    }


async def test_each_court_has_the_source_that_is_chosen_for_it(
    empty: None, make_settings: MakeSettings
) -> None:
    async with open_lake_world(make_settings, source="portal", source_by_court="4.04=data_lake") as (
        world,
        lake,
    ):
        caller = await world.caller()
        for number in (CASE, FEDERAL):
            assert (await _fetch(caller, number))["status"] == "completed"
        assert set(world.portal.processes) == {"10035792220258260564"}
        assert set(lake.state.processes) == {"50465129420164047000"}
        texts = [
            (await caller.get(f"/documents/{one['id']}/text")).status
            for one in (await caller.get(f"/processes/{FEDERAL}/status")).json["documents"][:6]
        ]
        assert set(texts) == {200, 404}
        # A limit and a breaker of its own for each: what one source does is nothing to the other.
        lake.state.outage = 401
        await caller.get(f"/processes/{FEDERAL}", params={"force_refresh": "true"})
        await world.until("select exists (select from jobs where waiting_reason = 'upstream_auth')")
        assert (await _fetch(caller, special_number(Special.EMPTY)))["status"] == "completed"


async def test_a_process_that_has_not_changed_is_not_listed_again(
    empty: None, make_settings: MakeSettings
) -> None:
    growing = special_number(Special.GROWING)
    async with open_lake_world(make_settings, fresh_s=0) as (world, lake):
        caller = await world.caller()
        first = await _fetch(caller, CASE)
        reads, consulted_at = lake.state.processes.total(), await _consulted_at(caller)
        second = await _fetch(caller, CASE)
        assert second["job_id"] != first["job_id"]
        assert (second["status"], second["completed_documents"]) == ("completed", 26)
        assert lake.state.processes.total() == reads
        assert await _consulted_at(caller) > consulted_at
        # Who insists gets the list read, and so does a list that is a day old, or of elsewhere.
        await _fetch(caller, CASE, force_refresh="true")
        assert lake.state.processes.total() == reads + 1
        for change in ("read_at = read_at - interval '25 h'", "listed_at = listed_at - interval '1 s'"):
            async with world.db.connection() as conn:
                await conn.execute(f"update known_lists set {change}")
            reads = lake.state.processes.total()
            await _fetch(caller, CASE)
            assert lake.state.processes.total() == reads + 1
        # One that has changed is listed again.
        assert (await _fetch(caller, growing))["total_documents"] == 4
        assert (await _fetch(caller, growing))["total_documents"] == 6


async def test_what_an_unchanged_list_still_lacks_is_fetched(
    empty: None, make_settings: MakeSettings
) -> None:
    async with open_lake_world(make_settings, fresh_s=0) as (world, lake):
        caller = await world.caller()
        await _fetch(caller, CASE)
        reads = lake.state.processes.total()
        async with world.db.connection() as conn:
            key = await conn.fetchval("select object_key from documents where position = 1")
            await documents.mark_missing(conn, key)
        final = await _fetch(caller, CASE)
    assert (final["status"], final["completed_documents"]) == ("completed", 26)
    assert lake.state.processes.total() == reads
    assert sorted(lake.state.binaries.values()) == [1] * 25 + [2]


ENDS = {
    Special.UNKNOWN: ("failed", "not_found"),
    Special.NO_ACCESS: ("failed", "no_access"),
    Special.SEALED: ("failed", "secrecy_above_limit"),
    Special.CODEX_SOME: ("partial", None),
    Special.FLAKY: ("completed", None),
    Special.BUSY: ("completed", None),
    Special.EMPTY: ("completed", None),
    Special.TOKEN_EXPIRES: ("completed", None),
}


async def test_what_goes_wrong_at_the_portal_goes_wrong_alike_at_the_data_lake(
    empty: None, make_settings: MakeSettings
) -> None:
    async with open_lake_world(make_settings) as (world, lake):
        caller = await world.caller()
        for special in ENDS:
            await caller.get(f"/processes/{special_number(special)}")
        for special, end in ENDS.items():
            number = special_number(special)
            final = await caller.wait_until_final(number)
            assert (final["status"], final["error_code"]) == end, special
            served = [one for one in expected_documents(number) if one.is_served]
            assert final["completed_documents"] == (0 if end[0] == "failed" else len(served)), special
    assert lake.files.leaks == 0


async def test_a_document_that_is_never_ready_waits_for_the_schedule_and_costs_no_attempt(
    empty: None, make_settings: MakeSettings
) -> None:
    async with (
        open_data_lake_stand_in(prepare_s=600) as lake,
        open_world(make_settings(source="data_lake", **lake.settings, job_retry_delays_s=(600.0,))) as world,
    ):
        caller = await world.caller()
        await caller.get(f"/processes/{CASE}")
        await world.until("select exists (select from jobs where waiting_reason = 'not_ready')")
        await world.until("select run = 1 and what = 'retried' and reason = 'not_ready' from job_events")
        waiting = (await caller.get(f"/processes/{CASE}/status")).json
    pending = [one for one in waiting["documents"] if one["status"] == "pending"]
    assert len(pending) == len(range(2, 26, 4))
    assert {(one["attempts"], one["error_code"]) for one in pending} == {(0, "not_ready")}
    assert waiting["completed_documents"] == 26 - len(pending)
