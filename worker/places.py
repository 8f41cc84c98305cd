"""Places for downloads in one worker process: clients who wait take turns, whoever has more waiting."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID


class Places:
    """A number of places, given to the waiting clients in turn."""

    def __init__(self, count: int) -> None:
        self._free = count
        # In the order of their turns; a client that nobody waits for any more is left out.
        self._waiting: dict[UUID, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def of(self, client_id: UUID) -> AsyncIterator[None]:
        """Hold one place until the block ends."""
        await self._take(client_id)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, client_id: UUID) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client_id, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back()  # it came in the moment in which nobody wanted it any more
            raise

    def _give_back(self) -> None:
        self._free += 1
        while self._free and self._waiting:
            client_id, queue = next(iter(self._waiting.items()))
            del self._waiting[client_id]
            while queue and queue[0].done():
                queue.popleft()
            if not queue:
                continue
            queue.popleft().set_result(None)
            self._free -= 1
            if queue:
                self._waiting[client_id] = queue
