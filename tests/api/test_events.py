"""Streams: nothing is missed, whoever comes again and whenever; nobody hears of others' jobs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import orjson
import pytest

from service.core import settlement
from service.core.schema import upgrade
from service.sandbox.cases import Special, expected_documents, special_number
from service.sandbox.postgres import open_postgres
from tests.api.test_bad_input import assert_problem
from tests.cases import case_numbers
from tests.claims import claim_one
from tests.conftest import MakeSettings
from tests.faults.faults import END_CONNECTIONS
from tests.world import Caller, World, open_world, until

CASE = "1003579-22.2025.8.26.0564"


@dataclass
class Frame:
    """One event as an `EventSource` dispatches it."""

    event: str
    data: Any


@dataclass
class Reader:
    """A small `EventSource`."""

    response: aiohttp.ClientResponse
    last_id: str | None = None
    retry_ms: int | None = None
    comments: int = 0
    frames: list[Frame] = field(default_factory=list)

    async def read(self, is_enough: Callable[["Reader"], bool] = lambda _: False) -> "Reader":
        """Read until there is enough, or the stream ends."""
        block: dict[str, str] = {}
        async with asyncio.timeout(60):
            while not is_enough(self) and (line := (await self.response.content.readline()).decode()):
                name, _, value = line.rstrip("\n").partition(":")
                if line == "\n":
                    self._dispatch(block)
                    block = {}
                elif name:
                    block[name] = value.strip()
                else:
                    self.comments += 1
        return self

    def _dispatch(self, block: dict[str, str]) -> None:
        self.last_id = block.get("id", self.last_id)
        self.retry_ms = int(block["retry"]) if "retry" in block else self.retry_ms
        if "data" in block:
            self.frames.append(Frame(block["event"], orjson.loads(block["data"])))

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [one for frame in self.frames if frame.event == "documents" for one in frame.data["documents"]]

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return [frame.data for frame in self.frames if frame.event == "job"]


@asynccontextmanager
async def following(caller: Caller, path: str, last_id: str | None = None) -> AsyncIterator[Reader]:
    headers = {"X-API-Key": caller.key, **({"Last-Event-ID": last_id} if last_id else {})}
    async with caller.http.get(f"{caller.base_url}{path}", headers=headers) as response:
        assert response.status == 200, await response.text()
        yield Reader(response)


async def _submitted(caller: Caller, number: str = CASE) -> str:
    job_id: str = (await caller.post("/jobs", json={"process_number": number})).json["job_id"]
    return job_id


async def _settle_one(api: World) -> None:
    async with api.db.transaction() as conn:
        job = await claim_one(conn)
        assert job
        await settlement.settle(conn, job)


async def _touch(api: World, job_id: str) -> None:
    async with api.db.connection() as conn:
        await conn.execute(
            "update jobs set downloaded_bytes = downloaded_bytes + 1 where id = $1", UUID(job_id)
        )


async def test_documents_can_be_used_as_they_come_in(world: World) -> None:
    caller, number = await world.caller(), special_number(Special.SLOW)
    job_id = await _submitted(caller, number)
    async with following(caller, f"/jobs/{job_id}/events") as reader:
        await reader.read(lambda r: any(one["status"] == "available" for one in r.documents))
        first = next(one for one in reader.documents if one["status"] == "available")
        assert reader.jobs == [] or reader.jobs[-1]["completed_at"] is None
        content = await caller.get(first["content_url"].removeprefix(world.settings.public_url))
        assert content.status in (200, 302)
        await reader.read()
    assert reader.response.headers["Content-Type"].startswith("text/event-stream")
    assert reader.response.headers["X-Accel-Buffering"] == "no"
    sequences = [job["sequence"] for job in reader.jobs]
    assert sequences == sorted(set(sequences))
    assert (reader.jobs[-1]["status"], reader.last_id) == ("completed", str(sequences[-1]))
    latest = {one["uuid"]: one["status"] for one in reader.documents}
    assert latest == {one.uuid: "available" for one in expected_documents(number)}


async def test_who_comes_again_after_the_last_event_is_told_that_there_is_no_more(api: World) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    await _settle_one(api)
    async with following(caller, f"/jobs/{job_id}/events") as reader:
        await reader.read()
    again = await caller.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": str(reader.last_id)})
    assert (again.status, again.text) == (204, "")
    by_query = await caller.get(f"/jobs/{job_id}/events?last_event_id={reader.last_id}")
    assert by_query.status == 204


async def test_whoever_loses_the_connection_misses_no_document(world: World) -> None:
    """He reads one event at a time, and hangs up after each."""
    caller = await world.caller()
    job_id = await _submitted(caller)
    seen: dict[str, str] = {}
    last_id, is_over = None, False
    while not is_over:
        async with following(caller, f"/jobs/{job_id}/events", last_id) as reader:
            await reader.read(lambda r: bool(r.jobs))
        assert reader.last_id != last_id
        seen |= {one["uuid"]: one["status"] for one in reader.documents}
        last_id, is_over = reader.last_id, reader.jobs[-1]["completed_at"] is not None
    assert seen == {one.uuid: "available" for one in expected_documents(CASE)}


@pytest.mark.parametrize("last_id", ["999999", "abc", "-1", "٣", "9" * 50])
async def test_an_id_that_is_none_of_the_jobs_begins_anew(api: World, last_id: str) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    async with api.db.connection() as conn:
        await conn.execute("update processes set listed_at = now()")
    await _settle_one(api)
    path = f"/jobs/{job_id}/events"
    answer = await caller.get(path, params={"last_event_id": last_id})
    assert answer.status == 200
    assert "event: job" in answer.text


async def test_a_job_of_somebody_else_has_no_stream(api: World) -> None:
    job_id = await _submitted(await api.caller())
    stranger = await api.caller("stranger")
    assert_problem(await stranger.get(f"/jobs/{job_id}/events"), 404, "not-found")


async def test_the_stream_of_all_jobs_tells_of_the_clients_own_and_no_others(api: World) -> None:
    caller, stranger = await api.caller(), await api.caller("stranger")
    mine, theirs = case_numbers(2)
    async with following(caller, "/events") as reader:
        await reader.read(lambda r: r.retry_ms is not None)
        foreign = await _submitted(stranger, theirs)
        job_id = await _submitted(caller, mine)
        await _touch(api, foreign)
        await reader.read(lambda r: bool(r.jobs))
        await _touch(api, job_id)
        await reader.read(lambda r: len(r.jobs) > 1)
    assert {job["job_id"] for job in reader.jobs} == {job_id}
    assert [job["sequence"] for job in reader.jobs] == [1, 2]


@pytest.mark.parametrize("is_batch", [False, True])
async def test_the_stream_of_all_jobs_tells_of_a_new_one_that_nobody_takes(
    api: World, is_batch: bool
) -> None:
    """At once, not with the next sign of life, which would be a comment."""
    caller, (number,) = await api.caller(), case_numbers(1)
    async with following(caller, "/events") as reader:
        await reader.read(lambda r: r.last_id is not None)
        if is_batch:
            await caller.post("/jobs/batch", json={"process_numbers": [number]})
        else:
            await _submitted(caller, number)
        await reader.read(lambda r: bool(r.jobs) or r.comments > 0)
    assert ([job["status"] for job in reader.jobs], reader.comments) == (["pending"], 0)


async def test_a_change_that_commits_late_is_not_missed_by_who_comes_again(api: World) -> None:
    """Its transaction is older than others that were told of already."""
    caller = await api.caller()
    late, early = [await _submitted(caller, number) for number in case_numbers(2)]
    async with api.db.transaction() as slow:
        await slow.execute("update jobs set downloaded_bytes = 5 where id = $1", UUID(late))
        async with following(caller, "/events") as reader:
            await reader.read(lambda r: r.retry_ms is not None)
            await _touch(api, early)
            await reader.read(lambda r: bool(r.jobs))
            await _touch(api, early)
            await reader.read(lambda r: len(r.jobs) > 1)
        assert {job["job_id"] for job in reader.jobs} == {early}
    async with following(caller, "/events", reader.last_id or "1") as again:
        await again.read(lambda r: late in [job["job_id"] for job in r.jobs])
    assert {job["job_id"]: job["downloaded_bytes"] for job in again.jobs}[late] == 5


async def test_many_changes_since_are_told_page_by_page(api: World) -> None:
    caller = await api.caller()
    async with following(caller, "/events") as reader:
        await reader.read(lambda r: r.retry_ms is not None)
        await _submitted(caller)
        await reader.read(lambda r: r.last_id is not None)
    answer = await caller.post("/jobs/batch", json={"process_numbers": case_numbers(450)})
    expected = {item["job_id"] for item in answer.json["items"]}
    async with following(caller, "/events", reader.last_id) as again:
        await again.read(lambda r: expected <= {job["job_id"] for job in r.jobs})
    assert len(again.jobs) <= 451


async def test_a_database_that_goes_away_ends_no_stream(api: World, database_url: str) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    async with following(caller, f"/jobs/{job_id}/events") as reader:
        await reader.read(lambda r: bool(r.jobs))
        admin = await asyncpg.connect(database_url)
        try:
            await admin.execute(END_CONNECTIONS)
        finally:
            await admin.close()
        while (await caller.post(f"/jobs/{job_id}/cancel")).status != 200:
            pass  # connections of the pool are found dead one by one
        await reader.read()
    assert reader.jobs[-1]["status"] == "cancelled"


async def test_a_stream_ends_when_the_process_is_about_to(api: World) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    async with following(caller, f"/jobs/{job_id}/events") as reader, following(caller, "/events") as every:
        await reader.read(lambda r: bool(r.jobs))
        await every.read(lambda r: r.retry_ms is not None)
        api.drain()
        await asyncio.gather(reader.read(), every.read())
    assert reader.retry_ms is not None
    assert reader.response.headers["Server"] == "Autos"
    assert reader.response.headers["RateLimit"].startswith('"default";r=')


@pytest.mark.parametrize(
    "end",
    [
        "update api_keys set revoked_at = now()",
        "update api_keys set expires_at = now()",
        "update clients set max_secrecy = 0",  # what may be told is another thing now
    ],
)
async def test_a_stream_ends_soon_after_its_key_or_what_that_is_good_for(
    empty: None, make_settings: MakeSettings, end: str
) -> None:
    async with open_world(make_settings(), with_worker=False, silence_s=0.05) as api:
        caller = await api.caller()
        job_id = await _submitted(caller)
        async with (
            following(caller, f"/jobs/{job_id}/events") as one,
            following(caller, "/events") as every,
        ):
            # Both have been looked at more than once, and may read on.
            await asyncio.gather(*(reader.read(lambda r: r.comments > 2) for reader in (one, every)))
            async with api.db.connection() as conn:
                await conn.execute(end)
            await asyncio.gather(one.read(), every.read())


async def test_a_busy_stream_is_looked_at_as_often_as_a_silent_one(
    empty: None, make_settings: MakeSettings
) -> None:
    async with open_world(make_settings(), with_worker=False, silence_s=0.05) as api:
        caller = await api.caller()
        job_id = await _submitted(caller)
        async with following(caller, f"/jobs/{job_id}/events") as reader:
            await reader.read(lambda r: bool(r.jobs))
            async with api.db.connection() as conn:
                await conn.execute("update api_keys set revoked_at = now()")
            reading = asyncio.create_task(reader.read())
            # Never silent: it changes with every step of the loop.
            while not reading.done():
                api.news.came(UUID(job_id))
                await asyncio.sleep(0.001)
            await reading


async def test_who_hangs_up_is_forgotten(api: World) -> None:
    caller = await api.caller()
    job_id = await _submitted(caller)
    async with following(caller, f"/jobs/{job_id}/events") as reader:
        await reader.read(lambda r: bool(r.jobs))
        assert api.news.watching(UUID(job_id)) == 1
        reader.response.close()
    await _touch(api, job_id)
    await until(lambda: api.news.watching(UUID(job_id)) == 0)


async def test_while_the_database_is_away_a_new_reader_is_told_to_come_again(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    """An error would end an `EventSource` for good."""
    async with AsyncExitStack() as postgres, AsyncExitStack() as rest:
        url = await postgres.enter_async_context(open_postgres(tmp_path))
        await upgrade(url)
        api = await rest.enter_async_context(open_world(make_settings(database_url=url), with_worker=False))
        caller = await api.caller()
        await postgres.aclose()
        for path in ("/events", f"/jobs/{uuid4()}/events"):
            answer = await caller.get(path)
            assert (answer.status, answer.headers["Content-Type"][:17]) == (200, "text/event-stream")
            assert answer.text.startswith("retry: ")
