"""Processes: the court cases, as the portal last described them."""

from collections.abc import Collection, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from service.core.db import Connection
from service.core.errors import NotFoundError
from service.core.portal_records import ProcessRecord


@dataclass(frozen=True, slots=True)
class Process:
    """One court case; `number` is its 20 digits, `listed_at` when its documents were last known to be all.

    Attributes:
        listed_ago: how long ago that was, when the row was read, by the database's clock.
    """

    number: str
    court: str | None
    subject: str | None
    case_class: str | None
    secrecy_level: int | None
    metadata: dict[str, Any]
    source_updated_at: datetime | None
    listed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    listed_ago: timedelta | None


_COLUMNS = "*, now() - listed_at as listed_ago"


async def lock(conn: Connection, numbers: Set[str]) -> tuple[list[Process], set[str]]:
    """Return the processes, written if new, locked until the transaction ends; and which ones are new.

    All who ask for one process at the same time pass through this lock one after the other. Many are
    locked in the order of their numbers, so that two who ask for the same ones cannot wait for each other.
    """
    select = f"""select {_COLUMNS} from processes where number = any($1::text[]) order by number
                 for no key update"""
    asked = sorted(numbers)
    rows = await conn.fetch(select, asked)
    new = []
    if len(rows) < len(asked):
        new = await conn.fetch(
            f"""insert into processes (number) select unnest($1::text[]) on conflict do nothing
                returning {_COLUMNS}""",
            sorted(numbers - {row["number"] for row in rows}),
        )
    if len(rows) + len(new) < len(asked):  # somebody else wrote one of them in this moment
        rows = await conn.fetch(select, sorted(numbers - {row["number"] for row in new}))
    return [_process(row) for row in (*rows, *new)], {row["number"] for row in new}


async def lock_known(conn: Connection, numbers: Collection[str]) -> None:
    """Lock those of the processes that there are, in the order in which `lock` does, against everybody."""
    await conn.execute(
        "select from processes where number = any($1::text[]) order by number for update", sorted(numbers)
    )


async def list_without_jobs(conn: Connection, numbers: Collection[str]) -> list[str]:
    """Return those of the processes of which there is no job."""
    rows = await conn.fetch(
        """select number from processes where number = any($1::text[])
           and not exists (select from jobs where process_number = number)""",
        list(numbers),
    )
    return [row["number"] for row in rows]


async def forget(conn: Connection, numbers: Collection[str]) -> None:
    """Delete processes without jobs and documents."""
    await conn.execute("delete from processes where number = any($1::text[])", list(numbers))


async def get(conn: Connection, number: str) -> Process:
    """Return the process.

    Raises:
        NotFoundError: it was never asked for.
    """
    return _process(await conn.fetchrow(f"select {_COLUMNS} from processes where number = $1", number))


async def confirm_list(conn: Connection, number: str) -> None:
    """Write that the documents are at this moment those that were listed before."""
    await conn.execute("update processes set listed_at = now(), updated_at = now() where number = $1", number)


async def describe(conn: Connection, record: ProcessRecord) -> bool:
    """Write what the portal says of the process, and that its documents were listed just now.

    Returns:
        Whether they never were before.
    """
    is_first: bool = await conn.fetchval(
        """update processes p
           set court = $2, subject = $3, case_class = $4, secrecy_level = $5, metadata = $6,
               source_updated_at = $7, listed_at = now(), updated_at = now()
           from (select number, listed_at from processes where number = $1 for no key update) before
           where p.number = before.number returning before.listed_at is null""",
        record.number,
        record.court,
        record.subject,
        record.case_class,
        record.secrecy_level,
        record.metadata,
        record.source_updated_at,
    )
    return is_first


async def seal(conn: Connection, number: str, *, secrecy_level: int) -> None:
    """Write that the process is more secret than this system may have, and forget what it is about."""
    await conn.execute(
        """update processes
           set secrecy_level = $2, subject = null, case_class = null, metadata = '{}',
               source_updated_at = null, updated_at = now()
           where number = $1""",
        number,
        secrecy_level,
    )


def _process(row: asyncpg.Record | None) -> Process:
    if row is None:
        raise NotFoundError("this process was never asked for")
    return Process(**row)
