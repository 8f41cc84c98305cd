"""Which dependencies answer, asked all at once and in a bounded time."""

import asyncio
from collections.abc import Awaitable

from service.core.db import Database
from service.core.errors import DatabaseUnavailableError, StorageUnavailableError
from service.core.queue import REDIS_ERRORS, Queue
from service.core.storage import Storage

OK = "ok"
"""The state of what answers; every other state is words."""

_CHECK_TIMEOUT_S = 2.5


async def ask_dependencies(db: Database, queue: Queue, storage: Storage) -> dict[str, str]:
    """Return the states of `database`, `redis` and `storage`."""
    database, redis, stored = await asyncio.gather(
        _state(_ask_database(db)), _state(queue.check()), _state(storage.check())
    )
    return {"database": database, "redis": redis, "storage": stored}


async def _ask_database(db: Database) -> None:
    async with db.connection() as conn:
        await conn.fetchval("select 1")


async def _state(check: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            await check
    except (DatabaseUnavailableError, StorageUnavailableError, *REDIS_ERRORS) as error:
        return f"unavailable: {type(error).__name__}"
    return OK
