"""Places for what takes bytes through this process; one client alone does not get all of them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from service import problems
from service.problems import ProblemError


class Places:
    """Counts what is being sent, in all and to each client.

    Args:
        most: in this process.
        most_each: to one client.
        retry_after_s: when a place may be free again.
    """

    def __init__(self, most: int, *, most_each: int, retry_after_s: int) -> None:
        self._most = most
        self._most_each = most_each
        self._headers = {"Retry-After": str(retry_after_s)}
        self._taken = Counter[UUID]()

    @contextmanager
    def taken(self, client_id: UUID) -> Iterator[None]:
        """Keep a place until the block ends.

        Raises:
            ProblemError: 429, the client has as many as it may have; 503, all are taken.
        """
        if self._taken[client_id] >= self._most_each:
            raise ProblemError(
                problems.RATE_LIMITED,
                "as much as you may have at once is being sent to you already",
                headers=self._headers,
            )
        if self._taken.total() >= self._most:
            raise ProblemError(problems.OVERLOADED, headers=self._headers)
        self._taken[client_id] += 1
        try:
            yield
        finally:
            self._taken[client_id] -= 1
            if not self._taken[client_id]:
                del self._taken[client_id]
