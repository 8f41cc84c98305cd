"""Which dependencies answer, asked all at once and in a bounded time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import Context

from service.core.db import Database
from service.core.errors import DatabaseUnavailableError, StorageUnavailableError
from service.core.queue import REDIS_ERRORS, Queue
from service.core.storage import Storage

OK = "ok"
"""The state of what answers; every other state is words."""

_CHECK_TIMEOUT_S = 2.5
_SHARED_S = 1.0


class Looks:
    """One look for all who ask within a second: nobody needs a key to ask, and each is work for others.

    Args:
        look: asks the dependencies.
    """

    def __init__(self, look: Callable[[], Awaitable[Mapping[str, str]]]) -> None:
        self._look = look
        self._last: asyncio.Task[Mapping[str, str]] | None = None
        self._shared_until = 0.0

    async def states(self) -> Mapping[str, str]:
        """Return the states as they were seen a second ago at most."""
        if self._last is None or (self._last.done() and self._shared_until <= _now()):
            # It serves whoever comes: it is part of nobody's trace, and what it logs is about nobody.
            self._last = asyncio.create_task(self._seen(), context=Context())
        return await asyncio.shield(self._last)

    async def _seen(self) -> Mapping[str, str]:
        states = await self._look()
        self._shared_until = _now() + _SHARED_S
        return states

    async def close(self) -> None:
        """End a look that is under way."""
        if self._last is not None:
            self._last.cancel()
            await asyncio.wait([self._last])


@asynccontextmanager
async def open_looks(look: Callable[[], Awaitable[Mapping[str, str]]]) -> AsyncIterator[Looks]:
    """Look when somebody asks, until the block ends."""
    looks = Looks(look)
    try:
        yield looks
    finally:
        await looks.close()


def _now() -> float:
    return asyncio.get_running_loop().time()


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
