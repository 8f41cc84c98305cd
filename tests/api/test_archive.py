"""The archive of a process: its documents in order, whole and right, or visibly cut short."""

import asyncio
import hashlib
import io
import tracemalloc
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import pytest

from service.archive import Entry, archive
from service.sandbox.cases import Special, expected_documents, special_number
from tests.api.test_bad_input import assert_problem
from tests.world import Caller, World

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
    async def read() -> AsyncIterator[bytes]:
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


async def test_an_object_that_has_vanished_cuts_the_archive_short_where_everybody_sees_it(
    world: World,
) -> None:
    caller = await _fetched(world)
    async with world.db.connection() as conn:
        await conn.execute(
            """update documents set object_key = object_key || '.gone'
               where position = (select max(position) from documents)"""
        )
    with pytest.raises(aiohttp.ClientError):
        await _download(caller, PATH)


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


async def test_a_storage_that_is_away_is_a_503_as_long_as_nothing_was_sent(world: World) -> None:
    caller = await _fetched(world)
    async with world.db.connection() as conn:
        await conn.execute("update documents set object_key = object_key || '.gone'")
    assert_problem(await caller.get(PATH), 503, "service-unavailable")


async def test_memory_does_not_grow_with_the_archive() -> None:
    chunk, count = b"x" * 2**20, 64

    async def chunks() -> AsyncIterator[bytes]:
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
