"""The other task: send what is due at one destination, signed, and note how it went."""

import logging
import random
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any
from uuid import UUID

from service.core import documents, events, metrics, secrecy, traceparent, tracing
from service.core.accesses import Access
from service.core.crash_points import crash_point
from service.core.deliveries import ENDPOINT_DELETED, ENDPOINT_DISABLED, Claimed, Round
from service.core.endpoint_health import GONE
from service.core.errors import DatabaseUnavailableError
from service.core.log import bound
from service.core.sending import Message, Sent, send
from service.core.settings import Settings
from service.core.states import DeliveryStatus, DocumentStatus
from service.core.tracing import Part
from worker.context import Context

REDELIVERY_HEADER = "autos-redelivery"
"""How often the event was asked for again by hand; only then it is there."""

_OUTCOMES = {
    DeliveryStatus.DELIVERED: "delivered",
    DeliveryStatus.DEAD: "dead",
    DeliveryStatus.PENDING: "again",
}

# An endpoint that asks for a pause longer than this is tried again all the same: by one delivery.
_LONGEST_PAUSE_S = 600.0

log = logging.getLogger(__name__)


async def deliver(context: Context, destination: UUID) -> None:
    """Open a lane to a destination where something is due, if it has room for one more.

    The lane runs on when this task has ended: a ring that comes meanwhile is another task.
    """
    if context.destinations.has_room(destination):
        context.destinations.start(_lane(context, destination))


async def _lane(context: Context, destination: UUID) -> None:
    """Send one delivery after the other until nothing more is due."""
    with context.destinations.lane(destination) as is_open:
        while is_open and context.destinations.may_go_on(destination):
            async with context.destinations.place():
                if context.stopping.is_set() or not await _send_next(context, destination):
                    return


async def _send_next(context: Context, destination: UUID) -> bool:
    """Send one; False when there is none, or the lane had better end."""
    with ExitStack() as about:
        try:
            claimed = await context.outbox.claim(destination)
            if claimed is None:
                return False
            # There may be more: another lane looks for it, and opens one more in its turn.
            await deliver(context, destination)
            about.enter_context(bound(delivery_id=claimed.id, attempt=claimed.rounds + 1))
            await _send(context, claimed)
        except DatabaseUnavailableError as error:
            log.warning("destination %s: %s; what is due waits", destination, error)
            return False
        except Exception:
            # What the other lanes are sending goes on; this one's claim runs out.
            log.exception("destination %s", destination)
            return False
    return True


async def _send(context: Context, claimed: Claimed) -> None:
    """Do one round of a delivery."""
    crash_point("delivery.claimed")
    with tracing.within("deliver", claimed.traceparent, kind="producer", is_repeat=claimed.is_repeat) as part:
        part.note({"autos.delivery.id": str(claimed.id), "autos.event": claimed.event})
        ended, to_ring = await _do_round(context, claimed, part)
    metrics.DELIVERIES.labels(_OUTCOMES[ended.status]).inc()
    crash_point("delivery.noted")
    await context.queue.ring_destinations(to_ring)
    log.info(
        "delivery %s (%s): %s after %d requests", claimed.id, claimed.event, ended.status, len(ended.attempts)
    )


async def _do_round(context: Context, claimed: Claimed, part: Part) -> tuple[Round, list[UUID]]:
    """Send, and note how it went; return that, and the destinations to ring for."""
    if not claimed.is_wanted:
        ended = Round(DeliveryStatus.DEAD, (), ENDPOINT_DISABLED)
    elif secrets := await context.outbox.secrets(claimed.client_id, claimed.endpoint_id):
        sent = await _request(context, claimed, secrets, part)
        crash_point("delivery.sent")
        ended = judge(claimed, sent, context.settings)
        is_success = ended.status is DeliveryStatus.DELIVERED
        context.destinations.note(claimed.destination, is_success=is_success, pause_s=_pause_s(sent, ended))
    else:
        # Since the claim, and its secrets with it: nothing goes out unsigned.
        ended = Round(DeliveryStatus.DEAD, (), ENDPOINT_DELETED)
    return ended, await context.outbox.note(claimed, ended)


async def _request(context: Context, claimed: Claimed, secrets: Sequence[bytes], part: Part) -> Sent:
    settings = context.settings
    event, object_keys = await _present(context, claimed)
    body = events.body(
        event,
        object_keys,
        reference=claimed.reference,
        settings=settings,
        storage=context.storage,
        signed_at=claimed.next_attempt_at,
    )
    headers = {traceparent.HEADER: part.traceparent}
    if claimed.redeliveries:
        headers[REDELIVERY_HEADER] = str(claimed.redeliveries)
    message = Message(claimed.message_id, body, secrets, headers)
    if object_keys:
        await context.accesses.note(Access(claimed.client_id, "delivery.links", claimed.id, len(object_keys)))
    return await send(context.outbound, claimed.url, message, timeout_s=settings.webhook_timeout_s)


async def _present(context: Context, claimed: Claimed) -> tuple[dict[str, Any], dict[UUID, str]]:
    """Return the event as its client may see it now, and the keys of the objects that it gets links to."""
    ids = secrecy.document_ids(claimed.payload)
    if not ids:
        return claimed.payload, {}
    async with context.db.connection() as conn:
        kept = await documents.find_kept(conn, ids)
    most = context.settings.secrecy_ceiling(claimed.max_secrecy)
    event = secrecy.shown_event(claimed.payload, kept, most=most)
    told = {UUID(item["id"]) for item in event["documents"] if item["status"] == DocumentStatus.AVAILABLE}
    return event, {
        one_id: one.object_key
        for one_id, one in kept.items()
        if one_id in told and one.object_key is not None and one.secrecy_level <= most
    }


def judge(claimed: Claimed, sent: Sent, settings: Settings) -> Round:
    """Say how the round ended and when the next one is due (the schedule, with ±20 % of jitter)."""
    last = sent.last
    if last.is_accepted:
        return Round(DeliveryStatus.DELIVERED, sent.attempts, None)
    status_code = last.reply.status if last.reply else None
    error = f"the receiver answered {status_code}" if last.reply else str(last.error)
    delays = settings.webhook_retry_delays_s
    if status_code == GONE or claimed.rounds >= len(delays):
        return Round(DeliveryStatus.DEAD, sent.attempts, error)
    delay_s = delays[claimed.rounds] * random.uniform(0.8, 1.2)  # noqa: S311  # jitter, not a secret
    if last.asks_for_a_pause:
        delay_s = max(delay_s, settings.webhook_pause_s)
    if last.reply and last.reply.retry_after_s is not None:
        delay_s = min(max(last.reply.retry_after_s, delay_s), 2 * delay_s)
    return Round(DeliveryStatus.PENDING, sent.attempts, error, delay_s)


def _pause_s(sent: Sent, ended: Round) -> float:
    """For how long the whole destination is left alone: when it hangs, or says that it has too much to do."""
    is_asked = sent.last.reply is not None and sent.last.reply.retry_after_s is not None
    if not sent.last.asks_for_a_pause and not is_asked:
        return 0.0
    return min(ended.delay_s, _LONGEST_PAUSE_S)
