"""What the database holds in all, for its operator: estimates that cost nothing, and the work that waits."""

from dataclasses import dataclass

from service.core.db import Connection

_TABLES = ("processes", "jobs", "documents", "batches", "deliveries", "delivery_attempts", "audit_log")


@dataclass(frozen=True, slots=True)
class Table:
    """A table as PostgreSQL's own books have it.

    Attributes:
        rows: an estimate; None when nobody has counted them yet.
        size_bytes: with its indexes.
    """

    name: str
    rows: int | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """The jobs that have not ended.

    Attributes:
        due: of those that are pending, the ones that could be taken now.
        oldest_s: for how many seconds the oldest of them could have been; None when there is none.
    """

    pending: int
    processing: int
    due: int
    oldest_s: float | None


async def list_tables(conn: Connection) -> list[Table]:
    """Return the main tables, those that are there."""
    rows = await conn.fetch(
        """select name, nullif(greatest(reltuples, -1)::bigint, -1) as rows,
                  pg_total_relation_size(pg_class.oid) as size_bytes
           from unnest($1::text[]) with ordinality as asked(name, place)
                join pg_class on pg_class.oid = to_regclass(name)
           order by place""",
        _TABLES,
    )
    return [Table(**row) for row in rows]


async def count_backlog(conn: Connection) -> Backlog:
    """Count the jobs that wait and those that run."""
    (row,) = await conn.fetch(
        """select count(*) filter (where status = 'pending') as pending,
                  count(*) filter (where status = 'processing') as processing,
                  count(*) filter (where is_due) as due,
                  extract(epoch from now() - min(next_attempt_at) filter (where is_due))::float8 as oldest_s
           from jobs cross join lateral (select status = 'pending' and next_attempt_at <= now() as is_due) s
           where status in ('pending', 'processing')"""
    )
    return Backlog(**row)
