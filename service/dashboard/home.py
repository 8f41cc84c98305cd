"""The first page: is it well?"""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from service.core import clients, delivery_log, overview
from service.core.overview import Minute
from service.dashboard.entrance import signed_in
from service.dashboard.pages import SESSION, render
from service.keys import CLIENT, DATABASE, PULSES

_MOST_RUNNING = 10


@signed_in()
async def show_home(request: web.Request) -> web.Response:
    """Show how the work goes: an operator sees that of all clients, others see their own."""
    is_operator = request[SESSION].is_operator
    whose = None if is_operator else request[CLIENT].id
    async with request.app[DATABASE].connection() as conn:
        minutes = await overview.list_minutes(conn, whose)
        is_open = await overview.count_open(conn, whose)
        pending_deliveries, dead_deliveries = await delivery_log.count_undelivered(conn, whose)
        running = await overview.list_running(conn, whose, limit=_MOST_RUNNING)
        names = [one.name for one in await clients.list_all(conn)] if is_operator else []
    pulses = request.app[PULSES]
    return render(
        request,
        "home.html",
        minutes=minutes,
        totals=_totals(minutes),
        is_open=is_open,
        pending_deliveries=pending_deliveries,
        dead_deliveries=dead_deliveries,
        running=running,
        pulse=pulses.latest,
        history=list(pulses.history),
        doubts=pulses.doubts(),
        client_names=names,
        stream="/dashboard/events",
    )


def _totals(minutes: Sequence[Minute]) -> dict[str, Any]:
    """Return what the last hour comes to, and the documents of its last five whole minutes, each minute."""
    ended = sum(one.jobs for one in minutes)
    completed = sum(one.completed for one in minutes)
    return {
        "jobs": ended,
        "completed": completed,
        "partial": sum(one.partial for one in minutes),
        "failed": sum(one.failed for one in minutes),
        "cancelled": sum(one.cancelled for one in minutes),
        "documents": sum(one.documents for one in minutes),
        "bytes": sum(one.bytes for one in minutes),
        "success": completed / ended if ended else None,
        "documents_per_minute": sum(one.documents for one in minutes[-6:-1]) / 5,
    }
