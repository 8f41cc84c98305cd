"""Endpoints: places of a client's that are told of events, each with a secret and a filter of its own."""

from datetime import datetime, timedelta
from uuid import UUID

from aiohttp import web

from service import answers, problems
from service.contract import Operation
from service.core import audit, endpoint_health, endpoints, signing, signing_secrets
from service.core.db import Connection
from service.core.endpoints import DisabledReason, Endpoint
from service.cursors import cut_page, read_cursor
from service.handlers.jobs import api_prefix, path_uuid
from service.handlers.submissions import checked_webhook_url
from service.keys import CLIENT, DATABASE, KEY_RING, QUEUE
from service.request_schemas import EndpointChange, EndpointRequest, NoQuery, PageQuery, RotationRequest
from service.requests import read_json, read_query
from service.schemas import EndpointAnswer, EndpointListAnswer, NewEndpointAnswer, SecretAnswer


@Operation(
    "webhooks",
    {201: NewEndpointAnswer},
    body=EndpointRequest,
    problems=(problems.TOO_MANY_ENDPOINTS,),
    tells=("Location",),
)
async def create_endpoint(request: web.Request) -> web.Response:
    """Create an endpoint: 201 with its signing secret, which is shown this once."""
    read_query(request, NoQuery)
    created, secret = await add_endpoint(request, await read_json(request, EndpointRequest))
    answer = NewEndpointAnswer(**dict(answers.endpoint_answer(created)), secret=secret)
    location = f"{api_prefix(request)}/webhooks/endpoints/{created.id}"
    return answers.json_response(answer, status=201, headers={"Location": location})


async def add_endpoint(request: web.Request, body: EndpointRequest) -> tuple[Endpoint, str]:
    """Write a new endpoint of the client's; return it with its secret as it is shown."""
    url = checked_webhook_url(request, body.url, pointer="#/url") or ""
    secret, client = _secret(body.secret), request[CLIENT]

    async def create(conn: Connection) -> Endpoint:
        created = await endpoints.create(
            conn,
            client.id,
            url=url,
            description=body.description,
            events=list(dict.fromkeys(body.events)),
            is_enabled=body.enabled,
        )
        await signing_secrets.put(conn, request.app[KEY_RING], secret, client.id, created.id)
        await audit.note(conn, client.id, "endpoint.created", created.id, key_id=client.key_id)
        return created

    return await request.app[DATABASE].in_transaction(create), signing.show_secret(secret)


@Operation(
    "webhooks",
    {200: EndpointListAnswer},
    query=PageQuery,
    problems=(problems.BAD_REQUEST,),
    tells=("Link",),
)
async def list_endpoints(request: web.Request) -> web.Response:
    """List the client's endpoints, the newest first."""
    query = read_query(request, PageQuery)
    async with request.app[DATABASE].connection() as conn:
        found = await endpoints.list_of_client(
            conn, request[CLIENT].id, before=read_cursor(query.cursor, query), limit=query.limit + 1
        )
    page, cursor = cut_page(found, query, limit=query.limit)
    answer = EndpointListAnswer(items=[answers.endpoint_answer(one) for one in page], next_cursor=cursor)
    return answers.page_response(request, answer, cursor)


@Operation("webhooks", {200: EndpointAnswer})
async def get_endpoint(request: web.Request) -> web.Response:
    """Show an endpoint: whether it is enabled, and since when it fails."""
    read_query(request, NoQuery)
    async with request.app[DATABASE].connection() as conn:
        found = await endpoints.get(conn, path_uuid(request, "endpoint_id"), request[CLIENT].id)
    return answers.json_response(answers.endpoint_answer(found))


@Operation("webhooks", {200: EndpointAnswer}, body=EndpointChange)
async def change_endpoint(request: web.Request) -> web.Response:
    """Change what is given of an endpoint, and leave the rest."""
    read_query(request, NoQuery)
    endpoint_id = path_uuid(request, "endpoint_id")
    changed = await alter_endpoint(request, endpoint_id, await read_json(request, EndpointChange))
    return answers.json_response(answers.endpoint_answer(changed))


async def alter_endpoint(request: web.Request, endpoint_id: UUID, body: EndpointChange) -> Endpoint:
    """Write what is given of an endpoint of the client's, and ring for what is given up by that."""
    client, given = request[CLIENT], body.model_fields_set
    url = checked_webhook_url(request, body.url, pointer="#/url") if "url" in given else None

    async def change(conn: Connection) -> tuple[Endpoint, list[UUID]]:
        now = await endpoints.lock(conn, endpoint_id, client.id)
        changed = await endpoints.change(
            conn,
            now,
            url=url or now.url,
            description=body.description if "description" in given else now.description,
            events=list(dict.fromkeys(body.events)) if "events" in given else now.events,
            is_enabled=now.disabled_at is None or ("enabled" in given and body.enabled),
        )
        await audit.note(
            conn,
            client.id,
            "endpoint.changed",
            changed.id,
            key_id=client.key_id,
            details={"members": sorted(given)},
        )
        if "enabled" not in given or body.enabled:
            return changed, []
        to_ring = await endpoint_health.disable(
            conn, changed.id, DisabledReason.BY_HAND, key_id=client.key_id
        )
        return await endpoints.get(conn, changed.id, client.id), to_ring

    changed, to_ring = await request.app[DATABASE].in_transaction(change)
    await request.app[QUEUE].ring_destinations(to_ring)
    return changed


@Operation("webhooks", {204: None})
async def delete_endpoint(request: web.Request) -> web.Response:
    """Delete an endpoint and its secret; nothing more is sent to it, and its log stays."""
    read_query(request, NoQuery)
    endpoint_id, client = path_uuid(request, "endpoint_id"), request[CLIENT]

    async def delete(conn: Connection) -> None:
        found = await endpoints.lock(conn, endpoint_id, client.id)
        await endpoint_health.delete(conn, found, key_id=client.key_id)

    await request.app[DATABASE].in_transaction(delete)
    return web.Response(status=204)


@Operation("webhooks", {200: SecretAnswer}, body=RotationRequest, is_body_needed=False)
async def rotate_endpoint_secret(request: web.Request) -> web.Response:
    """Give an endpoint another secret; the old one signs beside it for a day, or as long as is asked."""
    return await _rotate(request, path_uuid(request, "endpoint_id"))


@Operation("webhooks", {200: SecretAnswer}, body=RotationRequest, is_body_needed=False)
async def rotate_own_secret(request: web.Request) -> web.Response:
    """Give yourself another secret, for the URLs that come with requests; likewise."""
    return await _rotate(request, None)


async def _rotate(request: web.Request, endpoint_id: UUID | None) -> web.Response:
    read_query(request, NoQuery)
    body = await read_json(request, RotationRequest) if request.can_read_body else RotationRequest()
    secret, client = _secret(body.secret), request[CLIENT]

    async def rotate(conn: Connection) -> datetime | None:
        if endpoint_id is not None:
            await endpoints.get(conn, endpoint_id, client.id)
        expires_at = await signing_secrets.put(
            conn,
            request.app[KEY_RING],
            secret,
            client.id,
            endpoint_id,
            grace=timedelta(hours=body.grace_hours),
        )
        action = "endpoint.secret_rotated" if endpoint_id else "client.secret_rotated"
        await audit.note(conn, client.id, action, endpoint_id or client.id, key_id=client.key_id)
        return expires_at

    expires_at = await request.app[DATABASE].in_transaction(rotate)
    return answers.json_response(
        SecretAnswer(secret=signing.show_secret(secret), old_secret_expires_at=expires_at)
    )


def _secret(given: str | None) -> bytes:
    if given is None:
        return signing.new_secret()
    try:
        return signing.parse_secret(given)
    except ValueError as error:
        raise problems.invalid("#/secret", "should be whsec_ and the base64 of 24 to 64 bytes") from error
