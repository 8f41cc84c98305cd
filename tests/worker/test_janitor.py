"""The janitor removes what no row knows, marks what S3 has lost, and touches nothing else."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from pydantic import SecretStr

from service.core import chores
from service.core.settings import Settings
from service.sandbox.cases import Special, special_number
from tests.conftest import MakeSettings
from tests.databases import clock_apart
from tests.s3 import open_client
from tests.world import Caller, World
from worker.context import Context, open_context
from worker.janitor import Janitor

CASE = "1003579-22.2025.8.26.0564"
NOW = timedelta(0)


@pytest.fixture
async def context(world: World) -> AsyncIterator[Context]:
    async with open_context(world.settings) as opened:
        yield opened


async def _fetched(world: World, number: str = CASE) -> Caller:
    caller = await world.caller()
    await caller.get(f"/processes/{number}")
    assert (await caller.wait_until_final(number))["status"] == "completed"
    return caller


async def _clean(context: Context, min_age: timedelta = NOW) -> set[str]:
    """Clean, and return what is in the bucket afterwards."""
    await Janitor(context, min_age=min_age).clean()
    return {one.key async for page in context.storage.list_objects("") for one in page}


async def _put(context: Context, *keys: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    for key in keys:
        await context.storage.store(key, chunks(), media_type="text/html", expected_bytes=None, max_bytes=100)


async def _known(context: Context) -> set[str]:
    async with context.db.connection() as conn:
        rows = await conn.fetch("select object_key from documents where object_key is not null")
    return {row["object_key"] for row in rows}


async def test_objects_without_a_row_go_and_all_others_stay(world: World, context: Context) -> None:
    """Over more objects than S3 lists on one page."""
    await _fetched(world, special_number(Special.THOUSAND))
    known = await _known(context)
    # Before, between and after the known ones, and beside our prefix.
    strangers = ["processes/0/a/b.pdf", min(known) + "x", max(known) + "x", "processes/9/a/b.pdf"]
    foreign = ["backup/processes/1.pdf", "processesX/1.pdf"]
    await _put(context, *strangers, *foreign)
    left = await _clean(context)
    assert left == known | set(foreign)
    for key in foreign:
        await context.storage.delete(key)


async def test_what_is_younger_than_a_day_is_left_alone(world: World, context: Context) -> None:
    """A run that is under way has objects whose rows are not written yet."""
    await _put(context, "processes/0/young/b.pdf")
    assert "processes/0/young/b.pdf" in await _clean(context, min_age=timedelta(days=1))
    assert "processes/0/young/b.pdf" not in await _clean(context)


async def test_what_is_old_goes_by_the_databases_clock(
    world: World, context: Context, database_url: str, make_settings: MakeSettings
) -> None:
    """Ours is forty days ahead of it; what ended now is no older for that."""
    caller = await _fetched(world)
    await _put(context, "processes/0/young/b.pdf")
    async with context.db.connection() as conn:
        await conn.execute("update jobs set finished_at = now() - interval '40 days'")
    async with clock_apart(database_url, hours=-40 * 24) as url:
        changes = {"database_url": SecretStr(url), "retention_days": 30}
        async with open_context(world.settings.model_copy(update=changes)) as behind:
            left = await _clean(behind)
    assert (await caller.get(f"/processes/{CASE}/status")).status == 200
    assert left >= {"processes/0/young/b.pdf"} | await _known(context)
    assert "processes/0/young/b.pdf" not in await _clean(context)


async def test_old_uploads_are_aborted_and_young_or_foreign_ones_are_not(
    world: World, context: Context, settings: Settings
) -> None:
    async with open_client(settings) as s3:
        for key in ("processes/0/big/b.pdf", "other/big.pdf"):
            await s3.create_multipart_upload(Bucket=settings.bucket, Key=key)
        await _clean(context, min_age=timedelta(days=1))
        assert await _uploads(context) == {"processes/0/big/b.pdf", "other/big.pdf"}
        await _clean(context)
        assert await _uploads(context) == {"other/big.pdf"}
        await Janitor(context, min_age=NOW).abort_old_uploads("other/")


async def test_a_document_whose_object_is_gone_is_fetched_again_by_the_next_job(
    world: World, context: Context
) -> None:
    caller = await _fetched(world)
    tag = {"If-None-Match": (await caller.get(f"/processes/{CASE}/status")).headers["ETag"]}
    lost = sorted(await _known(context))[3]
    await context.storage.delete(lost)
    await _clean(context)
    assert (await caller.get(f"/processes/{CASE}/status", headers=tag)).status == 200
    files = (await caller.get(f"/processes/{CASE}/files")).json["documents"]
    assert [one["error_code"] for one in files if one["status"] == "failed"] == ["object_missing"]
    assert world.portal.binaries.total() == 26
    # Complete and fresh a moment ago: the loss alone is why a new job begins.
    await caller.get(f"/processes/{CASE}")
    assert (await caller.wait_until_final(CASE))["completed_documents"] == 26
    assert world.portal.binaries.total() == 27
    assert len(await _known(context)) == 26


async def test_it_lets_it_be_known_that_it_came_to_its_end(world: World, context: Context) -> None:
    await _fetched(world)
    async with context.db.connection() as conn:
        await _clean(context)
        assert await conn.fetchval("select done_at is not null from chores where name = 'janitor'")


async def test_an_empty_bucket_is_taken_for_the_wrong_one(
    world: World, context: Context, make_settings: MakeSettings
) -> None:
    await _fetched(world)
    wrong = world.settings.model_copy(update={"bucket": "autos-wrong"})
    async with open_context(wrong) as astray:
        await astray.storage.ensure_bucket()
        await Janitor(astray, min_age=NOW).clean()
    assert len(await _known(context)) == 26
    async with context.db.connection() as conn:
        # That was no cleaning.
        assert await conn.fetchval("select done_at from chores where name = 'janitor'") is None


async def test_one_of_all_workers_cleans_when_it_is_due(context: Context) -> None:
    async with context.db.connection() as conn:
        await conn.execute("update chores set due_at = now()")
        assert [await chores.claim(conn, "janitor", again_s=60) for _ in range(3)] == [True, False, False]
        await conn.execute("update chores set due_at = now() - interval '1 s'")
        assert await chores.claim(conn, "janitor", again_s=60)


async def _uploads(context: Context) -> set[str]:
    return {one.key async for page in context.storage.list_uploads("") for one in page}
