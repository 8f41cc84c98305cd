"""A million finished jobs: no statement walks over them.

What the database read is counted, by its own books, over everything that callers and workers do: a plan that
goes through a table or an index from end to end shows there, whatever the time it took.
"""

import re
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr

from service.core import accesses, clients, documents, erasing, overview, pulse, retention
from service.core.db import open_database
from service.core.erasing import Order
from service.core.settings import Settings
from tests.cases import case_numbers
from tests.conftest import MakeSettings
from tests.dashboard.reader import OPERATOR, add_key, signed_in
from tests.databases import new_database
from tests.history import write_history
from tests.receiver import Receiver
from tests.rings import RING
from tests.world import Caller, open_world

JOBS = 1_000_000
OLD = UUID(f"{JOBS // 2:032}")
"""A job of the past."""

CLIENTS = "acme", (UNLUCKY := "unlucky")

WAITING = 100_000
_OF_WHAT_WAITS = {"jobs_to_claim", "jobs_to_ring", "jobs_one_active_per_process"}

ROWS_PER_TASK = 2_000
"""What one task may read of one table or index: some pages of answers, and then some."""


@pytest.fixture(scope="module")
async def full_database(postgres_url: str) -> AsyncIterator[str]:
    """A database with a million finished jobs of two clients, one of whom had no luck."""
    async with new_database(postgres_url, name="autos_full") as url:
        conn = await asyncpg.connect(url)
        client, _ = await clients.ensure(conn, RING, "acme")
        unlucky, _ = await clients.ensure(conn, RING, UNLUCKY)
        await write_history(conn, client.id, JOBS, one_in=10, unlucky_id=unlucky.id)
        await conn.execute("update chores set due_at = 'infinity'")
        await conn.close()
        yield url


class Books:
    """How many rows were read of each table, and entries of each index, since the last look.

    A look into an index that finds nothing is one of an entry, too.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._before: Counter[str] = Counter()

    async def read(self) -> Counter[str]:
        """Return what was read since; every connection that read has to be closed."""
        conn = await asyncpg.connect(self._url)
        try:
            rows = await conn.fetch(
                """select relname as name, seq_tup_read as read from pg_stat_user_tables
                   union all select indexrelname, idx_tup_read + idx_scan from pg_stat_user_indexes"""
            )
        finally:
            await conn.close()
        now = Counter({row["name"]: row["read"] for row in rows})
        since, self._before = now - self._before, now
        return since


async def _follow(caller: Caller) -> None:
    """Read the stream of all jobs up to its first event."""
    async with caller.http.get(
        f"{caller.base_url}/events", headers={"Authorization": f"Bearer {caller.key}"}
    ) as stream:
        assert stream.status == 200
        await stream.content.readuntil(b"\n\n")


async def _submit_and_wait(caller: Caller, receiver: Receiver) -> None:
    numbers = case_numbers(3)
    await caller.post("/jobs", json={"process_number": numbers[0], "webhook_url": receiver.url})
    await caller.post("/jobs/batch", json={"process_numbers": numbers, "webhook_url": receiver.url})
    for number in numbers:
        await caller.wait_until_final(number)
        await caller.get(f"/processes/{number}")
        await caller.get(f"/processes/{number}/files")
    await receiver.wait_for(2)


@pytest.fixture
async def books(full_database: str) -> Books:
    books = Books(full_database)
    await books.read()
    return books


@pytest.fixture
def full(full_database: str, make_settings: MakeSettings) -> Settings:
    return make_settings(database_url=SecretStr(full_database))


def _walks(read: Counter[str], tasks: int = 1) -> Counter[str]:
    """What was read of too much."""
    return Counter({name: rows for name, rows in read.items() if rows > tasks * ROWS_PER_TASK})


@pytest.mark.parametrize(
    "path",
    [
        f"/jobs/{OLD}",
        f"/jobs/{OLD}/manifest",
        "/jobs",
        "/jobs?status=completed",
        "/jobs?status=pending,processing",
        "/jobs?status=failed",
        "/jobs?status=partial,failed,cancelled&reference=mine",
        "/jobs?status=failed&process_number=1003579-22.2025.8.26.0564",
        "/jobs?reference=mine",
        "/jobs?process_number=1003579-22.2025.8.26.0564",
        "/jobs?created_from=2020-01-01T00:00:00Z&created_until=2020-02-01T00:00:00Z",
        "/webhooks/deliveries",
        "/webhooks/deliveries?status=dead",
        f"/webhooks/deliveries?job_id={OLD}",
        "/webhooks/deliveries?event=webhook.test",
        "/webhooks/endpoints",
    ],
)
async def test_no_look_of_a_caller_walks_over_the_past(full: Settings, books: Books, path: str) -> None:
    async with open_world(full, with_worker=False) as world:
        for name in CLIENTS:
            caller = await world.caller(name)
            answers = [await caller.get(path) for _ in range(7)]  # by then statements may have general plans
            answer = answers[-1]
            is_foreign = name == UNLUCKY and path.startswith(f"/jobs/{OLD}")
            assert answer.status == (404 if is_foreign else 200), answer.text
            following = re.search("<(.*?)>", answer.headers.get("Link", ""))
            if following:
                assert (await caller.get(following[1])).status == 200
    assert not _walks(await books.read(), tasks=16)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/dashboard/jobs", "/dashboard/jobs?status=failed", "/dashboard/failed"),
        *("/dashboard/deliveries", "/dashboard/deliveries?status=dead", f"/dashboard/jobs/{OLD}"),
    ],
)
@pytest.mark.parametrize("scopes", [clients.SCOPES, OPERATOR], ids=["client", "operator"])
async def test_no_page_of_the_dashboard_walks_over_the_past(
    full: Settings, books: Books, path: str, scopes: tuple[str, ...]
) -> None:
    async with open_world(full, with_worker=False) as world:
        for name in CLIENTS:
            await world.caller(name)
            async with signed_in(world, await add_key(world, name, *scopes)) as reader:
                status = 404 if name == UNLUCKY and str(OLD) in path else 200
                assert {(await reader.get(path)).status for _ in range(7)} == {status}
    walks = _walks(await books.read(), tasks=16)
    # The first page, seen after signing in too, has figures for which it looks into the newest of these.
    assert walks.pop("subscriptions_by_client", 0) <= 16 * 2 * 3 * (overview.MOST_JOINED + 1)
    assert not walks


async def test_forgetting_walks_over_what_it_forgets_alone(full: Settings, books: Books) -> None:
    now, day = datetime.now(UTC), timedelta(days=1)
    async with open_database(full) as db, db.transaction() as conn:
        assert await retention.forget_batches(conn, ended_before=now) == 0
        assert await retention.forget_jobs(conn, ended_before=now - 99 * day, after=None)
        await retention.forget_other_deliveries(conn, ended_before=now)
        assert await documents.list_too_secret(conn, most=0, limit=1000) == []
        assert await accesses.forget_old(conn, days=30, limit=1000) == 0
    assert not _walks(await books.read(), tasks=2)


async def test_an_erasure_walks_over_what_it_erases_alone(full: Settings, books: Books) -> None:
    """Each is undone, so that the other tests have their past."""
    async with open_database(full) as db, db.connection() as conn:
        client_id = await conn.fetchval("select id from clients where name = 'acme'")
        for number in range(JOBS // 2 + 20, JOBS // 2 + 160, 20):
            order = Order(
                number=f"9{number:019}",
                proof="$scrypt$",
                client_id=client_id,
                key_id="",
                of_everyone=number % 40 == 0,
                lease_s=20.0,
            )
            transaction = conn.transaction()
            await transaction.start()
            erased = await erasing.erase(conn, order)
            assert (erased.erasure.counts.jobs, erased.erasure.counts.webhooks) == (1, 1)
            await transaction.rollback()
    assert not _walks(await books.read(), tasks=7)


async def test_no_work_walks_over_the_past(full: Settings, books: Books, receiver: Receiver) -> None:
    async with open_world(full) as world:
        caller = await world.caller()
        await _submit_and_wait(caller, receiver)
        await _follow(caller)
    assert not _walks(await books.read(), tasks=20)


async def _write(full_database: str, *statements: str) -> None:
    conn = await asyncpg.connect(full_database)
    for statement in statements:
        await conn.execute(statement)
    await conn.close()


@pytest.fixture
async def waiting(full_database: str) -> AsyncIterator[None]:
    """Many jobs that wait, of which the database has no statistics yet."""
    await _write(
        full_database,
        f"""insert into processes (number)
            select '8' || lpad(n::text, 19, '0') from generate_series(1, {WAITING}) n""",
        """insert into jobs (process_number, client_id, deadline_at)
           select number, c.id, now() + interval '6 h' from processes, clients c
           where number like '8%' and c.name = 'acme'""",
    )
    yield
    await _write(
        full_database,
        "delete from jobs where process_number like '8%'",
        "delete from processes where number like '8%'",
        "vacuum analyze",
    )


@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_what_looks_at_the_whole_walks_over_what_waits_and_not_over_the_past(
    full: Settings, full_database: str, waiting: None, is_analyzed: bool
) -> None:
    if is_analyzed:
        await _write(full_database, "analyze")
    books = Books(full_database)
    await books.read()
    async with open_database(full) as db, db.connection() as conn:
        counts = {(await pulse.take(conn, None, full)).jobs_waiting for _ in range(7)}
    assert counts == {WAITING}
    walks = _walks(await books.read(), tasks=7)
    # Over one of the indexes that hold nothing else, and over each of its entries once; without statistics
    # those that run may be looked for among all that have not ended.
    assert walks.keys() <= _OF_WHAT_WAITS
    assert walks.total() < 7 * (1 if is_analyzed else 2) * (WAITING + ROWS_PER_TASK)

    # Who waits for each is looked for in none: what is theirs is known before.
    async with open_database(full) as db, db.connection() as conn:
        unlucky = await clients.get(conn, UNLUCKY)
        mine = {(await overview.count_open(conn, unlucky.id)).pending for _ in range(7)}
    assert mine == {0}
    walks = _walks(await books.read(), tasks=7)
    # By each of the three processes that may share such a walk.
    assert walks.pop("subscriptions_by_client") <= 7 * 3 * (overview.MOST_JOINED + 1)
    assert walks.keys() <= _OF_WHAT_WAITS
    assert walks.total() < 7 * (WAITING + ROWS_PER_TASK)
