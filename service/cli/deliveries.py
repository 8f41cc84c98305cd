"""The log of webhooks: what was sent, what came of it, and sending it again."""

from argparse import Namespace
from datetime import datetime

from service.cli.api import Api
from service.cli.errors import UsageError
from service.cli.words import moment, plain
from service.schemas import (
    AttemptAnswer,
    DeliveryAnswer,
    DeliveryListAnswer,
    DeliverySummaryAnswer,
    RedeliveredAnswer,
)

_MOST_ON_A_PAGE = 200


async def show_list(api: Api, arguments: Namespace) -> int:
    """Show the newest deliveries, a line for each."""
    query = {"limit": str(min(arguments.limit, _MOST_ON_A_PAGE))}
    if arguments.failed:
        query["status"] = "dead"
    if arguments.job:
        query["job_id"] = str(arguments.job)
    left = arguments.limit
    while left > 0:
        page = await api.get("/webhooks/deliveries", DeliveryListAnswer, **query)
        for one in page.items[:left]:
            print(_line(one))
        left -= len(page.items)
        if page.next_cursor is None:
            break
        query["cursor"] = page.next_cursor
    return 0


async def show(api: Api, arguments: Namespace) -> int:
    """Show one delivery with its attempts."""
    delivery = await api.get(f"/webhooks/deliveries/{arguments.id}", DeliveryAnswer)
    print(_line(delivery))
    for name, value in _described(delivery):
        print(f"{name:10} {value}")
    for attempt in reversed(delivery.attempts):
        print(_attempt(attempt))
    return 0


async def redeliver(api: Api, arguments: Namespace) -> int:
    """Send one again, or all that failed since a time."""
    if (arguments.id is None) == (not arguments.all_failed):
        raise UsageError("redeliver takes the id of one delivery, or --failed with --since")
    if arguments.all_failed != (arguments.since is not None):
        raise UsageError("--failed and --since go together")
    if arguments.id is not None:
        path = f"/webhooks/deliveries/{arguments.id}/redeliver"
        print(_line(await api.post(path, DeliveryAnswer)))
        return 0
    print(f"{await _redeliver_all(api, arguments.since)} are sent again")
    return 0


async def _redeliver_all(api: Api, since: datetime) -> int:
    """Call until nothing is left over: one call takes a bounded number."""
    count, following = 0, since
    while True:
        body = {"since": following.isoformat(), "failed_only": True}
        sent = await api.post("/webhooks/deliveries/redeliver", RedeliveredAnswer, body)
        count += sent.redelivered
        if sent.next_since is None or sent.redelivered == 0:
            return count
        following = sent.next_since


def _line(delivery: DeliverySummaryAnswer) -> str:
    came = str(delivery.last_status_code or plain(delivery.last_error or "") or "-")
    return (
        f"{moment(delivery.created_at)}  {delivery.id}  {delivery.status:9}  {plain(delivery.event):18}"
        f"  {delivery.attempt_count:3} x  {came}  {plain(delivery.webhook_url)}"
    )


def _described(delivery: DeliveryAnswer) -> list[tuple[str, str]]:
    said = [
        ("webhook-id", plain(delivery.webhook_id)),
        ("job", str(delivery.job_id or "")),
        ("batch", str(delivery.batch_id or "")),
        ("endpoint", str(delivery.endpoint_id or "")),
        ("next try", moment(delivery.next_attempt_at) if delivery.next_attempt_at else ""),
        ("error", plain(delivery.last_error or "")),
    ]
    return [(name, value) for name, value in said if value]


def _attempt(attempt: AttemptAnswer) -> str:
    came = attempt.error or str(attempt.status_code)
    took = "" if attempt.duration_ms is None else f"  {attempt.duration_ms:.0f} ms"
    answer = f"  {plain(attempt.answer)}" if attempt.answer.strip() else ""
    return f"{attempt.number:6}  {moment(attempt.started_at)}  {came}{took}{answer}"
