"""The other task: send one event to one URL, signed, and note how it went."""

import logging
import random
from uuid import UUID

from service.core import deliveries, documents, events
from service.core.crash_points import crash_point
from service.core.deliveries import Claimed, Round
from service.core.sending import QUICK_TRIES, Try, send
from service.core.settings import Settings
from service.core.states import DeliveryStatus
from worker.context import Context

_NEXT_TURN_S = (2.0, 6.0)
_MARGIN_S = 5.0
_GONE = 410

log = logging.getLogger(__name__)


async def deliver(context: Context, delivery_id: UUID) -> None:
    """Claim the delivery, send it, note the outcome; nothing when it is not due or not ours to take."""
    settings = context.settings
    hold_s = QUICK_TRIES * (settings.webhook_timeout_s + _MARGIN_S) + 2 * _MARGIN_S
    late_s = settings.link_ttl_s / 2
    async with context.db.connection() as conn:
        claimed = await deliveries.claim(conn, delivery_id, hold_s=hold_s, late_s=late_s)
        if claimed is None:
            return
        ids = [UUID(item["id"]) for item in claimed.payload.get("documents", ())]
        most = settings.secrecy_ceiling(claimed.max_secrecy)
        object_keys = await documents.object_keys(conn, ids, max_secrecy=most)
    crash_point("delivery.claimed")
    body = events.body(
        claimed.payload,
        object_keys,
        reference=claimed.reference,
        settings=settings,
        storage=context.storage,
        signed_at=claimed.next_attempt_at,
    )
    last, requests = await send(
        context.outbound,
        claimed.webhook_url,
        secret=claimed.webhook_secret,
        message_id=f"msg_{claimed.id.hex}",
        body=body,
        timeout_s=settings.webhook_timeout_s,
    )
    if last.had_no_turn:
        # Its place here is for others; the sweep rings for it again.
        async with context.db.connection() as conn:
            await deliveries.put_back(conn, claimed, delay_s=random.uniform(*_NEXT_TURN_S))  # noqa: S311
        return
    crash_point("delivery.sent")
    ended = judge(claimed, last, requests, settings)
    async with context.db.connection() as conn:
        is_ours = await deliveries.record_round(conn, claimed, ended)
    crash_point("delivery.noted")
    log.info(
        "delivery %s (%s): %s after %d requests%s",
        claimed.id,
        claimed.event,
        ended.status,
        requests,
        "" if is_ours else ", noted by another sender",
    )


def judge(claimed: Claimed, last: Try, requests: int, settings: Settings) -> Round:
    """Say how the round ended and when the next one is due (the schedule, with ±20 % of jitter)."""
    status_code = last.reply.status if last.reply else None
    if last.is_accepted:
        return Round(DeliveryStatus.DELIVERED, requests, status_code, None)
    error = f"the receiver answered {status_code}" if last.reply else str(last.error)
    delays = settings.webhook_retry_delays_s
    if status_code == _GONE or claimed.rounds >= len(delays):
        return Round(DeliveryStatus.DEAD, requests, status_code, error)
    delay_s = delays[claimed.rounds] * random.uniform(0.8, 1.2)  # noqa: S311  # jitter, not a secret
    if last.asks_for_a_pause:
        delay_s = max(delay_s, settings.webhook_pause_s)
    if last.reply and last.reply.retry_after_s is not None:
        delay_s = min(max(last.reply.retry_after_s, delay_s), 2 * delay_s)
    return Round(DeliveryStatus.PENDING, requests, status_code, error, delay_s)
