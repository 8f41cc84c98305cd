"""Failed work: jobs that left documents out, webhooks that were given up, and trying them again."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from aiohttp import web

from service import answers
from service.core import audit, delivery_log, overview, submission
from service.core.clients import Client
from service.core.db import Connection
from service.core.delivery_log import Redelivered, Search
from service.core.errors import AutosError, DatabaseUnavailableError
from service.core.jobs import Job
from service.core.states import DeliveryStatus
from service.core.submission import Submission
from service.dashboard.entrance import see_other, signed_in
from service.dashboard.pages import SESSION, render
from service.keys import CLIENT, DATABASE, QUEUE, SETTINGS, SUBMISSIONS

_MOST = 100
_SINCE = timedelta(days=30)


@signed_in()
async def show_failed(request: web.Request) -> web.Response:
    """Show what failed and was not asked for again, the newest first: the client's, or to an operator all.

    What is another client's an operator does as that client: he is led there.
    """
    client = request[CLIENT]
    job_clients = delivery_clients = None
    async with request.app[DATABASE].connection() as conn:
        if request[SESSION].sees_all:
            jobs = await overview.list_unmended(conn, None, since=_SINCE, limit=_MOST)
            job_clients = await overview.find_clients(conn, [one.id for one in jobs])
            dead = await delivery_log.list_given_up(conn, since=datetime.now(UTC) - _SINCE, limit=_MOST)
            delivery_clients = await delivery_log.find_clients(conn, [one.id for one in dead])
        else:
            jobs = await overview.list_unmended(conn, client.id, since=_SINCE, limit=_MOST)
            dead = await delivery_log.list_found(conn, _dead(), client.id, limit=_MOST)
    return render(
        request,
        "failed.html",
        jobs=jobs,
        deliveries=[answers.delivery_answer(one) for one in dead],
        job_clients=job_clients,
        delivery_clients=delivery_clients,
        has_own_jobs=bool(jobs) if job_clients is None else _has_any(client, job_clients),
        has_own_deliveries=bool(dead) if delivery_clients is None else _has_any(client, delivery_clients),
        most=_MOST,
        retried=_count(request, "retried"),
        left=_count(request, "left"),
        sent=_count(request, "sent"),
        stream="/dashboard/events",
    )


@signed_in("write")
async def retry_all(request: web.Request) -> web.StreamResponse:
    """Try all of the listed jobs again, each by itself: what cannot be tried now is left for later."""
    client_id = request[CLIENT].id
    async with request.app[DATABASE].connection() as conn:
        jobs = await overview.list_unmended(conn, client_id, since=_SINCE, limit=_MOST)
    retried = [one for job in jobs if (one := await _retry(request, job)) is not None]
    await request.app[SUBMISSIONS].ring(retried)
    see_other(f"/dashboard/failed?retried={len(retried)}&left={len(jobs) - len(retried)}")


async def _retry(request: web.Request, job: Job) -> Submission | None:
    """Start the new job of one; None when it cannot be had now, as when too many are active."""
    again = partial(
        submission.retry,
        job_id=job.id,
        client_id=request[CLIENT].id,
        webhook_url=None,
        endpoint_id=None,
        settings=request.app[SETTINGS],
        most_active=request[CLIENT].max_active_jobs,
    )
    try:
        return await request.app[DATABASE].in_transaction(again)
    except DatabaseUnavailableError:
        raise
    except AutosError:
        return None


@signed_in("write")
async def redeliver_all(request: web.Request) -> web.StreamResponse:
    """Send every webhook again that was given up, but none to an endpoint that is disabled."""
    client = request[CLIENT]

    async def again(conn: Connection) -> Redelivered:
        sent = await delivery_log.redeliver_many(conn, _dead(), client.id)
        await audit.note(
            conn, client.id, "deliveries.redelivered", key_id=client.key_id, details={"count": sent.count}
        )
        return sent

    sent = await request.app[DATABASE].in_transaction(again)
    destinations: list[UUID] = sent.destinations
    await request.app[QUEUE].ring_destinations(destinations)
    see_other(f"/dashboard/failed?sent={sent.count}")


def _dead() -> Search:
    return Search(statuses=[DeliveryStatus.DEAD], since=datetime.now(UTC) - _SINCE)


def _has_any(client: Client, clients: Mapping[UUID, Sequence[str]]) -> bool:
    """Return whether any of the things, each with the names of its clients, is this one's."""
    return any(client.name in names for names in clients.values())


def _count(request: web.Request, name: str) -> int | None:
    text = request.query.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 7 else None
