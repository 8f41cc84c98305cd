"""Erasing a process, and the receipt of it."""

import asyncio

from aiohttp import web

from service import answers
from service.contract import Operation
from service.core import cnj, erasing, erasures
from service.core.clients import ERASE, OPERATOR
from service.core.crash_points import crash_point
from service.core.erasing import Order
from service.handlers.jobs import api_prefix, path_uuid
from service.keys import CLIENT, DATABASE, QUEUE, SETTINGS
from service.middleware import need_scope, scoped
from service.request_schemas import EraseQuery, NoQuery
from service.requests import read_query
from service.schemas import ErasureAnswer


@Operation("processes", {202: ErasureAnswer}, query=EraseQuery, tells=("Location",))
@scoped(ERASE)
async def erase_process(request: web.Request) -> web.Response:
    """Erase a process: 202 with the receipt; its files are gone when that is finished.

    All that is yours goes: jobs, webhooks and what came of them, lines of batches, kept answers; and when no
    other client has asked for it, the process with its documents and files. A running job of yours alone is
    cancelled, and tells no webhook. A call that is repeated while the erasure is under way gets the same
    receipt; after that there is no such process.
    """
    number = cnj.parse_process_number(request.match_info["number"])
    query = read_query(request, EraseQuery)
    if query.everyone:
        need_scope(request, OPERATOR)
    app, client = request.app, request[CLIENT]
    order = Order(
        number=number,
        proof=await asyncio.to_thread(erasures.prove, number),
        client_id=client.id,
        key_id=client.key_id,
        of_everyone=query.everyone,
        lease_s=app[SETTINGS].lease_s,
    )
    erased = await app[DATABASE].in_transaction(lambda conn: erasing.erase(conn, order))
    crash_point("erasure.committed")
    for settled in erased.settled:
        settled.count()
    await app[QUEUE].ring_destinations(erased.destinations)
    location = f"{api_prefix(request)}/erasures/{erased.erasure.id}"
    answer = answers.erasure_answer(erased.erasure)
    return answers.json_response(answer, status=202, headers={"Location": location})


@Operation("processes", {200: ErasureAnswer})
@scoped("read", ERASE)
async def get_erasure(request: web.Request) -> web.Response:
    """Show the receipt of an erasure that you asked for."""
    read_query(request, NoQuery)
    async with request.app[DATABASE].connection() as conn:
        found = await erasures.get(conn, path_uuid(request, "erasure_id"), request[CLIENT].id)
    return answers.json_response(answers.erasure_answer(found))
