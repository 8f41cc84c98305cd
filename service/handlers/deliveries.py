"""The delivery log: what was sent, what came of it, and sending it again."""

from typing import Any
from uuid import UUID

from aiohttp import web

from service import answers, problems
from service.contract import Operation
from service.core import audit, delivery_log, documents, endpoints, secrecy
from service.core.db import Connection
from service.core.delivery_log import Logged, LoggedAttempt, Redelivered, Search
from service.core.errors import EndpointDisabledError
from service.core.states import DeliveryStatus
from service.cursors import Position, cut_page, read_cursor
from service.handlers.jobs import path_uuid
from service.keys import CLIENT, DATABASE, QUEUE, SETTINGS
from service.request_schemas import DeliveryListQuery, NoQuery, RedeliverRequest
from service.requests import read_json, read_query
from service.schemas import DeliveryAnswer, DeliveryListAnswer, RedeliveredAnswer


@Operation(
    "webhooks",
    {200: DeliveryListAnswer},
    query=DeliveryListQuery,
    problems=(problems.BAD_REQUEST,),
    tells=("Link",),
)
async def list_deliveries(request: web.Request) -> web.Response:
    """List what was sent to the client, or is to be, the newest first."""
    query = read_query(request, DeliveryListQuery)
    search = search_of(query, after=read_cursor(query.cursor, query))
    async with request.app[DATABASE].connection() as conn:
        found = await delivery_log.list_found(conn, search, request[CLIENT].id, limit=query.limit + 1)
    page, cursor = cut_page(found, query, limit=query.limit)
    answer = DeliveryListAnswer(items=[answers.delivery_answer(one) for one in page], next_cursor=cursor)
    return answers.page_response(request, answer, cursor)


def search_of(query: DeliveryListQuery, *, after: Position | None) -> Search:
    """Return what a query of the list looks for."""
    return Search(
        statuses=_statuses(query.status),
        event=query.event,
        endpoint_id=query.endpoint_id,
        job_id=query.job_id,
        batch_id=query.batch_id,
        since=query.since,
        until=query.until,
        after=after,
    )


@Operation("webhooks", {200: DeliveryAnswer})
async def get_delivery(request: web.Request) -> web.Response:
    """Show a delivery with its attempts and the event."""
    read_query(request, NoQuery)
    return await _show(request)


@Operation("webhooks", {202: DeliveryAnswer}, problems=(problems.ENDPOINT_DISABLED,))
async def redeliver(request: web.Request) -> web.Response:
    """Send a delivery again under the same id, or at once what waits for its next try."""
    read_query(request, NoQuery)
    delivery_id, client = path_uuid(request, "delivery_id"), request[CLIENT]

    async def again(conn: Connection) -> list[UUID]:
        destinations = await delivery_log.redeliver(conn, delivery_id, client.id)
        await audit.note(conn, client.id, "delivery.redelivered", delivery_id, key_id=client.key_id)
        return destinations

    await request.app[QUEUE].ring_destinations(await request.app[DATABASE].in_transaction(again))
    return await _show(request, status=202)


@Operation(
    "webhooks",
    {202: RedeliveredAnswer},
    body=RedeliverRequest,
    problems=(problems.ENDPOINT_DISABLED, problems.NOT_FOUND),
)
async def redeliver_many(request: web.Request) -> web.Response:
    """Send again all that failed since a time, or all that was sent; 10,000 at most in one call."""
    read_query(request, NoQuery)
    body, client = await read_json(request, RedeliverRequest), request[CLIENT]
    statuses = [DeliveryStatus.DEAD] if body.failed_only else [DeliveryStatus.DEAD, DeliveryStatus.DELIVERED]
    search = Search(
        statuses=statuses,
        event=body.event,
        endpoint_id=body.endpoint_id,
        since=body.since,
        until=body.until,
    )

    async def again(conn: Connection) -> Redelivered:
        if body.endpoint_id is not None:
            endpoint = await endpoints.get(conn, body.endpoint_id, client.id)
            if endpoint.disabled_at is not None:
                raise EndpointDisabledError("nothing is sent to the endpoint: it is disabled or deleted")
        sent = await delivery_log.redeliver_many(conn, search, client.id)
        details: dict[str, Any] = body.model_dump(mode="json", exclude_none=True)
        await audit.note(
            conn,
            client.id,
            "deliveries.redelivered",
            body.endpoint_id,
            key_id=client.key_id,
            details={**details, "count": sent.count},
        )
        return sent

    sent = await request.app[DATABASE].in_transaction(again)
    await request.app[QUEUE].ring_destinations(sent.destinations)
    answer = RedeliveredAnswer(redelivered=sent.count, next_since=sent.next_since)
    return answers.json_response(answer, status=202)


async def _show(request: web.Request, *, status: int = 200) -> web.Response:
    delivery, attempts, payload = await find_delivery(request)
    return answers.json_response(answers.delivery_answer(delivery, attempts, payload), status=status)


async def find_delivery(request: web.Request) -> tuple[Logged, list[LoggedAttempt], dict[str, Any]]:
    """Return the delivery that the path names, its attempts, and its event as the client may see it now.

    Raises:
        NotFoundError: no such delivery, or none of the client's.
    """
    delivery_id, client = path_uuid(request, "delivery_id"), request[CLIENT]
    async with request.app[DATABASE].connection() as conn:
        delivery, payload = await delivery_log.get(conn, delivery_id, client.id)
        attempts = await delivery_log.list_attempts(conn, delivery_id)
        kept = await documents.find_kept(conn, secrecy.document_ids(payload))
    most = request.app[SETTINGS].secrecy_ceiling(client.max_secrecy)
    return delivery, attempts, secrecy.shown_event(payload, kept, most=most)


def _statuses(text: str | None) -> list[DeliveryStatus] | None:
    try:
        return None if text is None else [DeliveryStatus(name) for name in text.split(",")]
    except ValueError as error:
        known = ", ".join(DeliveryStatus)
        raise problems.invalid("#/status", f"should be one or more, with commas, of {known}") from error
