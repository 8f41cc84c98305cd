"""Chores: what one of all workers does now and then, whichever comes first."""

from datetime import timedelta

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
