"""What PostgreSQL can do to a statement: each is a 503 that loses nothing, or is done again."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import asyncpg
import pytest

from service.core.db import Connection, Database, open_database
from service.core.errors import DatabaseConflictError, DatabaseUnavailableError
from service.core.news import open_news
from service.core.schema import upgrade
from service.sandbox.postgres import open_postgres
from tests.conftest import MakeSettings
from tests.faults.proxy import Mood, open_proxy
from tests.faults.test_backends_away import port_of, with_port
from tests.hearing import until_heard
from tests.world import World, open_world, until

CASE = "1003579-22.2025.8.26.0564"


@pytest.mark.parametrize(
    "sqlstate",
    [
        "53100",  # disk full
        "53200",  # out of memory
        "53300",  # too many connections
        "57014",  # cancelled by a time-out
        "57P01",  # shut down by an administrator
        "57P03",  # starting up
        "55P03",  # a lock that is not to be had
        "25006",  # read-only: the wrong side of a failover
        "08006",  # connection failure
        "40001",
        "40P01",
    ],
)
async def test_what_the_server_cannot_do_now_is_told_from_what_is_wrong(db: Database, sqlstate: str) -> None:
    with pytest.raises(DatabaseUnavailableError):
        async with db.connection() as conn:
            await conn.execute(f"do $$ begin raise exception 'no' using errcode = '{sqlstate}'; end $$")
    with pytest.raises(asyncpg.SyntaxOrAccessError):
        async with db.connection() as conn:
            await conn.execute("selct 1")


async def test_two_transactions_in_each_others_way_are_both_done(db: Database) -> None:
    """A deadlock undoes one of them, which is done again as a whole."""
    done, both_hold = Counter[str](), asyncio.Barrier(2)
    async with db.connection() as conn:
        await conn.execute("insert into clients (name) select name from unnest('{a,b}'::text[]) name")

    async def swap(first: str, second: str) -> None:
        is_first_try = True

        async def work(conn: Connection) -> None:
            nonlocal is_first_try
            done[f"{first} begun"] += 1
            await conn.execute("update clients set max_active_jobs = 1 where name = $1", first)
            if is_first_try:
                is_first_try = False
                await both_hold.wait()
            await conn.execute("update clients set max_active_jobs = 2 where name = $1", second)

        await db.in_transaction(work)
        done["ended"] += 1

    await asyncio.gather(swap("a", "b"), swap("b", "a"))
    assert done["ended"] == 2
    assert done["a begun"] + done["b begun"] == 3


async def test_a_conflict_that_does_not_end_is_given_up(db: Database) -> None:
    times = 0

    async def work(conn: Connection) -> None:
        nonlocal times
        times += 1
        await conn.execute("do $$ begin raise exception 'no' using errcode = '40001'; end $$")

    with pytest.raises(DatabaseConflictError):
        await db.in_transaction(work)
    assert times == 3


async def test_a_commit_whose_answer_is_lost_has_happened_and_asking_again_joins_its_job(
    empty: None, make_settings: MakeSettings, database_url: str
) -> None:
    async with open_proxy(port_of(database_url)) as proxy:
        settings = make_settings(database_url=with_port(database_url, proxy.port))
        async with open_world(settings, with_worker=False) as api:
            caller = await api.caller()
            proxy.lose_answers_to = b"COMMIT;"
            answer = await caller.post("/jobs", json={"process_number": CASE})
            proxy.lose_answers_to = None
            assert answer.status == 503
            again = await caller.post("/jobs", json={"process_number": CASE})
            assert again.status == 202
            async with api.db.connection() as conn:
                rows = await conn.fetch("select id from jobs")
    assert [str(row["id"]) for row in rows] == [again.json["job_id"]]


@pytest.fixture
async def own_api(make_settings: MakeSettings, tmp_path: Path) -> AsyncIterator[tuple[World, str]]:
    """An API on a server of its own, of which all connections may be taken."""
    async with open_postgres(tmp_path, durable=False) as url:
        await upgrade(url)
        async with open_world(make_settings(database_url=url), with_worker=False) as api:
            yield api, url


async def test_a_server_without_a_free_connection_is_a_503_and_serves_again_when_it_has_one(
    own_api: tuple[World, str],
) -> None:
    api, url = own_api
    caller = await api.caller()
    taken = []
    try:
        with suppress(asyncpg.TooManyConnectionsError):
            while True:
                taken.append(await asyncpg.connect(url))
        # The pool has one connection left, and wants more of them for so many calls.
        answers = await asyncio.gather(*(caller.get(f"/processes/{CASE}") for _ in range(40)))
        assert {answer.status for answer in answers} == {200, 503}
    finally:
        for conn in taken:
            await conn.close()
    answers = await asyncio.gather(*(caller.get(f"/processes/{CASE}") for _ in range(40)))
    assert {answer.status for answer in answers} == {200}


async def test_on_the_wrong_side_of_a_failover_jobs_are_refused_until_it_is_over(
    own_api: tuple[World, str],
) -> None:
    api, url = own_api
    caller = await api.caller()
    await _make_read_only(url, "on")
    answers = [await caller.post("/jobs", json={"process_number": CASE}) for _ in range(3)]
    assert {answer.status for answer in answers} == {503}
    await _make_read_only(url, "off")
    async with asyncio.timeout(10):
        while (answer := await caller.post("/jobs", json={"process_number": CASE})).status == 503:
            await asyncio.sleep(0.05)
    assert answer.status == 202


async def test_who_was_led_to_the_wrong_side_of_a_failover_does_not_stay_there(db: Database) -> None:
    """A server that was demoted lives on, with all connections to it; who connects anew finds the other."""
    async with db.connection() as one, db.connection() as other:
        for conn in (one, other):
            await conn.execute("set default_transaction_read_only = on")
    with pytest.raises(DatabaseUnavailableError, match="ReadOnly"):
        await _write(db)
    await _write(db)


async def test_who_listens_for_news_comes_back_whatever_the_server_said(
    database_url: str, make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_proxy(port_of(database_url)) as proxy, AsyncExitStack() as stack:
        proxy.canned = b"R\0\0\0\x08\0\0\0\x05"  # a login by MD5, without the salt for it
        await proxy.set_mood(Mood.CANNED)
        url = with_port(database_url, proxy.port) + "?sslmode=disable"
        news = await stack.enter_async_context(open_news(make_settings(database_url=url)))
        await until(lambda: "no news of jobs: InternalClientError" in caplog.text, timeout_s=10)
        await proxy.set_mood(Mood.THROUGH)
        await until_heard(news, database_url)


async def _write(db: Database) -> None:
    async with db.connection() as conn:
        await conn.execute("update chores set due_at = due_at")


async def _make_read_only(url: str, value: str) -> None:
    conn = await asyncpg.connect(url)
    await conn.execute("set default_transaction_read_only = off")
    await conn.execute(f"alter database autos set default_transaction_read_only = {value}")
    await conn.close()
    await _end_ours(url)


async def _end_ours(url: str) -> None:
    conn = await asyncpg.connect(url)
    await conn.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'autos'"
    )
    await conn.close()


async def test_a_pool_whose_every_connection_was_ended_serves_again_by_itself(
    own_api: tuple[World, str], make_settings: MakeSettings
) -> None:
    api, url = own_api
    caller = await api.caller()
    async with open_database(make_settings(database_url=url)) as db:
        await asyncio.gather(*(caller.get(f"/processes/{CASE}") for _ in range(20)))
        await _end_ours(url)
        async with asyncio.timeout(10):
            while (await caller.get(f"/processes/{CASE}/status")).status != 200:
                await asyncio.sleep(0.05)
        async with asyncio.timeout(10):
            while True:
                try:
                    async with db.connection() as conn:
                        assert await conn.fetchval("select 1") == 1
                        break
                except DatabaseUnavailableError:
                    await asyncio.sleep(0.05)


async def test_a_connection_that_cannot_be_given_back_leaves_no_task_unheard(
    empty: None, make_settings: MakeSettings, database_url: str
) -> None:
    """A statement timed out, its cancellation gets no answer, and who waits for that is cancelled."""
    unheard = list[dict[str, object]]()
    loop = asyncio.get_running_loop()
    async with open_proxy(port_of(database_url)) as proxy:
        settings = make_settings(database_url=with_port(database_url, proxy.port))
        async with open_database(settings) as db:
            is_timed_out = asyncio.Event()

            async def use() -> None:
                async with db.connection() as conn:
                    await proxy.set_mood(Mood.SILENT)
                    try:
                        await conn.execute("select pg_sleep(30)", timeout=0.1)
                    except TimeoutError:
                        is_timed_out.set()

            loop.set_exception_handler(lambda _, said: unheard.append(said))
            try:
                using = asyncio.create_task(use())
                await is_timed_out.wait()
                await asyncio.sleep(0)  # into the release
                using.cancel()
                with suppress(asyncio.CancelledError):
                    await using
                releases = [one for one in asyncio.all_tasks() if "Pool.release" in repr(one)]
                assert len(releases) == 1
                await asyncio.wait(releases)
                del releases, using
                gc.collect()
            finally:
                loop.set_exception_handler(None)
                await proxy.set_mood(Mood.THROUGH)
    assert unheard == []
