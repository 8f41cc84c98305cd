"""The way from the schema of every released version to the present one.

`schemas/{version}.sql` is `schema.sql` as it was released, `schemas/{version}_rows.sql` what a system of that
release had written. Neither is ever changed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from service.core.db import SCHEMA_VERSION, SchemaState, open_database, schema_state
from service.core.errors import DatabaseUnavailableError, SchemaError
from service.core.schema import upgrade
from tests.conftest import MakeSettings
from tests.databases import bare_database, new_database

SCHEMAS = Path(__file__).parent / "schemas"
RELEASED = range(1, SCHEMA_VERSION)

# Everything of a schema that is not its rows, a line each; the order of columns is of no meaning to anybody.
DESCRIPTION = """
    select format('column %s.%s %s null:%s %s %s%s',
                  c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
                  not a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated)
    from pg_attribute a join pg_class c on c.oid = a.attrelid
         left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped
    union all
    select format('constraint %s.%s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
    from pg_constraint where connamespace = 'public'::regnamespace
    union all
    select 'index ' || pg_get_indexdef(indexrelid) from pg_index join pg_class c on c.oid = indexrelid
    where c.relnamespace = 'public'::regnamespace
    union all
    select 'trigger ' || pg_get_triggerdef(t.oid) from pg_trigger t join pg_class c on c.oid = t.tgrelid
    where c.relnamespace = 'public'::regnamespace and not tgisinternal
    union all
    select 'function ' || pg_get_functiondef(oid) from pg_proc where pronamespace = 'public'::regnamespace
    union all
    select format('enum %s %s', t.typname, string_agg(e.enumlabel, ' ' order by e.enumsortorder))
    from pg_enum e join pg_type t on t.oid = e.enumtypid group by t.typname
    union all
    select format('sequence %s %s', sequencename, data_type) from pg_sequences where schemaname = 'public'
"""


async def described(conn: "asyncpg.Connection[asyncpg.Record]") -> set[str]:
    return {row[0] for row in await conn.fetch(DESCRIPTION)}


async def rows_of(
    conn: "asyncpg.Connection[asyncpg.Record]", columns: dict[str, list[str]]
) -> dict[str, list[str]]:
    """What the tables hold in these columns, in an order of no meaning."""
    return {
        table: [
            row[0]
            for row in await conn.fetch(
                f"select row({', '.join(names)})::text from {table} order by row({', '.join(names)})::text"
            )
        ]
        for table, names in columns.items()
    }


async def columns_of(conn: "asyncpg.Connection[asyncpg.Record]") -> dict[str, list[str]]:
    rows = await conn.fetch(
        """select table_name::text, array_agg(column_name::text order by column_name)
           from information_schema.columns
           where table_schema = 'public' and table_name <> 'schema_version' group by 1"""
    )
    return {row[0]: row[1] for row in rows}


@asynccontextmanager
async def database_of(version: int, postgres_url: str) -> AsyncIterator[str]:
    """A database as a system of an earlier release left it."""
    async with bare_database(postgres_url, name="autos_old") as url:
        conn = await asyncpg.connect(url)
        try:
            await conn.execute((SCHEMAS / f"{version}.sql").read_text())
            await conn.execute((SCHEMAS / f"{version}_rows.sql").read_text())
        finally:
            await conn.close()
        yield url


@asynccontextmanager
async def connection(url: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    conn = await asyncpg.connect(url)
    try:
        yield conn
    finally:
        await conn.close()


@pytest.mark.parametrize("version", RELEASED)
async def test_the_schema_of_a_release_and_its_steps_make_the_present_one(
    version: int, postgres_url: str
) -> None:
    async with new_database(postgres_url, name="autos_new") as new_url, connection(new_url) as new:
        present = await described(new)
        async with database_of(version, postgres_url) as old_url, connection(old_url) as old:
            before = await described(old)
            columns = await columns_of(old)
            rows = await rows_of(old, columns)
            assert all(rows[table] for table in columns), "a table without rows shows nothing"
            assert await upgrade(old_url) == f"schema version {version} became {SCHEMA_VERSION}"
            assert await described(old) == present != before
            assert await schema_state(old) == await schema_state(new)
            assert await rows_of(old, columns) == rows
            assert await upgrade(old_url) == f"schema version {SCHEMA_VERSION} was already there"


async def test_what_was_asked_for_is_its_callers_when_he_was_the_only_one(postgres_url: str) -> None:
    async with database_of(1, postgres_url) as url, connection(url) as conn:
        special = """update jobs set priority = 'high', filters = '[{"types": ["despacho"]}]'"""
        await conn.execute(special)
        await upgrade(url)
        rows = await conn.fetch(
            """select job_id, priority::text, filters::text,
                      (select count(distinct client_id) from subscriptions o
                       where o.job_id = s.job_id) as clients
               from subscriptions s"""
        )
    assert {row["clients"] for row in rows} == {1, 2}
    for row in rows:
        own = ("high", '[{"types": ["despacho"]}]') if row["clients"] == 1 else ("normal", None)
        assert (row["priority"], row["filters"]) == own


async def test_of_many_who_upgrade_at_once_one_does_and_the_others_find_it_done(postgres_url: str) -> None:
    async with database_of(1, postgres_url) as url:
        said = await asyncio.gather(*(upgrade(url) for _ in range(4)))
    done = f"schema version 1 became {SCHEMA_VERSION}"
    assert sorted(said) == sorted([done, *[f"schema version {SCHEMA_VERSION} was already there"] * 3])


async def test_an_upgrade_lets_others_through_to_a_table_in_use_and_tries_again(postgres_url: str) -> None:
    async with database_of(1, postgres_url) as url, connection(url) as user, connection(url) as looking:
        in_use = user.transaction()
        await in_use.start()
        await user.execute(f"lock table {', '.join(await columns_of(user))} in access share mode")
        upgrading = asyncio.create_task(upgrade(url))
        waiting = """select count(*) from pg_stat_activity
                     where datname = current_database() and wait_event_type = 'Lock'"""
        # Seen waiting, then not: it gave way, and others are served before it comes again.
        for expected in (True, False):
            while bool(await looking.fetchval(waiting)) is not expected:
                await asyncio.sleep(0.02)
        assert await looking.fetchval("select count(*) from clients") > 0
        await in_use.rollback()
        assert await upgrading == f"schema version 1 became {SCHEMA_VERSION}"


async def test_a_later_schema_is_worked_on_when_it_says_that_it_serves_us(
    make_settings: MakeSettings, postgres_url: str
) -> None:
    """New schema first, then the new release, one process after the other: in between the old one goes on."""
    async with new_database(postgres_url, name="autos_later") as url, connection(url) as conn:
        settings = make_settings(database_url=url)
        later = SCHEMA_VERSION + 1
        await conn.execute("insert into schema_version values ($1, $2)", later, SCHEMA_VERSION)
        async with open_database(settings) as database, database.connection() as lent:
            assert await schema_state(lent) == SchemaState(later, SCHEMA_VERSION)
        await conn.execute("update schema_version set serves_from = $1 where version = $1", later)
        with pytest.raises(SchemaError, match=f"has schema version {later}, this is for {SCHEMA_VERSION}"):
            async with open_database(settings):
                pytest.fail("it was opened")
        with pytest.raises(SchemaError, match="no way back"):
            await upgrade(url)


async def test_an_earlier_schema_is_refused_until_it_is_upgraded(
    make_settings: MakeSettings, postgres_url: str
) -> None:
    async with database_of(SCHEMA_VERSION - 1, postgres_url) as url:
        settings = make_settings(database_url=url)
        with pytest.raises(SchemaError, match=f"this is for {SCHEMA_VERSION}"):
            async with open_database(settings):
                pytest.fail("it was opened")
        await upgrade(url)
        async with open_database(settings) as database, database.connection() as conn:
            assert await conn.fetchval("select count(*) from jobs") > 0


async def test_a_server_that_takes_the_connection_and_never_answers_is_told_in_words() -> None:
    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(DatabaseUnavailableError, match="database"):
        await upgrade(f"postgresql://autos@127.0.0.1:{port}/autos", connect_timeout_s=0.2)
    server.close()
    for writer in connections:
        writer.close()
