"""How much one process takes on: beyond it requests are refused at once, before they queue for the database.

The most useful answers are given the longest: submissions are refused first, status reads last.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum


class Kind(Enum):
    """A kind of request, with the share of the process's capacity up to which it is taken."""

    SUBMISSION = 0.5
    READ = 0.75
    STATUS = 1.0


class Load:
    """Counts the requests under way; those that only wait for news do not count."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.under_way = 0

    def has_room(self, kind: Kind) -> bool:
        """Whether one more request of this kind can be taken."""
        return self.under_way < max(1, self._most * kind.value)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Count one request until the block ends."""
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    @contextmanager
    def parked(self) -> Iterator[None]:
        """Do not count the request while it waits."""
        self.under_way -= 1
        try:
            yield
        finally:
            self.under_way += 1
