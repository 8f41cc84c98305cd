"""The four tools for those who build a receiver. They call out under the same guard as deliveries."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import orjson
from aiohttp import web
from pydantic import ValidationError

from service import answers, problems
from service.contract import OBJECT, Operation
from service.core import deliveries, doctor, endpoints, signing, signing_secrets, traceparent
from service.core.doctor import Diagnosis
from service.core.errors import DestinationRefusedError
from service.core.outbound import DeliveryFailedError, OutboundPolicy, parse_destination
from service.core.sending import Message, Sent, Try, send
from service.handlers.submissions import checked_webhook_url
from service.keys import CLIENT, DATABASE, KEY_RING, OUTBOUND, SETTINGS
from service.measuring import origin
from service.request_schemas import NoQuery, ReceiverQuery, ReceiverRequest, WebhookQuery, WebhookRequest
from service.requests import read_json, read_object, read_query
from service.schemas import CheckAnswer, ConnectivityAnswer, EchoAnswer, SendTestAnswer, ValidateAnswer

_TEST_TIMEOUT_S = 15.0


@Operation("webhooks", {200: ValidateAnswer}, query=WebhookQuery, body=WebhookRequest, is_body_needed=False)
async def validate_webhook(request: web.Request) -> web.Response:
    """Say whether a URL would be accepted; 200 for good and bad ones alike, and nothing is called."""
    asked = await _read(request)
    try:
        destination = parse_destination(
            asked.webhook_url, OutboundPolicy.from_settings(request.app[SETTINGS])
        )
    except DestinationRefusedError as error:
        answer = ValidateAnswer(
            valid=False, url=asked.webhook_url, message="the URL would be refused", error=str(error)
        )
    else:
        answer = ValidateAnswer(
            valid=True, url=str(destination.url), message="the URL would be accepted", error=None
        )
    return answers.json_response(answer)


@Operation(
    "webhooks",
    {200: ConnectivityAnswer},
    query=ReceiverQuery,
    body=ReceiverRequest,
    is_body_needed=False,
    problems=(problems.NOT_FOUND,),
)
async def test_connectivity(request: web.Request) -> web.Response:
    """Ask the receiver for a sign of life, and say how far that came: any HTTP answer counts."""
    app = request.app
    url, _ = await _receiver(request)
    try:
        async with app[OUTBOUND].turn(url):
            found = await doctor.examine(app[OUTBOUND], url, timeout_s=app[SETTINGS].webhook_timeout_s)
    except DeliveryFailedError as busy:
        found = Diagnosis([], None, None, str(busy))
    checks = [
        CheckAnswer(
            check=one.step, ok=one.is_well, explanation=one.explanation, time_ms=_milliseconds(one.duration_s)
        )
        for one in found.findings
    ]
    answer = ConnectivityAnswer(
        success=found.status is not None,
        status_code=found.status,
        response_time_ms=_milliseconds(found.duration_s),
        error=found.error,
        checks=checks,
    )
    return answers.json_response(answer)


def _milliseconds(duration_s: float | None) -> float | None:
    return None if duration_s is None else round(duration_s * 1000, 1)


@Operation(
    "webhooks",
    {200: SendTestAnswer},
    query=ReceiverQuery,
    body=ReceiverRequest,
    is_body_needed=False,
    problems=(problems.NOT_FOUND,),
    reads=("traceparent",),
)
async def send_test(request: web.Request) -> web.Response:
    """Send a signed `webhook.test` event, with the quick tries of a real delivery."""
    app = request.app
    url, endpoint_id = await _receiver(request)
    async with app[DATABASE].connection() as conn:
        secrets = await signing_secrets.list_live(conn, app[KEY_RING], request[CLIENT].id, endpoint_id)
    headers = {traceparent.HEADER: origin(request)}
    message = Message(deliveries.message_id(uuid4()), _test_event(), secrets, headers)
    # All tries together stay below the minute after which a proxy gives a caller up.
    timeout_s = min(app[SETTINGS].webhook_timeout_s, _TEST_TIMEOUT_S)
    try:
        async with app[OUTBOUND].turn(url):
            sent = await send(app[OUTBOUND], url, message, timeout_s=timeout_s)
    except DeliveryFailedError as busy:
        sent = Sent(Try(None, busy), ())
    last = sent.last
    status_code = last.reply.status if last.reply else None
    error = None if last.is_accepted else str(last.error or f"the receiver answered {status_code}")
    answer = SendTestAnswer(
        success=last.is_accepted,
        status_code=status_code,
        attempts=len(sent.attempts),
        message_id=message.id,
        error=error,
    )
    return answers.json_response(answer)


@Operation("webhooks", {200: EchoAnswer}, body=OBJECT)
async def test_receiver(request: web.Request) -> web.Response:
    """Echo the keys of what was sent, and say whether it was signed with the client's own secret."""
    read_query(request, NoQuery)
    body, payload = await read_object(request)
    signed = "webhook-signature" in request.headers
    app, is_valid = request.app, None
    if signed:
        async with app[DATABASE].connection() as conn:
            secrets = await signing_secrets.list_live(conn, app[KEY_RING], request[CLIENT].id)
        is_valid = signing.verify(secrets, request.headers, body)
    answer = EchoAnswer(received=True, payload_keys=list(payload), payload=payload, signature_valid=is_valid)
    try:
        return answers.json_response(answer)
    except (orjson.JSONEncodeError, ValidationError, RecursionError) as error:
        # What can be read can still be nested too deeply to be written.
        raise problems.invalid("#", "is nested too deeply to be echoed") from error


async def _read(request: web.Request) -> WebhookRequest:
    """Return the URL, given in a JSON body or, without a body, in the query."""
    if request.can_read_body:
        read_query(request, NoQuery)
        return await read_json(request, WebhookRequest)
    return read_query(request, WebhookRequest)


async def _receiver(request: web.Request) -> tuple[str, UUID | None]:
    """Return the URL to call, and whose it is when that is an endpoint's."""
    if request.can_read_body:
        read_query(request, NoQuery)
        asked = await read_json(request, ReceiverRequest)
    else:
        asked = read_query(request, ReceiverRequest)
    if asked.endpoint_id is None:
        return checked_webhook_url(request, asked.webhook_url) or "", None
    async with request.app[DATABASE].connection() as conn:
        endpoint = await endpoints.get(conn, asked.endpoint_id, request[CLIENT].id)
    return endpoint.url, endpoint.id


def _test_event() -> bytes:
    event = {
        "type": "webhook.test",
        "timestamp": datetime.now(UTC),
        "message": "a test of Autos: nothing happened",
    }
    return orjson.dumps(event, option=orjson.OPT_UTC_Z)
