"""Sending one signed webhook, with the quick tries that bridge a passing fault."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_exponential_jitter

from service.core import metrics, signing, traceparent
from service.core.deliveries import Attempt
from service.core.errors import AutosError, DestinationRefusedError
from service.core.outbound import DeliveryFailedError, Outbound, Reply
from service.core.telemetry import Calls

QUICK_TRIES = 3
_SLOWER_CODES = frozenset({429, 502, 504})

_CALLS = Calls(
    "webhook",
    requests=metrics.WEBHOOK_REQUESTS,
    failures=metrics.WEBHOOK_FAILURES,
    seconds=metrics.WEBHOOK_SECONDS,
    reason_of=lambda error: _kind(error) if isinstance(error, AutosError) else None,
)


@dataclass(frozen=True, slots=True)
class Try:
    """One request: either a reply or an error."""

    reply: Reply | None
    error: DeliveryFailedError | DestinationRefusedError | None

    @property
    def is_accepted(self) -> bool:
        """2xx, and nothing else."""
        return self.reply is not None and 200 <= self.reply.status < 300

    @property
    def is_worth_a_quick_try(self) -> bool:
        """A connection that failed, or a server error that asks for no pause."""
        if self.reply is not None:
            return self.reply.status in (500, 503) and self.reply.retry_after_s is None
        return isinstance(self.error, DeliveryFailedError) and self.error.kind == "connection"

    @property
    def asks_for_a_pause(self) -> bool:
        """A time-out, or an answer that says the receiver is overloaded."""
        if self.reply is not None:
            return self.reply.status in _SLOWER_CODES
        return isinstance(self.error, DeliveryFailedError) and self.error.kind == "timeout"


@dataclass(frozen=True, slots=True)
class Sent:
    """All requests of one round; the last one decides."""

    last: Try
    attempts: Sequence[Attempt]


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent; the same bytes every time, signed anew with each secret, the newest first.

    Attributes:
        headers: beside those of Standard Webhooks.
    """

    id: str
    body: bytes
    secrets: Sequence[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)

    def signed_headers(self) -> dict[str, str]:
        """Return the headers of an attempt that is made now."""
        timestamp = int(datetime.now(UTC).timestamp())
        signed = signing.signed_headers(self.secrets, message_id=self.id, timestamp=timestamp, body=self.body)
        return {"content-type": "application/json", **self.headers, **signed}


async def send(outbound: Outbound, url: str, message: Message, *, timeout_s: float) -> Sent:
    """Send with up to three quick tries."""
    last = Try(None, None)
    attempts: list[Attempt] = []

    async def once() -> Try:
        nonlocal last
        started_at, started = datetime.now(UTC), time.monotonic()
        last = await _send_once(outbound, url, message, timeout_s)
        attempts.append(_attempt(last, started_at, time.monotonic() - started))
        return last

    tries = AsyncRetrying(
        retry=retry_if_result(lambda result: result.is_worth_a_quick_try),
        stop=stop_after_attempt(QUICK_TRIES),
        wait=wait_exponential_jitter(multiplier=0.5, max=4, jitter=0.5),
        retry_error_callback=lambda _: last,
    )
    await tries(once)
    return Sent(last, attempts)


async def _send_once(outbound: Outbound, url: str, message: Message, timeout_s: float) -> Try:
    headers = message.signed_headers()
    try:
        with _CALLS.of("send") as call:
            if call.traceparent is not None:
                headers[traceparent.HEADER] = call.traceparent
            reply = await outbound.post(url, body=message.body, headers=headers, timeout_s=timeout_s)
            made = Try(reply, None)
            if not made.is_accepted:
                call.failed(f"{reply.status // 100}xx")
            return made
    except (DeliveryFailedError, DestinationRefusedError) as error:
        return Try(None, error)


def _attempt(made: Try, started_at: datetime, duration_s: float) -> Attempt:
    if made.reply is not None:
        return Attempt(started_at, made.reply.duration_s, made.reply.status, None, made.reply.body)
    return Attempt(started_at, duration_s, None, _kind(made.error), "")


def _kind(error: Exception | None) -> str:
    return error.kind if isinstance(error, DeliveryFailedError) else "refused_destination"
