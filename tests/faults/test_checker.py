"""The checker finds a clean run clean, and each invariant fires at a violation planted for it."""

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import aiohttp
import pytest
from redis.asyncio import Redis

from service.core.db import Connection, Database, open_database
from service.core.settings import Settings
from service.core.storage import open_storage
from service.sandbox.cases import Special, special_number
from tests.conftest import TABLES, MakeSettings
from tests.faults.checker import INVARIANTS, Violation, check
from tests.faults.evidence import Evidence
from tests.faults.observers import Observer, new_observer, open_receivers
from tests.faults.quiet import settle_and_check
from tests.s3 import open_client
from tests.world import open_world

NUMBERS = ["1003579-22.2025.8.26.0564", special_number(Special.CODEX_SOME), special_number(Special.UNKNOWN)]


@dataclass
class Run:
    """A run that has ended well, and what was seen of it."""

    settings: Settings
    db: Database
    evidence: Evidence
    secrets: dict[UUID, bytes]
    log: Path


@pytest.fixture(scope="module")
async def run(
    make_settings: MakeSettings,
    _emptied: Connection,
    redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Run]:
    await _emptied.execute(f"truncate {TABLES}")
    async with Redis.from_url(redis_url) as redis:
        await redis.flushdb()
    evidence, log = Evidence(), tmp_path_factory.mktemp("checker") / "process.log"
    log.write_text("nothing to see\n")
    evidence.logs.append(log)
    evidence.resources = {"worker fds": (20, 22), "worker memory": (100, 120)}
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(open_world(make_settings()))
        port = await stack.enter_async_context(open_receivers(evidence))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        async with world.db.connection() as conn:
            options: dict[str, Any] = {"base_urls": [world.base_url], "http": http, "evidence": evidence}
            callers = [await new_observer(conn, name, **options) for name in ("one", "two")]
        await _play(callers, port)
        assert await settle_and_check(world.settings, evidence, timeout_s=60) == []
        for caller in callers:
            for call in [one for one in evidence.calls if one.client_id == caller.client_id]:
                await caller.poll(call.job_id)
        secrets = {caller.client_id: caller.webhook_secret for caller in callers}
        db = await stack.enter_async_context(open_database(world.settings, patience_s=60.0))
        yield Run(world.settings, db, evidence, secrets, log)


async def _play(callers: list[Observer], port: int) -> None:
    """Each caller wants each process told to a receiver that fails at first, and watches."""
    for caller in callers:
        for number in NUMBERS:
            job_id = await caller.submit(number, f"http://127.0.0.1:{port}/fails-at-first")
            assert job_id
            await caller.poll(job_id)


@dataclass
class Scratch:
    """What a plant may spoil: rows inside a transaction that is rolled back, and a copy of the evidence."""

    run: Run
    conn: Connection
    evidence: Evidence

    async def spoil(self, statement: str, *arguments: object) -> None:
        """Change rows in a way that the database itself would refuse."""
        for table in ("jobs", "documents", "deliveries", "subscriptions", "accesses"):
            await self.conn.execute(f"alter table {table} disable trigger user")
            for name in await self.conn.fetchval(
                """select coalesce(array_agg(conname::text), '{}') from pg_constraint
                   where conrelid = $1::regclass and contype = 'c'""",
                table,
            ):
                await self.conn.execute(f'alter table {table} drop constraint "{name}"')
        await self.conn.execute(statement, *arguments)

    def repoll(self, **changes: Any) -> None:
        """One more look at the last job, with another answer."""
        last = self.evidence.polls[-1]
        answer = {**last.answer, **changes}
        self.evidence.polls.append(replace(last, answer=answer, at=last.at + timedelta(seconds=1)))

    def rehook(self, **changes: Any) -> None:
        """Another request in place of the last one."""
        self.evidence.hooks[-1] = replace(self.evidence.hooks[-1], **changes)


Plant: TypeAlias = Callable[[Scratch], Awaitable[None]]
PLANTS: list[tuple[str, Plant]] = []


def _plant(invariant: str) -> Callable[[Plant], Plant]:
    def add(plant: Plant) -> Plant:
        PLANTS.append((invariant, plant))
        return plant

    return add


@_plant("every acknowledged job exists and ends")
async def _a_job_that_does_not_exist(scratch: Scratch) -> None:
    scratch.evidence.calls[0] = replace(scratch.evidence.calls[0], job_id=uuid4())


@_plant("every acknowledged job exists and ends")
async def _a_job_that_goes_on_for_ever(scratch: Scratch) -> None:
    await scratch.spoil("update jobs set status = 'processing' where status = 'partial'")


@_plant("no acknowledged job is ever unknown")
async def _a_404_after_the_202(scratch: Scratch) -> None:
    last = scratch.evidence.polls[-1]
    scratch.evidence.polls.append(replace(last, http_status=404, answer={}))


@_plant("one active job per process")
async def _two_jobs_at_once(scratch: Scratch) -> None:
    await scratch.spoil(
        """insert into jobs (process_number, client_id, status, deadline_at, created_at, finished_at)
           select process_number, client_id, 'cancelled', now(), created_at + interval '1 ms', finished_at
           from jobs limit 1"""
    )


@_plant("no caller sees another's job")
async def _a_stranger_who_sees_a_job(scratch: Scratch) -> None:
    last = scratch.evidence.polls[-1]
    scratch.evidence.polls.append(replace(last, client_id=uuid4()))


@_plant("available means stored, and its link works")
async def _another_hash(scratch: Scratch) -> None:
    await scratch.spoil(
        "update documents set sha256 = sha256('x') where position = 1 and status = 'available'"
    )


@_plant("available means stored, and its link works")
async def _a_link_to_nothing(scratch: Scratch) -> None:
    await scratch.spoil(
        """update documents set object_key = object_key || 'x'
           where id = (select id from documents where status = 'available' limit 1)"""
    )


@_plant("nothing is kept that is too secret")
async def _a_process_that_was_sealed_behind_our_back(scratch: Scratch) -> None:
    await scratch.spoil("update processes set secrecy_level = 1")


@_plant("a webhook with links was noted before it left")
async def _accesses_that_nobody_noted(scratch: Scratch) -> None:
    await scratch.spoil("delete from accesses where action = 'delivery.links'")


@_plant("nothing unreferenced is stored")
async def _an_object_without_a_row(scratch: Scratch) -> None:
    await scratch.spoil(
        "delete from documents where id = (select id from documents where size_bytes > 0 limit 1)"
    )


@_plant("an object belongs to one document of its own process")
async def _two_owners(scratch: Scratch) -> None:
    await scratch.conn.execute("drop index documents_one_row_per_object")
    await scratch.spoil(
        """update documents set object_key = (select min(object_key) from documents)
           where id = (select id from documents where size_bytes > 0 order by object_key desc limit 1)"""
    )


@_plant("no document is unfinished under a final job")
async def _a_document_left_behind(scratch: Scratch) -> None:
    await scratch.spoil("update documents set status = 'pending' where status = 'failed'")


@_plant("a final status says what became of the documents")
async def _a_completed_job_without_a_document(scratch: Scratch) -> None:
    await scratch.spoil("update jobs set status = 'completed' where status = 'partial'")


@_plant("a final status says what became of the documents")
async def _a_job_that_miscounts(scratch: Scratch) -> None:
    await scratch.spoil("update jobs set total_documents = total_documents + 1 where status = 'completed'")


@_plant("each subscription of a final job has its one delivery")
async def _a_webhook_that_nobody_will_send(scratch: Scratch) -> None:
    await scratch.spoil("delete from delivery_attempts")
    await scratch.spoil("delete from deliveries where id = (select id from deliveries limit 1)")


@_plant("each subscription of a final job has its one delivery")
async def _a_job_that_is_told_twice(scratch: Scratch) -> None:
    await scratch.spoil(
        """insert into deliveries (client_id, webhook_url, subscription_id, event, payload)
           select client_id, webhook_url, subscription_id, 'job.failed', payload from deliveries
           where event = 'job.completed' limit 1"""
    )


@_plant("delivered means that the receiver answered 2xx")
async def _a_delivery_that_never_arrived(scratch: Scratch) -> None:
    scratch.evidence.hooks = [hook for hook in scratch.evidence.hooks if hook.answered == 500]


@_plant("dead means that the schedule is spent, or 410")
async def _a_delivery_given_up_too_soon(scratch: Scratch) -> None:
    await scratch.spoil("update deliveries set status = 'dead', rounds = 1")


@_plant("repeats of a webhook are identical")
async def _a_repeat_that_says_something_else(scratch: Scratch) -> None:
    event = json.loads(scratch.evidence.hooks[-1].body)
    scratch.rehook(body=json.dumps({**event, "error_code": "x"}).encode())


@_plant("every webhook is signed by its client's secret")
async def _a_signature_by_another_secret(scratch: Scratch) -> None:
    headers = scratch.evidence.hooks[-1].headers
    scratch.rehook(headers={**headers, "webhook-signature": "v1," + base64.b64encode(b"x" * 32).decode()})


@_plant("every webhook is signed by its client's secret")
async def _a_webhook_of_no_delivery(scratch: Scratch) -> None:
    scratch.rehook(headers={**scratch.evidence.hooks[-1].headers, "webhook-id": f"msg_{uuid4().hex}"})


@_plant("no webhook is sent before its job has ended as it says")
async def _a_webhook_before_the_end(scratch: Scratch) -> None:
    scratch.rehook(at=scratch.evidence.hooks[-1].at - timedelta(hours=1))


@_plant("no webhook is sent before its job has ended as it says")
async def _a_webhook_that_says_another_status(scratch: Scratch) -> None:
    event = json.loads(scratch.evidence.hooks[0].body)
    scratch.evidence.hooks[0] = replace(
        scratch.evidence.hooks[0], body=json.dumps({**event, "failed_documents": 99}).encode()
    )


@_plant("nobody sees a final job move")
async def _a_final_job_that_moves(scratch: Scratch) -> None:
    last = scratch.evidence.polls[-1].answer
    scratch.repoll(status="processing", sequence=last["sequence"] + 1)


@_plant("progress and sequence never fall")
async def _progress_that_falls(scratch: Scratch) -> None:
    scratch.repoll(progress_percentage=10)


@_plant("progress and sequence never fall")
async def _a_sequence_that_falls(scratch: Scratch) -> None:
    scratch.repoll(sequence=0)


@_plant("one sequence is one state")
async def _two_states_of_one_sequence(scratch: Scratch) -> None:
    scratch.repoll(completed_documents=99)


@_plant("100 % is said exactly of final jobs")
async def _a_final_job_at_99(scratch: Scratch) -> None:
    scratch.repoll(progress_percentage=99)


@_plant("no secret is in a log")
async def _a_secret_in_a_log(scratch: Scratch) -> None:
    key = scratch.evidence.secrets[0]
    _write_log(scratch, f"Authorization: {base64.b64encode(key.encode()).decode()}")


@_plant("no task is forgotten")
async def _a_task_that_failed_unseen(scratch: Scratch) -> None:
    _write_log(scratch, "ERROR asyncio Task exception was never retrieved")


@_plant("file descriptors and memory come back")
async def _file_descriptors_that_stay_open(scratch: Scratch) -> None:
    scratch.evidence.resources["worker fds"] = (20, 80)


@_plant("file descriptors and memory come back")
async def _memory_that_stays_taken(scratch: Scratch) -> None:
    scratch.evidence.resources["worker memory"] = (100, 300 * 1024 * 1024)


def _write_log(scratch: Scratch, line: str) -> None:
    log = scratch.run.log.with_name("spoilt.log")
    log.write_text(line)
    scratch.evidence.logs = [log]


async def _check(run: Run, conn: Connection, evidence: Evidence) -> list[Violation]:
    return await check(
        evidence, conn=conn, storage_settings=run.settings, signing_secrets=run.secrets, schedule_rounds=3
    )


async def test_a_clean_run_has_no_violation(run: Run) -> None:
    async with run.db.connection() as conn:
        assert await _check(run, conn, run.evidence) == []


def test_every_invariant_has_a_violation_planted_for_it() -> None:
    assert {invariant for invariant, _ in PLANTS} == set(INVARIANTS)


@pytest.mark.parametrize(("invariant", "plant"), PLANTS, ids=[plant.__name__[1:] for _, plant in PLANTS])
async def test_a_planted_violation_fires_its_invariant(run: Run, invariant: str, plant: Plant) -> None:
    evidence = deepcopy(run.evidence)
    async with run.db.connection() as conn:
        transaction = conn.transaction()
        await transaction.start()
        try:
            await plant(Scratch(run, conn, evidence))
            assert invariant in {one.invariant for one in await _check(run, conn, evidence)}
        finally:
            await transaction.rollback()


async def test_an_upload_that_nobody_ended_is_found(run: Run) -> None:
    async with open_storage(run.settings) as storage, run.db.connection() as conn:
        async with open_client(run.settings) as s3:
            await s3.create_multipart_upload(Bucket=run.settings.bucket, Key="processes/0/x")
        found = await _check(run, conn, run.evidence)
        async for page in storage.list_uploads("processes/"):
            for upload in page:
                await storage.abort_upload(upload)
    assert [one.invariant for one in found] == ["nothing unreferenced is stored"]
