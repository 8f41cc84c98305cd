"""Chores: what one of all workers does now and then, whichever comes first."""

from datetime import datetime, timedelta

from service.core.db import Connection


async def claim(conn: Connection, name: str, *, again_s: float) -> bool:
    """Take a chore that is due; it is due again `again_s` later, whatever becomes of it."""
    done = await conn.fetchval(
        """update chores set due_at = now() + $2::interval
           where name = $1 and due_at <= now() returning name""",
        name,
        timedelta(seconds=again_s),
    )
    return done is not None


async def mark_done(conn: Connection, name: str) -> None:
    """Note that a chore came to its end just now."""
    await conn.execute("update chores set done_at = now() where name = $1", name)


async def list_done(conn: Connection) -> dict[str, datetime | None]:
    """Return when each chore last came to its end, None if it never did."""
    return {row["name"]: row["done_at"] for row in await conn.fetch("select name, done_at from chores")}
