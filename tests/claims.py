"""Claiming one job at a time, as if a worker did it that says no more."""

from uuid import UUID, uuid4

from service.core import jobs
from service.core.db import Connection
from service.core.jobs import Job


async def claim_one(conn: Connection, *, worker_id: UUID | None = None, lease_s: float = 60.0) -> Job | None:
    """Return the job whose turn it is; None when none is due."""
    claimed = await jobs.claim(conn, 1, worker_id=worker_id or uuid4(), lease_s=lease_s)
    return claimed[0] if claimed else None
