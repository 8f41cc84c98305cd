"""Lists of documents that need not be read again while their source says that nothing has changed.

Only of a source that tells of changes. A row counts only as long as it is of the same moment as its process's
own list: whoever lists that from elsewhere, or by an earlier release, makes the row worthless untouched.
"""

from collections.abc import Collection
from datetime import datetime, timedelta

from service.core.db import Connection

# That a source tells every change is its own word: a list that it would never have read again ends here.
_TRUSTED_FOR = timedelta(days=1)


async def get(conn: Connection, number: str, *, max_secrecy: int) -> datetime | None:
    """Return what was the last change when the list was read that we have; None when it has to be read anew.

    Args:
        max_secrecy: of a process that is more secret the list is not to be relied on.
    """
    changed_at: datetime | None = await conn.fetchval(
        """select k.changed_at from known_lists k join processes p on p.number = k.process_number
           where p.number = $1 and k.listed_at = p.listed_at and k.read_at > now() - $2::interval
             and p.secrecy_level <= $3 and exists (select from documents where process_number = p.number)""",
        number,
        _TRUSTED_FOR,
        max_secrecy,
    )
    return changed_at


async def keep(conn: Connection, number: str, changed_at: datetime) -> None:
    """Write what the source called its last change before the list, which was written in this transaction."""
    await conn.execute(
        """insert into known_lists (process_number, changed_at, listed_at, read_at)
           values ($1, $2, now(), now())
           on conflict (process_number) do update
           set changed_at = excluded.changed_at, listed_at = now(), read_at = now()""",
        number,
        changed_at,
    )


async def confirm(conn: Connection, number: str) -> None:
    """Let the list count as of now, with its process in this transaction."""
    await conn.execute("update known_lists set listed_at = now() where process_number = $1", number)


async def forget(conn: Connection, numbers: Collection[str]) -> None:
    """See to it that the lists of these processes are read again, whatever their source says."""
    await conn.execute("delete from known_lists where process_number = any($1::text[])", list(numbers))
