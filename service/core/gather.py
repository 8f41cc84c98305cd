"""Many who ask at the same moment are answered by one query.

Under load a query for thirty rows costs hardly more than one for a single row, and who waits for it waits in
no line for a connection. Alone, an asker is answered as soon as ever.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextvars import Context
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


_FLIGHTS = 2
"""Queries at once: while they are on their way the next one gathers, and a slow one holds up only its own."""


class Gatherer(Generic[K, V]):
    """Answers questions of one kind.

    Args:
        find: asked for different keys, at most `most`; its answer has all of them. What it raises is raised
            to everybody who asked.
    """

    def __init__(self, find: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]], *, most: int = 200) -> None:
        self._find = find
        self._most = most
        self._waiting: dict[K, list[asyncio.Future[V]]] = {}
        self._flights: set[asyncio.Task[None]] = set()
        self._flying = 0

    async def ask(self, key: K) -> V:
        """Return the answer, from a query that begins after this call."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        if self._flying < _FLIGHTS:
            self._flying += 1
            # It serves whoever comes: it is part of nobody's trace, and what it logs is about nobody.
            flight = asyncio.create_task(self._fly(), context=Context())
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)
        answer: V = await future
        return answer

    async def _fly(self) -> None:
        try:
            while self._waiting:
                await self._answer(self._take())
        finally:
            # In the same step as the last look: who asks from here on starts another flight.
            self._flying -= 1

    async def _answer(self, asked: Mapping[K, Sequence["asyncio.Future[V]"]]) -> None:
        try:
            found = await self._find(list(asked))
            for key, futures in asked.items():
                for future in futures:
                    if not future.done():
                        future.set_result(found[key])
        except Exception as error:  # told to everybody who asked
            for future in _open(asked):
                future.set_exception(error)
        finally:
            for future in _open(asked):
                future.cancel()

    def _take(self) -> dict[K, list[asyncio.Future[V]]]:
        if len(self._waiting) <= self._most:
            asked, self._waiting = self._waiting, {}
            return asked
        return {key: self._waiting.pop(key) for key in list(self._waiting)[: self._most]}


def _open(asked: Mapping[K, Sequence["asyncio.Future[V]"]]) -> "list[asyncio.Future[V]]":
    return [future for futures in asked.values() for future in futures if not future.done()]
