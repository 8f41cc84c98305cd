"""Objects that are gone, or have to go: their documents fail, and who polls their process sees that."""

from collections.abc import Sequence
from uuid import UUID

from service.core import documents, job_upkeep, processes
from service.core.db import Connection


async def mark_missing(conn: Connection, object_key: str) -> bool:
    """Mark a document whose object is gone, inside the caller's transaction.

    Returns:
        Whether it was so; False when the document has another object by now.
    """
    newest = await _lock(conn, [object_key])
    if not await documents.mark_missing(conn, object_key):
        return False
    await job_upkeep.tell_change(conn, newest)
    return True


async def mark_too_secret(conn: Connection, object_keys: Sequence[str]) -> None:
    """Mark documents whose objects were removed as too secret, inside the caller's transaction."""
    newest = await _lock(conn, object_keys)
    await documents.mark_too_secret(conn, object_keys)
    await job_upkeep.tell_change(conn, newest)


async def _lock(conn: Connection, object_keys: Sequence[str]) -> list[UUID]:
    """Lock the processes, so that nobody begins a job meanwhile, and the newest job of each."""
    numbers = await documents.list_processes(conn, object_keys)
    await processes.lock_known(conn, numbers)
    return await job_upkeep.lock_newest(conn, numbers)
