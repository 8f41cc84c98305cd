"""The seam at which the code says that it calls somebody: counted, timed, and part of a trace."""

from collections.abc import Callable
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram

from service.core import tracing

if TYPE_CHECKING:
    from service.core.spans import Recorded

ReasonOf = Callable[[Exception], str | None]
"""Names the kind of a failure, one of a few; None when it is no failure of the one who was called."""


class Calls:
    """The calls to one other party.

    Args:
        party: its name in traces.
        requests: counts them, by `operation`, as `seconds` times them.
        failures: counts those that failed, by `operation` and `reason`.
    """

    def __init__(
        self, party: str, *, requests: Counter, failures: Counter, seconds: Histogram, reason_of: ReasonOf
    ) -> None:
        self._party = party
        self._requests = requests
        self._failures = failures
        self._seconds = seconds
        self._reason_of = reason_of
        # What `labels` looks up, at a fraction of its cost.
        self._known: dict[str, _Operation] = {}

    def of(self, operation: str) -> "Call":
        """Return a call that begins and ends with a `with` block.

        Args:
            operation: one of a few names.
        """
        known = self._known.get(operation)
        if known is None:
            known = self._known[operation] = _Operation(
                f"{self._party} {operation}",
                self._requests.labels(operation),
                self._seconds.labels(operation),
                lambda reason: self._failures.labels(operation, reason).inc(),
                self._reason_of,
            )
        return Call(known)


class _Operation:
    """One kind of call."""

    __slots__ = ("count_failure", "name", "reason_of", "requests", "seconds")

    def __init__(
        self,
        name: str,
        requests: Counter,
        seconds: Histogram,
        count_failure: Callable[[str], None],
        reason_of: ReasonOf,
    ) -> None:
        self.name = name
        self.requests = requests
        self.seconds = seconds
        self.count_failure = count_failure
        self.reason_of = reason_of


class Call:
    """One call. One that was cancelled is not counted: nobody has seen its end."""

    __slots__ = ("_operation", "_reason", "_since", "_span")

    def __init__(self, operation: _Operation) -> None:
        self._operation = operation
        self._reason: str | None = None
        self._since = 0.0
        self._span: Recorded | None = None

    @property
    def traceparent(self) -> str | None:
        """What the one who is called may be told; None when this call is no span."""
        return None if self._span is None else self._span.traceparent

    def failed(self, reason: str) -> None:
        """Note that it failed although nothing is raised."""
        self._reason = reason

    def __enter__(self) -> "Call":
        if tracing.is_on():
            self._span = tracing.begin_call(self._operation.name)
        self._since = perf_counter()
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Exception):
            self._count(error)
        if self._span is not None:
            self._end_span(self._span)

    def _count(self, error: Exception | None) -> None:
        operation = self._operation
        operation.requests.inc()
        operation.seconds.observe(perf_counter() - self._since)
        if error is not None:
            self._reason = operation.reason_of(error)
        if self._reason is not None:
            operation.count_failure(self._reason)

    def _end_span(self, span: "Recorded") -> None:
        if self._reason is not None:
            span.failed(self._reason)
        span.end()
