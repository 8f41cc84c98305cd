"""Traces: a request, the runs of its job and the webhooks that tell of it are parts of one.

Spans are recorded where a collector is named and the extra `otel` is installed. Everywhere else nothing of it
is imported, and a part hands on what it was handed.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

from service.core import traceparent
from service.core.settings import Settings

if TYPE_CHECKING:
    from service.core.spans import Recorded, Spans

Kind: TypeAlias = Literal["server", "consumer", "producer"]

log = logging.getLogger(__name__)

# One per process, like its log: whoever calls somebody cannot be handed it.
_spans: "Spans | None" = None


class Unrecorded:
    """A part of a trace that is no span.

    Attributes:
        traceparent: what is handed on to whatever it begins.
    """

    __slots__ = ("traceparent",)

    def __init__(self, handed_on: str) -> None:
        self.traceparent = handed_on

    def note(self, attributes: Mapping[str, str | int]) -> None:
        """Nobody reads it."""

    def failed(self, reason: str) -> None:
        """Nobody reads it."""


Part: TypeAlias = "Recorded | Unrecorded"


def is_on() -> bool:
    """Whether this process records spans."""
    return _spans is not None


@contextmanager
def within(name: str, origin: str | None, *, kind: Kind, is_repeat: bool = False) -> Iterator[Part]:
    """Be a part of a trace until the block ends; the calls made in it are parts of this part.

    Args:
        origin: the `traceparent` of what began it; None begins a trace.
        is_repeat: it begins a trace of its own, with a link to the origin, which may be hours old.
    """
    if _spans is None:
        yield Unrecorded(origin or traceparent.new())
        return
    with _spans.within(name, origin, kind=kind, is_repeat=is_repeat) as part:
        yield part


def begin_call(name: str) -> "Recorded | None":
    """Begin a call, whose end has to be told; None when it is part of nothing that is recorded."""
    return None if _spans is None else _spans.begin_call(name)


def current() -> str | None:
    """Return the `traceparent` of the part that this code runs in; None when there is none."""
    part = None if _spans is None else _spans.current()
    return None if part is None else part.traceparent


@contextmanager
def open_tracing(settings: Settings, *, service: str) -> Iterator[None]:
    """Send the spans of this process to the collector that the settings name, if any.

    Args:
        service: the name of this kind of process.
    """
    with ExitStack() as stack:
        if settings.otlp_endpoint is not None:
            _export(settings.otlp_endpoint, service, stack)
        yield


def _export(endpoint: str, service: str, stack: ExitStack) -> None:
    try:
        # Not above: a process that records nothing need not have it.
        from service.core.spans import open_export  # noqa: PLC0415
    except ImportError:
        log.warning("no traces are recorded: that needs the extra `otel` (pip install 'autos[otel]')")
        return
    stack.enter_context(recording(stack.enter_context(open_export(endpoint, service=service))))
    log.info("traces are recorded")


@contextmanager
def recording(spans: "Spans") -> Iterator[None]:
    """Record spans until the block ends."""
    global _spans  # noqa: PLW0603
    _spans = spans
    try:
        yield
    finally:
        _spans = None
