"""The list of documents, as the portal changes it from one look to the next."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from service.core import clients, documents, jobs, settlement, submission
from service.core.db import Database
from service.core.documents import Missed, Stored
from service.core.jobs import Job
from service.core.portal_records import DocumentRecord
from service.core.settings import Settings
from service.core.settlement import CANCELLED, Reason
from service.core.states import JobStatus
from service.core.wishes import Filters, Wish
from tests.claims import claim_one
from tests.rings import RING

NUMBER = "10035792220258260564"
A, B = UUID(int=1), UUID(int=2)


def _record(uuid: UUID) -> DocumentRecord:
    return DocumentRecord(
        uuid=uuid,
        position=1,
        name="Despacho",
        type_name=None,
        has_file=True,
        declared_type=None,
        declared_bytes=None,
        secrecy_level=0,
        filed_at=None,
        filed_at_raw=None,
    )


async def _running_job(db: Database, settings: Settings, *, filters: Filters = None) -> Job:
    async with db.transaction() as conn:
        client, _ = await clients.ensure(conn, RING, "acme")
        wish = Wish(NUMBER, max_age_s=0, filters=filters)
        await submission.submit(conn, wish, client.id, settings=settings)
        job = await claim_one(conn)
    assert job
    return job


async def _list(db: Database, job: Job, *uuids: UUID) -> dict[UUID, str]:
    """Let the portal list these; return the status of every document."""
    async with db.transaction() as conn:
        await documents.record_list(
            conn, NUMBER, job.id, [_record(uuid) for uuid in uuids], filters=job.filters, is_first=False
        )
        return {one.portal_uuid: one.status for one in await documents.list_of_process(conn, NUMBER)}


async def _fail_all(db: Database) -> None:
    async with db.transaction() as conn:
        listed = await documents.list_of_process(conn, NUMBER)
        await documents.mark_missed(conn, [Missed(one.id, "x", "x", is_final=True) for one in listed], {})


async def _store(db: Database, uuid: UUID) -> None:
    async with db.transaction() as conn:
        (row,) = [one for one in await documents.list_of_process(conn, NUMBER) if one.portal_uuid == uuid]
        stored = Stored(
            row.id, "text/html", 1, b"s" * 32, f"processes/{NUMBER}/{uuid}/x.html", datetime.now(UTC)
        )
        await documents.mark_available(conn, [stored], {row.id: datetime.now(UTC)})


async def test_a_document_listed_no_more_before_we_got_it_keeps_no_job_from_completing(
    db: Database, settings: Settings
) -> None:
    job = await _running_job(db, settings)
    await _list(db, job, A, B)
    await _store(db, A)
    assert await _list(db, job, A) == {A: "available"}
    async with db.transaction() as conn:
        await settlement.settle(conn, job)
        (ended,) = await jobs.list_latest(conn, [NUMBER])
    assert (ended.status, ended.total_documents) == (JobStatus.COMPLETED, 1)


async def test_a_document_listed_no_more_after_we_got_it_stays_available(
    db: Database, settings: Settings
) -> None:
    job = await _running_job(db, settings)
    await _list(db, job, A, B)
    await _store(db, A)
    assert await _list(db, job, B) == {A: "available", B: "pending"}


async def test_a_document_that_is_listed_again_is_fetched_by_the_same_job(
    db: Database, settings: Settings
) -> None:
    job = await _running_job(db, settings)
    assert await _list(db, job, A, B) == {A: "pending", B: "pending"}
    assert await _list(db, job) == {}
    assert await _list(db, job, A) == {A: "pending"}


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ({"error": CANCELLED, "is_cancelled": True}, "cancelled", "cancelled"),
        ({"error": Reason("not_found", "no such process")}, "failed", "not_found"),
        ({"left_over": Reason("deadline_exceeded", "too late")}, "partial", "deadline_exceeded"),
    ],
    ids=["cancelled", "failed", "at its deadline"],
)
async def test_what_a_filter_left_out_fails_with_a_job_that_wants_it_and_ends_before_it_lists(
    db: Database, settings: Settings, how: dict[str, Any], status: str, code: str
) -> None:
    first = await _running_job(db, settings, filters=[{"ids": [str(A)]}])
    assert await _list(db, first, A, B) == {A: "pending", B: "skipped"}
    await _store(db, A)
    async with db.transaction() as conn:
        settled = await settlement.settle(conn, first)
        assert (settled.job.status, settled.job.total_documents) == (JobStatus.COMPLETED, 1)
    second = await _running_job(db, settings)
    async with db.transaction() as conn:
        settled = await settlement.settle(conn, second, **how)
        now = {one.portal_uuid: one for one in await documents.list_of_job(conn, second.id)}
    ended = settled.job
    assert (ended.status, ended.completed_documents, ended.failed_documents) == (status, 1, 1)
    assert (now[A].status, now[B].status, now[B].error_code) == ("available", "failed", code)
    third = await _running_job(db, settings)
    assert await _list(db, third, A, B) == {A: "available", B: "pending"}


async def test_a_job_ends_though_its_documents_are_said_to_be_more_than_can_be_counted(
    db: Database, settings: Settings
) -> None:
    job = await _running_job(db, settings)
    await _list(db, job, A, B)
    async with db.transaction() as conn:
        await conn.execute("update documents set declared_bytes = 9223372036854775807")
        settled = await settlement.settle(conn, job, error=CANCELLED, is_cancelled=True)
    assert (settled.job.status, settled.job.expected_bytes) == (JobStatus.CANCELLED, 2**62)


async def test_five_thousand_documents_are_listed_in_one_transaction(
    db: Database, settings: Settings
) -> None:
    job = await _running_job(db, settings)
    uuids = [UUID(int=number) for number in range(5000)]
    for _ in range(2):
        assert set((await _list(db, job, *uuids)).values()) == {"pending"}
    async with db.connection() as conn:
        assert (await documents.count(conn, job.id)).total == 5000


async def test_what_failed_is_taken_up_by_the_next_job_and_not_by_the_same(
    db: Database, settings: Settings
) -> None:
    job = await _running_job(db, settings)
    await _list(db, job, A)
    await _fail_all(db)
    assert await _list(db, job, A) == {A: "failed"}
    async with db.transaction() as conn:
        await settlement.settle(conn, job)
    assert await _list(db, await _running_job(db, settings), A) == {A: "pending"}
