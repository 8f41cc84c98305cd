"""The archive of a process: its documents in order, whole and right, or visibly cut short."""

import asyncio
import hashlib
import io
import tracemalloc
import zipfile
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web

from service.archive import Entry, archive
from service.places import Places
from service.problems import OVERLOADED, ProblemError
from service.sandbox.cases import Special, expected_documents, special_number
from tests.api.test_bad_input import assert_problem
from tests.cli.front import open_front
from tests.dashboard.reader import signed_in
from tests.world import Caller, World, open_world, until

CASE = "1003579-22.2025.8.26.0564"
PATH = f"/processes/{CASE}/documents.zip"


async def _fetched(world: World, number: str = CASE) -> Caller:
    caller = await world.caller()
    await caller.get(f"/processes/{number}")
    await caller.wait_until_final(number)
    return caller


async def _download(caller: Caller, path: str) -> tuple[aiohttp.ClientResponse, bytes]:
    url, headers = f"{caller.base_url}{path}", {"X-API-Key": caller.key}
    async with asyncio.timeout(60), caller.http.get(url, headers=headers) as response:
        return response, await response.read()


async def test_it_has_every_document_in_the_courts_order_under_a_name_of_its_own(world: World) -> None:
    caller = await _fetched(world)
    response, body = await _download(caller, PATH)
    assert (response.status, response.content_type) == (200, "application/zip")
    assert response.headers["Content-Disposition"] == f'attachment; filename="{CASE}.zip"'
    manifest = (await caller.get(f"{PATH[:-14]}/status")).json
    entries = (await caller.get(f"/jobs/{manifest['job_id']}/manifest")).json["documents"]
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [one["file_name"] for one in entries]
        hashes = [hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()]
        assert hashes == [one["sha256"] for one in entries]
        day = archive.infolist()[0].date_time[:3]
    assert f"{day[0]}-{day[1]:02}-{day[2]:02}" <= entries[-1]["filed_at"][:10]


@pytest.mark.parametrize(
    ("modified_at", "shown"),
    [
        (None, (1980, 1, 1, 0, 0, 0)),
        (datetime(1, 1, 1, tzinfo=UTC), (1980, 1, 1, 0, 0, 0)),
        (datetime(1980, 1, 1, 2, tzinfo=UTC), (1980, 1, 1, 0, 0, 0)),
        (datetime(2025, 3, 1, 1, 30, tzinfo=UTC), (2025, 2, 28, 22, 30, 0)),
        (datetime(2108, 1, 1, tzinfo=UTC), (2107, 12, 31, 21, 0, 0)),
        (datetime(2205, 1, 1, tzinfo=UTC), (2107, 12, 31, 23, 59, 58)),
        (datetime(9999, 12, 31, 23, tzinfo=UTC), (2107, 12, 31, 23, 59, 58)),
    ],
)
async def test_a_date_that_a_zip_does_not_know_is_the_nearest_that_it_knows(
    modified_at: datetime | None, shown: tuple[int, ...]
) -> None:
    async def read() -> AsyncGenerator[bytes, None]:
        yield b"x"

    entry = Entry("a.pdf", 1, hashlib.sha256(b"x").digest(), modified_at, read)
    body = b"".join([chunk async for chunk in archive([entry])])
    with zipfile.ZipFile(io.BytesIO(body)) as written:
        assert written.testzip() is None
        assert written.infolist()[0].date_time == shown


async def test_what_failed_is_left_out(world: World) -> None:
    number = special_number(Special.CODEX_SOME)
    caller = await _fetched(world, number)
    _, body = await _download(caller, f"/processes/{number}/documents.zip")
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert len(archive.namelist()) == len(expected_documents(number)) - 3 == 7


async def test_in_the_place_of_an_object_that_has_vanished_stands_a_note_and_the_next_job_fetches_it_again(
    world: World,
) -> None:
    caller = await _fetched(world)
    status = await caller.get(f"/processes/{CASE}/status")
    job_id = status.json["job_id"]
    before = (await caller.get(f"/jobs/{job_id}/manifest")).json["documents"]
    gone = {0, 1, len(before) - 1}
    await _lose(world, [before[index]["id"] for index in gone])
    response, body = await _download(caller, PATH)
    assert response.status == 200
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            f"{one['file_name']}.missing.txt" if index in gone else one["file_name"]
            for index, one in enumerate(before)
        ]
        assert b"fetched again" in archive.read(f"{before[0]['file_name']}.missing.txt")
    after = (await caller.get(f"/jobs/{job_id}/manifest")).json["documents"]
    assert {index for index, one in enumerate(after) if one["error_code"] == "object_missing"} == gone
    told = await caller.get(f"/processes/{CASE}/status", headers={"If-None-Match": status.headers["ETag"]})
    assert told.json["sequence"] > status.json["sequence"]
    await caller.get(f"/processes/{CASE}")
    await caller.wait_until_final(CASE)
    _, body = await _download(caller, PATH)
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.namelist() == [one["file_name"] for one in before]


async def _lose(world: World, ids: Sequence[str]) -> None:
    async with world.db.connection() as conn:
        await conn.execute(
            "update documents set object_key = 'gone/' || object_key where id = any($1::uuid[])", ids
        )


async def test_other_bytes_than_were_stored_are_never_passed_on_as_a_whole_archive(world: World) -> None:
    caller = await _fetched(world)
    async with world.db.connection() as conn:
        await conn.execute("update documents set sha256 = sha256(sha256)")
    with pytest.raises(aiohttp.ClientError):
        await _download(caller, PATH)


async def test_before_anything_is_there_it_is_409_and_a_stranger_sees_nothing(api: World) -> None:
    caller, stranger = await api.caller(), await api.caller("stranger")
    await caller.get(f"/processes/{CASE}")
    assert_problem(await caller.get(PATH), 409, "document-not-available")
    assert_problem(await stranger.get(PATH), 404, "not-found")


async def test_when_all_objects_have_vanished_it_is_410_and_then_409(world: World) -> None:
    caller = await _fetched(world)
    async with world.db.connection() as conn:
        await conn.execute("update documents set object_key = object_key || '.gone'")
    assert_problem(await caller.get(PATH), 410, "document-gone")
    assert_problem(await caller.get(PATH), 409, "document-not-available")


@pytest.mark.parametrize("change", [{"bucket": "autos-nowhere"}, {"s3_endpoint_url": "http://127.0.0.1:9"}])
async def test_a_storage_that_is_away_or_misnamed_is_a_503_and_loses_no_document(
    world: World, change: dict[str, str]
) -> None:
    caller = await _fetched(world)
    async with open_world(world.settings.model_copy(update=change), with_worker=False) as other:
        astray = Caller(other.base_url, other.http, caller.key, caller.client)
        assert_problem(await astray.get(PATH), 503, "service-unavailable")
    async with world.db.connection() as conn:
        assert await conn.fetchval("select count(*) from documents where status = 'available'") == 26


async def test_who_reads_slowly_takes_archives_and_previews_from_nobody_but_himself(world: World) -> None:
    caller = await _fetched(world)
    other = await world.caller("other")
    await other.get(f"/processes/{CASE}")
    sent = asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        await sent.wait()
        return web.Response(status=503)

    html = next(
        one["id"]
        for one in (await caller.get(f"/processes/{CASE}/files")).json["documents"]
        if one["mime_type"] == "text/html"
    )
    async with open_front(world.settings.s3_endpoint_url or "") as store:
        store.matches, store.faults = "^GET /autos-test/", [hang, hang]
        slow = world.settings.model_copy(update={"s3_endpoint_url": store.url})
        async with open_world(slow, with_worker=False) as api, signed_in(api, caller.key) as reader:
            caller.base_url = other.base_url = api.base_url
            hanging = [asyncio.create_task(_download(caller, PATH)) for _ in range(2)]
            await until(lambda: not store.faults)
            refused = await caller.get(PATH)
            assert_problem(refused, 429, "rate-limited")
            assert refused.headers["Retry-After"] == "10"
            assert (await _download(other, PATH))[0].status == 200
            assert (await reader.get(f"/dashboard/documents/{html}/preview")).status == 200
            sent.set()
            assert [(await one)[0].status for one in hanging] == [200, 200]
            assert (await _download(caller, PATH))[0].status == 200


def test_all_places_together_are_not_more_than_there_are() -> None:
    places, owner = Places(3, most_each=2, retry_after_s=1), uuid4()
    with places.taken(owner), places.taken(uuid4()), places.taken(uuid4()):
        with pytest.raises(ProblemError) as refused, places.taken(owner):
            pass
        assert refused.value.problem is OVERLOADED
    with places.taken(owner), places.taken(owner):
        pass


async def test_memory_does_not_grow_with_the_archive() -> None:
    chunk, count = b"x" * 2**20, 64

    async def chunks() -> AsyncGenerator[bytes, None]:
        for _ in range(count):
            yield chunk

    sha256 = hashlib.sha256(chunk * count).digest()
    entries = [Entry(name, count * len(chunk), sha256, None, chunks) for name in ("first.pdf", "second.pdf")]
    received = 0
    tracemalloc.start()
    try:
        async for part in archive(entries):
            received += len(part)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert received > 2 * count * len(chunk)
    assert peak_bytes < 4 * len(chunk)
