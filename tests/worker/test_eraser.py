"""The objects of an erased process go, those of whoever else has it stay, whatever comes when."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from service.core import object_keys
from service.core.cnj import parse_process_number
from service.core.errors import StorageUnavailableError
from service.sandbox.cases import Special, special_number
from tests.cases import case_numbers
from tests.erasures import ERASER, erased, finished, let_time_pass
from tests.s3 import open_client
from tests.world import Caller, World
from worker.context import Context, open_context
from worker.eraser import Eraser

(CASE,) = case_numbers(1, first=1_430_000)
DIGITS = parse_process_number(CASE)
PREFIX = object_keys.prefix(DIGITS)
IS_FINISHED = "select finished_at is not null from erasures where id = $1"


@pytest.fixture
async def context(api: World) -> AsyncIterator[Context]:
    """A worker's resources where nobody works."""
    async with open_context(api.settings) as opened:
        yield opened


async def _submitted(caller: Caller, number: str = CASE, **options: object) -> UUID:
    return UUID((await caller.post("/jobs", json={"process_number": number, **options})).json["job_id"])


async def _stored(context: Context, job_id: UUID, number: str = DIGITS) -> str:
    """Store an object as a run of the job does; return its key."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    key = object_keys.new(number, uuid4(), job_id, (1, 0, 1), "pdf")
    await context.storage.store(key, chunks(), media_type="text/html", expected_bytes=None, max_bytes=100)
    return key


async def _listed(context: Context, prefix: str = PREFIX) -> set[str]:
    objects = {one.key async for page in context.storage.list_objects(prefix) for one in page}
    return objects | {one.key async for page in context.storage.list_uploads(prefix) for one in page}


async def _says(world: World, query: str, *arguments: object) -> object:
    async with world.db.connection() as conn:
        return await conn.fetchval(query, *arguments)


async def test_objects_go_at_once_and_what_comes_late_goes_before_it_is_finished(
    api: World, context: Context
) -> None:
    caller, eraser = await api.caller(scopes=ERASER), Eraser(context)
    job_id = await _submitted(caller)
    await _stored(context, job_id)
    async with open_client(api.settings) as s3:
        key = object_keys.new(DIGITS, uuid4(), job_id, (1, 0, 2), "pdf")
        await s3.create_multipart_upload(Bucket=api.settings.bucket, Key=key)
    erasure_id = await erased(caller, CASE)
    await eraser.look()
    assert await _listed(context) == set()
    await eraser.look()  # finds nothing left, and comes again when the leases have ended
    late = await _stored(context, job_id)
    await eraser.look()
    assert await _listed(context) == {late}
    assert (await caller.get(f"/erasures/{erasure_id}")).json["finished_at"] is None
    await let_time_pass(api)
    await eraser.look()
    assert await _listed(context) == set()
    assert not await _says(api, IS_FINISHED, erasure_id)
    await eraser.look()
    assert await _says(api, IS_FINISHED, erasure_id)
    assert await _says(api, "select process_number is null from erasures")
    assert (await caller.get(f"/erasures/{erasure_id}")).json["finished_at"]


async def test_who_asks_for_the_process_meanwhile_loses_nothing(api: World, context: Context) -> None:
    """His objects lie beside those that go, and some of them no row knows yet."""
    caller, eraser = await api.caller(scopes=ERASER), Eraser(context)
    old = await _submitted(caller)
    await _stored(context, old)
    erasure_id = await erased(caller, CASE)
    new = await _submitted(caller)
    kept = await _stored(context, new)
    await let_time_pass(api)
    for _ in range(2):
        await eraser.look()
    assert await _listed(context) == {kept}
    assert await _says(api, IS_FINISHED, erasure_id)
    await _finish(api, eraser, await erased(caller, CASE))
    assert await _listed(context) == set()


async def _finish(api: World, eraser: Eraser, erasure_id: UUID) -> None:
    """Look until it is finished, on a clock that goes fast."""
    while not await _says(api, IS_FINISHED, erasure_id):
        await let_time_pass(api)
        await eraser.look()


async def test_documents_that_another_client_has_stay_though_the_job_that_fetched_them_goes(
    api: World, context: Context
) -> None:
    caller, other = await api.caller(scopes=ERASER), await api.caller("other")
    first = await _submitted(caller)
    await caller.post(f"/jobs/{first}/cancel")
    assert await _submitted(other) != first
    known, unknown = await _stored(context, first), await _stored(context, first)
    async with api.db.connection() as conn:
        await conn.execute(
            """insert into documents (process_number, portal_uuid, position, name, has_file, secrecy_level,
                                      status, job_id, media_type, size_bytes, sha256, object_key)
               values ($1, gen_random_uuid(), 1, 'Despacho', true, 0, 'available', $2, 'text/html', 1,
                       sha256('x'), $3)""",
            DIGITS,
            first,
            known,
        )
    await _finish(api, Eraser(context), await erased(caller, CASE))
    assert await _says(api, "select count(*) from jobs") == 1
    assert await _listed(context) == {known}
    assert unknown not in await _listed(context)
    (document,) = (await other.get(f"/processes/{CASE}/files")).json["documents"]
    assert (await other.get(f"/documents/{document['id']}/content")).status == 302
    assert (await caller.get(f"/documents/{document['id']}/content")).status == 404
    await context.storage.delete(known)


async def test_other_processes_are_not_touched(api: World, context: Context) -> None:
    caller = await api.caller(scopes=ERASER)
    await _submitted(caller)
    (other,) = case_numbers(1, first=1_430_001)
    beside = await _stored(context, uuid4(), parse_process_number(other))
    await _finish(api, Eraser(context), await erased(caller, CASE))
    assert await _listed(context, "processes/") >= {beside}
    await context.storage.delete(beside)


async def test_while_s3_is_away_it_is_not_finished_and_when_it_is_back_it_is(
    api: World, context: Context
) -> None:
    caller = await api.caller(scopes=ERASER)
    await _stored(context, await _submitted(caller))
    erasure_id = await erased(caller, CASE)
    await let_time_pass(api)
    away = api.settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:1"})
    async with open_context(away) as astray:
        with pytest.raises(StorageUnavailableError):
            await Eraser(astray).look()
    # Whoever looks next leaves it alone for a while: somebody may be at it.
    await Eraser(context).look()
    assert not await _says(api, IS_FINISHED, erasure_id)
    assert len(await _listed(context)) == 1
    await _finish(api, Eraser(context), erasure_id)
    assert await _listed(context) == set()


async def test_a_running_job_stops_and_one_that_is_asked_for_at_once_is_not_harmed(world: World) -> None:
    number = special_number(Special.SLOW)
    caller = await world.caller(scopes=ERASER)
    first = await _submitted(caller, number)
    await world.until("select count(*) > 0 from documents where status = 'available'")
    erasure_id = await erased(caller, number)
    second = await _submitted(caller, number)
    status = await caller.wait_until_final(number)
    assert (status["status"], status["job_id"]) == ("completed", str(second))
    await finished(world, erasure_id)
    async with open_context(world.settings) as context:
        objects = await _listed(context, object_keys.prefix(parse_process_number(number)))
    async with world.db.connection() as conn:
        rows = await conn.fetch("select object_key, job_id from documents")
    assert {row["object_key"] for row in rows} == objects
    assert {row["job_id"] for row in rows} == {second}
    assert {object_keys.job_of(key) for key in objects} == {second} != {first}
