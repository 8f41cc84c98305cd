"""Batches: how far many processes, asked for at once, have come together."""

from aiohttp import web

from service import answers
from service.contract import Operation
from service.core import batches
from service.core.batches import Batch
from service.handlers.jobs import path_uuid
from service.keys import CLIENT, DATABASE, LOOKUPS
from service.load import Kind
from service.middleware import taken_as
from service.polling import asked_wait_s, find_awaited, is_known, polling_headers
from service.request_schemas import StatusQuery
from service.requests import read_query
from service.schemas import BatchAnswer, BatchSummaryAnswer


@Operation(
    "jobs",
    {200: BatchAnswer | BatchSummaryAnswer, 304: None},
    query=StatusQuery,
    reads=("If-None-Match", "Prefer"),
    tells=("ETag", "Retry-After", "Preference-Applied"),
)
@taken_as(Kind.STATUS)
async def get_batch(request: web.Request) -> web.Response:
    """Show a batch with its items; with `wait`, as soon as one of its jobs changes."""
    batch_id = path_uuid(request, "batch_id")
    query = read_query(request, StatusQuery)
    wait_s = asked_wait_s(request, query.wait)
    client_id = request[CLIENT].id

    batch = await find_awaited(
        request, lambda: request.app[LOOKUPS].batch(batch_id, client_id), _tag, wait_s=wait_s
    )
    headers = polling_headers(batch, _tag(batch), wait_s=wait_s)
    if is_known(request, _tag(batch)):
        return web.Response(status=304, headers=headers)
    items = None
    if query.fields == "all":
        async with request.app[DATABASE].connection() as conn:
            items = await batches.list_items(conn, batch_id)
    return answers.json_response(answers.batch_answer(batch, items), headers=headers)


def _tag(batch: Batch) -> str:
    return f'W/"{batch.sequence}-{"finished" if batch.finished_at else "open"}"'
