"""What ended long ago is forgotten with all that hangs on it, and nothing else is."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.core import retention, submission
from service.core.cnj import parse_process_number
from service.core.wishes import Wish
from tests.cases import case_numbers
from tests.receiver import Receiver
from tests.world import World
from worker.context import Context, open_context
from worker.janitor import Janitor

OLD, YOUNG = case_numbers(2)
TABLES = (
    *("processes", "documents", "jobs", "job_events", "subscriptions", "batches", "batch_items"),
    *("deliveries", "delivery_attempts"),
)


@pytest.fixture
async def context(world: World) -> AsyncIterator[Context]:
    async with open_context(world.settings) as opened:
        yield opened


async def _fetched(world: World, *numbers: str, **body: Any) -> None:
    caller = await world.caller()
    await caller.post("/jobs/batch", json={"process_numbers": numbers, **body})
    for number in numbers:
        assert (await caller.wait_until_final(number))["status"] == "completed"


async def _age(world: World, number: str, *, days: int = 40) -> None:
    """Let everything of a process, and what has ended with it, have happened so long ago."""
    async with world.db.transaction() as conn:
        ids = "select id from jobs where process_number = $1"
        for statement in (
            f"update deliveries set finished_at = finished_at - $2::interval where job_id in ({ids})",
            f"""update batches set finished_at = finished_at - $2::interval
                where id in (select batch_id from batch_items where job_id in ({ids}))""",
            "update jobs set finished_at = finished_at - $2::interval where process_number = $1",
        ):
            await conn.execute(statement, parse_process_number(number), timedelta(days=days))


def _without_links(status: dict[str, Any]) -> dict[str, Any]:
    """Without the links of the documents, which are signed anew, with the second, at each look."""
    for document in status["documents"]:
        assert document.pop("download_url")
    return status


async def _forget(context: Context) -> None:
    janitor = Janitor(context, min_age=timedelta(0))
    await janitor.forget_ended(before=datetime.now(UTC) - timedelta(days=30))
    await janitor.clean()


async def _rows(world: World) -> dict[str, int]:
    async with world.db.connection() as conn:
        return {table: await conn.fetchval(f"select count(*) from {table}") for table in TABLES}


async def _known(world: World) -> set[str]:
    """The objects that rows name."""
    async with world.db.connection() as conn:
        rows = await conn.fetch("select object_key from documents")
    return {row["object_key"] for row in rows}


async def _stored(context: Context) -> set[str]:
    return {one.key async for page in context.storage.list_objects("") for one in page}


async def test_a_process_goes_with_its_last_job_and_its_objects_with_it(
    world: World, context: Context, receiver: Receiver
) -> None:
    await _fetched(world, YOUNG, webhook_url=receiver.url)
    await receiver.wait_for(1)
    await world.until("select bool_and(status = 'delivered') from deliveries")
    young, young_keys = await _rows(world), await _known(world)
    await _fetched(world, OLD, webhook_url=receiver.url)
    await receiver.wait_for(2)
    await world.until("select bool_and(status = 'delivered') from deliveries")
    await _age(world, OLD)
    await _forget(context)
    assert await _rows(world) == young
    assert await _stored(context) == young_keys
    caller = await world.caller()
    assert (await caller.get(f"/processes/{OLD}/status")).status == 404
    assert (await caller.get(f"/processes/{YOUNG}/status")).status == 200
    await _fetched(world, OLD)


async def test_an_old_job_goes_and_what_a_newer_one_shows_stays(world: World, context: Context) -> None:
    await _fetched(world, OLD)
    await _age(world, OLD)
    caller = await world.caller()
    await caller.post("/jobs", json={"process_number": OLD, "max_age_s": 0})
    before = _without_links(await caller.wait_until_final(OLD))
    await _forget(context)
    assert _without_links(await caller.wait_until_final(OLD)) == before
    assert (await _rows(world))["jobs"] == 1


@pytest.mark.parametrize(
    "reason",
    [
        "update batches set finished_at = now()",
        """insert into deliveries (client_id, webhook_url, job_id, event, payload)
           select client_id, 'https://hooks.example.com', id, 'job.completed', '{}' from jobs""",
    ],
    ids=["its batch is young", "its webhook is still to be sent"],
)
async def test_a_job_stays_as_long_as_something_needs_it(world: World, context: Context, reason: str) -> None:
    await _fetched(world, OLD)
    await _age(world, OLD)
    async with world.db.connection() as conn:
        await conn.execute("update deliveries set next_attempt_at = now() + interval '1 h'")
        await conn.execute(reason)
    known = await _known(world)
    await _forget(context)
    assert (await _rows(world))["jobs"] == 1
    assert await _stored(context) == known


async def test_a_batch_stays_as_long_as_its_webhook_is_still_to_be_sent(
    world: World, context: Context
) -> None:
    await _fetched(world, OLD)
    await _age(world, OLD)
    async with world.db.connection() as conn:
        await conn.execute(
            """insert into deliveries (client_id, webhook_url, batch_id, event, payload, next_attempt_at)
               select client_id, 'https://example.com', id, 'batch.finished', '{}', now() + '1 h'::interval
               from batches"""
        )
    await _forget(context)
    rows = await _rows(world)
    assert (rows["batches"], rows["deliveries"], rows["jobs"]) == (1, 1, 1)
    async with world.db.connection() as conn:
        await conn.execute("update deliveries set status = 'dead', finished_at = now()")
    await _forget(context)
    assert set((await _rows(world)).values()) == {0}


async def test_deliveries_that_tell_of_no_job_go_by_themselves(world: World, context: Context) -> None:
    caller = await world.caller()
    async with world.db.connection() as conn:
        await conn.execute(
            """insert into deliveries (client_id, webhook_url, event, payload, status, finished_at)
               select $1, 'https://hooks.example.com', 'webhook.test', '{}', 'dead', now() - age
               from unnest('{1 day, 40 days}'::interval[]) age""",
            caller.client.id,
        )
    await _forget(context)
    assert (await _rows(world))["deliveries"] == 1


async def test_a_canary_of_the_past_goes_and_the_present_one_stays(world: World, context: Context) -> None:
    async with world.db.connection() as conn:
        await conn.execute(
            """insert into canaries (process_number, submitted_at)
               values ($1, now() - interval '40 days'), ($2, now())""",
            parse_process_number(OLD),
            parse_process_number(YOUNG),
        )
    await _forget(context)
    async with world.db.connection() as conn:
        left = await conn.fetchval("select array_agg(process_number) from canaries")
    assert left == [parse_process_number(YOUNG)]


async def test_who_asks_for_a_process_as_it_is_forgotten_has_it_fetched_anew(
    world: World, context: Context
) -> None:
    await _fetched(world, OLD)
    await _age(world, OLD)
    caller = await world.caller()
    wish = Wish(parse_process_number(OLD), max_age_s=0)
    before = datetime.now(UTC) - timedelta(days=30)
    async with context.db.transaction() as conn:
        await retention.forget_batches(conn, ended_before=before)
        assert await retention.forget_jobs(conn, ended_before=before, after=None)

        async def ask() -> None:
            async with context.db.transaction() as other:
                await submission.submit(other, wish, caller.client.id, settings=world.settings)

        asking = asyncio.create_task(ask())
        await world.until("select exists (select from pg_stat_activity where wait_event_type = 'Lock')")
    await asking
    assert (await caller.wait_until_final(OLD))["status"] == "completed"


async def test_accesses_are_forgotten_by_an_age_of_their_own(api: World) -> None:
    caller = await api.caller()
    async with api.db.connection() as conn:
        await conn.execute(
            """insert into accesses (at, client_id, action, subject, documents)
               select now() - age, $1, 'job.files', gen_random_uuid(), 1
               from unnest('{29 days, 31 days}'::interval[]) age""",
            caller.client.id,
        )
        left = []
        for days in (None, 30):
            async with open_context(api.settings.model_copy(update={"audit_days": days})) as context:
                await Janitor(context).clean()
            left.append(await conn.fetchval("select count(*) from accesses"))
    assert left == [2, 1]
