"""When the loops of one worker last turned: a loop that stands still is seen from outside."""

import time
from typing import Literal, TypeAlias

Loop: TypeAlias = Literal["sweep", "polls for jobs", "polls for deliveries"]


class Beats:
    """Notes each turn of the loops, by the monotonic clock; the first is when the worker began.

    A turn that fails is a turn: what is away for others too is no reason to end this process.
    """

    def __init__(self) -> None:
        self._last: dict[Loop, float] = {}

    def note(self, loop: Loop) -> None:
        """Note a turn now."""
        self._last[loop] = time.monotonic()

    def since_s(self) -> dict[Loop, float]:
        """Return how long ago each of the loops that began last turned."""
        now = time.monotonic()
        return {loop: now - at for loop, at in self._last.items()}
