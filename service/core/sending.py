"""Sending one signed webhook, with the quick tries that bridge a passing fault."""

from dataclasses import dataclass
from datetime import UTC, datetime

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_exponential_jitter

from service.core import signing
from service.core.errors import DestinationRefusedError
from service.core.outbound import DeliveryFailedError, Outbound, Reply

QUICK_TRIES = 3
_SLOWER_CODES = frozenset({429, 502, 504})


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
    def had_no_turn(self) -> bool:
        """Nothing was sent: too many others are being sent to the same endpoint."""
        return isinstance(self.error, DeliveryFailedError) and self.error.kind == "busy"

    @property
    def asks_for_a_pause(self) -> bool:
        """A time-out, or an answer that says the receiver is overloaded."""
        if self.reply is not None:
            return self.reply.status in _SLOWER_CODES
        return isinstance(self.error, DeliveryFailedError) and self.error.kind == "timeout"


async def send(
    outbound: Outbound, url: str, *, secret: bytes, message_id: str, body: bytes, timeout_s: float
) -> tuple[Try, int]:
    """Send with up to three quick tries, in one turn; return the last and how many requests were made."""
    try:
        async with outbound.turn(url):
            return await _send_in_turn(
                outbound, url, secret=secret, message_id=message_id, body=body, timeout_s=timeout_s
            )
    except (DeliveryFailedError, DestinationRefusedError) as error:
        return Try(None, error), 0


async def _send_in_turn(
    outbound: Outbound, url: str, *, secret: bytes, message_id: str, body: bytes, timeout_s: float
) -> tuple[Try, int]:
    last, requests = Try(None, None), 0

    async def once() -> Try:
        nonlocal last, requests
        requests += 1
        last = await _send_once(
            outbound, url, secret=secret, message_id=message_id, body=body, timeout_s=timeout_s
        )
        return last

    tries = AsyncRetrying(
        retry=retry_if_result(lambda result: result.is_worth_a_quick_try),
        stop=stop_after_attempt(QUICK_TRIES),
        wait=wait_exponential_jitter(multiplier=0.5, max=4, jitter=0.5),
        retry_error_callback=lambda _: last,
    )
    await tries(once)
    return last, requests


async def _send_once(
    outbound: Outbound, url: str, *, secret: bytes, message_id: str, body: bytes, timeout_s: float
) -> Try:
    timestamp = int(datetime.now(UTC).timestamp())
    headers = {
        "content-type": "application/json",
        **signing.signed_headers(secret, message_id=message_id, timestamp=timestamp, body=body),
    }
    try:
        return Try(await outbound.post(url, body=body, headers=headers, timeout_s=timeout_s), None)
    except (DeliveryFailedError, DestinationRefusedError) as error:
        return Try(None, error)
