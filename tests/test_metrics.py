"""What the metrics tell of work: a whole job, everything that can fail, and nothing about anybody."""

import re
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from asyncpg import PostgresError
from redis.asyncio import Redis

from service.core import clients, submission
from service.core.db import Database
from service.core.errors import (
    DatabaseUnavailableError,
    NotFoundError,
    PortalBreakerOpenError,
    PortalUnavailableError,
    StorageUnavailableError,
)
from service.core.metrics import REGISTRY
from service.core.portal_limit import open_portal_limit
from service.core.queue import open_queue
from service.core.s3_client import Patience
from service.core.settings import Settings
from service.core.storage import open_storage
from service.core.wishes import Wish
from service.sandbox.cases import Special, expected_documents, special_number
from tests.claims import claim_one
from tests.conftest import MakeSettings
from tests.core.s3_servers import Fault, hang, open_faulty_s3, reset, s3_settings, slow_down
from tests.core.s3_servers import error as s3_error
from tests.core.sso import error, open_sso
from tests.readings import Readings
from tests.receiver import Receiver
from tests.rings import RING
from tests.world import World, open_world, until
from worker.context import open_context
from worker.sweep import Sweep

CASE = "1003579-22.2025.8.26.0564"
DIGITS = "10035792220258260564"
NOBODY = "127.0.0.1:1"
# What no label may hold: an id, a number long enough to name anything, a URL, a host.
NAMES_SOMEBODY = re.compile(r"[0-9a-f]{12}|[0-9]{5}|://|127\.0\.0\.1|localhost|@|\?")


async def test_a_whole_job_moves_the_counters(world: World, receiver: Receiver) -> None:
    caller = await world.caller()
    before = Readings()
    await caller.post("/jobs", json={"process_number": CASE, "webhook_url": receiver.url})
    await caller.wait_until_final(CASE)
    await receiver.wait_for(1)
    await until(lambda: before.moved("autos_deliveries_total", outcome="delivered") == 1)
    await until(lambda: before.moved("autos_job_runs_total", outcome="ended") == 1)
    size = sum(one.size for one in expected_documents(CASE))
    expected = {
        ("autos_http_requests_total", "method", "POST", "route", "/jobs", "status", "2xx"): 1,
        ("autos_jobs_created_total",): 1,
        ("autos_jobs_ended_total", "status", "completed"): 1,
        ("autos_job_duration_seconds_count", "status", "completed"): 1,
        ("autos_job_wait_seconds_count",): 1,
        ("autos_documents_total", "outcome", "available"): 26,
        ("autos_stored_bytes_total",): size,
        ("autos_portal_requests_total", "operation", "read_process"): 1,
        ("autos_portal_requests_total", "operation", "open_document"): 26,
        ("autos_portal_request_duration_seconds_count", "operation", "receive_document"): 26,
        ("autos_portal_place_wait_seconds_count",): 27,
        ("autos_s3_requests_total", "operation", "put_object"): 26,
        ("autos_webhook_requests_total", "operation", "send"): 1,
        ("autos_webhook_request_duration_seconds_count", "operation", "send"): 1,
    }
    moved = {key: before.moved(key[0], **dict(zip(key[1::2], key[2::2], strict=True))) for key in expected}
    assert moved == expected
    for operation in ("statements", "transaction"):
        assert before.moved("autos_database_blocks_total", operation=operation) > 0
    for operation in ("ring", "heard", "portal_limit", "rate_limit"):
        assert before.moved("autos_redis_requests_total", operation=operation) > 0
    assert before.all_moved("_failures_total") == {}
    assert before.moved("autos_database_wait_seconds_count") > 0


async def test_no_label_names_anybody_or_anything(world: World, receiver: Receiver) -> None:
    receiver.statuses = [500, 410]
    caller = await world.caller("a client of ours")
    created = await caller.post("/jobs", json={"process_number": CASE, "webhook_url": receiver.url + "?t=1"})
    await caller.get(f"/processes/{CASE}/status")
    await caller.get(f"/processes/{DIGITS}/nowhere")
    await caller.get(f"/jobs/{created.json['job_id']}")
    await caller.wait_until_final(CASE)
    await receiver.wait_for(2)
    seen = [
        (sample.name, label, value)
        for family in REGISTRY.collect()
        for sample in family.samples
        for label, value in sample.labels.items()
        if label not in ("le", "version")
    ]
    assert len(seen) > 100
    for name, label, value in seen:
        assert not NAMES_SOMEBODY.search(value), (name, label, value)
        assert "a client of ours" not in value


async def test_documents_that_fail_are_counted_with_the_reason(world: World) -> None:
    number = special_number(Special.CODEX_SOME)
    caller = await world.caller()
    before = Readings()
    await caller.get(f"/processes/{number}")
    await caller.wait_until_final(number)
    await until(lambda: before.moved("autos_job_runs_total", outcome="ended") == 1)
    assert before.moved("autos_documents_total", outcome="available") == 7
    # Three documents in the first run and in each of two retries, after which the job ends as it is.
    assert before.moved("autos_documents_total", outcome="again") == 9
    assert before.moved("autos_document_failures_total", reason="codex_error") == 9
    assert before.moved("autos_job_runs_total", outcome="retried") == 2
    assert before.moved("autos_jobs_ended_total", status="partial") == 1
    assert before.moved("autos_job_wait_seconds_count") == 1
    failures = before.moved(
        "autos_portal_request_failures_total", operation="open_document", reason="codex_error"
    )
    assert failures == 9


async def test_a_refusal_a_throttle_and_an_outage_of_the_portal_are_told_apart(world: World) -> None:
    caller = await world.caller()
    before = Readings()
    for special in (Special.NO_ACCESS, Special.BUSY, Special.THROTTLED):
        await caller.get(f"/processes/{special_number(special)}")
        await caller.wait_until_final(special_number(special))
    failed = before.all_moved("portal_request_failures_total")
    assert (
        failed["autos_portal_request_failures_total{'operation': 'read_process', 'reason': 'no_access'}"] == 1
    )
    name = "autos_portal_request_failures_total{'operation': 'read_process', 'reason': 'portal_unavailable'}"
    assert failed[name] == 2
    name = "autos_portal_request_failures_total{'operation': 'open_document', 'reason': 'throttled'}"
    assert failed[name] > 0
    assert before.moved("autos_portal_throttles_total") == 2 + failed[name]
    assert before.moved("autos_jobs_ended_total", status="failed") == 1


async def test_the_breaker_opening_is_counted_once(redis_url: str) -> None:
    before = Readings()
    async with Redis.from_url(redis_url) as redis:
        await redis.flushdb()
        async with open_portal_limit(redis, Settings(portal_breaker_failures=1).portal) as limit:
            for _ in range(2):
                with pytest.raises(PortalBreakerOpenError):
                    async with limit.slot():
                        raise PortalUnavailableError("gone")
        await redis.flushdb()
    assert before.moved("autos_portal_breaker_openings_total") == 1


async def test_a_receivers_answers_are_counted_by_their_class(world: World, receiver: Receiver) -> None:
    receiver.statuses = [500, 302, 204]
    caller = await world.caller()
    before = Readings()
    await caller.get(f"/processes/{CASE}", params={"webhook_url": receiver.url})
    await receiver.wait_for(3)
    await until(lambda: before.moved("autos_deliveries_total", outcome="delivered") == 1)
    assert before.moved("autos_webhook_requests_total", operation="send") == 3
    for reason in ("5xx", "3xx"):
        assert before.moved("autos_webhook_request_failures_total", operation="send", reason=reason) == 1
    assert before.moved("autos_deliveries_total", outcome="again") == 1
    receiver.statuses = [410]
    await caller.get(f"/processes/{CASE}", params={"webhook_url": receiver.url})
    await until(lambda: before.moved("autos_deliveries_total", outcome="dead") == 1)


async def test_a_receiver_that_does_not_answer_is_counted_by_the_kind_of_failure(api: World) -> None:
    caller = await api.caller()
    before = Readings()
    await caller.post("/webhooks/webhook-send-test", json={"webhook_url": f"http://{NOBODY}/"})
    reason = {"operation": "send", "reason": "connection"}
    assert before.moved("autos_webhook_request_failures_total", **reason) == 3


async def test_a_cancelled_job_has_ended(api: World) -> None:
    caller = await api.caller()
    before = Readings()
    job_id = (await caller.post("/jobs", json={"process_number": CASE})).json["job_id"]
    for _ in range(2):
        assert (await caller.post(f"/jobs/{job_id}/cancel")).status == 200
    assert before.moved("autos_jobs_ended_total", status="cancelled") == 1


@pytest.mark.parametrize(
    ("sqlstate", "reason"), [("40P01", "conflict"), ("57014", "unavailable"), ("22012", None)]
)
async def test_what_the_database_does_to_us_is_counted_and_what_we_do_wrong_is_not(
    db: Database, sqlstate: str, reason: str | None
) -> None:
    before = Readings()
    with pytest.raises((DatabaseUnavailableError, PostgresError)):
        async with db.transaction() as conn:
            await conn.execute(f"do $$ begin raise exception 'told to' using errcode = '{sqlstate}'; end $$")
    with pytest.raises(NotFoundError):
        async with db.connection():
            raise NotFoundError("nothing of the database's")
    failed = before.all_moved("autos_database_block_failures_total")
    name = f"autos_database_block_failures_total{{'operation': 'transaction', 'reason': '{reason}'}}"
    assert failed == ({name: 1} if reason else {})
    assert before.moved("autos_database_blocks_total", operation="transaction") == 1
    assert before.moved("autos_database_blocks_total", operation="statements") == 1


async def _refuse(request: web.Request) -> web.StreamResponse:
    return s3_error(403, "AccessDenied")


async def _break(request: web.Request) -> web.StreamResponse:
    return s3_error(500, "InternalError")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (None, "missing"),
        (slow_down, "throttled"),
        (_break, "server"),
        (_refuse, "refused"),
        (reset, "connection"),
        (hang, "timeout"),
    ],
)
async def test_a_failure_of_s3_is_counted_by_its_kind(fault: Fault | None, reason: str) -> None:
    before = Readings()
    async with open_faulty_s3() as s3:
        patience = Patience(call_s=0.2 if fault is hang else 30.0)
        if fault is not None:
            s3.faults["other"] = fault
        async with open_storage(s3_settings(s3.server), patience=patience) as storage:
            with pytest.raises(StorageUnavailableError):
                await storage.delete("processes/none")
    assert before.all_moved("s3_request_failures_total") == {
        f"autos_s3_request_failures_total{{'operation': 'delete_object', 'reason': '{reason}'}}": 1
    }
    assert before.moved("autos_s3_requests_total", operation="delete_object") == 1


async def test_a_redis_that_is_away_is_a_failure_of_each_call(make_settings: MakeSettings) -> None:
    before = Readings()
    async with open_queue(make_settings(redis_url=f"redis://{NOBODY}/0")) as queue:
        assert await queue.room("autos:jobs") == 0
    labels = {"operation": "room", "reason": "connection"}
    assert before.moved("autos_redis_request_failures_total", **labels) == 1
    assert before.moved("autos_redis_requests_total", operation="room") == 1


async def test_renewals_of_the_token_are_counted_and_those_that_brought_none(
    empty: None, make_settings: MakeSettings
) -> None:
    before = Readings()
    async with open_sso() as sso, open_world(sso.service(make_settings)) as world:
        world.portal.token = "access.1.hush"
        caller = await world.caller()
        await caller.get(f"/processes/{special_number(Special.EMPTY)}")
        await caller.wait_until_final(special_number(Special.EMPTY))
    assert before.moved("autos_portal_token_renewals_total") == 1
    assert before.all_moved("token_renewal_failures_total") == {}

    async def refuse(_: object) -> object:
        return error(401, "invalid_client")

    async with open_sso() as sso:
        sso.fault = refuse  # type: ignore[assignment]
        async with open_world(sso.service(make_settings, job_deadline_s=1)) as world:
            caller = await world.caller()
            await caller.get(f"/processes/{CASE}")
            await caller.wait_until_final(CASE)
    assert before.moved("autos_portal_token_renewal_failures_total", reason="refused") == 1


@pytest.fixture
async def dead_workers_job(empty: None, make_settings: MakeSettings) -> AsyncIterator[Sweep]:
    """A job whose worker's lease has run out, and the sweep that will find it."""
    settings = make_settings(lease_s=0.001, max_crashes=2)
    async with open_context(settings) as context:
        async with context.db.transaction() as conn:
            client, _ = await clients.ensure(conn, RING, "acme")
            await submission.submit(conn, Wish(DIGITS), client.id, settings=settings)
        yield Sweep(context)


async def test_a_lease_that_ran_out_is_counted_and_a_job_that_kills_its_workers_ends(
    dead_workers_job: Sweep, db: Database
) -> None:
    before = Readings()
    for crash in (1, 2):
        async with db.connection() as conn:
            assert await claim_one(conn, lease_s=-1)
        await dead_workers_job.free_expired_leases()
        assert before.moved("autos_leases_expired_total") == crash
    assert before.moved("autos_jobs_ended_total", status="failed") == 1


async def test_a_database_that_is_away_is_a_failure_of_each_who_asks(db: Database) -> None:
    before = Readings()
    with pytest.raises(DatabaseUnavailableError):
        async with db.connection() as conn:
            await conn.execute("select pg_terminate_backend(pg_backend_pid())")
    labels = {"operation": "statements", "reason": "unavailable"}
    assert before.moved("autos_database_block_failures_total", **labels) == 1
