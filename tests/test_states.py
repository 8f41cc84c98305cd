"""The arrows: the page that people read, the lists in the database and its triggers say the same."""

import re
from enum import StrEnum
from itertools import product
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from service.core import clients, jobs, processes, signing, subscriptions
from service.core.db import Connection
from service.core.jobs import NewJob
from service.core.states import DeliveryStatus, DocumentStatus, JobStatus, Priority
from service.core.subscriptions import NewSubscription
from tests.rings import RING

PAGE = Path(__file__).parents[1] / "docs" / "states.md"
NUMBER = "10035792220258260564"
MOVES = [("job", JobStatus), ("document", DocumentStatus), ("delivery", DeliveryStatus)]


def arrows_drawn(noun: str) -> set[tuple[str, str]]:
    """The arrows of one diagram of the page."""
    section = PAGE.read_text().split(f"## {noun.capitalize()}\n", 1)[1]
    diagram = section.split("```mermaid", 1)[1].split("```", 1)[0]
    return set(re.findall(r"^ +(\w+) --> (\w+)$", diagram, re.MULTILINE))


@pytest.mark.integration
@pytest.mark.parametrize(("noun", "states"), MOVES)
async def test_the_diagram_shows_exactly_the_arrows_of_the_database(
    conn: Connection, noun: str, states: type[StrEnum]
) -> None:
    names = [state.value for state in states]
    assert names == await conn.fetchval(f"select enum_range(null::{noun}_status)::text[]")
    allowed = {
        (source, target)
        for source, target in product(names, names)
        if await conn.fetchval(f"select {noun}_status_can_move($1, $2)", source, target)
    }
    assert allowed == arrows_drawn(noun)


@pytest.mark.integration
@pytest.mark.parametrize(("noun", "states"), MOVES)
async def test_the_trigger_refuses_every_pair_without_an_arrow_and_no_other(
    conn: Connection, noun: str, states: type[StrEnum]
) -> None:
    await _one_row_of_each(conn)
    table = {"job": "jobs", "document": "documents", "delivery": "deliveries"}[noun]
    for source, target in product(states, states):
        if source == target:
            continue
        refused = await _is_refused(conn, table, source, target)
        assert refused == ((source, target) not in arrows_drawn(noun)), f"{source} → {target}"


async def _one_row_of_each(conn: Connection) -> None:
    client, _ = await clients.ensure(conn, RING, "acme", webhook_secret=signing.new_secret())
    async with conn.transaction():
        await processes.lock(conn, {NUMBER})
        (job,) = await jobs.create(conn, [NewJob(NUMBER, Priority.NORMAL, None, 60)], client.id)
        wanted = NewSubscription(
            job.id, job.created_at, "https://hooks.example.com/", None, ("job.completed",), None
        )
        (subscription_id,) = await subscriptions.add(conn, [wanted], client.id, new_jobs=set())
    await conn.execute(
        """insert into deliveries (client_id, webhook_url, subscription_id, event, payload)
           values ($1, 'https://hooks.example.com/', $2, 'job.completed', '{}')""",
        client.id,
        subscription_id,
    )
    await _document(conn, job.id)


async def _document(conn: Connection, job_id: UUID) -> None:
    await conn.execute(
        """insert into documents
               (process_number, job_id, portal_uuid, position, name, has_file, secrecy_level)
           values ($1, $2, gen_random_uuid(), 1, 'a', true, 0)""",
        NUMBER,
        job_id,
    )


async def _is_refused(conn: Connection, table: str, source: str, target: str) -> bool:
    """Put the row into `source` past all guards, then try the move; everything is rolled back."""
    transaction = conn.transaction()
    await transaction.start()
    try:
        # Checks tie other columns to a status; here only the arrows are asked.
        for name in await _checks(conn, table):
            await conn.execute(f'alter table {table} drop constraint "{name}"')
        if table == "jobs":
            await conn.execute("delete from documents")
        await conn.execute(f"alter table {table} disable trigger user")
        await conn.execute(f"update {table} set status = $1", source)
        await conn.execute(f"alter table {table} enable trigger user")
        await conn.execute(f"update {table} set status = $1", target)
    except asyncpg.PostgresError as error:
        if error.sqlstate != "AU001":
            raise
        return True
    else:
        return False
    finally:
        await transaction.rollback()


async def _checks(conn: Connection, table: str) -> list[str]:
    names: list[str] = await conn.fetchval(
        """select coalesce(array_agg(conname::text), '{}') from pg_constraint
           where conrelid = $1::regclass and contype = 'c'""",
        table,
    )
    return names


@pytest.mark.integration
async def test_a_job_cannot_end_with_an_unfinished_document(conn: Connection) -> None:
    await _one_row_of_each(conn)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await conn.execute(
            """update jobs set status = 'cancelled', finished_at = now(), progress_percentage = 100"""
        )
    assert refused.value.sqlstate == "AU002"
