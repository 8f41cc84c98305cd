"""Webhooks on the dashboard: what was sent, each try, and sending it again."""

import orjson
from aiohttp import web

from service import answers
from service.core import delivery_log
from service.core.delivery_log import Search
from service.core.states import DeliveryStatus
from service.cursors import cut_page, read_cursor
from service.dashboard.elsewhere import or_whose
from service.dashboard.entrance import see_other, signed_in
from service.dashboard.pages import render
from service.handlers.deliveries import find_delivery, redeliver, search_of
from service.handlers.jobs import path_uuid
from service.keys import CLIENT, DATABASE
from service.request_schemas import DeliveryListQuery
from service.requests import validate


@signed_in()
async def list_deliveries(request: web.Request) -> web.Response:
    """List what was sent to the client, or is to be, the newest first."""
    query = validate(DeliveryListQuery, {name: value for name, value in request.query.items() if value})
    search: Search = search_of(query, after=read_cursor(query.cursor, query))
    async with request.app[DATABASE].connection() as conn:
        found = await delivery_log.list_found(conn, search, request[CLIENT].id, limit=query.limit + 1)
    page, cursor = cut_page(found, query, limit=query.limit)
    return render(
        request,
        "deliveries.html",
        deliveries=[answers.delivery_answer(one) for one in page],
        chosen=query.status or "",
        statuses=list(DeliveryStatus),
        following=cursor and request.rel_url.update_query(cursor=cursor),
    )


@signed_in()
@or_whose(delivery_log.find_clients, "delivery_id")
async def show_delivery(request: web.Request) -> web.Response:
    """Show a delivery with its tries and the event."""
    delivery, attempts, payload = await find_delivery(request)
    return render(
        request,
        "delivery.html",
        delivery=answers.delivery_answer(delivery, attempts, payload),
        payload=orjson.dumps(payload, option=orjson.OPT_INDENT_2).decode(),
    )


@signed_in("write")
async def send_again(request: web.Request) -> web.StreamResponse:
    """Send a delivery again, or at once what waits for its next try."""
    await redeliver(request)
    see_other(f"/dashboard/deliveries/{path_uuid(request, 'delivery_id')}")
