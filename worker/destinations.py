"""How much one worker sends to each destination at a time, so that a slow one holds up nobody else.

A lane sends one delivery after the other to one destination. What is being sent holds one of the worker's
places; when its answer takes long it moves to a slow place, and the place is free for others.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

LANES = 5
"""To one destination at a time, from one worker."""

SLOW_S = 1.0
"""After so long without an answer a delivery is a slow one."""

# What is known of a destination that nothing was sent to for so long is forgotten.
_FORGET_S = 600.0


@dataclass
class _Destination:
    """`most` lanes may be open: one after a failure, one more with every success."""

    lanes: int = 0
    most: int = LANES
    closed_until: float = 0.0


class Destinations:
    """The lanes of one worker process, and the places that they share.

    Args:
        places: deliveries at once whose answer is still young.
        slow_places: deliveries at once that wait for a slow answer.
    """

    def __init__(self, *, places: int, slow_places: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._slow_places = slow_places
        self._known: dict[UUID, _Destination] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, lane: Coroutine[Any, Any, None]) -> None:
        """Let a lane run on its own, until it ends or the worker does."""
        task = asyncio.create_task(lane)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def drain(self, timeout_s: float) -> None:
        """Wait for what is being sent."""
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=timeout_s)

    def has_room(self, destination: UUID) -> bool:
        """Whether one more lane may be opened now."""
        known = self._known.get(destination)
        return known is None or self._is_open(known)

    @contextmanager
    def lane(self, destination: UUID) -> Iterator[bool]:
        """Open a lane until the block ends; False when there may not be one more now."""
        known = self._known.setdefault(destination, _Destination())
        if not self._is_open(known):
            yield False
            return
        known.lanes += 1
        try:
            yield True
        finally:
            known.lanes -= 1
            if not known.lanes and known.most == LANES:
                del self._known[destination]

    def may_go_on(self, destination: UUID) -> bool:
        """Whether a lane that is open may send one more."""
        known = self._known[destination]
        return known.lanes <= known.most and time.monotonic() >= known.closed_until

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place until the block ends, or becomes slow and finds a slow place."""
        await self._places.acquire()
        is_slow = False

        def become_slow() -> None:
            nonlocal is_slow
            if self._slow_places:
                is_slow = True
                self._slow_places -= 1
                self._places.release()

        timer = asyncio.get_running_loop().call_later(SLOW_S, become_slow)
        try:
            yield
        finally:
            timer.cancel()
            if is_slow:
                self._slow_places += 1
            else:
                self._places.release()

    def note(self, destination: UUID, *, is_success: bool, pause_s: float = 0.0) -> None:
        """Note how a round ended: after a failure one lane at a time, after `pause_s` in which none opens."""
        known = self._known[destination]
        if is_success:
            known.most = min(LANES, known.most + 1)
        else:
            known.most = 1
            known.closed_until = max(known.closed_until, time.monotonic() + pause_s)

    def list_closed(self) -> set[UUID]:
        """Return the destinations to which no more is sent now; for whoever looks for work."""
        now = time.monotonic()
        for destination, known in list(self._known.items()):
            if not known.lanes and known.closed_until < now - _FORGET_S:
                del self._known[destination]
        return {destination for destination, known in self._known.items() if not self._is_open(known)}

    def _is_open(self, known: _Destination) -> bool:
        return known.lanes < known.most and time.monotonic() >= known.closed_until
