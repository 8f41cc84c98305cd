"""Who is handed documents, or links to them, is noted first; what cannot be noted is not handed out."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from service.core import accesses, clients
from service.core.accesses import Access, AccessLog
from service.core.db import Connection, Database
from tests.api.test_bad_input import assert_problem
from tests.dashboard.reader import OPERATOR, add_key, signed_in
from tests.receiver import Receiver
from tests.rings import RING
from tests.world import Caller, World

CASE = "1003579-22.2025.8.26.0564"


async def _fetched(world: World, **asked: Any) -> tuple[Caller, UUID, UUID]:
    """Fetch the case; return who did, the id of the job, and that of a document. So far nothing is noted."""
    caller = await world.caller()
    job = (await caller.post("/jobs", json={"process_number": CASE, **asked})).json
    await world.until("select bool_and(finished_at is not null) from jobs")
    async with world.db.connection() as conn:
        document_id = await conn.fetchval(
            "select id from documents where media_type = 'text/html' order by position limit 1"
        )
    return caller, UUID(job["job_id"]), document_id


async def _noted(world: World) -> list[tuple[Any, ...]]:
    """What was noted, in order: action, subject, number of documents."""
    async with world.db.connection() as conn:
        rows = await conn.fetch("select action, subject, documents from accesses order by id")
    return [tuple(row) for row in rows]


async def _get_archive(world: World, caller: Caller) -> int:
    url = f"{world.base_url}/processes/{CASE}/documents.zip"
    async with world.http.get(url, headers={"X-API-Key": caller.key}) as answer:
        await answer.read()
        return answer.status


async def test_every_answer_with_documents_or_links_is_noted_and_no_other(world: World) -> None:
    caller, job_id, document_id = await _fetched(world)
    await caller.get(f"/jobs/{job_id}?fields=summary")
    await caller.get("/jobs")
    await caller.get(f"/processes/{CASE}/status", headers={"X-Request-ID": "the-first"})
    await caller.get(f"/processes/{CASE}/files")
    manifest = await caller.get(f"/jobs/{job_id}/manifest")
    tag = {"If-None-Match": manifest.headers["ETag"]}
    assert (await caller.get(f"/jobs/{job_id}/manifest", headers=tag)).status == 304
    assert await _get_archive(world, caller) == 200
    await caller.get(f"/documents/{document_id}/content")
    await caller.get(f"/documents/{document_id}/content")
    await caller.get(f"/documents/{document_id}/text")
    await caller.get(f"/documents/{uuid4()}/content")
    headers = {"X-API-Key": caller.key}
    async with world.http.get(f"{world.base_url}/jobs/{job_id}/events", headers=headers) as stream:
        await stream.read()
    assert await _noted(world) == [
        ("job.status", job_id, 26),
        ("job.files", job_id, 26),
        ("job.manifest", job_id, 26),
        ("job.archive", job_id, 26),
        ("document.content", document_id, 1),
        ("document.content", document_id, 1),
        ("document.text", document_id, 1),
        ("job.events", job_id, 26),
    ]
    async with world.db.connection() as conn:
        (first, *_) = await accesses.list_latest(conn, client="acme", limit=8)
        (*_, last) = await accesses.list_latest(conn, client=None, limit=8)
        assert await accesses.list_latest(conn, client="other", limit=8) == []
    assert (first.client, first.key_client, last.request_id) == ("acme", "acme", "the-first")
    assert first.key_id == caller.key.split("_")[2]


async def test_who_polls_is_noted_once_for_what_he_is_shown(world: World) -> None:
    caller, job_id, _ = await _fetched(world)
    for path in (f"/processes/{CASE}/status", f"/jobs/{job_id}", f"/processes/{CASE}?auto_download=false"):
        await caller.get(path)
    assert await _noted(world) == [("job.status", job_id, 26)]
    second_key = await world.caller()
    await second_key.get(f"/jobs/{job_id}")
    assert await _noted(world) == [("job.status", job_id, 26)] * 2
    async with world.db.connection() as conn:
        # Of that set one is not shown any more, which is another answer; then none, which is no access.
        for where in ("id = (select id from documents limit 1)", "true"):
            await conn.execute(f"update documents set secrecy_level = 1 where {where}")
            await caller.get(f"/jobs/{job_id}")
    assert (await _noted(world))[2:] == [("job.status", job_id, 25)]


async def test_a_webhook_with_links_is_noted_when_it_is_sent(world: World, receiver: Receiver) -> None:
    receiver.statuses = [500, 204]
    await _fetched(world, webhook_url=receiver.url)
    await receiver.wait_for(2)
    async with world.db.connection() as conn:
        delivery_id = await conn.fetchval("select id from deliveries")
        rows = await conn.fetch("select key_id, request_id from accesses")
    assert set(await _noted(world)) == {("delivery.links", delivery_id, 26)}
    assert {tuple(row) for row in rows} == {(None, None)}


async def test_an_operator_is_noted_with_his_own_key_and_whom_he_looked_as(world: World) -> None:
    _, job_id, document_id = await _fetched(world)
    await world.caller("operations")
    key = await add_key(world, "operations", *OPERATOR)
    async with signed_in(world, key) as reader:
        await reader.post("/dashboard/look-as", client="acme", next="/")
        for path in (f"jobs/{job_id}", f"documents/{document_id}", f"documents/{document_id}/preview"):
            assert (await reader.get(f"/dashboard/{path}")).status == 200
        await reader.get(f"/dashboard/documents/{document_id}/content")
    assert await _noted(world) == [
        ("job.page", job_id, 26),
        ("document.preview", document_id, 1),
        ("document.content", document_id, 1),
    ]
    async with world.db.connection() as conn:
        found = await accesses.list_latest(conn, client="acme", limit=9)
    assert {(one.client, one.key_client, one.key_id) for one in found} == {
        ("acme", "operations", key.split("_")[2])
    }


async def test_what_cannot_be_noted_is_not_handed_out(world: World, receiver: Receiver) -> None:
    """The disk of the database is full, for this table."""
    caller, job_id, document_id = await _fetched(world)
    async with world.db.connection() as conn:
        await conn.execute(
            """create function refuse_access() returns trigger language plpgsql as
               $$ begin raise exception 'no room' using errcode = 'disk_full'; end $$;
               create trigger refuse_access before insert on accesses
               for each statement execute function refuse_access()"""
        )
    try:
        paths = [f"/jobs/{job_id}", f"/processes/{CASE}/files", f"/jobs/{job_id}/manifest"]
        paths += [f"/documents/{document_id}/content", f"/documents/{document_id}/text"]
        for path in (*paths, f"/processes/{CASE}/documents.zip"):
            assert_problem(await caller.get(path), 503, "service-unavailable")
        assert (await caller.get(f"/jobs/{job_id}?fields=summary")).status == 200
        async with signed_in(world, caller.key) as reader:
            assert (await reader.get(f"/dashboard/documents/{document_id}/preview")).status == 503
        await caller.post("/jobs", json={"process_number": CASE, "webhook_url": receiver.url})
        await world.until("select exists (select from deliveries where fence > 0)")
        assert receiver.received == []
    finally:
        async with world.db.connection() as conn:
            await conn.execute("drop function refuse_access cascade")


@pytest.fixture
async def client_id(conn: Connection) -> UUID:
    client, _ = await clients.ensure(conn, RING, "acme")
    return client.id


async def test_accesses_of_one_moment_are_written_by_one_statement(
    conn: Connection, db: Database, client_id: UUID
) -> None:
    log = AccessLog(db, link_ttl_s=60)
    job_id = uuid4()
    await asyncio.gather(*(log.note(Access(client_id, "document.text", uuid4(), 1)) for _ in range(100)))
    for sequence in (1, 1, 2, 2, 1):
        await log.note(Access(client_id, "job.status", job_id, 3), sequence=sequence)
    assert await conn.fetchval("select count(*) from accesses") == 102
    assert await conn.fetchval("select count(distinct at) from accesses") == 3
    none_at_all = AccessLog(db, link_ttl_s=0)
    for _ in range(2):
        await none_at_all.note(Access(client_id, "job.status", job_id, 3), sequence=1)
    assert await conn.fetchval("select count(*) from accesses") == 104


async def test_nothing_is_changed_and_only_what_is_old_is_forgotten(
    conn: Connection, client_id: UUID
) -> None:
    now = datetime.now(UTC)
    await conn.executemany(
        """insert into accesses (at, client_id, action, subject, documents)
           values ($1, $2, 'job.files', $3, 1)""",
        [(now - timedelta(days=days), client_id, uuid4()) for days in (0, 29, 31, 59, 61, 400)],
    )
    for statement in (
        "update accesses set action = 'x'",
        "delete from accesses",
        "delete from accesses where at < now() - interval '1 year'",
        "select set_config('autos.audit_days', '1', true); delete from accesses",
        "select set_config('autos.audit_days', '60', true); delete from accesses",
    ):
        with pytest.raises(asyncpg.RaiseError, match="append only"):
            await conn.execute(statement)
    forgotten = list[int]()
    while not forgotten or forgotten[-1]:
        async with conn.transaction():
            forgotten.append(await accesses.forget_old(conn, days=60, limit=1))
    assert forgotten == [1, 1, 0]
    assert await conn.fetchval("select count(*) from accesses where at < now() - interval '60 days'") == 0
    # What was said for one transaction holds for no other.
    with pytest.raises(asyncpg.RaiseError, match="append only"):
        await conn.execute("delete from accesses where at < now() - interval '31 days'")
