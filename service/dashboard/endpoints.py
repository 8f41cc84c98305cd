"""Webhook endpoints on the dashboard: how each is, and making, stopping and deleting them."""

from typing import get_args

from aiohttp import web

from service import answers
from service.core import endpoints
from service.core.endpoints import MOST_ENDPOINTS
from service.dashboard.entrance import Form, read_form, see_other, signed_in
from service.dashboard.pages import render
from service.handlers.endpoints import add_endpoint, alter_endpoint, delete_endpoint
from service.handlers.jobs import path_uuid
from service.keys import CLIENT, DATABASE
from service.problems import ProblemError
from service.request_schemas import EndpointChange, EndpointEvent, EndpointRequest
from service.requests import validate


@signed_in()
async def show_endpoints(request: web.Request) -> web.Response:
    """Show the client's endpoints."""
    return await _show(request)


@signed_in("write")
async def create(request: web.Request) -> web.StreamResponse:
    """Make an endpoint and show its signing secret this once, or say what is wrong with the form."""
    form = await read_form(request)
    events = [event for event in get_args(EndpointEvent) if form[f"event:{event}"]]
    asked = {"url": form["url"].strip(), "events": events}
    if description := form["description"].strip():
        asked["description"] = description
    try:
        created, secret = await add_endpoint(request, validate(EndpointRequest, asked))
    except ProblemError as problem:
        return await _show(request, status=problem.problem.status, form=form, problem=problem)
    return await _show(request, created=answers.endpoint_answer(created), secret=secret)


@signed_in("write")
async def enable(request: web.Request) -> web.StreamResponse:
    """Send to it again from now on."""
    await alter_endpoint(request, path_uuid(request, "endpoint_id"), EndpointChange(enabled=True))
    see_other("/dashboard/endpoints")


@signed_in("write")
async def disable(request: web.Request) -> web.StreamResponse:
    """Send nothing more to it until it is enabled."""
    await alter_endpoint(request, path_uuid(request, "endpoint_id"), EndpointChange(enabled=False))
    see_other("/dashboard/endpoints")


@signed_in("write")
async def delete(request: web.Request) -> web.StreamResponse:
    """Delete it; its log stays."""
    await delete_endpoint(request)
    see_other("/dashboard/endpoints")


async def _show(request: web.Request, *, status: int = 200, **values: object) -> web.Response:
    async with request.app[DATABASE].connection() as conn:
        found = await endpoints.list_of_client(conn, request[CLIENT].id, before=None, limit=MOST_ENDPOINTS)
    return render(
        request,
        "endpoints.html",
        status=status,
        endpoints=[answers.endpoint_answer(one) for one in found],
        events=get_args(EndpointEvent),
        usual=EndpointRequest.model_fields["events"].default,
        **{"form": Form(), "problem": None, "created": None, "secret": None, **values},
    )
