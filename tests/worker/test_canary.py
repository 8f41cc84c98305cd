"""The canary goes the whole way again and again, and says how it went."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from service.core import canary, clients
from service.core.canary import CLIENT, Outcome
from service.core.cnj import parse_process_number
from service.sandbox.cases import Special, special_number
from tests.cases import case_numbers
from tests.world import World, until
from worker.canary import Canary
from worker.context import Context, open_context
from worker.main import open_worker

CASE = "1003579-22.2025.8.26.0564"
NUMBER = parse_process_number(CASE)


async def _is_due(world: World) -> None:
    async with world.db.connection() as conn:
        await conn.execute("update chores set due_at = now() where name = 'canary'")


@pytest.fixture
async def context(world: World) -> AsyncIterator[Context]:
    """A worker's resources beside a worker that does the work."""
    await _is_due(world)
    async with open_context(world.settings) as opened:
        yield opened


@pytest.fixture
async def idle(api: World) -> AsyncIterator[Context]:
    """A worker's resources where nobody works."""
    await _is_due(api)
    async with open_context(api.settings) as opened:
        yield opened


async def _outcome(world: World, number: str = NUMBER) -> Outcome:
    async with world.db.connection() as conn:
        return await canary.outcome(conn, number)


async def _sung(world: World, context: Context, number: str = NUMBER) -> Outcome:
    """Let it begin, wait for the end of its job, and have that noted."""
    await _is_due(world)
    await Canary(context, number).look()
    await world.until("select bool_and(finished_at is not null) from jobs where process_number = $1", number)
    await Canary(context, number).look()
    return await _outcome(world, number)


async def _jobs(world: World) -> list[UUID]:
    async with world.db.connection() as conn:
        return [row["id"] for row in await conn.fetch("select id from jobs order by created_at")]


async def _stored(context: Context, number: str = NUMBER) -> set[str]:
    listed = context.storage.list_objects(f"processes/{number}/")
    return {one.key async for page in listed for one in page}


async def test_one_that_is_complete_says_when_and_how_long_it_took(world: World, context: Context) -> None:
    sung = await _sung(world, context)
    assert sung.succeeded_at is not None
    assert sung.took_s is not None
    assert sung.took_s > 0
    assert (sung.failed_at, sung.failure) == (None, None)
    async with world.db.connection() as conn:
        assert await conn.fetchval("select succeeded_at = (select finished_at from jobs) from canaries")
        client = await clients.get(conn, CLIENT)
        assert await conn.fetchval("select client_id from jobs") == client.id
        assert await conn.fetchval("select count(*) from api_keys") == 0


async def test_everything_is_fetched_and_stored_anew_each_time_and_nothing_is_left_behind(
    world: World, context: Context
) -> None:
    number = parse_process_number(case_numbers(1, first=3_000_000)[0])  # of which nobody has stored anything
    await _sung(world, context, number)
    first = await _stored(context, number)
    await _sung(world, context, number)
    second = await _stored(context, number)
    assert set(world.portal.binaries.values()) == {2}
    assert len(first) == len(second) == len(world.portal.binaries) > 0
    assert first.isdisjoint(second)
    assert len(await _jobs(world)) == 2


async def test_what_another_client_has_is_not_taken_from_him(world: World, context: Context) -> None:
    await _sung(world, context)
    caller = await world.caller()
    await caller.get(f"/processes/{CASE}")
    before, stored = await caller.wait_until_final(CASE), await _stored(context)
    sung = await _sung(world, context)
    assert len(await _jobs(world)) == 2
    assert sung.failure is None
    assert await _stored(context) == stored
    assert world.portal.binaries == Counter(dict.fromkeys(world.portal.binaries, 1))
    content = await caller.get(before["documents"][0]["content_url"].removeprefix(world.settings.public_url))
    assert content.status == 302


@pytest.mark.parametrize(
    ("special", "failure"),
    [
        (Special.UNKNOWN, "not_found"),
        (Special.CODEX_SOME, "partial"),
        (Special.CODEX_ALL, "all_documents_failed"),
    ],
)
async def test_one_that_is_not_complete_says_why(
    world: World, context: Context, special: Special, failure: str
) -> None:
    sung = await _sung(world, context, parse_process_number(special_number(special)))
    assert (sung.succeeded_at, sung.failure) == (None, failure)
    assert sung.failed_at is not None
    assert sung.took_s is not None


async def test_a_failure_stays_to_be_seen_beside_a_later_success(world: World, context: Context) -> None:
    await _sung(world, context)
    async with world.db.connection() as conn:
        await conn.execute("update canaries set failed_at = now() - interval '1 h', failure = 'not_found'")
    sung = await _sung(world, context)
    assert sung.failed_at is not None
    assert sung.succeeded_at is not None
    assert (sung.failure, sung.succeeded_at > sung.failed_at) == ("not_found", True)


@pytest.mark.parametrize("reason", [None, "portal_unavailable"])
async def test_one_that_hangs_has_failed_when_the_next_is_due_and_is_joined_by_it(
    api: World, idle: Context, reason: str | None
) -> None:
    await Canary(idle, NUMBER).look()
    assert await _outcome(api) == Outcome()
    async with api.db.connection() as conn:
        await conn.execute("update jobs set waiting_reason = $1", reason)
    await Canary(idle, NUMBER).look()
    assert await _outcome(api) == Outcome()
    await _is_due(api)
    await Canary(idle, NUMBER).look()
    hung = await _outcome(api)
    assert (hung.succeeded_at, hung.failure) == (None, reason or "timed_out")
    assert len(await _jobs(api)) == 1
    async with open_worker(api.settings):
        await api.until("select bool_and(finished_at is not null) from jobs")
    await Canary(idle, NUMBER).look()
    assert (await _outcome(api)).succeeded_at is not None


async def test_one_of_all_workers_begins_it(api: World, idle: Context) -> None:
    await asyncio.gather(*(Canary(idle, NUMBER).look() for _ in range(6)))
    assert len(await _jobs(api)) == 1
    async with api.db.connection() as conn:
        assert await conn.fetchval("select count(*) from subscriptions") == 1


async def test_it_joins_a_job_that_others_began_and_counts_from_its_own_beginning(
    world: World, context: Context
) -> None:
    number = special_number(Special.SLOW)
    caller = await world.caller()
    await caller.get(f"/processes/{number}")
    await until(lambda: world.portal.in_flight > 0)
    sung = await _sung(world, context, parse_process_number(number))
    assert len(await _jobs(world)) == 1
    async with world.db.connection() as conn:
        whole_s = await conn.fetchval("select extract(epoch from finished_at - created_at) from jobs")
    assert sung.took_s is not None
    assert 0 < sung.took_s < whole_s


async def test_a_worker_begins_it_by_itself_when_a_number_is_set(api: World) -> None:
    await _is_due(api)
    async with open_worker(api.settings.model_copy(update={"canary_number": NUMBER})):
        await api.until("select exists (select from jobs where status = 'completed')")
    async with api.db.connection() as conn:
        assert await conn.fetchval("select name from clients") == CLIENT


async def test_without_a_number_there_is_none(world: World) -> None:
    """Whatever a worker does at all, it does until its second sweep."""
    await _is_due(world)
    await world.until("select done_at is not null from chores where name = 'sweep'")
    async with world.db.connection() as conn:
        assert await conn.fetchval("select due_at <= now() from chores where name = 'canary'")
