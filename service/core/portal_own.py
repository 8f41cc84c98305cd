"""Places, pause and breaker of this process alone, by the shared rules: they stand in while Redis is away."""

import time
from collections.abc import Callable

from service.core.portal_shared import FULL, LONGEST_OPEN_S, Turn, ms
from service.core.settings import SourceSettings


class OwnPlaces:
    """As many places as the limit starts with; their number stays.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, source: SourceSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._now = clock
        self._limit = min(source.concurrency_start, source.concurrency)
        self._most_failures = source.breaker_failures
        self._shortest_open_s = source.breaker_open_s
        self._held: set[str] = set()
        self._paused_until = 0.0
        self._failures = 0
        self._open_until: float | None = None
        self._open_s = 0.0
        self._probe: str | None = None

    def acquire(self, holder: str) -> Turn:
        """Ask for a place, once. When the breaker's time has passed, who gets one is its probe."""
        if shut_ms := self._shut_ms():
            return Turn(0, shut_ms, self._limit)
        if (pause_s := self._paused_until - self._now()) > 0:
            return Turn(max(1, ms(pause_s)), 0, self._limit)
        if len(self._held) >= self._limit:
            return Turn(FULL, 0, self._limit)
        self._held.add(holder)
        if self._open_until is not None:
            self._probe = holder
        return Turn(0, 0, self._limit)

    def release(self, holder: str) -> bool:
        """Give a place back; False when it is not one of these."""
        if holder not in self._held:
            return False
        self._held.remove(holder)
        return True

    def pause(self, pause_s: float) -> None:
        """Give no place for so long."""
        self._paused_until = max(self._paused_until, self._now() + pause_s)

    def succeeded(self, holder: str) -> bool:
        """Note a success; return whether this closed the breaker."""
        self._failures = 0
        if self._open_until is None or holder != self._probe:
            return False
        self._open_until = self._probe = None
        return True

    def failed(self, holder: str) -> tuple[int, bool]:
        """Note a failure; return for how many ms the breaker is shut, and whether this opened it."""
        open_s = self._shortest_open_s
        if self._open_until is not None:
            if holder != self._probe:
                return self._shut_ms(), False
            open_s = min(2 * self._open_s, LONGEST_OPEN_S)
        else:
            self._failures += 1
            if self._failures < self._most_failures:
                return 0, False
        self._open_s, self._open_until = open_s, self._now() + open_s
        self._failures, self._probe = 0, None
        return ms(open_s), True

    def _shut_ms(self) -> int:
        if self._open_until is None:
            return 0
        if (left_s := self._open_until - self._now()) > 0:
            return max(1, ms(left_s))
        return ms(self._shortest_open_s) if self._probe in self._held else 0
