"""What the database holds in all, for its operator: estimates that cost nothing."""

from dataclasses import dataclass

from service.core.db import Connection

_TABLES = (
    *("processes", "jobs", "documents", "batches", "deliveries", "delivery_attempts"),
    *("audit_log", "accesses"),
)


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
